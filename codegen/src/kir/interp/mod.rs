//! Interpreter: what a kernel means, slowly, with every access checked.
//!
//! A kernel runs over a [`Memory`] of separate buffers. An address is a number, so pointer arithmetic is ordinary
//! arithmetic; buffers are so far apart (2^40 bytes) that an access outside of the buffer that a pointer was made for is
//! an error unless the offset was wrong by terabytes. Contracts that the selectors rely on (masks, `u_max`, `finite`) are checked too.
//!
//! This module is the definition that the selectors are tested against; it shares no code with them.

mod eval;
mod tiles;

use std::fmt;

use super::kernel::{Access, Block, Kernel, ParamKind, Stmt};
use super::types::{LANES, TILE_ROWS, TILES, VECTOR_BYTES, Value};
use super::verify::{VerifyError, verify};

/// A buffer of a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionId(u32);

impl RegionId {
    /// Position of the buffer, in the order in which they were added.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Region {
    bytes: Vec<u8>,
    access: Access,
}

/// The buffers that a kernel may touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    regions: Vec<Region>,
}

/// Distance of the addresses of neighbouring buffers; no buffer is longer.
const REGION_SPAN: i64 = 1 << 40;

impl Memory {
    /// No buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a buffer.
    pub fn add(&mut self, bytes: Vec<u8>, access: Access) -> RegionId {
        self.regions.push(Region { bytes, access });
        RegionId(self.regions.len() as u32 - 1)
    }

    /// Adds a buffer of f32, little endian.
    pub fn add_f32(&mut self, values: &[f32], access: Access) -> RegionId {
        self.add(values.iter().flat_map(|x| x.to_le_bytes()).collect(), access)
    }

    /// All buffers, in the order in which they were added.
    pub fn regions(&self) -> impl Iterator<Item = (RegionId, Access)> + '_ {
        self.regions.iter().enumerate().map(|(i, r)| (RegionId(i as u32), r.access))
    }

    /// The bytes of a buffer.
    ///
    /// # Panics
    /// If `region` belongs to another memory that has more buffers.
    pub fn bytes(&self, region: RegionId) -> &[u8] {
        &self.regions[region.index()].bytes
    }

    /// The bytes of a buffer, to be changed between runs.
    ///
    /// # Panics
    /// If `region` belongs to another memory that has more buffers.
    pub fn bytes_mut(&mut self, region: RegionId) -> &mut [u8] {
        &mut self.regions[region.index()].bytes
    }

    /// The buffer read as f32, little endian; a rest of less than four bytes is dropped.
    ///
    /// # Panics
    /// If `region` belongs to another memory that has more buffers.
    pub fn f32s(&self, region: RegionId) -> Vec<f32> {
        self.bytes(region).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// Where `len` bytes at `address` are.
    fn locate(&self, address: i64, len: usize) -> Result<(usize, usize), Fault> {
        let region = usize::try_from(address / REGION_SPAN).unwrap_or(0);
        let offset = address.rem_euclid(REGION_SPAN) as usize;
        // Region numbers in addresses start at 1, so that small numbers are no addresses; what lies below the start of
        // a buffer is in the upper half of its lower neighbour's span.
        let known = region.checked_sub(1).and_then(|r| self.regions.get(r).map(|found| (r, found)));
        match known {
            Some((r, found)) if offset + len <= found.bytes.len() => Ok((r, offset)),
            _ => Err(Fault::OutOfBounds { address: self.describe(address), len }),
        }
    }

    fn describe(&self, address: i64) -> String {
        let nearest = (i128::from(address) + i128::from(REGION_SPAN) / 2) / i128::from(REGION_SPAN);
        match usize::try_from(nearest - 1).ok().and_then(|r| self.regions.get(r).map(|found| (r, found))) {
            Some((r, found)) => {
                let offset = i128::from(address) - nearest * i128::from(REGION_SPAN);
                format!("buffer {r} (of {} bytes) at offset {offset}", found.bytes.len())
            }
            None => format!("address {address:#x}, which is in no buffer"),
        }
    }

    fn load(&self, address: i64, len: usize) -> Result<&[u8], Fault> {
        let (region, offset) = self.locate(address, len)?;
        Ok(&self.regions[region].bytes[offset..offset + len])
    }

    fn store(&mut self, address: i64, bytes: &[u8]) -> Result<(), Fault> {
        let (region, offset) = self.locate(address, bytes.len())?;
        if self.regions[region].access == Access::ReadOnly {
            return Err(Fault::ReadOnly { address: self.describe(address) });
        }
        self.regions[region].bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// An argument word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// The address of a byte of a buffer.
    Ptr(RegionId, usize),
    /// A number.
    Int(i64),
}

/// What stopped a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A load or store outside of all buffers.
    OutOfBounds {
        /// The address, in terms of the nearest buffer.
        address: String,
        /// Bytes of the access.
        len: usize,
    },
    /// A store to a buffer that is read-only.
    ReadOnly {
        /// The address, in terms of its buffer.
        address: String,
    },
    /// A promise that the op table asks for does not hold.
    Contract(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::OutOfBounds { address, len } => write!(f, "access of {len} bytes outside of {address}"),
            Fault::ReadOnly { address } => write!(f, "store to read-only {address}"),
            Fault::Contract(what) => write!(f, "broken contract: {what}"),
        }
    }
}

