//! An answer as it is generated, on a terminal or through a pipe.
//!
//! Invariants: an answer begins with its first character that is not blank. On a terminal, lines are wrapped at words, but not
//! inside a fenced code block; a word is written when it is complete. Through a pipe or into a file every character is written as
//! it is generated, and no line is broken.

use unicode_width::UnicodeWidthChar;

use crate::failure::Failure;
use crate::output;
use crate::style;
use crate::terminal::RawArgs;

/// The writer of one answer.
pub(super) struct Screen<'a> {
    raw: &'a RawArgs,
    /// Whether anything but blanks has come.
    begun: bool,
    wrap: Option<Wrap>,
}

impl<'a> Screen<'a> {
    /// A writer to stdout; wraps if that is a terminal.
    pub(super) fn new(raw: &'a RawArgs) -> Self {
        Self { raw, begun: false, wrap: style::stdout_columns().map(Wrap::new) }
    }

    /// Writes the next piece.
    pub(super) fn piece(&mut self, piece: &str) -> Result<(), Failure> {
        let piece = if self.begun { piece } else { piece.trim_start() };
        if piece.is_empty() {
            return Ok(());
        }
        self.begun = true;
        match &mut self.wrap {
            None => self.raw.print(piece),
            Some(wrap) => output::print_as_is(&wrap.push(&self.raw.shown(piece, &std::io::stdout()))),
        }
    }

    /// Writes what is left, and the end of the line.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        let rest = self.wrap.as_mut().map(Wrap::finish).unwrap_or_default();
        output::print_as_is(&(rest + "\n"))
    }
}

/// Breaks lines at blanks.
#[derive(Debug)]
struct Wrap {
    /// Columns of the terminal.
    width: usize,
    /// Columns of the current line that are taken.
    column: usize,
    /// Blanks after the last word, not yet written.
    gap: String,
    /// A word that may go on.
    word: String,
    /// Its columns.
    word_columns: usize,
    /// Whether no word of the current line of the text has been written.
    at_start: bool,
    /// Whether the current line of the text is left as it is.
    verbatim: bool,
    /// Whether a code block is open.
    fenced: bool,
}

impl Wrap {
    fn new(width: usize) -> Self {
        Self {
            width,
            column: 0,
            gap: String::new(),
            word: String::new(),
            word_columns: 0,
            at_start: true,
            verbatim: false,
            fenced: false,
        }
    }

    /// What can be written of the text so far.
    fn push(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '\n' => self.end_line(&mut out),
                ' ' | '\t' => {
                    self.end_word(&mut out);
                    self.gap.push(c);
                }
                c => self.add(c, &mut out),
            }
        }
        out
    }

    /// The rest of the text.
    fn finish(&mut self) -> String {
        let mut out = String::new();
        self.end_word(&mut out);
        out
    }

    /// A character of a word. Scripts without blanks can be broken at each of their wide characters.
    fn add(&mut self, c: char, out: &mut String) {
        let columns = c.width().unwrap_or(0);
        if columns > 1 {
            self.end_word(out);
        }
        self.word.push(c);
        self.word_columns += columns;
        if columns > 1 {
            self.end_word(out);
        }
    }

    fn end_word(&mut self, out: &mut String) {
        if self.word.is_empty() {
            return;
        }
        if std::mem::take(&mut self.at_start)
            && (self.word.starts_with("```") || self.word.starts_with("~~~"))
        {
            self.fenced = !self.fenced;
            self.verbatim = true;
        }
        let gap_columns = self.gap.chars().map(|c| if c == '\t' { 8 } else { 1 }).sum::<usize>();
        let end = self.column + gap_columns + self.word_columns;
        if end > self.width && self.column > 0 && !self.fenced && !self.verbatim {
            out.push('\n');
            self.column = self.word_columns;
        } else {
            out.push_str(&self.gap);
            self.column = end;
        }
        out.push_str(&self.word);
        // The terminal itself breaks a word that is longer than a line.
        self.column = if self.column > self.width { self.column % self.width } else { self.column };
        self.gap.clear();
        self.word.clear();
        self.word_columns = 0;
    }

    fn end_line(&mut self, out: &mut String) {
        self.end_word(out);
        out.push('\n');
        self.gap.clear();
        (self.column, self.at_start, self.verbatim) = (0, true, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text in pieces of `size` characters.
    fn wrapped(text: &str, width: usize, size: usize) -> String {
        let mut wrap = Wrap::new(width);
        let characters: Vec<char> = text.chars().collect();
        let pieces = characters.chunks(size).map(|piece| piece.iter().collect::<String>());
        let out: String = pieces.map(|piece| wrap.push(&piece)).collect();
        out + &wrap.finish()
    }

    #[test]
    fn lines_break_at_words_however_the_text_comes() {
        let text = "To be, or not to be, that is the question:\nWhether 'tis nobler";
        for size in [1, 2, 7, 100] {
            let lines = wrapped(text, 16, size);
            assert_eq!(lines, "To be, or not to\nbe, that is the\nquestion:\nWhether 'tis\nnobler");
        }
        // A line that fits exactly, and a word that is longer than a line.
        assert_eq!(wrapped("ab cd", 5, 1), "ab cd");
        assert_eq!(wrapped("a bcdefghijkl m", 5, 1), "a\nbcdefghijkl m");
        // Indentation stays; wide characters are two columns each and can be broken anywhere.
        assert_eq!(wrapped("  - one two", 8, 3), "  - one\ntwo");
        assert_eq!(wrapped("日本語日本", 4, 1), "日本\n語日\n本");
    }

    #[test]
    fn code_blocks_stay_as_they_are() {
        let code = "```rust\nlet a_long_line = of_code(that, stays);\n```";
        let text = format!("see this code:\n{code}\nand this text");
        assert_eq!(wrapped(&text, 8, 1), format!("see this\ncode:\n{code}\nand this\ntext"));
        assert_eq!(wrapped("~~~\na b c d\n", 3, 1), "~~~\na b c d\n");
    }
}
