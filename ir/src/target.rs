//! What the machine can do, as plain data.
//!
//! A [`TargetDesc`] is a value: it is never probed here (the one CPUID probe lives in `codegen`), so a pass or a
//! code generator can be run for any machine on any machine. Its text form (`x86_64+avx+avx2+fma`) stands in the header
//! of a laid-out module and in plan files.
//!
//! Invariants: features are known names, kept sorted and without duplicates.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Instruction set family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// 64-bit x86. The generated code's floor is SSE4.1.
    X86_64,
    /// 64-bit Arm. NEON is always there.
    Aarch64,
}

macro_rules! features {
    ($($(#[$doc:meta])* $variant:ident = $name:literal in $arch:ident,)+) => {
        /// A CPU feature that changes which instructions may be generated, or which of them are fast ([`Self::is_tuning`]).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Feature { $($(#[$doc])* $variant,)+ }

        impl Feature {
            /// All features, in the order in which they are printed.
            pub const ALL: &[Feature] = &[$(Feature::$variant,)+];
            /// The name in text forms and on the command line.
            pub fn name(self) -> &'static str { match self { $(Feature::$variant => $name,)+ } }
            /// The family in which the feature exists.
            pub fn arch(self) -> Arch { match self { $(Feature::$variant => Arch::$arch,)+ } }
        }
    };
}

features! {
    /// SSE4.1 (with SSSE3): the floor of generated x86-64 code.
    Sse41 = "sse4.1" in X86_64,
    /// SSE4.2.
    Sse42 = "sse4.2" in X86_64,
    /// AVX: three-operand encodings; ymm for floats.
    Avx = "avx" in X86_64,
    /// AVX2: ymm for integers.
    Avx2 = "avx2" in X86_64,
    /// Fused multiply-add.
    Fma = "fma" in X86_64,
    /// Conversions between f16 and f32.
    F16c = "f16c" in X86_64,
    /// VEX-encoded VNNI (`vpdpbusd` on xmm/ymm).
    AvxVnni = "avxvnni" in X86_64,
    /// AVX-512 foundation.
    Avx512f = "avx512f" in X86_64,
    /// AVX-512 bytes and words.
    Avx512bw = "avx512bw" in X86_64,
    /// AVX-512 double and quad words.
    Avx512dq = "avx512dq" in X86_64,
    /// AVX-512 on xmm and ymm.
    Avx512vl = "avx512vl" in X86_64,
    /// AVX-512 VNNI.
    Avx512vnni = "avx512vnni" in X86_64,
    /// AVX-512 byte permutes.
    Avx512vbmi = "avx512vbmi" in X86_64,
    /// AMX: tile registers, and products of bytes between them.
    AmxInt8 = "amxint8" in X86_64,
    /// Tuning: memory is read fastest in one sequence, which the hardware prefetches by itself.
    OneStream = "onestream" in X86_64,
    /// `sdot`/`udot`.
    Dotprod = "dotprod" in Aarch64,
    /// `usdot` and the int8 matrix instructions.
    I8mm = "i8mm" in Aarch64,
}

impl Feature {
    /// Whether the feature only says what is fast: code for a target with it runs on machines without it.
    pub fn is_tuning(self) -> bool {
        self == Feature::OneStream
    }
}

/// How fast a machine reads and multiplies: what a cost model needs besides features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speeds {
    /// What one thread reads from memory, in 10^6 bytes a second.
    pub read_one_mb_s: u32,
    /// What all threads together read from memory, in 10^6 bytes a second.
    pub read_all_mb_s: u32,
    /// int8 multiply-adds of one core, in 10^6 a second, with vectors of `vector_bytes`.
    pub int8_core_mmac_s: u32,
    /// Bytes of the vectors in generated code: 16, 32 or 64.
    pub vector_bytes: u32,
}

impl Speeds {
    /// What is assumed of a machine that nobody measured: 30 GB/s for one thread and 40 GB/s for all, and cores of 3 GHz
    /// that start two vector instructions of the widest kind in a cycle.
    pub fn assumed(target: &TargetDesc) -> Self {
        let (vector_bytes, instructions) = match target.arch {
            Arch::X86_64 if target.has(Feature::Avx512vnni) => (64, 1),
            Arch::X86_64 if target.has(Feature::AvxVnni) => (32, 1),
            Arch::X86_64 if target.has(Feature::Avx512bw) => (64, 3),
            Arch::X86_64 if target.has(Feature::Avx2) => (32, 3),
            Arch::Aarch64 if target.has(Feature::Dotprod) => (16, 1),
            Arch::X86_64 | Arch::Aarch64 => (16, 3),
        };
        Self {
            read_one_mb_s: 30_000,
            read_all_mb_s: 40_000,
            int8_core_mmac_s: 2 * 3_000 * vector_bytes / instructions,
            vector_bytes,
        }
    }

    /// The same machine running code of vectors of `bytes`: as many of them in a second.
    #[must_use]
    pub fn with_vector_bytes(self, bytes: u32) -> Self {
        let dots = u64::from(self.int8_core_mmac_s) / u64::from(self.vector_bytes.max(1));
        let int8_core_mmac_s = u32::try_from(dots * u64::from(bytes)).unwrap_or(u32::MAX);
        Self { int8_core_mmac_s, vector_bytes: bytes, ..self }
    }

    /// What this number of threads read from memory: their rates add up until all of the bandwidth is used.
    pub fn read_mb_s(&self, threads: u32) -> u64 {
        match threads {
            0 | 1 => self.read_one_mb_s.into(),
            n => (u64::from(self.read_one_mb_s) * u64::from(n))
                .min(self.read_all_mb_s.max(self.read_one_mb_s).into()),
        }
    }
}

/// A machine as the compiler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetDesc {
    /// Instruction set family.
    pub arch: Arch,
    features: BTreeSet<Feature>,
    /// Bytes of level-1 data cache per core.
    pub l1d_bytes: u32,
    /// Bytes of level-2 cache per core.
    pub l2_bytes: u32,
    /// Threads that the schedule is made for.
    pub threads: u32,
    /// What was measured on the machine, if anything.
    pub measured: Option<Speeds>,
}

