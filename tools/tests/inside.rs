//! Looking inside: what `--emit` shows for machines of all kinds, and `verify`'s comparison of kernels with the interpreter.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use bitnetc::BuildOptions;
use bitnetc::compile::plan_model;
use bitnetc::load::{LoadOptions, Source, dump_module, load_source};
use bitnetc_codegen::features::target_named;
use bitnetc_frontend_gguf::GgufWeights;
use bitnetc_ir::weights::{set_ternary_code, ternary_code};
use bitnetc_ir::{Layout, Module, Stage, TargetDesc, WeightBytes, WeightSource, text};
use bitnetc_passes::HeadFormat;
use bitnetc_runtime::map::MapMode;
use bitnetc_tools::emit::{Emit, emit};
use bitnetc_tools::verify::{KernelVerdict, VerifyOptions, as_stored, levels, verify_kernels};

fn builtin() -> Source {
    Source::open(None, MapMode::Mapped).unwrap()
}

fn options(target: &str) -> BuildOptions {
    let target = target_named(&host(), target).unwrap();
    BuildOptions { target: Some(target), ..BuildOptions::default() }
}

/// This machine.
fn host() -> TargetDesc {
    BuildOptions::default().target().unwrap()
}

/// The names after `; kernel ` at the starts of lines.
fn headings(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.strip_prefix("; kernel ")).map(str::to_owned).collect()
}

#[test]
fn every_kind_is_shown_for_every_kind_of_machine() {
    let source = builtin();
    for target in ["x86-64", "x86-64-v3", "x86-64-v4+amxint8", "aarch64", "aarch64+i8mm"] {
        let mut texts = std::collections::BTreeMap::new();
        emit(&source, &options(target), Emit::ALL, |kind, text| {
            texts.insert(kind, text.to_owned());
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{target}: {e}"));
        assert_eq!(texts.len(), Emit::ALL.len());
        for &stage in Stage::ALL {
            let module = text::parse(&texts[&Emit::Stage(stage)]).unwrap_or_else(|e| panic!("{target}: {e}"));
            assert_eq!(module.stage, stage);
            bitnetc::load::check_module(&module).unwrap();
        }
        // Each kernel that an op names is there in every form, and each that is there is named by an op.
        let named: BTreeSet<String> = texts[&Emit::Stage(Stage::Planned)]
            .lines()
            .filter_map(|line| line.split_once("  ; kernel "))
            .flat_map(|(_, names)| names.split(", ").map(str::to_owned).collect::<Vec<_>>())
            .collect();
        assert!(named.len() > 15, "{target}: {named:?}");
        for kind in [Emit::Kernels, Emit::Clif, Emit::Asm] {
            assert_eq!(headings(&texts[&kind]), named, "{target}: {}", kind.name());
            // A heading names an op by the text that the planned module has.
            let user = texts[&kind].lines().find_map(|line| line.strip_prefix(";   @decode ")).unwrap();
            assert!(texts[&Emit::Stage(Stage::Planned)].contains(user), "{target}: {user}");
        }
        let asm = &texts[&Emit::Asm];
        let instruction = if target.starts_with("aarch64") { "ldr q" } else { "mov" };
        assert!(asm.contains(instruction) && !asm.contains(".word"), "{target}");
        // The widest registers that the machine has, and no wider ones.
        let registers = ["ymm0", "zmm0", "tmm0"].map(|register| asm.contains(register));
        match target {
            "x86-64-v3" => assert_eq!(registers, [true, false, false]),
            "x86-64-v4+amxint8" => assert_eq!(registers[1..], [true, true]),
            _ => assert_eq!(registers, [false; 3]),
        }
        assert!(texts[&Emit::Clif].contains("function u0:0"), "{target}");
        assert!(texts[&Emit::Kernels].contains("kernel @"), "{target}");
        let dot = &texts[&Emit::Dot];
        assert_eq!(dot.matches('{').count() - dot.matches('}').count(), 0, "{target}");
        let json: serde_json::Value = serde_json::from_str(&texts[&Emit::Json]).unwrap();
        assert_eq!(json["schema"], "bitnetc.module/1");
        let page = &texts[&Emit::Html];
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"), "{target}");
        for name in &named {
            assert!(page.contains(name.as_str()), "{target}: {name}");
        }
        assert_eq!(json["kernels"].as_array().unwrap().len(), named.len());
    }
}

/// All verdicts for a module.
fn verdicts(
    module: &Module,
    packed: &dyn WeightSource,
    reference: &dyn WeightSource,
    options: &VerifyOptions,
) -> Vec<KernelVerdict> {
    let mut all = Vec::new();
    verify_kernels(module, packed, reference, options, &mut |verdict, total| {
        all.push(verdict.clone());
        assert!(all.len() <= total);
        true
    })
    .unwrap_or_else(|e| panic!("{e}"));
    all
}

fn verify_options(cross: bool) -> VerifyOptions {
    VerifyOptions { levels: levels(&host()), cross, full: false, seed: 1, threads: 2 }
}

#[test]
fn all_kernels_give_the_bits_of_the_interpreter_at_all_levels() {
    let source = builtin();
    let model = source.gguf_model().unwrap();
    let weights = GgufWeights::new(&model);
    for head in [HeadFormat::Q8, HeadFormat::Screened { rows: 64 }] {
        let compile = BuildOptions { head: Some(head), ..BuildOptions::default() };
        let module = dump_module(&source, Stage::Planned, &compile).unwrap();
        let options = verify_options(head == HeadFormat::Q8);
        let all = verdicts(&module, &weights, &weights, &options);
        for verdict in &all {
            assert_eq!(verdict.difference, None, "{verdict:?}");
            assert!(verdict.compared > 0, "{verdict:?}");
        }
        let kernels: BTreeSet<&str> = all.iter().map(|v| v.kernel.as_str()).collect();
        assert!(kernels.len() > 15, "{kernels:?}");
        assert!(all.len() >= kernels.len() * options.levels.len());
        if options.cross && options.levels.len() > 2 {
            let selectors: BTreeSet<&str> = all.iter().map(|v| v.selector).collect();
            assert_eq!(selectors.len(), 2, "{selectors:?}");
        }
    }
}

/// A model with one weight that is another one.
struct Damaged<'a> {
    whole: &'a dyn WeightSource,
    param: &'static str,
    cols: u32,
    row: u32,
}

impl WeightSource for Damaged<'_> {
    fn weight(&self, name: &str) -> Option<WeightBytes<'_>> {
        let mut weight = self.whole.weight(name)?;
        if name == self.param {
            let mut bytes = weight.bytes.into_owned();
            for col in 0..8 {
                let code = ternary_code(Layout::I2s128, self.cols, &bytes, self.row, col)?;
                set_ternary_code(Layout::I2s128, self.cols, &mut bytes, self.row, col, (code + 1) % 3);
            }
            weight.bytes = Cow::Owned(bytes);
        }
        Some(weight)
    }
}

