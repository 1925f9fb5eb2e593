//! Templates that were made to hang, to take memory without end or to end the process.

use std::time::{Duration, Instant};

use bitnetc_jinja::{ErrorKind, Limits, Template, Variables};

fn render(source: &str) -> Result<String, ErrorKind> {
    let template = Template::new(source).map_err(|error| error.kind())?;
    let rendered = template.render(&Variables::new(), &Limits::default(), &|format| Ok(format.to_owned()));
    rendered.map(|rendered| rendered.text).map_err(|error| error.kind())
}

/// Longer than any of them takes, on a machine that does many other things.
const PATIENCE: Duration = Duration::from_secs(120);

fn grown(step: &str) -> String {
    format!(
        "{{% set ns = namespace(s='ab', l=[1]) %}}{{% for i in range(99) %}}{step}{{% endfor %}}{{{{ ns.s }}}}"
    )
}

fn looped(start: &str, step: &str) -> String {
    format!("{{% set ns = namespace(l=[]) %}}{start}{{% for i in range(90000) %}}{step}{{% endfor %}}")
}

/// Every way to make much of little ends with an error, soon.
#[test]
fn growth_ends() {
    let long = "{% set n = 4000000 %}{% set s = 'ab' * n %}";
    let mut sources = vec![
        "{{ 'ab' * 999999999999 }}".to_owned(),
        "{{ [1] * 999999999999 }}".to_owned(),
        "{{ '%99999999999d' % 1 }}".to_owned(),
        "{{ '%.99999999999f' % 1 }}".to_owned(),
        "{{ '{:>99999999999}'.format('x') }}".to_owned(),
        "{{ 'x'.ljust(99999999999) }}".to_owned(),
        "{{ '\t'.expandtabs(99999999999) }}".to_owned(),
        "{{ 'x'|center(99999999999) }}".to_owned(),
        "{{ 'x\ny'|indent(99999999999) }}".to_owned(),
        "{{ [1]|tojson(indent=99999999999) }}".to_owned(),
        "{{ [1]|batch(99999999999, 'x')|list }}".to_owned(),
        "{{ [1]|slice(99999999999)|list }}".to_owned(),
        "{{ 9 ** 9 ** 9 }}".to_owned(),
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{% macro f() %}{% call f() %}{% endcall %}{{ caller }}{% endmacro %}{{ f() }}".to_owned(),
        "{% set a = namespace() %}{% set a.x = a %}{{ a|string }}".to_owned(),
        "{% set a = namespace() %}{% set a.x = [a] %}{{ a ~ '' }}".to_owned(),
        "{% set a = namespace() %}{% set a.x = {'a': a} %}{{ raise_exception(a) }}".to_owned(),
        "{% set a = namespace() %}{% set a.x = a %}{{ '%s' % a }}".to_owned(),
        "{% set a = namespace() %}{% set a.x = a %}{{ '{}'.format(a) }}".to_owned(),
        format!("{{% for i in range(99999) %}}{}{{% endfor %}}", "x".repeat(60_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(60_000)),
        format!("{{{{ {}a }}}}", "not ".repeat(15_000)),
        format!("{{{{ a{} }}}}", "[0]".repeat(20_000)),
        format!("{{{{ a{} }}}}", "|upper".repeat(10_000)),
        format!("{{{{ a{} }}}}", " + a".repeat(15_000)),
        format!("{{{{ a{} }}}}", " if a else a".repeat(5_000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(30_000), ")".repeat(30_000)),
        format!("{{{{ {}1{} }}}}", "[".repeat(30_000), "]".repeat(30_000)),
        format!("{{{{ {}1{} }}}}", "{1:".repeat(10_000), "}".repeat(10_000)),
        "{% if 1 %}".repeat(6_000),
        format!("{{% set {}a{} = 1 %}}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("{{{{ {}1 }}}}", "'x' * 99999999 ~ ".repeat(3_000)),
        looped(long, "{% if 'x' in s %}{% endif %}"),
        looped(long, "{{ s[1:] }}"),
        looped(long, "{{ s|length }}"),
        looped(long, "{{ s.find('x') }}"),
        looped(long, "{% if s == s ~ '' %}{% endif %}"),
        looped("{% set n = namespace(d={}) %}", "{% set n.d = dict(n.d, **{'k'~i: i}) %}"),
        looped(
            "{% set l = range(99999)|list %}{% set m = range(99999)|list %}",
            "{% if l == m %}{% endif %}",
        ),
        looped("{% set l = range(99999) %}", "{% if 'x' in l %}{% endif %}"),
        looped("{% set s = 'ab' * 100000 %}", "{% set ns.l = ns.l + [s|upper] %}"),
        looped("{% set s = 'ab' * 100000 %}", "{% set ns.l = ns.l + [s.split('a')] %}"),
        looped("", "{% for j in range(9) %}{% set ns.l = [ns.l] %}{% endfor %}"),
        looped("", "{% for j in range(99) %}{% macro f() %}{% endmacro %}{% set ns.l = f %}{% endfor %}"),
        looped("{% set c = cycler(1) %}", "{% for j in range(99) %}{% set x = namespace(a=c) %}{% endfor %}"),
    ];
    for step in [
        "{% set ns.s = ns.s ~ ns.s %}",
        "{% set ns.s = ns.s + ns.s %}",
        "{% set ns.l = ns.l + ns.l %}",
        "{% set ns.l = [ns.l, ns.l] %}{% set x = ns.l|tojson %}",
        "{% set ns.l = [ns.l, ns.l] %}{% set x = ns.l|string %}",
        "{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}",
        "{% set ns.s = ns.s.replace('a', 'aaa') %}",
        "{% set ns.s = ns.s|replace('', ns.s) %}",
        "{% set ns.s = [ns.s, ns.s]|join('-') %}",
        "{% set ns.s = '-'.join([ns.s, ns.s]) %}",
        "{% set ns.s = ns.s.join(ns.s) %}",
        "{% set ns.s = [ns.s, ns.s]|tojson %}",
        "{% set ns.s = '%s%s' % (ns.s, ns.s) %}",
        "{% set ns.s = '{0}{0}'.format(ns.s) %}",
        "{% set ns.s = ('&' ~ ns.s ~ ns.s)|e|forceescape %}",
        "{% set ns.s = (ns.s ~ 'a\\n')|indent(100000) %}",
        "{% set ns.l = [ns.l, ns.l]|sum(start=[]) %}",
        "{% set ns.l = [ns.l, ns.l]|map('list')|sum(start=[]) %}",
    ] {
        sources.push(grown(step));
    }
    for source in &sources {
        let clock = Instant::now();
        let result = render(source);
        let name: String = source.chars().take(160).collect();
        assert!(result.is_err(), "{name}");
        assert!(clock.elapsed() < PATIENCE, "{name}: {:?}", clock.elapsed());
    }
    assert!(std::fs::read_to_string("/proc/self/status").map_or(true, |status| {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.is_none_or(|kib| kib < 1 << 20)
    }));
}

/// What ties values into a knot, or shares them so that walking takes for ever, ends too, with a value where there is one.
#[test]
fn knots_end() {
    let knot = "{% set a = namespace() %}{% set b = namespace() %}{% set a.x = a %}{% set b.x = b %}";
    for (expression, text) in [
        ("a == b", Some("False")),
        ("a == a", Some("True")),
        ("a in [b, a]", Some("True")),
        ("{a: 1}|length", Some("1")),
        ("[a, b, a]|unique|list|length", Some("2")),
        ("a is eq b", Some("False")),
        ("a is in [b]", Some("False")),
        ("[a]|select('eq', b)|list", Some("[]")),
        ("[a].count(b)", Some("0")),
        ("a.x.x.x is sameas a", Some("True")),
        ("a < b", None),
        ("[a, b]|sort", None),
        ("[a, b]|min", None),
        ("{'k': a, 'l': b}|dictsort(by='value')", None),
        ("a|upper", None),
        ("a|safe", None),
        ("a|replace('a', 'b')", None),
        ("a|tojson", None),
        ("a|string", None),
        ("raise_exception(a)", None),
        ("strftime_now(a)", None),
        ("a|list", None),
    ] {
        let source = format!("{knot}{{{{ {expression} }}}}");
        assert_eq!(render(&source).ok().as_deref(), text, "{expression}");
    }
    let shared = "{% set ns = namespace(l=[], m=[]) %}{% for i in range(60) %}\
        {% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}";
    for expression in
        ["ns.l == ns.m", "ns.l < ns.m", "ns.l in [ns.m]", "[ns.l, ns.m]|sort", "[ns.l].index(ns.m)"]
    {
        assert_eq!(render(&format!("{shared}{{{{ {expression} }}}}")), Err(ErrorKind::Limit), "{expression}");
    }
    // Tuples are keys.
    let tuples = shared.replace("[ns.l, ns.l]", "(ns.l, ns.l)").replace("l=[]", "l=()");
    assert_eq!(render(&format!("{tuples}{{{{ {{ns.l: 1}} }}}}")), Err(ErrorKind::Limit));
}

/// What many people write is far from the limits.
#[test]
fn long_conversations_are_rendered() {
    let source = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim }}{% if not loop.last %}\n{% endif %}{% endfor %}";
    let message = serde_json::json!({ "role": "user", "content": "word ".repeat(2_000) });
    let mut variables = Variables::new();
    let messages = serde_json::Value::Array(vec![message; 1_000]);
    variables.insert("messages", messages, bitnetc_jinja::Origin::User);
    let template = Template::new(source).unwrap();
    let rendered = template.render(&variables, &Limits::default(), &|_| Ok(String::new())).unwrap();
    assert!(rendered.text.len() > 9_900_000);
}
