//! The guides in `docs/` show code that is in the tree: a block behind `<!-- all of FILE -->` is the file, one behind
//! `<!-- part of FILE -->` stands in it, line for line. Every decision in `docs/adr/` says whether it holds.

use std::fs;
use std::path::Path;

/// Blocks of a page: the words of the comment in front, and the lines.
fn blocks(page: &str) -> Vec<(bool, String, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(comment) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) else { continue };
        let (whole, file) = match comment.strip_prefix("all of ") {
            Some(file) => (true, file),
            None => match comment.strip_prefix("part of ") {
                Some(file) => (false, file),
                None => continue,
            },
        };
        assert_eq!(lines.next(), Some("```rust"), "behind {line}");
        let code: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        found.push((whole, file.to_owned(), code.join("\n") + "\n"));
    }
    found
}

#[test]
fn guides_show_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (page, least) in
        [("write-a-pass.md", 1), ("add-an-op.md", 6), ("write-a-kernel.md", 3), ("add-a-format.md", 3)]
    {
        let text = fs::read_to_string(root.join("docs").join(page)).unwrap();
        let blocks = blocks(&text);
        assert!(blocks.len() >= least, "{page} shows {} blocks", blocks.len());
        for (whole, file, code) in blocks {
            let source = fs::read_to_string(root.join(&file)).unwrap();
            match whole {
                true => assert_eq!(code, source, "{page}: {file}"),
                false => assert!(source.contains(&code), "{page}: this is not in {file}:\n{code}"),
            }
        }
    }
}

/// The numbers of the ADRs that `text` names.
fn adrs_named(text: &str) -> Vec<u32> {
    let after = text.split("ADR ").skip(1);
    after
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap())
        .collect()
}

/// The paragraph behind the title is the status: what became of the decision, and by which other one.
#[test]
fn every_decision_has_a_status() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/adr");
    let mut pages: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    for (number, page) in (1u32..).zip(&pages) {
        let text = fs::read_to_string(page).unwrap();
        let name = page.display();
        let mut paragraphs = text.split("\n\n");
        let title = paragraphs.next().unwrap();
        assert!(title.starts_with(&format!("# {number}. ")), "{name}: its title is {title}");
        let status = paragraphs.next().and_then(|p| p.strip_prefix("Status: "));
        let status = status.unwrap_or_else(|| panic!("{name}: no paragraph `Status: …` behind the title"));
        let word = status.split([';', '.', ' ']).next().unwrap();
        assert!(["proposed", "accepted", "superseded"].contains(&word), "{name}: {status}");
        assert!(status.ends_with('.'), "{name}: {status}");
        // What came of it is in a later decision, and one that has been replaced says by which.
        let others = adrs_named(status);
        assert!(others.iter().all(|&n| number < n && n <= pages.len() as u32), "{name}: {status}");
        assert!(word != "superseded" || !others.is_empty(), "{name}: {status}");
    }
}
