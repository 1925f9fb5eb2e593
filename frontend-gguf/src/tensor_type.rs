//! The tensor types of GGUF: ids, names and block sizes; and, for ids that cannot be read, what they are.
//!
//! Sources: `ggml/include/ggml.h` of ggml, of bitnet.cpp's llama.cpp fork (36 = I2_S, 38/39/42 = TL1/TL2) and of
//! ik_llama.cpp (134 and above). Ids 36 and up mean different things to different writers: 36 is always taken as
//! I2_S, because the type that mainline ggml once had there was never a distribution format.

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
    /// I2_S: two bits an element in blocks of 128, then one f32 scale for the tensor, then 28 undefined bytes.
    I2S,
}

macro_rules! tensor_types {
    ($($variant:ident = $id:literal $name:literal $elements:literal $bytes:literal;)*) => {
        /// A tensor type whose size is known. Being listed here does not mean that a model may use it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[expect(missing_docs, reason = "the names are the format's")]
        pub enum TensorType { $($variant = $id,)* I2S = 36 }

        impl TensorType {
            /// The type with this id in the file.
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$variant),)* 36 => Some(Self::I2S), _ => None }
            }

            /// The id in the file.
            pub fn id(self) -> u32 {
                self as u32
            }

            /// The name that ggml and its forks print.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* Self::I2S => "I2_S" }
            }

            /// How bytes follow from shape.
            pub fn storage(self) -> Storage {
                match self {
                    $(Self::$variant => Storage::Blocks { elements: $elements, bytes: $bytes },)*
                    Self::I2S => Storage::I2S,
                }
            }
        }
    };
}

tensor_types! {
    F32 = 0 "F32" 1 4;
    F16 = 1 "F16" 1 2;
    Q4_0 = 2 "Q4_0" 32 18;
    Q4_1 = 3 "Q4_1" 32 20;
    Q5_0 = 6 "Q5_0" 32 22;
    Q5_1 = 7 "Q5_1" 32 24;
    Q8_0 = 8 "Q8_0" 32 34;
    Q8_1 = 9 "Q8_1" 32 36;
    Q2K = 10 "Q2_K" 256 84;
    Q3K = 11 "Q3_K" 256 110;
    Q4K = 12 "Q4_K" 256 144;
    Q5K = 13 "Q5_K" 256 176;
    Q6K = 14 "Q6_K" 256 210;
    Q8K = 15 "Q8_K" 256 292;
    Iq2Xxs = 16 "IQ2_XXS" 256 66;
    Iq2Xs = 17 "IQ2_XS" 256 74;
    Iq3Xxs = 18 "IQ3_XXS" 256 98;
    Iq1S = 19 "IQ1_S" 256 50;
    Iq4Nl = 20 "IQ4_NL" 32 18;
    Iq3S = 21 "IQ3_S" 256 110;
    Iq2S = 22 "IQ2_S" 256 82;
    Iq4Xs = 23 "IQ4_XS" 256 136;
    I8 = 24 "I8" 1 1;
    I16 = 25 "I16" 1 2;
    I32 = 26 "I32" 1 4;
    I64 = 27 "I64" 1 8;
    F64 = 28 "F64" 1 8;
    Iq1M = 29 "IQ1_M" 256 56;
    Bf16 = 30 "BF16" 1 2;
    Tq1_0 = 34 "TQ1_0" 256 54;
    Tq2_0 = 35 "TQ2_0" 256 66;
}

impl TensorType {
    /// Elements that a row is a multiple of.
    pub fn block_elements(self) -> u64 {
        match self.storage() {
            Storage::Blocks { elements, .. } => elements,
            Storage::I2S => crate::decode::i2s::BLOCK_ELEMENTS as u64,
        }
    }

    /// Bytes of a tensor of `rows` rows of `row` elements; `None` if `row` is no multiple of the block or on overflow.
    pub fn tensor_bytes(self, row: u64, rows: u64) -> Option<u64> {
        let block = self.block_elements();
        if !row.is_multiple_of(block) {
            return None;
        }
        let blocks = (row / block).checked_mul(rows)?;
        match self.storage() {
            Storage::Blocks { bytes, .. } => blocks.checked_mul(bytes),
            Storage::I2S => blocks
                .checked_mul(crate::decode::i2s::BLOCK_BYTES as u64)?
                .checked_add(crate::decode::i2s::TAIL_BYTES as u64),
        }
    }
}

/// What is known about a type id that cannot be read: its name (may be empty) and what to do.
pub fn unreadable(id: u32) -> (&'static str, &'static str) {
    const REMOVED: &str =
        "the type was removed from ggml: convert the model again, its linear layers to I2_S";
    const TUNED: &str = "its layout depends on the machine that wrote it: convert the model again to I2_S";
    const IK: &str = "it belongs to ik_llama.cpp: use the I2_S file that the model was converted from";
    match id {
        4 | 5 => ("Q4_2 or Q4_3", REMOVED),
        31 => ("Q4_0_4_4", REMOVED),
        32 => ("Q4_0_4_8", REMOVED),
        33 => ("Q4_0_8_8", REMOVED),
        37 => ("I8_S or IQ4_NL_4_8", "it is never a weight type: convert the model again to I2_S"),
        38 => ("TL1 or IQ4_NL_8_8", TUNED),
        39 => ("TL2 or MXFP4", TUNED),
        40 => ("NVFP4", "convert the model's linear layers to I2_S"),
        41 => ("Q1_0", "convert the model's linear layers to I2_S"),
        42 => ("TL2 or Q2_0", TUNED),
        134 => ("IQ1_BN", IK),
        135 => ("IQ2_BN", IK),
        335 => ("IQ2_BN_R4", IK),
        137..=160 => ("a type of ik_llama.cpp", IK),
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
    }

    #[test]
    fn overflow_is_none() {
        assert_eq!(TensorType::F32.tensor_bytes(1 << 62, 2), None);
        assert_eq!(TensorType::I2S.tensor_bytes(1 << 63, 1 << 7), None);
    }

    #[test]
    fn ids_round_trip_and_unreadable_ones_are_not_listed() {
        for id in 0..400 {
            match TensorType::from_id(id) {
                Some(ty) => assert_eq!(ty.id(), id),
                None => assert!(!unreadable(id).1.is_empty()),
            }
        }
        assert_eq!(TensorType::from_id(36), Some(TensorType::I2S));
    }
}
