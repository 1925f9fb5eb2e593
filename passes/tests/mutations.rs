//! The checker of plans against wrong plans: plans are damaged at random, an oracle that moves every word
//! decides which of them are wrong, and the checker must refuse all of those.

mod common;

use std::collections::{BTreeMap, HashMap};

use bitnetc_ir::generate::{GenOptions, plain_plan, random_module};
use bitnetc_ir::random::SplitMix;
use bitnetc_ir::{
    DType, Entity, Func, FuncPlan, NodeId, Op, Operand, Place, Sizes, TokenCount, ValueDef, ValueId, storage,
    text,
};
use bitnetc_passes::{Pipeline, PlanViolation, check_plan};
use common::*;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Region {
    Arena,
    /// Of each thread.
    Private,
    Caller(ValueId),
}

#[derive(Clone, Copy)]
struct Spot {
    region: Region,
    start: u64,
    stride: u64,
    end: u64,
}

/// An operand slot, a row and a word of the row.
type Read = (usize, u64, u64);

/// What a word of memory holds, and who touched it last.
#[derive(Clone, Copy, Default)]
struct Word {
    holds: Option<(ValueId, u64, u64)>,
    written: Option<u32>,
    read: Option<(u32, NodeId, bool)>,
}

/// Follows places to bytes; `None` where they lead nowhere.
fn spot(func: &Func, plan: &FuncPlan, value: ValueId) -> Option<Spot> {
    let mut stride = storage::row_stride(func.ty(value)).unwrap_or(4);
    let (mut at, mut offset) = (value, 0);
    for _ in 0..=plan.places.len() {
        match *plan.places.get(&at)? {
            Place::View { of, offset: part } => {
                offset += part;
                stride = storage::row_stride(func.ty(of))?;
                at = of;
            }
            Place::Alias { of } => at = of,
            Place::Arena { offset: start, size } | Place::Private { offset: start, size } => {
                let (region, bytes) = match plan.places[&at] {
                    Place::Private { .. } => (Region::Private, plan.private_bytes),
                    _ => (Region::Arena, plan.arena_bytes),
                };
                let inside = start.is_multiple_of(64) && start + size <= bytes;
                return inside.then_some(Spot { region, start: start + offset, stride, end: start + size });
            }
            Place::Extern => {
                let is_input = func.inputs().contains(&at);
                let usable = is_input || (offset == 0 && func.is_output(at) && at == value);
                let region = Region::Caller(at);
                return usable.then_some(Spot { region, start: offset, stride, end: u64::MAX });
            }
        }
    }
    None
}

/// Words of a row that hold something: (position in the value, position in memory).
fn row_words(func: &Func, value: ValueId) -> Vec<u64> {
    let ty = func.ty(value);
    match (ty.as_rows(), ty.dtype) {
        (Some(rows), DType::F32) => (0..u64::from(rows.width)).collect(),
        (Some(rows), DType::Q8) => {
            let tail = storage::q8_tail(rows.width) / 4;
            (0..u64::from(rows.width).div_ceil(4)).chain([tail, tail + 1]).collect()
        }
        _ => vec![0],
    }
}

/// The value of which `value` is a part, and the word of its row at which the part starts.
fn origin(func: &Func, value: ValueId) -> (ValueId, u64) {
    let (mut at, mut start) = (value, 0);
    while let ValueDef::Result(node, result) = func.value(at).def
        && let Op::Split { sizes: Sizes(sizes) } = &func.node(node).op
        && let Operand::Value(of) = func.node(node).operands[0]
    {
        start += sizes[..result as usize].iter().map(|&n| u64::from(n)).sum::<u64>();
        at = of;
    }
    (at, start)
}

/// Whether running `func` by `plan` with `tokens` tokens can go wrong, word by word.
fn goes_wrong(func: &Func, plan: &FuncPlan, tokens: u64) -> bool {
    runs(func, plan, tokens).is_none()
}

