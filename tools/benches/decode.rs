//! Decode and prefill beside the machine's limits, as `bitnetc bench` measures them, under `cargo bench`.
//!
//! `cargo bench -p bitnetc-tools --bench decode -- [PRESET|MODEL.gguf|MODEL.plan] [threads…]`: 128 steps and a prompt of 128 tokens, with each
//! number of threads (default: 1 and 2). Presets are those of `bitnetc synth`; the default is `tiny`.

use std::path::PathBuf;

use bitnetc::load::{LoadOptions, load};
use bitnetc_codegen::host;
use bitnetc_frontend_gguf::synth::{SyntheticModel, preset};
use bitnetc_tools::bench::machine::{Build, Machine};
use bitnetc_tools::bench::report::{self, Subject};
use bitnetc_tools::bench::table::TableStyle;
use bitnetc_tools::bench::{Bench, BenchOptions, Test, limits_of_machine};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let name = args.first().map_or("tiny", String::as_str);
    let folder = tempfile::tempdir()?;
    let path = match preset(name) {
        Some(preset) => {
            let path = folder.path().join("model.gguf");
            bitnetc_tools::synth::write_synthetic(&path, &SyntheticModel::new(preset.shape(), 1)?, |_| true)?;
            path
        }
        None => PathBuf::from(name),
    };
    let threads: Vec<u32> = match args.get(1..).unwrap_or_default() {
        [] => vec![1, 2],
        list => list.iter().map(|t| t.parse()).collect::<Result<_, _>>()?,
    };
    let loaded = load(Some(&path), &LoadOptions::default())?;
    let options = BenchOptions {
        repetitions: 5,
        warm_up: true,
        context: 128,
        sequences: 1,
        profile: false,
        keep_going: (|| true).into(),
    };
    let mut roofline = limits_of_machine(None)?;
    let mut bench = Bench::new(&loaded, &mut roofline, options);
    let subject = Subject::of(&loaded, name.to_owned(), bench.accounts().chunk(), false);
    print!("{}", report::head(TableStyle::Markdown, &Machine::describe(&host::probe()?), &Build::this()));
    for threads in threads {
        for (prompt, generate) in [(0, 128), (128, 0)] {
            let test = Test { prompt, generate, depth: 0, sequences: 1, shared_prompt: false, threads };
            if let Some(outcome) = bench.run(test, &mut |_| ())? {
                print!("{}", report::row(TableStyle::Markdown, &subject, &outcome));
            }
        }
    }
    Ok(())
}
