//! How many parameters a model has, of which kinds, and how many bits each takes.

use std::collections::{BTreeMap, BTreeSet};

use bitnetc_frontend_gguf::{ListedTensor, Outline};
use bitnetc_ir::{DType, Module};
use bitnetc_runtime::plan::WeightEntry;
use serde_json::{Value, json};

/// Names of the tables of a GGUF that have a row for each token.
const TABLES: [&str; 2] = ["token_embd.weight", "output.weight"];

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    /// Elements of tensors in a ternary type.
    ternary: u64,
    /// Elements of the tables that have a row for each token: embedding and head.
    embedding: u64,
    /// All others: norms, scales, matrices of other types.
    other: u64,
    /// Bytes of the ternary tensors with their scales, where they are known.
    ternary_bytes: Option<u64>,
}

/// Whether the tensor is in a type that holds −1, 0 and 1 only.
fn is_ternary(tensor: &ListedTensor<'_>) -> bool {
    use bitnetc_frontend_gguf::TensorType as T;
    let types = bitnetc_frontend_gguf::tensor_type::candidates(tensor.type_id);
    let ternary = |ty: &T| {
        matches!(
            ty,
            T::Tq1_0
                | T::Tq2_0
                | T::I2S
                | T::Iq1Bn
                | T::Iq2Bn
                | T::Iq2BnR4
                | T::Q1_0
                | T::Q2_0
                | T::Q2_0G128
                | T::Pq2_0
                | T::Ptq1_0
        )
    };
    types.iter().any(ternary)
}

impl Parameters {
    /// Of a GGUF; `sizes` are the bytes of its tensors, if they are known.
    pub(super) fn of_gguf(outline: &Outline<'_>, sizes: Option<&[u64]>) -> Self {
        let mut all = Self { ternary_bytes: sizes.map(|_| 0), ..Self::default() };
        for (index, tensor) in outline.tensors.iter().enumerate() {
            let elements = tensor.dims.row().saturating_mul(tensor.dims.rows());
            let count = match () {
                () if TABLES.contains(&tensor.name) => &mut all.embedding,
                () if is_ternary(tensor) => {
                    let size = sizes.and_then(|sizes| sizes.get(index)).copied();
                    all.ternary_bytes = all.ternary_bytes.zip(size).map(|(all, one)| all + one);
                    &mut all.ternary
                }
                () => &mut all.other,
            };
            *count = count.saturating_add(elements);
        }
        all
    }

    /// Of a plan. A table that is there twice, as rows for the embedding and packed for the head, counts once.
    pub(super) fn of_plan(module: &Module, weights: &[WeightEntry]) -> Self {
        let mut all = Self::default();
        let mut tables: BTreeMap<&str, u64> = BTreeMap::new();
        let mut ternary = BTreeSet::new();
        // A module also names what its weights are packed from.
        let stored: BTreeSet<&str> = weights.iter().map(|entry| entry.name.as_str()).collect();
        for param in module.params().values().filter(|param| stored.contains(param.name.as_str())) {
            let elements = param.ty.elements().unwrap_or(0);
            let base = param.name.split('.').next().unwrap_or_default();
            match (param.ty.dtype, base) {
                (DType::Ter, _) => {
                    all.ternary = all.ternary.saturating_add(elements);
                    ternary.insert(param.name.as_str());
                }
                (_, "token_embd" | "output") => {
                    let table = tables.entry(base).or_default();
                    *table = elements.max(*table);
                }
                _ => all.other = all.other.saturating_add(elements),
            }
        }
        all.embedding = tables.values().fold(0, |sum, &n| sum.saturating_add(n));
        let of_ternary = |entry: &&WeightEntry| {
            let name = entry.name.split('#').next().unwrap_or_default();
            ternary.contains(name)
        };
        all.ternary_bytes = Some(weights.iter().filter(of_ternary).map(|entry| entry.length).sum());
        all
    }

    fn total(&self) -> u64 {
        self.ternary.saturating_add(self.embedding).saturating_add(self.other)
    }

    /// For the report; `file_bytes` are those of the whole file.
    pub(super) fn json(&self, file_bytes: u64) -> Value {
        let bits = |bytes: u64, of: u64| (of > 0).then(|| 8.0 * bytes as f64 / of as f64);
        json!({
            "total": self.total(),
            "ternary": self.ternary,
            "embedding": self.embedding,
            "other": self.other,
            "bits_per_weight": bits(file_bytes, self.total()),
            "bits_per_ternary_weight": self.ternary_bytes.and_then(|bytes| bits(bytes, self.ternary)),
        })
    }
}

#[cfg(test)]
mod tests {
    use bitnetc_frontend_gguf::testing::TinyModel;

    use super::*;

    #[test]
    fn every_element_is_of_one_kind() {
        let bytes = TinyModel::default().to_gguf();
        let outline = Outline::parse_parts(&[&bytes]).unwrap();
        let elements: u64 = outline.tensors.iter().map(|t| t.dims.row() * t.dims.rows()).sum();
        let sizes = vec![4; outline.tensors.len()];
        let all = Parameters::of_gguf(&outline, Some(&sizes));
        assert!(all.ternary > 0 && all.embedding > 0 && all.other > 0);
        assert_eq!(all.total(), elements);
        let ternary = outline.tensors.iter().filter(|t| is_ternary(t)).count() as u64;
        assert_eq!(all.ternary_bytes, Some(4 * ternary));
        assert_eq!(Parameters::of_gguf(&outline, None).json(1)["bits_per_ternary_weight"], Value::Null);
    }
}
