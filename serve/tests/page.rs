//! The chat page in a real browser, in front of a server that answers as the test wants: it sends, streams, stops, keeps, edits; what
//! models write stays text; failures come in words; 400 pixels and a keyboard are enough. Without a browser the test says that it
//! was skipped.

#[path = "../../tests/common/browser.rs"]
#[allow(dead_code, unreachable_pub)]
mod browser;
#[path = "page/fake.rs"]
mod fake;
#[path = "../../tests/common/fake_server.rs"]
#[allow(unreachable_pub)]
mod fake_server;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use browser::{Browser, Modifier, browser_path};
use fake::{EVIL, Seen};
use serde_json::{Value, json};

const WIDE: (u32, u32) = (1200, 900);
const NARROW: (u32, u32) = (400, 800);

/// A browser with the page of a server that has seen nothing.
struct Page {
    b: Browser,
    address: String,
    seen: std::sync::Arc<Seen>,
}

impl Page {
    /// The page, or a message that there is no browser.
    fn open() -> Option<Self> {
        let Some(path) = browser_path() else {
            eprintln!("skipped: no Chromium on the path (install one, or set BITNETC_TEST_BROWSER)");
            return None;
        };
        let (address, seen) = fake::start();
        let mut page = Self { b: Browser::start(&path), address, seen };
        page.load(WIDE, "light");
        Some(page)
    }

    fn load(&mut self, size: (u32, u32), scheme: &str) {
        self.b.open_address(&format!("{}/", self.address), size, scheme);
        self.wait("document.querySelector('#model option').value === 'first' || !document.getElementById('notice').hidden");
    }

    fn value(&mut self, expression: &str) -> Value {
        self.b.evaluate(expression)
    }

