//! Decode speed against the machine's read bandwidth, measured in turns in one run.
//!
//! `cargo bench --bench decode -- [tiny|2b-4t|MODEL.gguf|MODEL.plan] [threads…]`. A decode step reads every weight once, so its
//! bytes per second over the bandwidth of a plain read of as much memory is the share of the physical limit. Weights
//! of the synthetic shapes are random; speed does not depend on them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bitnetc::load::{LoadOptions, load};
use bitnetc_frontend_gguf::testing::TinyModel;
use bitnetc_runtime::map::AlignedBuffer;
use bitnetc_runtime::session::{Session, SessionOptions};

/// The shape of microsoft/bitnet-b1.58-2B-4T, with random weights.
fn two_billion() -> TinyModel {
    TinyModel {
        hidden: 2560,
        layers: 30,
        heads: 20,
        kv_heads: 5,
        head_dim: 128,
        ffn: 6912,
        vocab: 128_256,
        context: 4096,
        ..TinyModel::default()
    }
}

fn tiny() -> TinyModel {
    TinyModel {
        hidden: 1024,
        layers: 8,
        heads: 8,
        kv_heads: 2,
        head_dim: 128,
        ffn: 2816,
        vocab: 8192,
        ..TinyModel::default()
    }
}

/// The file of a synthetic model, made once.
fn synthetic(name: &str, model: &TinyModel) -> PathBuf {
    let path = std::env::temp_dir().join(format!("bitnetc-synthetic-{name}.gguf"));
    if !path.exists() {
        eprintln!("writing {}", path.display());
        std::fs::write(&path, model.to_gguf()).expect("the temporary folder is writable");
    }
    path
}

/// Reads `buffer` once with `threads` threads; GB/s.
fn read_bandwidth(buffer: &AlignedBuffer, threads: u32) -> f64 {
    let bytes = buffer.as_slice();
    let part = bytes.len() / threads as usize / 4096 * 4096;
    let clock = Instant::now();
    let sum = std::thread::scope(|scope| {
        let parts: Vec<_> = bytes.chunks_exact(part).take(threads as usize).collect();
        let work = |part: &[u8]| {
            let mut lanes = [0u64; 32];
            for block in part.as_chunks::<256>().0 {
                for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                    *lane ^= u64::from_le_bytes(*word);
                }
            }
            lanes.iter().fold(0, |a, b| a ^ b)
        };
        let handles: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || work(part))).collect();
        handles.into_iter().map(|h| h.join().unwrap_or(0)).fold(0, |a, b| a ^ b)
    });
    std::hint::black_box(sum);
    (part * threads as usize) as f64 / clock.elapsed().as_secs_f64() / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let path = match args.first().map(String::as_str) {
        None | Some("tiny") => synthetic("tiny", &tiny()),
        Some("2b-4t") => synthetic("2b-4t", &two_billion()),
        Some(path) => Path::new(path).to_owned(),
    };
    let threads: Vec<u32> = match args.get(1..).unwrap_or_default() {
        [] => vec![1, 2],
        list => list.iter().map(|t| t.parse()).collect::<Result<_, _>>()?,
    };
    let clock = Instant::now();
    let loaded = load(Some(&path), &LoadOptions::default())?;
    println!(
        "loaded in {:.2} s; {:.1} MB read per token",
        clock.elapsed().as_secs_f64(),
        loaded.model.bytes_per_token() as f64 / 1e6
    );
    let mut buffer = AlignedBuffer::zeroed(768 << 20)?;
    buffer.as_mut_slice().fill(1);
    for threads in threads {
        let mut session = Session::new(loaded.model.clone(), SessionOptions { context: 1024, threads })?;
        let prompt: Vec<u32> = (0..128).map(|i| i % loaded.model.vocab()).collect();
        let clock = Instant::now();
        session.feed(&prompt)?;
        let prefill = prompt.len() as f64 / clock.elapsed().as_secs_f64();
        let (mut rates, mut bandwidths) = (Vec::new(), Vec::new());
        for _ in 0..7 {
            bandwidths.push(read_bandwidth(&buffer, threads));
            let steps = 8;
            let clock = Instant::now();
            for i in 0..steps {
                session.feed(&[i % loaded.model.vocab()])?;
            }
            rates.push(f64::from(steps) / clock.elapsed().as_secs_f64());
        }
        let (rate, bandwidth) = (median(rates), median(bandwidths));
        let read = rate * loaded.model.bytes_per_token() as f64 / 1e9;
        println!(
            "{threads} threads: decode {rate:.1} tokens/s = {read:.1} GB/s, read bandwidth {bandwidth:.1} GB/s, share {:.0} %; prefill of 128 {prefill:.1} tokens/s",
            100.0 * read / bandwidth
        );
    }
    Ok(())
}
