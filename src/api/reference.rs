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

/// Where a field is known: empty for all routes that the others are on.
fn place(field: &Field) -> &'static str {
    match (field.routes.has(Route::ChatCompletions), field.routes.has(Route::Completions)) {
        (true, false) => "chat",
        (false, true) => "text",
        _ => "both",
    }
}

/// Whether a field is of OpenAI's routes.
fn is_openai(field: &&Field) -> bool {
    field.routes.has(Route::ChatCompletions) || field.routes.has(Route::Completions)
}

/// The fields of OpenAI's routes but those that ask for forms: what is read, and what becomes of others.
pub fn fields_table() -> String {
    let mut text = "| field | on | value | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    let is_form = |field: &Field| matches!(field.kind, Kind::Form(_));
    for field in FIELDS.iter().filter(is_openai).filter(|field| !is_form(field)) {
        if field.treatment == Treatment::Read {
            let (kind, meaning) = (field.kind.describe(), cell(field.meaning));
            let _ = writeln!(
                text,
                "| {} | {} | {kind} | {} | {meaning} |",
                names(field),
                place(field),
                field.default
            );
        }
    }
    text += "\n| field | on | |\n|---|---|---|\n";
    for field in FIELDS.iter().filter(is_openai) {
        let what = match field.treatment {
            Treatment::Read => continue,
            Treatment::Ignored => "ignored",
            Treatment::Refused(_) => "refused unless it asks for nothing",
        };
        let _ = writeln!(text, "| {} | {} | {what}: {} |", names(field), place(field), cell(field.meaning));
    }
    text + &dialects_table()
}

/// The fields that only the routes of other APIs have.
fn dialects_table() -> String {
    let mut text = "\n| field of other APIs | on | value | meaning |\n|---|---|---|---|\n".to_owned();
    for field in FIELDS.iter().filter(|field| !is_openai(field)) {
        let on = Route::ALL.into_iter().filter(|route| field.routes.has(*route));
        let on: Vec<String> = on.map(|route| format!("`{}`", route.path())).collect();
        let kind = match field.treatment {
            Treatment::Read => field.kind.describe(),
            Treatment::Ignored => "ignored".to_owned(),
            Treatment::Refused(_) => "refused unless it asks for nothing".to_owned(),
        };
        let _ = writeln!(text, "| {} | {} | {kind} | {} |", names(field), on.join(", "), cell(field.meaning));
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
