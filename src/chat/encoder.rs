//! Messages to the tokens of a prompt: a template with the model's tokenizer.

use std::sync::{Arc, OnceLock};

use bitnetc_runtime::tokenizer::{TokenId, Tokenize, Tokenizer};

use super::guard::breaks;
use super::select::ModelFacts;
use super::{
    Abilities, ChatError, ChatTemplate, RenderInput, Rendered, Selected, SpecialTexts, Wish, select,
};
use crate::error::Error;
use crate::load::Loaded;

/// Makes prompts of messages for one model.
#[derive(Clone)]
pub struct ChatEncoder {
    tokenizer: Arc<dyn Tokenize>,
    special: SpecialTexts,
    template: ChatTemplate,
    stop: Vec<String>,
    abilities: Arc<OnceLock<Abilities>>,
}

impl std::fmt::Debug for ChatEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatEncoder")
            .field("template", &self.template.name())
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

impl ChatEncoder {
    /// With this template, and strings that end an answer besides the model's end tokens.
    pub fn new(tokenizer: Arc<dyn Tokenize>, template: ChatTemplate, stop: Vec<String>) -> Self {
        let special = SpecialTexts::of(&*tokenizer);
        Self { special, tokenizer, template, stop, abilities: Arc::default() }
    }

    /// With the template that [`select`](super::select()) chooses for a model, and the remark that goes with the choice.
    ///
    /// # Errors
    /// As [`select`](super::select()).
    pub fn for_model(loaded: &Loaded, wish: &Wish) -> Result<(Self, Option<String>), ChatError> {
        let special = SpecialTexts::of(&*loaded.tokenizer);
        let facts = ModelFacts {
            name: &loaded.name,
            architecture: &loaded.architecture,
            template: loaded.chat_template.as_deref(),
            special: &special,
        };
        let Selected { template, stop, note } = select(wish, facts)?;
        let tokenizer: Arc<dyn Tokenize> = Arc::<Tokenizer>::clone(&loaded.tokenizer);
        Ok((Self { tokenizer, special, template, stop, abilities: Arc::default() }, note))
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &dyn Tokenize {
        &*self.tokenizer
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// What the template can do, found out when it is first asked.
    pub fn abilities(&self) -> &Abilities {
        self.abilities.get_or_init(|| Abilities::of(&self.template, &self.special, &*self.tokenizer))
    }

    /// Strings that end an answer, besides the model's end tokens.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }

    /// The text that the model is given.
    ///
    /// # Errors
    /// What the template refuses.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<Rendered, ChatError> {
        self.template.render(input, &self.special)
    }

    /// A text with `begun` after it: the beginning of an answer that somebody wrote for the model, in which no control token is
    /// read.
    pub fn continued(&self, mut rendered: Rendered, begun: &str) -> Rendered {
        let start = rendered.text.len();
        rendered.text.push_str(begun);
        let written = start..rendered.text.len();
        rendered.breaks.extend(breaks(
            &rendered.text,
            std::slice::from_ref(&written),
            &self.special.controls,
        ));
        rendered.breaks.sort_unstable();
        rendered.breaks.dedup();
        rendered
    }

    /// The tokens of a text from [`ChatEncoder::render`].
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn encode(&self, rendered: &Rendered) -> Result<Vec<TokenId>, Error> {
        Ok(self.tokenizer.encode_template(&rendered.text, &rendered.breaks, true)?)
    }
}
