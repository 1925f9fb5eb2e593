//! The tables of fields in the documentation, made from [`FIELDS`]: tests compare them, and record them with
//! `BITNETC_RECORD_REFERENCE=1`.

use std::fmt::Write;

use super::Route;
use super::fields::{FIELDS, Field, Kind, Treatment};

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn names(field: &Field) -> String {
    let names: Vec<String> = field.names().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// A route in a table, by one word or the end of its path; those that count tokens have the fields of those whose tokens they count.
fn word(route: Route) -> Option<&'static str> {
    match route {
        Route::ChatCompletions => Some("chat"),
        Route::Completions => Some("text"),
        Route::Responses => Some("responses"),
        Route::Messages => Some("messages"),
        Route::LlamaCompletion => Some("`/completion`"),
        Route::OllamaChat => Some("`/api/chat`"),
        Route::OllamaGenerate => Some("`/api/generate`"),
        Route::ChatTokens | Route::ResponseTokens | Route::CountTokens => None,
    }
}

/// Where a field is known.
fn place(field: &Field) -> String {
    let words = |has: bool| {
        let routes = Route::ALL.into_iter().filter(|route| field.routes.has(*route) == has);
        routes.filter_map(word).collect::<Vec<_>>()
    };
    match (&words(true)[..], &words(false)[..]) {
        (_, []) => "all".to_owned(),
        (_, [out]) => format!("all but {out}"),
        (_, [one, two]) => format!("all but {one}, {two}"),
        (on, _) => on.join(", "),
    }
}

/// The fields but those that ask for forms: what is read, and what becomes of others.
pub fn fields_table() -> String {
    let mut text = "| field | on | value | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    let is_read = |field: &&Field| field.treatment == Treatment::Read;
    for field in FIELDS.iter().filter(is_read).filter(|field| !matches!(field.kind, Kind::Form(_))) {
        let (names, place, kind) = (names(field), place(field), field.kind.describe());
        let _ =
            writeln!(text, "| {names} | {place} | {kind} | {} | {} |", field.default, cell(field.meaning));
    }
    text += "\n| field | on | |\n|---|---|---|\n";
    for field in FIELDS {
        let what = match field.treatment {
            Treatment::Read => continue,
            Treatment::Ignored => "ignored".to_owned(),
            Treatment::Refused(_) if field.default.is_empty() => {
                "refused unless it is empty or off".to_owned()
            }
            Treatment::Refused(_) => format!("refused unless it is {}", field.default),
        };
        let _ = writeln!(text, "| {} | {} | {what}: {} |", names(field), place(field), cell(field.meaning));
    }
    text
}

/// The fields that ask for forms.
pub fn forms_table() -> String {
    let mut text = "| field | value |\n|---|---|\n".to_owned();
    for field in FIELDS.iter().filter(|field| matches!(field.kind, Kind::Form(_))) {
        let _ = writeln!(text, "| {} | {} |", names(field), cell(field.meaning));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BEGIN: &str = "<!-- made from src/api/fields.rs by a test: begin -->\n";
    const END: &str = "<!-- end -->\n";

    fn holds(page: &str, expected: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (found, after) = rest.split_once(END).unwrap();
        if std::env::var_os("BITNETC_RECORD_REFERENCE").is_some() {
            std::fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
            return;
        }
        assert!(expected == found, "docs/{page} differs: record it with BITNETC_RECORD_REFERENCE=1");
    }

    #[test]
    fn the_pages_have_the_tables() {
        holds("serving.md", &fields_table());
        holds("structured-output.md", &forms_table());
    }
}
