//! Running a Jinja template that nobody has vouched for.
//!
//! The engine counts instructions (its fuel), which bounds time but not memory: a dozen concatenations of a text with
//! itself make gigabytes. So the operators that make new texts and lists (`+`, `*`, `~`, slices, `in`) are replaced in
//! the compiled template, instruction by instruction, by filters that charge a budget; the filters and methods that copy
//! or grow charge it too, and so does everything that is written. What remains, literal text of the template, is bounded
//! by giving less fuel to templates with long literals.
//!
//! The compiled form is reached through the engine's `unstable_machinery`, hence its version is pinned to a minor one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::machinery::{self, CodeGenerator, Instruction, Instructions, Token};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, Value};

use super::filters;
use super::python::{Sink, write_str};

/// Instructions that a template may execute.
const FUEL: u64 = 2_000_000;
/// Bytes that values made by a template may take together; far more than any conversation needs.
const VALUE_BYTES: u64 = 256 << 20;
/// Bytes of the rendered text.
pub(super) const OUTPUT_BYTES: usize = 16 << 20;
/// Items that a list made by `+` or `*` may have.
const LIST_ITEMS: usize = 100_000;

/// What a run may still take.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicU64,
}

/// What a piece of text costs besides its bytes: the time to write it.
const PUT_BYTES: usize = 64;
/// Stack of the thread that a template runs on. The engine recurses over expressions, and over values that hold values;
/// the fuel bounds how deep these can be. Untouched pages of a stack take no memory.
const STACK_BYTES: usize = 256 << 20;
/// Tokens of one tag (`{{ … }}` or `{% … %}`), because the engine takes constants in it together again at each level.
const TAG_TOKENS: usize = 4096;
/// Bytes that a constant repeated by a number may have: the engine makes it while it compiles.
const CONSTANT_BYTES: u64 = 16 << 20;

/// Why a template failed, with the line where it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault(String);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        let line = error.line().map_or(String::new(), |line| format!(" (line {line})"));
        let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        Self(format!("{detail}{line}"))
    }
}

pub(super) fn failed(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

impl Budget {
    /// Takes bytes, or fails for good.
    pub(super) fn charge(&self, bytes: usize) -> Result<(), Error> {
        let bytes = bytes as u64;
        let take = |left: u64| left.checked_sub(bytes);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.left.store(0, Ordering::Relaxed);
                Err(failed("the template makes too much text"))
            }
        }
    }

    /// Takes what copies of these values would.
    pub(super) fn charge_copies(&self, values: &[Value]) -> Result<(), Error> {
        values.iter().try_for_each(|value| self.charge(size(value)))
    }
}

/// About what a copy of a value takes, in bytes: its text, or the places of its items.
fn size(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.len(),
        None => value.len().unwrap_or(0).saturating_mul(32),
    }
}

/// A text that is being made.
pub(super) struct Text<'b> {
    pub(super) text: String,
    pub(super) budget: &'b Budget,
}

impl Sink for Text<'_> {
    fn put(&mut self, text: &str) -> Result<(), Error> {
        self.budget.charge(text.len() + PUT_BYTES)?;
        self.text.push_str(text);
        Ok(())
    }
}

struct Written<'o, 'b, 'w> {
    out: &'o mut Output<'w>,
    budget: &'b Budget,
}

impl Sink for Written<'_, '_, '_> {
    fn put(&mut self, text: &str) -> Result<(), Error> {
        self.budget.charge(text.len() + PUT_BYTES)?;
        self.out.write_str(text).map_err(|_| failed("the text cannot be written"))
    }
}

/// Renders `source` with these variables.
///
/// # Errors
/// A template that does not compile, fails, or reaches a limit.
pub(super) fn render(source: &str, variables: Value, now: Option<&jiff::Zoned>) -> Result<String, Fault> {
    on_large_stack(|| render_here(source, variables, now))
}

