//! Whether the I2_S layout that a file is read in can be the right one.
//!
//! The layouts are permutations of each other, so neither sizes nor histograms tell them apart. But a trained model uses
//! some channels more than others, and two things that are stored apart show it: the weights of the norm before a
//! matrix, one for each input channel, in plain F32, and the share of zeros in each column of that matrix. Read in the
//! right layout the two are correlated; read in another one the columns are those of other channels. For the model that
//! comes with this program the correlation is 0.58 in the right layout and 0.10 to 0.16 in the others; random weights
//! have none in any, and then nothing can be said.

use rayon::prelude::*;

use crate::arch::LayerRole;
use crate::decode::{I2s, I2sLayout};
use crate::form::Weights;
use crate::model::Model;
use crate::note::Note;
use crate::tensors::TensorInfo;

/// Layers that are looked at, spread over the model.
const LAYERS: usize = 4;
/// Correlation below which a layout says nothing.
const LEAST: f64 = 0.25;
/// What another layout must be ahead.
const MARGIN: f64 = 0.15;

/// A norm, and a matrix that it stands before.
const PAIRS: [(LayerRole, LayerRole); 2] =
    [(LayerRole::AttnNorm, LayerRole::AttnQ), (LayerRole::FfnNorm, LayerRole::FfnGate)];

impl Model<'_> {
    /// How well each layout of I2_S fits the norms: the mean correlation, from −1 to 1. Empty for a model without I2_S.
    pub fn i2s_layout_fit(&self) -> Vec<(I2sLayout, f64)> {
        let all = self.hparams().layers;
        let layers: Vec<usize> = (0..LAYERS.min(all)).map(|i| i * all / LAYERS.min(all)).collect();
        let fit = |layout: I2sLayout| {
            let pairs: Vec<_> = layers.iter().flat_map(|&l| PAIRS.map(|pair| (l, pair))).collect();
            let found = pairs.par_iter().filter_map(|&(layer, (norm, matrix))| {
                let norm = self.weights(self.layer(layer, norm)?)?;
                correlation(&self.zeros(self.layer(layer, matrix)?, layout)?, &magnitudes(&norm))
            });
            let found: Vec<f64> = bitnetc_threads::install(|| found.collect());
            let mean = found.iter().sum::<f64>() / found.len() as f64;
            (!found.is_empty()).then_some((layout, mean.abs()))
        };
        I2sLayout::ALL.iter().filter_map(|&layout| fit(layout)).collect()
    }

    /// A warning if another layout than the one in use fits much better.
    pub fn i2s_layout_note(&self) -> Option<Note> {
        let fits = self.i2s_layout_fit();
        let used = self.options().i2s_layout;
        let of = |layout| fits.iter().find(|(l, _)| *l == layout).map_or(0.0, |(_, fit)| *fit);
        let &(best, fit) = fits.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        (fit >= LEAST && fit - of(used) >= MARGIN).then(|| {
            let text = format!(
                "is probably not {}: the columns of the matrices go with the norms before them by {:.2}, and by {fit:.2} \
                 in {}; try that layout",
                used.name(),
                of(used),
                best.name()
            );
            Note::warning("the layout of I2_S", text)
        })
    }

    /// The share of zeros in each column of an I2_S matrix, if it can have the layout.
    fn zeros(&self, tensor: &TensorInfo<'_>, layout: I2sLayout) -> Option<Vec<f64>> {
        let Some(Weights::Ternary(matrix)) = self.weights(tensor) else { return None };
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let matrix = I2s::with_layout(rows, cols, self.gguf().data(tensor), layout)?;
        let mut zeros = vec![0.0; cols];
        let mut codes = vec![0; cols];
        for row in 0..rows {
            matrix.decode_row(row, &mut codes).ok()?;
            for (sum, &t) in zeros.iter_mut().zip(&codes) {
                *sum += f64::from(u8::from(t == 0));
            }
        }
        Some(zeros)
    }
}

fn magnitudes(weights: &Weights<'_>) -> Vec<f64> {
    let mut row = vec![0.0; weights.cols()];
    weights.decode_row(0, &mut row);
    row.into_iter().map(|x| f64::from(x.abs())).collect()
}

/// Pearson's correlation; `None` if one of the two is constant.
fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sums = a.iter().zip(b).fold((0.0, 0.0, 0.0), |(ab, aa, bb), (&x, &y)| {
        let (x, y) = (x - ma, y - mb);
        (ab + x * y, aa + x * x, bb + y * y)
    });
    let r = sums.0 / (sums.1 * sums.2).sqrt();
    r.is_finite().then_some(r)
}
