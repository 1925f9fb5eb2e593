//! From rules to Lark: what becomes a lexeme, what stays a rule, and how both are written.
//!
//! Every expression without recursion begins as one lexeme. Those that would swallow a character of their successor
//! ([`Lexemes::swallowers`]) are taken apart, and so on until there is none; in the end, or where looking costs too much,
//! a lexeme is a single character, which can swallow nothing.

use std::collections::HashSet;
use std::fmt::Write;

use super::lexeme::{LexemeId, Lexemes, Regular};
use super::{CharSet, Expr, Gbnf, GbnfError, RuleId};

/// How often lexemes are taken apart before all become single characters.
const MAX_ROUNDS: usize = 24;
/// Most nodes that are visited to find what may follow what.
const MAX_VISITS: usize = 2_000_000;
/// Parentheses inside of each other in what is written; deeper ones become rules.
const MAX_PARENTHESES: usize = 6;

/// A rule over lexemes.
#[derive(Debug, Clone)]
enum Node {
    Lexeme(LexemeId),
    Rule(RuleId),
    Seq(Vec<Node>),
    Alt(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
}

impl Node {
    const EMPTY: Self = Node::Seq(Vec::new());
}

/// Translates a grammar.
pub(super) fn lower(mut grammar: Gbnf) -> Result<String, GbnfError> {
    prune(&mut grammar)?;
    let regular = Regular::new(&grammar.rules);
    let mut split = HashSet::new();
    for round in 0..=MAX_ROUNDS {
        let fine = round == MAX_ROUNDS;
        let lifted = Lift::new(&regular, &grammar.rules, &split, fine).lift_all(grammar.root);
        if fine {
            return Ok(lifted.write(&regular, grammar.root));
        }
        let swallowers = lifted.follow(grammar.root).and_then(|follow| lifted.lexemes.swallowers(&follow));
        match swallowers {
            Some(found) if found.is_empty() => return Ok(lifted.write(&regular, grammar.root)),
            Some(found) => {
                let all = lifted.lexemes.all();
                split.extend(found.into_iter().filter_map(|id| all.get(id.0).map(|&expr| expr.clone())));
            }
            None => {
                return Ok(Lift::new(&regular, &grammar.rules, &split, true)
                    .lift_all(grammar.root)
                    .write(&regular, grammar.root));
            }
        }
    }
    Err(GbnfError::Empty)
}

/// Takes out what can never come to an end.
fn prune(grammar: &mut Gbnf) -> Result<(), GbnfError> {
    let mut ends = vec![false; grammar.rules.len()];
    loop {
        let before = ends.clone();
        for (id, rule) in grammar.rules.iter().enumerate() {
            ends[id] = ends[id] || comes_to_an_end(rule, &ends);
        }
        if before == ends {
            break;
        }
    }
    if !ends[grammar.root.0] {
        return Err(GbnfError::Empty);
    }
    for (rule, &ends_too) in grammar.rules.iter_mut().zip(&ends) {
        *rule = if ends_too { pruned(rule, &ends) } else { Expr::EMPTY };
    }
    Ok(())
}

fn comes_to_an_end(expr: &Expr, ends: &[bool]) -> bool {
    match expr {
        Expr::Chars(set) => !set.is_empty(),
        Expr::Rule(id) => ends[id.0],
        Expr::Seq(parts) => parts.iter().all(|part| comes_to_an_end(part, ends)),
        Expr::Alt(parts) => parts.iter().any(|part| comes_to_an_end(part, ends)),
        Expr::Repeat(inner, min, _) => *min == 0 || comes_to_an_end(inner, ends),
    }
}

/// An expression that comes to an end, without its parts that do not.
fn pruned(expr: &Expr, ends: &[bool]) -> Expr {
    match expr {
        Expr::Chars(_) | Expr::Rule(_) => expr.clone(),
        Expr::Seq(parts) => Expr::Seq(parts.iter().map(|part| pruned(part, ends)).collect()),
        Expr::Alt(parts) => {
            let parts = parts.iter().filter(|part| comes_to_an_end(part, ends));
            Expr::Alt(parts.map(|part| pruned(part, ends)).collect())
        }
        Expr::Repeat(inner, min, max) => match comes_to_an_end(inner, ends) {
            true => Expr::Repeat(Box::new(pruned(inner, ends)), *min, *max),
            false => Expr::EMPTY,
        },
    }
}

/// Makes nodes of expressions.
struct Lift<'g> {
    regular: &'g Regular<'g>,
    rules: &'g [Expr],
    /// Lexemes that are taken apart.
    split: &'g HashSet<Expr>,
    /// Whether all are.
    fine: bool,
    lexemes: Lexemes,
    wanted: Vec<RuleId>,
    known: HashSet<RuleId>,
}