fn runs(func: &Func, plan: &FuncPlan, tokens: u64) -> Option<()> {
    let mut memory: HashMap<Region, BTreeMap<u64, Word>> = HashMap::new();
    let mut arena = vec![Word::default(); (plan.arena_bytes / 4) as usize + 1];
    let rows_of = |v: ValueId| if func.ty(v).as_rows().is_some_and(|r| r.per_token) { tokens } else { 1 };
    let is_memory = |v: ValueId| func.ty(v).dtype != DType::Idx;
    let mut word = |region: Region, at: u64, change: &mut dyn FnMut(&mut Word) -> Option<()>| match region {
        Region::Arena => change(arena.get_mut(at as usize)?),
        _ => change(memory.entry(region).or_default().entry(at).or_default()),
    };
    let locate = |v: ValueId, row: u64, w: u64| -> Option<(Region, u64)> {
        let s = spot(func, plan, v)?;
        let byte = s.start + row * s.stride + w * 4;
        (byte + 4 <= s.end && byte.is_multiple_of(4)).then_some((s.region, byte / 4))
    };
    for &input in func.inputs() {
        if plan.places.get(&input) != Some(&Place::Extern) {
            return None;
        }
        if is_memory(input) {
            for row in 0..rows_of(input) {
                for w in row_words(func, input) {
                    let (region, at) = locate(input, row, w)?;
                    word(region, at, &mut |cell| {
                        cell.holds = Some((input, row, w));
                        Some(())
                    })?;
                }
            }
        }
    }
    let mut phase = 0;
    for &id in func.order() {
        let node = func.node(id);
        let is_split = node.op.info().is_view();
        let mut own_reads: HashMap<(Region, u64), Vec<Read>> = HashMap::new();
        for (slot, &operand) in node.operands.iter().enumerate() {
            let Operand::Value(value) = operand else { continue };
            if is_split || !is_memory(value) {
                continue;
            }
            let (whole, start) = origin(func, value);
            for row in 0..rows_of(value) {
                for w in row_words(func, value) {
                    let (region, at) = locate(value, row, w)?;
                    own_reads.entry((region, at)).or_default().push((slot, row, w));
                    word(region, at, &mut |cell| {
                        let shared = matches!(cell.read, Some((p, n, s)) if p == phase && (s || n != id));
                        cell.read = Some((phase, id, shared));
                        let made = region == Region::Private || cell.written != Some(phase);
                        (cell.holds == Some((whole, row, start + w)) && made).then_some(())
                    })?;
                }
            }
        }
        // A replicated op is run by every thread: what it writes for all must be written by nobody else.
        let private = |&v: &ValueId| spot(func, plan, v).is_some_and(|s| s.region == Region::Private);
        let shares_nothing = node.results.iter().all(private) && !matches!(node.op, Op::Attention { .. });
        if !is_split && node.results.iter().any(private) && !shares_nothing {
            return None;
        }
        for (result, &value) in node.results.iter().enumerate() {
            if is_split {
                continue;
            }
            if func.is_output(value)
                && !func.ty(value).is_persistent()
                && plan.places[&value] != Place::Extern
            {
                return None;
            }
            let slots: Vec<usize> = node.op.info().overwritable(result).collect();
            if func.ty(value).is_persistent() {
                let Operand::Value(before) = node.operands[slots[0]] else { return None };
                if locate(value, 0, 0)? != locate(before, 0, 0)? {
                    return None;
                }
            }
            for row in 0..rows_of(value) {
                for w in row_words(func, value) {
                    let (region, at) = locate(value, row, w)?;
                    let own = own_reads.get(&(region, at)).map_or(&[][..], |all| &all[..]);
                    if own.iter().any(|&(slot, r, c)| !slots.contains(&slot) || (r, c) != (row, w)) {
                        return None;
                    }
                    word(region, at, &mut |cell| {
                        let read =
                            matches!(cell.read, Some((p, n, shared)) if p == phase && (shared || n != id));
                        let written = cell.written == Some(phase);
                        cell.holds = Some((value, row, w));
                        cell.written = Some(phase);
                        (region == Region::Private || (!read && !written)).then_some(())
                    })?;
                }
            }
        }
        phase += u32::from(plan.barriers.contains(&id));
    }
    for &output in func.outputs() {
        for row in 0..rows_of(output) {
            for w in row_words(func, output) {
                let (region, at) = locate(output, row, w)?;
                word(region, at, &mut |cell| (cell.holds == Some((output, row, w))).then_some(()))?;
            }
        }
    }
    Some(())
}

fn is_wrong(func: &Func, plan: &FuncPlan) -> bool {
    let complete = func.values().all(|v| plan.places.contains_key(&v));
    !complete || goes_wrong(func, plan, 1) || goes_wrong(func, plan, u64::from(func.tokens().max()))
}

