//! Writing a large file from front to end: in aligned blocks, and by a thread of its own while the rest is made.
//!
//! The bytes go to the system in whole blocks of [`FileStream::BLOCK`] that start at multiples of it, because a page cache that
//! can keep such a block as one huge page does so only if it comes in one piece, and a file of huge pages is mapped as such:
//! weights are then read without misses of the address translation. The thread that writes also makes durable what it has
//! written, a part at a time; a system left alone keeps some gigabytes in memory and starts to write when it is asked to
//! finish, and then what makes the bytes and the disk take turns.
//!
//! Invariants: the bytes of the file are those written, in order, from its start; every error of the thread comes out of a
//! later write or of [`FileStream::finish`]. At most [`FileStream::BLOCKS_AHEAD`] blocks wait to be written.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// A file being written.
#[derive(Debug)]
pub struct FileStream<'f> {
    file: &'f File,
    block: Vec<u8>,
    /// Files of less than a block need none.
    writer: Option<Writer>,
}

/// The thread that writes.
#[derive(Debug)]
struct Writer {
    blocks: SyncSender<Vec<u8>>,
    /// Blocks to be filled again.
    written: Receiver<Vec<u8>>,
    thread: JoinHandle<io::Result<()>>,
}

impl<'f> FileStream<'f> {
    /// Bytes of a block: the huge page of most systems.
    pub const BLOCK: usize = 2 << 20;
    /// Blocks that may wait while the disk is busy.
    pub const BLOCKS_AHEAD: usize = 32;
    /// Bytes after which the disk is asked to write. What is after the last of them is left to the system.
    const SYNC_BYTES: usize = 64 << 20;

    /// Starts to write at the front of `file`, which is empty.
    pub fn new(file: &'f File) -> Self {
        Self { file, block: Vec::new(), writer: None }
    }

    /// Waits until all is written. To be durable the file still has to be synced.
    ///
    /// # Errors
    /// The system could not write.
    pub fn finish(mut self) -> io::Result<()> {
        if let Some(writer) = self.writer.take() {
            writer.end()?;
        }
        (&mut &*self.file).write_all(&self.block)
    }

    /// Hands the full block over and takes an empty one.
    fn hand_over(&mut self) -> io::Result<()> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::start(self.file.try_clone()?)?,
        };
        let full = std::mem::take(&mut self.block);
        if writer.blocks.send(full).is_err() {
            // The thread ends early only after an error.
            return Err(writer.end().err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()));
        }
        self.block = writer.written.try_recv().unwrap_or_default();
        self.writer = Some(writer);
        Ok(())
    }
}

impl Write for FileStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(Self::BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == Self::BLOCK {
            self.hand_over()?;
        }
        Ok(taken)
    }

    /// Does nothing: only whole blocks are written before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for FileStream<'_> {
    /// No thread remains.
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            let _ = writer.end();
        }
    }
}

impl Writer {
    fn start(file: File) -> io::Result<Self> {
        let (blocks, full) = sync_channel(FileStream::BLOCKS_AHEAD);
        let (back, written) = sync_channel(FileStream::BLOCKS_AHEAD);
        let thread = std::thread::Builder::new().name("bitnetc-write".into());
        Ok(Self { blocks, written, thread: thread.spawn(move || write_blocks(file, &full, &back))? })
    }

    fn end(self) -> io::Result<()> {
        drop(self.blocks);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Writes blocks until there are no more, and returns them empty.
fn write_blocks(mut file: File, full: &Receiver<Vec<u8>>, back: &SyncSender<Vec<u8>>) -> io::Result<()> {
    let mut unsynced = 0;
    for mut block in full {
        file.write_all(&block)?;
        unsynced += block.len();
        if unsynced >= FileStream::SYNC_BYTES {
            unsynced = 0;
            file.sync_data()?;
        }
        block.clear();
        // Where there are enough empty ones already, or nobody to fill it, this one goes.
        let _ = back.try_send(block);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of many sizes around the block, more than the disk is asked for at once.
    #[test]
    fn the_file_is_what_was_written() {
        let sizes =
            [0, 1, 63, FileStream::BLOCK - 64, FileStream::BLOCK + 1, 5 * FileStream::BLOCK, 7, 70 << 20];
        let mut next = 0u32;
        let pieces: Vec<Vec<u8>> = sizes
            .iter()
            .map(|&size| {
                let piece = (0..size).map(|_| {
                    next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (next >> 24) as u8
                });
                piece.collect()
            })
            .collect();
        for count in 0..=pieces.len() {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            let mut stream = FileStream::new(file.as_file());
            pieces[..count].iter().for_each(|piece| stream.write_all(piece).unwrap());
            assert_eq!(stream.writer.is_some(), count > 3);
            stream.finish().unwrap();
            let mut found = Vec::new();
            io::Read::read_to_end(&mut file.reopen().unwrap(), &mut found).unwrap();
            assert!(found == pieces[..count].concat(), "{count} pieces");
            io::Write::flush(&mut file).unwrap();
        }
    }

    /// What cannot be written is reported, by a write or at the end, and a dropped stream ends its thread.
    #[test]
    fn errors_come_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read_only = File::open(file.path()).unwrap();
        let mut stream = FileStream::new(&read_only);
        stream.write_all(&[1; 100]).unwrap();
        assert!(stream.finish().is_err());
        let mut stream = FileStream::new(&read_only);
        let block = vec![1; FileStream::BLOCK];
        stream.write_all(&block).unwrap();
        assert!(stream.finish().is_err());
        let mut stream = FileStream::new(&read_only);
        // More than may wait, so some write meets the thread that has ended.
        let written = (0..2 * FileStream::BLOCKS_AHEAD + 3).try_for_each(|_| stream.write_all(&block));
        assert!(written.is_err());
        let mut stream = FileStream::new(file.as_file());
        stream.write_all(&block).unwrap();
        drop(stream);
        assert_eq!(file.as_file().metadata().unwrap().len(), FileStream::BLOCK as u64);
    }
}
