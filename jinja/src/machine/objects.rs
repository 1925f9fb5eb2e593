//! What changes: namespaces, cyclers, joiners, generators and loops.

use std::collections::HashMap;
use std::sync::Arc;

use super::Machine;
use crate::arguments::Arguments;
use crate::ast::For;
use crate::compare::equal;
use crate::error::{Error, Result};
use crate::text::Text;
use crate::value::{List, ObjectId, ObjectKind, ScopeId, VALUE_BYTES, Value};

/// Something in the store.
#[derive(Debug)]
pub(crate) enum Object {
    Namespace(Namespace),
    Cycler {
        items: List,
        at: usize,
    },
    Joiner {
        separator: Value,
        used: bool,
    },
    /// Values that can be gone through once.
    Generator {
        items: List,
        at: usize,
    },
    Loop(Loop),
}

/// Attributes in the order of their making.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    pub(crate) attributes: Vec<(Text, Value)>,
    places: HashMap<Text, usize>,
}

/// A loop that is running.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) tree: Arc<For>,
    /// The scope around it.
    pub(crate) scope: ScopeId,
    pub(crate) items: List,
    pub(crate) index: usize,
    pub(crate) depth0: usize,
    pub(crate) last_changed: Option<List>,
}

/// What an object takes besides its items.
const OBJECT_BYTES: usize = 128;

impl Object {
    fn kind(&self) -> ObjectKind {
        match self {
            Self::Namespace(_) => ObjectKind::Namespace,
            Self::Cycler { .. } => ObjectKind::Cycler,
            Self::Joiner { .. } => ObjectKind::Joiner,
            Self::Generator { .. } => ObjectKind::Generator,
            Self::Loop(_) => ObjectKind::Loop,
        }
    }
}

fn gone() -> Error {
    Error::operation("an object is gone")
}

