//! A headless Chromium, driven over the DevTools protocol through its pipe, as a user's hands and eyes.
//!
//! Commands and answers are JSON texts that end with a zero byte; the browser reads them from file 3 and writes to file 4, which a
//! shell connects to named pipes.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A key that is held.
#[derive(Clone, Copy, Debug)]
pub enum Modifier {
    /// None.
    None = 0,
    /// Shift.
    Shift = 8,
}

/// A browser with one page.
pub struct Browser {
    child: Child,
    commands: File,
    messages: Receiver<Value>,
    events: VecDeque<Value>,
    next_id: u64,
    session: String,
    /// What went wrong in the page: exceptions, errors on the console, refused or attempted requests.
    pub problems: Vec<String>,
    _folder: tempfile::TempDir,
}

/// The browser of this machine: `BITNETC_TEST_BROWSER`, or a Chromium on the path.
pub fn browser_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("BITNETC_TEST_BROWSER") {
        return Some(PathBuf::from(path));
    }
    let names =
        ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|path| path.is_file())
}

impl Browser {
    /// Starts the browser at `path` and opens an empty page.
    pub fn start(path: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (to, from) = (folder.path().join("to"), folder.path().join("from"));
        assert!(Command::new("mkfifo").arg(&to).arg(&from).status().unwrap().success());
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<\"$PIPE_TO\" 4>\"$PIPE_FROM\""])
            .arg(path)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ])
            .args(["--no-first-run", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .env("PIPE_TO", &to)
            .env("PIPE_FROM", &from)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Each of these waits for the other end.
        let commands = OpenOptions::new().write(true).open(&to).unwrap();
        let answers = File::open(&from).unwrap();
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut answers = BufReader::new(answers);
            let mut bytes = Vec::new();
            while answers.read_until(0, &mut bytes).is_ok_and(|n| n > 0) {
                bytes.pop();
                if sender.send(serde_json::from_slice(&bytes).unwrap()).is_err() {
                    break;
                }
                bytes.clear();
            }
        });
        let mut browser = Self {
            child,
            commands,
            messages,
            events: VecDeque::new(),
            next_id: 1,
            session: String::new(),
            problems: Vec::new(),
            _folder: folder,
        };
        let target = browser.command("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.command("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.command(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    fn receive(&mut self) -> Value {
        let message = self.messages.recv_timeout(PATIENCE).expect("the browser answers");
        let params = &message["params"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let problem = match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled"
                if matches!(params["type"].as_str(), Some("error" | "warning" | "assert")) =>
            {
                Some(params["args"].to_string())
            }
            "Log.entryAdded" if params["entry"]["level"] == "error" => Some(text(&params["entry"]["text"])),
            "Network.requestWillBeSent" if params["type"] != "Document" => {
                Some(format!("request for {}", text(&params["request"]["url"])))
            }
            _ => None,
        };
        self.problems.extend(problem);
        message
    }

    /// Sends a command and gives its result.
    pub fn command(&mut self, method: &str, params: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let mut command = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        self.commands.write_all(command.to_string().as_bytes()).unwrap();
        self.commands.write_all(&[0]).unwrap();
        loop {
            let message = self.receive();
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push_back(message);
        }
    }

    /// Waits for an event.
    fn event(&mut self, method: &str) {
        let start = Instant::now();
        loop {
            let found = self.events.iter().position(|event| event["method"] == method);
            if let Some(at) = found {
                self.events.drain(..=at);
                return;
            }
            assert!(start.elapsed() < PATIENCE, "no {method}");
            let message = self.receive();
            self.events.push_back(message);
        }
    }

    /// Opens a file, with a part after `#`, in a window of this size and scheme (`light` or `dark`).
    pub fn open(&mut self, file: &Path, hash: &str, size: (u32, u32), scheme: &str) {
        let hash = if hash.is_empty() { String::new() } else { format!("#{hash}") };
        self.open_address(&format!("file://{}{hash}", file.display()), size, scheme);
    }

    /// Opens an address in a window of this size and scheme (`light` or `dark`).
    pub fn open_address(&mut self, address: &str, size: (u32, u32), scheme: &str) {
        let (width, height) = size;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command("Emulation.setEmulatedMedia", json!({ "features": features }));
        // Another part of the same page would not load it again.
        self.command("Page.navigate", json!({ "url": "about:blank" }));
        self.event("Page.loadEventFired");
        self.events.clear();
        self.command("Page.navigate", json!({ "url": address }));
        self.event("Page.loadEventFired");
    }

    /// What an expression gives in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.command("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// The middle of the first element that `selector` finds, brought into the window.
    fn middle(&mut self, selector: &str) -> (f64, f64) {
        let found = self.evaluate(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); if (!e) return null; \
             e.scrollIntoView({{ block: 'center' }}); const b = e.getBoundingClientRect(); \
             return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        ));
        let at = |i: usize| found[i].as_f64().unwrap_or_else(|| panic!("no element is {selector}"));
        (at(0), at(1))
    }

    fn mouse(&mut self, kind: &str, at: (f64, f64), more: Value) {
        let mut params = json!({ "type": kind, "x": at.0, "y": at.1 });
        for (name, value) in more.as_object().unwrap() {
            params[name] = value.clone();
        }
        self.command("Input.dispatchMouseEvent", params);
    }

    /// Clicks on the first element that `selector` finds.
    pub fn click(&mut self, selector: &str) {
        let at = self.middle(selector);
        self.mouse("mouseMoved", at, json!({}));
        self.mouse("mousePressed", at, json!({ "button": "left", "buttons": 1, "clickCount": 1 }));
        self.mouse("mouseReleased", at, json!({ "button": "left", "clickCount": 1 }));
    }

    /// Turns the wheel over an element.
    pub fn wheel(&mut self, selector: &str, delta: f64) {
        let at = self.middle(selector);
        self.mouse("mouseWheel", at, json!({ "deltaX": 0, "deltaY": delta }));
    }

    /// Drags from the middle of an element.
    pub fn drag(&mut self, selector: &str, by: (f64, f64)) {
        let at = self.middle(selector);
        let to = (at.0 + by.0, at.1 + by.1);
        self.mouse("mouseMoved", at, json!({}));
        self.mouse("mousePressed", at, json!({ "button": "left", "buttons": 1, "clickCount": 1 }));
        self.mouse("mouseMoved", to, json!({ "button": "left", "buttons": 1 }));
        self.mouse("mouseReleased", to, json!({ "button": "left", "clickCount": 1 }));
    }

    /// Presses a key.
    pub fn key(&mut self, key: &str) {
        self.key_with(key, Modifier::None);
    }

    /// Presses a key while another one is held.
    pub fn key_with(&mut self, key: &str, modifier: Modifier) {
        // What the browser itself does with a key goes by its code and its text.
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            " " => (32, " "),
            _ => (0, ""),
        };
        let params = json!({
            "type": "keyDown", "key": key, "code": key, "modifiers": modifier as u32, "windowsVirtualKeyCode": code, "text": text
        });
        self.command("Input.dispatchKeyEvent", params);
        let params = json!({ "type": "keyUp", "key": key, "code": key, "modifiers": modifier as u32 });
        self.command("Input.dispatchKeyEvent", params);
    }

    /// Writes a text where the focus is.
    pub fn write(&mut self, text: &str) {
        self.command("Input.insertText", json!({ "text": text }));
    }

    /// The window as PNG, into the folder that `BITNETC_SCREENSHOTS` names, if there is one.
    pub fn screenshot(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("BITNETC_SCREENSHOTS") else { return };
        let picture = self.command("Page.captureScreenshot", json!({ "format": "png" }));
        let bytes = base64(picture["data"].as_str().unwrap());
        assert!(bytes.starts_with(b"\x89PNG"));
        std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bytes of a base64 text.
fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|&c| c != b'=').map(digit).collect();
    let group = |four: &[u8]| {
        let bits = four.iter().fold(0u32, |bits, &d| bits << 6 | u32::from(d)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
