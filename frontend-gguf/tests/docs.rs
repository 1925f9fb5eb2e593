//! The generated parts of `docs/formats.md` are what the code says. `BITNETC_BLESS=1` writes them again.

use std::fmt::Write;
use std::path::Path;

use bitnetc_frontend_gguf::keys::{Meaning, Neutral, OF_ARCHITECTURE, OF_FILE};
use bitnetc_frontend_gguf::tensor_type::{Storage, TensorType};
use bitnetc_frontend_gguf::tokenizer_meta::END_NAMES;
use bitnetc_frontend_gguf::{arch, encode, limits};
use bitnetc_ir::Pairs;

fn document() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/formats.md")
}

/// Compares what stands between the marks of `name` with `expected`, or writes it.
fn check(name: &str, expected: &str) {
    let text = std::fs::read_to_string(document()).unwrap();
    let (start, end) = (format!("<!-- generated: {name} -->\n"), "<!-- end of generated part -->\n");
    let at =
        text.find(&start).unwrap_or_else(|| panic!("docs/formats.md has no part \"{name}\"")) + start.len();
    let length = text[at..].find(end).unwrap();
    if std::env::var_os("BITNETC_BLESS").is_some() {
        let new = [&text[..at], expected, &text[at + length..]].concat();
        std::fs::write(document(), new).unwrap();
        return;
    }
    let found = &text[at..at + length];
    assert!(found == expected, "\"{name}\" is out of date (BITNETC_BLESS=1 writes it):\n{found}\n{expected}");
}

/// One test for all parts, so that they do not write the file at the same time.
#[test]
fn generated_parts_are_current() {
    check("sizes of tensor types", &sizes());
    check("architectures", &architectures());
    check("limits", &limit_table());
    check("metadata keys", &key_table());
    check("names of end tokens", &end_names());
}

fn sizes() -> String {
    let mut out = "| id | type | a row is a multiple of | bytes | bits a weight | `import --type` and tests write it |\n|---|---|---|---|---|---|\n".to_owned();
    for &ty in TensorType::ALL {
        let (elements, bytes) = match ty.storage() {
            Storage::Blocks { elements, bytes } => (elements, format!("{bytes} a block")),
            Storage::RowBlocks { header, elements, bytes, rows: 1 } => {
                (elements, format!("{bytes} a block, {header} a row"))
            }
            Storage::RowBlocks { header, elements, bytes, rows } => {
                (elements, format!("{bytes} a block, {header} a row, {rows} rows together"))
            }
            Storage::I2S => (ty.block_elements(), "32 a block, 32 a tensor".to_owned()),
        };
        // Of a large square matrix, where headers hardly count.
        let n = 1 << 13;
        let bits = 8.0 * ty.tensor_bytes(n, n).unwrap() as f64 / (n * n) as f64;
        let written = if encode::TERNARY_TYPES.contains(&ty) { "yes" } else { "" };
        let (id, name) = (ty.id(), ty.name());
        let multiple = if elements == 1 { String::new() } else { elements.to_string() };
        writeln!(out, "| {id} | {name} | {multiple} | {bytes} | {bits:.2} | {written} |").unwrap();
    }
    out
}

fn architectures() -> String {
    let mut out = "| `general.architecture` | gate | RoPE pairs | default context, theta | tensors of a layer |\n|---|---|---|---|---|\n".to_owned();
    for family in arch::FAMILIES {
        let names: Vec<String> = family.architectures.iter().map(|a| format!("`{a}`")).collect();
        let gates: Vec<&str> = family.activations.iter().map(|a| a.name()).collect();
        let pairs = match family.rope {
            Pairs::Halves => "halves",
            Pairs::Interleaved => "neighbours",
        };
        let tensors: Vec<String> = family
            .layer_tensors
            .iter()
            .map(|t| match t.suffix {
                ".weight" => t.stem.to_owned(),
                "" => format!("{} (no suffix)", t.stem),
                suffix => format!("{}{suffix}", t.stem),
            })
            .collect();
        writeln!(
            out,
            "| {} | {} | {pairs} | {}, {} | {} |",
            names.join(", "),
            gates.join(", else "),
            family.defaults.context,
            family.defaults.rope_theta,
            tensors.join(", ")
        )
        .unwrap();
    }
    out
}

