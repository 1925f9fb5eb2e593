//! The tensor types of GGUF: ids, names and sizes; and, for ids that cannot be read, what they are.
//!
//! Sources: `ggml/include/ggml.h` of ggml, of bitnet.cpp's llama.cpp fork (36 = I2_S, 38/39/42 = TL1/TL2), of
//! ik_llama.cpp (134 and above) and of PrismML's fork (142, 143). Ids from 36 up mean different things to different
//! writers: [`candidates`] lists what an id can be, [`rivals`] what it could be besides that is not read, and the tensor
//! directory decides by the bytes that are there for it.

/// How the bytes of a tensor follow from its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Blocks of `elements` consecutive elements of a row in `bytes` bytes.
    Blocks {
        /// Elements of a block; rows are a multiple of it.
        elements: u64,
        /// Bytes of a block.
        bytes: u64,
    },
    /// As `Blocks`, with `header` bytes before the blocks of each row; `rows` rows are stored together.
    RowBlocks {
        /// Bytes before the first block of a row.
        header: u64,
        /// Elements of a block; rows are a multiple of it.
        elements: u64,
        /// Bytes of a block.
        bytes: u64,
        /// Rows that are stored together; the number of rows is a multiple of it.
        rows: u64,
    },
    /// I2_S: two bits an element, then one f32 scale for the tensor, then 28 undefined bytes.
    I2S,
}

const fn blocks(elements: u64, bytes: u64) -> Storage {
    Storage::Blocks { elements, bytes }
}

macro_rules! tensor_types {
    ($($variant:ident = $id:literal $name:literal $storage:expr;)*) => {
        /// A tensor type whose size is known. Being listed here does not mean that a model may use it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names are the format's")]
        pub enum TensorType { $($variant),* }

        impl TensorType {
            /// All types, in the order of their ids.
            pub const ALL: &[TensorType] = &[$(TensorType::$variant),*];

            /// The id in the file. Two types may have the same.
            pub fn id(self) -> u32 {
                match self { $(Self::$variant => $id),* }
            }

            /// The name that ggml and its forks print.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// How bytes follow from shape.
            pub fn storage(self) -> Storage {
                match self { $(Self::$variant => $storage),* }
            }
        }
    };
}

tensor_types! {
    F32 = 0 "F32" blocks(1, 4);
    F16 = 1 "F16" blocks(1, 2);
    Q4_0 = 2 "Q4_0" blocks(32, 18);
    Q4_1 = 3 "Q4_1" blocks(32, 20);
    Q5_0 = 6 "Q5_0" blocks(32, 22);
    Q5_1 = 7 "Q5_1" blocks(32, 24);
    Q8_0 = 8 "Q8_0" blocks(32, 34);
    Q8_1 = 9 "Q8_1" blocks(32, 36);
    Q2K = 10 "Q2_K" blocks(256, 84);
    Q3K = 11 "Q3_K" blocks(256, 110);
    Q4K = 12 "Q4_K" blocks(256, 144);
    Q5K = 13 "Q5_K" blocks(256, 176);
    Q6K = 14 "Q6_K" blocks(256, 210);
    Q8K = 15 "Q8_K" blocks(256, 292);
    Iq2Xxs = 16 "IQ2_XXS" blocks(256, 66);
    Iq2Xs = 17 "IQ2_XS" blocks(256, 74);
    Iq3Xxs = 18 "IQ3_XXS" blocks(256, 98);
    Iq1S = 19 "IQ1_S" blocks(256, 50);
    Iq4Nl = 20 "IQ4_NL" blocks(32, 18);
    Iq3S = 21 "IQ3_S" blocks(256, 110);
    Iq2S = 22 "IQ2_S" blocks(256, 82);
    Iq4Xs = 23 "IQ4_XS" blocks(256, 136);
    I8 = 24 "I8" blocks(1, 1);
    I16 = 25 "I16" blocks(1, 2);
    I32 = 26 "I32" blocks(1, 4);
    I64 = 27 "I64" blocks(1, 8);
    F64 = 28 "F64" blocks(1, 8);
    Iq1M = 29 "IQ1_M" blocks(256, 56);
    Bf16 = 30 "BF16" blocks(1, 2);
    Tq1_0 = 34 "TQ1_0" blocks(256, 54);
    Tq2_0 = 35 "TQ2_0" blocks(256, 66);
    I2S = 36 "I2_S" Storage::I2S;
    Q1_0 = 41 "Q1_0" blocks(128, 18);
    Q2_0 = 42 "Q2_0" blocks(64, 18);
    Q2_0G128 = 42 "Q2_0 (groups of 128)" blocks(128, 34);
    Iq1Bn = 134 "IQ1_BN" Storage::RowBlocks { header: 2, elements: 64, bytes: 13, rows: 1 };
    Iq2Bn = 135 "IQ2_BN" Storage::RowBlocks { header: 4, elements: 64, bytes: 16, rows: 1 };
    Pq2_0 = 142 "PQ2_0" blocks(128, 34);
    Ptq1_0 = 143 "PTQ1_0" blocks(128, 28);
    Iq2BnR4 = 335 "IQ2_BN_R4" Storage::RowBlocks { header: 4, elements: 64, bytes: 16, rows: 4 };
}

