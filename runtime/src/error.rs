//! Why a machine, a sequence or a session could not be made, or a step was refused.
//!
//! Invariants: messages say what is wrong and by how much, in terms of the library; how a program's user can change it (an
//! option of a command line, a field of a request) is for the program to add, from the fields.

use bitnetc_ir::EntryPoint;

use crate::machine::FeedIndex;
use crate::model::WeightFault;

/// The message of [`SessionError::ContextFull`].
fn context_full(tokens: u64, position: u32, context: u32) -> String {
    match position {
        0 => format!("the prompt has {tokens} tokens but the context holds {context}"),
        _ => format!("{tokens} more tokens do not fit: {position} of the context's {context} are taken"),
    }
}

/// Why a machine, a sequence or a session could not be made, or a step was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Memory for a buffer could not be had. Most of it grows with the context and the number of sequences.
    #[error("cannot allocate {bytes} bytes for the {what}: {source}")]
    Memory {
        /// Which buffer.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start thread {thread} of {threads}: {source}")]
    Threads {
        /// Which one; the caller's own is number 1.
        thread: u32,
        /// How many were asked for.
        threads: u32,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No token was given.
    #[error("no tokens to run: give at least one")]
    Empty,
    /// A token id that the model does not have.
    #[error("token id {id} at position {position} is not in the vocabulary of {vocab} tokens")]
    Token {
        /// As given.
        id: u32,
        /// Where it would have stood.
        position: u64,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// More tokens than the context holds.
    #[error("{}", context_full(*tokens, *position, *context))]
    ContextFull {
        /// Tokens given.
        tokens: u64,
        /// Tokens already there.
        position: u32,
        /// Room.
        context: u32,
    },
    /// The model computed a NaN: broken weights, or a bug.
    #[error(
        "the logits at position {position} are NaN (first at token {index}): weights or scales of the model are out of range"
    )]
    NotANumber {
        /// Position of the token that was fed.
        position: u32,
        /// Vocabulary index of the first NaN.
        index: u32,
    },
    /// A token whose row in an embedding table has a NaN or an infinity.
    #[error(
        "weight @{weight} is not finite in row {token}, the embedding of the token at position {position}: compile the model again"
    )]
    NotFinite {
        /// The table.
        weight: String,
        /// The token.
        token: u32,
        /// Where it stands.
        position: u32,
    },
    /// The weights are not what they were when the model was loaded.
    #[error("{0}; discard all results")]
    Weights(WeightFault),
    /// The caller's [`crate::machine::KeepGoing`] said no.
    #[error("interrupted")]
    Interrupted,
    /// A sequence that another machine made: of another model, or with caches of another size.
    #[error("the sequence belongs to a machine for a different model or with caches of a different size")]
    ForeignSequence,
    /// More sequences in one step than the machine was made for.
    #[error("{feeds} sequences in one step, but the machine was created for {segments}")]
    TooManyFeeds {
        /// As given.
        feeds: usize,
        /// Room.
        segments: u32,
    },
    /// One of the feeds of a step was refused.
    #[error("sequence {} of the step: {refusal}", feed.number())]
    Feed {
        /// Which one.
        feed: FeedIndex,
        /// Why.
        #[source]
        refusal: Box<SessionError>,
    },
    /// A module without one of the three entry points, or with other inputs or outputs.
    #[error("the plan's module has no usable @{0}: compile the model again")]
    Entry(EntryPoint),
}
