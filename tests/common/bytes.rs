//! Grammars over single bytes: whether a text satisfies one, whatever the tokens of a model.
#![allow(dead_code, unreachable_pub, missing_docs)]

use bitnetc::constraint::{Constraint, ConstraintError, Grammar, GrammarSource, Vocabulary};
use bitnetc_runtime::sampling::TokenMask;
use bitnetc_runtime::tokenizer::{Algorithm, TokenType, Tokenizer, TokenizerSpec};

/// The token that ends a text.
const END: u32 = 256;

/// A vocabulary with a token for each byte, in the order of bytes, and one that ends a text.
pub struct Bytes {
    vocabulary: Vocabulary,
}

/// The character that stands for a byte in the tokens of GPT-2 and its successors.
fn stand_in(byte: u8) -> char {
    let plain = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match plain(&byte) {
        true => char::from(byte),
        false => char::from_u32(256 + (0..byte).filter(|other| !plain(other)).count() as u32).unwrap(),
    }
}

impl Bytes {
    pub fn new() -> Self {
        let mut tokens: Vec<String> = (0..=255u8).map(|byte| stand_in(byte).to_string()).collect();
        tokens.push("<|end|>".to_owned());
        let mut types = vec![TokenType::Normal; 256];
        types.push(TokenType::Control);
        let spec = TokenizerSpec {
            tokens,
            types,
            merges: vec![],
            algorithm: Algorithm::Gpt2,
            bos: None,
            eos: Some(END),
            eog: vec![END],
            add_bos: false,
            add_eos: false,
        };
        let tokenizer = Tokenizer::new(&spec).unwrap();
        Self { vocabulary: Vocabulary::new(&tokenizer, END + 1).unwrap() }
    }

    pub fn grammar(&self, source: &GrammarSource) -> Result<Grammar, ConstraintError> {
        self.vocabulary.grammar(source)
    }
}

/// Whether a text satisfies a grammar as a whole.
pub fn accepts(grammar: &Grammar, text: &str) -> bool {
    let mut grammar = grammar.clone();
    let mut mask = TokenMask::none(END as usize + 1);
    for byte in text.bytes() {
        if grammar.is_complete() {
            return false;
        }
        grammar.allowed(&mut mask).unwrap();
        if !mask.allows(u32::from(byte)) {
            return false;
        }
        grammar.accept(u32::from(byte)).unwrap();
    }
    grammar.is_complete() || {
        grammar.allowed(&mut mask).unwrap();
        mask.allows(END)
    }
}
