//! Tests of the format as a whole: round trips, damage of every kind, and the file system.

use std::io::{self, Write};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::map::MapMode;
use crate::tokenizer::{Algorithm, TokenType, TokenizerSpec};

const VERIFIED: LoadOptions = LoadOptions { verify_weights: true, map_mode: MapMode::Mapped };

fn settings() -> PlanSettings {
    PlanSettings { options: vec![("threads".to_owned(), "2".to_owned())] }
}

fn meta() -> PlanMeta {
    PlanMeta {
        model_name: "small".to_owned(),
        architecture: "bitnet-b1.58".to_owned(),
        hyper_parameters: vec![("layers".to_owned(), "2".to_owned())],
        source: SourceFile { hash: [7; 32], bytes: 1234 },
        defaults_used: vec!["the pre-tokenizer is not named".to_owned()],
        creation_options: vec![],
        producer: "test 1".to_owned(),
    }
}

fn tokenizer() -> TokenizerSpec {
    TokenizerSpec {
        tokens: vec!["a".to_owned(), "b".to_owned()],
        types: vec![TokenType::Normal; 2],
        merges: vec![],
        algorithm: Algorithm::LlamaBpe,
        bos: None,
        eos: Some(1),
        eog: vec![1],
        add_bos: false,
        add_eos: false,
    }
}

const MODULE: &str = "bir 1 stage=planned\n";
const TEMPLATE: &str = "{{ messages }}";

fn fill(plan: &mut PlanEncoder<'_>) -> Result<(), PlanError> {
    plan.module(MODULE)?;
    plan.weights(|sink| {
        sink.push("l0.q", "ter[4x4]@rows16", &[1, 2, 3])?;
        sink.begin("l0.k", "f32[2]")?;
        sink.write(&[4; 60])?;
        sink.write(&[5; 10])?;
        sink.push("empty", "f32[0]", &[])?;
        sink.push("head", "f16[2x2]", &[9; 8])
    })?;
    plan.tokenizer(&tokenizer())?;
    plan.chat_template(TEMPLATE)?;
    plan.meta(&meta())
}

fn encode(fill: impl FnOnce(&mut PlanEncoder<'_>) -> Result<(), PlanError>) -> Result<Vec<u8>, PlanError> {
    let mut bytes = Vec::new();
    let mut plan = PlanEncoder::new(&mut bytes, &settings())?;
    fill(&mut plan)?;
    plan.finish()?;
    Ok(bytes)
}

fn small_plan() -> Vec<u8> {
    encode(fill).unwrap()
}

fn check_small_plan(path: &Path, mode: MapMode) {
    let plan = Plan::load(path, &LoadOptions { map_mode: mode, ..VERIFIED }).unwrap();
    let index = plan.index();
    assert_eq!(index.settings(), &settings());
    assert_eq!(index.meta(), &meta());
    assert_eq!(index.module_text(), MODULE);
    assert_eq!(index.chat_template(), Some(TEMPLATE));
    assert_eq!(plan.tokenizer().unwrap(), Some(tokenizer()));
    assert_eq!(plan.weight("l0.q"), Some(&[1u8, 2, 3][..]));
    assert_eq!(plan.weight("l0.k"), Some(&[[4u8; 60].as_slice(), &[5; 10]].concat()[..]));
    assert_eq!(plan.weight("empty"), Some(&[][..]));
    assert_eq!(plan.weight("head"), Some(&[9u8; 8][..]));
    assert_eq!(plan.weight("tail"), None);
    let kinds: Vec<&str> = index.weights().iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, ["ter[4x4]@rows16", "f32[2]", "f32[0]", "f16[2x2]"]);
    for entry in index.weights() {
        assert_eq!(plan.weight(&entry.name).unwrap().as_ptr().addr() % 64, 0);
    }
    plan.verify_weights().unwrap();
}

fn names_in(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn round_trip_through_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.plan");
    let length = write_plan(&path, &settings(), fill).unwrap();
    assert_eq!(length, std::fs::metadata(&path).unwrap().len());
    assert_eq!(std::fs::read(&path).unwrap(), small_plan());
    assert_eq!(names_in(directory.path()), ["model.plan"]);
    for mode in [MapMode::Mapped, MapMode::Populated, MapMode::Copied] {
        check_small_plan(&path, mode);
    }
}

