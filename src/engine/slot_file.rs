//! Sequences in files: the contents of a free sequence are saved, and restored later, possibly by a different process.
//!
//! Only the copy between a sequence and memory of its size happens on the thread that steps the scheduler, between two steps;
//! files are read, checked, hashed and written on the thread of the caller (`bitnetc_runtime::prefix` has the form of the file).
//! The salt of a sequence goes with it.

use std::path::Path;

use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::prefix::{self, Prefix, PrefixFileError, PrefixFormat};

use super::error::EngineError;
use super::request::Salt;
use super::scheduler::Scheduler;
use super::slots::SeatIndex;
use super::stepper::Stepper;

/// Why a sequence could not be saved, restored or erased. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// There is none with this number.
    #[error("there is no sequence {}: they are numbered from 0 to {}", seat.0, count.saturating_sub(1))]
    NoSuchSeat {
        /// As given.
        seat: SeatIndex,
        /// How many there are.
        count: u32,
    },
    /// A request has it.
    #[error("sequence {} is in use: wait until its request has ended", seat.0)]
    InUse {
        /// Which one.
        seat: SeatIndex,
    },
    /// It holds no tokens.
    #[error("sequence {} holds no tokens", seat.0)]
    Empty {
        /// Which one.
        seat: SeatIndex,
    },
    /// Memory for the copy could not be had.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The file could not be written, or is refused.
    #[error(transparent)]
    File(#[from] PrefixFileError),
    /// The engine is gone.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What was saved or restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedSlot {
    /// Tokens of the sequence.
    pub tokens: u32,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What a file has to fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotShape {
    format: PrefixFormat,
    context: u32,
    vocab: u32,
}

/// The sequences of an engine, for whoever saves, restores or erases them between two steps.
pub(super) trait Seats {
    /// What the sequence holds.
    fn copy_seat(&self, seat: SeatIndex) -> Result<(Prefix, Option<Salt>), SlotError>;
    /// Makes the sequence hold this and nothing else; returns its tokens.
    fn fill_seat(&mut self, seat: SeatIndex, prefix: &Prefix, salt: Option<Salt>) -> Result<u32, SlotError>;
    /// Makes the sequence hold nothing; returns how many tokens it held.
    fn erase_seat(&mut self, seat: SeatIndex) -> Result<u32, SlotError>;
}

/// Writes what was copied.
pub(super) fn write(path: &Path, prefix: &Prefix, salt: Option<Salt>) -> Result<SavedSlot, SlotError> {
    let bytes = prefix::write(path, prefix, salt.map(|Salt(tag)| tag).as_ref())?;
    Ok(SavedSlot { tokens: prefix.tokens().len() as u32, bytes })
}

/// Reads what [`write`] wrote.
pub(super) fn read(path: &Path, shape: SlotShape) -> Result<(Prefix, Option<Salt>), SlotError> {
    let SlotShape { format, context, vocab } = shape;
    let (prefix, tag) = prefix::read(path, &format, context, vocab)?;
    Ok((prefix, tag.map(Salt)))
}

impl<S: Stepper> Scheduler<S> {
    /// Saves what a free sequence holds to `path`, whole or not at all.
    ///
    /// # Errors
    /// No such sequence, one in use, one without tokens; memory that could not be had; what the system refuses.
    pub fn save(&self, seat: SeatIndex, path: &Path) -> Result<SavedSlot, SlotError> {
        let (prefix, salt) = self.copy_seat(seat)?;
        write(path, &prefix, salt)
    }

    /// Makes a free sequence hold what was saved to `path`, in the place of what it holds.
    ///
    /// # Errors
    /// No such sequence, one in use; a file that is of another model, damaged, too long or no such file.
    pub fn restore(&mut self, seat: SeatIndex, path: &Path) -> Result<SavedSlot, SlotError> {
        let (prefix, salt) = read(path, self.slot_shape())?;
        let bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        Ok(SavedSlot { tokens: self.fill_seat(seat, &prefix, salt)?, bytes })
    }

    /// Makes a free sequence forget what it holds, and the store what it keeps of the same text; returns how many tokens the
    /// sequence held.
    ///
    /// # Errors
    /// No such sequence, one in use.
    pub fn erase(&mut self, seat: SeatIndex) -> Result<u32, SlotError> {
        self.erase_seat(seat)
    }

    /// What files have to fit.
    pub(super) fn slot_shape(&self) -> SlotShape {
        let (context, vocab) = (self.stepper.context(), self.stepper.vocab());
        SlotShape { format: self.stepper.prefix_format(), context, vocab }
    }

    /// The index of a seat that is free.
    fn free_seat(&self, seat: SeatIndex) -> Result<usize, SlotError> {
        let index = seat.0 as usize;
        match self.places.get(index) {
            None => Err(SlotError::NoSuchSeat { seat, count: self.places.len() as u32 }),
            Some(Some(_)) => Err(SlotError::InUse { seat }),
            Some(None) => Ok(index),
        }
    }
}

impl<S: Stepper> Seats for Scheduler<S> {
    fn copy_seat(&self, seat: SeatIndex) -> Result<(Prefix, Option<Salt>), SlotError> {
        let of = &self.seats[self.free_seat(seat)?];
        let tokens = S::tokens(&of.sequence).len();
        if tokens == 0 {
            return Err(SlotError::Empty { seat });
        }
        Ok((self.stepper.save(&of.sequence, tokens)?, of.salt))
    }

    fn fill_seat(&mut self, seat: SeatIndex, prefix: &Prefix, salt: Option<Salt>) -> Result<u32, SlotError> {
        let index = self.free_seat(seat)?;
        self.put_away(index, 0);
        let of = &mut self.seats[index];
        S::truncate(&mut of.sequence, 0);
        of.salt = salt;
        let tokens = self.stepper.restore(prefix, &mut of.sequence, prefix.tokens().len());
        self.touch(index);
        self.publish();
        Ok(tokens as u32)
    }

    fn erase_seat(&mut self, seat: SeatIndex) -> Result<u32, SlotError> {
        let index = self.free_seat(seat)?;
        let of = &mut self.seats[index];
        let tokens = S::tokens(&of.sequence).len();
        self.store.forget(of.salt, S::tokens(&of.sequence));
        S::truncate(&mut of.sequence, 0);
        (of.salt, of.used) = (None, 0);
        self.publish();
        Ok(tokens as u32)
    }
}
