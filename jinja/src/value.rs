//! Values of templates, with Python's types.
//!
//! Invariants: lists, tuples and dictionaries never change and know how deep they nest, which is bounded when they are
//! made, so that walking or dropping a value recurses no deeper than [`MAX_DEPTH`]. Everything that changes (namespaces,
//! cyclers, generators, loops) lives in the machine's store and is held by number, so that no value contains itself.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast;
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::text::{Origin, Text};

/// How deep lists and dictionaries may nest.
pub(crate) const MAX_DEPTH: u32 = 200;

/// The number of something that changes, in the store of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ObjectId(pub(crate) u32);

/// The number of a scope of variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ScopeId(pub(crate) u32);

/// What a value in the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    Namespace,
    Cycler,
    Joiner,
    Generator,
    Loop,
}

/// A function that templates call by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    RaiseException,
    StrftimeNow,
}

/// What of a dictionary a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Keys,
    Values,
    Items,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Nothing there, with the reason for who uses it nevertheless.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Int(i128, Origin),
    Float(f64, Origin),
    Text(Text),
    List(List),
    Tuple(List),
    Dict(Dict),
    View(View, Dict),
    Range(Range),
    Object(ObjectKind, ObjectId),
    Macro(Arc<MacroValue>),
    Function(Function),
    Method(Arc<Method>),
}

/// A macro with the scope that it was made in.
#[derive(Debug)]
pub(crate) struct MacroValue {
    pub(crate) tree: Arc<ast::Macro>,
    pub(crate) scope: ScopeId,
}

/// A method that was taken from its value.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) receiver: Value,
    pub(crate) name: Text,
    depth: u32,
}

impl Method {
    pub(crate) fn new(receiver: Value, name: Text) -> Result<Self> {
        let depth = deeper(receiver.depth())?;
        Ok(Self { receiver, name, depth })
    }
}

/// The numbers that `range` gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) start: i128,
    pub(crate) stop: i128,
    pub(crate) step: i128,
    pub(crate) len: usize,
}

impl Range {
    pub(crate) fn get(&self, at: usize) -> Option<i128> {
        (at < self.len).then(|| self.start + at as i128 * self.step)
    }
}

fn deeper(depth: u32) -> Result<u32> {
    if depth >= MAX_DEPTH {
        return Err(Error::limit(format!("a value nests more than {MAX_DEPTH} levels deep")));
    }
    Ok(depth + 1)
}

/// What a value in a list takes.
pub(crate) const VALUE_BYTES: usize = 48;

/// The items of a list or tuple.
#[derive(Debug, Clone)]
pub(crate) struct List(Arc<ListItems>);

#[derive(Debug)]
struct ListItems {
    items: Vec<Value>,
    depth: u32,
    /// Whether it is a pair of the filter `groupby`, whose items have names.
    group: bool,
}

impl List {
    /// A list; its places are charged.
    pub(crate) fn new(budget: &Budget, items: Vec<Value>) -> Result<Self> {
        budget.bytes((items.len() + 1) * VALUE_BYTES)?;
        let depth = deeper(items.iter().map(Value::depth).max().unwrap_or(0))?;
        Ok(Self(Arc::new(ListItems { items, depth, group: false })))
    }

    /// What the filter `groupby` gives for a key: it and its items, which also have names.
    pub(crate) fn group(budget: &Budget, key: Value, items: Value) -> Result<Self> {
        budget.bytes(3 * VALUE_BYTES)?;
        let depth = deeper(key.depth().max(items.depth()))?;
        Ok(Self(Arc::new(ListItems { items: vec![key, items], depth, group: true })))
    }

    /// An item by its name.
    pub(crate) fn named(&self, name: &str) -> Option<&Value> {
        let place = match name {
            "grouper" => 0,
            "list" => 1,
            _ => return None,
        };
        self.items().get(place).filter(|_| self.0.group)
    }