#[test]
fn tokenizer_and_template_may_be_absent() {
    let bytes = encode(|plan| {
        plan.weights(|_| Ok::<(), PlanError>(()))?;
        plan.meta(&meta())?;
        plan.module(MODULE)
    })
    .unwrap();
    let index = PlanIndex::parse(&bytes, &VERIFIED).unwrap();
    assert_eq!(index.chat_template(), None);
    assert!(index.weights().is_empty());
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small_plan();
    for length in 0..bytes.len() {
        let error = PlanIndex::parse(&bytes[..length], &VERIFIED).unwrap_err();
        assert!(matches!(error, PlanError::Incomplete { .. }), "{length}: {error}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(PlanIndex::parse(&longer, &VERIFIED).is_err());
}

#[test]
fn every_flipped_bit_is_refused() {
    let mut bytes = small_plan();
    PlanIndex::parse(&bytes, &VERIFIED).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(PlanIndex::parse(&bytes, &VERIFIED).is_err(), "byte {at}, bit {bit}");
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn weights_are_hashed_only_on_request() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.plan");
    let mut bytes = small_plan();
    let (_, place) = PlanIndex::parse(&bytes, &VERIFIED).unwrap().weight("l0.k").unwrap();
    bytes[place.start + 2] ^= 0x10;
    std::fs::write(&path, &bytes).unwrap();
    let is_mismatch =
        |error: &PlanError| matches!(error, PlanError::HashMismatch { section } if section == "weights");
    assert!(is_mismatch(&PlanIndex::parse(&bytes, &VERIFIED).unwrap_err()));
    let plan = Plan::load(&path, &LoadOptions { verify_weights: false, ..VERIFIED }).unwrap();
    assert!(is_mismatch(&plan.verify_weights().unwrap_err()));
}

#[test]
fn other_files_and_versions_are_told_apart() {
    assert!(matches!(PlanIndex::parse(b"GGUF\x03", &VERIFIED), Err(PlanError::NotAPlan)));
    assert!(matches!(PlanIndex::parse(&[0; 4096], &VERIFIED), Err(PlanError::NotAPlan)));
    assert!(matches!(PlanIndex::parse(b"", &VERIFIED), Err(PlanError::Incomplete { .. })));
    let mut bytes = small_plan();
    bytes[8] = 3;
    assert!(matches!(
        PlanIndex::parse(&bytes, &VERIFIED),
        Err(PlanError::UnsupportedVersion { found: 3, supported: 2 })
    ));
}

#[test]
fn sections_are_required_and_unique() {
    let no_meta = encode(|plan| {
        plan.module(MODULE)?;
        plan.weights(|_| Ok::<(), PlanError>(()))
    });
    assert!(matches!(no_meta, Err(PlanError::MissingSection { section: SectionKind::Meta })));
    let twice = encode(|plan| {
        plan.module(MODULE)?;
        plan.module(MODULE)
    });
    assert!(matches!(twice, Err(PlanError::Duplicate { .. })));
    let weight_twice = encode(|plan| {
        plan.weights(|sink| {
            sink.push("a", "f32[1]", &[0; 4])?;
            sink.push("a", "f32[1]", &[0; 4])
        })
    });
    assert!(matches!(weight_twice, Err(PlanError::Duplicate { .. })));
    let unnamed = encode(|plan| plan.weights(|sink| sink.write(&[0; 4])));
    assert!(matches!(unnamed, Err(PlanError::UnnamedWeight)));
}

/// A plan whose index of the weights is replaced, with all hashes in order.
fn with_entries(entries: &[WeightEntry]) -> Result<PlanIndex, PlanError> {
    let bytes = encode(|plan| {
        plan.module(MODULE)?;
        plan.meta(&meta())?;
        plan.raw_section(SectionKind::Weights, &[1; 256])?;
        plan.raw_section(SectionKind::WeightIndex, &postcard::to_stdvec(entries).unwrap())
    })
    .unwrap();
    PlanIndex::parse(&bytes, &VERIFIED)
}

#[test]
fn misplaced_weights_are_refused() {
    let entry = |name: &str, offset, length| WeightEntry {
        name: name.to_owned(),
        kind: "f32[1]".to_owned(),
        offset,
        length,
    };
    let index = with_entries(&[entry("a", 0, 128), entry("b", 128, 128)]).unwrap();
    assert_eq!(index.weight("b").unwrap().1.len(), 128);
    let refused = |entries: &[WeightEntry]| with_entries(entries).unwrap_err();
    assert!(matches!(refused(&[entry("a", 192, 65)]), PlanError::OutOfBounds { .. }));
    assert!(matches!(refused(&[entry("a", 64, u64::MAX)]), PlanError::OutOfBounds { .. }));
    assert!(matches!(refused(&[entry("a", u64::MAX - 63, 64)]), PlanError::OutOfBounds { .. }));
    assert!(matches!(refused(&[entry("a", 4, 4)]), PlanError::Damaged { .. }));
    assert!(matches!(refused(&[entry("a", 0, 65), entry("b", 64, 4)]), PlanError::Damaged { .. }));
    assert!(matches!(refused(&[entry("a", 0, 4), entry("a", 64, 4)]), PlanError::Duplicate { .. }));
}

#[test]
fn undecodable_sections_are_named() {
    let with_module = |module: &[u8], meta: &[u8]| {
        let bytes = encode(|plan| {
            plan.raw_section(SectionKind::Module, module)?;
            plan.raw_section(SectionKind::Meta, meta)?;
            plan.weights(|_| Ok::<(), PlanError>(()))
        })
        .unwrap();
        match PlanIndex::parse(&bytes, &VERIFIED) {
            Err(PlanError::Decode { section, .. }) => section,
            other => panic!("{other:?}"),
        }
    };
    let good = postcard::to_stdvec(&meta()).unwrap();
    assert_eq!(with_module(&[0xff], &good), "module");
    assert_eq!(with_module(b"", &good[..good.len() - 1]), "description");
    assert_eq!(with_module(b"", &[good.as_slice(), &[0]].concat()), "description");
    // A length far beyond the bytes that are there.
    assert_eq!(with_module(b"", &[0xff, 0xff, 0xff, 0xff, 0x7f]), "description");
}

#[test]
fn an_error_leaves_the_old_plan_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.plan");
    write_plan(&path, &settings(), fill).unwrap();
    let failed = write_plan(&path, &settings(), |plan| {
        plan.module("another module")?;
        plan.weights(|sink| {
            sink.push("big", "u8[4194304]", &vec![1; 4 << 20])?;
            Err(PlanError::UnnamedWeight)
        })
    });
    assert!(matches!(failed, Err(PlanError::UnnamedWeight)));
    assert_eq!(names_in(directory.path()), ["model.plan"]);
    check_small_plan(&path, MapMode::Mapped);
    let missing = write_plan(&path, &settings(), |plan| plan.module("another module"));
    assert!(matches!(missing, Err(PlanError::MissingSection { .. })));
    assert_eq!(names_in(directory.path()), ["model.plan"]);
    check_small_plan(&path, MapMode::Mapped);
}

/// Fails after some bytes, like a disk that is full.
struct FullDisk {
    room: usize,
}

impl Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match bytes.len().min(self.room) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            count => {
                self.room -= count;
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_failing_write_is_reported() {
    let length = small_plan().len();
    for room in 0..length {
        let mut disk = FullDisk { room };
        let result = PlanEncoder::new(&mut disk, &settings()).and_then(|mut plan| {
            fill(&mut plan)?;
            plan.finish()
        });
        assert!(matches!(result, Err(PlanError::Write { .. })), "{room}");
    }
    let mut disk = FullDisk { room: length };
    let mut plan = PlanEncoder::new(&mut disk, &settings()).unwrap();
    fill(&mut plan).unwrap();
    plan.finish().unwrap();
}

#[cfg(unix)]
#[test]
fn only_files_are_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let write = |path: &Path| write_plan(path, &settings(), fill);
    assert!(matches!(write(directory.path()), Err(PlanError::NotAFile { .. })));
    assert!(matches!(write(Path::new("/dev/null")), Err(PlanError::NotAFile { .. })));
    let nowhere = directory.path().join("no/such/place.plan");
    assert!(
        matches!(write(&nowhere), Err(PlanError::NoFolder { folder, .. }) if folder.ends_with("no/such"))
    );
}

#[test]
fn load_errors_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cut.plan");
    std::fs::write(&path, &small_plan()[..100]).unwrap();
    let text = Plan::load(&path, &VERIFIED).unwrap_err().to_string();
    assert!(text.contains("cut.plan") && text.contains("incomplete"), "{text}");
}

