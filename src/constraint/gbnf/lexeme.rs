//! Lexemes: expressions without recursion, as regular expressions and as automata.
//!
//! The engine's lexer takes the longest lexeme. That is the same as GBNF, where any cut of the text is good, as long as no
//! lexeme can go on with a character that may follow another one that has ended at this place. [`Lexemes::swallowers`]
//! finds those that can, in the position automata (Glushkov) of all lexemes read in step.
//!
//! Counted repetitions are widened to unbounded ones in the automata: what is found for more texts holds for fewer.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use super::{CharSet, Expr, RuleId};

/// Most positions of one lexeme.
const MAX_POSITIONS: u32 = 400;
/// Most positions of all automata.
const MAX_ALL_POSITIONS: usize = 6_000;
/// Deepest nesting of a lexeme, rules put in: what the engine's reader of expressions takes.
const MAX_HEIGHT: u32 = 40;
/// Most pairs of positions that are looked at.
const MAX_PAIRS: usize = 400_000;

/// What a rule or expression without recursion would cost as a lexeme.
#[derive(Debug, Clone, Copy)]
struct Cost {
    positions: u32,
    height: u32,
    nullable: bool,
}

/// Which rules have no recursion and are small enough for lexemes.
#[derive(Debug)]
pub(super) struct Regular<'g> {
    rules: &'g [Expr],
    costs: Vec<Option<Cost>>,
}

impl<'g> Regular<'g> {
    /// Goes through `rules`.
    pub(super) fn new(rules: &'g [Expr]) -> Self {
        let mut this = Self { rules, costs: vec![None; rules.len()] };
        // A rule has its cost when all that it names have one. Each is tried again when one of these is known.
        let mut named_by = vec![Vec::new(); rules.len()];
        for (id, rule) in rules.iter().enumerate() {
            let mut stack = vec![rule];
            while let Some(expr) = stack.pop() {
                if let Expr::Rule(RuleId(inner)) = expr {
                    named_by[*inner].push(id);
                }
                stack.extend(expr.children());
            }
        }
        let mut waiting: Vec<usize> = named_by.iter().map(|_| 0).collect();
        for users in &named_by {
            users.iter().for_each(|&user| waiting[user] += 1);
        }
        let mut ready: Vec<usize> = (0..rules.len()).filter(|&id| waiting[id] == 0).collect();
        while let Some(id) = ready.pop() {
            this.costs[id] = this.cost(&rules[id]);
            if this.costs[id].is_none() {
                continue;
            }
            for &user in &named_by[id] {
                waiting[user] -= 1;
                if waiting[user] == 0 {
                    ready.push(user);
                }
            }
        }
        this
    }

    /// What an expression costs; nothing where it cannot be a lexeme.
    fn cost(&self, expr: &Expr) -> Option<Cost> {
        let cost = match expr {
            Expr::Chars(_) => Cost { positions: 1, height: 0, nullable: false },
            Expr::Rule(id) => self.costs[id.0]?,
            Expr::Seq(parts) | Expr::Alt(parts) => {
                let all = matches!(expr, Expr::Seq(_));
                let mut sum = Cost { positions: 0, height: 0, nullable: all };
                for part in parts {
                    let part = self.cost(part)?;
                    sum.positions = sum.positions.saturating_add(part.positions);
                    sum.height = sum.height.max(part.height);
                    sum.nullable =
                        if all { sum.nullable && part.nullable } else { sum.nullable || part.nullable };
                }
                Cost { height: sum.height + 1, ..sum }
            }
            Expr::Repeat(inner, min, _) => {
                let inner = self.cost(inner)?;
                let positions = inner.positions.saturating_mul((*min).clamp(1, 2));
                Cost { positions, height: inner.height + 1, nullable: *min == 0 || inner.nullable }
            }
        };
        (cost.positions <= MAX_POSITIONS && cost.height <= MAX_HEIGHT).then_some(cost)
    }

