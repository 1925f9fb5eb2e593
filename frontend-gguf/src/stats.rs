//! What is in a tensor, in numbers: a hash of its content, how many weights are −1, 0 and 1, and how large they are.

use rayon::prelude::*;

use crate::decode::FloatFormat;
use crate::error::{GgufError, printable};
use crate::form::{Form, Weights};
use crate::model::Model;
use crate::tensors::TensorInfo;

/// Numbers about one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorStats {
    /// The first 16 bytes of the BLAKE3 hash of the content (of I2_S: codes and scale, without the undefined bytes).
    pub hash: [u8; 16],
    /// Values below, at and above zero.
    pub signs: [u64; 3],
    /// Least value.
    pub min: f32,
    /// Greatest value.
    pub max: f32,
    /// Root of the mean square.
    pub rms: f64,
    /// Values that are NaN or infinite.
    pub not_finite: u64,
    /// What the matrix becomes in the IR; `None` for vectors.
    pub form: Option<Form>,
}

/// Sums over some rows.
#[derive(Clone, Copy)]
struct Sums {
    signs: [u64; 3],
    min: f32,
    max: f32,
    squares: f64,
    not_finite: u64,
}

impl Sums {
    const NONE: Sums =
        Sums { signs: [0; 3], min: f32::INFINITY, max: f32::NEG_INFINITY, squares: 0.0, not_finite: 0 };

    fn add(&mut self, values: &[f32]) {
        for &x in values {
            if !x.is_finite() {
                self.not_finite += 1;
                continue;
            }
            self.signs[usize::from(x >= 0.0) + usize::from(x > 0.0)] += 1;
            (self.min, self.max) = (self.min.min(x), self.max.max(x));
            self.squares += f64::from(x) * f64::from(x);
        }
    }

    fn join(mut self, other: Self) -> Self {
        for (a, b) in self.signs.iter_mut().zip(other.signs) {
            *a += b;
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.squares += other.squares;
        self.not_finite += other.not_finite;
        self
    }
}

/// Rows that are summed up together, whatever the number of threads, so that the sums are always the same.
const ROWS: usize = 64;

impl Model<'_> {
    /// Numbers about a tensor that the model uses; reads it twice.
    pub fn stats(&self, tensor: &TensorInfo<'_>) -> Option<TensorStats> {
        let weights = self.weights(tensor)?;
        let mut hasher = blake3::Hasher::new();
        for part in weights.content() {
            bitnetc_threads::install(|| hasher.update_rayon(part));
        }
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        let (rows, cols) = (weights.rows(), weights.cols());
        let blocks = (0..rows.div_ceil(ROWS)).into_par_iter().map(|block| {
            let mut values = vec![0.0; cols];
            let mut sums = Sums::NONE;
            for row in block * ROWS..rows.min((block + 1) * ROWS) {
                weights.decode_row(row, &mut values);
                sums.add(&values);
            }
            sums
        });
        let blocks: Vec<Sums> = bitnetc_threads::install(|| blocks.collect());
        let sums = blocks.into_iter().fold(Sums::NONE, Sums::join);
        let finite = sums.signs.iter().sum::<u64>();
        Some(TensorStats {
            hash,
            signs: sums.signs,
            min: if finite > 0 { sums.min } else { f32::NAN },
            max: if finite > 0 { sums.max } else { f32::NAN },
            rms: (sums.squares / finite.max(1) as f64).sqrt(),
            not_finite: sums.not_finite,
            form: if tensor.dims().as_slice().len() > 1 { self.form(tensor) } else { None },
        })
    }

    /// The tensors with finite weights or scales so large that the squares of what is computed with them, which every norm takes,
    /// are infinite in f32; with the largest magnitude of each. A model with one of them computes NaN.
    pub fn overflowing_tensors(&self) -> Vec<(String, f32)> {
        let most = f32::MAX.sqrt();
        let tensors: Vec<_> = self.tensors().collect();
        let magnitude = |weights: Weights<'_>| match weights {
            Weights::Floats(floats) => {
                let mut row = vec![0.0f32; floats.cols()];
                let of_row = |i| {
                    floats.decode_row(i, &mut row);
                    row.iter().fold(0.0f32, |most, x| most.max(x.abs()))
                };
                // f16 has no such numbers.
                let wide = floats.format() != FloatFormat::F16;
                if wide { (0..floats.rows()).map(of_row).fold(0.0, f32::max) } else { 0.0 }
            }
            Weights::Ternary(ternary) => ternary.scale().abs(),
            // Their scales are f16.
            Weights::Quantised(_) => 0.0,
        };
        let all = tensors.par_iter().filter_map(|tensor| {
            let largest = self.weights(tensor).map(magnitude)?;
            (largest.is_finite() && largest > most).then(|| (printable(tensor.name()), largest))
        });
        all.collect()
    }

    /// Everything that is wrong with the weights, one error for each tensor that has any; [`Model::check_weights`] stops
    /// at the first.
    pub fn all_weight_errors(&self) -> Vec<GgufError> {
        let tensors: Vec<_> = self.tensors().collect();
        let errors = tensors.par_iter().filter_map(|tensor| self.check_tensor(tensor).err());
        bitnetc_threads::install(|| errors.collect())
    }
}