/// Runs `work` on a thread with a stack that no template overflows.
fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Fault> {
    // The engine's errors hold values, which may be nested deeply: they end on that thread.
    let work = || work().map_err(|error| Fault::from(&error));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat-template".to_owned()).stack_size(STACK_BYTES);
        let thread = thread
            .spawn_scoped(scope, work)
            .map_err(|error| Fault(format!("there is no thread for the template: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(Fault("the template engine failed".to_owned())))
    })
}

fn render_here(source: &str, variables: Value, now: Option<&jiff::Zoned>) -> Result<String, Error> {
    let budget = Arc::new(Budget { left: AtomicU64::new(VALUE_BYTES) });
    let (mut instructions, mut blocks) = compile(source)?;
    let literal = std::iter::once(&mut instructions).chain(blocks.values_mut()).map(bound_operators).max();
    let mut environment = Environment::new();
    let fuel = (VALUE_BYTES / (literal.unwrap_or(0) as u64 + 1)).clamp(4096, FUEL);
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(100);
    add_operators(&mut environment, &budget);
    filters::add(&mut environment, &budget, now.cloned());
    let own = Arc::clone(&budget);
    environment.set_formatter(move |out, _, value| write_str(value, &mut Written { out, budget: &own }));
    run(&environment, &instructions, &blocks, variables)
}

/// Whether `source` compiles.
///
/// # Errors
/// What is wrong, and in which line.
pub(super) fn check(source: &str) -> Result<(), Fault> {
    on_large_stack(|| compile(source).map(drop))
}

/// Refuses tags with too many tokens, and constants that would be too large when they are repeated: at most, the literal
/// texts of a tag with a `*` times all numbers in it.
fn check_tags(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    let (mut tokens, mut literal, mut factor, mut repeats) = (0usize, 0u64, 1u64, false);
    for token in machinery::tokenize(source, false, syntax.clone()) {
        tokens += 1;
        match token?.0 {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => {
                (tokens, literal, factor, repeats) = (0, 0, 1, false);
            }
            Token::Str(text) => literal = literal.saturating_add(text.len() as u64),
            Token::String(text) => literal = literal.saturating_add(text.len() as u64),
            Token::BracketOpen | Token::Comma => literal = literal.saturating_add(32),
            Token::Int(number) => factor = factor.saturating_mul(number.max(1)),
            Token::Int128(_) => factor = u64::MAX,
            Token::Mul => repeats = true,
            Token::Pow => factor = u64::MAX,
            _ => {}
        }
        if tokens > TAG_TOKENS {
            return Err(failed(format!("a tag has more than {TAG_TOKENS} words and signs")));
        }
        if repeats && literal.saturating_mul(factor) > CONSTANT_BYTES {
            return Err(failed("the template repeats a text too often"));
        }
    }
    Ok(())
}

fn run<'env>(
    environment: &'env Environment<'env>,
    instructions: &Instructions<'env>,
    blocks: &Blocks<'env>,
    variables: Value,
) -> Result<String, Error> {
    let mut text = String::new();
    {
        let mut out = machinery::make_string_output(&mut text);
        machinery::eval(environment, instructions, variables, blocks, &mut out, AutoEscape::None)?;
    }
    if text.len() > OUTPUT_BYTES {
        return Err(failed(format!("the text has {} bytes, more than {OUTPUT_BYTES}", text.len())));
    }
    Ok(text)
}

/// The code of named blocks.
type Blocks<'s> = BTreeMap<&'s str, Instructions<'s>>;

/// Compiles with the white-space settings of transformers.
fn compile(source: &str) -> Result<(Instructions<'_>, Blocks<'_>), Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    check_tags(source, &syntax)?;
    let tree = machinery::parse(source, "chat template", syntax)?;
    let mut generator = CodeGenerator::new("chat template", source);
    generator.compile_stmt(&tree);
    Ok(generator.finish())
}

// Names that no template can spell; without white space, which the engine takes out of names.
const ADD: &str = "bounded:add";
const MULTIPLY: &str = "bounded:multiply";
const CONCATENATE: &str = "bounded:concatenate";
const SLICE: &str = "bounded:slice";
const CONTAINS: &str = "bounded:contains";
/// A filter that is looked up by name each time.
const NOT_CACHED: u8 = u8::MAX;

/// Replaces the operators, one instruction by one, so that jumps stay right. Returns the length of the longest literal.
fn bound_operators(instructions: &mut Instructions<'_>) -> usize {
    let mut literal = 0;
    let mut at = 0;
    while let Some(instruction) = instructions.get_mut(at) {
        let replacement = match instruction {
            Instruction::Add => Some((ADD, 2)),
            Instruction::Mul => Some((MULTIPLY, 2)),
            Instruction::StringConcat => Some((CONCATENATE, 2)),
            Instruction::Slice => Some((SLICE, 4)),
            Instruction::In => Some((CONTAINS, 2)),
            Instruction::EmitRaw(text) => {
                literal = literal.max(text.len());
                None
            }
            Instruction::LoadConst(value) => {
                literal = literal.max(size(value));
                None
            }
            _ => None,
        };
        if let Some((name, arguments)) = replacement {
            *instruction = Instruction::ApplyFilter(name, Some(arguments), NOT_CACHED);
        }
        at += 1;
    }
    literal
}

