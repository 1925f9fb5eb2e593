//! Throughput of kernels on one core: `cargo bench -p bitnetc-codegen [-- FILTER] [--target T] [--codegen C]`.
//!
//! The limits are measured first, in the same run: how many byte products the core does in registers, and how many bytes
//! it reads from its second-level cache and from memory. Kernels are shown with their share of the limit that binds them.
//! Each line is the best and the median of many short runs, in time that this thread was running. Weights come from the second-level cache (a range of units
//! that fits, over and over) or from memory (several copies of the matrix in turn). `paired` is the median of the shares that
//! each run had of the limit as measured right before and after it, for machines whose speed changes from moment to moment. Without `--bench` (as `cargo test`
//! runs it) every kernel runs once.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bitnetc_codegen::compile::{Codegen, CompiledKernel, compile_kernel};
use bitnetc_codegen::host;
use bitnetc_codegen::image::{Image, ImageBuilder};
use bitnetc_codegen::kernels::{Arg, CacheShape, KernelKind, KernelSpec, RopeShape, TokenMode};
use bitnetc_codegen::kir::{Access, Kernel, KernelBuilder};
use bitnetc_codegen::machine_code::MachineCode;
use bitnetc_codegen::{clif, pack, x64};
use bitnetc_ir::partition::MERGE_UNIT;
use bitnetc_ir::weights::{TILE_ROWS, ternary_bytes};
use bitnetc_ir::{
    BlockFormat, ContentHash, DType, Direction, Epilogue, Layout, Module, Pairs, ParamDecl, ParamDef,
    TargetDesc, Type, WeightBytes, storage,
};

/// Weights that fit in the second-level cache beside the activations.
const CACHED: u64 = 768 << 10;

/// Weights that fit in no cache, for a run from memory.
const UNCACHED: u64 = 640 << 20;

/// A buffer that starts at a multiple of 64 bytes.
struct Buffer {
    words: Vec<[u64; 8]>,
}

impl Buffer {
    fn new(bytes: u64, word: u64) -> Self {
        Self { words: vec![[word; 8]; bytes.div_ceil(64) as usize + 2] }
    }
    /// Ternary codes.
    fn ternary(bytes: u64) -> Self {
        Self::new(bytes, 0x2424_1818_2121_0606)
    }
    /// Numbers near 1 or 0.01, whether they are read as f16, bf16 or f32.
    fn dense(bytes: u64) -> Self {
        Self::new(bytes, 0x3c3c_3c3c_3c3c_3c3c)
    }
    fn address(&self) -> u64 {
        self.words.as_ptr() as u64
    }
}

struct Bench {
    filter: Option<String>,
    measure: bool,
    target: TargetDesc,
    codegen: Codegen,
    /// 10^9 byte products a second.
    products: f64,
    /// 10^9 f32 multiply-adds a second.
    multiply_adds: f64,
    /// 10^9 bytes a second from the second-level cache.
    cache: f64,
    /// 10^9 bytes a second from memory.
    memory: f64,
    /// Short runs at the limits, for comparison from moment to moment.
    products_probe: Option<Probe>,
    memory_probe: Option<Probe>,
}

/// A kernel that runs at a limit, for about a millisecond.
struct Probe {
    image: Image,
    words: Vec<u64>,
    amount: f64,
    /// The word that moves through the memory of the last buffer from run to run, and its bytes.
    walks: Option<(usize, u64)>,
    walked: Cell<u64>,
    _buffers: Vec<Buffer>,
}

impl Probe {
    /// Amount by second.
    fn rate(&self) -> f64 {
        let mut words = self.words.clone();
        if let Some((word, bytes)) = self.walks {
            let at = self.walked.get();
            words[word] += at;
            self.walked.set((at + self.amount as u64) % bytes);
        }
        let before = now();
        // SAFETY: the kernel reads what its words say: parts of `_buffers`.
        unsafe { self.image.entry(0).function()(black_box(words.as_ptr())) };
        self.amount / (now() - before).as_secs_f64()
    }
}

/// What a rate is compared with.
#[derive(Clone, Copy)]
enum Limit {
    Products,
    MultiplyAdds,
    Cache,
    Memory,
}

