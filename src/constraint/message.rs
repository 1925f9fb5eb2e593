//! What is said of a grammar that the engine refuses: its words, without what speaks of its insides.

/// The places of repetitions, classes and the like that expressions do not have here.
const LOOK_AROUND: &str = "look-around, such as (?=…), (?<=…) and \\b, is not supported";

/// On a regular expression: what is wrong, with a caret under the place.
pub(super) fn of_regex(reason: &str) -> String {
    if reason.contains("lookarounds not supported") {
        return LOOK_AROUND.to_owned();
    }
    let mut lines = reason.lines().skip_while(|line| !line.contains("regex parse error")).skip(1);
    let shown: Vec<String> = lines.by_ref().take_while(|line| line.starts_with("    ")).map(short).collect();
    // What ended the lines above is the error.
    let error = reason.lines().find_map(|line| line.strip_prefix("error: "));
    match error {
        Some(error) => format!("{error}\n{}", shown.join("\n")),
        None => short(reason.lines().next().unwrap_or_default()),
    }
}

/// On a grammar in Lark: line, column and what is wrong, then the lines around it with a caret.
pub(super) fn of_lark(reason: &str) -> String {
    let mut lines = reason.lines().filter(|line| !line.trim_start().starts_with("while processing"));
    let first = lines.next().unwrap_or_default();
    let (place, what) = match first.trim_start_matches("at ").split_once("): ") {
        Some((place, what)) => (place.split_once('('), what),
        None => (None, first),
    };
    let what =
        what.split(" (at \"").next().unwrap_or_default().split("; following").next().unwrap_or_default();
    let what = what.replace(r"found '\n'", "found the end of the line").replace(": regex parse error:", "");
    let error = reason.lines().find_map(|line| line.strip_prefix("error: "));
    let mut message = match place {
        Some((line, column)) => format!("line {line}, column {column}: {}", short(&what)),
        None => short(&what),
    };
    if let Some(error) = error {
        message.push_str(": ");
        message.push_str(error);
    }
    let shown = lines.filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit() || c == '^'));
    for line in shown.take(6) {
        message.push('\n');
        message.push_str(&short(line));
    }
    message
}

/// On a part of a JSON schema.
pub(super) fn of_schema(reason: &str) -> String {
    let known = [
        (
            "Unable to determine if regex is empty",
            "the pattern is too complex to be combined with the limits beside it",
        ),
        ("can't determine if patternProperty", "its patternProperties are too complex to be told apart"),
        (
            "circular references with sibling keys",
            "references in a circle are not supported where other keywords stand beside them",
        ),
        (
            "min/maxProperties only supported",
            "minProperties and maxProperties are supported where all named properties are required",
        ),
        (
            "patternProperty regexes",
            "several of its patternProperties may match the same name, which is not supported",
        ),
        ("lookarounds not supported", LOOK_AROUND),
    ];
    if let Some((_, plain)) = known.into_iter().find(|(words, _)| reason.contains(words)) {
        return plain.to_owned();
    }
    match reason.lines().find_map(|line| line.strip_prefix("error: ")) {
        Some(error) => format!("a pattern in it is not supported: {error}"),
        None => {
            let first = reason.lines().next().unwrap_or_default();
            short(first.split_once("failed to compile JSON schema: ").map_or(first, |(_, what)| what))
        }
    }
}

/// A line that fits into a message.
fn short(line: &str) -> String {
    line.chars().take(200).collect()
}
