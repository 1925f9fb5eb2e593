//! What the code generator yields: the instructions that matter, self-contained code, sound executable memory.

mod common;

use bitnetc_codegen::clif;
use bitnetc_codegen::error::CodegenError;
use bitnetc_codegen::image::ImageBuilder;
use bitnetc_codegen::kir::{Access, Kernel, KernelBuilder, Vb, Vi};
use bitnetc_codegen::machine_code::MachineCode;
use bitnetc_ir::TargetDesc;

type Dot = fn(&mut KernelBuilder, Vi, Vb, Vb) -> Vi;

/// The inner loop of a product of bytes.
fn dot_kernel(dot: Dot) -> Kernel {
    let mut b = KernelBuilder::new("dot");
    let (w, x) = (b.ptr("w", Access::ReadOnly), b.ptr("x", Access::ReadOnly));
    let out = b.ptr("out", Access::ReadWrite);
    let n = b.int_param("n");
    let zero = b.splat_i32(0);
    let acc = b.for_loop(0, n, 4, zero, |b, k, acc| {
        let at = b.shl(k, 4);
        let (wp, xp) = (b.add(w, at), b.add(x, k));
        let (codes, bytes) = (b.load_bytes(wp, 0, 64), b.broadcast_i32(xp, 0));
        let bytes = b.as_vb(bytes);
        dot(b, acc, codes, bytes)
    });
    b.store_i32(out, acc, 0, 16);
    b.finish().unwrap()
}

fn unsigned(u_max: u8) -> Dot {
    match u_max {
        255 => |b, acc, u, s| b.dot_u8i8(acc, u, s, 255),
        128 => |b, acc, u, s| b.dot_u8i8(acc, u, s, 128),
        _ => |b, acc, u, s| b.dot_u8i8(acc, u, s, 32),
    }
}

fn compile(kernel: &Kernel, target: &str) -> (MachineCode, String) {
    let target: TargetDesc = target.parse().unwrap();
    let (code, listing) = clif::compile_with_listing(kernel, &target).unwrap();
    (code, listing.vcode)
}

fn count(text: &str, word: &str) -> usize {
    text.lines().filter(|line| line.split_whitespace().any(|w| w == word)).count()
}

const VEX_VNNI: &str = "x86_64+sse4.1+sse4.2+avx+avx2+fma+avxvnni";
const EVEX_VNNI: &str = "x86_64+sse4.1+sse4.2+avx+avx2+fma+avx512f+avx512vl+avx512vnni";

#[test]
fn vnni_is_used_in_both_encodings() {
    for (target, evex) in [(VEX_VNNI, false), (EVEX_VNNI, true)] {
        for u_max in [32, 128, 255] {
            let (code, _) = compile(&dot_kernel(unsigned(u_max)), target);
            let text = code.disassemble();
            assert_eq!(count(&text, "vpdpbusd"), 4, "{target}\n{text}");
            // EVEX instructions start with 0x62, VEX ones with 0xc4.
            let line = text.lines().find(|l| l.contains("vpdpbusd")).unwrap();
            let at = usize::from_str_radix(line.split_whitespace().next().unwrap(), 16).unwrap();
            assert_eq!(code.bytes[at], if evex { 0x62 } else { 0xc4 });
        }
    }
    // The signed form shares the correction by the second operand among the parts: at most five.
    let (code, _) = compile(&dot_kernel(|b, acc, x, y| b.dot_i8i8(acc, x, y)), VEX_VNNI);
    assert_eq!(count(&code.disassemble(), "vpdpbusd"), 5);
}

#[test]
fn without_vnni_pairs_are_multiplied() {
    for (target, pairs, quads) in
        [("x86_64", "pmaddubsw", "pmaddwd"), ("x86_64+avx+avx2+fma", "vpmaddubsw", "vpmaddwd")]
    {
        let (code, _) = compile(&dot_kernel(unsigned(128)), target);
        let text = code.disassemble();
        assert_eq!((count(&text, pairs), count(&text, quads)), (4, 4), "{target}\n{text}");
    }
}

