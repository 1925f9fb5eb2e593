//! From a [`TargetDesc`] to Cranelift's description of an instruction set.

use bitnetc_ir::TargetDesc;
use bitnetc_ir::target::{Arch, Feature};
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable as _};

use crate::error::CodegenError;

/// The Cranelift instruction set for `target`; the calling convention is this machine's if it is of that family, else
/// System V's. Cranelift's own verifier runs in builds with debug assertions.
///
/// # Errors
/// Cranelift was built without the architecture, or refuses a setting.
pub fn target_isa(target: &TargetDesc) -> Result<OwnedTargetIsa, CodegenError> {
    let failed = |reason: String| CodegenError::Backend { kernel: format!("(target {target})"), reason };
    let mut shared = settings::builder();
    for (name, value) in [
        ("opt_level", "speed"),
        ("is_pic", "false"),
        ("use_colocated_libcalls", "false"),
        ("enable_probestack", "false"),
        ("unwind_info", "false"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
    ] {
        shared.set(name, value).map_err(|e| failed(format!("setting {name}: {e}")))?;
    }

    let is_host = target.arch.to_string() == std::env::consts::ARCH;
    let mut builder = match (is_host, target.arch) {
        (true, _) => cranelift_native::builder_with_options(false).map_err(|e| failed(e.to_owned()))?,
        (false, Arch::X86_64) => lookup("x86_64-unknown-linux-gnu").map_err(failed)?,
        (false, Arch::Aarch64) => lookup("aarch64-unknown-linux-gnu").map_err(failed)?,
    };
    if target.arch == Arch::X86_64 {
        // The floor.
        for flag in ["has_sse3", "has_ssse3", "has_sse41"] {
            builder.enable(flag).map_err(|e| failed(format!("{flag}: {e}")))?;
        }
    }
    for flag in target.features().filter_map(flag) {
        builder.enable(flag).map_err(|e| failed(format!("{flag}: {e}")))?;
    }
    builder.finish(settings::Flags::new(shared)).map_err(|e| failed(e.to_string()))
}

fn lookup(triple: &str) -> Result<isa::Builder, String> {
    isa::lookup_by_name(triple).map_err(|e| format!("{triple}: {e}"))
}

/// Cranelift's name of a feature; none where Cranelift has no instruction that needs it.
fn flag(feature: Feature) -> Option<&'static str> {
    match feature {
        Feature::Sse41 => Some("has_sse41"),
        Feature::Sse42 => Some("has_sse42"),
        Feature::Avx => Some("has_avx"),
        Feature::Avx2 => Some("has_avx2"),
        Feature::Fma => Some("has_fma"),
        Feature::AvxVnni => Some("has_avx_vnni"),
        Feature::Avx512f => Some("has_avx512f"),
        Feature::Avx512dq => Some("has_avx512dq"),
        Feature::Avx512vl => Some("has_avx512vl"),
        Feature::Avx512vnni => Some("has_avx512vnni"),
        Feature::Avx512vbmi => Some("has_avx512vbmi"),
        Feature::Dotprod => Some("has_dotprod"),
        Feature::I8mm => Some("has_i8mm"),
        Feature::F16c | Feature::Avx512bw | Feature::AmxInt8 | Feature::OneStream => None,
    }
}

/// What the selector itself decides by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// Whether the code is for x86-64; else for aarch64.
    pub(super) x86: bool,
    /// Whether `fma` is an instruction.
    pub(super) fma: bool,
    /// How bytes are multiplied.
    pub(super) dot: DotIsa,
}

/// The instruction that sums products of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DotIsa {
    /// `vpdpbusd`, in either encoding.
    Vnni,
    /// `pmaddubsw` and `pmaddwd`.
    Maddubs,
    /// `usdot` and `sdot`.
    I8mm,
    /// `sdot` only.
    Dotprod,
    /// Widening multiplications.
    Neon,
}

impl Features {
    pub(super) fn of(target: &TargetDesc) -> Self {
        let has = |f| target.has(f);
        match target.arch {
            Arch::X86_64 => {
                // The conditions under which Cranelift uses the instructions.
                let vnni = (has(Feature::Avx) && has(Feature::AvxVnni))
                    || (has(Feature::Avx512vl) && has(Feature::Avx512vnni));
                let fma = has(Feature::Avx) && has(Feature::Fma);
                Self { x86: true, fma, dot: if vnni { DotIsa::Vnni } else { DotIsa::Maddubs } }
            }
            Arch::Aarch64 => {
                let dot = match (has(Feature::Dotprod), has(Feature::I8mm)) {
                    (true, true) => DotIsa::I8mm,
                    (true, false) => DotIsa::Dotprod,
                    _ => DotIsa::Neon,
                };
                Self { x86: false, fma: true, dot }
            }
        }
    }
}
