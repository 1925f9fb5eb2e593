//! `bitnetc serve` as a process: what it says, what it takes, how it ends.
#![cfg(unix)]

#[path = "../../tests/common/signals.rs"]
#[allow(unreachable_pub)]
mod signals;

#[path = "../../tests/common/http_client.rs"]
mod http_client;
#[path = "../../tests/common/mixed_requests.rs"]
mod mixed_requests;
#[path = "serve/process.rs"]
mod process;
#[path = "serve/soak.rs"]
mod soak;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use process::{BINARY, Served, command};

fn output(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_server_says_where_it_is_and_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.txt");
    std::fs::write(&keys, "# ours\nsecret-one\n\nsecret-two\n").unwrap();
    let slots = folder.path().to_str().unwrap();
    let served = Served::new(&[
        "--parallel",
        "2",
        "--api-key-file",
        keys.to_str().unwrap(),
        "--api-key",
        "secret-three",
        "--metrics-key",
        "secret-four",
        "--allowed-hosts",
        "box.local",
        "--cors-origins",
        "https://a.example",
        "--max-queue",
        "8",
        "--queue-timeout",
        "30",
        "--max-connections",
        "64",
        "--max-body",
        "1",
        "--read-timeout",
        "10",
        "--write-timeout",
        "20",
        "--drain-timeout",
        "5",
        "--preload",
        "--max-models",
        "2",
        "--strict-model",
        "--log-requests",
        "json",
        "--slot-save-path",
        slots,
        "--sampling-defaults",
        "openai",
        "--max-step-ms",
        "100",
        "--cache-ram",
        "16",
        "--max-tokens-default",
        "16",
        "--max-choices",
        "2",
        "--alias",
        "small",
        "--host",
        "localhost",
        "--temp",
        "0.5",
    ])
    .healthy();
    assert!(served.get("/v1/models", "").starts_with("HTTP/1.1 401"));
    let models = served.get("/v1/models", "authorization: Bearer secret-two\r\n");
    assert!(models.starts_with("HTTP/1.1 200") && models.contains("\"small\""), "{models}");
    let body = r#"{"prompt":"ROMEO:","max_tokens":4,"temperature":0}"#;
    let completion = served.ask(&format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-api-key: secret-three\r\ncontent-length: \
         {}\r\n\r\n{body}",
        body.len()
    ));
    assert!(completion.contains("\"text\":\"  I\\nH"), "{completion}");
    assert!(served.get("/metrics", "x-api-key: secret-four\r\n").starts_with("HTTP/1.1 200"));
    served.signal("-TERM");
    let (code, said) = served.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("KV cache and buffers of 2 sequences of 256 tokens"), "{said}");
    // In this order, and each once.
    let order = ["small is ready: ", "serving small at http://127.0.0.1:", "shutting down", "shut down"];
    let places: Vec<_> = order.iter().map(|words| said.find(words)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{said}");
    let logged = said.lines().find(|line| line.contains("/v1/completions")).unwrap();
    let logged: serde_json::Value = serde_json::from_str(logged).unwrap();
    assert_eq!(
        (&logged["status"], &logged["new_tokens"], &logged["finish"]),
        (&200.into(), &4.into(), &"length".into())
    );
    assert!(!said.contains("secret") && !said.contains("ROMEO"), "{said}");
    assert_eq!(logged["peer"], "127.0.0.1");
    assert!(
        logged["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')),
        "{logged}"
    );
}

#[test]
fn a_server_is_asked_for_its_health_without_a_key() {
    let served =
        Served::new(&["--api-key", "secret", "--parallel", "1", "--max-queue", "0", "-c", "8192"]).healthy();
    let url = format!("http://{}", served.address);
    let port = served.address.rsplit(':').next().unwrap().to_owned();
    let up = output(&["health", &url]);
    assert_eq!((up.status.code(), up.stdout.len()), (Some(0), 0));
    assert_eq!(stderr(&up), format!("{} is up\n", served.address));
    assert_eq!(stderr(&output(&["-q", "health", "--ready", "--port", &port])), "");
    let mut of_environment = command(&["health", "--ready"]);
    let of_environment = of_environment.env("BITNETC_PORT", &port).output().unwrap();
    assert_eq!(stderr(&of_environment), format!("{} is ready\n", served.address));
    // The only sequence is taken, and nothing may wait: the server is up and takes nothing.
    let body = r#"{"prompt":"a","max_tokens":8000,"ignore_eos":true,"stream":true}"#;
    let mut stream = TcpStream::connect(&served.address).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx-api-key: secret";
    stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    stream.read_exact(&mut [0; 20]).unwrap();
    let full = output(&["health", "--ready", &url]);
    assert_eq!(full.status.code(), Some(1));
    assert_eq!(stderr(&full), format!("error: {} answers 503: queue full\n", served.address));
    assert_eq!(output(&["health", &url]).status.code(), Some(0));
    served.signal("-TERM");
    let begun = Instant::now();
    while !stderr(&output(&["health", "--ready", &url])).contains("answers 503: draining") {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    drop(stream);
    assert_eq!(served.end().0, Some(0));
    let gone = output(&["health", &url]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(stderr(&gone).contains("Connection refused"), "{}", stderr(&gone));
    let wrong = output(&["health", "ftp://127.0.0.1:1"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("it must begin with http:// or https://"), "{}", stderr(&wrong));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let served = Served::new(&["--log-requests", "text", "--log-prompts", "-c", "8192"]).healthy();
    let body = r#"{"prompt":"a","max_tokens":8000,"ignore_eos":true,"stream":true}"#;
    let mut stream = TcpStream::connect(&served.address).unwrap();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 20]).unwrap();
    served.signal("-INT");
    // One that comes with the first belongs to it.
    std::thread::sleep(Duration::from_millis(600));
    served.signal("-INT");
    let (code, said) = served.end();
    // Both may be over before the second is sent.
    assert!(code == Some(130) || code == Some(0), "{code:?} {said}");
}

#[test]
fn options_come_from_the_environment_and_from_llama_server() {
    let mut command = command(&["serve", "-np", "3", "--metrics", "-cb", "-cram", "-1"]);
    command
        .env("BITNETC_PARALEL", "2")
        .env("BITNETC_PORT", "0")
        .env("BITNETC_CTX_SIZE", "128")
        .env("BITNETC_API_KEY", "from-the-environment");
    let served = Served::of(command).healthy();
    let slots = served.get("/slots", "authorization: Bearer from-the-environment\r\n");
    assert_eq!(slots.matches("\"n_ctx\":128").count(), 3, "{slots}");
    served.signal("-TERM");
    let (code, said) = served.end();
    assert_eq!(code, Some(0));
    assert!(
        said.contains("BITNETC_PARALEL is not used") && said.contains("did you mean BITNETC_PARALLEL?"),
        "{said}"
    );
    assert!(said.contains("note: --metrics has no effect: /metrics is always there"), "{said}");
    let mut shown = process::command(&["config"]);
    let shown = shown.env("BITNETC_API_KEY", "from-the-environment").output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("BITNETC_API_KEY = (set)") && !shown.contains("from-the-environment"), "{shown}");
}

#[test]
fn what_cannot_be_is_said_before_anything_is_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (args, code, words) in [
        (&["--port", &port][..], 1, "the address is already in use"),
        (&["--host", "nowhere"], 2, "--host: nowhere is not an address"),
        (&["missing.gguf"], 1, "cannot open \"missing.gguf\""),
        (&["--alias", "a,b"], 2, "--alias has 2 names for 1 model"),
        (&["shakespeare-5m", "shakespeare-5m", "--port", "0"], 2, "two models are named shakespeare-5m"),
        (&["--api-key", ""], 2, "--api-key: a key is empty"),
        (&["--chat-template", "nosuch"], 2, "nosuch"),
        (&["--cors-origins", "a.example"], 2, "--cors-origins: expected an origin"),
        (&["--allowed-hosts", "https://a.example"], 2, "--allowed-hosts: expected a name"),
        (&["--api-key-file", "/dev/null"], 2, "--api-key-file: \"/dev/null\" has no key"),
        (&["--slot-save-path", "/nowhere"], 2, "--slot-save-path: /nowhere is not a directory"),
        (&["--tls-cert", "a.pem"], 2, "--tls-key"),
        (&["--tls-cert", "a.pem", "--tls-key", "a.pem", "--port", "0"], 1, "cannot use \"a.pem\" for TLS"),
        (&["--read-timeout", "never"], 2, "expected a number of seconds"),
        (&["--embedding"], 2, "there are no embeddings"),
    ] {
        let refused = output(&[&["serve"], args].concat());
        assert_eq!(refused.status.code(), Some(code), "{args:?}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(words), "{args:?}: {}", stderr(&refused));
    }
    assert!(stderr(&output(&["serve", "--port", &port])).contains("hint: another port: --port "));
}

#[test]
fn a_model_that_cannot_be_loaded_at_the_start_is_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.gguf");
    std::fs::write(&broken, b"GGUF and nothing more").unwrap();
    let broken = broken.to_str().unwrap();
    for args in [&[broken][..], &["shakespeare-5m", broken, "--preload"]] {
        let refused = output(&[&["serve", "--port", "0", "-c", "64"], args].concat());
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{args:?}: {}", stderr(&refused));
        let said = stderr(&refused);
        assert_eq!(said.matches("broken.gguf").count(), 1, "{said}");
    }
}

