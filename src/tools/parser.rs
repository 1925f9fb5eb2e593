//! The calls of a text that is being made.

use std::sync::Arc;

use super::declare::{Tool, Tools, is_name_byte};
use super::form::{CallForm, Named, Shape, Tagged};
use super::json::{Arguments, Head, Scan, head, may_be_call};
use super::keywords::Keywords;
use super::tagged::{Parameters, Step};
use super::{CallIds, may_become};

/// Most bytes from the mark of a call to its arguments: what does not show by then to be a call is text.
const MAX_HEAD: usize = 16 << 10;
/// Most bytes between the marks around a name.
const MAX_NAME: usize = 256;

/// What a text says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEvent {
    /// Text outside of calls.
    Text(String),
    /// A call begins.
    Begin {
        /// Its number in the answer, from 0.
        index: u32,
        /// Its id.
        id: String,
        /// The function.
        name: String,
    },
    /// More of the arguments of the call that has begun: JSON text.
    Arguments(String),
    /// The call has ended.
    End,
}

/// Where in a text the parser is.
#[derive(Debug)]
enum State {
    /// Outside of calls.
    Text,
    /// What is held may be a call; so many bytes of it are its mark. A list may have begun.
    Head { mark: usize },
    /// In arguments that are JSON.
    Json(Scan),
    /// In what follows the arguments in an object.
    Rest(Scan),
    /// In parameters with tags.
    Parameters(Parameters),
    /// In arguments as Python writes them.
    Keywords(Keywords),
    /// After a call.
    After,
}

/// Takes the calls of a form out of a text.
#[derive(Debug)]
pub struct CallParser {
    form: &'static CallForm,
    tools: Arc<Tools>,
    ids: CallIds,
    held: String,
    /// White space that belongs to the text if more text follows it.
    space: String,
    state: State,
    /// Whether nothing but white space has come.
    at_start: bool,
    in_list: bool,
    calls: u32,
    /// The tool that is being called.
    tool: Option<Tool>,
    /// Whether this call is one more than the request allows.
    muted: bool,
}

impl CallParser {
    /// For an answer to a request that declares `tools`, from a model whose template writes calls in this form.
    pub fn new(form: &'static CallForm, tools: Arc<Tools>, ids: CallIds) -> Self {
        Self {
            form,
            tools,
            ids,
            held: String::new(),
            space: String::new(),
            state: State::Text,
            at_start: true,
            in_list: false,
            calls: 0,
            tool: None,
            muted: false,
        }
    }

    /// How many calls have begun.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Reads on; appends what is certain to `out`.
    pub fn push(&mut self, piece: &str, out: &mut Vec<CallEvent>) {
        self.held.push_str(piece);
        while self.step(false, out) {}
    }

    /// Ends a text that the model has ended: what was held back is what it is.
    pub fn finish(&mut self, out: &mut Vec<CallEvent>) {
        while self.step(true, out) {}
        self.close(out);
    }

    /// Ends a text that was cut off, by the limit of its length. The beginning of a call is no text then, and is dropped, with
    /// the white space in front of it: nobody can tell what it would have become. A call whose arguments have begun stays, with what
    /// there is of them.
    pub fn cut(&mut self, out: &mut Vec<CallEvent>) {
        if self.is_begun() {
            self.held.clear();
            self.space.clear();
        } else {
            while self.step(true, out) {}
        }
        self.close(out);
    }

    /// Whether what is held back may be the beginning of a call, or belongs to one.
    fn is_begun(&self) -> bool {
        match self.state {
            // JSON is an answer too: where it has no mark, its first key has to be one of a call's.
            State::Head { mark: 0 } if !self.in_list => match self.form.shape {
                Shape::Listed(_) => may_be_list(&self.held, &self.tools),
                _ => may_be_call(&self.held),
            },
            _ => !self.held.is_empty(),
        }
    }

