//! The check of the weights themselves: every byte of every tensor that the model uses is read once.
//!
//! Apart from [`crate::Model::open`], because it reads the whole file (1.2 GB for the 2B-4T model) and `inspect` need
//! not. What it refuses: NaN and infinity in floats and scales, and the ternary code 3.

use rayon::prelude::*;

use crate::error::{GgufError, printable};
use crate::form::Weights;
use crate::model::Model;
use crate::tensors::TensorInfo;

impl Model<'_> {
    /// Checks the data of every tensor that the model uses.
    ///
    /// # Errors
    /// `BadWeights` with tensor, element and byte offset of the first bad element.
    pub fn check_weights(&self) -> Result<(), GgufError> {
        let tensors: Vec<_> = self.tensors().collect();
        // In parallel, but the first bad tensor in their order is reported.
        let checked = tensors.par_iter().map(|tensor| self.check_tensor(tensor));
        let checked: Vec<_> = bitnetc_threads::install(|| checked.collect());
        checked.into_iter().collect()
    }

    /// Checks the data of one tensor.
    ///
    /// # Errors
    /// As [`Model::check_weights`].
    pub fn check_tensor(&self, tensor: &TensorInfo<'_>) -> Result<(), GgufError> {
        let bad = |element: usize, byte: usize, found: String| {
            Err(GgufError::BadWeights {
                offset: (tensor.range().start + byte) as u64,
                tensor: printable(tensor.name()),
                element: element as u64,
                found,
            })
        };
        match self.weights(tensor) {
            Some(Weights::Floats(floats)) => match floats.first_non_finite() {
                Some((element, value)) => {
                    bad(element, element * floats.format().bytes(), format!("the value {value}"))
                }
                None => Ok(()),
            },
            Some(Weights::Ternary(ternary)) => {
                if !ternary.scale().is_finite() {
                    // The scale stands where the element after the last would.
                    let elements = ternary.rows() * ternary.cols();
                    return bad(elements, ternary.packed().len(), format!("the scale {}", ternary.scale()));
                }
                match ternary.first_invalid() {
                    Some(invalid) => {
                        let byte = ternary.byte_of(invalid.element);
                        bad(invalid.element, byte, "the invalid ternary code 3".into())
                    }
                    None => Ok(()),
                }
            }
            Some(Weights::Quantised(w)) => match w.first_bad() {
                Some(found) => bad(found.element, found.byte, found.found),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }
}
