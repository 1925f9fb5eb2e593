//! NumPy `.npy` files: writing two-dimensional f32 arrays, and reading arrays of small integers and f32.
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

/// The elements of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum NpyData {
    /// `<f4`.
    F32(Vec<f32>),
    /// `|i1`, `|u1`, `<i2`, `<u2`, `<i4`, `<u4` or `<i8`.
    Int(Vec<i64>),
}

/// An array read from a file, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct NpyArray {
    /// Sizes, the slowest first; none for one number.
    pub shape: Vec<usize>,
    /// As many as the sizes say.
    pub data: NpyData,
}

/// Why bytes are no array.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// Not the magic of the format, or not version 1 to 3.
    #[error("not a NumPy .npy file of version 1, 2 or 3")]
    Magic,
    /// The header is cut off or not what NumPy writes.
    #[error("the .npy header is damaged: {0}")]
    Header(&'static str),
    /// Elements of a kind that is not read.
    #[error(
        "the array's elements are `{0}`: expected f32 or integers up to 64 bits, little endian (save it with .astype)"
    )]
    Kind(String),
    /// Columns first.
    #[error("the array is in Fortran order: save it with numpy.ascontiguousarray")]
    Fortran,
    /// Not as many bytes as shape and element say.
    #[error("the array has {got} bytes of data, its shape needs {expected}")]
    Length {
        /// Bytes that there are.
        got: usize,
        /// Bytes that the shape needs.
        expected: usize,
    },
}

/// The value of `key` in the text of a header: what stands after it, up to the end.
fn header_value<'h>(header: &'h str, key: &str) -> Result<&'h str, NpyError> {
    let (_, after) = header.split_once(&format!("'{key}'")).ok_or(NpyError::Header("a key is missing"))?;
    let (_, value) = after.split_once(':').ok_or(NpyError::Header("a value is missing"))?;
    Ok(value.trim_start())
}

/// Reads an array.
///
/// # Errors
/// Bytes that are no file of the format, or one with elements that are not read.
pub fn read(bytes: &[u8]) -> Result<NpyArray, NpyError> {
    let version = match bytes {
        [0x93, b'N', b'U', b'M', b'P', b'Y', version @ 1..=3, _, ..] => *version,
        _ => return Err(NpyError::Magic),
    };
    let short = NpyError::Header("it is cut off");
    let field = |n: usize| bytes.get(8..8 + n).ok_or(short.clone());
    let (length, start) = match version {
        1 => (field(2)?.iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b)), 10),
        _ => (field(4)?.iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b)), 12),
    };
    let end = length.checked_add(start).ok_or(short.clone())?;
    let header = bytes.get(start..end).ok_or(short)?;
    let header = std::str::from_utf8(header).map_err(|_| NpyError::Header("it is no text"))?;
    let kind = header_value(header, "descr")?
        .strip_prefix('\'')
        .and_then(|kind| kind.split_once('\''))
        .ok_or(NpyError::Header("descr is no text"))?
        .0;
    if header_value(header, "fortran_order")?.starts_with("True") {
        return Err(NpyError::Fortran);
    }
    let shape = header_value(header, "shape")?
        .strip_prefix('(')
        .and_then(|shape| shape.split_once(')'))
        .ok_or(NpyError::Header("shape is no tuple"))?
        .0;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape: Vec<usize> = sizes
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| NpyError::Header("a size is no number"))?;
    let width: usize = match kind {
        "|i1" | "|u1" => 1,
        "<i2" | "<u2" => 2,
        "<i4" | "<u4" | "<f4" => 4,
        "<i8" => 8,
        other => return Err(NpyError::Kind(other.escape_debug().to_string())),
    };
    let data = &bytes[end..];
    let count = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    let expected = count.and_then(|n| n.checked_mul(width)).unwrap_or(usize::MAX);
    if data.len() != expected {
        return Err(NpyError::Length { got: data.len(), expected });
    }
    let signed = kind.contains('i');
    let elements = data.chunks_exact(width);
    let data = match kind {
        "<f4" => NpyData::F32(elements.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
        _ => NpyData::Int(
            elements
                .map(|b| {
                    let raw = b.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
                    let unused = 64 - 8 * width as u32;
                    // The sign bit moves to the top and back.
                    if signed { (raw << unused) as i64 >> unused } else { raw as i64 }
                })
                .collect(),
        ),
    };
    Ok(NpyArray { shape, data })
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

    #[test]
    fn what_is_written_is_read() {
        let mut npy = NpyWriter::new(Vec::new(), 2, 3).unwrap();
        npy.row(&[1.0, 2.0, -0.0]).unwrap();
        npy.row(&[4.0, 5.0, 6.5]).unwrap();
        let array = read(&npy.finish().unwrap()).unwrap();
        assert_eq!(array.shape, [2, 3]);
        assert_eq!(array.data, NpyData::F32(vec![1.0, 2.0, -0.0, 4.0, 5.0, 6.5]));
    }

    /// A file as NumPy writes it.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn integers_of_all_widths_keep_their_signs() {
        let ints = |kind: &str, shape: &str, data: &[u8]| {
            let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
            read(&file(&header, data)).unwrap().data
        };
        assert_eq!(ints("|i1", "(2,)", &[0xff, 3]), NpyData::Int(vec![-1, 3]));
        assert_eq!(ints("|u1", "(1,)", &[0xff]), NpyData::Int(vec![255]));
        assert_eq!(ints("<i2", "(1,)", &[0xfe, 0xff]), NpyData::Int(vec![-2]));
        assert_eq!(ints("<u4", "(1,)", &[0xfe, 0xff, 0xff, 0xff]), NpyData::Int(vec![0xffff_fffe]));
        assert_eq!(ints("<i8", "()", &[0xfd, 255, 255, 255, 255, 255, 255, 255]), NpyData::Int(vec![-3]));
        assert_eq!(ints("<i4", "(0, 7)", &[]), NpyData::Int(vec![]));
    }

    #[test]
    fn bytes_that_are_no_array_are_refused() {
        let header = |kind: &str, order: &str, shape: &str| {
            format!("{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}")
        };
        let huge = format!("({}, {})", usize::MAX, usize::MAX);
        for (bytes, expected) in [
            (b"GGUF".to_vec(), "not a NumPy"),
            (b"\x93NUMPY\x01\x00\xff\xff".to_vec(), "cut off"),
            (b"\x93NUMPY\x01\x00\xff".to_vec(), "cut off"),
            (file("{}", &[]), "a key is missing"),
            (file(&header("<f8", "False", "(1,)"), &[0; 8]), "`<f8`"),
            (file(&header("<f4", "True", "(1,)"), &[0; 4]), "Fortran"),
            (file(&header("<f4", "False", "(2,)"), &[0; 4]), "has 4 bytes of data, its shape needs 8"),
            (file(&header("<f4", "False", "(x,)"), &[0; 4]), "a size is no number"),
            (file(&header("<f4", "False", &huge), &[0; 4]), "has 4 bytes"),
        ] {
            let message = read(&bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