    pub(crate) fn items(&self) -> &[Value] {
        &self.0.items
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What a key is found by: equal for equal values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Undefined,
    None,
    /// Also true, false and floats that are whole.
    Int(i128),
    /// By bits.
    Float(u64),
    Text(Text),
    Tuple(Vec<Key>),
    Object(ObjectId),
    Address(usize),
    Range(i128, i128, usize),
    Function(Function),
}

impl Key {
    /// The key of a value.
    pub(crate) fn of(budget: &Budget, value: &Value) -> Result<Self> {
        budget.steps(1)?;
        Ok(match value {
            Value::Undefined(_) => Self::Undefined,
            Value::None => Self::None,
            Value::Bool(truth) => Self::Int(i128::from(*truth)),
            Value::Int(number, _) => Self::Int(*number),
            Value::Float(number, _) if number.fract() == 0.0 && number.abs() < 1e30 => {
                Self::Int(*number as i128)
            }
            Value::Float(number, _) => Self::Float(number.to_bits()),
            Value::Text(text) => {
                budget.scan(text.len())?;
                Self::Text(text.clone())
            }
            Value::Tuple(list) => {
                budget.bytes(list.items().len() * VALUE_BYTES)?;
                Self::Tuple(list.items().iter().map(|item| Self::of(budget, item)).collect::<Result<_>>()?)
            }
            Value::Range(range) => Self::Range(range.start, range.step, range.len),
            Value::Object(_, id) => Self::Object(*id),
            Value::Macro(value) => Self::Address(Arc::as_ptr(value) as usize),
            Value::Method(value) => Self::Address(Arc::as_ptr(value) as usize),
            Value::Function(function) => Self::Function(*function),
            Value::List(_) | Value::Dict(_) | Value::View(..) => {
                return Err(Error::operation(format!("unhashable type: '{}'", value.type_name())));
            }
        })
    }
}

/// A dictionary in the order of its making.
#[derive(Debug, Clone)]
pub(crate) struct Dict(Arc<DictEntries>);

#[derive(Debug)]
struct DictEntries {
    entries: Vec<(Value, Value)>,
    places: HashMap<Key, u32>,
    depth: u32,
}

/// A dictionary in the making.
#[derive(Debug, Default)]
pub(crate) struct DictBuilder {
    entries: Vec<(Value, Value)>,
    places: HashMap<Key, u32>,
}

impl DictBuilder {
    pub(crate) fn insert(&mut self, budget: &Budget, key: Value, value: Value) -> Result<()> {
        budget.bytes(4 * VALUE_BYTES)?;
        let found = Key::of(budget, &key)?;
        match self.places.get(&found).and_then(|&place| self.entries.get_mut(place as usize)) {
            Some((_, old)) => *old = value,
            None => {
                self.places.insert(found, self.entries.len() as u32);
                self.entries.push((key, value));
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Dict> {
        let depths = self.entries.iter().map(|(key, value)| key.depth().max(value.depth()));
        let depth = deeper(depths.max().unwrap_or(0))?;
        Ok(Dict(Arc::new(DictEntries { entries: self.entries, places: self.places, depth })))
    }
}

impl Dict {
    pub(crate) fn entries(&self) -> &[(Value, Value)] {
        &self.0.entries
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Value> {
        self.0.places.get(key).and_then(|&place| Some(&self.entries().get(place as usize)?.1))
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Text::from(text))
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl Value {
    pub(crate) fn undefined(reason: impl AsRef<str>) -> Self {
        Self::Undefined(reason.as_ref().into())
    }

    /// A number that the program counted.
    pub(crate) fn count(number: usize) -> Self {
        Self::Int(number as i128, Origin::Program)
    }

    pub(crate) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// How deep it nests.
    pub(crate) fn depth(&self) -> u32 {
        match self {
            Self::List(list) | Self::Tuple(list) => list.0.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.0.depth,
            Self::Method(method) => method.depth,
            _ => 0,
        }
    }

    /// The name of its type in Python.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(..) => "int",
            Self::Float(..) => "float",
            Self::Text(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Object(ObjectKind::Namespace, _) => "Namespace",
            Self::Object(ObjectKind::Cycler, _) => "Cycler",
            Self::Object(ObjectKind::Joiner, _) => "Joiner",
            Self::Object(ObjectKind::Generator, _) => "generator",
            Self::Object(ObjectKind::Loop, _) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Function(_) => "function",
            Self::Method(_) => "builtin_function_or_method",
        }
    }

    /// Python's truth. Generators, functions and the like are true.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(truth) => *truth,
            Self::Int(number, _) => *number != 0,
            Self::Float(number, _) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) | Self::Tuple(list) => !list.items().is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.entries().is_empty(),
            Self::Range(range) => range.len > 0,
            Self::Object(..) | Self::Macro(_) | Self::Function(_) | Self::Method(_) => true,
        }
    }

    /// A whole number, as Python's `operator.index` takes it.
    pub(crate) fn as_index(&self) -> Option<i128> {
        match self {
            Self::Int(number, _) => Some(*number),
            Self::Bool(truth) => Some(i128::from(*truth)),
            _ => None,
        }
    }

    pub(crate) fn as_text(&self) -> Option<&Text> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whose doing a number or text is.
    pub(crate) fn origin(&self) -> Origin {
        match self {
            Self::Int(_, origin) | Self::Float(_, origin) => *origin,
            Self::Text(text) => text.origin(),
            _ => Origin::Program,
        }
    }

    /// Fails with the reason if there is nothing.
    pub(crate) fn defined(&self) -> Result<&Self> {
        match self {
            Self::Undefined(reason) => Err(Error::operation(reason)),
            _ => Ok(self),
        }
    }

    /// Python's `is`.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            // Small numbers are one object each in Python; which others are is not specified.
            (Self::Int(a, _), Self::Int(b, _)) => a == b,
            (Self::Text(a), Self::Text(b)) => a.same(b),
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => a.same(b),
            (Self::Dict(a), Self::Dict(b)) => a.same(b),
            (Self::Object(_, a), Self::Object(_, b)) => a == b,
            (Self::Macro(a), Self::Macro(b)) => Arc::ptr_eq(a, b),
            (Self::Function(a), Self::Function(b)) => a == b,
            (Self::Undefined(a), Self::Undefined(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
