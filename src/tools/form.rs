//! The forms in which chat templates write calls.
//!
//! There are four shapes: JSON objects with a name and arguments ([`Objects`]), a name between marks with JSON after it
//! ([`Named`]), tags for each parameter ([`Tagged`]), and a list of calls as Python writes them ([`Listed`]).
//! [`CallForm::of_template`] finds the form by marks that a template must write for the model to know it.

/// Objects of JSON: `{"name": …, "arguments": …}`.
#[derive(Debug, PartialEq, Eq)]
pub struct Objects {
    /// What stands in front; nothing where the answer as a whole is an object.
    pub open: &'static str,
    /// What stands after, if anything.
    pub close: &'static str,
    /// What stands between the marks and the object, and between two calls.
    pub pad: &'static str,
    /// Whether the marks hold a list.
    pub list: bool,
    /// The key of the function's name.
    pub name: &'static str,
    /// The key of the arguments.
    pub arguments: &'static str,
    /// The key of an id that stands in front of the name and counts the calls.
    pub number: Option<&'static str>,
}

/// A name between marks, and the arguments as JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    /// In front of the name.
    pub open: &'static str,
    /// Between the name and the arguments. The name ends with its last character that names may have.
    pub middle: &'static str,
    /// What a model writes between the name and `middle`: `:0` where calls are counted.
    pub counted: bool,
    /// After the arguments.
    pub close: &'static str,
    /// In front of all calls and after them.
    pub section: (&'static str, &'static str),
}

/// Tags for each parameter.
#[derive(Debug, PartialEq, Eq)]
pub struct Tagged {
    /// In front of a call, or of all.
    pub open: &'static str,
    /// After it.
    pub close: &'static str,
    /// Whether these marks hold one call each.
    pub each: bool,
    /// In front of the function's name, after it, and after its parameters.
    pub function: (&'static str, &'static str, &'static str),
    /// In front of a parameter's name, and between it and the value.
    pub parameter: (&'static str, &'static str),
    /// After the value.
    pub end: &'static str,
    /// White space around a value that is no part of it.
    pub pad: &'static str,
}

/// A list of calls in Python's syntax: `[f(a=1), g()]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Listed {
    /// What stands in front of the list; nothing where the answer as a whole is a list.
    pub open: &'static str,
    /// What stands after it, if anything.
    pub close: &'static str,
}

/// How a call is written.
#[derive(Debug, PartialEq, Eq)]
pub enum Shape {
    /// As an object of JSON.
    Objects(Objects),
    /// As a name and JSON.
    Named(Named),
    /// With tags.
    Tagged(Tagged),
    /// As Python writes it.
    Listed(Listed),
}

/// A form.
#[derive(Debug, PartialEq, Eq)]
pub struct CallForm {
    /// What it is called, after a model that has it.
    pub name: &'static str,
    /// Texts that a template with this form writes, all of them.
    marks: &'static [&'static str],
    /// How a call is written.
    pub shape: Shape,
    /// Marks around calls that mean nothing by themselves.
    pub noise: &'static [&'static str],
}

const fn objects(open: &'static str, close: &'static str, list: bool) -> Objects {
    Objects { open, close, pad: "", list, name: "name", arguments: "arguments", number: None }
}

const fn named(open: &'static str, middle: &'static str, close: &'static str) -> Named {
    Named { open, middle, counted: false, close, section: ("", "") }
}

const fn functions(open: &'static str, close: &'static str) -> Tagged {
    Tagged {
        open,
        close,
        each: true,
        function: ("<function=", ">", "</function>"),
        parameter: ("<parameter=", ">"),
        end: "</parameter>",
        pad: "\n",
    }
}

const DEEPSEEK: (&str, &str) = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>");

