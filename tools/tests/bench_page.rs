//! The page of `bitnetc bench` in a real browser: it draws what was measured, two runs side by side, asks no network for
//! anything and takes no name for markup. Without a browser the test says that it was skipped.

#[path = "../../tests/common/browser.rs"]
#[allow(dead_code, unreachable_pub)]
mod browser;

use bitnetc_tools::bench::compare::{compare_all, json as comparison_json, series};
use bitnetc_tools::bench::page::page;
use browser::{Browser, browser_path};
use serde_json::{Value, json};

/// What would be seen if it were taken for markup.
const EVIL: &str =
    "</script><script>window.taken=1</script><img src=x onerror=\"window.taken=2\">{{data}}&amp;";

fn test(name: &str, depth: u64, threads: u64, chunk: u64, speed: f64) -> Value {
    let generates = name.starts_with("tg");
    let samples: Vec<f64> = (0..5).map(|i| speed * (1.0 + 0.002 * f64::from(i))).collect();
    let limits = json!({ "read_bytes_per_second": 40e9, "int8_macs_per_second": 800e9 });
    json!({
        "test": name,
        "threads": threads,
        "depth": depth,
        "chunk": chunk,
        "model": EVIL,
        "options": { "head": "q8", "weights": EVIL },
        "tokens_per_second": samples.iter().sum::<f64>() / 5.0,
        "stddev": 0.1,
        "samples": samples,
        "bytes_per_token": if generates { 870_000_000 } else { 9_000_000 },
        "macs_per_token": 2_400_000_000u64,
        "limit": if generates { "bandwidth" } else { "int8" },
        "limit_value": if generates { 40e9 } else { 800e9 },
        "limit_samples": vec![limits; 6],
        "share_of_limit": 0.7,
        "share_paired": 0.71,
        "prompt_tokens": if generates { 0 } else { 512 },
        "generated_tokens": if generates { 128 } else { 0 },
        "weight_bytes": 900_000_000,
        "token_latency_ms": if generates { json!({ "p50": 30.0, "p90": 33.5, "p99": 41.0, "max": 65.0 }) } else { Value::Null },
    })
}

fn report(factor: f64) -> Value {
    let mut tests = Vec::new();
    for threads in [1, 2] {
        for depth in [0, 512, 2048] {
            let slow = 1.0 + depth as f64 / 8000.0;
            tests.push(test("pp512", depth, threads, 128, factor * 90.0 * threads as f64 / slow));
            tests.push(test("tg128", depth, threads, 128, factor * 16.0 * (threads as f64).sqrt() / slow));
        }
        tests.push(test("pp512", 0, threads, 64, factor * 80.0 * threads as f64));
    }
    json!({
        "schema": "bitnetc.bench/2",
        "machine": {
            "cpu": EVIL, "target": "x86_64+avx2", "threads": 2, "l1d_bytes": 32768, "l2_bytes": 1 << 20,
            "last_cache_bytes": 32 << 20, "memory_bytes": 8u64 << 30, "os": "linux",
        },
        "build": { "version": "0.1.0", "profile": "release", "date": "2026-11-30" },
        "buffer_bytes": 1 << 30,
        "limits": [
            { "threads": 1, "read_bytes_per_second": 22e9, "int8_macs_per_second": 410e9, "f32_macs_per_second": 90e9 },
            { "threads": 2, "read_bytes_per_second": 40e9, "int8_macs_per_second": 800e9, "f32_macs_per_second": 180e9 },
        ],
        "tests": tests,
    })
}

fn compared() -> (Value, Value) {
    let (before, mut now) = (report(1.0), report(1.1));
    let all = |report: &Value| -> Vec<_> {
        report["tests"].as_array().unwrap().iter().map(|test| series(test).unwrap()).collect()
    };
    let found = compare_all(&all(&before), &all(&now), 0.03);
    now["comparison"] = comparison_json(&found);
    now["not_compared"] = json!(found.not_compared);
    (before, now)
}