impl Machine<'_> {
    /// Puts an object into the store.
    pub(super) fn store(&mut self, object: Object) -> Result<(ObjectKind, ObjectId)> {
        self.budget.bytes(OBJECT_BYTES)?;
        let kind = object.kind();
        self.objects.push(object);
        Ok((kind, ObjectId(self.objects.len() as u32 - 1)))
    }

    pub(crate) fn object(&self, id: ObjectId) -> Result<&Object> {
        self.objects.get(id.0 as usize).ok_or_else(gone)
    }

    pub(super) fn object_mut(&mut self, id: ObjectId) -> Result<&mut Object> {
        self.objects.get_mut(id.0 as usize).ok_or_else(gone)
    }

    /// Values that can be gone through once, as Python's generators.
    pub(crate) fn generator(&mut self, items: Vec<Value>) -> Result<Value> {
        let items = List::new(self.budget, items)?;
        let (kind, id) = self.store(Object::Generator { items, at: 0 })?;
        Ok(Value::Object(kind, id))
    }

    /// An empty namespace.
    pub(super) fn new_namespace(&mut self) -> Result<ObjectId> {
        Ok(self.store(Object::Namespace(Namespace::default()))?.1)
    }

    pub(super) fn set_in_namespace(&mut self, id: ObjectId, name: &Text, value: Value) -> Result<()> {
        let budget = self.budget;
        let Object::Namespace(namespace) = self.object_mut(id)? else { return Err(gone()) };
        budget.scan(name.len())?;
        let place = namespace.places.get(name).and_then(|&place| namespace.attributes.get_mut(place));
        if let Some((_, old)) = place {
            *old = value;
            return Ok(());
        }
        budget.bytes(3 * VALUE_BYTES)?;
        namespace.places.insert(name.clone(), namespace.attributes.len());
        namespace.attributes.push((name.clone(), value));
        Ok(())
    }

    pub(super) fn step_loop(&mut self, id: ObjectId, index: usize) -> Result<()> {
        if let Object::Loop(state) = self.object_mut(id)? {
            state.index = index;
        }
        Ok(())
    }

    /// An attribute of an object, if it has it.
    pub(super) fn object_attribute(&self, id: ObjectId, name: &str) -> Result<Option<Value>> {
        Ok(match self.object(id)? {
            Object::Namespace(namespace) => {
                self.budget.scan(name.len())?;
                let place = namespace.places.get(&Text::from(name));
                place.and_then(|&place| Some(namespace.attributes.get(place)?.1.clone()))
            }
            Object::Cycler { items, at } => match name {
                "current" => items.items().get(*at).cloned(),
                "pos" => Some(Value::count(*at)),
                "items" => Some(Value::Tuple(items.clone())),
                _ => None,
            },
            Object::Joiner { separator, used } => match name {
                "sep" => Some(separator.clone()),
                "used" => Some(Value::Bool(*used)),
                _ => None,
            },
            Object::Generator { .. } => None,
            Object::Loop(state) => loop_attribute(state, name),
        })
    }

    /// Whether an object has a method of this name.
    pub(super) fn object_has_method(kind: ObjectKind, name: &str) -> bool {
        match kind {
            ObjectKind::Cycler => matches!(name, "next" | "reset"),
            ObjectKind::Loop => matches!(name, "cycle" | "changed"),
            ObjectKind::Namespace | ObjectKind::Joiner | ObjectKind::Generator => false,
        }
    }

    pub(super) fn call_object_method(
        &mut self,
        id: ObjectId,
        name: &str,
        arguments: Arguments,
    ) -> Result<Value> {
        match self.object_mut(id)? {
            Object::Cycler { items, at } => {
                arguments.none(name)?;
                let current = items.items().get(*at).cloned().unwrap_or(Value::None);
                *at = if name == "reset" { 0 } else { (*at + 1) % items.items().len().max(1) };
                Ok(if name == "reset" { Value::None } else { current })
            }
            Object::Loop(state) if name == "cycle" => {
                let values = arguments.positional;
                let at = state.index.checked_rem(values.len());
                let value = at.and_then(|at| values.into_iter().nth(at));
                value.ok_or_else(|| Error::operation("no items for cycling given"))
            }
            Object::Loop(_) => self.changed(id, arguments.positional),
            _ => Err(gone()),
        }
    }

    fn changed(&mut self, id: ObjectId, values: Vec<Value>) -> Result<Value> {
        let values = List::new(self.budget, values)?;
        let Object::Loop(state) = self.object(id)? else { return Err(gone()) };
        let last = state.last_changed.clone();
        let same = match last {
            Some(last) => equal(self.budget, &Value::Tuple(last), &Value::Tuple(values.clone()))?,
            None => false,
        };
        if let Object::Loop(state) = self.object_mut(id)? {
            state.last_changed = Some(values);
        }
        Ok(Value::Bool(!same))
    }

    /// What a joiner gives when it is called.
    pub(super) fn call_joiner(&mut self, id: ObjectId) -> Result<Value> {
        match self.object_mut(id)? {
            Object::Joiner { separator, used } => {
                let first = !std::mem::replace(used, true);
                Ok(if first { Value::from("") } else { separator.clone() })
            }
            _ => Err(gone()),
        }
    }
}

fn loop_attribute(state: &Loop, name: &str) -> Option<Value> {
    let items = state.items.items();
    let (len, index) = (items.len(), state.index);
    Some(match name {
        "index" => Value::count(index + 1),
        "index0" => Value::count(index),
        "revindex" => Value::count(len.saturating_sub(index)),
        "revindex0" => Value::count(len.saturating_sub(index + 1)),
        "first" => Value::Bool(index == 0),
        "last" => Value::Bool(index + 1 >= len),
        "length" => Value::count(len),
        "depth" => Value::count(state.depth0 + 1),
        "depth0" => Value::count(state.depth0),
        "previtem" => match index.checked_sub(1).and_then(|before| items.get(before)) {
            Some(item) => item.clone(),
            None => Value::undefined("there is no previous item"),
        },
        "nextitem" => match items.get(index + 1) {
            Some(item) => item.clone(),
            None => Value::undefined("there is no next item"),
        },
        _ => return None,
    })
}
