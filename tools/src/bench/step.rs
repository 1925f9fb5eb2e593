//! What a decode step of a large model needs, counted without the model: for a machine that does not have one.
//!
//! Bytes and multiply-adds are linear in the layers and in the rows of the vocabulary, so three small modules of the same widths
//! tell those of the whole: they go through the same passes and the same count as any model.
//!
//! Invariant: the result is what [`Accounts`] counts for the whole module with the same options.

use bitnetc::BuildOptions;
use bitnetc::compile::import;
use bitnetc_frontend_gguf::synth::{ModelShape, SyntheticModel};
use bitnetc_frontend_gguf::{GgufError, Model};
use bitnetc_ir::work::{Accounts, Work};

use crate::error::Error;

/// Rows of the small vocabularies; both are whole tiles of any packing.
const ROWS: [usize; 2] = [512, 1024];

/// What a decode step needs in the planned module of `shape`.
fn small(shape: ModelShape, options: &BuildOptions) -> Result<Work, Error> {
    let lowered = |source: GgufError| bitnetc::Error::Gguf { path: shape.name.clone().into(), source };
    let model = SyntheticModel::new(shape.clone(), 1)?;
    let mut bytes = model.header();
    // No weight is looked at before it is packed.
    bytes.resize(bytes.len() + model.data_bytes() as usize, 0);
    let gguf = Model::open(&bytes).map_err(lowered)?;
    let imported = import(&gguf, options)?;
    let module = bitnetc_passes::run(&options.pipeline, imported, &options.pass_context()?)?.0;
    Ok(Accounts::of(&module).step(0))
}

/// What the first decode step of a model of `shape` needs, compiled with `options`.
///
/// # Errors
/// A shape that no model can have, or that cannot be lowered.
pub fn decode_step(shape: &ModelShape, options: &BuildOptions) -> Result<Work, Error> {
    let of = |layers, vocab| small(ModelShape { layers, vocab, ..shape.clone() }, options);
    // Layers that come again and again: one, or as many as there are to the next one with attention.
    let period = shape.hybrid.map_or(1, |hybrid| hybrid.interval);
    let base = of(period, ROWS[0])?;
    let (deeper, wider) = (of(2 * period, ROWS[0])?, of(period, ROWS[1])?);
    let layers = (shape.layers.saturating_sub(period) / period.max(1)) as u64;
    let rows = shape.vocab.saturating_sub(ROWS[0]) as u64;
    let extrapolate = |part: fn(&Work) -> u64| {
        let step = (ROWS[1] - ROWS[0]) as u64;
        part(&base) + layers * (part(&deeper) - part(&base)) + rows * (part(&wider) - part(&base)) / step
    };
    Ok(Work {
        weight_bytes: extrapolate(|w| w.weight_bytes),
        kv_bytes: extrapolate(|w| w.kv_bytes),
        state_bytes: extrapolate(|w| w.state_bytes),
        ternary_macs: extrapolate(|w| w.ternary_macs),
        dense_macs: extrapolate(|w| w.dense_macs),
        attention_macs: extrapolate(|w| w.attention_macs),
    })
}

#[cfg(test)]
mod tests {
    use bitnetc_frontend_gguf::synth::preset;
    use bitnetc_passes::{HeadFormat, WeightPacking};

    use super::*;

    #[test]
    fn three_small_models_tell_what_a_larger_one_needs() {
        let shape = ModelShape { layers: 4, vocab: 2048, ..preset("tiny").unwrap().shape() };
        for (head, weights) in
            [(HeadFormat::Q8, WeightPacking::TwoBits), (HeadFormat::Stored, WeightPacking::Trits)]
        {
            let options =
                BuildOptions { head: Some(head), weights: Some(weights), ..BuildOptions::default() };
            assert_eq!(decode_step(&shape, &options).unwrap(), small(shape.clone(), &options).unwrap());
        }
    }
}
