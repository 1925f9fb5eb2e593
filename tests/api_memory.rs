//! What a request takes before anything is made for it: counted by the global allocator, and compared with what the server charges.

mod common;
#[path = "common/counting.rs"]
mod counting;
#[path = "api/service.rs"]
#[allow(unused_imports, dead_code, reason = "the checks of the fuzz target are for other tests")]
mod service;

use bitnetc::api::{self, Route};
use counting::peak_of;
use serde_json::json;

#[test]
fn a_request_takes_no_more_than_it_is_charged_and_choices_share_what_is_theirs() {
    let service = service::builtin(256);
    let chat = json!({ "messages": [{ "role": "user", "content": "a" }] }).to_string();
    // The template is compiled once, and what it can do is found out once.
    api::accept(&service, Route::ChatCompletions, chat.as_bytes()).unwrap();
    let objects = format!("[{}0]", r#"{"":0},"#.repeat(10_000));
    let lists = format!("[{}0]", "[0],".repeat(10_000));
    let wide = format!("[{}0]", r#"{"a":1,"b":[1,2,3],"c":"d"},"#.repeat(5_000));
    let long = format!("[{}0]", "0,".repeat(100_000));
    let text = format!("{:?}", "a, b [c] {d} ".repeat(20_000));
    for value in [objects, lists, wide, long, text] {
        let message = format!(r#"{{"messages":[{{"role":"user","content":"a","x":{value}}}]}}"#);
        let generate = format!(r#"{{"prompt":"a","options":{{"x":{value}}}}}"#);
        for (route, body) in [
            (Route::Completions, format!(r#"{{"prompt":"a","x":{value}}}"#)),
            (Route::LlamaCompletion, format!(r#"{{"prompt":"a","x":{value}}}"#)),
            (Route::ChatCompletions, message.clone()),
            (
                Route::ChatCompletions,
                format!(
                    r#"{{"messages":[{{"role":"user","content":"a"}}],"chat_template_kwargs":{{"x":{value}}}}}"#
                ),
            ),
            (Route::OllamaChat, message),
            (Route::OllamaGenerate, generate),
        ] {
            let charged = api::reading_bytes(route, body.as_bytes());
            let (result, peak) = peak_of(|| api::accept(&service, route, body.as_bytes()));
            drop(result);
            let shown = &body[..body.len().min(80)];
            println!("{route:?} {shown}: {peak} of {charged}, {:.2}", peak as f64 / charged as f64);
            // What a small request takes without all that.
            assert!(peak < charged + (1 << 20), "{route:?} {shown}: {peak} bytes, charged {charged}");
        }
    }

    let stops: Vec<String> = (0..16).map(|number| format!("{number:03}{}", "ab".repeat(2_000))).collect();
    let biases: serde_json::Map<_, _> = (0..64).map(|id: u32| (id.to_string(), json!(1))).collect();
    let prompts = vec![vec![1; 200]; 64];
    let of = |n: u32| {
        let body = json!({ "prompt": prompts, "n": n, "max_tokens": 1, "stop": stops, "logit_bias": biases });
        let body = body.to_string();
        let (call, peak) = peak_of(|| api::accept(&service, Route::Completions, body.as_bytes()).unwrap());
        assert_eq!(call.choices.len(), 64 * n as usize);
        peak
    };
    // What each of the 448 choices more takes: the sampler, the text, and what is held back for the longest stop string.
    let (one, eight) = (of(1), of(8));
    let each = (eight - one) / 448;
    assert!(each < 16 << 10, "{each} bytes a choice");
    // Places are taken before choices are made.
    let body = json!({ "prompt": prompts, "n": 8, "max_tokens": 1, "stop": stops }).to_string();
    let refuse = |texts, tokens| {
        assert_eq!((texts, tokens), (512, 512 * 201));
        Err(api::Refusal::new(429, "full", "full"))
    };
    let (refused, peak) =
        peak_of(|| api::accept_within(&service, Route::Completions, body.as_bytes(), &refuse));
    assert_eq!(refused.unwrap_err().status, 429);
    assert!(peak < one, "{peak} bytes");
}
