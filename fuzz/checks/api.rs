//! The property behind the fuzz target `api`, shared with the tests that replay its seeds: any bytes as the body of a request are
//! refused with a short message, or accepted within the limits of the service.

use bitnetc::api::{self, Call, Defaults, Limits, Refusal, Route, Service};
use bitnetc::chat::{ChatEncoder, Wish};
use bitnetc::engine::GenerateOptions;
use bitnetc::{Model, SamplingParams};

/// Longest message.
const MAX_MESSAGE: usize = 2_000;

/// A service of the built-in model with this context.
pub(crate) fn builtin(context: u32) -> Service {
    let model = Model::builtin().expect("a machine that code can be generated for");
    let chat = ChatEncoder::for_model(model.loaded(), &Wish::Model).map(|(encoder, _)| encoder);
    let options = GenerateOptions { limit: Some(100), ..GenerateOptions::default() };
    Service {
        chat,
        id: "shakespeare".to_owned(),
        created: 1,
        context,
        defaults: Defaults { params: SamplingParams::default(), seed: None, options, form: None },
        limits: Limits::default(),
        strict_model: false,
        model,
    }
}

fn check_refusal(route: Route, refusal: &Refusal) {
    assert!((400..600).contains(&refusal.status) && !refusal.message.is_empty(), "{refusal:?}");
    assert!(refusal.message.len() <= MAX_MESSAGE, "{}", refusal.message);
    assert!(api::error_body(route, refusal).is_object());
}

/// Checks a body.
pub(crate) fn check(service: &Service, route: Route, body: &[u8]) -> bool {
    if route.counts()
        && let Err(refusal) = api::count_tokens(service, route, body)
    {
        check_refusal(route, &refusal);
    }
    let written = |service: &Service, body: &[u8]| {
        // What is found wrong while an answer is written is no refusal.
        api::tokenize(service, body).map(|tokens| serde_json::to_value(&tokens).unwrap())
    };
    for utility in [written, api::detokenize, api::apply_template] {
        if let Err(refusal) = utility(service, body) {
            check_refusal(Route::ChatCompletions, &refusal);
        }
    }
    let _ = api::model_of(body);
    match api::accept(service, route, body) {
        Err(refusal) => {
            check_refusal(route, &refusal);
            false
        }
        Ok(Call { choices, mut reply }) => {
            assert_eq!(choices.len(), reply.choices());
            assert!(choices.len() <= service.limits.choices * service.limits.prompts);
            assert!(choices.iter().all(|choice| choice.prompt_tokens() <= service.context as usize));
            let frames = [reply.begin(), reply.fail(&Refusal::new(500, "test", "for a test"))].concat();
            assert_eq!(frames.is_empty(), !reply.is_stream());
            let mut bytes = Vec::new();
            frames.iter().for_each(|frame| frame.write(&mut bytes));
            assert!(std::str::from_utf8(&bytes).is_ok());
            assert!(reply.is_complete() && reply.into_body().is_err());
            true
        }
    }
}
