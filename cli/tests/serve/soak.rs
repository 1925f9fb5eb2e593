//! Ten thousand requests to a server in a process of its own, whose memory is that of the server alone.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::http_client::{ask, connect, eventually, get, metric_in, post};
use crate::mixed_requests::Mixed;
use crate::process::Served;

/// Clients that ask at the same time.
const CLIENTS: usize = 64;

/// Sends the requests with these numbers: each fiftieth is malformed, each fifth is cancelled before it is answered.
fn run(address: SocketAddr, from: usize, to: usize) {
    let next = AtomicUsize::new(from);
    let client = || {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= to {
                return;
            }
            let request = post("/v1/completions", &Mixed::new(number % 300).body());
            if number.is_multiple_of(50) {
                let malformed =
                    "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n{";
                assert_eq!(ask(address, malformed).status, 400);
            } else if number % 5 == 1 {
                connect(address).write_all(request.as_bytes()).unwrap();
            } else {
                assert_eq!(ask(address, &request).status, 200);
            }
        }
    };
    std::thread::scope(|scope| (0..CLIENTS).for_each(|_| drop(scope.spawn(client))));
    let idle = |name: &str| metric_in(&ask(address, &get("/metrics")).text(), name) == 0.0;
    eventually(|| idle("bitnetc:num_requests_running") && idle("bitnetc:num_requests_waiting"));
    let slots = ask(address, &get("/slots")).json();
    assert!(slots.as_array().unwrap().iter().all(|slot| slot["is_processing"] == false), "{slots}");
}

#[test]
#[ignore = "minutes: .ci/soak runs it"]
fn ten_thousand_requests_leave_nothing() {
    let served =
        Served::new(&["--alias", "tiny", "--parallel", "4", "--max-queue", "1000", "--cache-ram", "1"])
            .healthy();
    let address: SocketAddr = served.address.parse().unwrap();
    let resident = || metric_in(&ask(address, &get("/metrics")).text(), "process_resident_memory_bytes");
    run(address, 0, 2_000);
    let before = resident();
    for to in (4_000..=10_000).step_by(2_000) {
        run(address, to - 2_000, to);
        println!("{to} requests: {:.1} MB", resident() / 1e6);
    }
    let after = resident();
    assert!(after <= 1.02 * before, "{before} bytes after 2,000 requests have become {after} after 10,000");
    served.signal("-TERM");
    assert_eq!(served.end().0, Some(0));
}
