//! Conversations: chat templates, and a session that goes from turn to turn.
//!
//! A [`ChatTemplate`] turns [`Message`]s into the text that the model was trained on, under limits, because templates
//! come with model files and those are not trusted. [`Conversation`] keeps the messages and their tokens, computes
//! only what is new, and knows what to do when the context is full. [`select`](mod@select) says which template a model
//! gets.
//!
//! Invariants: what a user wrote never becomes a control token, whatever it spells and whatever the template does to it;
//! a template can neither fail to end, nor take memory without limit, nor end the process; a template that is wrong refuses
//! chat and nothing else.

mod abilities;
mod builtin;
mod conversation;
mod encoder;
mod error;
mod guard;
mod message;
mod reasoning;
pub mod select;
mod template;
mod transcript;

pub use abilities::{Abilities, History};
pub use builtin::{BuiltinTemplate, TEMPLATES};
pub use conversation::{Conversation, ConversationOptions, Overflow, Reply, TurnStats};
pub use encoder::ChatEncoder;
pub use error::ChatError;
pub use message::{Message, Role};
pub use reasoning::{ThinkForm, ThinkSplitter};
pub use select::{Selected, Wish, select};
pub use template::{ChatTemplate, RenderInput, Rendered, SpecialTexts};
pub use transcript::Transcript;
