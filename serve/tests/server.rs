//! The server over real connections, on the built-in model.

#[path = "server/answers.rs"]
mod answers;
#[path = "server/failures.rs"]
mod failures;
#[path = "../../tests/common/http_client.rs"]
mod http_client;
#[path = "server/limits.rs"]
mod limits;
#[path = "../../tests/common/mixed_requests.rs"]
mod mixed_requests;
#[path = "../../tests/common/poisoned.rs"]
#[allow(unreachable_pub)]
mod poisoned;
#[path = "server/running.rs"]
mod running;
#[path = "server/statuses.rs"]
mod statuses;
#[path = "server/texts.rs"]
mod texts;
#[path = "server/tls.rs"]
mod tls;