#[test]
fn a_wrong_weight_is_found_with_its_op_and_row() {
    let source = builtin();
    let model = source.gguf_model().unwrap();
    let weights = GgufWeights::new(&model);
    let module = dump_module(&source, Stage::Planned, &BuildOptions::default()).unwrap();
    let options = VerifyOptions { levels: vec![host()], ..verify_options(false) };
    // A row of a matrix alone, of the second part of a merged one, and of a gated one.
    for (param, cols, row, element, kernel) in [
        ("l0.down", 768, 9, 9, "_256x768_add"),
        ("l0.k", 256, 5, 256 + 5, "_512x256"),
        ("l0.up", 256, 3, 3, "_1536x256_relu2_mul"),
    ] {
        let damaged = Damaged { whole: &weights, param, cols, row };
        let all = verdicts(&module, &damaged, &weights, &options);
        let wrong: Vec<&KernelVerdict> = all.iter().filter(|v| v.difference.is_some()).collect();
        // The kernel of many tokens, and that of one, unless its gate is closed: relu²(gate)·up is 0 then.
        let gated = kernel.ends_with("relu2_mul");
        assert!(wrong.len() == 2 || gated && wrong.len() == 1, "{param}: {wrong:?}");
        for verdict in wrong {
            let difference = verdict.difference.as_ref().unwrap();
            assert!(verdict.kernel.contains(kernel), "{verdict:?}");
            assert!(verdict.op.contains("bitlinear"), "{verdict:?}");
            assert_eq!(
                (difference.row, difference.part, difference.result),
                (element, "f32", 0),
                "{verdict:?}"
            );
            assert_ne!(difference.expected, difference.got);
        }
    }
}

#[test]
fn a_plan_is_verified_with_its_packed_weights() {
    let source = builtin();
    let model = source.gguf_model().unwrap();
    let compile = BuildOptions::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.plan");
    plan_model(Path::new("model"), &model, &compile).unwrap().write(&path, |_| true).unwrap();
    let plan = Source::open(Some(&path), MapMode::Mapped).unwrap();
    let loaded = load_source(plan, &LoadOptions::default()).unwrap();
    let module = as_stored(&loaded.module, &loaded);
    let options = VerifyOptions { levels: vec![host()], ..verify_options(false) };
    let all = verdicts(&module, &loaded, &loaded, &options);
    assert!(all.len() > 15 && all.iter().all(|v| v.difference.is_none()), "{all:?}");
}