    fn close(&mut self, out: &mut Vec<CallEvent>) {
        if self.tool.is_some() {
            self.end(out);
        }
        let space = std::mem::take(&mut self.space);
        if !space.is_empty() && self.calls == 0 {
            out.push(CallEvent::Text(space));
        }
    }

    /// One step; whether there may be another.
    fn step(&mut self, last: bool, out: &mut Vec<CallEvent>) -> bool {
        match &mut self.state {
            State::Text => self.text(last, out),
            State::Head { mark } => {
                let mark = *mark;
                self.head(mark, last, out)
            }
            State::Json(scan) => {
                let end = scan.find_end(&self.held);
                let piece = self.take(end.unwrap_or(self.held.len()));
                self.arguments(piece, out);
                if end.is_some() {
                    self.end(out);
                    self.state = match self.form.shape {
                        Shape::Objects(_) => State::Rest(Scan::inside()),
                        _ => State::After,
                    };
                }
                end.is_some()
            }
            State::Rest(scan) => {
                let end = scan.find_end(&self.held);
                self.take(end.unwrap_or(self.held.len()));
                if end.is_some() {
                    self.state = State::After;
                }
                end.is_some()
            }
            State::Parameters(_) => self.parameters(last, out),
            State::Keywords(keywords) => {
                let mut pieces = String::new();
                let step = keywords.advance(&mut self.held, &mut pieces);
                self.arguments(pieces, out);
                if step == Step::Done {
                    self.end(out);
                    self.state = State::After;
                }
                step == Step::Done
            }
            State::After => self.after(last),
        }
    }

    fn take(&mut self, bytes: usize) -> String {
        let rest = self.held.split_off(bytes);
        std::mem::replace(&mut self.held, rest)
    }

    /// Hands out text, but for white space at its end.
    fn emit(&mut self, text: &str, out: &mut Vec<CallEvent>) {
        let end = text.trim_end().len();
        if end > 0 {
            self.at_start = false;
            let mut whole = std::mem::take(&mut self.space);
            whole.push_str(text.get(..end).unwrap_or_default());
            out.push(CallEvent::Text(whole));
        }
        self.space.push_str(text.get(end..).unwrap_or_default());
    }

    fn text(&mut self, last: bool, out: &mut Vec<CallEvent>) -> bool {
        let form = self.form;
        let bare = form.bare().filter(|_| self.at_start);
        let brace = bare.and_then(|first| self.held.find(first));
        let brace = brace.filter(|&at| self.held.get(..at).is_some_and(|before| before.trim().is_empty()));
        let opening = form.opening().map(|mark| (mark, true));
        let noise = form.noise.iter().map(|&mark| (mark, false));
        let found = opening.chain(noise).filter_map(|(mark, call)| Some((self.held.find(mark)?, mark, call)));
        // The longest of marks at one place: one may begin with another.
        let first = found.min_by_key(|&(at, mark, _)| (at, std::cmp::Reverse(mark.len())));
        let (at, mark, call) = match (first, brace) {
            (first, Some(brace)) if first.is_none_or(|(at, _, _)| brace < at) => (brace, "", true),
            (Some(first), _) => first,
            (None, _) => {
                let marks = form.opening().chain(form.noise.iter().copied());
                let keep = if last { 0 } else { may_become(&self.held, marks) };
                let text = self.take(self.held.len() - keep);
                self.emit(&text, out);
                return false;
            }
        };
        // A longer mark may still come where a shorter one stands.
        let rest = self.held.get(at..).unwrap_or_default();
        let longer = |other: &&str| other.len() > rest.len() && other.starts_with(rest);
        if !last && form.opening().chain(form.noise.iter().copied()).any(|other| longer(&other)) {
            let text = self.take(at);
            self.emit(&text, out);
            return false;
        }
        let text = self.take(at);
        self.emit(&text, out);
        match call {
            true => self.state = State::Head { mark: mark.len() },
            false => drop(self.take(mark.len())),
        }
        true
    }

