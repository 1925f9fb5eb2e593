//! The tokenizer's tables as the front-end read them, in the form that runtime and plan files hold.

use bitnetc_frontend_gguf::{PreTokenizer as GgufPre, TokenizerMeta};
use bitnetc_runtime::tokenizer::{PreTokenizer, TokenType, TokenizerError, TokenizerSpec, pack_merges};

/// Converts checked tokenizer metadata.
///
/// # Errors
/// Tables that do not fit together; the front-end has refused these before.
pub(crate) fn tokenizer_spec(meta: &TokenizerMeta<'_>) -> Result<TokenizerSpec, TokenizerError> {
    let types: Vec<TokenType> =
        meta.types().iter().map(|&t| TokenType::from_gguf(t as i64).unwrap_or(TokenType::Unused)).collect();
    let merges = pack_merges(meta.tokens(), &types, meta.merges())?;
    let spec = TokenizerSpec {
        tokens: meta.tokens().iter().map(|&t| t.to_owned()).collect(),
        types,
        merges,
        pre: match meta.pre() {
            GgufPre::LlamaBpe => PreTokenizer::LlamaBpe,
            GgufPre::Qwen2 => PreTokenizer::Qwen2,
        },
        bos: meta.special().bos,
        eos: meta.special().eos,
        eog: meta.end_of_generation().to_vec(),
        add_bos: meta.add_bos(),
        add_eos: meta.add_eos(),
    };
    spec.validate()?;
    Ok(spec)
}