impl<'g> Lift<'g> {
    fn new(regular: &'g Regular<'g>, rules: &'g [Expr], split: &'g HashSet<Expr>, fine: bool) -> Self {
        let lexemes = Lexemes::default();
        Self { regular, rules, split, fine, lexemes, wanted: Vec::new(), known: HashSet::new() }
    }

    fn lift_all(mut self, root: RuleId) -> Lifted {
        let mut bodies: Vec<Option<Node>> = self.rules.iter().map(|_| None).collect();
        self.want(root);
        while let Some(id) = self.wanted.pop() {
            bodies[id.0] = Some(self.lift(&self.rules[id.0]));
        }
        Lifted { bodies, lexemes: self.lexemes }
    }

    fn want(&mut self, id: RuleId) -> Node {
        if self.known.insert(id) {
            self.wanted.push(id);
        }
        Node::Rule(id)
    }

    fn lift(&mut self, expr: &Expr) -> Node {
        if !self.regular.is_regular(expr) {
            return self.lift_parts(expr);
        }
        if self.regular.is_empty(expr) {
            return Node::EMPTY;
        }
        let resolved = self.regular.resolve(expr);
        let whole = matches!(resolved, Expr::Chars(_)) || !(self.fine || self.split.contains(resolved));
        if whole {
            let lexeme = Node::Lexeme(self.lexemes.intern(resolved, self.regular));
            return match self.regular.is_nullable(resolved) {
                true => Node::Repeat(Box::new(lexeme), 0, Some(1)),
                false => lexeme,
            };
        }
        match expr {
            Expr::Rule(id) => self.want(*id),
            Expr::Seq(parts) => self.lift_split(parts),
            Expr::Alt(parts) => Node::Alt(parts.iter().map(|part| self.lift(part)).collect()),
            Expr::Repeat(inner, min, max) => Node::Repeat(Box::new(self.lift(inner)), *min, *max),
            Expr::Chars(_) => Node::EMPTY,
        }
    }

    /// A sequence that is taken apart: its last part off the others, or all at once where they are characters.
    fn lift_split(&mut self, parts: &[Expr]) -> Node {
        let characters = parts.iter().all(|part| matches!(part, Expr::Chars(_)));
        match parts {
            [first @ .., last] if first.len() > 1 && !characters && !self.fine => {
                let first = self.lift(&Expr::Seq(first.to_vec()));
                Node::Seq(vec![first, self.lift(last)])
            }
            _ => Node::Seq(parts.iter().map(|part| self.lift(part)).collect()),
        }
    }

    /// An expression with recursion; what has none inside of it is put together.
    fn lift_parts(&mut self, expr: &Expr) -> Node {
        match expr {
            Expr::Rule(id) => self.want(*id),
            Expr::Seq(parts) => {
                let runs = parts.chunk_by(|a, b| self.regular.is_regular(a) && self.regular.is_regular(b));
                let runs: Vec<Expr> = runs.map(|run| together(run, Expr::Seq)).collect();
                Node::Seq(runs.iter().map(|run| self.lift_run(run)).collect())
            }
            Expr::Alt(parts) => {
                let (plain, others): (Vec<Expr>, Vec<Expr>) =
                    parts.iter().cloned().partition(|part| self.regular.is_regular(part));
                let mut nodes: Vec<Node> = others.iter().map(|part| self.lift(part)).collect();
                if !plain.is_empty() {
                    let plain = together(&plain, Expr::Alt);
                    nodes.push(self.lift_run(&plain));
                }
                Node::Alt(nodes)
            }
            Expr::Repeat(inner, min, max) => Node::Repeat(Box::new(self.lift(inner)), *min, *max),
            Expr::Chars(_) => Node::EMPTY,
        }
    }