/// All forms, those with the most particular marks first.
const FORMS: &[CallForm] = &[
    CallForm {
        name: "pythonic",
        marks: &["[func_name1(params_name1="],
        shape: Shape::Listed(Listed { open: "", close: "" }),
        noise: &["<|python_start|>", "<|python_end|>", "<|python_tag|>"],
    },
    CallForm {
        name: "lfm2",
        marks: &["<|tool_call_start|>"],
        shape: Shape::Listed(Listed { open: "<|tool_call_start|>", close: "<|tool_call_end|>" }),
        noise: &[],
    },
    CallForm {
        name: "gpt-oss",
        marks: &["<|channel|>", "to=functions."],
        shape: Shape::Named(named(
            "<|channel|>commentary to=functions.",
            " <|constrain|>json<|message|>",
            "<|call|>",
        )),
        noise: &["<|start|>assistant", "<|channel|>final<|message|>"],
    },
    CallForm {
        name: "minimax",
        marks: &["<minimax:tool_call>", "<invoke name="],
        shape: Shape::Tagged(Tagged {
            open: "<minimax:tool_call>",
            close: "</minimax:tool_call>",
            each: false,
            function: ("<invoke name=\"", "\">", "</invoke>"),
            parameter: ("<parameter name=\"", "\">"),
            end: "</parameter>",
            pad: "",
        }),
        noise: &[],
    },
    CallForm {
        name: "seed-oss",
        marks: &["<seed:tool_call>", "<parameter="],
        shape: Shape::Tagged(Tagged { pad: "", ..functions("<seed:tool_call>", "</seed:tool_call>") }),
        noise: &[],
    },
    CallForm {
        name: "qwen3.5",
        marks: &["<tool_call>", "<function=", "<parameter="],
        shape: Shape::Tagged(functions("<tool_call>", "</tool_call>")),
        noise: &[],
    },
    CallForm {
        name: "glm",
        marks: &["<tool_call>", "<arg_key>", "<arg_value>"],
        shape: Shape::Tagged(Tagged {
            open: "<tool_call>",
            close: "</tool_call>",
            each: true,
            function: ("", "", ""),
            parameter: ("<arg_key>", "</arg_key>\n<arg_value>"),
            end: "</arg_value>",
            pad: "",
        }),
        noise: &[],
    },
    CallForm {
        name: "deepseek-r1",
        marks: &["<｜tool▁call▁begin｜>", "```json"],
        shape: Shape::Named(Named {
            section: DEEPSEEK,
            ..named("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", "\n```<｜tool▁call▁end｜>")
        }),
        noise: &[DEEPSEEK.0, DEEPSEEK.1],
    },
    CallForm {
        name: "deepseek",
        marks: &["<｜tool▁call▁begin｜>"],
        shape: Shape::Named(Named {
            section: DEEPSEEK,
            ..named("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>")
        }),
        noise: &[DEEPSEEK.0, DEEPSEEK.1],
    },
    CallForm {
        name: "kimi",
        marks: &["<|tool_call_argument_begin|>"],
        shape: Shape::Named(Named {
            counted: true,
            section: ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
            ..named("<|tool_call_begin|>functions.", "<|tool_call_argument_begin|>", "<|tool_call_end|>")
        }),
        noise: &["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"],
    },
    CallForm {
        name: "mistral",
        marks: &["[TOOL_CALLS]", "[ARGS]"],
        shape: Shape::Named(named("[TOOL_CALLS]", "[ARGS]", "")),
        noise: &[],
    },
    CallForm {
        name: "mistral-nemo",
        marks: &["[TOOL_CALLS]"],
        shape: Shape::Objects(objects("[TOOL_CALLS]", "", true)),
        noise: &[],
    },
    CallForm {
        name: "command-r7b",
        marks: &["<|START_ACTION|>"],
        shape: Shape::Objects(Objects {
            name: "tool_name",
            arguments: "parameters",
            number: Some("tool_call_id"),
            ..objects("<|START_ACTION|>", "<|END_ACTION|>", true)
        }),
        noise: &["<|START_RESPONSE|>", "<|END_RESPONSE|>"],
    },
    CallForm {
        name: "nemotron",
        marks: &["<TOOLCALL>"],
        shape: Shape::Objects(objects("<TOOLCALL>", "</TOOLCALL>", true)),
        noise: &[],
    },
    CallForm {
        name: "phi-4",
        marks: &["<|tool_call|>", "<|/tool_call|>"],
        shape: Shape::Objects(objects("<|tool_call|>", "<|/tool_call|>", false)),
        noise: &[],
    },
    CallForm {
        name: "granite",
        marks: &["<|tool_call|>"],
        shape: Shape::Objects(objects("<|tool_call|>", "", true)),
        noise: &[],
    },
    CallForm {
        name: "firefunction",
        marks: &["functools["],
        shape: Shape::Objects(objects("functools", "", true)),
        noise: &[],
    },
    CallForm {
        name: "functionary",
        marks: &["<function=", "</function>"],
        shape: Shape::Named(named("<function=", ">", "</function>")),
        noise: &[],
    },
    CallForm {
        name: "hermes",
        marks: &["<tool_call>"],
        shape: Shape::Objects(Objects { pad: "\n", ..objects("<tool_call>", "</tool_call>", false) }),
        noise: &[],
    },
    CallForm {
        name: "llama3",
        marks: &["{\"name\": ", "\"parameters\": "],
        shape: Shape::Objects(Objects { arguments: "parameters", ..objects("", "", false) }),
        noise: &["<|python_tag|>"],
    },
];

