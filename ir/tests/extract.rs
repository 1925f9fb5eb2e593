//! Layers taken out of functions.

use bitnetc_ir::extract::layer;
use bitnetc_ir::generate::{GenOptions, random_module};
use bitnetc_ir::text::{parse, print};
use bitnetc_ir::verify::verify;
use bitnetc_ir::{Entity, FuncId, Place, Stage, TokenCount};

/// Two layers of a norm, a product and a residual, between an embedding and a head.
const TWO_LAYERS: &str = r#"bir 1 stage=imported
param @token_embd: f32[20x128] = file "t" #00112233445566778899aabbccddeeff
param @l0.norm: f32[128] = file "n0" #00112233445566778899aabbccddeeff
param @l0.w: ter[128x128]@i2s128 = file "w0" #00112233445566778899aabbccddeeff
param @l1.norm: f32[128] = file "n1" #00112233445566778899aabbccddeeff
param @l1.w: ter[128x128]@i2s128 = file "w1" #00112233445566778899aabbccddeeff

func @decode(%tok: idx[1]) -> (f32[20]) tokens=1 {
  %e = embed %tok, @token_embd : f32[128]
  %e2 = relu2 %e : f32[128]
  %h = relu2 %e2 : f32[128]
  %n0 = rms_norm %h, @l0.norm {eps=1e-5} : f32[128]
  %q0 = quant_absmax %n0 : q8[128]
  %y0 = ternary_matmul %q0, @l0.w : f32[128]
  %h0 = add %h, %y0 : f32[128]
  %n1 = rms_norm %h0, @l1.norm {eps=1e-5} : f32[128]
  %q1 = quant_absmax %n1 : q8[128]
  %y1 = ternary_matmul %q1, @l1.w : f32[128]
  %h1 = add %h0, %y1 : f32[128]
  %r = relu2 %h1 : f32[128]
  %logits = matmul %r, @token_embd : f32[20]
  return %logits
}
"#;

#[test]
fn a_layer_is_a_function_of_its_residual_stream() {
    let module = parse(TWO_LAYERS).unwrap();
    let func = FuncId::from_index(0);
    let expected = r#"bir 1 stage=imported
param @l1.norm: f32[128] = file "n1" #00112233445566778899aabbccddeeff
param @l1.w: ter[128x128]@i2s128 = file "w1" #00112233445566778899aabbccddeeff

func @decode(
  %v6: f32[128]
) -> (f32[128]) tokens=1 {
  %0 = rms_norm %v6, @l1.norm {eps=1e-5} : f32[128]
  %1 = quant_absmax %0 : q8[128]
  %2 = ternary_matmul %1, @l1.w : f32[128]
  %3 = add %v6, %2 : f32[128]
  return %3
}
"#;
    // The last layer ends before the head's parameter, not before the first op of the head.
    let last = layer(&module, func, 1).unwrap();
    assert_eq!(print(&last).replace("  %4 = relu2 %3 : f32[128]\n  return %4", "  return %3"), expected);
    assert_eq!(verify(&last), Ok(()));
    let first = layer(&module, func, 0).unwrap();
    let text = expected
        .replace("l1.", "l0.")
        .replace("\"n1\"", "\"n0\"")
        .replace("\"w1\"", "\"w0\"")
        .replace("v6", "v2");
    assert_eq!(print(&first), text);
    assert!(layer(&module, func, 2).is_none());
    assert!(layer(&module, FuncId::from_index(1), 0).is_none());
}

#[test]
fn what_serves_only_the_first_op_comes_along() {
    let text = TWO_LAYERS.replace("add %h, %y0", "add %e, %y0");
    let part = print(&layer(&parse(&text).unwrap(), FuncId::from_index(0), 0).unwrap());
    let body = "  %0 = relu2 %v0 : f32[128]\n  %1 = relu2 %0 : f32[128]\n  %2 = rms_norm %1, @l0.norm";
    assert!(part.contains(body) && part.contains("add %v0, %"), "{part}");
}

#[test]
fn layers_of_random_modules_verify() {
    let (mut taken, mut moved, mut kept) = (0, 0, 0);
    for seed in 0..300u64 {
        let tokens = if seed % 2 == 0 { TokenCount::One } else { TokenCount::UpTo(7) };
        let stage = Stage::ALL[(seed / 2 % 4) as usize];
        let (module, _) =
            random_module(seed, &GenOptions { stage, tokens, layers: 3, ops: 30, ..GenOptions::default() });
        for n in 0..4 {
            let Some(part) = layer(&module, FuncId::from_index(0), n) else { continue };
            taken += 1;
            if let Err(errors) = verify(&part) {
                panic!("seed {seed}, layer {n}: {}\n{}\nof\n{}", errors[0], print(&part), print(&module));
            }
            assert_eq!(print(&parse(&print(&part)).unwrap()), print(&part));
            let used = part.funcs().values().flat_map(|f| f.params_used()).count();
            assert!(used > 0 && used <= part.params().len());
            if let Some(plan) = &part.funcs()[FuncId::from_index(0)].plan {
                let before = module.funcs()[FuncId::from_index(0)].plan.as_ref().unwrap().arena_bytes;
                moved += usize::from(plan.arena_bytes > before);
                kept += plan.places.values().filter(|p| matches!(p, Place::Arena { .. })).count();
            }
        }
    }
    assert!(taken > 400 && kept > 100, "{taken} layers, {kept} places kept, {moved} moved");
}

#[test]
fn places_that_led_outside_move_to_the_end_of_the_arena() {
    let text = r#"bir 1 stage=planned target=aarch64
param @l0.n: f32[8] = file "n0" #00112233445566778899aabbccddeeff
param @l1.n: f32[8] = file "n1" #00112233445566778899aabbccddeeff

func @f(
  %x: f32[8]
) -> (f32[8]) tokens=1 arena=64 {
  %0 = rms_norm %x, @l0.n {eps=1e-5} : f32[8] at 0+64 barrier
  %1 = rms_norm %0, @l1.n {eps=1e-5} : f32[8] alias %0
  %2 = relu2 %1 : f32[8] alias %1 barrier
  %3 = relu2 %2 : f32[8] extern
  return %3
}
"#;
    let module = parse(text).unwrap();
    assert_eq!(verify(&module), Ok(()));
    let part = layer(&module, FuncId::from_index(0), 1).unwrap();
    let body = "  %0 = rms_norm %v0, @l1.n {eps=1e-5} : f32[8] at 64+64\n  %1 = relu2 %0 : f32[8] alias %0 barrier\n";
    let text = print(&part);
    assert!(text.contains(body) && text.contains("arena=128"), "{text}");
    assert_eq!(verify(&part), Ok(()));
    let first = print(&layer(&module, FuncId::from_index(0), 0).unwrap());
    assert!(first.contains("%0 = rms_norm %x, @l0.n {eps=1e-5} : f32[8] extern barrier"), "{first}");
}
