//! The tokenizer's tables as the front-end read them, in the form that runtime and plan files hold.

use std::path::PathBuf;

use bitnetc_frontend_gguf::{Gguf, PreTokenizer, TokenizerMeta, TokenizerModel};
use bitnetc_runtime::tokenizer::{
    Algorithm, TokenType, Tokenizer, TokenizerError, TokenizerSpec, pack_merges,
};

use crate::error::Error;
use crate::load::Source;

/// The tokenizer of a file, with what there is to say about it. A GGUF with a vocabulary and nothing else is enough.
///
/// # Errors
/// A file without a tokenizer, or with a faulty one.
pub fn open_tokenizer(source: &Source) -> Result<(Tokenizer, Vec<String>), Error> {
    if let Source::Plan { path, plan } = source {
        let spec =
            plan.tokenizer()?.ok_or_else(|| Error::PlanLacks { path: path.clone(), what: "tokenizer" })?;
        return Ok((Tokenizer::new(&spec)?, Vec::new()));
    }
    let bad = |source_error| Error::Gguf { path: PathBuf::from(source.name()), source: source_error };
    let parts = source.parts();
    let gguf = Gguf::parse(parts.first().copied().unwrap_or_default()).map_err(bad)?;
    let meta = TokenizerMeta::read(&gguf).map_err(bad)?;
    let notes = meta.notes().iter().map(ToString::to_string).collect();
    Ok((Tokenizer::new(&tokenizer_spec(&meta)?)?, notes))
}

/// Converts checked tokenizer metadata.
///
/// # Errors
/// Tables that do not fit together; the front-end has refused these before.
pub fn tokenizer_spec(meta: &TokenizerMeta<'_>) -> Result<TokenizerSpec, TokenizerError> {
    let types: Vec<TokenType> =
        meta.types().iter().map(|&t| TokenType::from_gguf(t as i64).unwrap_or(TokenType::Unused)).collect();
    let merges = pack_merges(meta.tokens(), &types, meta.merges())?;
    let spec = TokenizerSpec {
        tokens: meta.tokens().iter().map(|&t| t.to_owned()).collect(),
        types,
        merges,
        algorithm: match meta.model() {
            TokenizerModel::ByteLevelBpe(PreTokenizer::LlamaBpe) => Algorithm::LlamaBpe,
            TokenizerModel::ByteLevelBpe(PreTokenizer::Qwen2) => Algorithm::Qwen2,
            TokenizerModel::ByteLevelBpe(PreTokenizer::Qwen35) => Algorithm::Qwen35,
            TokenizerModel::ByteLevelBpe(PreTokenizer::Gpt2) => Algorithm::Gpt2,
            TokenizerModel::ByteLevelBpe(PreTokenizer::Default) => Algorithm::Default,
            TokenizerModel::ByteLevelBpe(PreTokenizer::Falcon) => Algorithm::Falcon,
            TokenizerModel::SentencePiece { space_prefix } => Algorithm::SentencePiece {
                scores: meta.scores().to_vec(),
                space_prefix,
                unknown: meta.special().unk,
            },
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
