//! Every bound that a checkpoint has to respect, as named constants. Sizes of the model itself are bounded by
//! [`bitnetc_frontend_gguf::limits`].

/// Bytes of `config.json` and `generation_config.json`.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;
/// Bytes of `tokenizer.json`; that of LLaMA 3 has 9 to 17 MB.
pub const MAX_TOKENIZER_BYTES: usize = 64 << 20;
/// Bytes of `tokenizer_config.json`, `chat_template.jinja` and `model.safetensors.index.json`, each.
pub const MAX_SIDE_FILE_BYTES: usize = 16 << 20;
/// Bytes of the JSON header of a safetensors file. That of a model of 512 layers has less than 1 MiB.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;
/// Tensors of a checkpoint.
pub const MAX_TENSORS: usize = 65_536;
/// Bytes of the name of a tensor or a shard.
pub const MAX_NAME_BYTES: usize = 512;
/// Dimensions of a tensor.
pub const MAX_DIMS: usize = 8;
/// Shards of a checkpoint.
pub const MAX_SHARDS: usize = 1024;
/// Largest token id, exclusive.
pub const MAX_TOKENS: usize = bitnetc_frontend_gguf::limits::MAX_VOCAB as usize;

/// Bytes of decoded weights that are held at a time; a single row may have more.
pub const BAND_BYTES: usize = 1 << 20;
/// The JSON files together, times this, is a bound on the memory that their contents take.
pub const METADATA_FACTOR: usize = 16;
