//! A headless Chromium, driven over its debugging pipe. Tests that need one say so and pass where there is none.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running browser.
pub(crate) struct Browser {
    child: Child,
    input: ChildStdin,
    output: Receiver<Value>,
    /// What the browser told without being asked.
    events: VecDeque<Value>,
    next_id: u64,
    _profile: tempfile::TempDir,
}

/// A page of its own, with storage of its own.
#[derive(Clone)]
pub(crate) struct Tab {
    session: String,
}

/// The first Chromium there is: `FARMHAND_CHROMIUM`, or one of the usual names.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("FARMHAND_CHROMIUM").map(PathBuf::from);
    let usual = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    named.into_iter().chain(usual).find(|path| path.is_file())
}

impl Browser {
    /// Starts one; `None`, with a word on stderr, where there is none.
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = chromium() else {
            eprintln!("skipped: no Chromium is installed (FARMHAND_CHROMIUM names one elsewhere)");
            return None;
        };
        let profile = tempfile::tempdir().expect("a folder");
        Some(Self::launch(&program, profile))
    }

    fn launch(program: &Path, profile: tempfile::TempDir) -> Self {
        // The browser reads commands from its descriptor 3 and answers on 4; the shell puts ours there.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 >/dev/null"])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--remote-debugging-pipe"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a browser");
        let input = child.stdin.take().expect("a pipe");
        let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while reader.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                let told = serde_json::from_slice(&message).is_ok_and(|value: Value| send.send(value).is_ok());
                if !told {
                    return;
                }
                message.clear();
            }
        });
        Self { child, input, output, events: VecDeque::new(), next_id: 0, _profile: profile }
    }

    /// Sends a command and waits for its result.
    #[track_caller]
    pub(crate) fn call(&mut self, tab: Option<&Tab>, method: &str, params: &Value) -> Value {
        self.next_id += 1;
        let mut message = json!({ "id": self.next_id, "method": method, "params": params });
        if let Some(tab) = tab {
            message["sessionId"] = json!(tab.session);
        }
        self.input.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        let until = Instant::now() + PATIENCE;
        loop {
            match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(answer) if answer["id"] == self.next_id => {
                    assert!(answer.get("error").is_none(), "{method}: {answer}");
                    return answer["result"].clone();
                }
                Ok(event) => self.events.push_back(event),
                Err(RecvTimeoutError::Timeout) => panic!("{method}: no answer in {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("{method}: the browser ended"),
            }
        }
    }

    /// Opens an address in a tab of its own.
    pub(crate) fn open(&mut self, url: &str) -> Tab {
        let context = self.call(None, "Target.createBrowserContext", &json!({}))["browserContextId"].clone();
        let target = json!({ "url": "about:blank", "browserContextId": context, "width": 1200, "height": 800 });
        let id = self.call(None, "Target.createTarget", &target)["targetId"].clone();
        let session = self.call(None, "Target.attachToTarget", &json!({ "targetId": id, "flatten": true }));
        let tab = Tab { session: session["sessionId"].as_str().expect("a session").to_owned() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(Some(&tab), &format!("{domain}.enable"), &json!({}));
        }
        self.call(Some(&tab), "Page.navigate", &json!({ "url": url }));
        self.wait_for(&tab, "location.protocol === 'http:' && document.readyState === 'complete'");
        tab
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub(crate) fn eval(&mut self, tab: &Tab, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call(Some(tab), "Runtime.evaluate", &params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, tab: &Tab, expression: &str) {
        let until = Instant::now() + PATIENCE;
        while self.eval(tab, &format!("Boolean({expression})")) != json!(true) {
            if Instant::now() > until {
                let page = self.eval(tab, "document.body.innerText");
                panic!("`{expression}` did not come true; the page says:\n{}", page.as_str().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses and releases a key, by its name in the browser: `1`, `u`, `ArrowLeft`, `Enter`.
    pub(crate) fn key(&mut self, tab: &Tab, key: &str) {
        let mut down = json!({ "type": "keyDown", "key": key });
        if key.chars().count() == 1 {
            down["text"] = json!(key);
        } else if key == "Enter" {
            down = json!({ "type": "keyDown", "key": key, "code": key, "text": "\r", "windowsVirtualKeyCode": 13 });
        }
        self.call(Some(tab), "Input.dispatchKeyEvent", &down);
        self.call(Some(tab), "Input.dispatchKeyEvent", &json!({ "type": "keyUp", "key": key }));
    }

    /// Types a text where the focus is.
    pub(crate) fn write(&mut self, tab: &Tab, text: &str) {
        self.call(Some(tab), "Input.insertText", &json!({ "text": text }));
    }

    /// Everything that the browser told so far: requests, messages of the console, complaints.
    pub(crate) fn take_events(&mut self) -> Vec<Value> {
        self.events.extend(self.output.try_iter());
        self.events.drain(..).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
