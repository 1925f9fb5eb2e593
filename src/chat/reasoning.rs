//! Thoughts in an answer: a block at its start that is for the model itself, told from the rest by the marks that the
//! template knows.

use crate::tools::may_become;

/// How a template marks thoughts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinkForm {
    /// In front of them; many templates write it themselves, into the prompt.
    pub open: &'static str,
    /// After them.
    pub close: &'static str,
}

/// All forms in use.
const FORMS: [ThinkForm; 7] = [
    ThinkForm { open: "<seed:think>", close: "</seed:think>" },
    ThinkForm { open: "<think>", close: "</think>" },
    ThinkForm { open: "[THINK]", close: "[/THINK]" },
    ThinkForm { open: "<|START_THINKING|>", close: "<|END_THINKING|>" },
    ThinkForm { open: "<|inner_prefix|>", close: "<|inner_suffix|>" },
    ThinkForm { open: "<|channel|>analysis<|message|>", close: "<|end|>" },
    ThinkForm { open: "<thinking>", close: "</thinking>" },
];

impl ThinkForm {
    /// The form of a template: that whose marks it writes or looks for. Some know the end only, since the prompt has the
    /// beginning.
    pub fn of_text(template: &str) -> Option<Self> {
        let knows = |form: &&Self| match form.close {
            "<|end|>" => template.contains("analysis<|message|>"),
            close => template.contains(close),
        };
        FORMS.iter().find(knows).copied()
    }

    /// Whether a prompt ends within thoughts, so that the answer goes on with them.
    pub fn is_open(&self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.open)
    }
}

/// Where in an answer the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At its start: thoughts may begin.
    Start,
    /// Before the first character of thoughts.
    Opened,
    /// In thoughts.
    Thoughts,
    /// Between thoughts and the answer.
    Closed,
    /// In the answer itself.
    Answer,
}

/// Splits an answer that arrives in pieces into thoughts and the answer itself, both without the white space around the
/// marks.
#[derive(Clone, Debug)]
pub struct ThinkSplitter {
    form: ThinkForm,
    state: State,
    held: String,
}

impl ThinkSplitter {
    /// For an answer to a prompt that has `opened` thoughts or has not.
    pub fn new(form: ThinkForm, opened: bool) -> Self {
        Self { form, state: if opened { State::Opened } else { State::Start }, held: String::new() }
    }

    /// Reads on; appends what is certain to `thoughts` and `answer`.
    pub fn push(&mut self, piece: &str, thoughts: &mut String, answer: &mut String) {
        self.held.push_str(piece);
        while self.step(false, thoughts, answer) {}
    }

    /// Ends an answer that the model has ended: what was held back is what it is.
    pub fn finish(&mut self, thoughts: &mut String, answer: &mut String) {
        while self.step(true, thoughts, answer) {}
    }

    /// Ends an answer that was cut off, by the limit of its length: the beginning of a mark is neither thoughts nor answer.
    pub fn cut(&mut self, thoughts: &mut String, answer: &mut String) {
        let in_mark = match self.state {
            State::Start => !self.held.trim_start().is_empty(),
            State::Thoughts => may_become(&self.held, [self.form.close].into_iter()) > 0,
            State::Opened | State::Closed | State::Answer => false,
        };
        match in_mark {
            true => self.held.clear(),
            false => self.finish(thoughts, answer),
        }
    }

    fn skip_space(&mut self) {
        let space = self.held.len() - self.held.trim_start().len();
        self.held.drain(..space);
    }

    /// One step; whether there may be another.
    fn step(&mut self, last: bool, thoughts: &mut String, answer: &mut String) -> bool {
        let ThinkForm { open, close } = self.form;
        match self.state {
            State::Start => {
                let text = self.held.trim_start();
                if text.starts_with(open) {
                    let end = self.held.len() - text.len() + open.len();
                    self.held.drain(..end);
                    self.state = State::Opened;
                } else if !last && open.starts_with(text) {
                    return false;
                } else {
                    self.state = State::Answer;
                }
                true
            }
            State::Opened | State::Closed => {
                self.skip_space();
                let begun = !self.held.is_empty();
                if begun {
                    let opened = self.state == State::Opened;
                    self.state = if opened { State::Thoughts } else { State::Answer };
                }
                begun
            }
            State::Thoughts => {
                let found = self.held.find(close);
                let end = found.unwrap_or_else(|| {
                    let keep = if last { 0 } else { may_become(&self.held, [close].into_iter()) };
                    self.held.len() - keep
                });
                let text = self.held.get(..end).unwrap_or_default().trim_end();
                thoughts.push_str(text);
                let done = if found.is_some() || last { end } else { text.len() };
                self.held.drain(..done + found.map_or(0, |_| close.len()));
                if found.is_some() {
                    self.state = State::Closed;
                }
                found.is_some()
            }
            State::Answer => {
                answer.push_str(&self.held);
                self.held.clear();
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THINK: ThinkForm = ThinkForm { open: "<think>", close: "</think>" };

    fn split<'t>(opened: bool, pieces: impl IntoIterator<Item = &'t str>) -> (String, String) {
        let mut splitter = ThinkSplitter::new(THINK, opened);
        let (mut thoughts, mut answer) = (String::new(), String::new());
        for piece in pieces {
            splitter.push(piece, &mut thoughts, &mut answer);
        }
        splitter.finish(&mut thoughts, &mut answer);
        (thoughts, answer)
    }

    #[test]
    fn thoughts_stand_at_the_start() {
        let of = |opened, text| split(opened, [text]);
        let is = |thoughts: &str, answer: &str| (thoughts.to_owned(), answer.to_owned());
        assert_eq!(of(false, "\n<think>\nWhy? a\n b\n</think>\n\nSo."), is("Why? a\n b", "So."));
        assert_eq!(of(true, "Why?\n</think>So. <think> x"), is("Why?", "So. <think> x"));
        assert_eq!(of(true, "\n\n</think>\n\nSo."), is("", "So."));
        assert_eq!(of(false, " So </think>"), is("", " So </think>"));
        assert_eq!(of(true, "Why </thin"), is("Why </thin", ""));
        assert_eq!(of(false, "<thi"), is("", "<thi"));
        assert_eq!(of(false, "  "), is("", "  "));
    }

    #[test]
    fn forms_are_told_by_the_template() {
        assert_eq!(ThinkForm::of_text("{{ content.split('</think>')[-1] }}"), Some(THINK));
        assert_eq!(ThinkForm::of_text("{{ content }}"), None);
        assert!(THINK.is_open("<|im_start|>assistant\n<think>\n"));
        assert!(!THINK.is_open("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            text in "(<think>|</think>|</thi|<|\n| |é|a){0,12}",
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
            opened: bool,
        ) {
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|&at| text.is_char_boundary(at)).collect();
            places.extend([0, text.len()]);
            places.sort_unstable();
            let pieces = places.windows(2).map(|pair| &text[pair[0]..pair[1]]);
            prop_assert_eq!(split(opened, pieces), split(opened, [text.as_str()]));
        }
    }
}
