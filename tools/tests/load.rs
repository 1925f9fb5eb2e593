//! The load generator against a server whose times are known.

#[path = "../../tests/common/completions_server.rs"]
#[allow(dead_code, unreachable_pub)]
mod completions_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bitnetc_runtime::machine::KeepGoing;
use bitnetc_tools::bench::table::TableStyle;
use bitnetc_tools::load::{
    Arrivals, BurstOptions, Ending, Length, LoadError, Mix, Target, Test, burst, report, run,
};
use completions_server::{Behaviour, start};

const MS: Duration = Duration::from_millis(1);

fn target(url: &str) -> Target {
    Target::new(url, None, Duration::from_secs(20), KeepGoing::default()).unwrap()
}

fn test(arrivals: Arrivals, requests: u32) -> Test {
    let mix = Mix { prompt: Length::Fixed(40), answer: Length::Fixed(10) };
    Test { arrivals, requests, mix, shared_prefix: 8, temperature: 0.0, seed: 1, model: None }
}

#[test]
fn it_measures_what_the_server_does() {
    let behaviour = Behaviour { first: 60 * MS, gap: 20 * MS, ..Behaviour::default() };
    let (url, seen) = start(behaviour);
    let mut told = 0;
    let outcome =
        run(&target(&url), &test(Arrivals::Closed(4), 12), &mut |done| told = told.max(done)).unwrap();
    assert_eq!((outcome.model.as_str(), outcome.answers().count(), outcome.interrupted), ("fake", 12, false));
    for answer in outcome.answers() {
        // Whenever this thread gets to read, a piece is not there before the server has sent it.
        let last = answer.ttft + answer.gaps.iter().sum::<Duration>();
        assert!(answer.ttft >= 60 * MS && last >= 240 * MS && answer.total >= last, "{answer:?}");
        assert_eq!(
            (answer.gaps.len(), answer.prompt_tokens, answer.cached_tokens, answer.generated_tokens),
            (9, 40, 10, 10)
        );
    }
    assert_eq!(seen.most_at_once.load(Ordering::SeqCst), 4);
    // Three rounds of four.
    assert!(outcome.duration >= 3 * 240 * MS);
    let json = report::json_test(&outcome);
    let rate = json["tokens_per_second"].as_f64().unwrap();
    assert!((rate - 120.0 / outcome.duration.as_secs_f64()).abs() < 1e-6);
    assert!(json["first_token_ms"]["p50"].as_f64().unwrap() >= 60.0);
    assert_eq!(
        json["gap_ms"]["max"],
        outcome.answers().flat_map(|a| &a.gaps).max().unwrap().as_secs_f64() * 1e3
    );

    // Requests are distinct, share the prefix that was asked for, and ask for what a measurement needs.
    let bodies = seen.bodies.lock().unwrap().clone();
    assert!(
        bodies
            .iter()
            .all(|body| body["ignore_eos"] == true && body["stream_options"]["include_usage"] == true)
    );
    let prompts: Vec<&Vec<_>> = bodies.iter().map(|body| body["prompt"].as_array().unwrap()).collect();
    assert!(prompts.iter().all(|p| p.len() == 40
        && p[..8] == prompts[0][..8]
        && p.iter().all(|id| id.as_u64().unwrap() < 100)));
    let mut rests: Vec<String> = prompts.iter().map(|p| format!("{:?}", &p[8..])).collect();
    rests.sort();
    rests.dedup();
    assert_eq!(rests.len(), 12);

    // A test with another number of clients sends other prompts, so that none is in a cache.
    let (url, again) = start(Behaviour::default());
    run(&target(&url), &test(Arrivals::Closed(2), 12), &mut |_| ()).unwrap();
    let key = |body: &serde_json::Value| body["seed"].as_u64();
    let (mut first, mut second): (Vec<_>, Vec<_>) =
        (bodies.iter().map(key).collect(), again.bodies.lock().unwrap().iter().map(key).collect());
    first.sort();
    second.sort();
    assert_ne!(first, second);
}

