//! The server over real connections, on the built-in model.

#[path = "server/answers.rs"]
mod answers;
#[path = "server/client.rs"]
mod client;
#[path = "server/failures.rs"]
mod failures;
#[path = "../../tests/common/poisoned.rs"]
#[allow(unreachable_pub)]
mod poisoned;
#[path = "server/statuses.rs"]
mod statuses;
#[path = "server/texts.rs"]
mod texts;
#[path = "server/tls.rs"]
mod tls;
