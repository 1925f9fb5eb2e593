//! How likely texts are after others: what evaluations with several answers to choose from ask for.
//!
//! A context is computed once for all texts that are scored after it, and what two contexts have in common once for both. Logits are
//! made for the places of the scored tokens alone.
//!
//! ```
//! use bitnetc::likelihood::Scorer;
//! use bitnetc::{Model, Session, SessionOptions};
//!
//! # fn main() -> Result<(), bitnetc::Error> {
//! let model = Model::builtin()?;
//! let options = SessionOptions { context: 64, threads: 1 };
//! let mut scorer = Scorer::new(Session::new(model.loaded().model.clone(), options)?);
//! let question = model.prompt("To be, or not to")?;
//! let right = scorer.likelihood(&question, &model.tokenizer().encode(" be", false, false)?)?;
//! let wrong = scorer.likelihood(&question, &model.tokenizer().encode(" Rome", false, false)?)?;
//! assert!(right.sum > wrong.sum);
//! # Ok(())
//! # }
//! ```
//!
//! Invariant: a likelihood depends on the model, the context and the text alone: the same bits in any order of the calls, and those
//! that a request of the engine has in [`Completion::prompt_logprobs`](crate::Completion::prompt_logprobs).

use bitnetc_runtime::error::SessionError;
use bitnetc_runtime::sampling::TokenLogprobs;
use bitnetc_runtime::session::Session;
use bitnetc_runtime::tokenizer::TokenId;

/// How likely a text is after a context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// Sum of the logarithms of the probabilities of its tokens, in nats.
    pub sum: f64,
    /// Whether each of its tokens is the likeliest one at its place.
    pub is_greedy: bool,
}

/// Scores texts.
#[derive(Debug)]
pub struct Scorer {
    session: Session,
    /// The context whose logits `next` has; empty if there is none.
    context: Vec<TokenId>,
    /// The logits after the context.
    next: Vec<f32>,
}

impl Scorer {
    /// With a session, whose context bounds that of a text and the text together, less the last token.
    pub fn new(session: Session) -> Self {
        Self { session, context: Vec::new(), next: Vec::new() }
    }

    /// The session.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// How likely `text` is after `context`, which has at least one token.
    ///
    /// # Errors
    /// No context, an unknown token, tokens that the session has no room for, NaN logits, an interruption.
    pub fn likelihood(&mut self, context: &[TokenId], text: &[TokenId]) -> Result<Likelihood, SessionError> {
        self.check(text)?;
        self.feed(context)?;
        let mut total = Likelihood { sum: 0.0, is_greedy: true };
        let Some((&first, rest)) = text.split_first() else { return Ok(total) };
        let mut add = |logits: &[f32], id: TokenId| {
            let scored = TokenLogprobs::of(logits, id, 1);
            total.sum += scored.token.logprob;
            total.is_greedy &= scored.top.first().is_some_and(|best| best.id == id);
        };
        add(&self.next, first);
        if let [fed @ .., _] = text
            && !fed.is_empty()
        {
            self.session.score(fed, |at, logits| {
                rest.get(at).is_some_and(|&id| {
                    add(logits, id);
                    true
                })
            })?;
        }
        Ok(total)
    }

    /// Whether all tokens are the model's, the last one too, which is not fed.
    fn check(&self, text: &[TokenId]) -> Result<(), SessionError> {
        let vocab = self.session.model().vocab();
        match text.iter().zip(0..).find(|&(&id, _)| id >= vocab) {
            Some((&id, position)) => Err(SessionError::Token { id, position, vocab }),
            None => Ok(()),
        }
    }

    /// Makes `next` the logits after `context`.
    fn feed(&mut self, context: &[TokenId]) -> Result<(), SessionError> {
        if self.context == context && !context.is_empty() {
            self.session.truncate(context.len() as u32);
            return Ok(());
        }
        self.context.clear();
        let held = self.session.tokens();
        let common = held.iter().zip(context).take_while(|(held, wanted)| held == wanted).count();
        // The last token is always fed, for its logits.
        let kept = common.min(context.len().saturating_sub(1));
        self.session.truncate(kept as u32);
        let logits = self.session.feed(&context[kept..])?;
        self.next.clear();
        self.next.extend_from_slice(logits);
        self.context.extend_from_slice(context);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bitnetc_runtime::session::SessionOptions;

    use super::*;
    use crate::engine::{EngineOptions, GenerateOptions, Request};
    use crate::model::Model;
    use crate::sampling::SamplingParams;

    fn scorer(model: &Model, context: u32) -> Scorer {
        let options = SessionOptions { context, threads: 1 };
        Scorer::new(Session::new(model.loaded().model.clone(), options).unwrap())
    }

    /// The same by the engine, which scores whole prompts.
    fn by_engine(model: &Model, context: &[TokenId], text: &[TokenId]) -> Likelihood {
        let prompt = [context, text].concat();
        let options = GenerateOptions { limit: Some(0), ..GenerateOptions::default() };
        let mut request = Request::new(prompt, SamplingParams::greedy(), options).unwrap();
        request.prompt_logprobs = Some(1);
        let mut session = model.session_with(EngineOptions::single(64, 1)).unwrap();
        let completion = session.follow(request, || true, |_| true).unwrap();
        let scored = &completion.prompt_logprobs[context.len() - 1..];
        Likelihood {
            sum: scored.iter().fold(0.0, |sum, scored| sum + scored.token.logprob),
            is_greedy: scored.iter().all(|scored| scored.top[0].id == scored.token.id),
        }
    }

    #[test]
    fn texts_have_the_likelihoods_of_whole_prompts_in_any_order() {
        let model = Model::builtin().unwrap();
        let ids = |text: &str| model.prompt(text).unwrap();
        let (one, two) = (ids("To be, or not to"), ids("To be, or not at"));
        let texts = [vec![5, 9, 300], vec![7], vec![5, 9, 301, 2]];
        let mut scorer = scorer(&model, 64);
        for context in [&one, &two, &one] {
            for text in &texts {
                assert_eq!(scorer.likelihood(context, text).unwrap(), by_engine(&model, context, text));
            }
        }
        assert_eq!(scorer.likelihood(&one, &[]).unwrap(), Likelihood { sum: 0.0, is_greedy: true });
        let best = TokenLogprobs::of(&scorer.next, 0, 1).top[0].id;
        assert!(scorer.likelihood(&one, &[best]).unwrap().is_greedy);
        assert!(!scorer.likelihood(&one, &[best, best ^ 1]).unwrap().is_greedy);
    }

    #[test]
    fn what_cannot_be_scored_changes_nothing() {
        let model = Model::builtin().unwrap();
        let mut scorer = scorer(&model, 64);
        let context = model.prompt("To be").unwrap();
        let expected = scorer.likelihood(&context, &[5, 9]).unwrap();
        let vocab = model.loaded().model.vocab();
        assert!(matches!(
            scorer.likelihood(&context, &[5, vocab]),
            Err(SessionError::Token { position: 1, .. })
        ));
        assert!(matches!(scorer.likelihood(&[], &[5]), Err(SessionError::Empty)));
        assert!(matches!(scorer.likelihood(&context, &[5; 80]), Err(SessionError::ContextFull { .. })));
        assert_eq!(scorer.likelihood(&context, &[5, 9]).unwrap(), expected);
    }
}
