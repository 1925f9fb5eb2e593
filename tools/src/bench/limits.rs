//! The machine's limits, and how far they let a piece of work go.

use bitnetc_ir::work::Work;

/// What bounds a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Reading its bytes.
    Bandwidth,
    /// Its multiply-adds, at the rate of int8.
    Int8,
}

impl LimitKind {
    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            LimitKind::Bandwidth => "bandwidth",
            LimitKind::Int8 => "int8",
        }
    }
}

/// What a number of threads can do at most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes read per second.
    pub bandwidth: f64,
    /// Multiply-adds of int8 per second.
    pub int8: f64,
}

impl Limits {
    /// The greater of each.
    pub fn max(self, other: Self) -> Self {
        Self { bandwidth: self.bandwidth.max(other.bandwidth), int8: self.int8.max(other.int8) }
    }

    /// The limit that takes longer for this work, and how long in seconds. All multiply-adds count at the rate of int8,
    /// those in f32 too: no machine does f32 faster, so this is the least time.
    pub fn least_time(self, work: &Work) -> (LimitKind, f64) {
        let read = work.bytes() as f64 / self.bandwidth;
        let multiply = work.macs() as f64 / self.int8;
        if multiply > read { (LimitKind::Int8, multiply) } else { (LimitKind::Bandwidth, read) }
    }

    /// The rate of a limit.
    pub fn rate(self, kind: LimitKind) -> f64 {
        match kind {
            LimitKind::Bandwidth => self.bandwidth,
            LimitKind::Int8 => self.int8,
        }
    }
}