/// Planned functions: decoders and random ones.
fn planned() -> Vec<(String, Func)> {
    let mut all = Vec::new();
    for seed in 0..10 {
        let module = random_decoder(seed, 1, Straying(seed as usize * 2));
        let (after, _) = run_text(&Pipeline::default().to_string(), &module).unwrap();
        all.extend(after.funcs().values().map(|f| (format!("decoder {seed} @{}", f.name()), f.clone())));
    }
    for seed in 0..60 {
        let tokens = if seed % 3 == 0 { TokenCount::One } else { TokenCount::UpTo(3) };
        let (module, _) = random_module(seed, &GenOptions { tokens, ops: 16, ..GenOptions::default() });
        if let Ok((after, _)) = run_text(&Pipeline::default().to_string(), &module) {
            all.extend(after.funcs().values().map(|f| (format!("random {seed}"), f.clone())));
        }
    }
    all
}

const KINDS: [&str; 13] = [
    "missing barrier",
    "early barrier",
    "overlap",
    "shifted",
    "short",
    "small arena",
    "wrong alias",
    "shifted view",
    "wrong kind",
    "private overlap",
    "private made shared",
    "private out of bounds",
    "shared made private",
];

/// Damages a plan; returns whether it could.
fn damage(kind: usize, rng: &mut SplitMix, func: &Func, plan: &mut FuncPlan) -> bool {
    let results: Vec<ValueId> = func.values().skip(func.inputs().len()).collect();
    let all: Vec<ValueId> = func.values().collect();
    let of_kind = |wanted: fn(&Place) -> bool| -> Vec<ValueId> {
        results.iter().copied().filter(|v| wanted(&plan.places[v])).collect()
    };
    let arena = of_kind(|p| matches!(p, Place::Arena { .. }));
    let private = of_kind(|p| matches!(p, Place::Private { .. }));
    let aliases = of_kind(|p| matches!(p, Place::Alias { .. }));
    let views = of_kind(|p| matches!(p, Place::View { .. }));
    let barriers: Vec<NodeId> = plan.barriers.iter().copied().collect();
    let some = |rng: &mut SplitMix, of: &[ValueId]| (!of.is_empty()).then(|| rng.pick(of));
    let (Some(value), Some(other)) = (
        match kind {
            2..=4 | 12 => some(rng, &arena),
            9..=11 => some(rng, &private),
            6 => some(rng, &aliases),
            7 => some(rng, &views),
            _ => some(rng, &results),
        },
        some(
            rng,
            match kind {
                2 => &arena,
                9 => &private,
                _ => &all,
            },
        ),
    ) else {
        return false;
    };
    let place = plan.places[&value];
    let moved = match (kind, place) {
        (0 | 1, _) if barriers.is_empty() => return false,
        (0, _) => {
            plan.barriers.remove(&rng.pick(&barriers));
            return true;
        }
        (1, _) => {
            // The barrier moves in front of the op that it follows.
            let barrier = rng.pick(&barriers);
            plan.barriers.remove(&barrier);
            let at = func.order().iter().position(|&n| n == barrier).unwrap();
            let work = |n: &&NodeId| !matches!(func.node(**n).op, Op::Split { .. });
            plan.barriers.extend(func.order()[..at].iter().rev().find(work));
            return true;
        }
        (2, Place::Arena { size, .. }) => match plan.places[&other] {
            Place::Arena { offset, .. } => Place::Arena { offset, size },
            _ => return false,
        },
        (3, Place::Arena { offset, size }) => {
            let by = 32 * (1 + rng.below(40) as u64);
            let offset = if rng.chance(50) { offset.saturating_sub(by) } else { offset + by };
            Place::Arena { offset, size }
        }
        (4, Place::Arena { offset, size }) => {
            Place::Arena { offset, size: size - 64 * (1 + rng.below(size as usize / 64) as u64) }
        }
        (5, _) => {
            plan.arena_bytes = plan.arena_bytes.saturating_sub(64 * (1 + rng.below(8) as u64));
            return true;
        }
        (6, _) => Place::Alias { of: other },
        (7, Place::View { of, offset }) => match rng.chance(70) {
            true => Place::View { of, offset: offset + 4 * (1 + rng.below(64) as u64) },
            false => Place::View { of: other, offset },
        },
        (9, Place::Private { size, .. }) => match plan.places[&other] {
            Place::Private { offset, .. } => Place::Private { offset, size },
            _ => return false,
        },
        (10, Place::Private { size, .. }) => {
            // In front of everything, or with everything moved out of the way.
            let offset = if rng.chance(50) { 0 } else { plan.arena_bytes };
            plan.arena_bytes = plan.arena_bytes.max(offset + size);
            Place::Arena { offset, size }
        }
        (11, Place::Private { offset, size }) => match rng.below(3) {
            0 => Place::Private { offset: offset + 32, size },
            1 => Place::Private { offset, size: size - 64 },
            _ => {
                plan.private_bytes = offset + size - 64;
                return true;
            }
        },
        (12, Place::Arena { size, .. }) => {
            plan.private_bytes = plan.private_bytes.max(size);
            Place::Private { offset: 0, size }
        }
        _ => match rng.below(5) {
            0 => Place::Extern,
            1 => Place::Alias { of: other },
            2 => Place::View { of: other, offset: 64 * rng.below(3) as u64 },
            3 => Place::Arena { offset: 0, size: plan.arena_bytes },
            _ => {
                plan.places.remove(&value);
                return true;
            }
        },
    };
    plan.places.insert(value, moved);
    true
}

