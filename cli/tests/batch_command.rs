//! `bitnetc batch`: the texts of single runs, and an output that survives being killed at any time.

#[path = "batch_command/chats.rs"]
mod chats;
#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "batch_command/files.rs"]
mod files;
#[path = "batch_command/forms.rs"]
mod forms;
#[path = "batch_command/process.rs"]
mod process;
#[path = "batch_command/texts.rs"]
mod texts;