fn add_operators(environment: &mut Environment<'_>, budget: &Arc<Budget>) {
    let own = Arc::clone(budget);
    environment.add_filter(ADD, move |left: Value, right: Value| add(&own, &left, &right));
    let own = Arc::clone(budget);
    environment.add_filter(MULTIPLY, move |left: Value, right: Value| multiply(&own, &left, &right));
    let own = Arc::clone(budget);
    environment.add_filter(CONCATENATE, move |left: Value, right: Value| {
        let mut text = Text { text: String::new(), budget: &own };
        write_str(&left, &mut text)?;
        write_str(&right, &mut text)?;
        Ok::<_, Error>(Value::from(text.text))
    });
    let own = Arc::clone(budget);
    environment.add_filter(SLICE, move |value: Value, start: Value, stop: Value, step: Value| {
        slice(&own, &value, [&start, &stop, &step])
    });
    let own = Arc::clone(budget);
    environment.add_filter(CONTAINS, move |item: Value, container: Value| contains(&own, &item, &container));
}

fn mismatch(operator: &str, left: &Value, right: &Value) -> Error {
    failed(format!("{operator} does not work on {} and {}", left.kind(), right.kind()))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// Two numbers: both whole, or as floats.
enum Numbers {
    Whole(i128, i128),
    Floats(f64, f64),
}

fn numbers(left: &Value, right: &Value) -> Option<Numbers> {
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if !is_number(left) || !is_number(right) {
        return None;
    }
    match (i128::try_from(left.clone()), i128::try_from(right.clone())) {
        (Ok(left_whole), Ok(right_whole)) if is_whole(left) && is_whole(right) => {
            Some(Numbers::Whole(left_whole, right_whole))
        }
        _ => Some(Numbers::Floats(f64::try_from(left.clone()).ok()?, f64::try_from(right.clone()).ok()?)),
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_integer() || value.kind() == ValueKind::Bool
}

fn add(budget: &Budget, left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        budget.charge(left.len() + right.len())?;
        return Ok(Value::from([left, right].concat()));
    }
    if is_list(left) && is_list(right) {
        let items: Vec<Value> = left.try_iter()?.chain(right.try_iter()?).take(LIST_ITEMS + 1).collect();
        budget.charge(items.len() * 32)?;
        if items.len() > LIST_ITEMS {
            return Err(failed(format!("a list has more than {LIST_ITEMS} items")));
        }
        return Ok(Value::from(items));
    }
    match numbers(left, right) {
        Some(Numbers::Whole(a, b)) => {
            a.checked_add(b).map(Value::from).ok_or_else(|| failed("a number is too large"))
        }
        Some(Numbers::Floats(a, b)) => Ok(Value::from(a + b)),
        None => Err(mismatch("+", left, right)),
    }
}

fn multiply(budget: &Budget, left: &Value, right: &Value) -> Result<Value, Error> {
    let repeated = |value: &Value, count: &Value| -> Result<Option<Value>, Error> {
        let Some(times) = count.as_i64().filter(|_| is_whole(count)) else { return Ok(None) };
        let times = usize::try_from(times).unwrap_or(0);
        if let Some(text) = value.as_str() {
            budget.charge(text.len().saturating_mul(times))?;
            return Ok(Some(Value::from(text.repeat(times))));
        }
        if !is_list(value) {
            return Ok(None);
        }
        let items: Vec<Value> = value.try_iter()?.take(LIST_ITEMS + 1).collect();
        let total = items.len().saturating_mul(times);
        if total > LIST_ITEMS {
            return Err(failed(format!("a list has more than {LIST_ITEMS} items")));
        }
        budget.charge(total * 32)?;
        Ok(Some(items.iter().cycle().take(total).cloned().collect()))
    };
    match numbers(left, right) {
        Some(Numbers::Whole(a, b)) => {
            a.checked_mul(b).map(Value::from).ok_or_else(|| failed("a number is too large"))
        }
        Some(Numbers::Floats(a, b)) => Ok(Value::from(a * b)),
        None => match repeated(left, right)? {
            Some(value) => Ok(value),
            None => repeated(right, left)?.ok_or_else(|| mismatch("*", left, right)),
        },
    }
}

/// Python's `item in container`.
fn contains(budget: &Budget, item: &Value, container: &Value) -> Result<Value, Error> {
    // Looking through something costs time and no memory.
    budget.charge(size(container) / 64)?;
    let found = match (container.as_str(), item.as_str()) {
        (Some(text), Some(part)) => text.contains(part),
        (Some(_), None) => return Err(mismatch("in", item, container)),
        (None, _) => match container.kind() {
            ValueKind::Undefined => false,
            ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => {
                container.try_iter()?.any(|other| other == *item)
            }
            _ => return Err(mismatch("in", item, container)),
        },
    };
    Ok(Value::from(found))
}

/// Python's `value[start:stop:step]`.
fn slice(budget: &Budget, value: &Value, [start, stop, step]: [&Value; 3]) -> Result<Value, Error> {
    let bound = |value: &Value| match value.kind() {
        ValueKind::None | ValueKind::Undefined => Ok(None),
        _ => value.as_i64().map(Some).ok_or_else(|| failed("a slice needs whole numbers")),
    };
    let (start, stop) = (bound(start)?, bound(stop)?);
    let step = bound(step)?.unwrap_or(1);
    if step == 0 {
        return Err(failed("the step of a slice is 0"));
    }
    budget.charge(size(value).saturating_mul(2))?;
    if let Some(text) = value.as_str() {
        let chars: Vec<char> = text.chars().collect();
        return Ok(Value::from(pick(&chars, start, stop, step).copied().collect::<String>()));
    }
    if !is_list(value) {
        return Err(failed(format!("a value of kind {} cannot be sliced", value.kind())));
    }
    let items: Vec<Value> = value.try_iter()?.take(LIST_ITEMS + 1).collect();
    if items.len() > LIST_ITEMS {
        return Err(failed(format!("a list has more than {LIST_ITEMS} items")));
    }
    Ok(pick(&items, start, stop, step).cloned().collect())
}

fn pick<T>(items: &[T], start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = &T> {
    let n = items.len() as i64;
    let (least, most) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let place = |bound: i64| if bound < 0 { bound.saturating_add(n) } else { bound }.clamp(least, most);
    let start = start.map_or(if step > 0 { 0 } else { n - 1 }, place);
    let stop = stop.map_or(if step > 0 { n } else { -1 }, place);
    let mut at = start;
    std::iter::from_fn(move || {
        let inside = if step > 0 { at < stop } else { at > stop };
        let item = usize::try_from(at).ok().filter(|_| inside).and_then(|at| items.get(at))?;
        at = at.saturating_add(step);
        Some(item)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn rendered(source: &str) -> String {
        let variables = minijinja::context! { s => "añb", l => [1, 2, 3, 4, 5], t => true };
        render(source, variables, None).unwrap_or_else(|error| panic!("{source}: {error:#}"))
    }

    #[test]
    fn operators_are_pythons() {
        for (source, text) in [
            ("{{ 1 + 2 }} {{ 1 + 0.5 }} {{ 'a' + 'b' }} {{ [1] + [2] }} {{ t + 1 }}", "3 1.5 ab [1, 2] 2"),
            ("{{ 2 * 3 }} {{ 'ab' * 2 }} {{ 2 * 'ab' }} {{ [0] * 2 }} {{ 'x' * -1 }}", "6 abab abab [0, 0] "),
            ("{{ 'a' ~ 1 ~ t ~ none ~ missing }}", "a1TrueNone"),
            (
                "{{ l[1:] }} {{ l[:-1] }} {{ l[::-1] }} {{ l[-2:] }} {{ l[::2] }}",
                "[2, 3, 4, 5] [1, 2, 3, 4] [5, 4, 3, 2, 1] [4, 5] [1, 3, 5]",
            ),
            ("{{ s[1:] }} {{ s[::-1] }} {{ s[5:] }} {{ l[3:1] }} {{ l[3:1:-1] }}", "ñb bña  [] [4, 3]"),
            (
                "{{ 'ñ' in s }} {{ 3 in l }} {{ 9 in l }} {{ 9 not in l }} {{ 'k' in {'k': 1} }}",
                "True True False True True",
            ),
            ("{{ 7 // 2 }} {{ 7 % 2 }} {{ 2 ** 3 }} {{ 7 - 2 }}", "3 1 8 5"),
        ] {
            assert_eq!(rendered(source), text, "{source}");
        }
        for bad in
            ["{{ 'a' + 1 }}", "{{ missing + 'a' }}", "{{ l[::0] }}", "{{ {} * 2 }}", "{{ missing in 's' }}"]
        {
            assert!(render(bad, Value::UNDEFINED, None).is_err(), "{bad}");
        }
    }

    /// Every way to make much of little ends with an error, soon.
    #[test]
    fn hostile_templates_end() {
        // By way of a variable, because constants are not repeated that often.
        let long = "{% set n = 4000000 %}{% set s = 'ab' * n %}";
        for source in [
            "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
            "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
            "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
            "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}{% endfor %}",
            "{% set ns = namespace(s='aa') %}{% for i in range(99) %}{% set ns.s = ns.s.replace('a', 'aa') %}{% endfor %}",
            "{% set ns = namespace(s='aa') %}{% for i in range(99) %}{% set ns.s = ns.s|replace('a', 'aa') %}{% endfor %}",
            "{% set ns = namespace(s='aa') %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s]|join('-') %}{% endfor %}",
            "{% set ns = namespace(s='aa') %}{% for i in range(99) %}{% set ns.s = '-'.join([ns.s, ns.s]) %}{% endfor %}",
            "{% set ns = namespace(s='aa') %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s]|tojson %}{% endfor %}",
            "{% set ns = namespace(s='aa') %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s]|string %}{% endfor %}",
            "{% set ns = namespace(s=[]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
            "{% set ns = namespace(s=[]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
            "{% set ns = namespace(s='a\\n') %}{% for i in range(99) %}{% set ns.s = (ns.s ~ 'a\\n')|indent(100000) %}{% endfor %}",
            "{{ 'ab' * 999999999999 }}",
            "{{ [1] * 999999999999 }}",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "{% set ns = namespace(l=[]) %}{% set s = 'ab' * 100000 %}{% for i in range(99999) %}{% set ns.l = ns.l + [s|upper] %}{% endfor %}",
            "{% set ns = namespace(l=[]) %}{% set s = 'ab' * 100000 %}{% for i in range(99999) %}{% set ns.l = ns.l + [s.split('a')] %}{% endfor %}",
            &format!("{long}{{% for i in range(99999) %}}{{% if 'x' in s %}}{{% endif %}}{{% endfor %}}"),
            &format!("{long}{{% for i in range(99999) %}}{{{{ s[1:] }}}}{{% endfor %}}"),
            &format!("{{% for i in range(99999) %}}{}{{% endfor %}}", "x".repeat(60_000)),
            &"(".repeat(60_000),
            &format!("{{{{ {}1 }}}}", "-".repeat(60_000)),
            &format!("{{{{ {}a }}}}", "not ".repeat(15_000)),
            &format!("{{{{ {}a }}}}", "a~".repeat(30_000)),
            &format!("{{{{ {}1 }}}}", "1~".repeat(30_000)),
            &format!("{{{{ {}1 }}}}", "'x' * 99999999 ~ ".repeat(3_000)),
            &format!("{{{{ {}1 }}}}", "[1] * 99999999 + ".repeat(3_000)),
            "{{ ('x' * 9 ** 9) ~ 'x' * 9 ** 9 }}",
            "{% set ns = namespace(s=[]) %}{% for i in range(99999) %}{% for j in range(9) %}{% set ns.s = [ns.s] %}{% endfor %}{% endfor %}",
            &format!("{{% if a %}}{}{{% endif %}}{{{{ 'a' + 1 }}}}", "{% elif a %}".repeat(5_000)),
            &format!("{{{{ {}1{} }}}}", "(".repeat(30_000), ")".repeat(30_000)),
            &"{% if 1 %}".repeat(6_000),
        ] {
            let clock = Instant::now();
            let error = render(source, Value::UNDEFINED, None);
            let name: String = source.chars().take(160).collect();
            // A run of parentheses is only text; all else must fail.
            assert!(error.is_err() || source.starts_with('('), "{name}");
            assert!(clock.elapsed().as_secs() < 60, "{name}: {:?}", clock.elapsed());
        }
        assert!(std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = peak.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            kib.is_none_or(|kib| kib < 2 << 20)
        }));
    }
}
