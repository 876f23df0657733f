//! Asks the service over HTTP, by itself and through a real browser.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{PATIENCE, Projector, wait_until};

/// The environment in which a service serves on a port of its own.
pub const SERVING: (&str, &str) = ("RESULTS_PROJECTOR_OBSERVE_LISTEN", "127.0.0.1:0");

/// Where it says that it serves.
pub fn address(projector: &Projector) -> String {
    let mut found = None;
    wait_until("the service says where it serves", PATIENCE, || {
        let said = projector.stderr();
        found = said
            .lines()
            .find(|line| line.contains("serving the status page"))
            .and_then(|line| line.split("address=").nth(1))
            .map(|rest| rest.split_whitespace().next().unwrap().to_owned());
        found.is_some()
    });
    found.unwrap()
}

pub struct Answer {
    pub status: u16,
    pub body: String,
    headers: ureq::http::HeaderMap,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

pub fn get(address: &str, path: &str) -> Answer {
    get_as(address, path, address)
}

/// As somebody who calls the service by this name.
pub fn get_as(address: &str, path: &str, host: &str) -> Answer {
    let asked = agent()
        .get(format!("http://{address}{path}"))
        .header("host", host)
        .call();
    let mut answer = asked.unwrap();
    Answer {
        status: answer.status().as_u16(),
        body: answer.body_mut().read_to_string().unwrap(),
        headers: answer.headers().clone(),
    }
}

/// Chromium, through its driver (WebDriver over HTTP).
pub struct Browser {
    driver: Child,
    session: String,
    _profile: tempfile::TempDir,
}

fn program(variable: &str, name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    named
        .or_else(|| {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path)
                .map(|folder| folder.join(name))
                .find(|path| path.is_file())
        })
        .filter(|path| path.is_file())
}

impl Browser {
    /// `None` where there is none, which the test says loudly.
    pub fn start(width: u32, height: u32) -> Option<Self> {
        let program_of_driver = program("CHROMEDRIVER", "chromedriver")?;
        let chromium = program("CHROMIUM", "chromium")?;
        let profile = tempfile::tempdir().unwrap();
        let log = profile.path().join("driver.log");
        let start = || {
            Command::new(&program_of_driver)
                .arg("--port=0")
                .stdin(Stdio::null())
                .stdout(std::fs::File::create(&log).unwrap())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let mut driver = start();
        let mut port = None;
        wait_until("the driver has a port", PATIENCE, || {
            let said = std::fs::read_to_string(&log).unwrap();
            port = said
                .split("successfully on port ")
                .nth(1)
                .and_then(|rest| rest.split('.').next()?.trim().parse::<u16>().ok());
            // It wants one number for two protocols, and somebody may have the second.
            if port.is_none() && driver.try_wait().unwrap().is_some() {
                driver = start();
            }
            port.is_some()
        });
        let base = format!("http://127.0.0.1:{}", port.unwrap());
        let args = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.path().join("chromium").display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let mut browser = Self {
            driver,
            session: format!("{base}/session"),
            _profile: profile,
        };
        let made = browser.ask("", &wanted);
        browser.session = format!("{base}/session/{}", made["sessionId"].as_str().unwrap());
        Some(browser)
    }

    fn ask(&self, path: &str, what: &Value) -> Value {
        let mut answer = agent()
            .post(format!("{}{path}", self.session))
            .send_json(what)
            .unwrap();
        let said: Value = answer.body_mut().read_json().unwrap();
        assert!(said["value"]["error"].is_null(), "{path}: {said}");
        said["value"].clone()
    }

    fn look(&self, path: &str) -> Value {
        let mut answer = agent().get(format!("{}{path}", self.session)).call().unwrap();
        let said: Value = answer.body_mut().read_json().unwrap();
        assert!(said["value"]["error"].is_null(), "{path}: {said}");
        said["value"].clone()
    }

    pub fn open(&self, url: &str) {
        self.ask("/url", &json!({ "url": url }));
    }

    /// What a script that the browser itself is given returns; the page's own policy does not hold for it.
    pub fn run(&self, script: &str) -> Value {
        self.ask("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    pub fn click(&self, css: &str) {
        let found = self.ask("/element", &json!({ "using": "css selector", "value": css }));
        let element = found
            .as_object()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .as_str()
            .unwrap();
        self.ask(&format!("/element/{element}/click"), &json!({}));
    }

    /// What the page's console has said, and what the policy has blocked.
    pub fn console(&self) -> Value {
        self.ask("/se/log", &json!({ "type": "browser" }))
    }

    pub fn set_scheme(&self, scheme: &str) {
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.ask(
            "/goog/cdp/execute",
            &json!({ "cmd": "Emulation.setEmulatedMedia", "params": media }),
        );
    }

    pub fn set_size(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.ask(
            "/goog/cdp/execute",
            &json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": size }),
        );
    }

    /// A picture of what is in the window.
    pub fn screenshot(&self, to: &Path) {
        let png = self.look("/screenshot");
        std::fs::write(to, STANDARD.decode(png.as_str().unwrap()).unwrap()).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session; the driver is ours to end.
        let _ = agent()
            .delete(&self.session)
            .config()
            .timeout_global(Some(Duration::from_secs(10)))
            .build()
            .call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
