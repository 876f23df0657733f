//! The alert rules and the dashboard against the metrics that there are, and against the runbooks. With a promtool the rules
//! are run as well: each fires in its case, and is silent at its near miss.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::string_slice)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use results_projector::meters::BUCKETS;
use serde_json::Value;

/// What the name of every metric begins with.
const PREFIX: &str = "results_projector_";

const RULES: &str = "deploy/prometheus/results-projector.rules.yml";
const UNIT_TESTS: &str = "deploy/prometheus/results-projector.rules.test.yml";
const DASHBOARD: &str = "deploy/grafana/results-projector.json";
const RUNBOOKS: &str = "docs/OPERATING.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One alert: as many lines as belong to it. The file is ours, so its lines say enough.
struct Alert {
    name: String,
    lines: Vec<String>,
}

impl Alert {
    fn all() -> Vec<Self> {
        let mut alerts: Vec<Self> = Vec::new();
        for line in read(RULES).lines().filter(|line| !line.trim().starts_with('#')) {
            if let Some(name) = line.trim().strip_prefix("- alert: ") {
                let name = name.to_owned();
                alerts.push(Self {
                    name,
                    lines: Vec::new(),
                });
            } else if let Some(alert) = alerts.last_mut() {
                alert.lines.push(line.trim().to_owned());
            }
        }
        assert!(alerts.len() >= 15, "{} alerts", alerts.len());
        alerts
    }

    /// The value behind a key, without its quotes.
    fn value(&self, key: &str) -> &str {
        let line = self
            .lines
            .iter()
            .find_map(|line| line.strip_prefix(&format!("{key}: ")));
        line.unwrap_or_else(|| panic!("{} has no {key}", self.name))
            .trim_matches('\'')
    }

    /// From `expr` to the next key.
    fn expr(&self) -> String {
        let ends = ["for: ", "labels:"];
        let lines = self.lines.iter().skip_while(|line| !line.starts_with("expr: "));
        let lines = lines.take_while(|line| !ends.iter().any(|end| line.starts_with(end)));
        lines.cloned().collect::<Vec<_>>().join(" ").replace("expr: ", "")
    }
}

/// Words of a query: names, whether of metrics, labels or functions.
fn words(query: &str) -> impl Iterator<Item = &str> {
    query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// What stands between `open` and the next `close`, each time.
fn between<'a>(query: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    query
        .split(open)
        .skip(1)
        .map(move |rest| rest.split(close).next().unwrap())
}

/// The names of all metrics, as they are scraped.
fn metrics() -> BTreeSet<String> {
    let source = read("src/meters.rs");
    let mut names: BTreeSet<String> = source
        .split('"')
        .filter(|text| text.len() > PREFIX.len() && text.starts_with(PREFIX))
        .map(str::to_owned)
        .collect();
    for (histogram, _) in BUCKETS {
        assert!(names.remove(*histogram), "{histogram}");
        names.extend(["_bucket", "_sum", "_count"].map(|part| format!("{histogram}{part}")));
    }
    assert!(names.len() > 35, "{names:?}");
    names
}

/// Every metric, label and label value of a query is one that there is.
fn check_query(place: &str, query: &str, metrics: &BTreeSet<String>) {
    let source = read("src/meters.rs") + &read("src/observe/recorder.rs") + &read("src/observe/mod.rs");
    let used: Vec<_> = words(query).filter(|word| word.starts_with(PREFIX)).collect();
    for name in &used {
        assert!(metrics.contains(*name), "{place}: there is no metric {name}");
    }
    assert!(!used.is_empty() || query.contains("up{"), "{place}: {query}");
    let given = ["job", "instance", "le"];
    let known = |label: &str| {
        let label = label.trim();
        let is_set =
            source.contains(&format!("\"{label}\" =>")) || source.contains(&format!("(\"{label}\","));
        assert!(
            label.is_empty() || given.contains(&label) || is_set,
            "{place}: there is no label {label}"
        );
    };
    for grouping in ["by (", "on (", "group_left (", "without ("] {
        for labels in between(query, grouping, ')') {
            labels.split(',').for_each(known);
        }
    }
    for matcher in between(query, "{", '}').flat_map(|matchers| matchers.split(',')) {
        let (label, value) = matcher
            .split_once('=')
            .unwrap_or_else(|| panic!("{place}: {matcher}"));
        known(label.trim_end_matches('!'));
        let value = value.trim_start_matches('~');
        let is_set = source.contains(value) || given.contains(&label.trim());
        assert!(is_set, "{place}: no label {label} is ever {value}");
    }
}

/// The panels that show something, with their queries.
fn panels() -> Vec<(String, Value, Vec<String>)> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let shown = panels.iter().filter(|panel| panel["type"] != "row");
    shown
        .map(|panel| {
            let title = panel["title"].as_str().unwrap().to_owned();
            let targets = panel["targets"].as_array().unwrap();
            let queries = targets
                .iter()
                .map(|target| target["expr"].as_str().unwrap().to_owned());
            (title, panel.clone(), queries.collect())
        })
        .collect()
}

/// As a link to a heading says it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The path of a promtool; without one it is said.
#[expect(
    clippy::explicit_write,
    reason = "what a test that succeeds prints is kept back; this is to be seen"
)]
fn promtool() -> Option<PathBuf> {
    let fetched = Command::new(root().join("scripts/promtool")).output().unwrap();
    if fetched.status.success() {
        return Some(String::from_utf8(fetched.stdout).unwrap().trim().into());
    }
    let why = String::from_utf8_lossy(&fetched.stderr);
    writeln!(
        std::io::stderr(),
        "NOT TESTED: the alert rules were not run, since there is no promtool: {}",
        why.trim().lines().last().unwrap_or_default()
    )
    .unwrap();
    None
}