    fn head(&mut self, mark: usize, last: bool, out: &mut Vec<CallEvent>) -> bool {
        let (found, start, list) = match &self.form.shape {
            Shape::Objects(_) => self.object_head(mark),
            Shape::Named(named) => (named_head(&self.held, mark, named, &self.tools), 0, false),
            Shape::Tagged(tagged) => (tagged_head(&self.held, tagged, &self.tools), 0, false),
            Shape::Listed(_) => (listed_head(&self.held, mark, self.in_list, &self.tools), 0, true),
        };
        match found {
            Head::More if !last && self.held.len() <= MAX_HEAD => false,
            Head::Call { name, arguments } if is_declared(&self.tools, &name) => {
                self.begin(&name, out);
                self.in_list |= list;
                match arguments {
                    Arguments::At(at) if matches!(self.form.shape, Shape::Tagged(_)) => {
                        self.take(at);
                        self.state = State::Parameters(Parameters::default());
                    }
                    Arguments::At(at) if matches!(self.form.shape, Shape::Listed(_)) => {
                        self.take(at);
                        self.state = State::Keywords(Keywords::default());
                    }
                    Arguments::At(at) => {
                        self.take(start + at);
                        self.state = State::Json(Scan::default());
                    }
                    Arguments::Whole { text, end, closed } => {
                        self.arguments(text, out);
                        self.end(out);
                        self.take(start + end);
                        self.state = if closed { State::After } else { State::Rest(Scan::inside()) };
                    }
                }
                true
            }
            _ => {
                let mut text = self.take(mark);
                if mark == 0 {
                    // Not a mark but a brace, so that looking goes on after it.
                    text = self.take(self.held.chars().next().map_or(0, char::len_utf8));
                    self.at_start = false;
                }
                self.in_list = false;
                self.state = State::Text;
                self.emit(&text, out);
                true
            }
        }
    }

    /// The head of an object after so many bytes of its mark, where reading began, and whether a list began before it.
    fn object_head(&self, mark: usize) -> (Head, usize, bool) {
        let after = self.held.get(mark..).unwrap_or_default();
        let list = after.trim_start().strip_prefix('[').filter(|_| !self.in_list && mark > 0);
        let start = self.held.len() - list.unwrap_or(after).len();
        (head(self.held.get(start..).unwrap_or_default()), start, list.is_some())
    }

    fn begin(&mut self, name: &str, out: &mut Vec<CallEvent>) {
        self.tool = self.tools.list().iter().find(|tool| tool.name == name).cloned();
        self.space.clear();
        self.at_start = false;
        self.muted = self.calls > 0 && !self.tools.parallel;
        if !self.muted {
            let index = self.calls;
            self.calls += 1;
            out.push(CallEvent::Begin { index, id: self.ids.id(index), name: name.to_owned() });
        }
    }

    fn arguments(&mut self, piece: String, out: &mut Vec<CallEvent>) {
        if !piece.is_empty() && !self.muted {
            out.push(CallEvent::Arguments(piece));
        }
    }

    fn end(&mut self, out: &mut Vec<CallEvent>) {
        self.tool = None;
        if !self.muted {
            out.push(CallEvent::End);
        }
    }

    fn parameters(&mut self, last: bool, out: &mut Vec<CallEvent>) -> bool {
        let (State::Parameters(parameters), Shape::Tagged(form), Some(tool)) =
            (&mut self.state, &self.form.shape, &self.tool)
        else {
            return false;
        };
        let mut pieces = String::new();
        let step = parameters.advance(form, tool, &mut self.held, last, &mut pieces);
        self.arguments(pieces, out);
        if step == Step::Done {
            self.end(out);
            self.state = State::After;
        }
        step != Step::Wait
    }