#[test]
fn wrong_plans_are_refused() {
    let mut wrong = [0; KINDS.len()];
    let mut strict = 0;
    for (name, mut func) in planned() {
        let right = func.plan.clone().unwrap();
        check_plan(&func).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!is_wrong(&func, &right), "{name}: the oracle refuses the plan");
        let mut rng = SplitMix::new(func.order().len() as u64);
        for round in 0..8 * KINDS.len() {
            let kind = round % KINDS.len();
            let mut plan = right.clone();
            if !damage(kind, &mut rng, &func, &mut plan) || plan == right {
                continue;
            }
            let is_wrong = is_wrong(&func, &plan);
            func.plan = Some(plan);
            let verdict = check_plan(&func);
            assert!(!(is_wrong && verdict.is_ok()), "{name}: accepted with {}: {:?}", KINDS[kind], func.plan);
            wrong[kind] += usize::from(is_wrong);
            strict += usize::from(!is_wrong && verdict.is_err());
        }
    }
    for (kind, count) in KINDS.iter().zip(wrong) {
        assert!(count >= 20, "{kind}: only {count} wrong plans, {wrong:?}");
    }
    assert!(wrong.iter().sum::<usize>() >= 1000, "{wrong:?}");
    // The checker may refuse what happens to work, but not as a rule: the rest of the damage was harmless.
    assert!(strict < wrong.iter().sum(), "{strict} harmless plans refused");
}

#[test]
fn no_barrier_of_a_schedule_can_go() {
    for (name, mut func) in planned() {
        let right = func.plan.clone().unwrap();
        for barrier in &right.barriers {
            let mut plan = right.clone();
            plan.barriers.remove(barrier);
            func.plan = Some(plan);
            let e = check_plan(&func).expect_err(&name);
            assert!(
                matches!(e, PlanViolation::MissingBarrier { .. } | PlanViolation::Race { .. }),
                "{name}: {e}"
            );
        }
    }
}

#[test]
fn plain_plans_are_accepted_and_never_smaller() {
    let mut compared = 0;
    for (name, mut func) in planned() {
        let ours = func.plan.replace(plain_plan(&func)).unwrap();
        check_plan(&func).unwrap_or_else(|e| panic!("{name}: {e}"));
        let plain = func.plan.as_ref().unwrap();
        assert!(ours.arena_bytes <= plain.arena_bytes, "{name}");
        assert!(ours.barriers.len() < func.order().len(), "{name}");
        compared += 1;
    }
    assert!(compared > 30);
}