fn succeeds(promtool: &Path, args: &[&str]) {
    let output = Command::new(promtool)
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "promtool {args:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_alert_fires_in_its_case_and_is_silent_at_its_near_miss() {
    let Some(promtool) = promtool() else { return };
    succeeds(&promtool, &["check", "rules", RULES]);
    succeeds(&promtool, &["test", "rules", UNIT_TESTS]);
}

#[test]
fn every_query_of_the_dashboard_is_one_that_prometheus_understands() {
    let Some(promtool) = promtool() else { return };
    // As rules, since only those are checked without a server.
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (number, query) in panels().iter().flat_map(|(_, _, queries)| queries).enumerate() {
        let query = query
            .replace("$__rate_interval", "5m")
            .replace("$instance", ".*")
            .replace('\'', "''");
        rules.push_str(&format!(
            "      - record: dashboard:query:{number}\n        expr: '{query}'\n"
        ));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dashboard.yml");
    fs::write(&file, rules).unwrap();
    succeeds(&promtool, &["check", "rules", file.to_str().unwrap()]);
}

#[test]
fn every_alert_uses_metrics_that_there_are_and_says_what_it_is() {
    let metrics = metrics();
    for alert in Alert::all() {
        check_query(&alert.name, &alert.expr(), &metrics);
        let severity = alert.value("severity");
        assert!(
            ["page", "ticket"].contains(&severity),
            "{}: {severity}",
            alert.name
        );
        for key in ["summary", "description"] {
            let text = alert.value(key);
            assert!(text.contains("$labels.instance"), "{}: {text}", alert.name);
        }
        assert!(alert.value("description").ends_with('.'), "{}", alert.name);
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let text = read(RUNBOOKS);
    let runbooks = text.split("\n## Alerts\n").nth(1).unwrap();
    let runbooks = runbooks.split("\n## ").next().unwrap();
    let headings: BTreeSet<&str> = runbooks
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    let alerts = Alert::all();
    for alert in &alerts {
        let (file, to) = alert.value("runbook").split_once('#').unwrap();
        assert_eq!(file, RUNBOOKS, "{}", alert.name);
        assert_eq!(to, anchor(&alert.name), "{}", alert.name);
        assert!(
            headings.contains(alert.name.as_str()),
            "{} has no runbook",
            alert.name
        );
    }
    assert_eq!(
        headings.len(),
        alerts.len(),
        "a runbook without an alert: {headings:?}"
    );
}

#[test]
fn every_link_of_the_runbooks_leads_somewhere() {
    for link in between(&read(RUNBOOKS), "](", ')').filter(|link| !link.contains("://")) {
        let (file, to) = link.split_once('#').unwrap_or((link, ""));
        let text = match file {
            "" => read(RUNBOOKS),
            file => read(&format!("docs/{file}")),
        };
        let mut headings = text.lines().filter(|line| line.starts_with('#'));
        let found = headings.any(|line| anchor(line.trim_start_matches('#').trim()) == to);
        assert!(to.is_empty() || found, "{link} leads nowhere");
    }
}

#[test]
fn every_alert_has_a_case_that_fires_and_one_that_does_not() {
    let unit_tests = read(UNIT_TESTS);
    let cases: Vec<&str> = unit_tests.split("\n  - name: ").skip(1).collect();
    for Alert { name, .. } in Alert::all() {
        let of_it = || {
            cases
                .iter()
                .filter(|case| case.contains(&format!("alertname: {name}\n")))
        };
        assert!(
            of_it().any(|case| case.contains("exp_labels:")),
            "{name} never fires"
        );
        // Its near miss is an instance of its own beside the one that fires.
        let silent = of_it().any(|case| {
            let (series, expected) = case.split_once("alert_rule_test:").unwrap();
            let instances: BTreeSet<_> = between(series, "instance=\"", '"').collect();
            instances
                .iter()
                .any(|instance| !expected.contains(&format!("'{instance}'")))
        });
        assert!(silent, "{name} has no near miss");
    }
}

#[test]
fn every_panel_has_a_title_a_description_and_a_unit_and_shows_metrics_that_there_are() {
    let (metrics, panels) = (metrics(), panels());
    assert!(panels.len() >= 20, "{}", panels.len());
    let (mut titles, mut shown) = (BTreeSet::new(), BTreeSet::new());
    for (title, panel, queries) in &panels {
        assert!(
            !title.is_empty() && titles.insert(title),
            "{title} is there twice"
        );
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{title} has no description");
        let unit = panel["fieldConfig"]["defaults"]["unit"]
            .as_str()
            .unwrap_or_default();
        assert!(!unit.is_empty(), "{title} has no unit");
        assert!(!queries.is_empty(), "{title} asks for nothing");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for query in queries {
            check_query(title, query, &metrics);
            let chosen =
                between(query, "{", '}').all(|matchers| matchers.contains("instance=~\"$instance\""));
            assert!(chosen, "{title} shows instances that were not chosen: {query}");
            shown.extend(words(query).filter(|word| word.starts_with(PREFIX)));
        }
    }
    let histograms: BTreeSet<String> = BUCKETS
        .iter()
        .flat_map(|(name, _)| [format!("{name}_sum"), format!("{name}_count")])
        .collect();
    let missing: Vec<_> = metrics
        .iter()
        .filter(|name| !shown.contains(name.as_str()) && !histograms.contains(*name))
        .collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
}

#[test]
fn no_two_panels_overlap() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 38);
    let variables: Vec<_> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(variables, ["datasource", "instance"]);
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{}", panel["title"]);
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["title"]);
    }
}
