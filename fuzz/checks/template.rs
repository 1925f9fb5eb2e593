//! The property behind the fuzz target `template`, shared with the tests that replay its seeds: a template drawn from a
//! grammar of all filters, tests, methods, operators and statements ends within its limits, with a text or an error, and
//! every character that only a user has written is known to be a user's.

use bitnetc_jinja::{ErrorKind, Limits, Origin, Template, Variables};
use serde_json::{Value, json};

/// Draws choices from bytes; nothing is drawn from no bytes, so that every input ends.
struct Grammar<'b> {
    bytes: &'b [u8],
}

const FILTERS: [&str; 62] = [
    "abs",
    "attr('a')",
    "batch(2)|list",
    "batch(2, 'x')|list",
    "capitalize",
    "center(7)",
    "count",
    "default('d')",
    "default('d', true)",
    "dictsort",
    "dictsort(by='value')",
    "e",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format(1)",
    "groupby('a')",
    "indent",
    "indent(2, true)",
    "int",
    "int(3, 16)",
    "items|list",
    "join",
    "join('-')",
    "join(',', attribute='a')",
    "last",
    "length",
    "list",
    "lower",
    "map('upper')|list",
    "map(attribute='a')|list",
    "max",
    "min",
    "reject('odd')|list",
    "rejectattr('a')|list",
    "replace('a', 'b')",
    "replace('', 'z')",
    "reverse|list",
    "round",
    "round(1, 'floor')",
    "safe",
    "select|list",
    "select('string')|list",
    "selectattr('a', 'defined')|list",
    "slice(2)|list",
    "sort",
    "sort(reverse=true)",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "tojson(indent=1)",
    "trim",
    "truncate(5)",
    "unique|list",
    "upper",
    "urlencode",
    "wordcount",
    "xmlattr",
    "map('string')|join",
];

const TESTS: [&str; 28] = [
    "defined",
    "undefined",
    "none",
    "boolean",
    "true",
    "false",
    "integer",
    "float",
    "number",
    "string",
    "mapping",
    "iterable",
    "sequence",
    "callable",
    "odd",
    "even",
    "lower",
    "upper",
    "escaped",
    "divisibleby 2",
    "eq 1",
    "ne 'a'",
    "gt 1",
    "lt 'b'",
    "in [1, 'a']",
    "sameas none",
    "filter",
    "test",
];

const METHODS: [&str; 45] = [
    "upper()",
    "lower()",
    "title()",
    "capitalize()",
    "swapcase()",
    "casefold()",
    "strip()",
    "strip('ab')",
    "lstrip()",
    "rstrip()",
    "split()",
    "split('a')",
    "rsplit('a', 1)",
    "splitlines()",
    "startswith('a')",
    "endswith(('a', 'b'))",
    "replace('a', 'bb')",
    "find('a')",
    "rfind('b', 1)",
    "index('a')",
    "count('a')",
    "join(['x', 'y'])",
    "partition('a')",
    "rpartition('b')",
    "removeprefix('a')",
    "zfill(5)",
    "ljust(4, '*')",
    "rjust(4)",
    "center(5)",
    "expandtabs(3)",
    "isalpha()",
    "isdigit()",
    "isspace()",
    "istitle()",
    "isupper()",
    "format(1, 'x')",
    "items()|list",
    "keys()|list",
    "values()|list",
    "get('a')",
    "get('zz', 1)",
    "copy()",
    "append(1)",
    "nope()",
    "isalnum()",
];

const OPERATORS: [&str; 19] = [
    " + ",
    " - ",
    " * ",
    " / ",
    " // ",
    " % ",
    " ~ ",
    " == ",
    " != ",
    " < ",
    " <= ",
    " > ",
    " >= ",
    " in ",
    " not in ",
    " and ",
    " or ",
    " ** ",
    " ~ '-' ~ ",
];

const ATOMS: [&str; 38] = [
    "1",
    "2",
    "0",
    "-3",
    "1.5",
    "'a'",
    "'ab'",
    "'{} {0}'",
    "'%s'",
    "''",
    "true",
    "none",
    "[]",
    "[1, 2, 3]",
    "['b', 'a']",
    "{'a': 1}",
    "{}",
    "(1, 'a')",
    "x",
    "y",
    "ns.x",
    "user",
    "word",
    "items",
    "dict_",
    "number",
    "missing",
    "messages",
    "range(3)",
    "loop.index",
    "loop.last",
    "m(1)",
    "ns",
    "dict(a=1)",
    "'<' ~ word",
    "messages[0].content",
    "dict(dict_, **{'k': x})",
    "namespace(a=x)",
];

