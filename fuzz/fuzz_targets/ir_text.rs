//! Any bytes as the text of a module: the parser refuses them or gives a module whose text is stable, and what the
//! verifier then accepts stays acceptable when a layer is taken out or the caches change their type.
//!
//! `cargo +nightly fuzz run ir_text ../tests/filetests/parse ../tests/filetests/verify`
#![no_main]

use bitnetc_ir::text::{parse_mapped, print};
use bitnetc_ir::verify::verify;
use bitnetc_ir::{CacheType, cache, extract};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (mut module, spans) = match parse_mapped(text) {
        Ok(parsed) => parsed,
        Err(e) => {
            assert!(text.get(e.span.clone()).is_some(), "{e}: {:?}", e.span);
            return;
        }
    };
    let printed = print(&module);
    let (again, _) = parse_mapped(&printed).expect("printed text parses");
    assert_eq!(print(&again), printed);
    match verify(&module) {
        Err(errors) => {
            for error in errors {
                let _ = spans.span(&module, error.anchor);
            }
        }
        Ok(()) => {
            for func in module.funcs().keys() {
                if let Some(layer) = extract::layer(&module, func, 0) {
                    assert_eq!(verify(&layer), Ok(()), "{}", print(&layer));
                }
            }
            cache::set_cache_type(&mut module, CacheType::F32).expect("a sound module can change its caches");
            assert_eq!(verify(&module), Ok(()), "{}", print(&module));
        }
    }
});
