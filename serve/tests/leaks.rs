//! What requests leave behind in memory: bytes that are allocated when all are answered, counted and not estimated from the size of
//! the process. One test, because it counts the allocations of the process; the client and its threads are a part of it.

#[path = "../../tests/common/counting.rs"]
mod counting;
#[path = "../../tests/common/http_client.rs"]
mod http_client;
#[path = "../../tests/common/mixed_requests.rs"]
mod mixed_requests;
#[path = "server/running.rs"]
#[allow(dead_code)]
mod running;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_client::{ask, connect, eventually, post};
use mixed_requests::Mixed;
use running::{Running, options};
use serde_json::json;

/// Sends a number of requests, some of which are malformed or cancelled, and waits until nothing is left of them; the bytes that
/// are allocated then.
fn live_after(server: &Running, count: usize) -> usize {
    let next = AtomicUsize::new(0);
    let client = || {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= count {
                return;
            }
            let request = post("/v1/completions", &Mixed::new(number % 50).body());
            match number % 10 {
                3 => assert_eq!(ask(server.address, &request.replace(':', ";")).status, 400),
                6 => connect(server.address).write_all(request.as_bytes()).unwrap(),
                _ => assert_eq!(ask(server.address, &request).status, 200),
            }
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(client))));
    eventually(|| server.metric("bitnetc:num_requests_running") == 0.0);
    // Connections that have ended are dropped by their tasks, a moment later.
    let mut least = usize::MAX;
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        least = least.min(counting::live());
    }
    least
}

#[test]
fn requests_leave_nothing_allocated() {
    let mut many = options();
    many.limits.queue = 1000;
    many.models.cache_ram = Some(0);
    let server = Running::new(many).healthy();
    live_after(&server, 200);
    let before = live_after(&server, 200);
    let after = (0..4).map(|_| live_after(&server, 200)).min().unwrap_or(0);
    assert!(after <= before + 16_000, "{before} bytes are allocated after 400 requests, {after} after more");

    // The same allocator counts what `/tokenize` takes for a text of tokens of one character each, the client's copies included.
    for pieces in [false, true] {
        for text in ["q", "é", "😀"] {
            let content = text.repeat((256 << 10) / text.len());
            let body = json!({ "content": content, "with_pieces": pieces });
            let request = post("/tokenize", &body);
            let (answer, peak) = counting::peak_of(|| ask(server.address, &request));
            let sent = request.len() + answer.body.len();
            assert!(
                answer.status == 200 && peak < 48 * request.len() + 2 * sent,
                "{text}: {peak} bytes for {sent}"
            );
        }
    }
}
