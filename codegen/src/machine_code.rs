//! Machine code of one kernel, as plain bytes: what every instruction selector yields and an image loads.
//!
//! Invariants: the bytes are position-independent and refer to nothing outside of themselves; constants, if any, follow
//! the instructions.

use std::fmt::Write as _;

use bitnetc_ir::TargetDesc;
use bitnetc_ir::target::Arch;

/// Longest code of one kernel, in bytes: twice a first-level instruction cache, far above any sensible tile.
pub const CODE_LIMIT: usize = 64 << 10;

/// The compiled form of a kernel: an `extern "C" fn(args: *const u64)` that starts at the first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineCode {
    /// What the code may use.
    pub target: TargetDesc,
    /// Instructions, then constants.
    pub bytes: Vec<u8>,
    /// Alignment that the constants need, a power of two.
    pub align: u32,
}

impl MachineCode {
    /// Instructions as text, one a line with its offset; constants are left out.
    ///
    /// Only x86-64 is disassembled; for aarch64 the bytes are shown as words. The Cranelift selector's own listing
    /// ([`crate::clif::Listing`]) is there for both.
    pub fn disassemble(&self) -> String {
        match self.target.arch {
            Arch::X86_64 => disassemble_x86(&self.bytes),
            Arch::Aarch64 => {
                let mut text = String::new();
                for (i, word) in self.bytes.as_chunks::<4>().0.iter().enumerate() {
                    // Writing to a String cannot fail.
                    let _ = writeln!(text, "{:6x}  .word {:#010x}", 4 * i, u32::from_le_bytes(*word));
                }
                text
            }
        }
    }
}

/// Decodes up to the return after which no branch leads; what follows is padding and constants.
fn disassemble_x86(bytes: &[u8]) -> String {
    use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, Instruction, NasmFormatter};

    let mut decoder = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE);
    let mut formatter = NasmFormatter::new();
    let mut instruction = Instruction::default();
    let mut furthest = 0;
    let mut text = String::new();
    let mut line = String::new();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        line.clear();
        formatter.format(&instruction, &mut line);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:6x}  {line}", instruction.ip());
        match instruction.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                furthest = furthest.max(instruction.near_branch_target());
            }
            FlowControl::Return if decoder.ip() > furthest => break,
            _ => {}
        }
    }
    text
}
