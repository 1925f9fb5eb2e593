//! Runs a kernel in the interpreter and as machine code, for every feature level that this machine has, and compares
//! all bytes of all buffers.
//!
//! Native buffers end at an inaccessible page and start after canary bytes, so that a load or store after a buffer
//! stops the test and a store in front of it fails the comparison.
#![allow(dead_code, reason = "each test binary uses a part")]

use bitnetc_codegen::clif;
use bitnetc_codegen::error::CodegenError;
use bitnetc_codegen::host;
use bitnetc_codegen::image::{Image, ImageBuilder};
use bitnetc_codegen::kernels::Registers;
use bitnetc_codegen::kir::Kernel;
use bitnetc_codegen::kir::interp::{self, Arg, Memory, RegionId};
use bitnetc_codegen::machine_code::MachineCode;
use bitnetc_codegen::x64;
use bitnetc_ir::TargetDesc;
use half::f16;

/// The feature levels that kernels are compiled for.
const LEVELS: &[&str] = &[
    "x86_64+sse4.1",
    "x86_64+sse4.1+sse4.2+avx",
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c",
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avxvnni",
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni+avx512vbmi",
    "aarch64",
    "aarch64+dotprod",
    "aarch64+dotprod+i8mm",
];

/// The levels of the wide selector.
const WIDE_LEVELS: &[&str] = &[
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c",
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avxvnni",
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni",
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni+avx512vbmi",
    TILES,
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+onestream",
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni+onestream",
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni+avx512vbmi+onestream",
];

/// The level with tile registers.
pub(crate) const TILES: &str =
    "x86_64+sse4.1+sse4.2+avx+avx2+fma+f16c+avx512f+avx512bw+avx512dq+avx512vl+avx512vnni+amxint8";

/// An instruction selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    Cranelift,
    Wide,
}

/// A selector and a target for it that this machine can run.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) selector: Selector,
    pub(crate) target: TargetDesc,
}

impl Backend {
    fn new(selector: Selector, target: TargetDesc) -> Self {
        Self { selector, target }
    }

    pub(crate) fn compile(&self, kernel: &Kernel) -> Result<MachineCode, CodegenError> {
        match self.selector {
            Selector::Cranelift => clif::compile(kernel, &self.target),
            Selector::Wide => x64::compile(kernel, &self.target),
        }
    }

    /// The register file that the backend has.
    pub(crate) fn registers(&self) -> Registers {
        match (self.selector, x64::Level::of(&self.target)) {
            (Selector::Wide, Some(level)) => level.registers().tuned_for(&self.target),
            _ => Registers::cranelift(&self.target),
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.selector, self.target)
    }
}

/// The levels of the wide selector that this machine can run.
pub(crate) fn wide_backends() -> Vec<Backend> {
    let host = host::probe().unwrap();
    let levels = WIDE_LEVELS.iter().map(|text| text.parse::<TargetDesc>().unwrap());
    levels
        .filter(|level| x64::available() && level.arch == host.arch && level.missing_on(&host).is_empty())
        .map(|level| Backend::new(Selector::Wide, level))
        .collect()
}

/// Everything that this machine can run.
pub(crate) fn backends() -> Vec<Backend> {
    let narrow = levels().into_iter().map(|level| Backend::new(Selector::Cranelift, level));
    narrow.chain(wide_backends()).collect()
}

/// The levels that this machine can run, and the machine itself.
pub(crate) fn levels() -> Vec<TargetDesc> {
    let host = host::probe().unwrap();
    let mut levels: Vec<TargetDesc> = LEVELS.iter().map(|text| text.parse().unwrap()).collect();
    levels.retain(|level| level.arch == host.arch && level.missing_on(&host).is_empty());
    assert!(!levels.is_empty(), "not even the floor runs here");
    levels.push(host);
    levels
}

/// Everything that this machine can run, without those that find that a blocking which is not theirs does not fit.
pub(crate) fn fitting(kernel: &Kernel, blocked_for: Registers) -> Vec<Backend> {
    let refused = |b: &Backend| matches!(b.compile(kernel), Err(CodegenError::Registers { .. }));
    backends().into_iter().filter(|b| b.registers() == blocked_for || !refused(b)).collect()
}

/// How the bytes of a buffer are compared. NaN equals NaN; everything else is compared by bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elements {
    /// No byte may differ.
    Bits,
    /// f32, from the start of the buffer.
    F32,
    /// f16, from the start of the buffer.
    F16,
}

