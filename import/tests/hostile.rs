//! Damaged checkpoints, and what importing holds in memory, under a counting allocator. One test, because the counts are
//! of the whole process.

#[path = "../../tests/common/counting.rs"]
mod counting;

use std::path::Path;

use bitnetc_frontend_gguf::testing::Rng;
use bitnetc_frontend_gguf::{Model, TensorType};
use bitnetc_import::{Checkpoint, Import, ImportError, Options, limits, shard_names};
use counting::peak_of;

/// The bytes of a checkpoint, with the names of the files.
#[derive(Clone)]
struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/checkpoints").join(name);
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        Self(files)
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(file, _)| file == name).map(|(_, bytes)| &bytes[..])
    }

    fn set(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.retain(|(file, _)| file != name);
        self.0.push((name.to_owned(), bytes));
    }

    /// Bytes of everything but the weights: the JSON files, the template, and the headers of shards.
    fn metadata(&self) -> usize {
        let header =
            |bytes: &[u8]| bytes.first_chunk().map_or(0, |n| u64::from_le_bytes(*n).min(bytes.len() as u64));
        let bytes = |(name, bytes): &(String, Vec<u8>)| match name.ends_with(".safetensors") {
            true => header(bytes) as usize,
            false => bytes.len(),
        };
        self.0.iter().map(bytes).sum()
    }

    fn read(&self, options: &Options) -> Result<Import<'_>, ImportError> {
        let index = self.find("model.safetensors.index.json");
        let names = match index {
            Some(index) => shard_names(index)?,
            None => vec!["model.safetensors".to_owned()],
        };
        let shards = self.0.iter().filter(|(file, _)| names.contains(file));
        let checkpoint = Checkpoint {
            config: self.find("config.json").unwrap_or_default(),
            generation_config: self.find("generation_config.json"),
            tokenizer: self.find("tokenizer.json").unwrap_or_default(),
            tokenizer_config: self.find("tokenizer_config.json"),
            chat_template: self.find("chat_template.jinja"),
            index,
            shards: shards.map(|(name, bytes)| (name.as_str(), &bytes[..])).collect(),
        };
        Import::read(&checkpoint, options)
    }

    /// Reads and converts everything without keeping it; returns the length of the file.
    fn convert(&self, options: &Options) -> Result<u64, ImportError> {
        let import = self.read(options)?;
        let mut bytes = 0;
        import.write(|piece: &[u8]| {
            bytes += piece.len() as u64;
            Ok::<_, ImportError>(())
        })?;
        assert_eq!(bytes, import.file_bytes());
        Ok(bytes)
    }
}

/// What may be held: the contents of the metadata, a band of weights as floats and as they are stored, and what each
/// thread needs for its rows.
fn bound(files: &Files) -> usize {
    limits::METADATA_FACTOR * files.metadata() + 4 * limits::BAND_BYTES
}

/// Changes a few bytes of one file.
fn damage(files: &mut Files, rng: &mut Rng) {
    let at = rng.below(files.0.len());
    let bytes = &mut files.0[at].1;
    if bytes.is_empty() {
        return;
    }
    let place = |rng: &mut Rng, len: usize| match rng.below(2) {
        0 => rng.below(len.min(4096)),
        _ => rng.below(len),
    };
    match rng.below(5) {
        0 => {
            let at = place(rng, bytes.len());
            bytes[at] ^= 1 << rng.below(8);
        }
        1 => {
            let at = place(rng, bytes.len());
            bytes.truncate(at);
        }
        2 => {
            // Digits, so that numbers change and the text stays JSON.
            let at = place(rng, bytes.len());
            let digit = bytes[at..].iter().position(u8::is_ascii_digit);
            if let Some(digit) = digit {
                bytes[at + digit] = b'0' + rng.below(10) as u8;
                if rng.below(4) == 0 {
                    bytes.splice(at + digit..at + digit, *b"99999999999");
                }
            }
        }
        3 => {
            let (from, to) = (place(rng, bytes.len()), place(rng, bytes.len()));
            let len = (1 + rng.below(200)).min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + len, to);
        }
        _ => {
            files.0[at].1 = files.0[rng.below(files.0.len())].1.clone();
        }
    }
}