#[test]
fn aarch64_uses_its_dot_products() {
    let usdot = compile(&dot_kernel(unsigned(128)), "aarch64+dotprod+i8mm").1;
    assert_eq!((count(&usdot, "usdot"), count(&usdot, "sdot")), (4, 0), "{usdot}");
    let sdot = compile(&dot_kernel(unsigned(32)), "aarch64+dotprod").1;
    assert_eq!(count(&sdot, "sdot"), 4, "{sdot}");
    // Bytes of 128 need an offset, whose correction is shared among the parts.
    let sdot = compile(&dot_kernel(unsigned(128)), "aarch64+dotprod").1;
    assert_eq!(count(&sdot, "sdot"), 6, "{sdot}");
    for target in ["aarch64+dotprod", "aarch64+dotprod+i8mm"] {
        let signed = compile(&dot_kernel(|b, acc, x, y| b.dot_i8i8(acc, x, y)), target).1;
        assert_eq!(count(&signed, "sdot"), 4, "{signed}");
    }
    let plain = compile(&dot_kernel(unsigned(128)), "aarch64").1;
    assert_eq!(count(&plain, "sdot") + count(&plain, "usdot"), 0);
}

#[test]
fn fused_multiply_add_is_an_instruction_where_there_is_one() {
    let mut b = KernelBuilder::new("fma");
    let p = b.ptr("p", Access::ReadWrite);
    let (x, y) = (b.load_f32(p, 0, 16), b.load_f32(p, 64, 16));
    let z = b.fma(x, y, y);
    let m = b.fmax_gt(z, x);
    b.store_f32(p, m, 0, 16);
    let kernel = b.finish().unwrap();
    let with = compile(&kernel, "x86_64+avx+avx2+fma").0.disassemble();
    assert_eq!(with.matches("vfmadd").count(), 4, "{with}");
    assert_eq!(count(&with, "vmaxps"), 4, "{with}");
    let without = compile(&kernel, "x86_64").0.disassemble();
    assert_eq!(without.matches("fmadd").count(), 0);
    assert_eq!(count(&without, "maxps"), 4, "{without}");
    assert_eq!(count(&without, "call"), 0);
    assert_eq!(count(&compile(&kernel, "aarch64").1, "fmla"), 4);
}

#[test]
fn listings_show_the_code_and_nothing_else() {
    let kernel = dot_kernel(unsigned(32));
    for target in ["x86_64", VEX_VNNI] {
        let target: TargetDesc = target.parse().unwrap();
        let (code, listing) = clif::compile_with_listing(&kernel, &target).unwrap();
        assert_eq!(code, clif::compile(&kernel, &target).unwrap());
        assert!(listing.clif.contains("block0") && listing.vcode.contains("block"), "{listing:?}");
        let text = code.disassemble();
        let mnemonics: Vec<_> = text.lines().filter_map(|l| l.split_whitespace().nth(1)).collect();
        assert_eq!(mnemonics.iter().filter(|m| **m == "ret").count(), 1, "{text}");
        assert_eq!(mnemonics.last(), Some(&"ret"), "{text}");
    }
    let target: TargetDesc = "aarch64".parse().unwrap();
    let (code, listing) = clif::compile_with_listing(&kernel, &target).unwrap();
    assert!(listing.vcode.contains("ret"));
    assert_eq!(code.disassemble().lines().count(), code.bytes.len() / 4);
}

#[test]
fn code_that_is_too_long_is_refused() {
    let mut b = KernelBuilder::new("long");
    let p = b.ptr("p", Access::ReadWrite);
    let mut x = b.load_f32(p, 0, 16);
    for i in 1..100 {
        let y = b.load_f32(p, 64 * i, 16);
        x = b.fma(x, y, y);
    }
    b.store_f32(p, x, 0, 16);
    let kernel = b.finish().unwrap();
    match clif::compile(&kernel, &"x86_64".parse().unwrap()) {
        Err(CodegenError::TooLarge { bytes, limit, .. }) => assert!(bytes > limit),
        other => panic!("{other:?}"),
    }
}