/// Why a kernel did not run to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InterpError {
    /// The kernel is malformed.
    #[error(transparent)]
    Malformed(#[from] VerifyError),
    /// The arguments are not those that the parameters ask for.
    #[error("kernel `{kernel}`: {problem}")]
    Arguments {
        /// The kernel's name.
        kernel: String,
        /// What does not fit.
        problem: String,
    },
    /// An op faulted.
    #[error("kernel `{kernel}`, `{at}`: {fault}")]
    Fault {
        /// The kernel's name.
        kernel: String,
        /// The op as printed.
        at: String,
        /// What happened.
        fault: Fault,
    },
}

/// A runtime value.
#[derive(Clone, Copy, Debug)]
enum Datum {
    Int(i64),
    Vector([u32; LANES]),
}

/// Runs a kernel to its end.
pub fn run(kernel: &Kernel, memory: &mut Memory, args: &[Arg]) -> Result<(), InterpError> {
    verify(kernel)?;
    let wrong = |problem: String| InterpError::Arguments { kernel: kernel.name.clone(), problem };
    if args.len() != kernel.params.len() {
        return Err(wrong(format!("{} arguments for {} parameters", args.len(), kernel.params.len())));
    }
    let data = vec![Datum::Int(0); kernel.types.len()];
    let mut machine = Machine { kernel, memory, data, tiles: None };
    for (param, arg) in kernel.params.iter().zip(args) {
        let word = match (param.kind, *arg) {
            (ParamKind::Int, Arg::Int(n)) => n,
            (ParamKind::Ptr(access), Arg::Ptr(region, offset)) => {
                let Some(found) = machine.memory.regions.get(region.index()) else {
                    return Err(wrong(format!("`{}` points into a buffer that does not exist", param.name)));
                };
                if offset > found.bytes.len() {
                    return Err(wrong(format!("`{}` starts past the end of its buffer", param.name)));
                }
                if access == Access::ReadWrite && found.access == Access::ReadOnly {
                    return Err(wrong(format!("`{}` is readwrite, its buffer is read-only", param.name)));
                }
                (i64::from(region.0) + 1) * REGION_SPAN + offset as i64
            }
            _ => return Err(wrong(format!("`{}` wants {}, got {arg:?}", param.name, param.kind))),
        };
        machine.data[param.value.index()] = Datum::Int(word);
    }
    machine.block(&kernel.body)
}

struct Machine<'a> {
    kernel: &'a Kernel,
    memory: &'a mut Memory,
    data: Vec<Datum>,
    /// The tile registers, while they are configured.
    tiles: Option<Tiles>,
}

/// The tile registers.
struct Tiles {
    /// Rows of the tiles 0 to 5.
    rows: usize,
    bytes: Box<[[[u8; VECTOR_BYTES]; TILE_ROWS]; TILES]>,
}

impl Machine<'_> {
    fn int(&self, value: Value) -> i64 {
        match self.data[value.index()] {
            Datum::Int(n) => n,
            Datum::Vector(lanes) => i64::from(lanes[0]),
        }
    }

    fn vector(&self, value: Value) -> [u32; LANES] {
        match self.data[value.index()] {
            Datum::Vector(lanes) => lanes,
            Datum::Int(n) => [n as u32; LANES],
        }
    }

    fn block(&mut self, block: &Block) -> Result<(), InterpError> {
        for stmt in &block.stmts {
            match stmt {
                Stmt::Op { result, op } => {
                    let datum = eval::eval(self, op).map_err(|fault| InterpError::Fault {
                        kernel: self.kernel.name.clone(),
                        at: super::print::headline(self.kernel, stmt),
                        fault,
                    })?;
                    if let (Some(result), Some(datum)) = (result, datum) {
                        self.data[result.index()] = datum;
                    }
                }
                Stmt::Loop(l) => {
                    let (hi, mut index) = (self.int(l.hi), Some(self.int(l.lo)));
                    let mut state: Vec<_> = l.carries.iter().map(|c| self.data[c.init.index()]).collect();
                    while let Some(i) = index.filter(|&i| i < hi) {
                        self.data[l.index.index()] = Datum::Int(i);
                        for (carry, datum) in l.carries.iter().zip(&state) {
                            self.data[carry.param.index()] = *datum;
                        }
                        self.block(&l.body)?;
                        state = l.body.yields.iter().map(|v| self.data[v.index()]).collect();
                        index = i.checked_add(l.step);
                        if index.is_none() {
                            return Err(InterpError::Fault {
                                kernel: self.kernel.name.clone(),
                                at: super::print::headline(self.kernel, stmt),
                                fault: Fault::Contract("the counter leaves 64 bits".to_owned()),
                            });
                        }
                    }
                    for (carry, datum) in l.carries.iter().zip(&state) {
                        self.data[carry.result.index()] = *datum;
                    }
                }
                Stmt::If(i) => {
                    let taken =
                        if i.cond.holds(self.int(i.a), self.int(i.b)) { &i.then } else { &i.otherwise };
                    self.block(taken)?;
                    for (result, value) in i.results.iter().zip(&taken.yields) {
                        self.data[result.index()] = self.data[value.index()];
                    }
                }
            }
        }
        Ok(())
    }
}
