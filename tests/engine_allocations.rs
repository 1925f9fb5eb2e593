//! The engine allocates nothing for a decode step: counted by the global allocator. Apart from the events of tokens, whose
//! text is a string.

mod common;
#[path = "common/counting.rs"]
mod counting;

use bitnetc::engine::{EngineOptions, GenerateOptions, Request};
use bitnetc::{Model, SamplingParams};
use counting::allocations;

#[test]
fn a_decode_step_of_the_engine_allocates_nothing() {
    let model = Model::builtin().unwrap();
    let request = |seed, stream| {
        let params = SamplingParams { seed, repeat_penalty: 1.1, ..SamplingParams::default() };
        let options = GenerateOptions {
            ignore_end: true,
            stop: vec!["never in this text".to_owned()].into(),
            ..GenerateOptions::default()
        };
        let request = Request::new(vec![1, 2, 3 + seed as u32], params, options).unwrap();
        if stream { request } else { request.without_tokens() }
    };
    for (sequences, threads, steps) in [(1, 1, 1500), (3, 2, 200)] {
        let mut scheduler = model.scheduler(EngineOptions::of(2048, threads, sequences)).unwrap();
        let handles: Vec<_> =
            (0..sequences).map(|seed| scheduler.submit(request(u64::from(seed), false))).collect();
        // Warm: buffers grow once, and the first bytes of text may be parts of characters.
        for _ in 0..16 {
            scheduler.step();
        }
        let before = allocations();
        for _ in 0..steps {
            assert_eq!(scheduler.step().decode_rows, sequences);
        }
        let made = allocations() - before;
        assert_eq!(made, 0, "{made} allocations in {steps} steps of {sequences} texts");
        drop(handles);
        scheduler.step();
        // With events: one string a token, at most.
        let mut handle = scheduler.submit(request(1, true));
        for _ in 0..16 {
            scheduler.step();
            drop(handle.try_recv());
        }
        let before = allocations();
        for _ in 0..200 {
            scheduler.step();
            assert!(handle.try_recv().is_some());
        }
        let made = allocations() - before;
        assert!(made <= 200, "{made} allocations for 200 events");
    }
}
