//! The page of `bitnetc explain` in a real browser: it draws, answers to clicks, asks no network for anything, takes no name of a
//! model for markup, and no error reaches the console; shares add up, words are explained, 400 pixels are enough. Without a browser the test says that it was skipped.

#[path = "../../tests/common/browser.rs"]
#[allow(dead_code, unreachable_pub)]
mod browser;
#[path = "../../tests/common/mod.rs"]
mod common;

use bitnetc::BuildOptions;
use bitnetc::load::{Source, load_source};
use bitnetc_frontend_gguf::testing::{MetaValue, TinyModel};
use bitnetc_runtime::map::MapMode;
use bitnetc_tools::explain::{Document, ExplainOptions, MeasureOptions, OpInfo, explain, measure, page};
use browser::{Browser, browser_path};

/// What would be seen if it were taken for markup.
const EVIL: &str =
    "</script><script>window.taken=1</script><img src=x onerror=\"window.taken=2\"><h1>{{data}}&amp;\u{2028}";

/// A model of three layers with a hostile name, its document, measured, and its page.
fn hostile_page(folder: &std::path::Path) -> (Document, std::path::PathBuf) {
    let mut model = TinyModel { layers: 3, ..TinyModel::default() }.writer();
    model.set("general.name", MetaValue::String(EVIL.to_owned()));
    let path = folder.join("<b onclick=window.taken=3>.gguf");
    std::fs::write(&path, model.build()).unwrap();
    let open = || Source::open(Some(&path), MapMode::Mapped).unwrap();
    let compile = BuildOptions { threads: Some(2), ..BuildOptions::default() };
    let loaded = load_source(open(), &common::options(bitnetc_ir::DType::F16)).unwrap();
    let options = MeasureOptions { threads: 2, position: 3, steps: 4, keep_going: (|| true).into() };
    let timings = measure(&loaded, &options).unwrap();
    let options = ExplainOptions { position: 3, texts: true, timings: Some(&timings) };
    let document = explain(&open(), &compile, &compile.target().unwrap(), &options).unwrap();
    let html = folder.join("report.html");
    std::fs::write(&html, page::page(&document).unwrap()).unwrap();
    (document, html)
}

/// Every column of shares of every table adds up to 100 %.
fn shares_add_up(b: &mut Browser) {
    let sums = b.evaluate(
        "JSON.stringify([...document.querySelectorAll('table')].flatMap((table) => {
            const titles = [...table.querySelectorAll('thead th')].map((th) => th.textContent);
            const columns = titles.flatMap((title, i) => (title === 'share' ? [i] : []));
            return columns.map((i) => [...table.querySelectorAll('tbody tr')]
                .map((row) => Number.parseFloat(row.children[i].textContent)).reduce((a, b) => a + b, 0));
        }))",
    );
    let sums: Vec<f64> = serde_json::from_str(sums.as_str().unwrap()).unwrap();
    assert!(!sums.is_empty() && sums.iter().all(|sum| (sum - 100.0).abs() < 1e-6), "{sums:?}");
}