    /// Whether an expression can be a lexeme.
    pub(super) fn is_regular(&self, expr: &Expr) -> bool {
        self.cost(expr).is_some()
    }

    /// Whether an expression that can be a lexeme has the empty text.
    pub(super) fn is_nullable(&self, expr: &Expr) -> bool {
        self.cost(expr).is_some_and(|cost| cost.nullable)
    }

    /// Whether an expression that can be a lexeme has no text but the empty one.
    pub(super) fn is_empty(&self, expr: &Expr) -> bool {
        self.cost(expr).is_some_and(|cost| cost.positions == 0)
    }

    /// What an expression is once rules that are nothing but a name are followed.
    pub(super) fn resolve<'e>(&'e self, mut expr: &'e Expr) -> &'e Expr {
        while let Expr::Rule(id) = expr {
            expr = &self.rules[id.0];
        }
        expr
    }

    /// Writes a lexeme as a regular expression.
    pub(super) fn write_regex(&self, expr: &Expr, out: &mut String) {
        match expr {
            Expr::Chars(set) => set.write_class(out),
            Expr::Rule(id) => self.write_regex(&self.rules[id.0], out),
            Expr::Seq(parts) => {
                for part in parts {
                    self.write_atom(part, matches!(self.resolve(part), Expr::Alt(_)), out);
                }
            }
            Expr::Alt(parts) => {
                for (number, part) in parts.iter().enumerate() {
                    out.push_str(if number > 0 { "|" } else { "" });
                    self.write_regex(part, out);
                }
            }
            Expr::Repeat(inner, min, max) => {
                self.write_atom(inner, !matches!(self.resolve(inner), Expr::Chars(_)), out);
                // Writing to a string cannot fail.
                let _ = match (min, max) {
                    (0, None) => write!(out, "*"),
                    (1, None) => write!(out, "+"),
                    (0, Some(1)) => write!(out, "?"),
                    (min, None) => write!(out, "{{{min},}}"),
                    (min, Some(max)) => write!(out, "{{{min},{max}}}"),
                };
            }
        }
    }

    fn write_atom(&self, expr: &Expr, grouped: bool, out: &mut String) {
        out.push_str(if grouped { "(?:" } else { "" });
        self.write_regex(expr, out);
        out.push_str(if grouped { ")" } else { "" });
    }
}

/// Index of a lexeme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LexemeId(pub(super) usize);

/// A place in a lexeme: one character of its automaton.
#[derive(Debug)]
struct Position {
    chars: CharSet,
    lexeme: LexemeId,
    /// Whether the lexeme may end here.
    last: bool,
    next: Vec<usize>,
}

/// The first and last positions of a part of a lexeme, and whether it may be nothing.
struct Part {
    first: Vec<usize>,
    last: Vec<usize>,
    nullable: bool,
}

/// The automata of all lexemes.
#[derive(Debug, Default)]
pub(super) struct Lexemes {
    positions: Vec<Position>,
    first: Vec<Vec<usize>>,
    by_expr: HashMap<Expr, LexemeId>,
}

impl Lexemes {
    /// The lexeme of an expression.
    pub(super) fn intern(&mut self, expr: &Expr, regular: &Regular<'_>) -> LexemeId {
        if let Some(&id) = self.by_expr.get(expr) {
            return id;
        }
        let id = LexemeId(self.first.len());
        self.by_expr.insert(expr.clone(), id);
        let mut first = Vec::new();
        if self.positions.len() <= MAX_ALL_POSITIONS {
            let part = self.add(expr, id, regular);
            part.last.iter().for_each(|&at| self.positions[at].last = true);
            first = part.first;
        }
        self.first.push(first);
        id
    }

    /// The lexemes with their expressions.
    pub(super) fn all(&self) -> Vec<&Expr> {
        let mut all: Vec<(&Expr, LexemeId)> = self.by_expr.iter().map(|(expr, &id)| (expr, id)).collect();
        all.sort_unstable_by_key(|&(_, id)| id);
        all.into_iter().map(|(expr, _)| expr).collect()
    }

