//! What a matrix of the file becomes in the IR: a ternary matrix with the scales that it really has, or a dense one.
//!
//! The storage type does not decide this, the values do: a layer stored as F16 whose weights are all −s, 0 or s is
//! ternary, and a layer stored in two bits a weight whose fourth code occurs is not. So the same model gives the same
//! module whatever it is stored in. Published I2_S is ternary by definition, is not looked at, and is used as it is.
//!
//! A matrix is ternary with scales for groups of g columns if in each row all weights of a group that are not zero have
//! one magnitude; a group without any fits every scale. The widest of a whole row, 256, 128 and 64 columns that holds
//! for all rows is taken.

use std::sync::atomic::{AtomicU8, Ordering};

use rayon::prelude::*;

use crate::decode::{FloatFormat, Floats, I2s, I2sLayout, Quantised};

/// What a matrix becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Ternary, as it is stored: I2_S in blocks of 128 with one scale.
    I2s128,
    /// Ternary, to be written again with two bits a weight.
    Ternary {
        /// Columns that share a scale; `None`: whole rows.
        group: Option<u32>,
    },
    /// Dense, in this format, which holds all values exactly.
    Dense(FloatFormat),
}

/// Widths of groups that may share a scale, widest first, and `None` for whole rows.
pub const GROUPS: [Option<u32>; 4] = [None, Some(256), Some(128), Some(64)];

/// A matrix with any decoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weights<'a> {
    /// Floats: embedding, head, norms (one row), layers that were not quantised.
    Floats(Floats<'a>),
    /// I2_S.
    Ternary(I2s<'a>),
    /// Any quantised type.
    Quantised(Quantised<'a>),
}

impl Weights<'_> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Floats(w) => w.rows(),
            Self::Ternary(w) => w.rows(),
            Self::Quantised(w) => w.rows(),
        }
    }

    /// Elements of a row.
    pub fn cols(&self) -> usize {
        match self {
            Self::Floats(w) => w.cols(),
            Self::Ternary(w) => w.cols(),
            Self::Quantised(w) => w.cols(),
        }
    }

    /// The bytes that matter: all but the undefined ones of I2_S.
    pub fn content(&self) -> [&[u8]; 2] {
        match self {
            Self::Floats(w) => [w.bytes(), &[]],
            Self::Ternary(w) => [w.packed(), w.scale_bytes()],
            Self::Quantised(w) => [w.bytes(), &[]],
        }
    }

    /// Decodes a row to the values that it stands for; `out` has [`Weights::cols`] elements. Invalid ternary codes give NaN.
    ///
    /// # Panics
    /// If `row` is not below [`Weights::rows`].
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Floats(w) => w.decode_row(row, out),
            Self::Quantised(w) => w.decode_row(row, out),
            Self::Ternary(w) => {
                let mut codes = vec![0; out.len()];
                match w.decode_row(row, &mut codes) {
                    Ok(()) => {
                        for (x, &t) in out.iter_mut().zip(&codes) {
                            *x = f32::from(t) * w.scale();
                        }
                    }
                    Err(_) => out.fill(f32::NAN),
                }
            }
        }
    }

    /// What a layer of these weights becomes.
    pub fn linear_form(&self) -> Form {
        match self {
            Self::Ternary(w) if w.layout() == I2sLayout::Blocks128 => Form::I2s128,
            Self::Ternary(_) => Form::Ternary { group: None },
            _ => match self.ternary_group() {
                Some(group) => Form::Ternary { group },
                None => self.table_form(),
            },
        }
    }

    /// What a table of these weights becomes: floats as they are stored, anything else F16 if that is exact, else F32.
    pub fn table_form(&self) -> Form {
        match self {
            Self::Floats(w) => Form::Dense(w.format()),
            _ => {
                let exact = self.all_rows(|row| row.iter().all(|&x| half::f16::from_f32(x).to_f32() == x));
                Form::Dense(if exact { FloatFormat::F16 } else { FloatFormat::F32 })
            }
        }
    }

    /// The widest groups whose weights share a magnitude; `None` if the matrix is not ternary.
    fn ternary_group(&self) -> Option<Option<u32>> {
        let cols = self.cols();
        let fits = |group: Option<u32>| group.is_none_or(|g| cols.is_multiple_of(g as usize));
        let all = (0..GROUPS.len()).filter(|&i| fits(GROUPS[i])).fold(0u8, |set, i| set | 1 << i);
        let left = AtomicU8::new(all);
        self.all_rows(|row| {
            let before = left.load(Ordering::Relaxed);
            let mut holds = 0;
            for (i, group) in GROUPS.iter().enumerate().filter(|(i, _)| before & 1 << i != 0) {
                let width = group.map_or(cols, |g| g as usize);
                if row.chunks(width).all(|part| magnitude(part).is_some()) {
                    // Groups that divide this one hold as well.
                    holds = before & (0xff << i);
                    break;
                }
            }
            left.fetch_and(holds, Ordering::Relaxed) & holds != 0
        });
        let left = left.into_inner();
        GROUPS.iter().enumerate().find(|(i, _)| left & 1 << i != 0).map(|(_, &group)| group)
    }

    /// Whether `holds` is true of every decoded row; rows are looked at in parallel.
    fn all_rows(&self, holds: impl Fn(&[f32]) -> bool + Sync) -> bool {
        let cols = self.cols();
        let rows = (0..self.rows()).into_par_iter().with_min_len(16).map_init(
            || vec![0.0; cols],
            |row_values, row| {
                self.decode_row(row, row_values);
                holds(row_values)
            },
        );
        bitnetc_threads::install(|| rows.all(|holds| holds))
    }

    /// The whole matrix as little-endian floats of a format, each value times `factor`.
    pub fn to_floats(&self, format: FloatFormat, factor: f32) -> Vec<u8> {
        let width = self.cols() * format.bytes();
        let mut out = vec![0; self.rows() * width];
        let rows = out.par_chunks_mut(width.max(1)).enumerate();
        let write = |(row, out): (usize, &mut [u8])| {
            let mut values = vec![0.0; self.cols()];
            self.decode_row(row, &mut values);
            for (out, x) in out.chunks_exact_mut(format.bytes()).zip(values) {
                format.write(x * factor, out);
            }
        };
        bitnetc_threads::install(|| rows.for_each(write));
        out
    }

    /// The matrix in the layout `row16` (see `bitnetc_ir::weights`) and its scales, those of a row together, each times `factor`.
    ///
    /// Of a matrix that is ternary with these groups; anything else gives codes of the signs and meaningless scales.
    pub fn to_row16(&self, group: Option<u32>, factor: f32) -> (Vec<u8>, Vec<f32>) {
        let cols = self.cols();
        let width = cols.div_ceil(16) * 4;
        let group = group.map_or(cols, |g| g as usize);
        let groups = cols.div_ceil(group.max(1));
        // Code 1, the weight 0, stands in the columns that fill up the last 16.
        let mut bytes = vec![0; self.rows() * width];
        let mut scales = vec![0.0; self.rows() * groups];
        let rows = bytes.par_chunks_mut(width.max(1)).zip(scales.par_chunks_mut(groups.max(1)));
        let write = |(row, (bytes, scales)): (usize, (&mut [u8], &mut [f32]))| {
            let mut values = vec![0.0; width * 4];
            self.decode_row(row, &mut values[..cols]);
            let code = |x: f32| if x > 0.0 { 2 } else { u8::from(x == 0.0) };
            for (bytes, x) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values.as_chunks::<16>().0) {
                for (j, byte) in bytes.iter_mut().enumerate() {
                    *byte = code(x[j]) | code(x[4 + j]) << 2 | code(x[8 + j]) << 4 | code(x[12 + j]) << 6;
                }
            }
            for (scale, part) in scales.iter_mut().zip(values[..cols].chunks(group)) {
                *scale = magnitude(part).unwrap_or(f32::NAN) * factor;
            }
        };
        bitnetc_threads::install(|| rows.enumerate().for_each(write));
        (bytes, scales)
    }
}