/// The types that an id can be, among those whose size is known; empty for an id that is not read.
pub fn candidates(id: u32) -> &'static [TensorType] {
    let first = TensorType::ALL.iter().position(|t| t.id() == id);
    let Some(first) = first else { return &[] };
    let len = TensorType::ALL[first..].iter().take_while(|t| t.id() == id).count();
    &TensorType::ALL[first..first + len]
}

impl TensorType {
    /// Elements that a row is a multiple of.
    pub fn block_elements(self) -> u64 {
        match self.storage() {
            Storage::Blocks { elements, .. } | Storage::RowBlocks { elements, .. } => elements,
            Storage::I2S => crate::decode::i2s::BLOCK_ELEMENTS as u64,
        }
    }

    /// Rows that are stored together: their number is a multiple of it.
    pub fn row_group(self) -> u64 {
        match self.storage() {
            Storage::RowBlocks { rows, .. } => rows,
            Storage::Blocks { .. } | Storage::I2S => 1,
        }
    }

    /// Bytes of a tensor of `rows` rows of `row` elements; `None` if these are no multiples of the block or on overflow.
    pub fn tensor_bytes(self, row: u64, rows: u64) -> Option<u64> {
        if !row.is_multiple_of(self.block_elements()) || !rows.is_multiple_of(self.row_group()) {
            return None;
        }
        let of_row = row / self.block_elements();
        match self.storage() {
            Storage::Blocks { bytes, .. } => of_row.checked_mul(rows)?.checked_mul(bytes),
            Storage::RowBlocks { header, bytes, .. } => {
                of_row.checked_mul(bytes)?.checked_add(header)?.checked_mul(rows)
            }
            Storage::I2S => of_row
                .checked_mul(rows)?
                .checked_mul(crate::decode::i2s::BLOCK_BYTES as u64)?
                .checked_add(crate::decode::i2s::TAIL_BYTES as u64),
        }
    }
}

