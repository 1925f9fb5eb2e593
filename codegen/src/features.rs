//! Restricting a machine to some of its CPU features, as `--cpu-features` asks for.
//!
//! A word of a list is a feature with everything that it implies, so that the names of the usual levels are words too:
//! `sse4.1`, `avx2` (with FMA and F16C), `avxvnni`, `avx512` (F, BW, DQ, VL), `avx512vnni` and `amxint8`.
//!
//! What is only tuning (`onestream`) stays as the machine has it. A word after `-` takes a feature away, with all that
//! need it, so `native,-onestream` is the machine without its tuning.
//!
//! [`target_named`] makes any machine of such words, for code that is looked at and not run.

use bitnetc_ir::TargetDesc;
use bitnetc_ir::target::{Arch, Feature};

/// A list of features that this machine cannot be restricted to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// A word that is not a feature of the architecture.
    #[error("unknown CPU feature `{word}`: use native or some of {there}")]
    Unknown {
        /// The word as written.
        word: String,
        /// What would have been accepted.
        there: String,
    },
    /// A feature that cannot be taken away.
    #[error("`-{word}`: generated code always needs {word}; omit `-{word}`")]
    Floor {
        /// The word as written, without its sign.
        word: String,
    },
    /// A feature that the machine lacks.
    #[error("`{word}` needs {missing}, which this machine does not have: it has {there}")]
    Absent {
        /// The word as written.
        word: String,
        /// The features that are missing.
        missing: String,
        /// What would have been accepted.
        there: String,
    },
}

/// `host` with no more features than `list` names, separated by commas; `native` keeps all of them, `-` before a word takes
/// what it names away again.
///
/// # Errors
/// A word that names no feature, or, without `-`, one that the host lacks.
pub fn restrict(host: &TargetDesc, list: &str) -> Result<TargetDesc, FeatureError> {
    let floor = TargetDesc::baseline(host.arch);
    let tuning = host.features().filter(|f| f.is_tuning());
    let mut features: Vec<Feature> = floor.features().chain(tuning).collect();
    for word in list.split(',').map(str::trim) {
        let unknown = || FeatureError::Unknown { word: word.to_owned(), there: names(host.features()) };
        if word == "native" {
            features.extend(host.features());
            continue;
        }
        if let Some(word) = word.strip_prefix('-') {
            let unwanted =
                features_of(host.arch, word).and_then(|f| f.first().copied()).ok_or_else(unknown)?;
            if floor.has(unwanted) {
                return Err(FeatureError::Floor { word: word.to_owned() });
            }
            features.retain(|&f| !needs(f, unwanted));
            continue;
        }
        let wanted = features_of(host.arch, word).ok_or_else(unknown)?;
        let missing: Vec<Feature> = wanted.iter().copied().filter(|&f| !host.has(f)).collect();
        if !missing.is_empty() {
            return Err(FeatureError::Absent {
                word: word.to_owned(),
                missing: names(missing.into_iter()),
                there: names(host.features()),
            });
        }
        features.extend(wanted);
    }
    let unwanted = host.features().filter(|f| !features.contains(f)).collect::<Vec<_>>();
    Ok(unwanted.into_iter().fold(host.clone(), TargetDesc::without))
}

/// A name that is not a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown target `{text}`: expected native, x86-64, x86-64-v2, x86-64-v3, x86-64-v4 or aarch64, optionally followed by features \
     as in x86-64-v3+avxvnni or aarch64+i8mm ({word} is not one of {there})"
)]
pub struct UnknownTarget {
    /// As written.
    pub text: String,
    /// The word that is not known.
    pub word: String,
    /// What would have been accepted in its place.
    pub there: String,
}

/// The machine that `text` names: `native` for `host`, a level of the x86-64 psABI (whose first level lacks the SSE4.1 that
/// generated code needs, so `x86-64` is that and SSE4.1), or `aarch64`; features after `+` bring what they imply. The
/// text form of a [`TargetDesc`] is such a text. Of machines other than `host`, caches, threads and speeds are assumed.
///
/// # Errors
/// A word that names nothing.
pub fn target_named(host: &TargetDesc, text: &str) -> Result<TargetDesc, UnknownTarget> {
    let unknown =
        |word: &str, there: String| UnknownTarget { text: text.to_owned(), word: format!("`{word}`"), there };
    let mut words = text.split('+').map(str::trim);
    let first = words.next().unwrap_or_default();
    let (arch, level): (Arch, &[&str]) = match first {
        "native" if !text.contains('+') => return Ok(host.clone()),
        "x86-64" | "x86_64" => (Arch::X86_64, &[]),
        "x86-64-v2" => (Arch::X86_64, &["sse4.2"]),
        "x86-64-v3" => (Arch::X86_64, &["avx2"]),
        "x86-64-v4" => (Arch::X86_64, &["avx512"]),
        "aarch64" => (Arch::Aarch64, &[]),
        _ => return Err(unknown(first, "the architectures".to_owned())),
    };
    let mut target = TargetDesc::baseline(arch);
    for word in level.iter().copied().chain(words) {
        let there = || {
            let known = Feature::ALL.iter().copied().filter(|f| f.arch() == arch);
            names(known)
        };
        let features = features_of(arch, word).ok_or_else(|| unknown(word, there()))?;
        target = features.into_iter().fold(target, TargetDesc::with);
    }
    Ok(target)
}