/// The one magnitude of all values that are not zero, 0 if there are none; `None` if there are several.
fn magnitude(values: &[f32]) -> Option<f32> {
    let one = values.iter().map(|x| x.abs()).find(|&x| x != 0.0).unwrap_or(0.0);
    values.iter().all(|x| x.abs() == one || *x == 0.0).then_some(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(rows: usize, cols: usize, value: impl Fn(usize, usize) -> f32) -> (Form, Vec<u8>, Vec<f32>) {
        let bytes: Vec<u8> = (0..rows * cols).flat_map(|e| value(e / cols, e % cols).to_le_bytes()).collect();
        let w = Weights::Floats(Floats::new(FloatFormat::F32, rows, cols, &bytes).unwrap());
        let form = w.linear_form();
        match form {
            Form::Ternary { group } => {
                let (bits, scales) = w.to_row16(group, 2.0);
                (form, bits, scales)
            }
            _ => (form, Vec::new(), Vec::new()),
        }
    }

    fn sign(r: usize, c: usize) -> f32 {
        [-1.0, 0.0, 1.0][(r * 5 + c * 7 + c / 3) % 3]
    }

    #[test]
    fn the_widest_groups_that_hold_are_taken() {
        let ternary = |group| Form::Ternary { group };
        assert_eq!(form(20, 512, sign).0, ternary(None));
        let (found, bits, scales) = form(20, 10, |r, c| sign(r, c) * (r + 1) as f32);
        assert_eq!((found, bits.len(), scales.len()), (ternary(None), 80, 20));
        assert_eq!(scales[3], 8.0);
        let code = |c| (sign(0, c) + 1.0) as u8;
        assert_eq!(bits[1], code(1) | code(5) << 2 | code(9) << 4 | 1 << 6);
        for g in [256u32, 128, 64] {
            let scale = |c: usize| 1.0 + (c / g as usize) as f32;
            let (found, _, scales) = form(20, 512, |r, c| sign(r, c) * scale(c));
            assert_eq!(found, ternary(Some(g)));
            assert_eq!(scales.len(), 20 * 512 / g as usize);
            assert_eq!(scales[1], 4.0);
        }
        // One row that differs is enough.
        let (found, ..) = form(40, 512, |r, c| sign(r, c) * if r == 39 && c >= 128 { 2.0 } else { 1.0 });
        assert_eq!(found, ternary(Some(128)));
        // A group without any weight fits every scale.
        let (found, ..) = form(20, 256, |r, c| if c < 64 { 0.0 } else { sign(r, c) });
        assert_eq!(found, ternary(None));
    }

    #[test]
    fn other_values_are_dense() {
        assert_eq!(form(3, 32, |r, c| (r * 32 + c) as f32).0, Form::Dense(FloatFormat::F32));
        let two = form(3, 512, |r, c| if (r, c) == (2, 63) { 2.0 } else { sign(r, c) });
        assert_eq!(two.0, Form::Dense(FloatFormat::F32));
        assert_eq!(form(3, 512, |_, c| if c == 7 { f32::NAN } else { 1.0 }).0, Form::Dense(FloatFormat::F32));
        // Groups of 64 do not divide 96 columns.
        assert_eq!(form(3, 96, |_, c| (1 + c / 64) as f32).0, Form::Dense(FloatFormat::F32));
    }
}
