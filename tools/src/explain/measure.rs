//! Measured times beside predicted ones: a session that records, at the position that is explained.

use bitnetc_ir::EntryPoint;
use bitnetc_runtime::machine::KeepGoing;
use bitnetc_runtime::profile::Profile;
use bitnetc_runtime::session::{Session, SessionOptions};

use super::document::{Measurement, ns};
use crate::bench::token;
use crate::error::Error;
use bitnetc::load::Loaded;

/// Decode steps before those that count.
const WARM_UP_STEPS: u32 = 4;
/// Most chunks of a prompt that are timed.
const CHUNKS: u32 = 3;

/// What [`measure`] runs.
#[derive(Clone, Debug)]
pub struct MeasureOptions {
    /// Threads.
    pub threads: u32,
    /// Tokens in the context before each call.
    pub position: u32,
    /// Decode steps that are timed, at least 1.
    pub steps: u32,
    /// Asked between calls; false ends the measurement.
    pub keep_going: KeepGoing,
}

/// Recorded times.
#[derive(Clone, Debug)]
pub struct Timings {
    /// By step and thread.
    pub(super) profile: Profile,
    steps: u32,
}

impl Timings {
    /// For the document.
    pub(super) fn measurement(&self) -> Measurement {
        let decode = self.profile.entry_point(EntryPoint::Decode);
        let wall = decode.map_or(0.0, |p| p.wall_ns as f64 / p.calls.max(1) as f64);
        let overhead = decode.and_then(|program| program.overhead());
        Measurement {
            steps: self.steps,
            decode_ns: ns(wall * 1e-9),
            barrier_share: overhead.map_or(0.0, |o| o.barrier),
            dispatch_share: overhead.map_or(0.0, |o| o.dispatch),
        }
    }
}

/// Runs decode steps and a few chunks of a prompt with a clock at every step and barrier. The clocks themselves take a part of
/// what they show, most where ops are short.
///
/// # Errors
/// What the session refuses; an interruption.
pub fn measure(loaded: &Loaded, options: &MeasureOptions) -> Result<Timings, Error> {
    let vocab = loaded.model.vocab();
    let prefill = loaded.module.entry_point(EntryPoint::Prefill);
    let chunk = prefill.map_or(1, |id| loaded.module.funcs()[id].tokens().max());
    let context = options.position.saturating_add(chunk.max(1)).min(loaded.context.max(1));
    let mut session =
        Session::profiled(loaded.model.clone(), SessionOptions { context, threads: options.threads })?;
    session.set_keep_going(options.keep_going.clone());
    let position = options.position.min(context - 1);
    let tokens = |from: u32, to: u32| (from..to).map(|i| token(i, vocab)).collect::<Vec<u32>>();
    while session.position() < position {
        let start = session.position();
        session.feed(&tokens(start, position.min(start + session.chunk().max(1))))?;
    }
    let start = session.mark()?;
    let again = |session: &mut Session, fed: &[u32]| {
        if !options.keep_going.ask() {
            return Err(Error::INTERRUPTED);
        }
        session.rewind(&start);
        session.feed(fed)?;
        Ok(())
    };
    let one = tokens(position, position + 1);
    for _ in 0..WARM_UP_STEPS {
        again(&mut session, &one)?;
    }
    session.reset_profile();
    let steps = options.steps.max(1);
    for _ in 0..steps {
        again(&mut session, &one)?;
    }
    let prompt = tokens(position, context.min(position + session.chunk().max(1)));
    if prompt.len() > 1 {
        for _ in 0..CHUNKS.min(steps) {
            again(&mut session, &prompt)?;
        }
    }
    let profile = session.profile().unwrap_or(Profile { programs: Vec::new() });
    Ok(Timings { profile, steps })
}
