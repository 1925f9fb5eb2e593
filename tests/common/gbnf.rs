//! Random grammars, written in GBNF and matched by a table of which rule reaches from where to where.
#![allow(dead_code, unreachable_pub, missing_docs)]

/// Random numbers: the same ones in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
}

pub const ALPHABET: [char; 5] = ['a', 'b', 'c', ' ', 'é'];

/// An expression of a random grammar.
#[derive(Debug, Clone)]
pub enum Expr {
    Text(Vec<char>),
    Class(bool, Vec<char>),
    Any,
    Rule(usize),
    Seq(Vec<Expr>),
    Alt(Vec<Expr>),
    Repeat(Box<Expr>, usize, Option<usize>),
}

/// A grammar; its first rule is the root.
#[derive(Debug)]
pub struct Grammar(pub Vec<Expr>);

impl Grammar {
    pub fn random(random: &mut Random) -> Self {
        let rules = 1 + random.below(4);
        Self((0..rules).map(|_| expr(random, rules, 3)).collect())
    }

    pub fn to_gbnf(&self) -> String {
        let name = |id: usize| if id == 0 { "root".to_owned() } else { format!("rule-{id}") };
        fn write(expr: &Expr, name: &dyn Fn(usize) -> String, out: &mut String) {
            match expr {
                Expr::Text(text) => *out += &format!("{:?} ", text.iter().collect::<String>()),
                Expr::Class(negated, chars) => {
                    *out += &format!(
                        "[{}{}] ",
                        if *negated { "^" } else { "" },
                        chars.iter().collect::<String>()
                    );
                }
                Expr::Any => *out += ". ",
                Expr::Rule(id) => *out += &format!("{} ", name(*id)),
                Expr::Seq(parts) => parts.iter().for_each(|part| write(part, name, out)),
                Expr::Alt(parts) => {
                    *out += "( ";
                    for (at, part) in parts.iter().enumerate() {
                        *out += if at > 0 { "| " } else { "" };
                        write(part, name, out);
                    }
                    *out += ") ";
                }
                Expr::Repeat(inner, min, max) => {
                    *out += "( ";
                    write(inner, name, out);
                    *out += ")";
                    *out += &match (min, max) {
                        (0, None) => "* ".to_owned(),
                        (1, None) => "+ ".to_owned(),
                        (0, Some(1)) => "? ".to_owned(),
                        (min, None) => format!("{{{min},}} "),
                        (min, Some(max)) if min == max => format!("{{{min}}} "),
                        (min, Some(max)) => format!("{{{min},{max}}} "),
                    };
                }
            }
        }
        let mut out = String::new();
        for (id, body) in self.0.iter().enumerate() {
            out += &format!("{} ::= ", name(id));
            write(body, &name, &mut out);
            out += "\n";
        }
        out
    }

    /// Whether the grammar has a text: the least fixed point of which rule reaches from where to where, as bits.
    pub fn matches(&self, text: &[char]) -> bool {
        let mut reach = vec![vec![0u32; text.len() + 1]; self.0.len()];
        loop {
            let before = reach.clone();
            for (id, body) in self.0.iter().enumerate() {
                for (from, ends_of) in reach[id].iter_mut().enumerate() {
                    *ends_of |= ends(body, text, from, &before);
                }
            }
            if before == reach {
                return (reach[0][0] >> text.len()) & 1 == 1;
            }
        }
    }
}

fn each(set: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |&at| (set >> at) & 1 == 1)
}

/// Where an expression may end that begins at `from`.
fn ends(expr: &Expr, text: &[char], from: usize, reach: &[Vec<u32>]) -> u32 {
    let one = |ok: &dyn Fn(char) -> bool| text.get(from).filter(|&&c| ok(c)).map_or(0, |_| 1 << (from + 1));
    match expr {
        Expr::Text(want) if text[from..].starts_with(want) => 1 << (from + want.len()),
        Expr::Text(_) => 0,
        Expr::Class(negated, chars) => one(&|c| chars.contains(&c) != *negated),
        Expr::Any => one(&|_| true),
        Expr::Rule(id) => reach[*id][from],
        Expr::Seq(parts) => parts
            .iter()
            .fold(1 << from, |at, part| each(at).fold(0, |sum, at| sum | ends(part, text, at, reach))),
        Expr::Alt(parts) => parts.iter().fold(0, |sum, part| sum | ends(part, text, from, reach)),
        Expr::Repeat(inner, min, max) => {
            let step = |set: u32| each(set).fold(0, |sum, at| sum | ends(inner, text, at, reach));
            let mut now = 1 << from;
            for _ in 0..*min {
                now = step(now);
            }
            let (mut sum, mut left) = (now, max.map_or(text.len() + 1, |max| max - min));
            while left > 0 && now != 0 {
                now = step(now);
                sum |= now;
                left -= 1;
            }
            sum
        }
    }
}

fn expr(random: &mut Random, rules: usize, depth: usize) -> Expr {
    let chars = |random: &mut Random| -> Vec<char> {
        (0..1 + random.below(3)).map(|_| ALPHABET[random.below(ALPHABET.len())]).collect()
    };
    match random.below(if depth == 0 { 6 } else { 12 }) {
        0..=2 => Expr::Text(chars(random)),
        3 => Expr::Class(random.below(4) == 0, chars(random)),
        4 if random.below(3) == 0 => Expr::Any,
        4 | 5 => Expr::Rule(random.below(rules)),
        6..=8 => Expr::Seq((0..random.below(4)).map(|_| expr(random, rules, depth - 1)).collect()),
        9 | 10 => Expr::Alt((0..1 + random.below(3)).map(|_| expr(random, rules, depth - 1)).collect()),
        _ => {
            let min = random.below(3);
            let max = match random.below(3) {
                0 => None,
                more => Some((min + more - 1).max(1)),
            };
            Expr::Repeat(Box::new(expr(random, rules, depth - 1)), min, max)
        }
    }
}
