//! What every thread did, moment by moment: the events of a session that records them, in the Trace Event Format
//! (the "JSON Array/Object Format" that chrome://tracing and Perfetto open; complete events, `"ph": "X"`).
//!
//! One row for each thread: kernels and the waits after them. A row of its own shows the calls (`decode`, `prefill`,
//! `head`), with position and tokens.
//!
//! Invariants: a thread writes only its own list, so that the lock around it is never contended; lists have their room
//! from the start, and events beyond it are counted and dropped, so that recording allocates nothing and cannot
//! fill the memory.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bitnetc_codegen::program::Programs;

use crate::machine::team::Job;

/// Events that a thread's list holds at most: 32 MB.
pub const MOST_EVENTS: usize = 1 << 20;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A thread was in the kernel of a step.
    Step,
    /// A thread waited after a step.
    Wait,
    /// A call, from handing it to the threads until they were done.
    Call,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    /// Nanoseconds since the trace began.
    start_ns: u64,
    length_ns: u32,
    /// Index of the step; of a call its first position.
    step: u32,
    /// Index of the function.
    program: u32,
    /// Of a call.
    tokens: u32,
    what: What,
}

impl Event {
    fn of(what: What, program: u32, step: u32) -> Self {
        Self { start_ns: 0, length_ns: 0, step, program, tokens: 0, what }
    }
}

/// The lists of all threads, and one of calls after them.
#[derive(Debug)]
pub(crate) struct Trace {
    began: Instant,
    lists: Vec<Mutex<Vec<Event>>>,
    dropped: AtomicU64,
}

/// A trace that has been taken, to be written.
#[derive(Debug)]
pub struct Recorded<'a> {
    trace: &'a Trace,
    programs: &'a Programs,
}

impl Trace {
    pub(crate) fn new(threads: u32, most: usize) -> Self {
        let lists = (0..=threads).map(|_| Mutex::new(Vec::with_capacity(most))).collect();
        Self { began: Instant::now(), lists, dropped: AtomicU64::new(0) }
    }

    /// Adds `event` from `since` until now.
    fn push(&self, list: usize, since: Instant, event: Event) {
        let length_ns = u32::try_from(since.elapsed().as_nanos()).unwrap_or(u32::MAX);
        let start_ns = since.saturating_duration_since(self.began).as_nanos() as u64;
        // A thread that panicked has left its list whole: events are pushed at once.
        let mut events = self.lists[list].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match events.len() < events.capacity() {
            true => events.push(Event { start_ns, length_ns, ..event }),
            false => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(crate) fn busy(&self, program: usize, step: usize, thread: u32, since: Instant) {
        self.push(thread as usize, since, Event::of(What::Step, program as u32, step as u32));
    }

    pub(crate) fn waited(&self, program: usize, step: usize, thread: u32, since: Instant) {
        self.push(thread as usize, since, Event::of(What::Wait, program as u32, step as u32));
    }

    pub(crate) fn called(&self, job: Job, since: Instant) {
        let event = Event { tokens: job.tokens, ..Event::of(What::Call, job.program, job.position) };
        self.push(self.lists.len() - 1, since, event);
    }

    /// Forgets the events; the room stays.
    pub(crate) fn reset(&self) {
        for list in &self.lists {
            list.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        }
        self.dropped.store(0, Ordering::Relaxed);
    }

    pub(crate) fn recorded<'a>(&'a self, programs: &'a Programs) -> Recorded<'a> {
        Recorded { trace: self, programs }
    }
}

impl Recorded<'_> {
    /// Events in all lists.
    pub fn events(&self) -> u64 {
        let len = |list: &Mutex<Vec<Event>>| {
            list.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len() as u64
        };
        self.trace.lists.iter().map(len).sum()
    }

    /// Events for which there was no room.
    pub fn dropped(&self) -> u64 {
        self.trace.dropped.load(Ordering::Relaxed)
    }

    /// Writes the trace as one JSON object: `traceEvents`, times in microseconds, and `dropped_events`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let threads = self.trace.lists.len() - 1;
        write!(out, "{{\"displayTimeUnit\":\"ms\",\"dropped_events\":{},\"traceEvents\":[", self.dropped())?;
        for row in 0..=threads {
            let name = if row == threads { "calls".to_owned() } else { format!("thread {row}") };
            // The calls stand above the threads.
            let order = if row == threads { 0 } else { row + 1 };
            let comma = if row == 0 { "" } else { "," };
            write!(
                out,
                "{comma}\n{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":{row},\"args\":{{\"name\":\"{name}\"}}}},\
                 \n{{\"name\":\"thread_sort_index\",\"ph\":\"M\",\"pid\":1,\"tid\":{row},\"args\":{{\"sort_index\":{order}}}}}"
            )?;
        }
        for (row, list) in self.trace.lists.iter().enumerate() {
            let events = list.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for event in events.iter() {
                self.write_event(out, row, event)?;
            }
        }
        out.write_all(b"\n]}\n")
    }

    fn write_event(&self, out: &mut impl Write, row: usize, event: &Event) -> io::Result<()> {
        let start = Duration::from_nanos(event.start_ns).as_secs_f64() * 1e6;
        let length = f64::from(event.length_ns) / 1e3;
        let program = &self.programs.programs[event.program as usize];
        let at = format_args!("\"ph\":\"X\",\"pid\":1,\"tid\":{row},\"ts\":{start:.3},\"dur\":{length:.3}")
            .to_string();
        let text = |text: &str| serde_json::Value::from(text).to_string();
        match event.what {
            What::Call => write!(
                out,
                ",\n{{\"name\":{},\"cat\":\"call\",{at},\"args\":{{\"position\":{},\"tokens\":{}}}}}",
                text(&program.name),
                event.step,
                event.tokens
            ),
            What::Step | What::Wait => {
                let step = &program.steps[event.step as usize];
                let (name, category) = match event.what {
                    What::Wait => ("wait", "wait"),
                    _ => (step.mnemonic, "kernel"),
                };
                write!(
                    out,
                    ",\n{{\"name\":{},\"cat\":\"{category}\",{at},\"args\":{{\"step\":{},\"op\":{},\"kernel\":{}}}}}",
                    text(name),
                    event.step,
                    text(step.mnemonic),
                    text(&self.programs.kernels[step.kernel].name())
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_counted() {
        let trace = Trace::new(2, 3);
        let programs = Programs::default();
        let now = Instant::now();
        (0..5).for_each(|step| trace.busy(0, step, 1, now));
        trace.waited(0, 0, 0, now);
        let recorded = trace.recorded(&programs);
        assert_eq!((recorded.events(), recorded.dropped()), (4, 2));
        trace.reset();
        let recorded = trace.recorded(&programs);
        assert_eq!((recorded.events(), recorded.dropped()), (0, 0));
        let mut text = Vec::new();
        recorded.write(&mut text).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        // Names and order of two threads and the calls.
        assert_eq!(json["traceEvents"].as_array().unwrap().len(), 6);
    }
}