/// One kernel with its buffers.
struct Subject {
    name: String,
    image: Image,
    words: Vec<u64>,
    begin: usize,
    end: usize,
    buffers: Vec<Buffer>,
}

impl Subject {
    /// The kernel of `kind`; `bytes` gives the size of each buffer word, `number` each other word.
    fn new(
        bench: &Bench,
        kind: KernelKind,
        strides: &[u64],
        bytes: impl Fn(Arg) -> u64,
        tokens: u64,
    ) -> Self {
        let mode = if strides.is_empty() { TokenMode::One } else { TokenMode::Many };
        let spec = KernelSpec { kind, tokens: mode, strides: strides.to_vec() };
        let CompiledKernel { kernel, code, .. } =
            compile_kernel(&spec, &bench.target, bench.codegen).expect("the kernel can be compiled");
        let mut builder = ImageBuilder::new(&bench.target).expect("the target is this machine");
        builder.define(&kernel.name, &code).expect("the name is new");
        let image = builder.finish().expect("memory can be made executable");
        let mut buffers = Vec::new();
        let mut words = Vec::new();
        for arg in spec.args() {
            words.push(match arg {
                Arg::Position => POSITION,
                Arg::Capacity => CAPACITY,
                Arg::Tokens => tokens,
                Arg::UnitBegin | Arg::UnitEnd => 0,
                Arg::Scratch => keep(&mut buffers, Buffer::dense(spec.scratch_bytes())),
                Arg::Operand(1) if matches!(kind, KernelKind::Bitlinear { .. }) => {
                    keep(&mut buffers, Buffer::ternary(bytes(arg)))
                }
                _ => keep(&mut buffers, Buffer::dense(bytes(arg))),
            });
        }
        let at = |arg| spec.args().iter().position(|&a| a == arg).expect("every kernel has a range of units");
        let (begin, end) = (at(Arg::UnitBegin), at(Arg::UnitEnd));
        Self { name: kernel.name, image, words, begin, end, buffers }
    }

    /// Fills the buffer of word `index` (no other word before it may be a number) with 32-bit words.
    fn fill(&mut self, index: usize, words: impl Iterator<Item = u32>) {
        let mut slots = self.buffers[index].words.iter_mut().flatten();
        let mut words = words;
        while let (Some(slot), Some(low)) = (slots.next(), words.next()) {
            *slot = u64::from(low) | u64::from(words.next().unwrap_or(0)) << 32;
        }
    }

    fn run(&mut self, units: std::ops::Range<u64>) {
        (self.words[self.begin], self.words[self.end]) = (units.start, units.end);
        let entry = self.image.entry(0);
        // SAFETY: `new` made a word for each parameter of the kernel; the buffers are as large as its shapes, ranges of
        // units and numbers of tokens need, live as long as `self`, and are not shared.
        unsafe { entry.function()(black_box(self.words.as_ptr())) };
    }
}

fn keep(buffers: &mut Vec<Buffer>, new: Buffer) -> u64 {
    let address = new.address();
    buffers.push(new);
    address
}

/// Time that this thread has been running, so that other processes disturb less.
#[cfg(unix)]
fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(unix))]
fn now() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Where attention and the appends stand.
const POSITION: u64 = 511;
const CAPACITY: u64 = 1024;

/// `rounds` times one product of 64 bytes into each of a number of accumulators.
fn products_kernel(accumulators: u64) -> Kernel {
    let mut b = KernelBuilder::new("products");
    let out = b.ptr("out", Access::ReadWrite);
    let rounds = b.int_param("rounds");
    let codes = b.load_bytes(out, 0, 64);
    let (zero, mask) = (b.splat_i32(0), b.splat_i32(0x0303_0303));
    let weights = b.as_vi(codes);
    let weights = b.band(weights, mask);
    let weights = b.as_vb(weights);
    let sums = b.for_loop(0, rounds, 1, vec![zero; accumulators as usize], |b, _, sums| {
        sums.into_iter().map(|sum| b.dot_u8i8(sum, weights, codes, 3)).collect()
    });
    let total = sums.into_iter().reduce(|a, c| b.iadd(a, c)).expect("there are accumulators");
    b.store_i32(out, total, 0, 16);
    b.finish().expect("the kernel is well-formed")
}