#[test]
fn refusals_name_both_values() {
    let (after, _) = run_text(&Pipeline::default().to_string(), &random_decoder(0, 1, Straying(0))).unwrap();
    // The function over a chunk, in which nothing is private.
    let func = after.funcs().values().nth(1).unwrap();
    let node = |mnemonic: &str| {
        let found = func.order().iter().find(|&&n| func.node(n).op.info().mnemonic == mnemonic);
        *found.unwrap()
    };
    let refuse = |change: &dyn Fn(&mut FuncPlan)| {
        let mut func = func.clone();
        change(func.plan.as_mut().unwrap());
        check_plan(&func).unwrap_err().to_string()
    };
    let embedded = func.node(node("embed")).results[0];
    let quantised = func.node(node("rms_norm_quant")).results[0];
    let Place::Arena { offset, .. } = func.plan.as_ref().unwrap().places[&embedded] else {
        panic!("not in the arena")
    };
    let overlap = refuse(&|plan| {
        if let Some(Place::Arena { offset: at, .. }) = plan.places.get_mut(&quantised) {
            *at = offset;
        }
    });
    assert_eq!(overlap, "%1 shares bytes with %0 of the same op");
    let early = refuse(&|plan| {
        plan.barriers.remove(&node("rms_norm_quant"));
    });
    assert_eq!(early, "`bitlinear` reads %1 without a barrier after it was written");
    let split = func.node(node("split")).results.clone();
    let swapped = refuse(&|plan| {
        let other = plan.places[&split[2]];
        plan.places.insert(split[1], other);
    });
    assert_eq!(swapped, "%4 cannot be a part of %2 at byte 768 of its rows, or take its place");
    let short = refuse(&|plan| {
        if let Some(Place::Arena { size, .. }) = plan.places.get_mut(&embedded) {
            *size -= 64;
        }
    });
    assert!(short.starts_with("%0 needs 3072 bytes at a multiple of 64 and has "), "{short}");
    let attended = func.node(node("attention")).results[0];
    let clobbered = refuse(&|plan| {
        plan.places.insert(attended, Place::Arena { offset, size: 3072 });
    });
    assert_eq!(clobbered, "`bitlinear` reads %0, but its bytes were overwritten with %9");
    let none = refuse(&|plan| {
        plan.places.remove(&attended);
    });
    assert_eq!(none, "%9 has no place in memory, or has one but is not a value of the function");
    let stray = refuse(&|plan| {
        plan.places.insert(ValueId::from_index(9999), Place::Extern);
    });
    assert!(stray.contains("has no place in memory, or has one but"), "{stray}");
    let barrier = refuse(&|plan| {
        plan.barriers.insert(NodeId::from_index(9999));
    });
    assert_eq!(barrier, "a barrier follows an op that is not in the function");
}

#[test]
fn only_copies_of_the_same_thread_need_no_barrier() {
    let func = |squares: &str, sums: &str| {
        format!(
            "func @f(%x: f32[32], %y: f32[32]) -> (f32[32]) tokens=1 arena=256 private=256 {{
              %a = relu2 %x : f32[32] {squares}
              %b = add %a, %y : f32[32] {sums}
              %c = relu2 %b : f32[32] extern
              return %c
            }}"
        )
    };
    assert_eq!(verdict(&func("private 0+128", "private 128+128")), "accepted");
    assert_eq!(verdict(&func("private 0+128", "alias %a")), "accepted");
    // A copy may be read by ops that are shared, and copies may be made of what is shared.
    assert_eq!(verdict(&func("private 0+128", "at 0+128 barrier")), "accepted");
    assert_eq!(verdict(&func("at 0+128 barrier", "private 0+128")), "accepted");
    assert_eq!(
        verdict(&func("at 0+128", "private 0+128")),
        "`add` reads %0 without a barrier after it was written"
    );
    assert_eq!(
        verdict(&func("private 0+128", "at 0+128")),
        "`relu2` reads %1 without a barrier after it was written"
    );
    assert_eq!(verdict(&func("private 0+128", "private 0+128")), "%1 shares bytes with %0 of the same op");
    assert!(verdict(&func("private 192+128", "private 0+128")).contains("in a memory of 256"));
}

#[test]
fn ops_with_shared_effects_are_not_replicated() {
    let append = "func @f(%x: f32[32], %v: f32[32], %kc: f16[2xCx16]@keys16, %vc: f16[2xCx16], %pos: idx)
              -> (f16[2xCx16]@keys16, f16[2xCx16], f32[32]) tokens=1 arena=0 private=256 {
              %r, %k1, %v1 = rope_kv_append %x, %v, %v, %kc, %vc, %pos
                {theta=10000.0, head=16, rot=16, pairs=halves} : f32[32], f16[2xCx16]@keys16, f16[2xCx16]
                private 0+128, alias %kc, alias %vc
              %y = relu2 %r : f32[32] extern
              return %k1, %v1, %y
            }";
    let message = "is private, but `rope_kv_append` is not an op that every thread can run for itself";
    assert!(verdict(append).contains(message), "{}", verdict(append));
}

