//! A decode step allocates nothing, of one sequence or of several: counted by the global allocator, with one thread and with several.

mod common;
#[path = "common/counting.rs"]
mod counting;

use bitnetc::load::Loaded;
use bitnetc_ir::DType;
use bitnetc_runtime::machine::{Feed, Machine, MachineOptions, Record, Wanted};
use bitnetc_runtime::sampling::{Sampler, SamplingParams};
use common::{open, options, root, session};
use counting::allocations;

fn a_step_of_several_sequences(loaded: &Loaded) {
    for threads in [1, 2] {
        let options = MachineOptions { context: 256, threads, segments: 3, record: Record::Nothing };
        let mut machine = Machine::new(loaded.model.clone(), options).unwrap();
        let mut sequences = [(); 3].map(|()| machine.sequence().unwrap());
        let mut step = |tokens: [&[u32]; 3]| {
            let [a, b, c] = &mut sequences;
            let wanted = [Wanted::Last, Wanted::All, Wanted::None];
            let mut feeds = [(a, 0), (b, 1), (c, 2)].map(|(sequence, i)| Feed {
                sequence,
                tokens: tokens[i],
                logits: wanted[i],
            });
            let mut seen = 0;
            let sink = |_, logits: Result<&[f32], _>| seen += usize::from(logits.unwrap()[0].is_finite());
            machine.step(&mut feeds, sink).unwrap();
            assert_eq!(seen, 1 + tokens[1].len());
        };
        for token in 0..8 {
            step([&[token], &[token, 2], &[3]]);
        }
        let before = allocations();
        for token in 0..50 {
            step([&[token], &[4], &[token, 5, 6]]);
        }
        let made = allocations() - before;
        assert_eq!(made, 0, "{made} allocations in 50 steps with {threads} threads");
    }
}

#[test]
fn a_decode_step_allocates_nothing() {
    let loaded = open(&root().join("models/shakespeare/shakespeare-5m-i2_s.gguf"), &options(DType::F16));
    for threads in [1, 2, 3] {
        let mut session = session(&loaded, 256, threads);
        let mut sampler = Sampler::new(SamplingParams { seed: 1, ..SamplingParams::default() }).unwrap();
        // Warm: buffers of the sampler grow once, threads have started.
        let mut next = 7;
        for _ in 0..8 {
            next = sampler.sample(session.feed(&[next]).unwrap()).unwrap();
        }
        let before = allocations();
        for _ in 0..100 {
            next = sampler.sample(session.feed(&[next]).unwrap()).unwrap();
        }
        let made = allocations() - before;
        assert_eq!(made, 0, "{made} allocations in 100 steps with {threads} threads");
        // The counter counts: the next line allocates.
        let before = allocations();
        assert_eq!(std::hint::black_box(vec![1u8; 100]).len(), 100);
        assert!(allocations() > before);
    }
    // One after the other: the counter is everybody's.
    a_step_of_several_sequences(&loaded);
}
