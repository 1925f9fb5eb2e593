//! The machine's own limits, measured with the means of a [`crate::machine::Machine`]: how fast its threads read memory, and how many
//! multiply-adds of bytes and of f32 they can do.
//!
//! The kernels are generated and compiled as those of a model ([`bitnetc_codegen::kernels::roofline`]), called through
//! the same binding and run by teams like those of sessions, so a figure holds for the code and the threads that it is
//! compared with. A measurement is several passes; it has a median, which stands for what can be had, and a best one.
//!
//! Invariants: the buffer that is read is larger than the last-level cache unless asked otherwise; every page of it has
//! been written, so that pages are its own and not one page of zeros; each thread reads one contiguous range.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnetc_codegen::compile::{CompileError, RooflineCode, compile_roofline};
use bitnetc_codegen::host;
use bitnetc_codegen::image::KernelEntry;
use bitnetc_codegen::kernels::KernelIndex;
use bitnetc_codegen::kernels::roofline::{READ_UNIT_BYTES, RooflineKind};
use bitnetc_codegen::program::{Program, Step, Word};
use bitnetc_ir::partition::Per;
use bitnetc_ir::{Entity, TargetDesc, TokenCount, Units};
use rayon::prelude::*;

use crate::error::SessionError;
use crate::machine::binding::{Binding, Input, Interface};
use crate::machine::buffer;
use crate::machine::call::{BoundPrograms, Crew};
use crate::machine::memory::{Sizes, WorkMemory};
use crate::machine::team::{Job, Team};
use crate::map::AlignedBuffer;
use crate::memory::Memory;

/// Ways to read that are tried; the fastest one counts.
const READS: [RooflineKind; 5] = [
    RooflineKind::Read { sequences: 1, prefetch: 0, level: 1 },
    RooflineKind::Read { sequences: 1, prefetch: 2048, level: 1 },
    RooflineKind::Read { sequences: 1, prefetch: 8192, level: 2 },
    RooflineKind::Read { sequences: 4, prefetch: 0, level: 1 },
    RooflineKind::Read { sequences: 4, prefetch: 2048, level: 1 },
];
/// Where the other kernels stand after [`READS`].
const INT8: usize = READS.len();
/// See [`INT8`].
const FMA: usize = INT8 + 1;

/// Time that a pass of multiply-adds takes at least.
const PEAK_PASS: Duration = Duration::from_millis(5);

/// Bytes of results for each thread.
const SINK_BYTES: u64 = 64;

/// Why limits could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RooflineError {
    /// A kernel could not be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Memory or threads could not be had.
    #[error(transparent)]
    Resources(#[from] SessionError),
}

/// What several passes gave, in bytes or multiply-adds per second over all threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// One figure for each pass, in the order of the passes; at least one.
    pub samples: Vec<f64>,
}

impl Rate {
    /// The middle one (the upper of two).
    pub fn median(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }
    /// The greatest.
    pub fn best(&self) -> f64 {
        self.samples.iter().copied().fold(0.0, f64::max)
    }
}

/// Code and memory for measuring, and a team for each thread count that was asked for.
pub struct Roofline {
    shared: Arc<Shared>,
    teams: Vec<Threads>,
}

struct Shared {
    code: Vec<RooflineCode>,
    data: AlignedBuffer,
    /// Units of the buffer.
    units: u32,
}

struct Threads {
    count: u32,
    team: Team<BoundPrograms<Arc<Shared>>>,
    /// Where the kernels write.
    _memory: WorkMemory,
    /// The fastest of [`READS`], once it is known.
    read: Option<usize>,
    /// Units that take [`PEAK_PASS`], once known, of [`INT8`] and of [`FMA`].
    peak_units: [Option<u32>; 2],
}

impl std::fmt::Debug for Roofline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roofline").field("buffer_bytes", &self.buffer_bytes()).finish_non_exhaustive()
    }
}