#[test]
fn refusals_and_broken_streams_are_counted() {
    let (url, _) = start(Behaviour { refuse_every: 4, cut_every: 5, ..Behaviour::default() });
    let outcome = run(&target(&url), &test(Arrivals::Poisson(400.0), 20), &mut |_| ()).unwrap();
    assert_eq!(outcome.refusals().into_iter().collect::<Vec<_>>(), [(429, 5)]);
    // The 20th is refused before it could be cut.
    assert_eq!((outcome.failures().count(), outcome.answers().count()), (3, 12));
    assert!(
        outcome.failures().all(|why| why.contains("connection ended")),
        "{:?}",
        outcome.failures().next()
    );
    let row = report::row(TableStyle::Markdown, &outcome);
    assert!(row.contains("| 400/s |") && row.contains("5×429, 3 failed"), "{row}");
    let columns = |text: &str| text.trim_end().split(',').count();
    assert_eq!(columns(&report::csv_row(&outcome)), columns(report::CSV_HEAD));
}

#[test]
fn an_interruption_keeps_what_is_complete() {
    let (url, _) = start(Behaviour { gap: 30 * MS, ..Behaviour::default() });
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    let keep_going = (move || !asked.load(Ordering::Relaxed)).into();
    let target = Target::new(&url, None, Duration::from_secs(20), keep_going).unwrap();
    let mut stopped = false;
    let outcome = run(&target, &test(Arrivals::Closed(2), 50), &mut |done| {
        if done >= 4 {
            stop.store(true, Ordering::Relaxed);
            stopped = true;
        }
    })
    .unwrap();
    assert!(stopped);
    assert!(outcome.interrupted && (4..10).contains(&outcome.answers().count()), "{}", outcome.endings.len());
    assert!(!outcome.endings.contains(&Ending::Interrupted));
}

#[test]
fn a_burst_shows_stalls() {
    // So long that no other delay is taken for it.
    let stall = 1000 * MS;
    let (url, _) = start(Behaviour { gap: 10 * MS, stall: Some((500, stall)), ..Behaviour::default() });
    let mut test = test(Arrivals::Closed(3), 1);
    test.mix.answer = Length::Fixed(2000);
    let options = BurstOptions { streams: 3, prompt_tokens: 600, repetitions: 2 };
    let found = burst(&target(&url), &test, options).unwrap();
    assert_eq!((found.alone.len(), found.beside.len(), found.ended_early), (2, 2, 0));
    assert!(found.alone.iter().chain(&found.beside).all(|&t| t >= stall && t < 3 * stall), "{found:?}");
    assert!(found.gaps_before.len() >= 2 * 3 * 15 && found.gaps_before.iter().all(|&gap| gap < stall / 2));
    let long = found.gaps_during.iter().filter(|&&gap| gap >= stall / 2).count();
    assert_eq!(long, 6, "one for each stream and repetition: {:?}", found.gaps_during);
    assert!(found.json()["gap_during_ms"]["max"].as_f64().unwrap() >= 500.0);
    assert!(found.tables(TableStyle::Markdown).contains("| with the streams |"));

    // Streams that are too short for it are said so.
    test.mix.answer = Length::Fixed(4);
    let error = burst(&target(&url), &test, options).unwrap_err();
    assert!(error.to_string().contains("longer answers"), "{error}");
}

#[test]
fn servers_that_are_none_are_errors() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let test = test(Arrivals::Closed(1), 1);
    let error = run(&target(&format!("http://{closed}")), &test, &mut |_| ()).unwrap_err();
    assert!(matches!(error, LoadError::Io { .. }), "{error}");
    for answer in [
        "",
        "SSH-2.0\r\n",
        "HTTP/1.1 200 OK\r\n\r\n{",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let error = run(&target(&format!("http://{address}")), &test, &mut |_| ()).unwrap_err();
        assert!(matches!(error, LoadError::Protocol { .. }), "{answer:?}: {error}");
        thread.join().unwrap();
    }
}