proptest! {
    /// Damage with the frame hash put right again, so that the checks after it are reached: no panic, and whatever
    /// is accepted has all weights inside the file.
    #[test]
    fn damaged_tables_do_no_harm(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = small_plan();
        let trailer = bytes.len() - 64;
        let table = u64::from_le_bytes(bytes[trailer + 8..trailer + 16].try_into().unwrap()) as usize;
        let frame = [&(0..128).collect::<Vec<_>>()[..], &(table..trailer + 32).collect::<Vec<_>>()].concat();
        for (index, value) in edits {
            bytes[*index.get(&frame)] = value;
        }
        let settings_end = 64 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        let new_table = u64::from_le_bytes(bytes[trailer + 8..trailer + 16].try_into().unwrap()) as usize;
        if settings_end <= trailer && new_table <= trailer {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&bytes[..settings_end]).update(&bytes[new_table..trailer + 32]);
            let hash = *hasher.finalize().as_bytes();
            bytes[trailer + 32..].copy_from_slice(&hash);
        }
        if let Ok(index) = PlanIndex::parse(&bytes, &LoadOptions { verify_weights: false, ..VERIFIED }) {
            for entry in index.weights() {
                let (_, range) = index.weight(&entry.name).unwrap();
                prop_assert!(bytes.get(range).is_some());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400), magic: bool) {
        let mut bytes = bytes;
        if magic && bytes.len() >= 128 {
            let at = bytes.len() - 64;
            bytes[..12].copy_from_slice(b"BNPLAN\0\x01\x01\0\0\0");
            bytes[at..at + 8].copy_from_slice(b"BNPLEND\x01");
        }
        prop_assert!(PlanIndex::parse(&bytes, &VERIFIED).is_err());
    }
}