/// `timeout` signals a process and its group; shells have what they start in the background ignore SIGINT.
#[test]
fn signals_that_come_together_are_one_and_are_heard_in_the_background() {
    let mut shell = Command::new("sh");
    let script = "trap '' INT; exec \"$0\" serve --port 0 -c 256 -t 1";
    shell.args(["-c", script, BINARY]).env_remove("BITNETC_MODEL").env_remove("BITNETC_API_KEY");
    shell.env("BITNETC_CONFIG", "").stdin(Stdio::null());
    let served = Served::of(shell).healthy();
    let id = served.child.id();
    let both = Command::new("sh").args(["-c", &format!("kill -INT {id}; kill -INT {id}")]).status();
    assert!(both.unwrap().success());
    let (code, said) = served.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("shut down"), "{said}");
}

#[test]
fn an_empty_variable_is_an_empty_key_and_all_addresses_are_shown_as_such() {
    for variable in ["BITNETC_API_KEY", "BITNETC_METRICS_KEY"] {
        let mut with_empty = command(&["serve", "--port", "0"]);
        let refused = with_empty.env(variable, "").output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        assert!(stderr(&refused).contains(&format!("{variable}: a key is empty")), "{}", stderr(&refused));
    }
    let served =
        Served::of(command(&["serve", "--port", "0", "-c", "64", "-t", "1", "--host", "0.0.0.0"])).healthy();
    assert!(served.address.starts_with("0.0.0.0:"), "{}", served.address);
    assert!(served.get("/v1/models", "").starts_with("HTTP/1.1 200"));
    served.signal("-TERM");
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn a_server_with_https_is_measured_if_its_certificate_is_trusted() {
    let data = |name: &str| format!("{}/../tests/data/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (certificate, key) = (data("server.pem"), data("server.key"));
    let args = [
        "-q",
        "bench",
        "serve",
        "--clients",
        "1",
        "--requests",
        "2",
        "--prompt-tokens",
        "8",
        "--output-tokens",
        "4",
        "--json",
    ];
    let server = ["--", "-c", "64", "-t", "1", "--tls-cert", &certificate, "--tls-key", &key];
    let with = |roots: &str| {
        let mut command = command(&[&args[..], &server].concat());
        command.env("SSL_CERT_FILE", data(roots)).env_remove("SSL_CERT_DIR").output().unwrap()
    };
    let measured = with("ca.pem");
    assert!(measured.status.success(), "{}", stderr(&measured));
    let document: serde_json::Value = serde_json::from_slice(&measured.stdout).unwrap();
    assert!(document["url"].as_str().unwrap().starts_with("https://127.0.0.1:"), "{document}");
    assert_eq!(document["tests"][0]["requests"], 2, "{document}");
    // Somebody else's authority.
    let refused = with("server.pem");
    assert!(!refused.status.success() && stderr(&refused).contains("certificate"), "{}", stderr(&refused));
}

#[test]
fn help_has_examples() {
    let help = output(&["serve", "--help"]);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert_eq!(help.status.code(), Some(0));
    for words in [
        "bitnetc serve 2b-4t other.gguf",
        "--drain-timeout",
        "[env: BITNETC_PARALLEL=",
        "--sampling-defaults",
    ] {
        assert!(text.contains(words), "{words}");
    }
}