impl CallForm {
    /// The form of a template with this source, which wrote `call` for a call, if it wrote one. What a template tells the model in
    /// words counts before what it writes itself: templates that ask for calls in Python's syntax show earlier ones as JSON.
    pub fn of_template(source: &str, call: Option<&str>) -> Option<&'static Self> {
        let told = FORMS.iter().find(|form| form.is_told() && form.is_in(source));
        told.or_else(|| call.and_then(Self::of_text)).or_else(|| Self::of_text(source))
    }

    /// Whether its marks are an example that a template gives.
    fn is_told(&self) -> bool {
        matches!(self.shape, Shape::Listed(Listed { open: "", .. }))
    }

    fn is_in(&self, text: &str) -> bool {
        self.marks.iter().all(|mark| text.contains(mark))
    }

    /// The form that a text has the marks of: a call that a template wrote, or the template itself.
    pub fn of_text(text: &str) -> Option<&'static Self> {
        FORMS.iter().find(|form| form.is_in(text))
    }

    /// All forms.
    pub fn all() -> &'static [Self] {
        FORMS
    }

    /// Marks that begin a call. An answer that is an object as a whole has none.
    pub(super) fn opening(&self) -> impl Iterator<Item = &'static str> + use<> {
        let (first, second) = match &self.shape {
            Shape::Objects(objects) => (objects.open, ""),
            Shape::Named(named) => (named.open, ""),
            Shape::Tagged(tagged) => (tagged.open, tagged.function.0),
            Shape::Listed(listed) => (listed.open, ""),
        };
        [first, second].into_iter().filter(|mark| !mark.is_empty())
    }

    /// What an answer that is a call as a whole, without any mark, begins with.
    pub(super) fn bare(&self) -> Option<char> {
        match &self.shape {
            Shape::Objects(Objects { open: "", .. }) => Some('{'),
            Shape::Listed(Listed { open: "", .. }) => Some('['),
            _ => None,
        }
    }

    /// Marks that may be control tokens of a model: all literal texts of the form.
    pub fn literals(&self) -> Vec<&'static str> {
        let mut all = match &self.shape {
            Shape::Objects(Objects { open, close, .. }) => vec![*open, *close],
            Shape::Named(Named { open, middle, close, section, .. }) => {
                vec![*open, *middle, *close, section.0, section.1]
            }
            Shape::Tagged(Tagged { open, close, function, parameter, end, .. }) => {
                vec![*open, *close, function.0, function.1, function.2, parameter.0, parameter.1, *end]
            }
            Shape::Listed(Listed { open, close }) => vec![*open, *close],
        };
        all.extend(self.noise);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_of_a_form_are_its_own() {
        for (number, form) in FORMS.iter().enumerate() {
            let text = form.marks.join(" … ");
            assert_eq!(CallForm::of_text(&text), Some(form), "{number}");
        }
        assert_eq!(CallForm::of_text("<|im_start|>"), None);
        let told = "in the format of [func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]";
        let name =
            |source: &str, call: Option<&str>| CallForm::of_template(source, call).map(|form| form.name);
        let json = "{\"name\": \"f\", \"parameters\": {}}";
        assert_eq!(name(told, Some(json)), Some("pythonic"));
        assert_eq!(name("{{ x }}", Some(json)), Some("llama3"));
        assert_eq!(name("<tool_call>", None), Some("hermes"));
    }
}