impl<'b> Grammar<'b> {
    fn below(&mut self, limit: usize) -> usize {
        let Some((&byte, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(byte) % limit
    }

    fn one_of(&mut self, choices: &[&'static str]) -> &'static str {
        let place = self.below(choices.len());
        choices[place]
    }

    fn expression(&mut self, depth: u32) -> String {
        if depth == 0 || self.bytes.is_empty() {
            return self.one_of(&ATOMS).to_owned();
        }
        let inner = |grammar: &mut Self| grammar.expression(depth - 1);
        match self.below(12) {
            0 | 1 => self.one_of(&ATOMS).to_owned(),
            2 | 3 => format!("({})|{}", inner(self), self.one_of(&FILTERS)),
            4 => format!("({}).{}", inner(self), self.one_of(&METHODS)),
            5 | 6 => format!("({}{}{})", inner(self), self.one_of(&OPERATORS), inner(self)),
            7 => format!("({}) is {}", inner(self), self.one_of(&TESTS)),
            8 => format!(
                "({})[{}]",
                inner(self),
                self.one_of(&["0", "-1", "1:", "::-1", ":2", "'a'", "1:3", "x"])
            ),
            9 => format!("({} if {} else {})", inner(self), inner(self), inner(self)),
            10 => format!("[{}, {}]", inner(self), inner(self)),
            _ => format!("{}{}", self.one_of(&["not ", "-", "+"]), self.one_of(&ATOMS)),
        }
    }

    fn body(&mut self, depth: u32) -> String {
        let count = 1 + self.below(3);
        (0..count).map(|_| self.statement(depth)).collect()
    }

    fn statement(&mut self, depth: u32) -> String {
        if depth == 0 || self.bytes.is_empty() {
            return format!("{{{{ {} }}}}", self.expression(2));
        }
        let (open, close) = (self.one_of(&["{%", "{%-", "{%+"]), self.one_of(&["%}", "-%}", "+%}"]));
        let tag = |inside: String| format!("{open} {inside} {close}");
        match self.below(14) {
            0 => self.one_of(&["text\n", "  \n", " a ", "\n\n", "{# c #}\n"]).to_owned(),
            1 => tag(format!("set x = {}", self.expression(3))),
            2 => tag(format!("set ns.x = {}", self.expression(2))),
            3 => {
                let test = tag(format!("if {}", self.expression(2)));
                let (body, otherwise) = (self.body(depth - 1), self.body(depth - 1));
                format!("{test}{body}{}{otherwise}{}", tag("else".into()), tag("endif".into()))
            }
            4 | 5 => {
                let head = self.one_of(&["for x in ", "for x in (1, 2) + ", "for y in "]);
                let tail = self.one_of(&["", "", " if x", " if loop is undefined"]);
                let head = tag(format!("{head}{}{tail}", self.expression(2)));
                let last = self.one_of(&[
                    "",
                    "",
                    "{% break %}",
                    "{% continue %}",
                    "{% if x %}{% break %}{% endif %}",
                ]);
                format!("{head}{}{last}{}", self.body(depth - 1), tag("endfor".into()))
            }
            6 => {
                format!("{}{}{}", tag("macro m(y, x=1)".into()), self.body(depth - 1), tag("endmacro".into()))
            }
            7 => format!("{}{}{}", tag("set y".into()), self.body(depth - 1), tag("endset".into())),
            8 => {
                let filter = self.one_of(&["upper", "trim", "replace('a', 'b')", "indent", "e", "length"]);
                format!(
                    "{}{}{}",
                    tag(format!("filter {filter}")),
                    self.body(depth - 1),
                    tag("endfilter".into())
                )
            }
            9 => {
                let with = tag(format!("with y = {}", self.expression(2)));
                format!("{with}{}{}", self.body(depth - 1), tag("endwith".into()))
            }
            10 => {
                let call = tag("call(y) c()".into());
                format!("{call}{}{}", self.body(depth - 1), tag("endcall".into()))
            }
            _ => format!("{{{{ {} }}}}", self.expression(4)),
        }
    }
}

/// A template that an input stands for.
pub(crate) fn template(bytes: &[u8]) -> String {
    let mut grammar = Grammar { bytes };
    let start = "{% set ns = namespace(x=1) %}{% macro m(y) %}<{{ y }}>{% endmacro %}\
        {% macro c() %}({{ caller(1) }}){% endmacro %}";
    let mut source = start.to_owned();
    while !grammar.bytes.is_empty() && source.len() < 8_000 {
        source += &grammar.statement(3);
    }
    source
}

/// What the templates are given. Letters that are not ASCII are a user's alone.
pub(crate) fn variables() -> Value {
    json!({
        "user": "Жук ab\n<Ü>",
        "word": "жd",
        "number": 7,
        "items": ["б", "a", {"a": "ц"}, [1, 2]],
        "dict_": {"b": "ю", "a": 2, "ключ": [1]},
        "messages": [{"role": "user", "content": "Да a"}, {"role": "assistant", "content": " нет "}],
    })
}

/// Limits that are reached soon.
pub(crate) fn limits() -> Limits {
    Limits { steps: 200_000, bytes: 8 << 20, output: 1 << 20, ..Limits::default() }
}

/// The text of a template, or the kind of its failure.
pub(crate) fn check_source(source: &str) -> Result<String, ErrorKind> {
    let mut given = Variables::new();
    if let Value::Object(variables) = variables() {
        for (name, value) in variables {
            given.insert(name, value, Origin::User);
        }
    }
    let template = Template::new(source).map_err(|error| error.kind())?;
    let rendered = template.render(&given, &limits(), &|format| Ok(format.to_owned()));
    let rendered = rendered.map_err(|error| {
        assert!(!error.to_string().contains(|ch: char| ch.is_control()), "{error:?}");
        error.kind()
    })?;
    assert!(rendered.text.len() <= limits().output + 1_000_000);
    assert!(rendered.user.windows(2).all(|pair| pair[0].end < pair[1].start));
    if source.is_ascii() {
        for (at, ch) in rendered.text.char_indices().filter(|(_, ch)| !ch.is_ascii()) {
            let known = rendered.user.iter().any(|range| range.contains(&at));
            assert!(known, "{ch:?} at {at} is not known to be a user's: {source:?} gives {rendered:?}");
        }
    }
    Ok(rendered.text)
}

/// An input as a template of the grammar, and as a template itself.
pub(crate) fn check(bytes: &[u8]) -> Result<String, ErrorKind> {
    if let Ok(source) = std::str::from_utf8(bytes) {
        let _ = check_source(source);
    }
    check_source(&template(bytes))
}
