//! A synthetic model as a stream of bytes.

use bitnetc_ir::random::SplitMix;

use super::weights::{self, Tables};
use super::{ModelShape, ShapeError, TensorSpec, vocabulary};
use crate::arch::TensorClass;
use crate::decode::i2s::TAIL_BYTES;
use crate::limits::DEFAULT_ALIGNMENT;
use crate::tensor_type::{Storage, TensorType};
use crate::write::{DirectoryEntry, Header, MetaValue};

/// Most bytes that are handed over at once, but for the header and for single rows.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Standard deviation of the logits that the embedding's spread is chosen for.
const LOGIT_SPREAD: f32 = 2.5;

/// A shape and a seed: a file that is made when it is written.
#[derive(Debug, Clone)]
pub struct SyntheticModel {
    shape: ModelShape,
    seed: u64,
    tensors: Vec<TensorSpec>,
}

impl SyntheticModel {
    /// The model with this shape and seed.
    ///
    /// # Errors
    /// A shape that no file can have.
    pub fn new(shape: ModelShape, seed: u64) -> Result<Self, ShapeError> {
        let tensors = shape.tensors()?;
        Ok(Self { shape, seed, tensors })
    }

    /// Its shape.
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// Its tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Weights, of all kinds.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|t| t.row as u64 * t.rows as u64).sum()
    }

    /// Bytes after the header: the tensors, each filled up to the alignment.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes.next_multiple_of(DEFAULT_ALIGNMENT)).sum()
    }

    /// Everything before the tensors.
    pub fn header(&self) -> Vec<u8> {
        let mut entries: Vec<(Vec<u8>, MetaValue)> = Vec::new();
        entries.extend(self.shape.metadata().into_iter().map(|(key, value)| (key.into(), value)));
        let tokenizer = vocabulary::metadata(self.shape.vocab, self.seed);
        entries.extend(tokenizer.into_iter().map(|(key, value)| (key.into(), value)));
        let dims: Vec<Vec<u64>> = self.tensors.iter().map(TensorSpec::dims).collect();
        let mut offset = 0;
        let mut directory = Vec::with_capacity(self.tensors.len());
        for (tensor, dims) in self.tensors.iter().zip(&dims) {
            directory.push(DirectoryEntry { name: tensor.name.as_bytes(), dims, ty: tensor.ty.id(), offset });
            offset += tensor.bytes.next_multiple_of(DEFAULT_ALIGNMENT);
        }
        let header = Header {
            version: 3,
            alignment: DEFAULT_ALIGNMENT as usize,
            entries: &entries,
            tensors: &directory,
            tensor_count: None,
            key_count: None,
        };
        header.encode(&mut |_, _| ())
    }

    /// Hands the whole file over, piece by piece, and returns its length.
    ///
    /// # Errors
    /// What `sink` returns; nothing more is handed over then.
    pub fn write<E>(&self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<u64, E> {
        let header = self.header();
        sink(&header)?;
        let spread = LOGIT_SPREAD / (self.shape.hidden as f32).sqrt();
        let tables = Tables::new(self.shape.table, spread);
        let mut chunk = Vec::new();
        for (index, tensor) in self.tensors.iter().enumerate() {
            // A stream of its own for each tensor, so that shapes with common tensors have them in common.
            let mut rng = SplitMix::new(SplitMix::new(self.seed ^ (index as u64) << 32).next_u64());
            match tensor.class {
                TensorClass::Norm if tensor.name.ends_with(".ssm_a") => {
                    sink(&weights::decay_rates(rng.next_u64(), tensor.row))?;
                }
                TensorClass::Norm => sink(&weights::norm(rng.next_u64(), tensor.row))?,
                TensorClass::Conv => sink(&weights::convolution(rng.next_u64(), tensor.row * tensor.rows))?,
                TensorClass::Gate => sink(&weights::gate(rng.next_u64(), tensor.row, tensor.rows))?,
                TensorClass::Table if tensor.ty == self.shape.table.tensor_type() => {
                    let row_bytes = (tensor.bytes / tensor.rows as u64) as usize;
                    let rows = (CHUNK_BYTES / row_bytes).max(1);
                    let mut left = tensor.rows;
                    while left > 0 {
                        chunk.resize(rows.min(left) * row_bytes, 0);
                        chunk.chunks_exact_mut(row_bytes).for_each(|row| tables.fill_row(&mut rng, row));
                        sink(&chunk)?;
                        left -= rows.min(left);
                    }
                }
                TensorClass::Linear | TensorClass::Table => {
                    // What a layer adds to the residual stream is about as large as an embedding.
                    let adds = tensor.row != self.shape.hidden
                        || tensor.name.ends_with("attn_output.weight")
                        || tensor.name.ends_with("ssm_out.weight");
                    let gain = match tensor.class {
                        TensorClass::Table => LOGIT_SPREAD,
                        _ if adds => 0.7 * spread,
                        _ => 1.0,
                    };
                    let whole = tensor.ty == TensorType::I2S;
                    let (tail, piece) = match tensor.ty.storage() {
                        Storage::Blocks { bytes, .. } if !whole => {
                            (0, CHUNK_BYTES / bytes as usize * bytes as usize)
                        }
                        _ => (TAIL_BYTES, CHUNK_BYTES),
                    };
                    let scale = (!whole).then(|| weights::scale(&mut rng, tensor.row, gain));
                    let mut left = tensor.bytes as usize - tail;
                    while left > 0 {
                        chunk.resize(left.min(piece), 0);
                        match scale {
                            Some(scale) => tables.fill_blocks(&mut rng, tensor.ty, scale, &mut chunk),
                            None => tables.fill_codes(&mut rng, &mut chunk),
                        }
                        sink(&chunk)?;
                        left -= chunk.len();
                    }
                    if whole {
                        sink(&weights::tail(&mut rng, tensor.row, gain))?;
                    }
                }
            }
            let padding = tensor.bytes.next_multiple_of(DEFAULT_ALIGNMENT) - tensor.bytes;
            sink(&[0; DEFAULT_ALIGNMENT as usize][..padding as usize])?;
        }
        Ok(header.len() as u64 + self.data_bytes())
    }
}
