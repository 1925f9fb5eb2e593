//! The property behind the fuzz target `import`, shared with the test that replays its seeds: a checkpoint is refused, or
//! the file that it becomes is accepted by the front-end, weights included.

use bitnetc_frontend_gguf::Model;
use bitnetc_import::{Checkpoint, Import, ImportError, Options};

/// Bytes of weights that an input can ask for; they are zeros.
const MOST_DATA: usize = 1 << 20;

/// An input of these parts: lengths of the first two (u16) and of the weights (u32), then the parts.
pub(crate) fn input(config: &str, tokenizer: &str, header: &str, data: u32) -> Vec<u8> {
    let lengths = [config.len() as u16, tokenizer.len() as u16].map(u16::to_le_bytes).concat();
    [&lengths[..], &data.to_le_bytes(), config.as_bytes(), tokenizer.as_bytes(), header.as_bytes()].concat()
}

/// A checkpoint of one layer, 128 wide.
pub(crate) fn good() -> Vec<u8> {
    let config = r#"{"architectures":["BitNetForCausalLM"],"vocab_size":6,"hidden_size":128,"intermediate_size":128,
"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"max_position_embeddings":64,"rms_norm_eps":1e-5,
"rope_theta":1e4,"hidden_act":"relu2","tie_word_embeddings":true,"eos_token_id":[4],
"quantization_config":{"quant_method":"bitnet","linear_class":"autobitlinear"}}"#;
    let tokenizer = r#"{"model":{"type":"BPE","ignore_merges":true,"vocab":{"a":0,"b":1,"ab":2,"Ġ":3},"merges":["a b"]},
"added_tokens":[{"id":4,"content":"<|end|>","special":true}],"pre_tokenizer":{"type":"Sequence","pretokenizers":[
{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
"behavior":"Isolated"},{"type":"ByteLevel","use_regex":false}]}}"#;
    let (mut header, mut at) = (String::from("{"), 0);
    let mut add = |name: &str, dtype: &str, shape: &[u32], bytes: u32| {
        let comma = if at == 0 { "" } else { "," };
        let end = at + bytes;
        header += &format!(
            "{comma}\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{at},{end}]}}"
        );
        at = end;
    };
    add("model.embed_tokens.weight", "BF16", &[6, 128], 6 * 256);
    add("model.norm.weight", "BF16", &[128], 256);
    for norm in ["input_layernorm", "post_attention_layernorm", "self_attn.attn_sub_norm", "mlp.ffn_sub_norm"]
    {
        add(&format!("model.layers.0.{norm}.weight"), "BF16", &[128], 256);
    }
    for (module, rows) in [
        ("self_attn.q_proj", 128),
        ("self_attn.k_proj", 64),
        ("self_attn.v_proj", 64),
        ("self_attn.o_proj", 128),
        ("mlp.gate_proj", 128),
        ("mlp.up_proj", 128),
        ("mlp.down_proj", 128),
    ] {
        add(&format!("model.layers.0.{module}.weight"), "U8", &[rows / 4, 128], rows * 32);
        add(&format!("model.layers.0.{module}.weight_scale"), "BF16", &[1], 2);
    }
    header.push('}');
    input(config, tokenizer, &header, at)
}

/// Runs the property on `input`; whether it is a checkpoint.
///
/// # Panics
/// If the property does not hold.
pub(crate) fn check(input: &[u8]) -> bool {
    let Some((&[c0, c1, t0, t1, d0, d1, d2, d3], rest)) = input.split_first_chunk::<8>() else {
        return false;
    };
    let length = |low, high| usize::from(u16::from_le_bytes([low, high]));
    let (config, rest) = rest.split_at(length(c0, c1).min(rest.len()));
    let (tokenizer, header) = rest.split_at(length(t0, t1).min(rest.len()));
    let data = (u32::from_le_bytes([d0, d1, d2, d3]) as usize).min(MOST_DATA);
    let mut shard = (header.len() as u64).to_le_bytes().to_vec();
    shard.extend_from_slice(header);
    shard.resize(shard.len() + data, 0);
    let checkpoint = Checkpoint {
        config,
        tokenizer,
        shards: vec![("model.safetensors", &shard)],
        ..Checkpoint::default()
    };
    let mut file = Vec::new();
    let import = Import::read(&checkpoint, &Options::default());
    let import = match import {
        Ok(import) => import,
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            return false;
        }
    };
    let written = import.write(|piece: &[u8]| {
        file.extend_from_slice(piece);
        Ok::<_, ImportError>(())
    });
    if written.is_err() {
        return false;
    }
    assert_eq!(file.len() as u64, import.file_bytes());
    let model = Model::open(&file).unwrap_or_else(|e| panic!("what was imported is refused: {e}"));
    model.check_weights().unwrap_or_else(|e| panic!("weights that were imported are refused: {e}"));
    true
}