#[test]
fn the_page_works_in_a_browser() {
    let Some(path) = browser_path() else {
        eprintln!("skipped: no Chromium on the path (install one, or set BITNETC_TEST_BROWSER)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (before, now) = compared();
    let write = |name: &str, report: &Value, baseline: Option<&Value>| {
        let file = folder.path().join(name);
        std::fs::write(&file, page(report, baseline).unwrap()).unwrap();
        file
    };
    let two = write("two.html", &now, Some(&before));
    let one = write("one.html", &before, None);
    let mut single = before.clone();
    single["tests"] = json!([test("tg128", 0, 2, 128, 20.0)]);
    let single = write("single.html", &single, None);
    let mut none = before.clone();
    none["tests"] = json!([]);
    let none = write("none.html", &none, None);

    let mut b = Browser::start(&path);
    let text = |b: &mut Browser, selector: &str| {
        let found = b.evaluate(&format!("document.querySelector({selector:?})?.textContent ?? null"));
        found.as_str().unwrap_or_else(|| panic!("no element is {selector}")).to_owned()
    };
    let count = |b: &mut Browser, selector: &str| {
        b.evaluate(&format!("document.querySelectorAll({selector:?}).length")).as_u64().unwrap()
    };
    let fits = |b: &mut Browser, what: &str| {
        let over = b.evaluate("document.documentElement.scrollWidth - innerWidth").as_i64().unwrap();
        assert!(over <= 0, "{what} is {over} pixels too wide");
    };

    // One run: every test is a point of the roofline and of each of the three courses.
    b.open(&one, "", (1400, 1000), "light");
    assert_eq!(text(&mut b, "#name"), EVIL);
    let tests = before["tests"].as_array().unwrap().len() as u64;
    assert_eq!(count(&mut b, "[data-chart=roofline] .point"), tests);
    assert_eq!(count(&mut b, "[data-chart=roofline] .limit"), 2);
    for field in ["depth", "threads", "chunk"] {
        assert_eq!(count(&mut b, &format!("[data-over={field}] .point")), tests, "{field}");
        assert!(count(&mut b, &format!("[data-over={field}] path.line")) > 0, "{field}");
    }
    assert_eq!(count(&mut b, "[data-chart=percentiles] .rail"), 6);
    assert_eq!(count(&mut b, "[data-chart=comparison]"), 0);
    assert_eq!(count(&mut b, "table tbody tr"), tests);
    // The tiles are of the first tests, and a note gives their number.
    assert_eq!(count(&mut b, ".tiles .tile"), 8);
    assert_eq!(
        text(&mut b, ".tiles + .note"),
        format!("The first 8 of {tests} tests; the charts show all of them.")
    );
    b.screenshot("bench-one-light");

    // Two runs: a pair of bars with all samples for each test, with its paired ratio.
    b.open(&two, "", (1400, 1000), "light");
    assert_eq!(count(&mut b, "[data-chart=comparison] .rail"), 2 * tests);
    assert_eq!(count(&mut b, "[data-chart=comparison] .rail > b"), 10 * tests);
    let comparison = text(&mut b, "[data-chart=comparison]");
    assert!(comparison.contains("1.100×, paired 1.100×") && comparison.contains("faster"), "{comparison}");
    assert_eq!(count(&mut b, "[data-chart=roofline] .dot.old"), tests);
    assert_eq!(count(&mut b, "[data-chart=percentiles] .rail"), 12);
    // A point explains itself to the keyboard.
    b.evaluate("document.querySelector('[data-over=depth] .point').focus()");
    let tip = text(&mut b, "#tip:not([hidden])");
    assert!(tip.contains("tokens/s") && tip.contains("bandwidth"), "{tip}");
    b.key("Escape");
    assert_eq!(count(&mut b, "#tip:not([hidden])"), 0);
    b.evaluate("[...document.querySelectorAll('.term')].find((e) => e.textContent.toLowerCase() === 'roofline').focus()");
    assert!(text(&mut b, "#tip:not([hidden])").contains("bandwidth"));
    b.click("#theme");
    assert_eq!(b.evaluate("document.documentElement.dataset.theme"), "dark");
    b.screenshot("bench-two-dark");

    for (file, name) in [(&two, "two"), (&single, "single"), (&none, "none")] {
        b.open(file, "", (400, 900), "light");
        fits(&mut b, name);
        b.screenshot(&format!("bench-{name}-narrow"));
    }
    b.open(&single, "", (1000, 800), "dark");
    assert!(text(&mut b, "main").contains("takes a list"));
    assert_eq!(count(&mut b, "[data-over=depth] .point"), 1);
    assert_eq!((count(&mut b, ".tiles .tile"), count(&mut b, ".tiles + .note")), (1, 0));
    b.open(&none, "", (1000, 800), "dark");
    assert!(text(&mut b, "main").contains("No test was measured"));

    assert_eq!(b.evaluate("window.taken ?? null"), Value::Null);
    assert_eq!(count(&mut b, "img, h1 script, main script, [onerror], [onclick]"), 0);
    assert_eq!(b.problems, Vec::<String>::new());
}