    /// After a call: what ends it, or the next of a list.
    fn after(&mut self, last: bool) -> bool {
        let space = self.held.len() - self.held.trim_start().len();
        self.take(space);
        if self.held.is_empty() {
            return false;
        }
        let close = match &self.form.shape {
            Shape::Objects(objects) => objects.close,
            Shape::Named(named) => named.close.trim_start(),
            Shape::Tagged(tagged) => tagged.close,
            Shape::Listed(listed) => listed.close,
        };
        if self.in_list && self.held.starts_with(',') {
            self.take(1);
            self.state = State::Head { mark: 0 };
        } else if self.in_list && self.held.starts_with(']') {
            self.take(1);
            self.in_list = false;
        } else if !close.is_empty() && self.held.starts_with(close) {
            self.take(close.len());
            self.state = State::Text;
        } else if !last && !close.is_empty() && close.starts_with(self.held.as_str()) {
            return false;
        } else {
            self.state = State::Text;
            self.in_list = false;
        }
        true
    }
}

/// A name with more text after it, and that text.
fn name(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| !is_name_byte(byte))?;
    text.split_at_checked(end)
}

fn is_declared(tools: &Tools, name: &str) -> bool {
    tools.list().iter().any(|tool| tool.name == name)
}

/// The head of a call with a name between marks.
fn named_head(held: &str, mark: usize, form: &Named, tools: &Tools) -> Head {
    let after = held.get(mark..).unwrap_or_default().trim_start();
    let Some((name, rest)) = name(after) else {
        return if after.len() > MAX_NAME { Head::No } else { Head::More };
    };
    if !is_declared(tools, name) {
        return Head::No;
    }
    let middle = form.middle.trim();
    let Some(at) = rest.find(middle) else {
        return if rest.len() > MAX_NAME { Head::No } else { Head::More };
    };
    if at > MAX_NAME {
        return Head::No;
    }
    let arguments = rest.get(at + middle.len()..).unwrap_or_default().trim_start();
    match arguments.bytes().next() {
        None => Head::More,
        Some(b'{') => {
            let arguments = Arguments::At(held.len() - arguments.len());
            Head::Call { name: name.to_owned(), arguments }
        }
        Some(_) => Head::No,
    }
}

/// The head of a call as Python writes it, in a list that has begun or begins here.
fn listed_head(held: &str, mark: usize, in_list: bool, tools: &Tools) -> Head {
    let mut rest = held.get(mark..).unwrap_or_default().trim_start();
    if !in_list {
        match rest.strip_prefix('[') {
            Some(after) => rest = after.trim_start(),
            None => return if rest.is_empty() { Head::More } else { Head::No },
        }
    }
    let Some((name, rest)) = name(rest) else {
        let may_come = rest.is_empty() || tools.list().iter().any(|tool| tool.name.starts_with(rest));
        return if may_come { Head::More } else { Head::No };
    };
    if !is_declared(tools, name) {
        return Head::No;
    }
    let rest = rest.trim_start();
    match rest.strip_prefix('(') {
        Some(after) => {
            Head::Call { name: name.to_owned(), arguments: Arguments::At(held.len() - after.len()) }
        }
        None if rest.is_empty() => Head::More,
        None => Head::No,
    }
}

/// Whether a text that ends too soon may have been a list of calls.
fn may_be_list(held: &str, tools: &Tools) -> bool {
    listed_head(held, 0, false, tools) == Head::More
}

/// The head of a call with tags.
fn tagged_head(held: &str, form: &Tagged, tools: &Tools) -> Head {
    let (open, close, _) = form.function;
    let mut rest = held;
    for (mark, optional) in [(form.open, !open.is_empty()), (open, false)] {
        match rest.strip_prefix(mark) {
            Some(after) => rest = after.trim_start(),
            None if mark.starts_with(rest) => return Head::More,
            None if optional => {}
            None => return Head::No,
        }
    }
    let Some((name, rest)) = name(rest) else {
        return if rest.len() > MAX_NAME { Head::No } else { Head::More };
    };
    match rest.trim_start().strip_prefix(close) {
        _ if !is_declared(tools, name) => Head::No,
        Some(rest) => Head::Call { name: name.to_owned(), arguments: Arguments::At(held.len() - rest.len()) },
        None if close.starts_with(rest.trim_start()) => Head::More,
        None => Head::No,
    }
}

#[cfg(test)]
mod tests;