    /// Waits until an expression is true.
    fn wait(&mut self, expression: &str) {
        let begun = Instant::now();
        while self.value(expression) != true {
            assert!(begun.elapsed() < Duration::from_secs(60), "never: {expression}\n{}", self.text("body"));
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    /// The text of the first element, as it is shown.
    fn text(&mut self, selector: &str) -> String {
        let found = self.value(&format!("document.querySelector({selector:?})?.innerText ?? null"));
        found.as_str().unwrap_or_else(|| panic!("no element is {selector}")).to_owned()
    }

    fn count(&mut self, selector: &str) -> u64 {
        self.value(&format!("document.querySelectorAll({selector:?}).length")).as_u64().unwrap()
    }

    fn focused(&mut self) -> String {
        let found = self.value("(() => { const e = document.activeElement; return e.id || e.getAttribute('aria-label') || e.textContent; })()");
        found.as_str().unwrap_or_default().to_owned()
    }

    fn send(&mut self, text: &str) {
        self.b.click("#prompt");
        self.b.write(text);
        self.b.key("Enter");
    }

    /// Sends a message and waits for the end of its answer.
    fn ask(&mut self, text: &str) -> String {
        let before = self.count(".message");
        self.send(text);
        self.wait(&format!("document.querySelectorAll('.message').length === {}", before + 2));
        self.idle();
        self.answer()
    }

    fn idle(&mut self) {
        self.wait("document.getElementById('stop').hidden");
    }

    /// The last answer.
    fn answer(&mut self) -> String {
        self.text(".message:last-child > .body")
    }

    fn start_over(&mut self) {
        self.b.click("#new");
        assert_eq!(self.count(".message"), 0);
    }

    /// Nothing went wrong in the page but what the test asked for.
    fn end(&mut self, expected: &[&str]) {
        assert_eq!(self.value("window.taken ?? null"), Value::Null);
        let own = format!("request for {}", self.address);
        let problems: Vec<&String> = (self.b.problems.iter())
            .filter(|p| !p.starts_with(&own) && !p.starts_with("request for data:image/svg"))
            .filter(|p| !expected.iter().any(|e| p.contains(e)))
            .collect();
        assert!(problems.is_empty(), "{problems:?}");
    }
}

#[test]
fn it_sends_streams_stops_edits_and_keeps() {
    let Some(mut p) = Page::open() else { return };
    assert_eq!(p.focused(), "prompt");
    assert_eq!(p.ask("Grüße, 世界"), "answer to Grüße, 世界");
    let asked = p.seen.last().body;
    assert_eq!(asked["messages"], json!([{ "role": "user", "content": "Grüße, 世界" }]));
    assert_eq!((&asked["stream"], &asked["stream_options"]["include_usage"]), (&json!(true), &json!(true)));
    assert_eq!((&asked["model"], &asked["temperature"]), (&json!("first"), &Value::Null));
    let stats = p.text(".message:last-child .stats");
    for part in ["12 tokens", "23.5 tokens/s", "prompt 40 (30 cached)", "first token after"] {
        assert!(stats.contains(part), "{stats}");
    }
    assert_eq!(p.text("#chats .title"), "Grüße, 世界");

    // Shift+Enter makes a line; the conversation so far is sent.
    p.b.click("#prompt");
    p.b.write("two");
    p.b.key_with("Enter", Modifier::Shift);
    p.b.write("lines");
    p.b.key("Enter");
    p.wait("document.querySelectorAll('.message').length === 4");
    p.idle();
    let asked = p.seen.last().body;
    assert_eq!(asked["messages"].as_array().unwrap().len(), 3);
    assert_eq!(asked["messages"][2]["content"], "two\nlines");

    // An answer is stopped by key and by button; the server hears of it, the text stays.
    for (left, by_key) in [(1, true), (2, false)] {
        p.send("slow");
        p.wait("document.querySelector('.message:last-child > .body').textContent.includes('word5')");
        assert_eq!(p.value("document.getElementById('log').getAttribute('aria-busy')"), "true");
        if by_key {
            p.b.key("Escape")
        } else {
            p.b.click("#stop")
        }
        p.idle();
        assert!(p.answer().starts_with("word0 word1") && p.text(".message:last-child .notes") == "Stopped.");
        let begun = Instant::now();
        while p.seen.left.load(Ordering::SeqCst) < left {
            assert!(begun.elapsed() < Duration::from_secs(60), "the stream was not ended");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(p.focused(), "prompt");
    }

    // Regenerating asks the same again; editing replaces the question and what follows it.
    let before = p.count(".message");
    p.b.click(".message:last-child [data-do=regenerate]");
    p.wait("!document.getElementById('stop').hidden");
    p.b.key("Escape");
    p.idle();
    assert_eq!((p.count(".message"), p.seen.last().body["messages"].as_array().unwrap().len()), (before, 7));
    p.b.click(".message:nth-child(3) [data-do=edit]");
    assert_eq!(p.value("document.activeElement.value"), "two\nlines");
    p.value("document.activeElement.select()");
    p.b.write("changed");
    p.b.key("Enter");
    p.wait("document.querySelectorAll('.message').length === 4");
    p.idle();
    assert_eq!(p.answer(), "answer to changed");
    assert_eq!(p.seen.last().body["messages"].as_array().unwrap().len(), 3);

    // A new page has the same conversation, and the other one.
    p.start_over();
    p.ask("second conversation");
    p.load(WIDE, "light");
    assert_eq!((p.count("#chats li"), p.answer()), (2, "answer to second conversation".to_owned()));
    p.b.click("#chats li:not(.open) .title");
    assert_eq!((p.count(".message"), p.answer()), (4, "answer to changed".to_owned()));
    // An answer under way is kept as far as it came.
    p.send("slow");
    p.wait("document.querySelector('.message:last-child > .body').textContent.includes('word9')");
    p.load(WIDE, "light");
    assert!(p.answer().contains("word5"), "{}", p.answer());

    // Renamed, deleted, exported, imported.
    p.b.click("#chats li.open [aria-label^=Rename]");
    p.value("document.activeElement.select()");
    p.b.write("a name");
    p.b.key("Enter");
    p.wait("document.querySelector('#chats li.open .title').textContent === 'a name'");
    p.value("window.saved = new Promise((done) => { URL.createObjectURL = (blob) => { blob.text().then(done); return '#'; }; }); true");
    p.b.click("#chats li.open [aria-label^=Export]");
    let saved: Value = serde_json::from_str(p.value("window.saved").as_str().unwrap()).unwrap();
    assert_eq!((&saved["schema"], &saved["title"]), (&json!("bitnetc.chat/1"), &json!("a name")));
    assert_eq!(saved["messages"].as_array().unwrap().len(), 6);
    p.b.click("#chats li.open [aria-label^=Delete]");
    p.b.click("#ask-ok");
    p.wait("document.querySelectorAll('#chats li').length === 1");
    assert_eq!(
        p.value("Object.keys(localStorage).filter((key) => key.startsWith('bitnetc.chat.')).length"),
        1
    );
    let import = |text: &str| {
        format!(
            "(() => {{ const files = new DataTransfer(); files.items.add(new File([{}], 'x.json')); const input = document.getElementById('import-file');\
            input.files = files.files; input.dispatchEvent(new Event('change')); }})()",
            json!(text)
        )
    };
    p.value(&import(&saved.to_string()));
    p.wait("document.querySelectorAll('.message').length === 6 && document.querySelector('#chats li.open .title').textContent === 'a name'");
    p.value(&import("{}"));
    p.wait("!document.getElementById('notice').hidden");
    assert!(p.text("#notice").contains("x.json cannot be imported"));
    p.end(&[]);
}

#[test]
fn what_models_write_stays_text() {
    let Some(mut p) = Page::open() else { return };
    // The names of models and versions, a question, a title, an answer, an error.
    assert_eq!(p.value("document.querySelector('#model').options[1].text.includes('<img src=x')"), true);
    p.ask("evil");
    let answer = p.value("document.querySelector('.message:last-child > .body').textContent");
    assert_eq!(answer.as_str().unwrap().matches("<img src=x onerror=").count(), 7);
    assert_eq!(p.count("#log img, #log script, #log h1, #log iframe, [onerror], [onclick], #side img"), 0);
    let links = p.value(
        "JSON.stringify([...document.querySelectorAll('#log a')].map((a) => [a.protocol, a.rel, a.target]))",
    );
    let links: Vec<[String; 3]> = serde_json::from_str(links.as_str().unwrap()).unwrap();
    assert!(
        !links.is_empty()
            && links.iter().all(|[protocol, rel, target]| {
                protocol == "https:"
                    && rel.contains("noopener")
                    && rel.contains("noreferrer")
                    && target == "_blank"
            }),
        "{links:?}"
    );
    p.ask(EVIL);
    assert_eq!(p.text(".message:nth-last-child(2) > .body").replace('\n', "\u{2028}"), EVIL);
    p.ask("evil error");
    assert!(p.text(".message:last-child .error").starts_with("</script>"));
    p.load(WIDE, "light");
    assert_eq!(p.count("#log img, #log script, #side img, #side script"), 0);

    // What is Markdown becomes elements.
    p.start_over();
    p.ask("rich");
    for (selector, text) in [
        (".level-1", "One"),
        ("strong", "strong"),
        ("em", "slanted"),
        ("del", "gone"),
        (".message p code", "code"),
        ("ol > li:nth-child(2) > ul > li > ul > li", "innermost"),
        ("blockquote p", "quoted"),
        ("tbody td", "a|b"),
        ("tbody td.right code", "x|y"),
        (".code pre", "fn main() { let x = \"<b>\"; } // no"),
        (".code-string", "\"<b>\""),
        (".code-comment", "// no"),
        ("li.task", "☑ done"),
        (".body > p:last-child", "last"),
    ] {
        assert_eq!(p.text(selector).trim_end(), text, "{selector}");
    }
    assert_eq!(
        p.value("JSON.stringify([...document.querySelectorAll('#log a')].map((a) => a.href))"),
        r#"["https://example.com/a?b=c","https://example.org/bare"]"#
    );
    assert_eq!((p.count("#log hr"), p.count("#log p br")), (1, 1));
    p.b.screenshot("serve-chat");
    // The copy button takes the code, not what is around it.
    p.value("navigator.clipboard.writeText = async (text) => { window.copied = text; }; true");
    p.b.click(".code-head button");
    p.wait("document.querySelector('.code-head button').textContent === 'Copied'");
    assert_eq!(p.value("window.copied"), "fn main() { let x = \"<b>\"; } // no");

    // Hostile shapes are drawn in time.
    p.start_over();
    let begun = Instant::now();
    p.ask("hard");
    assert!(p.answer().ends_with("the end"));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    p.end(&["status of 400"]);
}

#[test]
fn failures_come_in_words_and_settings_are_sent() {
    let Some(mut p) = Page::open() else { return };
    let error = |p: &mut Page, text: &str| {
        p.ask(text);
        p.text(".message:last-child .error")
    };
    assert_eq!(error(&mut p, "busy"), "The server is busy: its queue is full. Try again in 7 seconds.");
    assert_eq!(error(&mut p, "cut"), "The connection ended before the answer was complete.");
    assert_eq!(p.answer(), "half an");
    assert_eq!(error(&mut p, "fails"), "the logits are not numbers");
    // Where the context is small the oldest messages are left out, and the page says so.
    let before = p.seen.count();
    assert_eq!(p.ask("small context"), "answer to small context");
    assert!(p.seen.count() > before + 1);
    assert!(p.text(".message:last-child .notes").starts_with("The context was full: the oldest"));
    assert_eq!(p.seen.last().body["messages"][0]["role"], "user");

    // Reasoning can be unfolded, and is not sent back.
    p.start_over();
    assert_eq!(p.ask("think"), "Considered.");
    assert_eq!(p.value("document.querySelector('.reasoning').open"), false);
    p.b.click(".reasoning summary");
    assert_eq!(p.text(".reasoning .body"), "I consider it.");
    assert_eq!(p.text(".reasoning em"), "consider");

    // Settings.
    p.b.click("#settings-open");
    assert_eq!(p.value("document.getElementById('set-temperature').placeholder"), "0.8");
    for (id, text) in [
        ("system", "Be brief."),
        ("set-temperature", "0.25"),
        ("set-top_k", "7"),
        ("set-seed", "42"),
        ("set-max_tokens", "9"),
        ("set-min_p", "5"),
    ] {
        p.b.click(&format!("#{id}"));
        p.b.write(text);
    }
    p.b.key("Escape");
    p.ask("again");
    let body = p.seen.last().body;
    assert_eq!(body["messages"][0], json!({ "role": "system", "content": "Be brief." }));
    assert_eq!(
        (&body["temperature"], &body["top_k"], &body["seed"], &body["max_tokens"]),
        (&json!(0.25), &json!(7), &json!(42), &json!(9))
    );
    assert!(
        body.get("min_p").is_none() && body.get("top_p").is_none(),
        "what is out of range or empty is not sent"
    );
    p.load(WIDE, "light");
    p.ask("after reload");
    let body = p.seen.last().body;
    assert_eq!((&body["temperature"], &body["messages"][0]["role"]), (&json!(0.25), &json!("system")));
    p.b.click("#settings-open");
    p.b.click("#reset");
    p.b.key("Escape");
    p.ask("defaults");
    assert!(p.seen.last().body.get("temperature").is_none());

    // A key: asked for in words, kept until the tab is closed, sent.
    *p.seen.key.lock().unwrap() = Some("sesame".to_owned());
    assert_eq!(error(&mut p, "no key"), "The server wants an API key: set it in Settings.");
    p.load(WIDE, "light");
    assert!(p.text("#notice").contains("API key"));
    p.b.click("#settings-open");
    p.b.click("#key");
    p.b.write("sesame");
    p.b.key("Escape");
    p.wait("document.getElementById('notice').hidden");
    p.ask("with a key");
    assert_eq!(p.seen.last().key.as_deref(), Some("Bearer sesame"));
    assert_eq!(p.value("JSON.stringify(localStorage).includes('sesame')"), false);
    *p.seen.key.lock().unwrap() = None;

    // Storage that is full: said, and the page goes on.
    p.value(
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }; true",
    );
    assert_eq!(p.ask("more"), "answer to more");
    assert!(p.text("#notice").contains("storage is full"), "{}", p.text("#notice"));
    p.end(&["status of 429", "status of 400", "status of 401"]);
}

#[test]
fn a_narrow_window_and_a_keyboard_are_enough() {
    let Some(mut p) = Page::open() else { return };
    p.ask("rich");
    p.ask(&"wide".repeat(60));
    for (size, scheme) in [(WIDE, "light"), (WIDE, "dark"), (NARROW, "light"), (NARROW, "dark")] {
        p.load(size, scheme);
        let over = p.value("Math.max(document.documentElement.scrollWidth - innerWidth, document.getElementById('scroll').scrollWidth - document.getElementById('scroll').clientWidth)");
        assert!(over.as_i64().unwrap() <= 0, "{over} pixels too wide at {size:?}");
        let page = p.value("getComputedStyle(document.body).backgroundColor");
        assert_eq!(page == "rgb(255, 255, 255)", scheme == "light", "{page}");
        p.b.screenshot(&format!("serve-{scheme}-{}", size.0));
    }
    // The list opens over the conversation and closes again, by key.
    assert_eq!(p.value("document.getElementById('side').inert"), true);
    p.b.click("#side-open");
    assert_eq!(
        (p.focused(), p.value("document.getElementById('side').getBoundingClientRect().right <= innerWidth")),
        ("new".to_owned(), json!(true))
    );
    p.b.key("Escape");
    assert_eq!(p.value("document.getElementById('side').inert"), true);
    // The switch turns dark to light and stays so.
    p.b.click("#theme");
    p.load(NARROW, "dark");
    assert_eq!(p.value("getComputedStyle(document.body).backgroundColor"), "rgb(255, 255, 255)");
    p.b.click("#theme");

    // By keyboard alone: everything is reached in the order in which it stands, and its focus is seen.
    p.load(WIDE, "light");
    p.value("document.querySelector('.skip').focus()");
    let mut reached = Vec::new();
    for _ in 0..80 {
        p.b.key("Tab");
        // Between the last element and the first is the browser itself.
        if p.value("document.activeElement === document.body") == true {
            continue;
        }
        let ring = p.value("(() => { const e = document.activeElement, s = getComputedStyle(e); return e.id === 'prompt' || s.outlineStyle !== 'none' || e.matches('.skip'); })()");
        let name = p.focused();
        assert_eq!(ring, true, "the focus on {name} is not seen");
        let is_last = name == "send";
        reached.push(name);
        if is_last {
            break;
        }
    }
    let places = [
        "new",
        "import",
        "side-open",
        "model",
        "settings-open",
        "theme",
        "Copy the answer",
        "prompt",
        "send",
    ]
    .map(|id| {
        reached
            .iter()
            .position(|name| name == id)
            .unwrap_or_else(|| panic!("{id} is not reached: {reached:?}"))
    });
    assert!(places.is_sorted_by(|a, b| a < b), "{reached:?}");
    p.value("document.getElementById('new').focus()");
    p.b.key("Enter");
    assert_eq!(p.focused(), "prompt");
    p.b.write("by key");
    p.b.key("Enter");
    p.wait("document.querySelectorAll('.message').length === 2");
    p.idle();
    assert_eq!(p.answer(), "answer to by key");
    assert_eq!(p.text("#status"), "The answer is complete.");
    p.end(&[]);
}
