//! The guides in `docs/` show code that is in the tree: a block behind `<!-- all of FILE -->` is the file, one behind
//! `<!-- part of FILE -->` stands in it, line for line.

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
        [("write-a-pass.md", 1), ("add-an-op.md", 6), ("write-a-kernel.md", 1), ("add-a-format.md", 3)]
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
