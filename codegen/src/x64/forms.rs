//! The vector instructions, by what they do: one opcode for zmm, one for ymm, and in which forms each takes memory.
//!
//! The last register-or-memory operand of a form is its last source. Code for 512 bits uses EVEX opcodes only, since VEX
//! reaches 16 of the 32 registers; code for 256 bits uses VEX only, since it may not assume AVX-512.

use iced_x86::Code as Opcode;

use super::mach::{MemoryForm, Width};

/// A vector instruction at both widths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    zmm: (Opcode, MemoryForm),
    ymm: (Opcode, MemoryForm),
}

impl Form {
    /// The opcode, and how its last source may be memory.
    pub(super) fn at(&self, wide: bool) -> (Opcode, MemoryForm) {
        if wide { self.zmm } else { self.ymm }
    }
}

macro_rules! forms {
    ($($(#[$doc:meta])* $name:ident = $zmm:ident, $ymm:ident, $zmm_memory:ident, $ymm_memory:ident;)+) => {$(
        $(#[$doc])*
        pub(super) const $name: Form = Form {
            zmm: (Opcode::$zmm, MemoryForm::$zmm_memory),
            ymm: (Opcode::$ymm, MemoryForm::$ymm_memory),
        };
    )+};
}

forms! {
    ADDPS = EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er, VEX_Vaddps_ymm_ymm_ymmm256, Broadcast, Whole;
    SUBPS = EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er, VEX_Vsubps_ymm_ymm_ymmm256, Broadcast, Whole;
    MULPS = EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er, VEX_Vmulps_ymm_ymm_ymmm256, Broadcast, Whole;
    DIVPS = EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er, VEX_Vdivps_ymm_ymm_ymmm256, Broadcast, Whole;
    MAXPS = EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae, VEX_Vmaxps_ymm_ymm_ymmm256, Broadcast, Whole;
    MINPS = EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae, VEX_Vminps_ymm_ymm_ymmm256, Broadcast, Whole;
    /// First = second * third + first.
    FMADD231PS = EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er, VEX_Vfmadd231ps_ymm_ymm_ymmm256, Broadcast, Whole;
    /// First = second * first + third.
    FMADD213PS = EVEX_Vfmadd213ps_zmm_k1z_zmm_zmmm512b32_er, VEX_Vfmadd213ps_ymm_ymm_ymmm256, Broadcast, Whole;
    SQRTPS = EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er, VEX_Vsqrtps_ymm_ymmm256, Broadcast, Whole;
    ROUNDPS = EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae, VEX_Vroundps_ymm_ymmm256_imm8, Broadcast, Whole;
    CVTPS2DQ = EVEX_Vcvtps2dq_zmm_k1z_zmmm512b32_er, VEX_Vcvtps2dq_ymm_ymmm256, Broadcast, Whole;
    CVTDQ2PS = EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er, VEX_Vcvtdq2ps_ymm_ymmm256, Broadcast, Whole;
    CMPPS = EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae, VEX_Vcmpps_ymm_ymm_ymmm256_imm8, Broadcast, Whole;
    /// Third where the mask has ones (zmm: the mask register; ymm: the fourth operand), else second.
    BLENDMPS = EVEX_Vblendmps_zmm_k1z_zmm_zmmm512b32, VEX_Vblendvps_ymm_ymm_ymmm256_ymm, Broadcast, Whole;
    PADDD = EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32, VEX_Vpaddd_ymm_ymm_ymmm256, Broadcast, Whole;
    PADDB = EVEX_Vpaddb_zmm_k1z_zmm_zmmm512, VEX_Vpaddb_ymm_ymm_ymmm256, Whole, Whole;
    /// Unsigned, saturating.
    PSUBUSB = EVEX_Vpsubusb_zmm_k1z_zmm_zmmm512, VEX_Vpsubusb_ymm_ymm_ymmm256, Whole, Whole;
    PAVGB = EVEX_Vpavgb_zmm_k1z_zmm_zmmm512, VEX_Vpavgb_ymm_ymm_ymmm256, Whole, Whole;
    PSUBD = EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32, VEX_Vpsubd_ymm_ymm_ymmm256, Broadcast, Whole;
    PMULLD = EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32, VEX_Vpmulld_ymm_ymm_ymmm256, Broadcast, Whole;
    PAND = EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32, VEX_Vpand_ymm_ymm_ymmm256, Broadcast, Whole;
    POR = EVEX_Vpord_zmm_k1z_zmm_zmmm512b32, VEX_Vpor_ymm_ymm_ymmm256, Broadcast, Whole;
    PXOR = EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32, VEX_Vpxor_ymm_ymm_ymmm256, Broadcast, Whole;
    /// First = !second & third.
    PANDN = EVEX_Vpandnd_zmm_k1z_zmm_zmmm512b32, VEX_Vpandn_ymm_ymm_ymmm256, Broadcast, Whole;
    PMAXUD = EVEX_Vpmaxud_zmm_k1z_zmm_zmmm512b32, VEX_Vpmaxud_ymm_ymm_ymmm256, Broadcast, Whole;
    PMAXSD = EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32, VEX_Vpmaxsd_ymm_ymm_ymmm256, Broadcast, Whole;
    PMINSD = EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32, VEX_Vpminsd_ymm_ymm_ymmm256, Broadcast, Whole;
    /// The ymm opcode only tells equal from unequal; see [`PCMPGTD`].
    PCMPD = EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8, VEX_Vpcmpeqd_ymm_ymm_ymmm256, Broadcast, Whole;
    PCMPGTD = EVEX_Vpcmpgtd_kr_k1_zmm_zmmm512b32, VEX_Vpcmpgtd_ymm_ymm_ymmm256, Broadcast, Whole;
    PSLLD = EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8, VEX_Vpslld_ymm_ymm_imm8, Broadcast, No;
    PSRLD = EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8, VEX_Vpsrld_ymm_ymm_imm8, Broadcast, No;
    PSRAD = EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8, VEX_Vpsrad_ymm_ymm_imm8, Broadcast, No;
    PSLLW = EVEX_Vpsllw_zmm_k1z_zmmm512_imm8, VEX_Vpsllw_ymm_ymm_imm8, Whole, No;
    PSRAW = EVEX_Vpsraw_zmm_k1z_zmmm512_imm8, VEX_Vpsraw_ymm_ymm_imm8, Whole, No;
    PERMILPS = EVEX_Vpermilps_zmm_k1z_zmmm512b32_imm8, VEX_Vpermilps_ymm_ymmm256_imm8, Broadcast, Whole;
    /// First = the lanes of third that second names.
    PERMPS = EVEX_Vpermps_zmm_k1z_zmm_zmmm512b32, VEX_Vpermps_ymm_ymm_ymmm256, Broadcast, Whole;
    /// First += products of unsigned bytes of second and signed bytes of third.
    PDPBUSD = EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32, VEX_Vpdpbusd_ymm_ymm_ymmm256, Broadcast, Whole;
    /// Second unsigned, third signed.
    PMADDUBSW = EVEX_Vpmaddubsw_zmm_k1z_zmm_zmmm512, VEX_Vpmaddubsw_ymm_ymm_ymmm256, Whole, Whole;
    PMADDWD = EVEX_Vpmaddwd_zmm_k1z_zmm_zmmm512, VEX_Vpmaddwd_ymm_ymm_ymmm256, Whole, Whole;
    /// Within 128 bits, the bytes of second that third names.
    PSHUFB = EVEX_Vpshufb_zmm_k1z_zmm_zmmm512, VEX_Vpshufb_ymm_ymm_ymmm256, Whole, Whole;
    /// Third where the mask has ones (zmm: the mask register; ymm: the highest bits of the fourth operand), else second.
    BLENDMB = EVEX_Vpblendmb_zmm_k1z_zmm_zmmm512, VEX_Vpblendvb_ymm_ymm_ymmm256_ymm, Whole, Whole;
    MOVAPS = EVEX_Vmovaps_zmm_k1z_zmmm512, VEX_Vmovaps_ymm_ymmm256, Whole, Whole;
    MOVUPS = EVEX_Vmovups_zmm_k1z_zmmm512, VEX_Vmovups_ymm_ymmm256, Whole, Whole;
    /// To memory.
    MOVUPS_STORE = EVEX_Vmovups_zmmm512_k1z_zmm, VEX_Vmovups_ymmm256_ymm, Whole, Whole;
    CVTPH2PS = EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae, VEX_Vcvtph2ps_ymm_xmmm128, Whole, Whole;
    /// To memory or a register of half the width.
    CVTPS2PH = EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae, VEX_Vcvtps2ph_xmmm128_ymm_imm8, Whole, Whole;
    PMOVZXWD = EVEX_Vpmovzxwd_zmm_k1z_ymmm256, VEX_Vpmovzxwd_ymm_xmmm128, Whole, Whole;
    PMOVSXBD = EVEX_Vpmovsxbd_zmm_k1z_xmmm128, VEX_Vpmovsxbd_ymm_xmmm64, Whole, Whole;
    /// The lowest lane of a register in all lanes.
    BROADCASTSS = EVEX_Vbroadcastss_zmm_k1z_xmmm32, VEX_Vbroadcastss_ymm_xmm, Whole, No;
    /// One dword of memory in all lanes.
    BROADCASTSS_LOAD = EVEX_Vbroadcastss_zmm_k1z_xmmm32, VEX_Vbroadcastss_ymm_m32, Whole, Whole;
    PBROADCASTD = EVEX_Vpbroadcastd_zmm_k1z_xmmm32, VEX_Vpbroadcastd_ymm_xmmm32, Whole, Whole;
}

/// An instruction of the reduction tree, at its two narrow widths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Narrow {
    evex: [Opcode; 2],
    vex: [Opcode; 2],
}

impl Narrow {
    /// The opcode for xmm or ymm in code for 512-bit (`wide`) or 256-bit registers.
    pub(super) fn at(&self, wide: bool, width: Width) -> Opcode {
        let pair = if wide { self.evex } else { self.vex };
        if width == Width::Xmm { pair[0] } else { pair[1] }
    }
}

macro_rules! narrow {
    ($($(#[$doc:meta])* $name:ident = $ex:ident, $ey:ident, $vx:ident, $vy:ident;)+) => {$(
        $(#[$doc])*
        pub(super) const $name: Narrow =
            Narrow { evex: [Opcode::$ex, Opcode::$ey], vex: [Opcode::$vx, Opcode::$vy] };
    )+};
}

narrow! {
    NARROW_ADDPS = EVEX_Vaddps_xmm_k1z_xmm_xmmm128b32, EVEX_Vaddps_ymm_k1z_ymm_ymmm256b32,
        VEX_Vaddps_xmm_xmm_xmmm128, VEX_Vaddps_ymm_ymm_ymmm256;
    NARROW_MAXPS = EVEX_Vmaxps_xmm_k1z_xmm_xmmm128b32, EVEX_Vmaxps_ymm_k1z_ymm_ymmm256b32,
        VEX_Vmaxps_xmm_xmm_xmmm128, VEX_Vmaxps_ymm_ymm_ymmm256;
    NARROW_PADDD = EVEX_Vpaddd_xmm_k1z_xmm_xmmm128b32, EVEX_Vpaddd_ymm_k1z_ymm_ymmm256b32,
        VEX_Vpaddd_xmm_xmm_xmmm128, VEX_Vpaddd_ymm_ymm_ymmm256;
    NARROW_PMAXUD = EVEX_Vpmaxud_xmm_k1z_xmm_xmmm128b32, EVEX_Vpmaxud_ymm_k1z_ymm_ymmm256b32,
        VEX_Vpmaxud_xmm_xmm_xmmm128, VEX_Vpmaxud_ymm_ymm_ymmm256;
    NARROW_PERMILPS = EVEX_Vpermilps_xmm_k1z_xmmm128b32_imm8, EVEX_Vpermilps_ymm_k1z_ymmm256b32_imm8,
        VEX_Vpermilps_xmm_xmmm128_imm8, VEX_Vpermilps_ymm_ymmm256_imm8;
    /// The upper half of a ymm (the second opcode) or a quarter of a zmm (the first), as an xmm.
    EXTRACT128 = EVEX_Vextractf32x4_xmmm128_k1z_zmm_imm8, EVEX_Vextractf32x4_xmmm128_k1z_ymm_imm8,
        VEX_Vextractf128_xmmm128_ymm_imm8, VEX_Vextractf128_xmmm128_ymm_imm8;
}
