//! The property of the target `kernels`, which `tests/fuzz_seeds.rs` replays: generated code computes what the interpreter does and
//! stays in its buffers, and no shape makes a generator overflow, leave a buffer's bounds or run on.

use bitnetc_codegen::kernels::{
    ActivationScale, CacheShape, ElementwiseFn, KernelError, KernelKind, KernelSpec, Registers, RopeShape,
    TokenMode,
};
use bitnetc_ir::generate::{GenOptions, random_module};
use bitnetc_ir::interp::Interpreter;
use bitnetc_ir::sample::{self, CallShape};
use bitnetc_ir::{BlockFormat, DType, Epilogue, Layout, Pairs, Stage, TargetDesc, TokenCount};
use bitnetc_passes::{PassContext, Pipeline, WeightPacking};
use bitnetc_runtime::map::guard_buffers;
use bitnetc_runtime::single::execute;

/// Reads choices from bytes; zeros after the last one.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }
    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
    /// A size: small, near a power of two, or anything.
    fn size(&mut self) -> u32 {
        match self.byte() {
            kind @ 0..=127 => u32::from(kind),
            kind @ 128..=223 => {
                (1u32 << (kind % 32)).wrapping_add(u32::from(self.byte() % 3)).wrapping_sub(1)
            }
            _ => self.word(),
        }
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}

/// Checks one input; returns whether a function was run.
pub(crate) fn check(bytes: &[u8]) -> bool {
    let mut choices = Choices(bytes);
    match choices.byte() % 2 {
        0 => run_a_function(&mut choices),
        _ => {
            build_a_shape(&mut choices);
            false
        }
    }
}

/// A random function on random inputs, by generated code between guard pages and by the interpreter.
fn run_a_function(choices: &mut Choices<'_>) -> bool {
    guard_buffers();
    let Ok(host) = bitnetc_codegen::host::probe() else { return false };
    let target = choices.pick(&[&host, &TargetDesc::baseline(host.arch)]).clone();
    let tokens = choices.pick(&[TokenCount::One, TokenCount::UpTo(7), TokenCount::UpTo(33)]);
    let widths = (0..3).map(|_| 1 + u32::from(choices.byte()) * 2).collect();
    let options = GenOptions {
        stage: choices.pick(&[Stage::Imported, Stage::Fused]),
        tokens,
        ops: 1 + u32::from(choices.byte() % 12),
        widths,
        head_dims: vec![2 + u32::from(choices.byte() % 127)],
        ..GenOptions::default()
    };
    let seed = u64::from(choices.word());
    let (module, weights) = random_module(seed, &options);
    let packing = choices.pick(&[WeightPacking::TwoBits, WeightPacking::Trits, WeightPacking::Auto]);
    let context = PassContext { weights: packing, ..PassContext::new(target.clone()) };
    let Ok((planned, _)) = bitnetc_passes::run(&Pipeline::default(), module.clone(), &context) else {
        return false;
    };
    let mut ran = false;
    for (id, func) in module.funcs().iter() {
        let count = 1 + u32::from(choices.byte()) % tokens.max();
        let call = CallShape { position: u32::from(choices.byte() % 100), capacity: 192, tokens: count };
        let inputs = sample::inputs(&module, func, call, seed);
        let Ok(expected) = Interpreter::new(&module, &weights).run(id, inputs.clone()) else { continue };
        let threads = 1 + u32::from(choices.byte() % 3);
        let found = match execute(&planned, id, &target, &weights, inputs, threads) {
            Ok(found) => found,
            // A random function over a chunk may have values with one row for all tokens, which kernels do not have.
            Err(e) if e.to_string().contains("without a row for each") => continue,
            Err(e) => panic!("{e}\n{}", bitnetc_ir::text::print(&planned)),
        };
        for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
            if let Some(difference) = a.first_difference(b) {
                panic!("output {i}: {difference}\n{}", bitnetc_ir::text::print(&planned));
            }
        }
        ran = true;
    }
    ran
}

/// A kernel of any shape, also of such as no module can have: made, and then within its buffers, or refused.
fn build_a_shape(choices: &mut Choices<'_>) {
    let (rows, cols, n) = (choices.size(), choices.size(), choices.size());
    let dtype = choices.pick(DType::ALL);
    let epilogue = choices.pick(&[Epilogue::None, Epilogue::Add, Epilogue::Relu2Mul, Epilogue::SiluMul]);
    let cache = CacheShape { kv_heads: choices.size(), head_dim: choices.size(), dtype };
    let pairs = choices.pick(&[Pairs::Halves, Pairs::Interleaved]);
    let rope = RopeShape { head: choices.size(), rot: choices.size(), pairs };
    let number = choices.word();
    let kinds = [
        KernelKind::Embed { width: cols, dtype },
        KernelKind::RmsNorm { width: cols, eps: number },
        KernelKind::RmsNormQuant { width: cols, eps: number },
        KernelKind::RmsNormHeads { width: cols, head: rope.head, eps: number },
        KernelKind::QuantAbsmax { width: cols },
        KernelKind::Bitlinear { rows, cols, layout: choices.pick(Layout::ALL), epilogue },
        KernelKind::BitlinearGrouped {
            rows,
            cols,
            layout: choices.pick(Layout::ALL),
            group: n,
            activation: choices.pick(&[ActivationScale::Token, ActivationScale::Block]),
            epilogue,
        },
        KernelKind::BitlinearF32 { rows, cols, layout: choices.pick(Layout::ALL), group: n, epilogue },
        KernelKind::EmbedTernary { width: cols, layout: choices.pick(Layout::ALL), group: n },
        KernelKind::Matmul { rows, cols, dtype },
        KernelKind::QuantBlocks { width: cols, block: choices.pick(&[32, 128, n]) },
        KernelKind::BlockMatmul { rows, cols, format: choices.pick(BlockFormat::ALL) },
        KernelKind::Screen { width: cols, n },
        KernelKind::MatmulRows { rows, cols, dtype, n },
        KernelKind::MergeScreened { width: cols, n },
        KernelKind::Rope { width: cols, rope },
        KernelKind::KvAppend { cache },
        KernelKind::RopeKvAppend { q_width: cols, rope, cache },
        KernelKind::AttentionBlocks { heads: rows, cache, scale: number },
        KernelKind::AttentionMerge { heads: rows, cache },
        KernelKind::AttentionTiles { heads: rows, cache, scale: number },
        KernelKind::Elementwise { op: choices.pick(&[ElementwiseFn::Add, ElementwiseFn::Silu]), width: cols },
    ];
    let kind = choices.pick(&kinds);
    let tokens = choices.pick(&[TokenMode::One, TokenMode::Many]);
    let stride = u64::from(choices.size()) << (choices.byte() % 34);
    let registers = choices.pick(&[
        Registers::new(128, 16),
        Registers::new(128, 32),
        Registers::new(256, 16),
        Registers::new(512, 32),
        Registers::new(512, 32).with_tiles(),
    ]);
    // As many strides as the kind has, which is the spec's to say.
    for count in 0..=6 {
        let spec = KernelSpec { kind, tokens, strides: vec![stride; count] };
        match spec.build_for(registers) {
            Err(KernelError::Malformed(error)) => panic!("{error}"),
            Err(KernelError::Strides { .. }) => {}
            Ok(_) | Err(_) => break,
        }
    }
}
