//! The engine: generates all texts of a process.
//!
//! ```text
//! Request ──▶ Scheduler ──▶ Event, Event, … (one bounded channel a request)
//!               │  admission assigns sequences to requests, and reuses their contents
//!               │  plan      the rows of each sequence in the next step: a pure function of demands, rows and time
//!               │  cost      an estimate of the time of a step
//!               │  prefix    chooses the sequence for a prompt, and the one whose beginning it copies
//!               │  store     beginnings of texts whose sequences were reused
//!               │  Text      logits in, the next token and certain text out
//!               └─ Stepper   computes rows (a [`bitnetc_runtime::machine::Machine`], or a stand-in in tests)
//! ```
//!
//! [`Scheduler`] is synchronous and has no thread and no clock of its own: its owner calls [`Scheduler::step`].
//! [`Engine`] is a handle to a thread that does so. Both take a [`Request`] and give a [`Handle`], from which the request's
//! events are read.
//!
//! Invariants:
//! - a text depends only on its request and the model: not on concurrent requests, the order of arrival, the reuse of earlier
//!   prompts, or the division of prompts into steps;
//! - a failure of a request (a grammar that exceeds its limits, NaN logits, and, where panics unwind, a panic in a constraint or
//!   tokenizer) ends that request with its own error and no other;
//! - a request has exactly one last event, [`Event::Done`] or [`Event::Failed`];
//! - a client that does not read its events pauses only its own text, and does not occupy a sequence that others wait for;
//! - a sequence is free again in the step after its request was cancelled or its handle dropped;
//! - what was computed under one salt is never reused under another;
//! - reading [`Engine::metrics`] and [`Engine::slots`] neither waits for a step nor delays one;
//! - a decode step allocates nothing, except for the strings of token events and requested probabilities.

mod admission;
mod channel;
mod cost;
mod error;
mod event;
mod handle;
mod many;
mod mask;
mod metrics;
mod plan;
mod prefix;
mod request;
mod running;
mod sampling;
mod scheduler;
mod slot_file;
mod slots;
mod stepper;
mod store;
mod text;
mod thread;

pub use channel::Notify;
pub use cost::{CostEstimate, StepCost, StepWork};
pub use error::EngineError;
pub use event::{Completion, Event, Latency, PromptProgress, Timings, Token};
pub use handle::Handle;
pub use many::Supply;
pub use metrics::{Counter, Finished, Gauge, Histogram, Metrics, StepSeconds};
pub use plan::{Budget, Demand, TimeBudget, plan, work};
pub use request::{CacheUse, Request, Salt};
pub use scheduler::{Clock, EngineOptions, Scheduler, Stats, Step};
pub use slot_file::{SavedSlot, SlotError};
pub use slots::{SeatIndex, SlotState, TaskIndex, TaskState};
pub use stepper::{MachineStepper, Part, Stepper};
pub use text::{GenerateOptions, Stop, Text};
pub use thread::Engine;