/// A kernel with its arguments.
pub(crate) struct Case {
    pub(crate) kernel: Kernel,
    pub(crate) memory: Memory,
    pub(crate) args: Vec<Arg>,
    /// How buffers are compared; by bits unless named.
    pub(crate) elements: Vec<(RegionId, Elements)>,
}

/// Compares the interpreter with every level, by bits. Returns the memory after the run.
pub(crate) fn check(kernel: &Kernel, memory: &Memory, args: &[Arg]) -> Memory {
    check_case(&Case {
        kernel: kernel.clone(),
        memory: memory.clone(),
        args: args.to_vec(),
        elements: Vec::new(),
    })
}

/// Compares the interpreter with every backend. Returns the memory after the run.
pub(crate) fn check_case(case: &Case) -> Memory {
    check_on(case, &backends())
}

/// Compares the interpreter with these backends. Returns the memory after the run.
pub(crate) fn check_on(case: &Case, backends: &[Backend]) -> Memory {
    let mut expected = case.memory.clone();
    interp::run(&case.kernel, &mut expected, &case.args).unwrap_or_else(|e| panic!("{e}\n{}", case.kernel));
    for backend in backends {
        let image = load_on(&case.kernel, backend);
        let found = run_native(&image, &case.memory, &case.args);
        for (region, _) in expected.regions() {
            let how =
                case.elements.iter().find(|(r, _)| *r == region).map_or(Elements::Bits, |(_, how)| *how);
            if let Some(at) = first_difference(expected.bytes(region), found.bytes(region), how) {
                let start = at & !3;
                let show =
                    |m: &Memory| m.bytes(region).iter().copied().skip(start).take(16).collect::<Vec<u8>>();
                panic!(
                    "{backend}: buffer {} differs at byte {at}: interpreter {:02x?}, native {:02x?}\n{}",
                    region.index(),
                    show(&expected),
                    show(&found),
                    case.kernel
                );
            }
        }
    }
    expected
}

/// The byte at which two buffers first differ.
fn first_difference(a: &[u8], b: &[u8], how: Elements) -> Option<usize> {
    assert_eq!(a.len(), b.len());
    if a == b {
        return None;
    }
    let size = match how {
        Elements::Bits => 1,
        Elements::F32 => 4,
        Elements::F16 => 2,
    };
    let both_nan = |x: &[u8], y: &[u8]| match (how, x.len() == size) {
        (Elements::F32, true) => [x, y].iter().all(|e| f32::from_le_bytes([e[0], e[1], e[2], e[3]]).is_nan()),
        (Elements::F16, true) => [x, y].iter().all(|e| f16::from_le_bytes([e[0], e[1]]).is_nan()),
        _ => false,
    };
    a.chunks(size).zip(b.chunks(size)).position(|(x, y)| x != y && !both_nan(x, y)).map(|i| i * size)
}

/// One kernel, compiled for `level` by Cranelift and made executable.
pub(crate) fn load(kernel: &Kernel, level: &TargetDesc) -> Image {
    load_on(kernel, &Backend::new(Selector::Cranelift, level.clone()))
}

/// One kernel, compiled and made executable.
pub(crate) fn load_on(kernel: &Kernel, backend: &Backend) -> Image {
    let code = backend.compile(kernel).unwrap_or_else(|e| panic!("{backend}: {e}\n{kernel}"));
    let mut builder = ImageBuilder::new(&backend.target).unwrap();
    builder.define(&kernel.name, &code).unwrap();
    builder.finish().unwrap()
}

/// Runs the first kernel of `image` on copies of the buffers and returns what they hold afterwards.
///
/// The arguments must be such that the interpreter runs the kernel without a fault.
pub(crate) fn run_native(image: &Image, memory: &Memory, args: &[Arg]) -> Memory {
    let buffers: Vec<_> =
        memory.regions().map(|(region, _)| GuardedBuffer::new(memory.bytes(region))).collect();
    let words: Vec<u64> = args
        .iter()
        .map(|arg| match *arg {
            Arg::Ptr(region, offset) => buffers[region.index()].start() as u64 + offset as u64,
            Arg::Int(n) => n as u64,
        })
        .collect();
    let entry = image.entry(0);
    // SAFETY: `entry` outlives the call. The interpreter has run this kernel with the same arguments on buffers of the
    // same sizes and found every access in bounds; the buffers here are not shared with anybody.
    unsafe { entry.function()(words.as_ptr()) };
    let mut after = memory.clone();
    for ((region, _), buffer) in memory.regions().zip(&buffers) {
        assert!(buffer.canaries_are_intact(), "the kernel wrote in front of buffer {}", region.index());
        after.bytes_mut(region).copy_from_slice(buffer.bytes());
    }
    after
}