/// Bytes that the bandwidth is measured over unless asked otherwise: four times the last-level cache and at least 1 GiB, but
/// at most a quarter of the memory that is free (where the system says how much that is).
pub fn default_buffer_bytes() -> u64 {
    let wanted = host::last_cache_bytes().map_or(0, |bytes| 4 * u64::from(bytes)).max(1 << 30);
    match Memory::probe().available {
        Some(free) => wanted.min(free / 4),
        None => wanted,
    }
}

impl Roofline {
    /// Compiles the kernels for `target` and takes a buffer of `buffer_bytes` (rounded up to 64 KiB for each thread that
    /// the machine has).
    ///
    /// # Errors
    /// Code cannot be generated, or memory could not be allocated.
    pub fn new(target: &TargetDesc, buffer_bytes: u64) -> Result<Self, RooflineError> {
        let kinds: Vec<RooflineKind> =
            READS.into_iter().chain([RooflineKind::Int8, RooflineKind::Fma]).collect();
        let code = compile_roofline(&kinds, target)?;
        let unit = READ_UNIT_BYTES * u64::from(target.threads.max(1));
        let bytes = buffer_bytes.clamp(unit, 1 << 44).next_multiple_of(unit);
        let mut data = buffer("bandwidth measurement", bytes)?;
        let chunks = data.as_mut_slice().par_chunks_mut(2 << 20);
        bitnetc_threads::install(|| chunks.for_each(|chunk| chunk.fill(1)));
        let units = u32::try_from(bytes / READ_UNIT_BYTES).unwrap_or(u32::MAX);
        Ok(Self { shared: Arc::new(Shared { code, data, units }), teams: Vec::new() })
    }

    /// Bytes that a pass over the buffer reads.
    pub fn buffer_bytes(&self) -> u64 {
        u64::from(self.shared.units) * READ_UNIT_BYTES
    }

    /// Bytes per second that `threads` threads read together, in `passes` passes over the buffer.
    ///
    /// # Errors
    /// Threads that cannot be started.
    pub fn bandwidth(&mut self, threads: u32, passes: u32) -> Result<Rate, RooflineError> {
        let units = self.shared.units;
        let bytes = self.buffer_bytes() as f64;
        let threads = self.threads(threads)?;
        let read = match threads.read {
            Some(read) => read,
            None => threads.fastest_read(units),
        };
        let samples = (0..passes.max(1)).map(|_| bytes / threads.run(read, units).as_secs_f64()).collect();
        Ok(Rate { samples })
    }

    /// Multiply-adds of bytes per second that `threads` threads do together.
    ///
    /// # Errors
    /// Threads that cannot be started.
    pub fn int8_peak(&mut self, threads: u32, passes: u32) -> Result<Rate, RooflineError> {
        self.peak(threads, passes, INT8)
    }

    /// Fused multiply-adds of f32 per second that `threads` threads do together.
    ///
    /// # Errors
    /// Threads that cannot be started.
    pub fn fma_peak(&mut self, threads: u32, passes: u32) -> Result<Rate, RooflineError> {
        self.peak(threads, passes, FMA)
    }

    fn peak(&mut self, threads: u32, passes: u32, kernel: usize) -> Result<Rate, RooflineError> {
        let code = &self.shared.code[kernel];
        let work = code.kind.work_per_unit(code.registers);
        let threads = self.threads(threads)?;
        let units = match threads.peak_units[kernel - INT8] {
            Some(units) => units,
            None => {
                // Grows until a pass is long enough for the clock and for the hand-over not to matter.
                let mut units = threads.count;
                while threads.run(kernel, units) < PEAK_PASS && units < 1 << 28 {
                    units *= 2;
                }
                threads.peak_units[kernel - INT8] = Some(units);
                units
            }
        };
        let total = work as f64 * f64::from(units);
        let samples = (0..passes.max(1)).map(|_| total / threads.run(kernel, units).as_secs_f64()).collect();
        Ok(Rate { samples })
    }

    fn threads(&mut self, count: u32) -> Result<&mut Threads, RooflineError> {
        let count = count.max(1);
        let at = match self.teams.iter().position(|t| t.count == count) {
            Some(at) => at,
            None => {
                let threads = Threads::new(&self.shared, count)?;
                self.teams.push(threads);
                self.teams.len() - 1
            }
        };
        Ok(&mut self.teams[at])
    }
}

