//! The forms in which chat templates write calls.
//!
//! There are three shapes: JSON objects with a name and arguments ([`Objects`]), a name between marks with JSON after it
//! ([`Named`]), and tags for each parameter ([`Tagged`]). [`CallForm::of_text`] finds the form by marks that a template must
//! write for the model to know it.

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

/// How a call is written.
#[derive(Debug, PartialEq, Eq)]
pub enum Shape {
    /// As an object of JSON.
    Objects(Objects),
    /// As a name and JSON.
    Named(Named),
    /// With tags.
    Tagged(Tagged),
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
    /// The form that a text has the marks of: a call that a template wrote, or the template itself.
    pub fn of_text(text: &str) -> Option<&'static Self> {
        FORMS.iter().find(|form| form.marks.iter().all(|mark| text.contains(mark)))
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
        };
        [first, second].into_iter().filter(|mark| !mark.is_empty())
    }

    /// Whether an answer is a call if it is an object, without any mark.
    pub(super) fn is_bare(&self) -> bool {
        matches!(&self.shape, Shape::Objects(objects) if objects.open.is_empty())
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
    }
}
