//! Calls: functions of the program, macros, methods and loops that call themselves.

use std::sync::Arc;

use super::{Machine, Object};
use crate::arguments::{Argument, Arguments};
use crate::ast::{Expr, ExprKind};
use crate::error::{Error, ErrorKind, Result};
use crate::methods;
use crate::text::Text;
use crate::value::{DictBuilder, Function, List, MacroValue, ObjectKind, Range, Value};
use crate::write::to_text;

/// Numbers that `range` gives at most, as in Jinja2's sandbox.
const MAX_RANGE: usize = 100_000;

impl Machine<'_> {
    pub(super) fn call(&mut self, callee: &Value, arguments: Arguments) -> Result<Value> {
        self.budget.steps(1 + arguments.positional.len() + arguments.named.len())?;
        match callee.defined()? {
            Value::Function(function) => self.call_function(*function, arguments),
            Value::Macro(value) => self.call_macro(value, arguments).map(Value::Text),
            Value::Method(method) => match &method.receiver {
                Value::Object(_, id) => self.call_object_method(*id, method.name.as_str(), arguments),
                receiver => methods::call(self, receiver, method.name.as_str(), arguments),
            },
            Value::Object(ObjectKind::Joiner, id) => {
                arguments.none("joiner")?;
                self.call_joiner(*id)
            }
            Value::Object(ObjectKind::Loop, id) => {
                let [items] = arguments.bind("loop", ["iterable"], 1)?;
                let Object::Loop(state) = self.object(*id)? else {
                    return Err(Error::operation("an object is gone"));
                };
                if !state.tree.recursive {
                    return Err(Error::operation(
                        "The loop must have the 'recursive' marker to be called recursively.",
                    ));
                }
                let (tree, scope, depth) = (Arc::clone(&state.tree), state.scope, state.depth0 + 1);
                let items = items.unwrap_or(Value::None);
                let text = self.captured(|machine| {
                    machine.scoped(scope, |machine| machine.run_for(&tree, &items, depth))
                })?;
                Ok(Value::Text(text))
            }
            other => Err(Error::operation(format!("'{}' object is not callable", other.type_name()))),
        }
    }

    /// The call of a call block, whose body the callee knows as `caller`.
    pub(super) fn call_with_caller(&mut self, call: &Expr, caller: Value) -> Result<Value> {
        let ExprKind::Call(callee, args) = &call.kind else { return self.evaluate(call) };
        let callee = self.evaluate(callee)?;
        let mut arguments = self.arguments(args)?;
        arguments.named.push((Text::from("caller"), caller));
        self.call(&callee, arguments).map_err(|error| error.at(call.line))
    }

    fn call_macro(&mut self, value: &Arc<MacroValue>, arguments: Arguments) -> Result<Text> {
        self.budget.deeper()?;
        let tree = Arc::clone(&value.tree);
        let text = self.captured(|machine| {
            machine.scoped(value.scope, |machine| {
                machine.bind_macro(&tree, arguments)?;
                machine.execute(&tree.body).map(|_| ())
            })
        })?;
        self.budget.shallower();
        Ok(text)
    }

    fn bind_macro(&mut self, tree: &crate::ast::Macro, mut arguments: Arguments) -> Result<()> {
        let known = self.tree.known;
        let name = tree.name.map_or("caller", |name| self.name(name));
        let given = std::mem::take(&mut arguments.positional);
        self.budget.steps(given.len() + tree.parameters.len() * (1 + arguments.named.len()))?;
        let extra = given.get(tree.parameters.len()..).unwrap_or_default().to_vec();
        let mut positional = given.into_iter();
        let mut explicit_caller = false;
        for (parameter, default) in &tree.parameters {
            explicit_caller |= *parameter == known.caller;
            let parameter_name = self.name(*parameter);
            let value = match positional.next().or_else(|| arguments.take_named(parameter_name)) {
                Some(value) => value,
                None => match default {
                    Some(default) => self.evaluate(default)?,
                    None => Value::undefined(format!("parameter '{parameter_name}' was not provided")),
                },
            };
            self.assign(*parameter, value)?;
        }
        if tree.uses_caller && !explicit_caller {
            let caller = arguments.take_named("caller");
            self.assign(known.caller, caller.unwrap_or_else(|| Value::undefined("No caller defined")))?;
        }
        if tree.uses_kwargs {
            let mut rest = DictBuilder::default();
            for (key, value) in arguments.named {
                rest.insert(self.budget, Value::Text(key), value)?;
            }
            self.assign(known.kwargs, Value::Dict(rest.finish()?))?;
        } else if let Some((extra, _)) = arguments.named.first() {
            return Err(Error::operation(format!(
                "macro '{name}' takes no keyword argument '{}'",
                extra.as_str()
            )));
        }
        if tree.uses_varargs {
            let extra = List::new(self.budget, extra)?;
            self.assign(known.varargs, Value::Tuple(extra))?;
        } else if !extra.is_empty() {
            let most = tree.parameters.len();
            return Err(Error::operation(format!("macro '{name}' takes not more than {most} argument(s)")));
        }
        Ok(())
    }

    fn call_function(&mut self, function: Function, arguments: Arguments) -> Result<Value> {
        match function {
            Function::Range => range(arguments),
            Function::Dict => self.dict_of(arguments),
            Function::Namespace => {
                let Value::Dict(attributes) = self.dict_of(arguments)? else { return Ok(Value::None) };
                let id = self.new_namespace()?;
                for (key, value) in attributes.entries() {
                    if let Value::Text(name) = key {
                        self.set_in_namespace(id, name, value.clone())?;
                    }
                }
                Ok(Value::Object(ObjectKind::Namespace, id))
            }
            Function::Cycler => {
                if arguments.positional.is_empty() {
                    return Err(Error::operation("at least one item has to be provided"));
                }
                let items = List::new(self.budget, arguments.positional)?;
                let (kind, id) = self.store(Object::Cycler { items, at: 0 })?;
                Ok(Value::Object(kind, id))
            }
            Function::Joiner => {
                let [separator] = arguments.bind("joiner", ["sep"], 0)?;
                let separator = separator.unwrap_or_else(|| Value::from(", "));
                let (kind, id) = self.store(Object::Joiner { separator, used: false })?;
                Ok(Value::Object(kind, id))
            }
            Function::RaiseException => {
                let [message] = arguments.bind("raise_exception", ["message"], 1)?;
                let text = to_text(self, &message.unwrap_or(Value::None))?;
                Err(Error::new(ErrorKind::Raised, text.as_str()))
            }
            Function::StrftimeNow => {
                let [format] = arguments.bind("strftime_now", ["format"], 1)?;
                let format = format.text("the format")?.cloned().unwrap_or_else(|| Text::from(""));
                if format.len() > 256 {
                    return Err(Error::operation("strftime_now: the format is too long"));
                }
                let time = self.time(format.as_str())?;
                self.budget.bytes(time.len())?;
                // The characters between the fields are those of the format.
                Ok(Value::Text(Text::new(time, format.origin())))
            }
        }
    }

    /// Python's `dict(mapping or pairs, **more)`.
    fn dict_of(&mut self, arguments: Arguments) -> Result<Value> {
        let Arguments { positional, named } = arguments;
        let mut dict = DictBuilder::default();
        match positional.as_slice() {
            [] => {}
            [Value::Dict(given)] => {
                for (key, value) in given.entries() {
                    dict.insert(self.budget, key.clone(), value.clone())?;
                }
            }
            [pairs] => {
                for pair in self.iterate(pairs)?.items() {
                    let pair = self.iterate(pair)?;
                    let [key, value] = pair.items() else {
                        return Err(Error::operation("dict() needs pairs of a key and a value"));
                    };
                    dict.insert(self.budget, key.clone(), value.clone())?;
                }
            }
            more => {
                return Err(Error::operation(format!(
                    "dict expected at most 1 argument, got {}",
                    more.len()
                )));
            }
        }
        for (key, value) in named {
            dict.insert(self.budget, Value::Text(key), value)?;
        }
        Ok(Value::Dict(dict.finish()?))
    }
}

fn range(arguments: Arguments) -> Result<Value> {
    if !arguments.named.is_empty() {
        return Err(Error::operation("range() takes no keyword arguments"));
    }
    let number = |value: &Value| {
        let number = value.defined()?.as_index().and_then(|number| i64::try_from(number).ok());
        number.map(i128::from).ok_or_else(|| {
            Error::operation(format!("'{}' object cannot be interpreted as an integer", value.type_name()))
        })
    };
    let numbers = arguments.positional.iter().map(number).collect::<Result<Vec<_>>>()?;
    let (start, stop, step) = match numbers[..] {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] => (start, stop, step),
        _ => return Err(Error::operation("range expected 1 to 3 arguments")),
    };
    if step == 0 {
        return Err(Error::operation("range() arg 3 must not be zero"));
    }
    let span = if step > 0 { stop - start } else { start - stop };
    let len = if span <= 0 { 0 } else { 1 + (span - 1) / step.abs() };
    match usize::try_from(len) {
        Ok(len) if len <= MAX_RANGE => Ok(Value::Range(Range { start, stop, step, len })),
        _ => Err(Error::limit(format!("Range too big. The sandbox blocks ranges larger than {MAX_RANGE}."))),
    }
}
