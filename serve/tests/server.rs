//! The server over real connections, on the built-in model.

#[path = "server/client.rs"]
mod client;
#[path = "server/statuses.rs"]
mod statuses;
#[path = "server/texts.rs"]
mod texts;
#[path = "server/tls.rs"]
mod tls;