fn key_table() -> String {
    let mut out = "| key | | about |\n|---|---|---|\n".to_owned();
    let own = OF_ARCHITECTURE.iter().map(|key| ("ARCH.", key));
    for (prefix, key) in own.chain(OF_FILE.iter().map(|key| ("", key))) {
        let meaning = match key.meaning {
            Meaning::Honoured => "followed".to_owned(),
            Meaning::Harmless => "harmless".to_owned(),
            Meaning::Noted(neutral) => with_values("noted", neutral),
            Meaning::Refused(neutral) => {
                let own =
                    followed_by(key.name).into_iter().map(|arch| format!("followed in `{arch}`, else "));
                own.collect::<String>() + &with_values("refused", neutral)
            }
        };
        writeln!(out, "| `{prefix}{}` | {meaning} | {} |", key.name, key.about).unwrap();
    }
    out
}

/// The architectures that follow a key, or one of the keys, which others refuse.
fn followed_by(name: &str) -> Vec<&'static str> {
    let of = |family: &&&arch::Family| {
        let keys = family.hybrid.map_or(&[][..], |hybrid| hybrid.keys);
        match name.strip_suffix('*') {
            Some(start) => keys.iter().any(|key| key.starts_with(start)),
            None => keys.contains(&name),
        }
    };
    arch::FAMILIES.iter().filter(of).map(|family| family.architectures[0]).collect()
}

/// A meaning with the values that are neutral.
fn with_values(meaning: &str, neutral: Neutral) -> String {
    let or = |all: Vec<String>| all.join(" or ");
    let values = match neutral {
        Neutral::Never => return meaning.to_owned(),
        Neutral::OneOf(names) => or(names.iter().map(|name| format!("`{name}`")).collect()),
        Neutral::Numbers(all) => or(all.iter().map(f32::to_string).collect()),
        Neutral::Bool(b) => b.to_string(),
        Neutral::AtLeastContext => "0, −1 or at least the context length".to_owned(),
        Neutral::InverseRootOfHead => "0 or 1/√(elements of a head)".to_owned(),
        Neutral::EmbeddingLength => "0 or `embedding_length`".to_owned(),
    };
    format!("{meaning} unless {values}")
}

fn end_names() -> String {
    let names: Vec<String> = END_NAMES.iter().map(|name| format!("`{name}`")).collect();
    format!("Names of end tokens: {}.\n", names.join(", "))
}

fn limit_table() -> String {
    macro_rules! rows {
        ($($name:ident)*) => { vec![$((stringify!($name), limits::$name as u64)),*] };
    }
    let rows = rows!(
        MAX_PARTS MAX_KEYS MAX_TENSORS MAX_KEY_BYTES MAX_TENSOR_NAME_BYTES MAX_STRING_BYTES MAX_ARRAY_LEN
        MAX_ARRAY_DEPTH MAX_DIMS MAX_ELEMENTS DEFAULT_ALIGNMENT MIN_ALIGNMENT MAX_ALIGNMENT MAX_LAYERS MAX_WIDTH
        MAX_HEADS MAX_CONTEXT MAX_VOCAB MAX_TEMPLATE_BYTES
    );
    // All of them, with the first sentence of each.
    let source =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/limits.rs")).unwrap();
    let mut out = "| limit | value | of |\n|---|---|---|\n".to_owned();
    let mut doc = None;
    let mut names = rows.iter();
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            doc.get_or_insert(text);
        } else if let Some(rest) = line.strip_prefix("pub const ") {
            let (name, value) = names.next().unwrap_or_else(|| panic!("{rest} is not in the table"));
            assert!(rest.starts_with(&format!("{name}:")), "{rest} is not {name}");
            let of = doc.take().unwrap_or_default().trim_end_matches('.');
            writeln!(out, "| `{name}` | {value} | {of} |").unwrap();
        }
    }
    assert_eq!(names.next(), None);
    out
}