/// A checkpoint of master weights with large layers and a large vocabulary.
fn large() -> Files {
    let mut files = Files::open("bitnet_master");
    let (hidden, ffn, vocab) = (768usize, 2048usize, 12_000usize);
    let mut config: serde_json::Value = serde_json::from_slice(files.find("config.json").unwrap()).unwrap();
    for (key, n) in [("hidden_size", hidden), ("intermediate_size", ffn), ("vocab_size", vocab)] {
        config[key] = n.into();
    }
    config["num_attention_heads"] = 8.into();
    config["num_key_value_heads"] = 8.into();
    files.set("config.json", serde_json::to_vec(&config).unwrap());
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(files.find("tokenizer.json").unwrap()).unwrap();
    for id in 264..vocab {
        tokenizer["model"]["vocab"][format!("token{id}")] = id.into();
    }
    files.set("tokenizer.json", serde_json::to_vec(&tokenizer).unwrap());
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let shapes = [
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
        (layer("input_layernorm"), vec![hidden]),
        (layer("post_attention_layernorm"), vec![hidden]),
        (layer("self_attn.attn_sub_norm"), vec![hidden]),
        (layer("mlp.ffn_sub_norm"), vec![ffn]),
        (layer("self_attn.q_proj"), vec![hidden, hidden]),
        (layer("self_attn.k_proj"), vec![hidden, hidden]),
        (layer("self_attn.v_proj"), vec![hidden, hidden]),
        (layer("self_attn.o_proj"), vec![hidden, hidden]),
        (layer("mlp.gate_proj"), vec![ffn, hidden]),
        (layer("mlp.up_proj"), vec![ffn, hidden]),
        (layer("mlp.down_proj"), vec![hidden, ffn]),
    ];
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in &shapes {
        let bytes = 2 * shape.iter().product::<usize>();
        header.insert(
            name.clone(),
            serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, at + bytes]}),
        );
        at += bytes;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(&header);
    // Numbers from 0.0078 to 2, of both signs.
    file.extend(
        (0..at / 2)
            .flat_map(|i| ((0x3c00u16 + (i * 31 % 1024) as u16) | (((i as u16) & 1) << 15)).to_le_bytes()),
    );
    files.set("model.safetensors", file);
    files
}

#[test]
fn damage_is_refused_and_memory_does_not_grow_with_the_weights() {
    // A checkpoint with 30 MB of weights.
    let files = large();
    for target in [TensorType::I2S, TensorType::Tq1_0, TensorType::F32] {
        let options = Options { target, ..Options::default() };
        let (converted, used) = peak_of(|| files.convert(&options));
        println!(
            "{}: {} bytes from {}, peak {used}, of metadata {}",
            target.name(),
            converted.unwrap(),
            files.find("model.safetensors").unwrap().len(),
            files.metadata()
        );
        assert!(used < bound(&files), "{used} of {}", bound(&files));
    }
    drop(files);

    let (mut accepted, mut refused, mut largest) = (0, 0, 0);
    for name in ["bitnet_packed", "bitnet_master", "llama_packed"] {
        let good = Files::open(name);
        let mut whole = Vec::new();
        good.read(&Options::default())
            .unwrap()
            .write(|piece: &[u8]| {
                whole.extend_from_slice(piece);
                Ok::<_, ImportError>(())
            })
            .unwrap();
        Model::open(&whole).unwrap().check_weights().unwrap();
        for round in 0..500 {
            let mut rng = Rng::new(round);
            let mut bad = good.clone();
            (0..=rng.below(2)).for_each(|_| damage(&mut bad, &mut rng));
            let (result, used) = peak_of(|| bad.convert(&Options::default()));
            largest = largest.max(used);
            assert!(used < bound(&bad) + (1 << 20), "{name}, round {round}: {used}");
            match result {
                Ok(_) => accepted += 1,
                Err(error) => {
                    refused += 1;
                    let message = error.to_string();
                    assert!(!message.contains(char::is_control) && message.len() < 2000, "{message:?}");
                }
            }
        }
    }
    println!("{accepted} accepted, {refused} refused, at most {largest} bytes");
    assert!(accepted > 100 && refused > 500, "{accepted} accepted, {refused} refused");
}