fn store_kernel(name: &str, value: i32) -> Kernel {
    let mut b = KernelBuilder::new(name);
    let p = b.ptr("p", Access::ReadWrite);
    let v = b.splat_i32(value);
    b.store_i32(p, v, 0, 1);
    b.finish().unwrap()
}

#[test]
fn an_image_holds_many_kernels_and_outlives_its_handle() {
    let target = common::levels().pop().unwrap();
    let mut builder = ImageBuilder::new(&target).unwrap();
    for i in 0..40 {
        let kernel = store_kernel(&format!("k{i}"), 1000 + i);
        builder.define(&kernel.name, &clif::compile(&kernel, &target).unwrap()).unwrap();
    }
    let again = clif::compile(&store_kernel("k7", 0), &target).unwrap();
    assert!(matches!(builder.define("k7", &again), Err(CodegenError::Duplicate { .. })));
    let image = builder.finish().unwrap();
    assert_eq!(image.len(), 40);
    assert!(image.find("k40").is_none());
    let entries: Vec<_> = image.entries().collect();
    assert_eq!(entries[7].name(), image.find("k7").unwrap().name());
    drop(image);
    let call = |i: usize| {
        let mut out = [0i32; 4];
        let args = [out.as_mut_ptr() as u64];
        // SAFETY: The kernel stores one i32 through its only parameter; `entries` keeps the code alive.
        unsafe { entries[i].function()(args.as_ptr()) };
        out
    };
    std::thread::scope(|s| {
        for i in 0..40 {
            s.spawn(move || assert_eq!(call(i), [1000 + i as i32, 0, 0, 0]));
        }
    });
}

#[test]
fn ready_made_bytes_run_beside_compiled_kernels() {
    let target = common::levels().pop().unwrap();
    let compiled = clif::compile(&store_kernel("k", 5), &target).unwrap();
    let ready = MachineCode { target: target.clone(), bytes: compiled.bytes.clone(), align: 1 << 6 };
    let mut builder = ImageBuilder::new(&target).unwrap();
    builder.define("compiled", &compiled).unwrap();
    builder.define("ready", &ready).unwrap();
    let image = builder.finish().unwrap();
    assert_eq!(image.find("ready").unwrap().function() as usize % 64, 0);
    let mut out = 0i32;
    let args = [(&raw mut out) as u64];
    // SAFETY: The kernel stores one i32 through its only parameter; `image` keeps the code alive.
    unsafe { image.find("ready").unwrap().function()(args.as_ptr()) };
    assert_eq!(out, 5);
}

#[test]
fn code_for_another_machine_is_refused() {
    let host = common::levels().pop().unwrap();
    let foreign = match host.arch {
        bitnetc_ir::Arch::X86_64 => "aarch64",
        bitnetc_ir::Arch::Aarch64 => "x86_64",
    };
    let foreign: TargetDesc = foreign.parse().unwrap();
    assert!(matches!(ImageBuilder::new(&foreign), Err(CodegenError::WrongTarget { .. })));
    let code = clif::compile(&store_kernel("k", 5), &foreign).unwrap();
    let mut builder = ImageBuilder::new(&host).unwrap();
    assert!(matches!(builder.define("k", &code), Err(CodegenError::WrongTarget { .. })));
}

#[cfg(target_os = "linux")]
#[test]
fn no_page_is_writable_and_executable() {
    let target = common::levels().pop().unwrap();
    let image = common::load(&store_kernel("k", 5), &target);
    let address = image.entry(0).function() as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut holds_the_kernel = None;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, access) = (words.next().unwrap(), words.next().unwrap());
        assert!(!(access.contains('w') && access.contains('x')), "{line}");
        let (start, end) = range.split_once('-').unwrap();
        let parse = |s| usize::from_str_radix(s, 16).unwrap();
        if (parse(start)..parse(end)).contains(&address) {
            holds_the_kernel = Some(access.to_owned());
        }
    }
    assert_eq!(holds_the_kernel.as_deref(), Some("r-xp"));
}
