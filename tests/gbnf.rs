//! Grammars in GBNF: well-known ones, and random ones against a matcher that shares nothing with the translation.

#[path = "common/bytes.rs"]
mod bytes;
#[path = "common/gbnf.rs"]
mod random;

use bitnetc::constraint::gbnf::GbnfError;
use bitnetc::constraint::{ConstraintError, GrammarSource};
use bytes::{Bytes, accepts};
use random::{ALPHABET, Grammar, Random};

fn file(name: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gbnf");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn check(name: &str, good: &[&str], bad: &[&str]) {
    let source = GrammarSource::of_grammar(file(name));
    assert!(matches!(source, GrammarSource::Gbnf(_)), "{name}");
    let grammar = Bytes::new().grammar(&source).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (texts, expected) in [(good, true), (bad, false)] {
        for text in texts {
            assert_eq!(accepts(&grammar, text), expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn json() {
    let good = [
        "{}",
        "{ }",
        "{\"a\":1}",
        "{\"a\": [1, -2.5e3, true, {\"b\": \"x\\n\\u00e9 \u{e9}\"}], \"c\": null}\n",
        "{\n  \"a\": []\n}",
    ];
    check(
        "json.gbnf",
        &good,
        &["", "[1]", "{\"a\" 1}", "{\"a\":01}", "{\"a\":\"\\x\"}", "{\"a\":1,}", "{\"a\":\"\n\"}"],
    );
}

#[test]
fn arithmetic() {
    let good = ["a=1\n", "x1 +2*( y -3 )= 7\n", "a=1\nb_2 = c\n", "a = 1 \n\nb=2\n"];
    check("arithmetic.gbnf", &good, &["a=1", "=1\n", "a+=1\n", "(a=1\n", "a b = 1\n"]);
}

#[test]
fn list() {
    check("list.gbnf", &["- milk\n", "- milk\n- 2 eggs\n"], &["", "milk\n", "- \n", "- milk", "-milk\n"]);
}

#[test]
fn chess() {
    let good = [
        "1. e4 e5\n",
        "1. e4 e5\n2. Nf3 Nc6\n3. Bb5 a6\n",
        "1. e4 e5\n2. O-O exd5+\n",
        "1. e4 e5\n2. e8=Q# Nbd2\n",
    ];
    check("chess.gbnf", &good, &["e4 e5\n", "1. e9 e5\n", "1. e4\n", "2. e4 e5\n"]);
}

#[test]
fn c_like() {
    let good = [
        "int main(){return 0;}",
        "int f(int a, float b){ int x = a + 1 * (b); while (x < 10) { x = x + 1; } return x; }",
        "char g(){ // remark\n if (a == 1) { return f(a,2); } else { g(); } }",
    ];
    check(
        "c.gbnf",
        &good,
        &["int main()", "main(){}", "int 1f(){}", "int f(){ return }", "int f(){ x = ; }"],
    );
}

#[test]
fn the_whole_notation() {
    let all = |text: &str| Bytes::new().grammar(&GrammarSource::Gbnf(text.to_owned()));
    for (text, good, bad) in [
        ("root ::= \"red\" | \"green\"\n", &["red", "green"][..], &["", "re", "redgreen"][..]),
        (
            "root ::= [a-c] [^a-c] . \"\\x41\\u00e9\\U0001F642\\n\\\"\\\\\"",
            &["bz\nA\u{e9}\u{1f642}\n\"\\"],
            &["bbxA"],
        ),
        (
            "root ::= \"a\"{2} \"b\"{1,} \"c\"{0,2} [d-]{3,4} \"e\"{0}",
            &["aabddd", "aabbccd-d-"],
            &["abddd", "aabcccddd", "aabddddd"],
        ),
        (
            "root ::= (\"a\" |\n  # remark\n  \"b\"\n)+ x?\nx ::= \"\" | \"]\" # the end\n",
            &["a", "abba]"],
            &["", "]]"],
        ),
        ("root ::= x |\n  y\n  | \"c\"\nx ::=\ny ::= \"b\"", &["", "b", "c"], &["bc"]),
        ("\u{feff}root ::= left\r\nleft ::= left \"x\" | \"y\"\r\n", &["y", "yxx"], &["", "x"]),
        (
            "root ::= [a-z]* \"end\" | \"(\" root \")\"",
            &["end", "endend", "enend", "((end))"],
            &["en", "(end"],
        ),
        ("root ::= [^]{2}", &["ab", "\u{1f642}\n"], &["a"]),
        ("root ::= \"a\" | never\nnever ::= \"b\" never", &["a"], &["b", "bb"]),
    ] {
        let grammar = all(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        for (texts, expected) in [(good, true), (bad, false)] {
            for example in texts {
                assert_eq!(accepts(&grammar, example), expected, "{text}: {example:?}");
            }
        }
    }
}

#[test]
fn what_is_wrong_has_its_place() {
    for (text, expected) in [
        ("root ::= (\"a\"", "line 1, column 14: expected `)`\n   1 | root ::= (\"a\"\n     |              ^"),
        (
            "root ::= \"a\"\n  b ::= [z-a]\n",
            "line 2, column 10: the ends of this range are in the wrong order",
        ),
        ("root ::= no-such", "line 1, column 10: undefined rule `no-such`"),
        ("root ::= \"a\" \"\\q\"", "unknown escape"),
        ("root ::= \"\\ud800\"", "U+D800 is no character"),
        ("root ::= \"a\"{3,2}", "smaller than the first"),
        ("root ::= \"a\"{1,2001}", "the largest number of repetitions is 2000"),
        ("root ::= * \"a\"", "nothing precedes `*`"),
        ("root ::= <think> \"a\"", "column 10: tokens by name or number are not supported"),
        ("root ::= !<[7]>", "tokens by name or number are not supported"),
        ("root ::= \"a", "unterminated string"),
        ("root ::= [a", "unterminated"),
        ("root ::= \"a\")", "closes no group"),
        ("root ::= \"a\" = \"b\"", "unexpected '=' in a rule"),
        ("root ::= \"a\"\nroot ::= \"b\"", "a second rule of this name"),
        ("other ::= \"a\"", "there is no rule `root`"),
        ("root ::= \"a\" root", "no text satisfies the grammar"),
        ("root ::= []", "no text satisfies the grammar"),
        (&format!("root ::= {}\"a\"{}", "(".repeat(70), ")".repeat(70)), "more than 64 deep"),
    ] {
        let error = Bytes::new().grammar(&GrammarSource::Gbnf(text.to_owned())).unwrap_err();
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
    let many = (0..5000).map(|n| format!("r{n} ::= \"a\"\n")).collect::<String>();
    let error = Bytes::new().grammar(&GrammarSource::Gbnf(format!("root ::= \"a\"\n{many}"))).unwrap_err();
    assert!(matches!(error, ConstraintError::Gbnf(GbnfError::TooLarge { .. })), "{error}");
}

#[test]
fn grammars_are_told_apart_by_their_form() {
    for (text, gbnf) in [
        ("root ::= \"a\"", true),
        ("# remark\n\n  my-rule   ::= root\n", true),
        ("start: \"a\"", false),
        ("start: \"x ::= y\"", false),
        ("%llguidance {}\nstart: /a/ // b ::= c\n", false),
        ("", false),
    ] {
        let source = GrammarSource::of_grammar(text.to_owned());
        assert_eq!(matches!(source, GrammarSource::Gbnf(_)), gbnf, "{text}");
    }
}

#[test]
fn random_grammars_are_followed_exactly() {
    let (mut random, bytes) = (Random(7), Bytes::new());
    let (mut empty, mut texts, mut matched) = (0, 0, 0);
    for number in 0..1200 {
        let grammar = Grammar::random(&mut random);
        let source = grammar.to_gbnf();
        let mut example = || -> Vec<char> {
            (0..random.below(7)).map(|_| ALPHABET[random.below(ALPHABET.len())]).collect()
        };
        let made = match bytes.grammar(&GrammarSource::Gbnf(source.clone())) {
            Ok(made) => Some(made),
            Err(ConstraintError::Gbnf(GbnfError::Empty)) => None,
            Err(error) => panic!("{number}: {error}\n{source}"),
        };
        empty += usize::from(made.is_none());
        for _ in 0..120 {
            let text = example();
            let expected = grammar.matches(&text);
            let shown: String = text.iter().collect();
            let found = made.as_ref().is_some_and(|made| accepts(made, &shown));
            assert_eq!(found, expected, "{number}: {shown:?}\n{source}");
            texts += 1;
            matched += usize::from(expected);
        }
    }
    println!("{empty} without a text, {matched} of {texts} texts matched");
    assert!(empty > 50 && matched > 4_000, "{empty} {matched}");
}