/// The checker's word on a function with a plan, in text.
fn verdict(func: &str) -> String {
    let head = "bir 1 stage=planned target=x86_64+sse4.1\n";
    let module = text::parse(&format!("{head}{func}")).unwrap_or_else(|e| panic!("{e}"));
    check_plan(module.funcs().values().next().unwrap())
        .map_or_else(|e| e.to_string(), |()| "accepted".to_owned())
}

#[test]
fn an_operand_is_taken_over_in_the_slot_that_allows_it() {
    let func = |keys: &str| {
        format!(
            "func @f(%x: f32[32], %v: f32[32], %kc: f16[2xCx16]@keys16, %vc: f16[2xCx16], %pos: idx)
              -> (f16[2xCx16]@keys16, f16[2xCx16], f32[32]) tokens=1 arena=256 {{
              %q = relu2 %x : f32[32] at 0+128
              %k = relu2 %v : f32[32] at 128+128 barrier
              %r, %k1, %v1 = rope_kv_append %q, {keys}, %v, %kc, %vc, %pos
                {{theta=10000.0, head=16, rot=16, pairs=halves}} : f32[32], f16[2xCx16]@keys16, f16[2xCx16]
                alias %q, alias %kc, alias %vc barrier
              %y = relu2 %r : f32[32] extern
              return %k1, %v1, %y
            }}"
        )
    };
    assert_eq!(verdict(&func("%k")), "accepted");
    assert_eq!(verdict(&func("%q")), "%2 shares bytes with %0 of the same op");
}

#[test]
fn a_product_does_not_overwrite_what_it_multiplies() {
    let func = |op: &str, place: &str| {
        format!(
            "param @w: f32[32x32] = file \"w\" #00000000000000000000000000000000
            func @f(%x: f32[Tx32], %y: f32[Tx32]) -> (f32[Tx32]) tokens<=3 arena=768 {{
              %a = relu2 %x : f32[Tx32] at 0+384 barrier
              %b = {op} : f32[Tx32] {place} barrier
              %c = relu2 %b : f32[Tx32] extern
              return %c
            }}"
        )
    };
    let refused = "%1 cannot be a part of %0 at byte 0 of its rows, or take its place";
    for (op, in_place) in [("add %y, %a", "accepted"), ("silu %a", "accepted"), ("matmul %a, @w", refused)] {
        assert_eq!(verdict(&func(op, "alias %a")), in_place, "{op}");
        assert_eq!(verdict(&func(op, "at 384+384")), "accepted", "{op}");
    }
}

#[test]
fn writes_count_in_whole_vectors() {
    let func = |width: u32, rest: u32| {
        let half = 4 * width;
        format!(
            "func @f(%x: f32[Tx64]) -> (f32[Tx{width}], f32[Tx{rest}]) tokens<=3 arena=768 {{
              %a = relu2 %x : f32[Tx64] at 0+768 barrier
              %b, %c = split %a {{sizes=[{width},{rest}]}} : f32[Tx{width}], f32[Tx{rest}] view %a+0, view %a+{half}
              %d = relu2 %b : f32[Tx{width}] alias %b barrier
              %e = relu2 %d : f32[Tx{width}] extern
              %f = relu2 %c : f32[Tx{rest}] extern
              return %e, %f
            }}"
        )
    };
    assert_eq!(verdict(&func(48, 16)), "accepted");
    assert_eq!(verdict(&func(40, 24)), "`relu2` reads %2, but its bytes were overwritten with %3");
}

#[test]
fn parts_of_inputs_are_readable_and_parts_of_outputs_are_not() {
    let input = "func @f(%x: f32[32]) -> (f32[16]) tokens=1 arena=0 {
        %a, %b = split %x {sizes=[16,16]} : f32[16], f32[16] view %x+0, view %x+64
        %c = mul %a, %b : f32[16] extern
        return %c
    }";
    assert_eq!(verdict(input), "accepted");
    let output = "func @f(%x: f32[32]) -> (f32[32], f32[16]) tokens=1 arena=0 {
        %y = relu2 %x : f32[32] extern barrier
        %a, %b = split %y {sizes=[16,16]} : f32[16], f32[16] view %y+0, view %y+64
        %c = mul %a, %b : f32[16] extern
        return %y, %c
    }";
    assert_eq!(verdict(output), "%1 cannot be a part of %0 at byte 0 of its rows, or take its place");
}
