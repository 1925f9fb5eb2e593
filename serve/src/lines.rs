//! Notes and the request log are written by a separate thread, so that a slow terminal, or a pipe that is not read, delays no request.
//!
//! Invariants: submitting a line never blocks; lines are written in the order in which they were submitted; lines for which there is no
//! room are dropped, and a line reports how many.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::Note;

/// Lines that wait to be written, and their bytes.
const ROOM: usize = 4096;
const BYTES: usize = 16 << 20;

/// What the thread is given.
enum Item {
    Line(Note, String),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    items: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
    /// Bytes of the lines that wait.
    bytes: Arc<AtomicUsize>,
}

impl Lines {
    /// Starts the thread, which ends when the last sender is dropped.
    pub(crate) fn start() -> io::Result<Self> {
        let (items, given) = sync_channel(ROOM);
        let (dropped, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let (lost, held) = (Arc::clone(&dropped), Arc::clone(&bytes));
        let thread = std::thread::Builder::new().name("bitnetc-log".to_owned());
        thread.spawn(move || write(&given, &lost, &held))?;
        Ok(Self { items, dropped, bytes })
    }

    /// A sink whose lines the thread writes to `to`.
    pub(crate) fn note(&self, to: Note) -> Note {
        let Self { items, dropped, bytes } = self.clone();
        Arc::new(move |line: &str| {
            let room = |held: usize| held.checked_add(line.len()).filter(|&all| all <= BYTES);
            let has_room = bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).is_ok();
            if has_room && items.try_send(Item::Line(Arc::clone(&to), line.to_owned())).is_ok() {
                return;
            }
            if has_room {
                bytes.fetch_sub(line.len(), Ordering::SeqCst);
            }
            dropped.fetch_add(1, Ordering::SeqCst);
        })
    }

    /// Waits until all submitted lines are written, at most `time`.
    pub(crate) fn flush(&self, time: Duration) {
        let (done, written) = sync_channel(1);
        // With no room for this either, nobody reads the lines.
        if self.items.try_send(Item::Flush(done)).is_ok() {
            let _ = written.recv_timeout(time);
        }
    }
}

fn write(items: &Receiver<Item>, dropped: &AtomicU64, bytes: &AtomicUsize) {
    for item in items {
        match item {
            Item::Line(to, line) => {
                to(&line);
                bytes.fetch_sub(line.len(), Ordering::SeqCst);
                let count = dropped.swap(0, Ordering::SeqCst);
                if count > 0 {
                    to(&format!("{count} lines were dropped here: they could not be written in time"));
                }
            }
            Item::Flush(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn lines_are_bounded_by_their_bytes() {
        let lines = Lines::start().unwrap();
        let (reads, reader) = channel::<()>();
        let reader = Mutex::new(reader);
        let note = lines.note(Arc::new(move |_: &str| {
            let _ = reader.lock().unwrap().recv();
        }));
        let long = "x".repeat(BYTES / 4);
        (0..8).for_each(|_| note(&long));
        assert_eq!((lines.bytes.load(Ordering::SeqCst), lines.dropped.load(Ordering::SeqCst)), (BYTES, 4));
        drop(reads);
        lines.flush(Duration::from_secs(20));
        assert_eq!(lines.bytes.load(Ordering::SeqCst), 0);
        note("short");
        lines.flush(Duration::from_secs(20));
        assert_eq!(lines.dropped.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn lines_that_nobody_reads_hold_nobody_up_and_are_counted() {
        let lines = Lines::start().unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        let (reads, reader) = channel::<()>();
        let (all, reader) = (Arc::clone(&written), Mutex::new(reader));
        let note = lines.note(Arc::new(move |line: &str| {
            // The first line waits for its reader.
            let _ = reader.lock().unwrap().recv();
            all.lock().unwrap().push(line.to_owned());
        }));
        // One is being written or still waits, others fill the room; three find none.
        note("0");
        let begun = std::time::Instant::now();
        while lines.dropped.load(Ordering::SeqCst) < 3 {
            note("1");
        }
        lines.flush(Duration::from_millis(10));
        assert!(begun.elapsed() < Duration::from_secs(20));
        drop(reads);
        while written.lock().unwrap().len() <= ROOM {
            std::thread::sleep(Duration::from_millis(1));
        }
        lines.flush(Duration::from_secs(20));
        let written = written.lock().unwrap();
        assert_eq!(written[..2], ["0", "3 lines were dropped here: they could not be written in time"]);
        assert!(written[2..].iter().all(|line| line == "1"), "{:?}", &written[2..]);
        assert!((ROOM + 1..=ROOM + 2).contains(&written.len()), "{}", written.len());
    }
}