fn names(features: impl Iterator<Item = Feature>) -> String {
    let names: Vec<_> = features.map(Feature::name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

/// The features that a word stands for.
fn features_of(arch: Arch, word: &str) -> Option<Vec<Feature>> {
    let mut found = match (arch, word) {
        (Arch::X86_64, "avx512") => {
            vec![Feature::Avx512f, Feature::Avx512bw, Feature::Avx512dq, Feature::Avx512vl]
        }
        (Arch::Aarch64, "neon") => Vec::new(),
        _ => vec![Feature::ALL.iter().copied().find(|f| f.arch() == arch && f.name() == word)?],
    };
    let mut next = 0;
    while let Some(&feature) = found.get(next) {
        found.extend_from_slice(implied(feature));
        next += 1;
    }
    Some(found)
}

/// Whether `feature` is `other`, or implies it.
fn needs(feature: Feature, other: Feature) -> bool {
    feature == other || implied(feature).iter().any(|&f| needs(f, other))
}

/// What generated code may assume beside a feature.
fn implied(feature: Feature) -> &'static [Feature] {
    match feature {
        Feature::Sse41 | Feature::Dotprod | Feature::OneStream => &[],
        Feature::Sse42 => &[Feature::Sse41],
        Feature::Avx => &[Feature::Sse42],
        Feature::Fma | Feature::F16c => &[Feature::Avx],
        Feature::Avx2 => &[Feature::Fma, Feature::F16c],
        Feature::AvxVnni | Feature::Avx512f => &[Feature::Avx2],
        Feature::Avx512bw | Feature::Avx512dq | Feature::Avx512vl => &[Feature::Avx512f],
        Feature::Avx512vnni | Feature::Avx512vbmi => {
            &[Feature::Avx512bw, Feature::Avx512dq, Feature::Avx512vl]
        }
        Feature::AmxInt8 => &[Feature::Avx512vnni],
        Feature::I8mm => &[Feature::Dotprod],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> TargetDesc {
        let all = "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni";
        let mut host: TargetDesc = all.parse().unwrap();
        host.l2_bytes = 7 << 20;
        host
    }

    #[test]
    fn words_bring_what_they_imply() {
        for (list, features) in [
            ("sse4.1", "sse4.1"),
            ("avx2", "sse4.1+sse4.2+avx+avx2+fma+f16c"),
            ("avx2,fma,f16c", "sse4.1+sse4.2+avx+avx2+fma+f16c"),
            ("avx512", "sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl"),
            ("avx, avx512f", "sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f"),
        ] {
            let target = restrict(&host(), list).unwrap();
            assert_eq!(target.to_string(), format!("x86_64+{features}"), "{list}");
            assert_eq!(target.l2_bytes, 7 << 20);
        }
        assert_eq!(restrict(&host(), "native").unwrap(), host());
        assert_eq!(restrict(&host(), "avx512vnni").unwrap(), host());
    }

    #[test]
    fn a_sign_takes_away_and_tuning_stays() {
        let of = |host: &TargetDesc, list: &str| restrict(host, list).map(|t| t.to_string());
        assert_eq!(of(&host(), "native,-avx512f").unwrap(), "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c");
        assert_eq!(of(&host(), "-avx2, avx").unwrap(), "x86_64+sse4.1+sse4.2+avx");
        assert_eq!(of(&host(), "avx2,-fma").unwrap(), "x86_64+sse4.1+sse4.2+avx+f16c");
        let tuned = host().with(Feature::OneStream);
        assert_eq!(restrict(&tuned, "native").unwrap(), tuned);
        assert_eq!(of(&tuned, "sse4.1").unwrap(), "x86_64+sse4.1+onestream");
        assert_eq!(restrict(&tuned, "native,-onestream").unwrap(), host());
        // What is not there can be taken away, but must be a feature, and not of the floor.
        assert_eq!(restrict(&host(), "native,-onestream,-avxvnni").unwrap(), host());
        assert!(of(&host(), "native,-mmx").unwrap_err().to_string().contains("`-mmx`"));
        assert!(of(&host(), "native,-sse4.1").unwrap_err().to_string().contains("always needs"));
        assert!(matches!(of(&host(), "onestream"), Err(FeatureError::Absent { .. })));
    }

    #[test]
    fn any_machine_has_a_name() {
        let named = |text: &str| target_named(&host(), text).unwrap().to_string();
        assert_eq!(named("native"), host().to_string());
        assert_eq!(target_named(&host(), "native").unwrap().l2_bytes, 7 << 20);
        assert_eq!(named("x86-64"), "x86_64+sse4.1");
        assert_eq!(named("x86-64-v2"), "x86_64+sse4.1+sse4.2");
        assert_eq!(named("x86-64-v3"), "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c");
        assert_eq!(named("x86-64-v3+avxvnni"), "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avxvnni");
        assert_eq!(named("x86-64-v4+avx512vnni"), host().to_string());
        assert_eq!(named("aarch64 + i8mm"), "aarch64+dotprod+i8mm");
        // The text form names itself.
        assert_eq!(named(&host().to_string()), host().to_string());
        for (text, word) in
            [("riscv64", "riscv64"), ("aarch64+avx2", "avx2"), ("native+avx2", "native"), ("", "")]
        {
            let e = target_named(&host(), text).unwrap_err();
            assert_eq!(e.word, format!("`{word}`"), "{e}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused_with_what_is() {
        let unknown = restrict(&host(), "avx2,mmx").unwrap_err().to_string();
        assert!(unknown.contains("`mmx`") && unknown.contains("avx512vnni"), "{unknown}");
        let absent = restrict(&host(), "avxvnni").unwrap_err().to_string();
        assert!(absent.contains("needs avxvnni") && absent.contains("avx512vnni"), "{absent}");
        assert!(restrict(&host(), "").is_err());
        assert!(restrict(&host(), "dotprod").is_err());
        let arm = TargetDesc::baseline(Arch::Aarch64);
        assert_eq!(restrict(&arm, "neon").unwrap(), arm);
        assert!(restrict(&arm, "i8mm").unwrap_err().to_string().contains("it has none"));
    }
}