/// Words of the field explain themselves to the keyboard, to the mouse and to a finger.
fn tooltips_answer(b: &mut Browser) {
    let shown = |b: &mut Browser| {
        b.evaluate("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(shown(b), "");
    b.evaluate(
        "[...document.querySelectorAll('.tile .term')].find((e) => e.textContent === 'roofline').focus()",
    );
    assert!(shown(b).contains("bandwidth"), "{}", shown(b));
    assert_eq!(b.evaluate("document.activeElement.getAttribute('aria-describedby')"), "tip");
    b.key("Escape");
    assert_eq!(shown(b), "");
    b.click(".tile .term");
    let text = shown(b);
    let at = b.evaluate("(() => { const r = document.getElementById('tip').getBoundingClientRect(); return r.left >= 0 && r.right <= innerWidth && r.top >= 0; })()");
    assert!(!text.is_empty() && at == true, "{text}");
    b.click("main h2");
    assert_eq!(shown(b), "");
    b.evaluate("document.querySelector('.bar > span').focus()");
    assert!(shown(b).contains(" %"), "{}", shown(b));
    b.key("Escape");
    // Every word that has to be known is explained somewhere on the first view.
    for word in ["roofline", "phase", "arena", "barrier", "dispatch", "KV cache", "multiply-add"] {
        let known = format!(
            "[...document.querySelectorAll('.term')].some((e) => e.textContent.startsWith({word:?}))"
        );
        assert_eq!(b.evaluate(&known), true, "{word}");
    }
}

/// Nanoseconds of a time as the page writes it.
fn nanoseconds(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').unwrap();
    let unit = ["ns", "µs", "ms", "s"].iter().position(|&name| name == unit).unwrap();
    number.parse::<f64>().unwrap() * 1e3_f64.powi(unit as i32)
}

/// The schedule with predicted times of these ops: attention of one token has a barrier inside, so that it is in two phases, and
/// both of its barriers are in the row after them and wait in the lane of each thread.
fn barriers_inside_ops_are_shown(b: &mut Browser, document: &Document, ops: &[OpInfo]) {
    let ops: Vec<&OpInfo> = ops.iter().filter(|op| !document.kinds[op.kind].kernels.is_empty()).collect();
    let rows = b.evaluate(
        "JSON.stringify([...document.querySelectorAll('table.phases tbody tr')]
            .map((row) => [row.cells[0].textContent, row.cells[2].textContent]))",
    );
    let rows: Vec<(String, String)> = serde_json::from_str(rows.as_str().unwrap()).unwrap();
    let mut found = rows.iter();
    let (mut phases, mut barriers, mut inner) = (0, 0, 0);
    for group in ops.split_inclusive(|op| op.barrier) {
        let inside = group.iter().filter(|op| op.inner_barrier).count();
        let first = group[0].phase + 1;
        let numbers = match inside {
            0 => first.to_string(),
            n => format!("{first}–{}", first + n as u32),
        };
        assert_eq!(found.next().unwrap().0, numbers, "{rows:?}");
        let count = inside + usize::from(group.last().unwrap().barrier);
        if count > 0 {
            let (name, time) = found.next().unwrap();
            let expected = count as f64 * document.machine.barrier_ns;
            assert!(
                name == "barrier" && (nanoseconds(time) / expected - 1.0).abs() < 0.01,
                "{time}: {rows:?}"
            );
        }
        (phases, barriers, inner) = (phases + inside + 1, barriers + count, inner + inside);
    }
    assert!(found.next().is_none() && inner > 0, "{rows:?}");
    let note = b.evaluate("document.querySelector('.toolbar .note').textContent");
    assert!(note.as_str().unwrap().starts_with(&format!("{phases} phases shown")), "{note}");
    let waits = b.evaluate("document.querySelectorAll('svg rect.wait').length").as_u64().unwrap();
    assert!(
        waits >= (barriers * document.machine.threads as usize) as u64,
        "{waits} for {barriers} barriers"
    );
}

#[test]
fn the_page_works_in_a_browser() {
    let Some(path) = browser_path() else {
        eprintln!("skipped: no Chromium on the path (install one, or set BITNETC_TEST_BROWSER)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (document, html) = hostile_page(folder.path());
    let mut b = Browser::start(&path);
    b.open(&html, "", (1400, 1000), "light");
    let text = |b: &mut Browser, selector: &str| {
        let found = b.evaluate(&format!("document.querySelector({selector:?})?.textContent ?? null"));
        found.as_str().unwrap_or_else(|| panic!("no element is {selector}")).to_owned()
    };
    let count = |b: &mut Browser, selector: &str| {
        b.evaluate(&format!("document.querySelectorAll({selector:?}).length")).as_u64().unwrap()
    };

    // Overview.
    assert_eq!(text(&mut b, "#name"), EVIL);
    assert_eq!(count(&mut b, "[role=tab]"), 6);
    let decode = document.entries.iter().find(|e| e.name == "decode").unwrap();
    let mut ops: Vec<&str> = decode
        .ops
        .iter()
        .map(|op| &document.kinds[op.kind])
        .filter(|k| !k.kernels.is_empty())
        .map(|k| k.op)
        .collect();
    ops.sort_unstable();
    ops.dedup();
    assert_eq!(count(&mut b, "tbody tr.pick"), ops.len() as u64);
    shares_add_up(&mut b);
    assert!(text(&mut b, "tbody").contains("barriers") && text(&mut b, "tbody").contains("dispatch"));
    b.screenshot("overview-light");
    tooltips_answer(&mut b);

    // Graph: layers fold and open, ops answer, the view moves.
    b.click("#tab-graph");
    let part = decode.parts.iter().position(|part| part.layer.is_some()).unwrap();
    let layer = &decode.parts[part];
    assert_eq!((layer.layer, layer.count), (Some(0), 3), "equal layers are folded");
    let outside: usize =
        decode.parts.iter().filter(|part| part.layer.is_none()).map(|part| part.length).sum();
    assert_eq!(count(&mut b, "g.node"), (layer.length + outside) as u64);
    assert!(text(&mut b, &format!("[data-part='{part}']")).contains("×3"));
    b.click(&format!("[data-part='{part}'] text"));
    assert_eq!(count(&mut b, "g.node"), outside as u64);
    b.click(&format!("[data-part='{part}'] text"));
    let index = layer.start
        + decode.ops[layer.start..].iter().position(|op| document.kinds[op.kind].op == "bitlinear").unwrap();
    b.click(&format!("[data-op='{index}'] .strong"));
    let side = text(&mut b, "aside.side");
    let kind = &document.kinds[decode.ops[index].kind];
    for part in [
        "bitlinear",
        &kind.operands[1].ty,
        "Measured, layer by layer",
        &document.kernels[kind.kernels[0]].name,
    ] {
        assert!(side.contains(part), "{part} in {side}");
    }
    assert_eq!(count(&mut b, "g.node.on"), 1);
    assert_eq!(count(&mut b, ".history i"), 3);
    b.screenshot("graph-light");
    let view =
        |b: &mut Browser| b.evaluate("document.querySelector('.canvas svg > g').getAttribute('transform')");
    let before = view(&mut b);
    b.wheel(".canvas svg", -240.0);
    let larger = view(&mut b);
    assert_ne!(before, larger);
    b.drag(".canvas svg", (60.0, 25.0));
    assert_ne!(larger, view(&mut b));

    // From an op to its kernel, with all three texts.
    b.click("aside button.chip");
    assert_eq!(
        text(&mut b, "[data-kernel][aria-pressed=true] .mono"),
        document.kernels[kind.kernels[0]].name
    );
    let listing = document.kernels[kind.kernels[0]].listing.as_ref().unwrap();
    assert_eq!(count(&mut b, ".pane"), 3);
    assert_eq!(text(&mut b, ".pane:nth-child(1) pre"), listing.kernel);
    assert_eq!(text(&mut b, ".pane:nth-child(3) pre"), listing.asm);
    assert!(listing.asm.contains("ret"));
    b.click(".toolbar label:nth-child(2)");
    assert_eq!(count(&mut b, ".pane"), 2);
    b.screenshot("kernels-light");

    // Memory: each value has a box, and says what it is.
    b.click("#tab-memory");
    let shown = |private: bool| {
        decode.values.iter().filter(|v| v.private == private && v.first < layer.start + layer.length).count()
    };
    assert!(count(&mut b, "g.life") as usize >= shown(false) && shown(false) > 3);
    b.click("g.life rect");
    let value = b.evaluate("document.querySelector('g.life.on').dataset.value");
    let value = decode.values.iter().find(|v| v.name == value).unwrap();
    assert!(text(&mut b, "aside.side").contains(&value.ty));
    b.screenshot("memory-light");
    b.click(".segments[aria-label='Which memory'] button:nth-child(2)");
    assert!(count(&mut b, "g.life") > 0);

    // Schedule: a lane for each thread, measured and predicted.
    b.click("#tab-schedule");
    assert!(text(&mut b, "svg").contains("thread 1"));
    assert!(count(&mut b, "g.lane") as usize > layer.length);
    b.click("g.lane rect");
    assert!(text(&mut b, "aside.side").contains("Threads"));
    b.screenshot("schedule-light");
    b.click(".segments[aria-label='Which times'] button:nth-child(1)");
    assert!(count(&mut b, "g.lane") > 0 && count(&mut b, "svg .barrier") > 0);
    assert!(count(&mut b, "table.phases tbody tr") > layer.length as u64 / 2);
    assert!(text(&mut b, "table.phases").contains("after phase 1"));
    shares_add_up(&mut b);
    barriers_inside_ops_are_shown(&mut b, &document, &decode.ops[layer.start..layer.start + layer.length]);
    b.evaluate(
        "(() => { const e = document.querySelector(\"select[aria-label='Which ops']\"); e.value = 'all'; e.dispatchEvent(new Event('change')); })()",
    );
    barriers_inside_ops_are_shown(&mut b, &document, &decode.ops);
    assert!(text(&mut b, ".toolbar .note").starts_with(&format!("{} phases shown", decode.barriers + 1)));

    // Passes: the text that each one changed.
    b.click("#tab-stages");
    let fuse = document.stages.iter().position(|s| s.pass == "fuse-norm-quant").unwrap();
    b.click(&format!("[data-stage='{fuse}']"));
    let diff = text(&mut b, "pre.diff");
    assert!(
        diff.contains("rms_norm_quant")
            && count(&mut b, "pre.diff .plus") > 0
            && count(&mut b, "pre.diff .minus") > 0
    );
    let lines = count(&mut b, "pre.diff span");
    b.click("pre.diff .gap");
    assert!(count(&mut b, "pre.diff span") > lines);
    b.screenshot("passes-light");

    // Another entry point, by keyboard another tab, another theme.
    b.click("[data-entry=prefill]");
    b.key("1");
    assert!(text(&mut b, ".tiles").contains("tokens"));
    assert!(b.evaluate("location.hash").as_str().unwrap().starts_with("#overview/prefill"));
    b.click("#theme");
    assert_eq!(b.evaluate("document.documentElement.dataset.theme"), "dark");

    for (scheme, size, name) in [("dark", (1400, 1000), "dark"), ("light", (400, 900), "narrow")] {
        for tab in ["overview", "graph", "memory", "schedule", "kernels", "stages"] {
            b.open(&html, &format!("{tab}/decode/{index}"), size, scheme);
            assert_eq!(
                text(&mut b, "[role=tab][aria-selected=true]").to_lowercase().starts_with(&tab[..1]),
                tab != "stages"
            );
            let over = b.evaluate("document.documentElement.scrollWidth - innerWidth").as_i64().unwrap();
            assert!(over <= 0, "{tab} is {over} pixels too wide at {size:?}");
            b.screenshot(&format!("{tab}-{name}"));
        }
    }
    // An address that means nothing shows the overview.
    b.open(&html, "%/x/999999", (900, 700), "light");
    assert_eq!(text(&mut b, "[aria-selected=true]"), "Overview");

    assert_eq!(b.evaluate("window.taken ?? null"), serde_json::Value::Null);
    assert_eq!(count(&mut b, "img, h1 script, main script, [onerror], [onclick]"), 0);
    assert_eq!(b.problems, Vec::<String>::new());
}
