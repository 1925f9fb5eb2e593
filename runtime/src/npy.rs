//! Writing two-dimensional f32 arrays as NumPy `.npy` files, format version 1.0.
//!
//! Layout (NumPy enhancement proposal 1): magic `\x93NUMPY`, version bytes 1 and 0, u16 length of the header text,
//! the header text (a Python dictionary literal padded with spaces and ended by a line feed, so that the data
//! starts at a multiple of 64), then the elements, little endian, row after row.

use std::io::{self, Write};

/// Bytes before the header text.
const PREFIX: usize = 10;

/// Writes an array of `rows` × `columns` row by row.
#[derive(Debug)]
pub struct NpyWriter<W> {
    out: W,
    columns: usize,
    missing: usize,
}

impl<W: Write> NpyWriter<W> {
    /// Writes the header of an array of `rows` × `columns` f32.
    pub fn new(mut out: W, rows: usize, columns: usize) -> io::Result<Self> {
        let mut header =
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
        let total = (PREFIX + header.len() + 1).next_multiple_of(64);
        header.extend(std::iter::repeat_n(' ', total - PREFIX - header.len() - 1));
        header.push('\n');
        // Two 20-digit numbers keep the text far below 64 KiB.
        let length = u16::try_from(header.len()).map_err(io::Error::other)?;
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        Ok(Self { out, columns, missing: rows })
    }

    /// Writes the next row.
    ///
    /// Fails without writing if `row` has not `columns` elements or the array is already full.
    pub fn row(&mut self, row: &[f32]) -> io::Result<()> {
        if row.len() != self.columns {
            let message =
                format!("a row of {} elements was given for an array of {} columns", row.len(), self.columns);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.missing = self.missing.checked_sub(1).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "more rows were given than the header declares")
        })?;
        let mut bytes = [0; 4096];
        for part in row.chunks(bytes.len() / 4) {
            for (slot, value) in bytes.chunks_exact_mut(4).zip(part) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
            self.out.write_all(&bytes[..part.len() * 4])?;
        }
        Ok(())
    }

    /// Flushes and returns the writer underneath. Fails if rows are missing.
    pub fn finish(mut self) -> io::Result<W> {
        if self.missing > 0 {
            let message = format!("{} rows of the array were not given", self.missing);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_data() {
        let mut npy = NpyWriter::new(Vec::new(), 2, 3).unwrap();
        npy.row(&[1.0, 2.0, 3.0]).unwrap();
        npy.row(&[4.0, -0.0, f32::NAN]).unwrap();
        let bytes = npy.finish().unwrap();
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let header = std::str::from_utf8(&bytes[10..128]).unwrap();
        assert_eq!(header.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
        assert!(header.ends_with(" \n"));
        let data: Vec<f32> =
            bytes[128..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(data[..5], [1.0, 2.0, 3.0, 4.0, -0.0]);
        assert!(data[5].is_nan() && data.len() == 6);
    }

    #[test]
    fn data_is_aligned_for_any_shape() {
        for (rows, columns) in [(0, 0), (1, 128_256), (123_456_789, 1), (usize::MAX, usize::MAX)] {
            let npy = NpyWriter::new(Vec::new(), rows, columns).unwrap();
            assert_eq!(npy.out.len() % 64, 0);
            assert_eq!(npy.out.last(), Some(&b'\n'));
        }
    }

    #[test]
    fn long_rows_are_written_whole() {
        let row: Vec<f32> = (0..5000).map(|i| i as f32).collect();
        let mut npy = NpyWriter::new(Vec::new(), 1, 5000).unwrap();
        npy.row(&row).unwrap();
        let bytes = npy.finish().unwrap();
        let expected: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(bytes[bytes.len() - 20_000..], expected);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let mut npy = NpyWriter::new(Vec::new(), 1, 2).unwrap();
        assert!(npy.row(&[1.0]).is_err());
        npy.row(&[1.0, 2.0]).unwrap();
        assert!(npy.row(&[1.0, 2.0]).is_err());
        assert!(NpyWriter::new(Vec::new(), 1, 2).unwrap().finish().is_err());
    }
}