/// `rounds` times one multiply-add of 16 f32 into each of a number of accumulators.
fn multiply_adds_kernel(accumulators: u64) -> Kernel {
    let mut b = KernelBuilder::new("multiply_adds");
    let out = b.ptr("out", Access::ReadWrite);
    let rounds = b.int_param("rounds");
    let (a, c) = (b.load_f32(out, 0, 16), b.splat_f32(0.5));
    let zero = b.splat_f32(0.0);
    let sums = b.for_loop(0, rounds, 1, vec![zero; accumulators as usize], |b, _, sums| {
        sums.into_iter().map(|sum| b.fma(a, c, sum)).collect()
    });
    let total = sums.into_iter().reduce(|a, c| b.fadd(a, c)).expect("there are accumulators");
    b.store_f32(out, total, 0, 16);
    b.finish().expect("the kernel is well-formed")
}

/// `times` times all `bytes` (a multiple of 1024) at `from`.
fn reads_kernel() -> Kernel {
    let mut b = KernelBuilder::new("reads");
    let out = b.ptr("out", Access::ReadWrite);
    let from = b.ptr("from", Access::ReadOnly);
    let (bytes, times) = (b.int_param("bytes"), b.int_param("times"));
    let zero = b.splat_i32(0);
    let sums = b.for_loop(0, times, 1, vec![zero; 4], |b, _, sums| {
        b.for_loop(0, bytes, 1024, sums, |b, at, mut sums| {
            let at = b.add(from, at);
            for i in 0..16 {
                let v = b.load_i32(at, 64 * i, 16);
                sums[i as usize % 4] = b.bxor(sums[i as usize % 4], v);
            }
            sums
        })
    });
    let total = sums.into_iter().reduce(|a, c| b.iadd(a, c)).expect("there are accumulators");
    b.store_i32(out, total, 0, 16);
    b.finish().expect("the kernel is well-formed")
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|f| name.contains(f.as_str()))
    }

    /// Best and median time of `run`, which is called for about a second.
    fn time(&self, mut run: impl FnMut()) -> (Duration, Duration) {
        run();
        let mut times = Vec::new();
        let start = Instant::now();
        while self.measure && (times.len() < 5 || start.elapsed() < Duration::from_millis(1000))
            || times.is_empty()
        {
            let before = now();
            run();
            times.push(now() - before);
        }
        times.sort();
        (times[0], times[times.len() / 2])
    }

    fn rate(&self, name: &str, what: &str, amount: f64, limit: Limit, mut run: impl FnMut()) -> Duration {
        let (best, median) = self.time(&mut run);
        let rate = |t: Duration| amount / t.as_secs_f64() / 1e9;
        let (unit, most) = match limit {
            Limit::Products => ("GMAC/s", self.products),
            Limit::MultiplyAdds => ("GFMA/s", self.multiply_adds),
            Limit::Cache => ("GB/s", self.cache),
            Limit::Memory => ("GB/s", self.memory),
        };
        let share = 100.0 * rate(best) / most;
        let (fastest, middle) = (rate(best), rate(median));
        print!("{name:<46} {what:<10} {fastest:>8.2} {unit} {share:>5.1} % (median {middle:.2}");
        let probe = match limit {
            Limit::Products => &self.products_probe,
            Limit::Memory => &self.memory_probe,
            Limit::MultiplyAdds | Limit::Cache => &None,
        };
        if let Some(probe) = probe {
            let mut shares = Vec::new();
            let start = Instant::now();
            let mut before = probe.rate();
            while shares.len() < 5 || start.elapsed() < Duration::from_millis(1500) {
                let began = now();
                run();
                let took = (now() - began).as_secs_f64();
                let after = probe.rate();
                shares.push(amount / took / ((before + after) / 2.0));
                before = after;
            }
            shares.sort_by(f64::total_cmp);
            print!(", paired {:.1} %", 100.0 * shares[shares.len() / 2]);
        }
        println!(")");
        best
    }

    /// The same in weights, by which layouts are compared.
    fn weights(&self, name: &str, what: &str, weights: u64, best: Duration) {
        println!("{name:<46} {what:<10} {:>8.2} Gweights/s", weights as f64 / best.as_secs_f64() / 1e9);
    }

    /// Measures the limits by kernels that do nothing else.
    fn limits(&mut self) {
        let rate = |bench: &Bench, name: &str, kernel: &Kernel, words: &[u64], amount: f64| {
            let image = bench.load(kernel);
            let (best, median) = bench.time(|| {
                // SAFETY: the kernels of this function read what their words say, which are buffers of their caller.
                unsafe { image.entry(0).function()(black_box(words.as_ptr())) };
            });
            let rate = |t: Duration| amount / t.as_secs_f64() / 1e9;
            println!("{name:<46} {:<10} {:>8.2} (median {:.2})", "limit", rate(best), rate(median));
            rate(best)
        };
        let out = Buffer::dense(64);
        let (rounds, accumulators) = (1 << 16, if self.wide() { 24 } else { 5 });
        let products = (rounds * accumulators * 64) as f64;
        let words = [out.address(), rounds];
        self.products = rate(
            self,
            "byte products in registers, 10^9/s",
            &products_kernel(accumulators),
            &words,
            products,
        );
        let multiply_adds = (rounds * accumulators * 16) as f64;
        let kernel = multiply_adds_kernel(accumulators);
        let name = "f32 multiply-adds in registers, 10^9/s";
        self.multiply_adds = rate(self, name, &kernel, &words, multiply_adds);
        let reads = reads_kernel();
        if self.measure {
            let out = Buffer::dense(64);
            let rounds = 1 << 15;
            self.products_probe = Some(Probe {
                image: self.load(&products_kernel(accumulators)),
                words: vec![out.address(), rounds],
                amount: (rounds * accumulators * 64) as f64,
                walks: None,
                walked: Cell::new(0),
                _buffers: vec![out],
            });
            let (out, data) = (Buffer::dense(64), Buffer::ternary(UNCACHED));
            let piece = 16 << 20;
            self.memory_probe = Some(Probe {
                image: self.load(&reads),
                words: vec![out.address(), data.address(), piece, 1],
                amount: piece as f64,
                walks: Some((1, UNCACHED / piece * piece)),
                walked: Cell::new(0),
                _buffers: vec![out, data],
            });
        }
        for (name, bytes, times) in
            [("reads, second-level cache, GB/s", CACHED, 64), ("reads, memory, GB/s", UNCACHED, 1)]
        {
            let bytes = if self.measure { bytes } else { 1 << 16 };
            let buffer = Buffer::ternary(bytes);
            let words = [out.address(), buffer.address(), bytes / 1024 * 1024, times];
            let found = rate(self, name, &reads, &words, (bytes / 1024 * 1024 * times) as f64);
            if bytes == UNCACHED { self.memory = found } else { self.cache = found }
        }
    }

    fn wide(&self) -> bool {
        self.codegen != Codegen::Cranelift
            && x64::Level::of(&self.target).is_some_and(|l| l.registers().vectors() >= 24)
    }

    fn load(&self, kernel: &Kernel) -> Image {
        let wide = self.codegen != Codegen::Cranelift && x64::Level::of(&self.target).is_some();
        let compile: fn(&Kernel, &TargetDesc) -> Result<MachineCode, _> =
            if wide { x64::compile } else { clif::compile };
        let code = compile(kernel, &self.target).expect("the kernel can be compiled");
        let mut builder = ImageBuilder::new(&self.target).expect("the target is this machine");
        builder.define(&kernel.name, &code).expect("the name is new");
        builder.finish().expect("memory can be made executable")
    }

    fn gemv(&self, rows: u32, cols: u32, layout: Layout, epilogue: Epilogue) {
        let per_unit = if epilogue == Epilogue::Relu2Mul { 2 } else { 1 };
        let tile_bytes = ternary_bytes(layout, TILE_ROWS, cols).expect("the layout holds every shape");
        let unit_bytes = per_unit * tile_bytes;
        let unit_weights = per_unit * u64::from(TILE_ROWS * cols);
        let units = u64::from(rows.div_ceil(TILE_ROWS)) / per_unit;
        let kind = KernelKind::Bitlinear { rows, cols, layout, epilogue };
        let name = format!("gemv {} {rows}x{cols} {epilogue:?}", layout.name());
        if !self.wants(&name) {
            return;
        }
        let bytes = |arg| match arg {
            Arg::Operand(0) => storage::q8_tail(cols) + 64,
            Arg::Operand(1) => tile_bytes * u64::from(rows.div_ceil(TILE_ROWS)),
            _ => u64::from(rows) * 4,
        };
        let mut subject = Subject::new(self, kind, &[], bytes, 1);
        let cached = (CACHED / unit_bytes).min(units);
        let times = (8 * units / cached).max(1);
        let weights = |bytes: u64| bytes / unit_bytes * unit_weights;
        let best = self.rate(&name, "cache", (times * cached * unit_bytes) as f64, Limit::Cache, || {
            (0..times).for_each(|_| subject.run(0..cached));
        });
        self.weights(&name, "cache", weights(times * cached * unit_bytes), best);
        let all = units * unit_bytes;
        let copies: Vec<Buffer> = (0..if self.measure { (UNCACHED / all).max(1) } else { 1 })
            .map(|_| Buffer::ternary(all))
            .collect();
        let mut turn = 0;
        let best = self.rate(&name, "memory", all as f64, Limit::Memory, || {
            subject.words[1] = copies[turn].address();
            subject.run(0..units);
            turn = (turn + 1) % copies.len();
        });
        self.weights(&name, "memory", weights(all), best);
    }

    fn gemm(&self, rows: u32, cols: u32, layout: Layout, tokens: u64) {
        let strides = [storage::q8_tail(cols) + 64, u64::from(rows) * 4];
        let kind = KernelKind::Bitlinear { rows, cols, layout, epilogue: Epilogue::None };
        let name = format!("gemm {} {rows}x{cols} tokens {tokens}", layout.name());
        if !self.wants(&name) {
            return;
        }
        let bytes = |arg| match arg {
            Arg::Operand(0) => strides[0] * tokens,
            Arg::Operand(1) => ternary_bytes(layout, rows, cols).expect("the layout holds every shape"),
            Arg::Scales(_) => u64::from(rows) * 4,
            _ => strides[1] * tokens,
        };
        let mut subject = Subject::new(self, kind, &strides, bytes, tokens);
        let units = u64::from(rows.div_ceil(TILE_ROWS));
        let products = u64::from(rows) * u64::from(cols) * tokens;
        // A part of the matrix at a time, of a few milliseconds at most.
        let part = ((1 << 30) / (products / units).max(1)).clamp(1, units);
        let parts = units / part;
        let mut turn = 0;
        self.rate(&name, "", (products / units * part) as f64, Limit::Products, || {
            subject.run(turn * part..(turn + 1) * part);
            turn = (turn + 1) % parts;
        });
    }

    fn matmul(&self, rows: u32, cols: u32, dtype: DType, tokens: u64) {
        let strides = [u64::from(cols) * 4, u64::from(rows) * 4];
        let one = tokens == 1;
        let element = u64::from(dtype.element_bytes().expect("dense"));
        let kind = KernelKind::Matmul { rows, cols, dtype };
        let name = format!("matmul {} {rows}x{cols} tokens {tokens}", dtype.name());
        if !self.wants(&name) {
            return;
        }
        let bytes = |arg| match arg {
            Arg::Operand(0) => strides[0] * tokens,
            Arg::Operand(1) => u64::from(rows) * u64::from(cols) * element,
            _ => strides[1] * tokens,
        };
        let mut subject = Subject::new(self, kind, if one { &[] } else { &strides }, bytes, tokens);
        let unit_bytes = u64::from(TILE_ROWS) * u64::from(cols) * element;
        let units = u64::from(rows.div_ceil(TILE_ROWS));
        let cached = (CACHED / unit_bytes).max(1);
        self.rate(&name, "cache", (10 * cached * unit_bytes) as f64, Limit::Cache, || {
            (0..10).for_each(|_| subject.run(0..cached));
        });
        self.rate(&name, "memory", (units * unit_bytes) as f64, Limit::Memory, || subject.run(0..units));
    }

    /// A packed head; bytes are those of codes and scales.
    fn block_matmul(&self, format: BlockFormat, rows: u32, cols: u32, tokens: u64) {
        let ty = Type::vector(DType::Q8b, cols);
        let strides = [storage::row_stride(&ty).expect("a row"), u64::from(rows) * 4];
        let kind = KernelKind::BlockMatmul { rows, cols, format };
        let name = format!("block_matmul {} {rows}x{cols} tokens {tokens}", format.dtype().name());
        if !self.wants(&name) {
            return;
        }
        let size = format.bytes(rows, cols).expect("a size");
        let bytes = |arg| match arg {
            Arg::Operand(0) => strides[0] * tokens,
            Arg::Operand(1) => size,
            Arg::Scales(_) => u64::from(rows) * 4,
            _ => strides[1] * tokens,
        };
        let one = tokens == 1;
        let mut subject = Subject::new(self, kind, if one { &[] } else { &strides }, bytes, tokens);
        let (units, unit_bytes) = (u64::from(rows.div_ceil(TILE_ROWS)), format.tile_bytes(cols));
        let cached = (CACHED / unit_bytes).max(1);
        self.rate(&name, "cache", (10 * cached * unit_bytes) as f64, Limit::Cache, || {
            (0..10).for_each(|_| subject.run(0..cached));
        });
        self.rate(&name, "memory", size as f64, Limit::Memory, || subject.run(0..units));
    }

    /// What a screened head does after the approximate logits.
    fn screened(&self, rows: u32, cols: u32, n: u32) {
        let mut state = 1u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut logits =
            move || ((0..6).map(|_| next() as f32 / (1 << 24) as f32).sum::<f32>() - 3.0).to_bits();
        for (name, kind, table, units) in [
            ("screen", KernelKind::Screen { width: rows, n }, 0, 1),
            (
                "matmul_rows",
                KernelKind::MatmulRows { rows, cols, dtype: DType::F16, n },
                u64::from(rows) * u64::from(cols) * 2,
                u64::from(n.div_ceil(TILE_ROWS)),
            ),
            (
                "merge_screened",
                KernelKind::MergeScreened { width: rows, n },
                0,
                u64::from(rows.div_ceil(MERGE_UNIT)),
            ),
        ] {
            let name = format!("{name} {n} of {rows}x{cols}");
            if !self.wants(&name) {
                continue;
            }
            let bytes = |arg| match arg {
                Arg::Operand(2) if table > 0 => table,
                _ => u64::from(rows.max(cols)) * 4,
            };
            let mut subject = Subject::new(self, kind, &[], bytes, 1);
            subject.fill(0, (0..rows).map(|_| logits()));
            if !matches!(kind, KernelKind::Screen { .. }) {
                subject.fill(1, (0..n).map(|i| (u64::from(i) * u64::from(rows) / u64::from(n)) as u32));
            }
            let (best, median) = self.time(|| subject.run(0..units));
            let micros = |t: Duration| t.as_secs_f64() * 1e6;
            println!("{name:<46} {:<10} {:>8.2} µs (median {:.2})", "", micros(best), micros(median));
        }
    }

    /// Bytes written by all threads, from an F16 table.
    fn pack_head(&self, format: BlockFormat, rows: u32, cols: u32) {
        let name = format!("pack {} {rows}x{cols}", format.dtype().name());
        if !self.wants(&name) {
            return;
        }
        let mut module = Module::new();
        let def = ParamDef::File { tensor: "w".into(), hash: ContentHash([0; 16]) };
        let w =
            module.add_param(ParamDecl { name: "w".into(), ty: Type::matrix(DType::F16, rows, cols), def });
        let ty = Type::matrix(format.dtype(), rows, cols);
        let quantised =
            module.add_param(ParamDecl { name: "q".into(), ty: ty.clone(), def: ParamDef::Quantise(w) });
        let packed = module.add_param(ParamDecl {
            name: "packed".into(),
            ty: ty.with_layout(Layout::Tile16),
            def: ParamDef::Relayout(quantised),
        });
        // Finite f16 of all signs and of magnitudes from 0.25 to 4.
        let elements = u64::from(rows) * u64::from(cols);
        let bytes: Vec<u8> = (0..elements)
            .flat_map(|i| {
                let word = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u16;
                ((0x3400 + (word & 0x0fff)) | (word & 0x8000)).to_le_bytes()
            })
            .collect();
        let weight = WeightBytes { bytes: bytes.into(), scales: Vec::new().into() };
        let source = BTreeMap::from([("w".to_owned(), weight)]);
        let size = pack::packed_size(&module, packed).expect("tile16 is packed");
        let mut out = vec![0; size as usize];
        let (mut best, mut runs) = (Duration::MAX, 0);
        while runs == 0 || self.measure && runs < 5 {
            let start = Instant::now();
            pack::pack_into(&module, packed, &source, &mut out).expect("the numbers are finite");
            best = best.min(start.elapsed());
            runs += 1;
        }
        println!("{name:<46} {:<10} {:>8.2} GB/s", "threads", size as f64 / best.as_secs_f64() / 1e9);
    }

    /// Weights written by all threads, from an I2_S matrix.
    fn pack(&self, rows: u32, cols: u32, layout: Layout) {
        let name = format!("pack {} {rows}x{cols}", layout.name());
        if !self.wants(&name) {
            return;
        }
        let mut module = Module::new();
        let ty = |layout| Type::matrix(DType::Ter, rows, cols).with_layout(layout);
        let def = ParamDef::File { tensor: "w".into(), hash: ContentHash([0; 16]) };
        let w = module.add_param(ParamDecl { name: "w".into(), ty: ty(Layout::I2s128), def });
        let def = ParamDef::Relayout(w);
        let packed = module.add_param(ParamDecl { name: "packed".into(), ty: ty(layout), def });
        let bytes = vec![0x24; ternary_bytes(Layout::I2s128, rows, cols).expect("128 columns") as usize];
        let weight = WeightBytes { bytes: bytes.into(), scales: vec![1.0].into() };
        let source = BTreeMap::from([("w".to_owned(), weight)]);
        let size = pack::packed_size(&module, packed).expect("the layout is packed");
        let mut out = vec![0; size as usize];
        let (mut best, mut runs) = (Duration::MAX, 0);
        while runs == 0 || self.measure && runs < 50 {
            let start = Instant::now();
            pack::pack_into(&module, packed, &source, &mut out).expect("the codes are valid");
            best = best.min(start.elapsed());
            runs += 1;
        }
        let weights = f64::from(rows) * f64::from(cols);
        println!("{name:<46} {:<10} {:>8.2} Gweights/s", "threads", weights / best.as_secs_f64() / 1e9);
    }

    /// One token after [`POSITION`] keys, whose keys and values are all read.
    fn decode_attention(&self, kind: KernelKind, cache_bytes: u64) {
        let name = format!("attention 20/5 heads of 128, {} keys", POSITION + 1);
        if !self.wants(&name) {
            return;
        }
        let mut subject = Subject::new(self, kind, &[], |_| cache_bytes, 1);
        let (keys, blocks) = (POSITION + 1, (POSITION + 1).div_ceil(64));
        let bytes = 10 * 2 * keys * 5 * 128 * 2;
        self.rate(&name, "cache", bytes as f64, Limit::Cache, || {
            (0..10).for_each(|_| subject.run(0..5 * blocks));
        });
    }

    /// A chunk of tokens after [`POSITION`] keys.
    fn chunk_attention(&self, kind: KernelKind, cache_bytes: u64, tokens: u64) {
        let name = format!("attention 20/5 heads of 128, {tokens} tokens");
        if !self.wants(&name) {
            return;
        }
        let stride = 20 * 128 * 4;
        let bytes = |arg| if matches!(arg, Arg::Operand(1 | 2)) { cache_bytes } else { stride * tokens };
        let mut subject = Subject::new(self, kind, &[stride, stride], bytes, tokens);
        let keys: u64 = (0..tokens).map(|t| POSITION + t + 1).sum();
        let amount = 2 * keys * 20 * 128;
        let units = 5 * tokens.div_ceil(16);
        self.rate(&name, "", amount as f64, Limit::MultiplyAdds, || subject.run(0..units));
    }

    fn small(&self, name: &str, kind: KernelKind, bytes: u64, units: u64) {
        if !self.wants(name) {
            return;
        }
        let mut subject = Subject::new(self, kind, &[], |_| bytes, 1);
        let (best, median) = self.time(|| (0..100).for_each(|_| subject.run(0..units)));
        let micros = |t: Duration| t.as_secs_f64() * 1e6 / 100.0;
        println!(
            "{name:<46} {:<10} {:>8.2} µs (median {:.2})",
            subject.name.len(),
            micros(best),
            micros(median)
        );
    }
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--test");
    let target = host::probe().expect("this machine is supported");
    let nothing = f64::INFINITY;
    let mut bench = Bench {
        filter: None,
        measure: false,
        target,
        codegen: Codegen::Auto,
        products: nothing,
        multiply_adds: nothing,
        cache: nothing,
        memory: nothing,
        products_probe: None,
        memory_probe: None,
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => bench.measure = true,
            "--cranelift" => bench.codegen = Codegen::Cranelift,
            "--target" => {
                let target = args.next().expect("--target takes a target such as x86_64+sse4.1+avx2");
                bench.target = target.parse().expect("--target takes a target such as x86_64+sse4.1+avx2");
            }
            "--codegen" => {
                bench.codegen = match args.next().as_deref() {
                    Some("cranelift") => Codegen::Cranelift,
                    Some("x64") => Codegen::X64,
                    _ => Codegen::Auto,
                };
            }
            filter => bench.filter = Some(filter.to_owned()),
        }
    }
    println!("{}", bench.target);
    bench.limits();
    for layout in [Layout::Tile16, Layout::Trits16, Layout::Lut16] {
        bench.gemv(2560, 2560, layout, Epilogue::Add);
        bench.gemv(13824, 2560, layout, Epilogue::Relu2Mul);
        bench.gemv(2560, 6912, layout, Epilogue::Add);
        for tokens in [1, 2, 4, 8, 16, 64] {
            bench.gemm(2560, 2560, layout, tokens);
        }
        for (rows, cols) in [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)] {
            for tokens in [128, 512] {
                bench.gemm(rows, cols, layout, tokens);
            }
        }
        bench.pack(13824, 2560, layout);
    }
    for dtype in [DType::F16, DType::Bf16, DType::F32] {
        bench.matmul(32768, 2560, dtype, 1);
    }
    bench.matmul(32768, 2560, DType::F16, 8);
    for &format in BlockFormat::ALL {
        bench.block_matmul(format, 32768, 2560, 1);
        bench.block_matmul(format, 8192, 2560, 16);
        bench.pack_head(format, 16384, 2560);
    }
    bench.small("quant_blocks 2560", KernelKind::QuantBlocks { width: 2560, block: 32 }, 16 << 10, 1);
    bench.screened(128_256, 2560, 256);
    let eps = 1e-5f32.to_bits();
    bench.small("rms_norm_quant 2560", KernelKind::RmsNormQuant { width: 2560, eps }, 16 << 10, 1);
    bench.small("rms_norm_quant 6912", KernelKind::RmsNormQuant { width: 6912, eps }, 32 << 10, 1);
    let cache = CacheShape { kv_heads: 5, head_dim: 128, dtype: DType::F16 };
    let cache_bytes = CAPACITY * 5 * 128 * 2;
    let rope = RopeShape { head: 128, rot: 128, pairs: Pairs::Halves };
    let kind = KernelKind::RopeKvAppend { q_width: 2560, rope, cache };
    bench.small("rope_kv_append 20+5 heads of 128", kind, cache_bytes, 1);
    let (heads, scale) = (20, 0.088f32.to_bits());
    bench.decode_attention(KernelKind::AttentionBlocks { heads, cache, scale }, cache_bytes);
    let kind = KernelKind::AttentionTiles { heads, cache, scale };
    for tokens in [16, 128, 512] {
        bench.chunk_attention(kind, cache_bytes, tokens);
    }
    let direction = Direction::Forward;
    let kind = KernelKind::Hadamard { width: 5120, block: 1024, direction, signed: true };
    bench.small("hadamard 5120 in blocks of 1024", kind, 32 << 10, 1);
    bench.small(
        "causal_conv 10240 channels",
        KernelKind::CausalConv { channels: 10_240, taps: 4 },
        256 << 10,
        640,
    );
    let kind = KernelKind::DeltaRule { key_heads: 16, heads: 48, d: 128 };
    bench.small("delta_rule 48 heads of 128", kind, 4 << 20, 384);
    bench.small(
        "attention_merge 20 heads of one range each",
        KernelKind::AttentionMerge { heads: 20, cache },
        cache_bytes,
        20,
    );
}