/// Why a target text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The first word is not an architecture.
    #[error("unknown architecture `{0}`: expected x86_64 or aarch64")]
    Arch(String),
    /// A feature name is not known, or belongs to another architecture.
    #[error("unknown feature `{feature}` for {arch}: known are {known}")]
    Feature {
        /// The word as written.
        feature: String,
        /// The architecture that was named.
        arch: Arch,
        /// The names that would have been accepted.
        known: String,
    },
}

impl TargetDesc {
    /// The least that generated code needs on `arch`: SSE4.1 or NEON.
    pub fn baseline(arch: Arch) -> Self {
        let mut features = BTreeSet::new();
        if arch == Arch::X86_64 {
            features.insert(Feature::Sse41);
        }
        Self { arch, features, l1d_bytes: 32 << 10, l2_bytes: 1 << 20, threads: 1, measured: None }
    }

    /// The speeds that were measured, or else assumed.
    pub fn speeds(&self) -> Speeds {
        self.measured.unwrap_or_else(|| Speeds::assumed(self))
    }

    /// Whether `feature` may be used.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// The same machine with `feature`.
    #[must_use]
    pub fn with(mut self, feature: Feature) -> Self {
        self.features.insert(feature);
        self
    }

    /// The same machine without `feature`.
    #[must_use]
    pub fn without(mut self, feature: Feature) -> Self {
        self.features.remove(&feature);
        self
    }

    /// The features, in printing order.
    pub fn features(&self) -> impl Iterator<Item = Feature> + '_ {
        self.features.iter().copied()
    }

    /// The features that `self` has and `host` lacks, but for tuning: what stops code for `self` from running on `host`.
    pub fn missing_on(&self, host: &TargetDesc) -> Vec<Feature> {
        self.features.difference(&host.features).copied().filter(|f| !f.is_tuning()).collect()
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        })
    }
}

impl fmt::Display for TargetDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.arch)?;
        for feature in &self.features {
            write!(f, "+{}", feature.name())?;
        }
        Ok(())
    }
}

impl FromStr for TargetDesc {
    type Err = TargetError;

    /// Parses the text form. Cache sizes, thread count and speeds, which have no text form, are those of
    /// [`Self::baseline`].
    fn from_str(s: &str) -> Result<Self, TargetError> {
        let mut words = s.split('+');
        let arch = match words.next().unwrap_or_default() {
            "x86_64" => Arch::X86_64,
            "aarch64" => Arch::Aarch64,
            other => return Err(TargetError::Arch(other.to_owned())),
        };
        let mut target = Self::baseline(arch);
        for word in words {
            let known = Feature::ALL.iter().copied().filter(|f| f.arch() == arch);
            match known.clone().find(|f| f.name() == word) {
                Some(feature) => target = target.with(feature),
                None => {
                    let known = known.map(Feature::name).collect::<Vec<_>>().join(", ");
                    return Err(TargetError::Feature { feature: word.to_owned(), arch, known });
                }
            }
        }
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in
            ["x86_64+sse4.1", "x86_64+sse4.1+avx+avx2+fma+avx512vnni", "aarch64", "aarch64+dotprod+i8mm"]
        {
            assert_eq!(text.parse::<TargetDesc>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refusals_name_the_word() {
        assert!("riscv64".parse::<TargetDesc>().unwrap_err().to_string().contains("riscv64"));
        let e = "aarch64+avx2".parse::<TargetDesc>().unwrap_err().to_string();
        assert!(e.contains("avx2") && e.contains("dotprod"), "{e}");
    }

    #[test]
    fn threads_add_up_to_what_memory_gives() {
        let speeds = Speeds { read_one_mb_s: 12, read_all_mb_s: 40, int8_core_mmac_s: 1, vector_bytes: 16 };
        assert_eq!([0, 1, 2, 3, 4, u32::MAX].map(|n| speeds.read_mb_s(n)), [12, 12, 24, 36, 40, 40]);
        let odd = Speeds { read_all_mb_s: 5, ..speeds };
        assert_eq!(odd.read_mb_s(2), 12);
        let wide = TargetDesc::baseline(Arch::X86_64).with(Feature::Avx512vnni);
        assert_eq!(wide.speeds(), Speeds::assumed(&wide));
        assert_eq!((wide.speeds().vector_bytes, wide.speeds().int8_core_mmac_s), (64, 384_000));
        let narrow = wide.speeds().with_vector_bytes(16);
        assert_eq!((narrow.vector_bytes, narrow.int8_core_mmac_s), (16, 96_000));
        assert_eq!(TargetDesc { measured: Some(speeds), ..wide }.speeds(), speeds);
    }

    #[test]
    fn missing_features_are_named() {
        let host = TargetDesc::baseline(Arch::X86_64);
        let wide = host.clone().with(Feature::Avx512f);
        assert_eq!(wide.missing_on(&host), [Feature::Avx512f]);
        assert!(host.missing_on(&wide).is_empty());
        let tuned = host.clone().with(Feature::OneStream);
        assert!(tuned.missing_on(&host).is_empty());
        assert_eq!(tuned.to_string().parse::<TargetDesc>().unwrap(), tuned);
    }
}