    /// Parts without recursion together, or one by one where they are too large together.
    fn lift_run(&mut self, run: &Expr) -> Node {
        match run {
            Expr::Seq(parts) if !self.regular.is_regular(run) => {
                Node::Seq(parts.iter().map(|part| self.lift(part)).collect())
            }
            Expr::Alt(parts) if !self.regular.is_regular(run) => {
                Node::Alt(parts.iter().map(|part| self.lift(part)).collect())
            }
            _ => self.lift(run),
        }
    }
}

fn together(parts: &[Expr], join: fn(Vec<Expr>) -> Expr) -> Expr {
    match parts {
        [one] => one.clone(),
        parts => join(parts.to_vec()),
    }
}

/// Rules over lexemes; nothing for rules that are not needed.
struct Lifted {
    bodies: Vec<Option<Node>>,
    lexemes: Lexemes,
}

/// What is known of the rules while it is found which characters may follow which lexeme.
struct Follow {
    begins: Vec<CharSet>,
    nullable: Vec<bool>,
    first: Vec<CharSet>,
    after_rule: Vec<CharSet>,
    after_lexeme: Vec<CharSet>,
    changed: bool,
    visits: usize,
}

impl Lifted {
    /// The characters that may follow each lexeme. Nothing where it takes too long to find them.
    fn follow(&self, root: RuleId) -> Option<Vec<CharSet>> {
        let (rules, lexemes) = (self.bodies.len(), self.lexemes.all().len());
        let mut follow = Follow {
            begins: (0..lexemes).map(|id| self.lexemes.begins_with(LexemeId(id))).collect(),
            nullable: vec![false; rules],
            first: vec![CharSet::default(); rules],
            after_rule: vec![CharSet::default(); rules],
            after_lexeme: vec![CharSet::default(); lexemes],
            changed: true,
            visits: 0,
        };
        debug_assert!(self.bodies[root.0].is_some(), "the root is always lifted");
        let bodies = || self.bodies.iter().enumerate().filter_map(|(id, body)| Some((id, body.as_ref()?)));
        while std::mem::take(&mut follow.changed) {
            for (id, body) in bodies() {
                let (first, nullable) = follow.first_of(body)?;
                follow.changed |= follow.first[id].add(&first) | (nullable && !follow.nullable[id]);
                follow.nullable[id] |= nullable;
            }
        }
        follow.changed = true;
        while std::mem::take(&mut follow.changed) {
            for (id, body) in bodies() {
                let after = follow.after_rule[id].clone();
                follow.spread(body, &after)?;
            }
        }
        Some(follow.after_lexeme)
    }
}

impl Follow {
    fn visit(&mut self, cost: usize) -> Option<()> {
        self.visits += 1 + cost;
        (self.visits <= MAX_VISITS).then_some(())
    }

    /// What a node begins with, and whether it may be nothing.
    fn first_of(&mut self, node: &Node) -> Option<(CharSet, bool)> {
        self.visit(0)?;
        Some(match node {
            Node::Lexeme(id) => (self.begins[id.0].clone(), false),
            Node::Rule(id) => (self.first[id.0].clone(), self.nullable[id.0]),
            Node::Seq(parts) => {
                let mut set = CharSet::default();
                for part in parts {
                    let (first, nullable) = self.first_of(part)?;
                    set.add(&first);
                    self.visit(set.ranges())?;
                    if !nullable {
                        return Some((set, false));
                    }
                }
                (set, true)
            }
            Node::Alt(parts) => {
                let (mut set, mut nullable) = (CharSet::default(), false);
                for part in parts {
                    let (first, none) = self.first_of(part)?;
                    set.add(&first);
                    self.visit(set.ranges())?;
                    nullable |= none;
                }
                (set, nullable)
            }
            Node::Repeat(inner, min, _) => {
                let (first, nullable) = self.first_of(inner)?;
                (first, nullable || *min == 0)
            }
        })
    }

