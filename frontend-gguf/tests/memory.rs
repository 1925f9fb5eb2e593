//! What parsing allocates: at most 64 MiB at any time, whatever the file says, and far less for a good one. Truncations at
//! every structure boundary, random flips of the header, and lying counts are tried under a counting allocator.

mod cases;
#[path = "../../tests/common/counting.rs"]
mod counting;

use bitnetc_frontend_gguf::testing::{Rng, TinyModel, damage};
use bitnetc_frontend_gguf::{Model, TokenizerMeta};
use counting::peak_of;

const LIMIT: usize = 64 << 20;

/// Bytes allocated at the worst moment of reading `bytes`.
fn peak(bytes: &[u8]) -> usize {
    let read = || {
        if let Ok(model) = Model::open(bytes) {
            let _ = model.check_weights();
        }
        if let Ok(gguf) = bitnetc_frontend_gguf::Gguf::parse(bytes) {
            let _ = TokenizerMeta::read(&gguf);
        }
    };
    peak_of(read).1
}

#[test]
fn no_file_makes_the_parser_allocate_much() {
    let (good, marks) = TinyModel { layers: 2, ..TinyModel::default() }.writer().build_marked();
    let base = peak(&good);
    assert!(base > 0 && base < 4 << 20, "a file of {} bytes takes {base}", good.len());

    for mark in &marks {
        for end in [mark.offset.saturating_sub(1), mark.offset, mark.offset + 1] {
            let used = peak(&good[..end.min(good.len())]);
            assert!(used < LIMIT, "cut at {end} ({}): {used}", mark.what);
        }
    }
    assert!(marks.len() > 50);

    let header =
        marks.iter().map(|m| m.offset).filter(|&o| o < good.len() / 2).max().unwrap_or(good.len() / 2);
    let mut rng = Rng::new(64);
    for round in 0..1000 {
        let mut bad = good.clone();
        let (byte, bit) = (rng.below(header), rng.below(8));
        bad[byte] ^= 1 << bit;
        let used = peak(&bad);
        assert!(used < LIMIT, "round {round}, byte {byte}, bit {bit}: {used}");
    }

    // Random models with structural damage, and with damaged bytes.
    let (mut accepted, mut largest, mut longest) = (0, 0, std::time::Duration::ZERO);
    const ROUNDS: u32 = 10_000;
    for round in 0..ROUNDS {
        let mut rng = Rng::new(u64::from(round));
        let mut w = damage::random_model(&mut rng);
        (0..rng.below(3)).for_each(|_| damage::change(&mut w, &mut rng));
        let mut bad = w.build();
        if rng.below(2) == 0 {
            damage::corrupt(&mut bad, &mut rng);
        }
        let start = std::time::Instant::now();
        let used = peak(&bad);
        longest = longest.max(start.elapsed());
        largest = largest.max(used);
        accepted += u32::from(Model::open(&bad).is_ok());
        assert!(used < LIMIT, "round {round}: {used}");
    }
    println!("{accepted} of {ROUNDS} accepted, at most {largest} bytes and {longest:?}");
    assert!(accepted * 10 >= ROUNDS * 3, "{accepted} accepted: the damage stops at the door");

    // Extreme numbers wherever a count or a length may stand, in each width.
    let extremes =
        [0, 1, 1 << 31, u64::from(u32::MAX), 1 << 32, 1 << 40, 1 << 60, 1 << 62, 1 << 63, u64::MAX];
    let smallest =
        TinyModel { heads: 64, kv_heads: 1, head_dim: 2, ffn: 128, vocab: 8, ..TinyModel::default() };
    let (good, marks) = smallest.writer().build_marked();
    for mark in &marks {
        for (number, width) in extremes.into_iter().flat_map(|n| [(n, 4), (n, 8)]) {
            let mut bad = good.clone();
            let start = mark.offset.min(bad.len());
            let end = (start + width).min(bad.len());
            bad[start..end].copy_from_slice(&number.to_le_bytes()[..end - start]);
            let used = peak(&bad);
            assert!(used < LIMIT, "{number:#x} at {} ({}): {used}", mark.offset, mark.what);
        }
    }

    // Every fault by itself.
    let mut cases = 0;
    for (kind, text, change) in cases::all() {
        let mut w = TinyModel::default().writer();
        change(&mut w);
        let used = peak(&w.build());
        assert!(used < LIMIT, "{kind}, {text}: {used}");
        cases += 1;
    }
    assert!(cases > 150, "{cases}");

    // And the outside corpus, if there is one.
    let data = std::env::var_os("BITNETC_TEST_DATA").map(std::path::PathBuf::from);
    let data = data.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data").into());
    match std::fs::read_dir(data.join("malformed/files")) {
        Err(_) => println!("skipped: no corpus (set BITNETC_TEST_DATA)"),
        Ok(files) => {
            let files = files.map(|file| std::fs::read(file.unwrap().path()).unwrap());
            let largest = files.map(|bytes| peak(&bytes)).max();
            println!("corpus: at most {largest:?} bytes");
            assert!(largest.is_some_and(|used| used < LIMIT), "{largest:?}");
        }
    }
}
