//! What the integration tests share: opening models with chosen options, logits of a session, and the data folder.
#![allow(dead_code, unreachable_pub)]

pub mod poisoned;

use std::path::{Path, PathBuf};

use bitnetc::BuildOptions;
use bitnetc::load::{LoadOptions, Loaded, load};
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_ir::{CacheType, DType};
use bitnetc_passes::HeadFormat;
use bitnetc_runtime::sampling::{Sampler, SamplingParams, TokenMask};
use bitnetc_runtime::session::{Session, SessionOptions};
use bitnetc_runtime::tokenizer::Tokenize;

/// The repository.
pub fn root() -> PathBuf {
    // The helpers are compiled into the tests of several packages.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.ancestors().find(|dir| dir.join("Cargo.lock").is_file());
    root.unwrap_or(package).to_owned()
}

/// A file of `tests/data`.
pub fn data(name: &str) -> PathBuf {
    root().join("tests/data").join(name)
}

/// Options for this KV cache type.
pub fn options(kv_type: DType) -> LoadOptions {
    options_with(kv_type, |_| ())
}

/// Options for this KV cache type and the head as the file has it, for comparisons with outside references.
pub fn options_stored_head(kv_type: DType) -> LoadOptions {
    options_with(kv_type, |build| build.head = Some(HeadFormat::Stored))
}

/// Options for this KV cache type, changed.
pub fn options_with(kv_type: DType, change: impl FnOnce(&mut BuildOptions)) -> LoadOptions {
    let cache = CacheType::try_from(kv_type).expect("a type that caches have");
    let mut build = BuildOptions { cache: Some(cache), ..BuildOptions::default() };
    change(&mut build);
    LoadOptions { build, ..LoadOptions::default() }
}

/// Opens a model.
pub fn open(path: &Path, options: &LoadOptions) -> Loaded {
    load(Some(path), options).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A session with this many threads.
pub fn session(loaded: &Loaded, context: u32, threads: u32) -> Session {
    Session::new(loaded.model.clone(), SessionOptions { context, threads }).unwrap()
}

/// Logits after every token, by prefill and head.
pub fn score(loaded: &Loaded, tokens: &[u32], threads: u32) -> Vec<Vec<f32>> {
    let mut rows = vec![Vec::new(); tokens.len()];
    session(loaded, tokens.len() as u32, threads)
        .score(tokens, |i, logits| {
            rows[i] = logits.to_vec();
            true
        })
        .unwrap();
    rows
}

/// Logits after every token, by one decode step each.
pub fn decode(loaded: &Loaded, tokens: &[u32], threads: u32) -> Vec<Vec<f32>> {
    let mut session = session(loaded, tokens.len() as u32, threads);
    tokens.iter().map(|&t| session.feed(&[t]).unwrap().to_vec()).collect()
}

/// The tokens after a prompt, by a session that is fed one token after the other and a sampler: what the engine has to make.
pub fn tokens_by_hand(
    loaded: &Loaded,
    prompt: &[u32],
    params: SamplingParams,
    limit: usize,
    ignore_end: bool,
) -> Vec<u32> {
    let context = prompt.len() + limit;
    let mut session = session(loaded, context as u32, 1);
    let vocab = loaded.model.vocab();
    let mut mask = TokenMask::all(vocab as usize);
    let ends = (0..vocab).filter(|&id| loaded.tokenizer.is_end(id));
    ends.filter(|_| ignore_end).for_each(|id| mask.forbid(id));
    let mut sampler = Sampler::new(params).unwrap();
    prompt.iter().for_each(|&id| sampler.accept(id));
    let mut tokens = Vec::new();
    let mut next = prompt.to_vec();
    while tokens.len() < limit {
        let id = sampler.sample_allowed(session.feed(&next).unwrap(), Some(&mask)).unwrap();
        if loaded.tokenizer.is_end(id) {
            break;
        }
        tokens.push(id);
        next = vec![id];
    }
    tokens
}

/// Asserts that two sets of logits are equal by bits.
pub fn assert_same(what: &str, a: &[Vec<f32>], b: &[Vec<f32>]) {
    assert_eq!(a.len(), b.len(), "{what}: rows");
    for (row, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.len(), b.len(), "{what}: vocabulary");
        let different = a.iter().zip(b).position(|(x, y)| x.to_bits() != y.to_bits());
        if let Some(i) = different {
            panic!("{what}: position {row}, token {i}: {:?} and {:?}", a[i], b[i]);
        }
    }
}

/// Writes a model to a temporary file.
pub fn write_model(model: &TinyModel) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    std::io::Write::write_all(&mut file, &model.to_gguf()).unwrap();
    file
}

/// Token ids below `vocab` from a small deterministic generator.
pub fn random_tokens(seed: u64, count: usize, vocab: u32) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32
    };
    (0..count).map(|_| next() % vocab).collect()
}

/// Models of many shapes: odd head sizes, any grouping, widths that are no power of two, rows that are no multiple of 16.
pub fn shapes() -> Vec<TinyModel> {
    let base = TinyModel::default();
    vec![
        base.clone(),
        TinyModel { layers: 2, heads: 8, kv_heads: 1, head_dim: 16, vocab: 301, seed: 2, ..base.clone() },
        TinyModel {
            hidden: 384,
            heads: 16,
            kv_heads: 4,
            head_dim: 40,
            ffn: 640,
            vocab: 259,
            tied: false,
            seed: 3,
            ..base.clone()
        },
        TinyModel {
            hidden: 256,
            heads: 4,
            kv_heads: 4,
            head_dim: 96,
            ffn: 128,
            arch: "bitnet-25",
            seed: 4,
            ..base.clone()
        },
        TinyModel {
            hidden: 640,
            layers: 2,
            heads: 20,
            kv_heads: 5,
            head_dim: 32,
            ffn: 896,
            vocab: 515,
            seed: 5,
            ..base.clone()
        },
        // Two kv rows: far from a multiple of 16.
        TinyModel { heads: 64, kv_heads: 1, head_dim: 2, seed: 8, ..base.clone() },
        TinyModel { heads: 64, kv_heads: 32, head_dim: 2, ffn: 384, seed: 6, ..base.clone() },
        TinyModel { hidden: 256, heads: 2, kv_heads: 1, head_dim: 128, ffn: 256, seed: 7, ..base },
        TinyModel { seed: 9, ..TinyModel::hybrid() },
    ]
}
