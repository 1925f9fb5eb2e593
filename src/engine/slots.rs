//! The state of the sequences, for other threads while a step is under way.
//!
//! The thread that steps the scheduler publishes the state of each seat before and after a step. Readers and the writer never wait
//! for each other: the numbers of a seat are atomics, and a version that is odd while they are written makes a reader try again
//! (a sequence lock).

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

/// Number of a sequence of an engine, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatIndex(pub u32);

/// Number of a request, in the order in which an engine was given them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskIndex(pub u64);

/// A request that has a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskState {
    /// Which one.
    pub task: TaskIndex,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens that were not computed.
    pub cached_tokens: u32,
    /// Tokens that it has made.
    pub decoded_tokens: u32,
    /// How long it has had the sequence.
    pub age: Duration,
}

/// What a sequence holds and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// Which one.
    pub seat: SeatIndex,
    /// Tokens that it has room for.
    pub context: u32,
    /// Tokens that it holds, of its request or of the one before.
    pub tokens: u32,
    /// Its request; `None` if it is free.
    pub task: Option<TaskState>,
}

impl SlotState {
    /// Whether a request has the sequence.
    pub fn is_processing(&self) -> bool {
        self.task.is_some()
    }
}

/// Stands for a seat without a request.
const FREE: u64 = u64::MAX;

/// The numbers of a seat: its tokens, its task or [`FREE`], and those of the task; the last one is the time when it began, in
/// microseconds.
const NUMBERS: usize = 6;

#[derive(Debug, Default)]
struct Cell {
    version: AtomicU64,
    numbers: [AtomicU64; NUMBERS],
}

/// What the scheduler tells of a seat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) tokens: usize,
    pub(super) task: Option<ToldTask>,
}

/// What the scheduler tells of the request in a seat.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToldTask {
    pub(super) arrival: u64,
    pub(super) prompt_tokens: usize,
    pub(super) cached_tokens: usize,
    pub(super) decoded_tokens: usize,
    pub(super) began: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Board {
    epoch: Instant,
    context: u32,
    cells: Box<[Cell]>,
}

impl Board {
    pub(super) fn new(seats: usize, context: u32) -> Self {
        let cells: Box<[Cell]> = (0..seats).map(|_| Cell::default()).collect();
        cells.iter().for_each(|cell| cell.numbers[1].store(FREE, Ordering::Relaxed));
        Self { epoch: Instant::now(), context, cells }
    }

    /// Writes down what a seat is doing. Called by one thread only.
    pub(super) fn tell(&self, seat: usize, told: Told) {
        let Some(cell) = self.cells.get(seat) else { return };
        let numbers = match told.task {
            None => [told.tokens as u64, FREE, 0, 0, 0, 0],
            Some(task) => [
                told.tokens as u64,
                task.arrival,
                task.prompt_tokens as u64,
                task.cached_tokens as u64,
                task.decoded_tokens as u64,
                task.began.saturating_duration_since(self.epoch).as_micros() as u64,
            ],
        };
        let version = cell.version.load(Ordering::Relaxed);
        cell.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (to, number) in cell.numbers.iter().zip(numbers) {
            to.store(number, Ordering::Relaxed);
        }
        cell.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// What all seats are doing.
    pub(super) fn read(&self) -> Vec<SlotState> {
        (0..).zip(&self.cells).map(|(seat, cell)| self.state(SeatIndex(seat), cell.read())).collect()
    }

    fn state(&self, seat: SeatIndex, numbers: [u64; NUMBERS]) -> SlotState {
        let [tokens, task, prompt, cached, decoded, began] = numbers;
        let task = (task != FREE).then(|| TaskState {
            task: TaskIndex(task),
            prompt_tokens: prompt as u32,
            cached_tokens: cached as u32,
            decoded_tokens: decoded as u32,
            age: self.epoch.elapsed().saturating_sub(Duration::from_micros(began)),
        });
        SlotState { seat, context: self.context, tokens: tokens as u32, task }
    }
}

impl Cell {
    /// The numbers of one moment.
    fn read(&self) -> [u64; NUMBERS] {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let numbers = std::array::from_fn(|at| self.numbers[at].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return numbers;
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_seat_are_of_one_moment() {
        let board = Board::new(2, 4096);
        let began = Instant::now();
        let told = |n: usize| Told {
            tokens: n,
            task: Some(ToldTask {
                arrival: n as u64,
                prompt_tokens: n,
                cached_tokens: n,
                decoded_tokens: n,
                began,
            }),
        };
        assert!(board.read().iter().all(|slot| !slot.is_processing() && slot.context == 4096));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100_000).for_each(|n| board.tell(1, told(n))));
            let mut last = 0;
            while last < 99_999 {
                let slot = board.read()[1];
                let Some(task) = slot.task else { continue };
                let all = [task.task.0 as u32, task.prompt_tokens, task.cached_tokens, task.decoded_tokens];
                assert_eq!(all, [slot.tokens; 4]);
                assert!(slot.tokens >= last);
                last = slot.tokens;
            }
        });
        board.tell(1, Told { tokens: 7, task: None });
        let slots = board.read();
        assert_eq!((slots[1].seat, slots[1].tokens, slots[1].task), (SeatIndex(1), 7, None));
    }
}
