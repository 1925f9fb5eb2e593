//! The one CPU probe: what this machine can do, as a [`TargetDesc`].
//!
//! Everything else takes a `TargetDesc` as a value, so that code for any machine can be generated on any machine.

use bitnetc_ir::TargetDesc;

use crate::error::CodegenError;

/// Describes this machine.
///
/// Features come from the CPU (and, for wide registers, the operating system's support for them), threads from
/// [`std::thread::available_parallelism`]. Cache sizes are best effort: they keep the defaults of
/// [`TargetDesc::baseline`] where the operating system does not publish them.
///
/// # Errors
/// The machine is neither x86-64 nor aarch64, or lacks the floor of generated code (SSE4.1 with SSSE3; NEON).
pub fn probe() -> Result<TargetDesc, CodegenError> {
    let mut target = features()?;
    if let Ok(threads) = std::thread::available_parallelism() {
        target.threads = u32::try_from(threads.get()).unwrap_or(u32::MAX);
    }
    if let Some(bytes) = cache_bytes(1) {
        target.l1d_bytes = bytes;
    }
    if let Some(bytes) = cache_bytes(2) {
        target.l2_bytes = bytes;
    }
    Ok(target)
}

#[cfg(target_arch = "x86_64")]
fn features() -> Result<TargetDesc, CodegenError> {
    use bitnetc_ir::target::{Arch, Feature};
    use std::is_x86_feature_detected as has;

    use crate::image::tiles;

    if !(has!("sse3") && has!("ssse3") && has!("sse4.1")) {
        return Err(CodegenError::HostFloor { missing: "SSE4.1".to_owned() });
    }
    let detected = [
        (Feature::Sse42, has!("sse4.2")),
        (Feature::Avx, has!("avx")),
        (Feature::Avx2, has!("avx2")),
        (Feature::Fma, has!("fma")),
        // The standard library looks at its bit of CPUID alone; it needs what AVX needs (Intel SDM volume 1, 14.4.1).
        (Feature::F16c, has!("avx") && has!("f16c")),
        (Feature::AvxVnni, has!("avxvnni")),
        (Feature::Avx512f, has!("avx512f")),
        (Feature::Avx512bw, has!("avx512bw")),
        (Feature::Avx512dq, has!("avx512dq")),
        (Feature::Avx512vl, has!("avx512vl")),
        (Feature::Avx512vnni, has!("avx512vnni")),
        (Feature::Avx512vbmi, has!("avx512vbmi")),
        (Feature::AmxInt8, has!("avx512vnni") && tiles::permitted()),
        (Feature::OneStream, reads_one_stream(std::arch::x86_64::__cpuid)),
    ];
    let floor = TargetDesc::baseline(Arch::X86_64);
    Ok(detected.into_iter().filter(|(_, there)| *there).fold(floor, |t, (feature, _)| t.with(feature)))
}

/// Whether the processor that `cpuid` describes has [`Feature::OneStream`](bitnetc_ir::target::Feature::OneStream): those of
/// AMD from family 25 on. It was measured on Zen 4 (family 25, model 17; `docs/adr/0023-one-stream.md`).
#[cfg(target_arch = "x86_64")]
fn reads_one_stream(cpuid: impl Fn(u32) -> std::arch::x86_64::CpuidResult) -> bool {
    let vendor = cpuid(0);
    // "Auth", "enti", "cAMD".
    if (vendor.ebx, vendor.edx, vendor.ecx) != (0x6874_7541, 0x6974_6e65, 0x444d_4163) {
        return false;
    }
    // The extended family counts on from the last of the first ones.
    let signature = cpuid(1).eax;
    let family = match signature >> 8 & 0xf {
        0xf => 0xf + (signature >> 20 & 0xff),
        family => family,
    };
    family >= 25
}

#[cfg(target_arch = "aarch64")]
fn features() -> Result<TargetDesc, CodegenError> {
    use bitnetc_ir::target::{Arch, Feature};
    use std::arch::is_aarch64_feature_detected as has;

    if !has!("neon") {
        return Err(CodegenError::HostFloor { missing: "NEON".to_owned() });
    }
    let detected = [(Feature::Dotprod, has!("dotprod")), (Feature::I8mm, has!("i8mm"))];
    let floor = TargetDesc::baseline(Arch::Aarch64);
    Ok(detected.into_iter().filter(|(_, there)| *there).fold(floor, |t, (feature, _)| t.with(feature)))
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Result<TargetDesc, CodegenError> {
    Err(CodegenError::UnsupportedHost { arch: std::env::consts::ARCH })
}

/// Size of the largest cache that this machine publishes, shared by several cores or not.
pub fn last_cache_bytes() -> Option<u32> {
    (1..=4).rev().find_map(cache_bytes)
}

/// Size of the first core's data (or unified) cache at `level`, as Linux publishes it.
fn cache_bytes(level: u32) -> Option<u32> {
    (0..8).find_map(|index| {
        let dir = format!("/sys/devices/system/cpu/cpu0/cache/index{index}");
        let read = |file: &str| std::fs::read_to_string(format!("{dir}/{file}")).ok();
        if read("level")?.trim().parse() != Ok(level) || read("type")?.trim() == "Instruction" {
            return None;
        }
        parse_cache_size(read("size")?.trim())
    })
}

/// `48K`, `2M` or plain bytes.
fn parse_cache_size(text: &str) -> Option<u32> {
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => match text.strip_suffix('M') {
            Some(digits) => (digits, 1 << 20),
            None => (text, 1),
        },
    };
    digits.parse::<u32>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_sizes_are_read_with_their_units() {
        assert_eq!(parse_cache_size("48K"), Some(48 << 10));
        assert_eq!(parse_cache_size("2M"), Some(2 << 20));
        assert_eq!(parse_cache_size("512"), Some(512));
        assert_eq!(parse_cache_size("0K"), None);
        assert_eq!(parse_cache_size("99999999K"), None);
        assert_eq!(parse_cache_size("K"), None);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn processors_that_read_one_stream_are_known() {
        use std::arch::x86_64::CpuidResult;
        let of = |vendor: &[u8; 12], signature: u32| {
            let word = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().unwrap());
            reads_one_stream(move |leaf| match leaf {
                0 => CpuidResult { eax: 16, ebx: word(0), edx: word(4), ecx: word(8) },
                _ => CpuidResult { eax: signature, ebx: 0, edx: 0, ecx: 0 },
            })
        };
        // Zen 4 and 5; Zen 2; a Xeon of family 6.
        assert!(of(b"AuthenticAMD", 0x00a1_0f11));
        assert!(of(b"AuthenticAMD", 0x00b0_0f21));
        assert!(!of(b"AuthenticAMD", 0x0083_0f10));
        assert!(!of(b"GenuineIntel", 0x000c_06f2));
        assert!(!of(b"GenuineIntel", 0x00a1_0f11));
    }

    #[test]
    fn this_machine_is_described() {
        let target = probe().unwrap();
        assert!(target.threads >= 1);
        assert!((4 << 10..=16 << 20).contains(&target.l1d_bytes), "{}", target.l1d_bytes);
        assert!(target.l2_bytes >= target.l1d_bytes);
        assert_eq!(target.arch.to_string(), std::env::consts::ARCH);
    }
}
