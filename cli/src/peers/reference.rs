//! The tables of `docs/from-llama-cpp.md`, made from the table of flags: a test compares them, and records them with
//! `BITNETC_RECORD_REFERENCE=1`.

use std::fmt::Write;
use std::path::Path;

use super::COMMANDS;
use super::flags::{FLAGS, Flag, Meaning, Tool};

/// Where the tables begin and end in the page.
const BEGIN: &str = "<!-- made from cli/src/peers/flags.rs by a test: begin -->\n";
const END: &str = "<!-- end -->\n";

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn tools(flag: &Flag) -> String {
    match flag.tools.len() {
        n if n == Tool::ALL.len() => "all".to_owned(),
        _ => flag.tools.iter().map(|tool| tool.name()).collect::<Vec<_>>().join(", "),
    }
}

fn meaning(flag: &Flag) -> String {
    match flag.meaning {
        Meaning::Option(option) => format!("`{option}`"),
        Meaning::Words(words) => format!("`{}`", words.join(" ")),
        Meaning::Switch { on, off } => format!("`{on}`, or `{off}` for 0"),
        Meaning::Nothing(why) => format!("no effect: {why}"),
        Meaning::Refused(instead) => format!("refused: {instead}"),
        Meaning::Off(instead) => format!("off is accepted, else refused: {instead}"),
        Meaning::Repo => "`-m hf:org/repo`".to_owned(),
        Meaning::RepoFile => "`-m hf:org/repo:FILE`, with -hf".to_owned(),
        Meaning::KvType => {
            "`--kv-type` f16 or f32, the same for keys and values; others are refused".to_owned()
        }
    }
}

fn tables() -> String {
    let mut text = "| your flag | in | here |\n|---|---|---|\n".to_owned();
    for flag in FLAGS {
        let names: Vec<String> = flag.names.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(text, "| {} | {} | {} |", names.join(" "), tools(flag), cell(&meaning(flag)));
    }
    text += "\n| your command | here |\n|---|---|\n";
    for (name, instead) in COMMANDS {
        let _ = writeln!(text, "| `{name}` | {} |", cell(instead));
    }
    text
}

#[test]
fn the_page_has_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/from-llama-cpp.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let expected = tables();
    if std::env::var_os("BITNETC_RECORD_REFERENCE").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        return;
    }
    assert!(expected == found, "docs/from-llama-cpp.md differs: record it with BITNETC_RECORD_REFERENCE=1");
}