impl Threads {
    fn new(shared: &Arc<Shared>, count: u32) -> Result<Self, RooflineError> {
        let programs: Vec<Program> = (0..shared.code.len()).map(|i| program(i, &shared.code[i])).collect();
        let entries: Vec<KernelEntry> = shared.code.iter().map(|c| c.entry.clone()).collect();
        let sizes = Sizes { scratch: SINK_BYTES, ..Sizes::default() };
        let memory = WorkMemory::new(sizes, count, std::iter::empty(), 0)?;
        let data = Interface { inputs: vec![Input::Buffer(shared.data.address())], outputs: Vec::new() };
        let binding = Binding {
            memory: &memory,
            weights: Vec::new(),
            interfaces: vec![data; programs.len()],
            caches: 0,
            capacity: 0,
        };
        let crew = Crew { threads: count, segments: 1, recorder: None };
        let bound = BoundPrograms::bind(&programs, &entries, &binding, crew, Arc::clone(shared));
        let team = Team::new(Arc::new(bound), count)?;
        Ok(Self { count, team, _memory: memory, read: None, peak_units: [None; 2] })
    }

    /// The fastest of the ways to read: the one with the best of three passes, taken in turns. It is kept.
    fn fastest_read(&mut self, units: u32) -> usize {
        let mut best = [Duration::MAX; READS.len()];
        for _ in 0..3 {
            for (kernel, best) in best.iter_mut().enumerate() {
                *best = (*best).min(self.run(kernel, units));
            }
        }
        let fastest = (0..READS.len()).min_by_key(|&i| best[i]).unwrap_or(0);
        self.read = Some(fastest);
        fastest
    }

    /// Runs a kernel over this number of units on all threads together.
    fn run(&mut self, kernel: usize, units: u32) -> Duration {
        let clock = Instant::now();
        self.team.run(Job { program: kernel as u32, tokens: units, ..Job::default() });
        clock.elapsed().max(Duration::from_nanos(1))
    }
}

/// A program of one call whose units are the job's tokens.
fn program(index: usize, code: &RooflineCode) -> Program {
    let step = Step {
        mnemonic: "roofline",
        node: None,
        kernel: KernelIndex::from_index(index),
        words: vec![Word::Input { index: 0, offset: 0 }, Word::Scratch, Word::UnitBegin, Word::UnitEnd],
        row_strides: vec![0; 4],
        units: Units { count: 1, per: Per::Token },
        replicated: false,
        barrier: false,
        positional: false,
    };
    Program {
        name: code.kind.name(),
        tokens: TokenCount::UpTo(u32::MAX),
        arena_bytes: 0,
        private_bytes: 0,
        inputs: Vec::new(),
        outputs: Vec::new(),
        steps: vec![step],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_measured_by_any_number_of_threads() {
        let target = host::probe().unwrap();
        let mut roofline = Roofline::new(&target, 1 << 20).unwrap();
        assert!(roofline.buffer_bytes() >= 1 << 20);
        for threads in [1, 2, 3] {
            for rate in [
                roofline.bandwidth(threads, 3).unwrap(),
                roofline.int8_peak(threads, 3).unwrap(),
                roofline.fma_peak(threads, 3).unwrap(),
            ] {
                assert_eq!(rate.samples.len(), 3);
                // Slower than any machine that runs this, and faster than any.
                assert!(rate.samples.iter().all(|&r| r > 1e6 && r < 1e16), "{rate:?}");
                assert!(rate.median() <= rate.best());
            }
        }
    }

    #[test]
    fn the_middle_sample_is_the_median() {
        let rate = |samples: &[f64]| Rate { samples: samples.to_vec() };
        assert_eq!(rate(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(rate(&[4.0, 1.0]).median(), 4.0);
        assert_eq!(rate(&[3.0, 1.0, 2.0]).best(), 3.0);
    }

    #[test]
    fn a_measurement_takes_no_more_memory_than_is_free() {
        assert!(default_buffer_bytes() > 0);
    }
}