const CANARY: u8 = 0xa5;

#[cfg(unix)]
mod pages {
    use std::ptr::null_mut;

    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    use super::CANARY;

    const PAGE: usize = 64 << 10;

    /// Bytes that end at an inaccessible page.
    pub(crate) struct GuardedBuffer {
        map: *mut u8,
        accessible: usize,
        len: usize,
    }

    impl GuardedBuffer {
        pub(crate) fn new(bytes: &[u8]) -> Self {
            let accessible = bytes.len().next_multiple_of(PAGE) + PAGE;
            // SAFETY: A fresh private anonymous mapping at an address of the system's choice; its last page, inside of
            // the mapping, is made inaccessible, and the rest is filled before anybody else knows it.
            unsafe {
                let map = mmap_anonymous(
                    null_mut(),
                    accessible + PAGE,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE,
                )
                .unwrap()
                .cast::<u8>();
                mprotect(map.add(accessible).cast(), PAGE, MprotectFlags::empty()).unwrap();
                map.write_bytes(CANARY, accessible);
                map.add(accessible - bytes.len()).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                Self { map, accessible, len: bytes.len() }
            }
        }

        pub(crate) fn start(&self) -> *mut u8 {
            self.map.wrapping_add(self.accessible - self.len)
        }

        fn all(&self) -> &[u8] {
            // SAFETY: The accessible part of the mapping, initialised by `new`; kernels that store there have returned.
            unsafe { std::slice::from_raw_parts(self.map, self.accessible) }
        }

        pub(crate) fn bytes(&self) -> &[u8] {
            &self.all()[self.accessible - self.len..]
        }

        pub(crate) fn canaries_are_intact(&self) -> bool {
            self.all()[..self.accessible - self.len].iter().all(|&b| b == CANARY)
        }
    }

    impl Drop for GuardedBuffer {
        fn drop(&mut self) {
            // SAFETY: The mapping that `new` made, of this length; nothing borrows from it any more.
            unsafe { munmap(self.map.cast(), self.accessible + PAGE) }.unwrap();
        }
    }
}

#[cfg(not(unix))]
mod pages {
    use super::CANARY;

    const MARGIN: usize = 256;

    /// Bytes between canaries.
    pub(crate) struct GuardedBuffer {
        all: Box<[u8]>,
        len: usize,
    }

    impl GuardedBuffer {
        pub(crate) fn new(bytes: &[u8]) -> Self {
            let mut all = vec![CANARY; bytes.len() + 2 * MARGIN].into_boxed_slice();
            all[MARGIN..MARGIN + bytes.len()].copy_from_slice(bytes);
            Self { all, len: bytes.len() }
        }

        pub(crate) fn start(&self) -> *mut u8 {
            self.all.as_ptr().wrapping_add(MARGIN).cast_mut()
        }

        pub(crate) fn bytes(&self) -> &[u8] {
            &self.all[MARGIN..MARGIN + self.len]
        }

        pub(crate) fn canaries_are_intact(&self) -> bool {
            let (front, rest) = self.all.split_at(MARGIN);
            front.iter().chain(&rest[self.len..]).all(|&b| b == CANARY)
        }
    }
}

pub(crate) use pages::GuardedBuffer;

/// A small deterministic generator (SplitMix64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A finite f32 of moderate size.
    pub(crate) fn float(&mut self) -> f32 {
        let bits = self.next() as u32;
        f32::from_bits((bits & 0x807f_ffff) | ((100 + (bits >> 23) % 50) << 23))
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// f32 that break things.
pub(crate) const FLOATS: &[f32] = &[
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    -2.5,
    127.5,
    -128.5,
    8388607.5,
    16777217.0,
    2147483520.0,
    2147483648.0,
    -2147483648.0,
    -2147483904.0,
    65504.0,
    65519.996,
    65520.0,
    6.1035156e-5,
    5.9604645e-8,
    2.9802322e-8,
    1e-45,
    -1e-45,
    f32::from_bits(0x007f_ffff),
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    f32::from_bits(0x7f80_0001),
    f32::from_bits(0xffff_ffff),
];

/// i32 that break things.
pub(crate) const INTS: &[i32] = &[
    0,
    1,
    -1,
    2,
    127,
    128,
    -128,
    -129,
    255,
    256,
    32767,
    -32768,
    65536,
    i32::MAX,
    i32::MIN,
    i32::MIN + 1,
    0x0103_0201,
];