    /// The characters that a lexeme begins with.
    pub(super) fn begins_with(&self, id: LexemeId) -> CharSet {
        let mut set = CharSet::default();
        for &at in &self.first[id.0] {
            set.add(&self.positions[at].chars);
        }
        set
    }

    fn add(&mut self, expr: &Expr, id: LexemeId, regular: &Regular<'_>) -> Part {
        match expr {
            Expr::Chars(chars) => {
                let at = self.positions.len();
                let chars = chars.clone();
                self.positions.push(Position { chars, lexeme: id, last: false, next: Vec::new() });
                Part { first: vec![at], last: vec![at], nullable: false }
            }
            Expr::Rule(rule) => self.add(&regular.rules[rule.0], id, regular),
            Expr::Seq(parts) => {
                let mut whole = Part { first: Vec::new(), last: Vec::new(), nullable: true };
                for part in parts {
                    let part = self.add(part, id, regular);
                    whole = self.join(whole, part);
                }
                whole
            }
            Expr::Alt(parts) => {
                let mut whole = Part { first: Vec::new(), last: Vec::new(), nullable: false };
                for part in parts {
                    let part = self.add(part, id, regular);
                    whole.first.extend(part.first);
                    whole.last.extend(part.last);
                    whole.nullable |= part.nullable;
                }
                whole
            }
            Expr::Repeat(inner, min, max) => {
                let once = self.add(inner, id, regular);
                if *max != Some(1) {
                    self.link(&once.last, &once.first);
                }
                match min {
                    0 => Part { nullable: true, ..once },
                    1 => once,
                    _ => {
                        let again = self.add(inner, id, regular);
                        self.link(&again.last, &again.first);
                        self.join(once, again)
                    }
                }
            }
        }
    }

    fn link(&mut self, from: &[usize], to: &[usize]) {
        for &at in from {
            self.positions[at].next.extend(to);
        }
    }

    fn join(&mut self, mut a: Part, b: Part) -> Part {
        self.link(&a.last, &b.first);
        if a.nullable {
            a.first.extend(&b.first);
        }
        let mut last = b.last;
        if b.nullable {
            last.extend(a.last);
        }
        Part { first: a.first, last, nullable: a.nullable && b.nullable }
    }

    /// The lexemes that can go on with a character of what may come after a lexeme that has ended at this place; `follow`
    /// has these characters by lexeme. Nothing where there is too much to look at.
    pub(super) fn swallowers(&self, follow: &[CharSet]) -> Option<HashSet<LexemeId>> {
        if self.positions.len() > MAX_ALL_POSITIONS {
            return None;
        }
        let mut found = HashSet::new();
        let (mut seen, mut pairs) = (HashSet::new(), Vec::new());
        let begins: Vec<usize> = self.first.iter().flatten().copied().collect();
        self.meet(&begins, &begins, &mut seen, &mut pairs)?;
        while let Some((ended, other)) = pairs.pop() {
            let (ended, other) = (&self.positions[ended], &self.positions[other]);
            if ended.last && !found.contains(&other.lexeme) {
                let after = &follow[ended.lexeme.0];
                if other.next.iter().any(|&at| self.positions[at].chars.meets(after)) {
                    found.insert(other.lexeme);
                }
            }
            self.meet(&ended.next, &other.next, &mut seen, &mut pairs)?;
        }
        Some(found)
    }

    /// The pairs of positions that one character leads to. Nothing when there are too many.
    fn meet(
        &self,
        a: &[usize],
        b: &[usize],
        seen: &mut HashSet<(usize, usize)>,
        pairs: &mut Vec<(usize, usize)>,
    ) -> Option<()> {
        if seen.len() + a.len().saturating_mul(b.len()) > MAX_PAIRS {
            return None;
        }
        for &x in a {
            for &y in b {
                if self.positions[x].chars.meets(&self.positions[y].chars) && seen.insert((x, y)) {
                    pairs.push((x, y));
                }
            }
        }
        Some(())
    }
}