    /// Notes that `after` may follow a node, and what that means inside of it.
    fn spread(&mut self, node: &Node, after: &CharSet) -> Option<()> {
        self.visit(after.ranges())?;
        match node {
            Node::Lexeme(id) => self.changed |= self.after_lexeme[id.0].add(after),
            Node::Rule(id) => self.changed |= self.after_rule[id.0].add(after),
            Node::Seq(parts) => {
                let mut after = after.clone();
                for part in parts.iter().rev() {
                    self.spread(part, &after)?;
                    let (first, nullable) = self.first_of(part)?;
                    after = match nullable {
                        true => {
                            after.add(&first);
                            after
                        }
                        false => first,
                    };
                }
            }
            Node::Alt(parts) => {
                for part in parts {
                    self.spread(part, after)?;
                }
            }
            Node::Repeat(inner, _, max) => {
                let mut after = after.clone();
                if *max != Some(1) {
                    after.add(&self.first_of(inner)?.0);
                }
                self.spread(inner, &after)?;
            }
        }
        Some(())
    }
}

impl Lifted {
    /// Writes the rules in Lark.
    fn write(&self, regular: &Regular<'_>, root: RuleId) -> String {
        let mut writer = Writer { out: format!("start: r{}\n", root.0), more: Vec::new(), named: 0 };
        for (id, body) in self.bodies.iter().enumerate() {
            if let Some(body) = body {
                writer.rule(&format!("r{id}"), body);
            }
        }
        while let Some((name, body)) = writer.more.pop() {
            writer.rule(&name, &body);
        }
        for (id, expr) in self.lexemes.all().into_iter().enumerate() {
            let mut regex = String::new();
            regular.write_regex(expr, &mut regex);
            let nonempty = if regular.is_nullable(expr) { " & /(?s:.)+/" } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(writer.out, "T{id}: /{regex}/{nonempty}");
        }
        writer.out
    }
}

struct Writer {
    out: String,
    /// Rules that were too deep where they stood.
    more: Vec<(String, Node)>,
    named: usize,
}

impl Writer {
    fn rule(&mut self, name: &str, body: &Node) {
        self.out.push_str(name);
        self.out.push_str(": ");
        self.node(body, 0);
        self.out.push('\n');
    }

    fn node(&mut self, node: &Node, depth: usize) {
        match node {
            Node::Lexeme(id) => {
                let _ = write!(self.out, "T{}", id.0);
            }
            Node::Rule(id) => {
                let _ = write!(self.out, "r{}", id.0);
            }
            Node::Seq(parts) if parts.is_empty() => self.out.push_str("\"\""),
            Node::Seq(parts) => {
                for (number, part) in parts.iter().enumerate() {
                    self.out.push_str(if number > 0 { " " } else { "" });
                    self.atom(part, depth);
                }
            }
            Node::Alt(parts) => {
                for (number, part) in parts.iter().enumerate() {
                    self.out.push_str(if number > 0 { " | " } else { "" });
                    self.node(part, depth);
                }
            }
            Node::Repeat(inner, min, max) => {
                self.atom(inner, depth);
                let _ = match (min, max) {
                    (0, None) => write!(self.out, "*"),
                    (1, None) => write!(self.out, "+"),
                    (0, Some(1)) => write!(self.out, "?"),
                    (min, None) => write!(self.out, "{{{min},}}"),
                    (min, Some(max)) => write!(self.out, "{{{min},{max}}}"),
                };
            }
        }
    }

    fn atom(&mut self, node: &Node, depth: usize) {
        match node {
            Node::Lexeme(_) | Node::Rule(_) => self.node(node, depth),
            _ if depth >= MAX_PARENTHESES => {
                let name = format!("d{}", self.named);
                self.named += 1;
                self.out.push_str(&name);
                self.more.push((name, node.clone()));
            }
            _ => {
                self.out.push('(');
                self.node(node, depth + 1);
                self.out.push(')');
            }
        }
    }
}