/// What a tensor of an id could be besides [`candidates`], with the bytes that it would then have: the types of other
/// writers that have the same id. Sizes that do not apply to the shape are left out.
pub fn rivals(id: u32, row: u64, rows: u64) -> Vec<(&'static str, u64)> {
    let n = row.checked_mul(rows).filter(|&n| n < crate::limits::MAX_ELEMENTS);
    let Some(n) = n else { return Vec::new() };
    let of_blocks = |elements: u64, bytes: u64| row.is_multiple_of(elements).then(|| n / elements * bytes);
    let tl1 = n.is_multiple_of(4).then(|| n / 4 + 32);
    // TL2 packs three weights in five bits, but those of the last 256 columns by two in four bits.
    let tl2 = row.checked_sub(256).map(|three| {
        let bytes = three * rows / 3 * 5 / 8 + 256 * rows / 2 * 4 / 8;
        bytes.next_multiple_of(32) + 32
    });
    let known: &[(&'static str, Option<u64>)] = &match id {
        36 => vec![("IQ4_NL_4_4", of_blocks(32, 18))],
        37 => vec![("IQ4_NL_4_8", of_blocks(32, 18)), ("I8_S", Some(n + 32))],
        38 => vec![("TL1", tl1), ("IQ4_NL_8_8", of_blocks(32, 18))],
        39 => vec![("MXFP4", of_blocks(32, 17)), ("TL2", tl2)],
        40 => vec![("NVFP4", of_blocks(64, 36)), ("Q1_0 of PrismML, groups of 32", of_blocks(32, 6))],
        41 => vec![("TQ3_0", of_blocks(32, 14))],
        42 => vec![("TL2", tl2)],
        43 => vec![("Q1_0 of 128", of_blocks(128, 18))],
        142 => vec![("IQ2_TN", of_blocks(256, 64).map(|b| b + 4 * rows))],
        143 => vec![("IQ1_TN", of_blocks(64, 13).map(|b| b + 2 * rows))],
        _ => vec![],
    };
    known.iter().filter_map(|&(name, bytes)| Some((name, bytes?))).collect()
}

/// What is known about a type id that cannot be read: its name (may be empty) and what to do.
pub fn unreadable(id: u32) -> (&'static str, &'static str) {
    const REMOVED: &str =
        "the type was removed from ggml: convert the model again, its linear layers to I2_S";
    const TUNED: &str = "its layout depends on the machine that wrote it: convert the model again to I2_S";
    const AGAIN: &str = "convert the model's linear layers to I2_S or TQ2_0";
    const IK: &str = "it belongs to ik_llama.cpp: use the file that the model was converted from, or IQ2_BN";
    match id {
        4 | 5 => ("Q4_2 or Q4_3", REMOVED),
        31 => ("Q4_0_4_4", REMOVED),
        32 => ("Q4_0_4_8", REMOVED),
        33 => ("Q4_0_8_8", REMOVED),
        36 => ("I2_S or IQ4_NL_4_4", REMOVED),
        37 => ("I8_S or IQ4_NL_4_8", "it is never a weight type: convert the model again to I2_S"),
        38 => ("TL1 or IQ4_NL_8_8", TUNED),
        39 => ("TL2 or MXFP4", TUNED),
        40 => ("NVFP4, or Q1_0 of PrismML", AGAIN),
        41 => ("Q1_0", AGAIN),
        42 => ("TL2 or Q2_0", TUNED),
        43 => ("of several forks", AGAIN),
        142 => ("PQ2_0 or IQ2_TN", AGAIN),
        143 => ("PTQ1_0 or IQ1_TN", AGAIN),
        137..=160 | 300..=400 => ("a type of ik_llama.cpp", IK),
        _ => ("", "the id is not assigned: the file is damaged or newer than this program"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_published_model() {
        assert_eq!(TensorType::I2S.tensor_bytes(2560, 2560), Some(1_638_432));
        assert_eq!(TensorType::I2S.tensor_bytes(2560, 640), Some(409_632));
        assert_eq!(TensorType::I2S.tensor_bytes(6912, 2560), Some(4_423_712));
        assert_eq!(TensorType::I2S.tensor_bytes(8640, 3200), None);
        assert_eq!(TensorType::F16.tensor_bytes(2560, 128_256), Some(656_670_720));
        assert_eq!(TensorType::Q6K.tensor_bytes(512, 3), Some(1260));
        assert_eq!(TensorType::Iq2Bn.tensor_bytes(256, 4), Some(272));
        assert_eq!(TensorType::Iq1Bn.tensor_bytes(256, 4), Some(216));
        assert_eq!(TensorType::Iq2BnR4.tensor_bytes(256, 6), None);
    }

    #[test]
    fn overflow_is_none() {
        assert_eq!(TensorType::F32.tensor_bytes(1 << 62, 2), None);
        assert_eq!(TensorType::I2S.tensor_bytes(1 << 63, 1 << 7), None);
        assert_eq!(rivals(36, 1 << 62, 1 << 62), []);
    }

    #[test]
    fn ids_are_listed_in_order_and_others_are_explained() {
        assert!(TensorType::ALL.is_sorted_by_key(|t| t.id()));
        for id in 0..400 {
            let found = candidates(id);
            assert!(found.iter().all(|t| t.id() == id));
            assert_eq!(found.len(), TensorType::ALL.iter().filter(|t| t.id() == id).count());
            assert!(!found.is_empty() || !unreadable(id).1.is_empty());
        }
        assert_eq!(candidates(36), [TensorType::I2S]);
        assert_eq!(candidates(42), [TensorType::Q2_0, TensorType::Q2_0G128]);
        assert_eq!(candidates(39), []);
    }

    #[test]
    fn rivals_have_other_sizes() {
        // 2560 × 2560 as each of the types with the id 42.
        let sizes: Vec<u64> = candidates(42).iter().filter_map(|t| t.tensor_bytes(2560, 2560)).collect();
        assert_eq!(sizes, [1_843_200, 1_740_800]);
        let [("TL2", tl2)] = rivals(42, 2560, 2560)[..] else { panic!() };
        assert!(!sizes.contains(&tl2));
        assert_eq!(rivals(36, 2560, 2560), [("IQ4_NL_4_4", 3_686_400)]);
        // Those of PrismML and of ik_llama.cpp.
        for (ty, other) in [(TensorType::Pq2_0, "IQ2_TN"), (TensorType::Ptq1_0, "IQ1_TN")] {
            let [(name, size)] = rivals(ty.id(), 2560, 2560)[..] else { panic!() };
            assert!(name == other && Some(size) != ty.tensor_bytes(2560, 2560), "{name}");
        }
    }
}
