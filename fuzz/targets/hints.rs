//! A manifest, an exit code, stdout and stderr: what a check and feeds learn (contract §7.7, §7.8).

use std::collections::BTreeMap;

use bytes::Bytes;
use results_projector::projection::check::evaluate;
use results_projector::projection::feed::{FeedOutcome, item_id, items};
use results_projector::projection::hints::needs;
use results_projector::projection::manifests::Manifests;
use results_projector::wire::fence::{Hint, block};
use results_projector::wire::json::compact;
use results_projector::wire::manifest::{Check, Feed};
use results_projector::wire::result::Field;
use serde_json::Value;

use super::parts;

/// More elements are not compared with each other.
const PAIRS_MAX: usize = 24;

pub(crate) fn run(data: &[u8]) {
    let parts = parts(data);
    let text = |at: usize| parts.get(at).map(|part| String::from_utf8_lossy(part));
    let manifests = Manifests::compile([("j".to_owned(), Bytes::copy_from_slice(parts[0]))]);
    let Some(hints) = manifests.hints("j") else { return };
    let exit_code = text(1).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    // A part that is not there is an output that is gone.
    let (stdout, stderr) = (text(2), text(3));
    if let Some(check) = &hints.check {
        evaluated(check, exit_code, stdout.as_deref(), stderr.as_deref());
        let needed = if exit_code == 0 {
            Field::Stdout
        } else {
            Field::Stderr
        };
        assert_eq!(needs(hints, exit_code, true), Some(needed));
    }
    let Some(stdout) = stdout else { return };
    if let Ok(payload) = serde_json::from_str(block(&stdout, Hint::Feed)) {
        for feed in hints.feeds.iter().take(6) {
            listed(feed, &payload);
        }
    }
}

fn evaluated(check: &Check, exit_code: i32, stdout: Option<&str>, stderr: Option<&str>) {
    let found = evaluate(check, exit_code, stdout, stderr);
    assert_eq!(found, evaluate(check, exit_code, stdout, stderr));
    if exit_code != 0 {
        let found = found.unwrap();
        let detail = found.detail.unwrap();
        let said: String = stderr.unwrap_or_default().trim().chars().take(200).collect();
        let expected = format!("check script exited {exit_code}");
        assert_eq!(found.status, "unknown");
        assert_eq!(
            detail,
            if said.is_empty() {
                expected
            } else {
                format!("{expected}: {said}")
            }
        );
        return;
    }
    let (Some(found), Some(stdout)) = (&found, stdout) else {
        assert!(found.is_none() && stdout.is_none(), "evidence without output");
        return;
    };
    let payload: Option<Value> = serde_json::from_str(block(stdout, Hint::Check)).ok();
    let sent = payload
        .as_ref()
        .and_then(|payload| payload.as_object())
        .map(|payload| (payload.get(&check.status_field), payload.get(&check.detail_field)));
    let detail = found.detail.as_deref();
    match sent {
        None if payload.is_some() => assert_eq!(detail, Some("check stdout was not a JSON object")),
        None => assert!(detail.unwrap().starts_with("check stdout was not JSON: ")),
        Some((None, _)) => assert_eq!(
            detail,
            Some(&*format!("stdout has no `{}` field", check.status_field))
        ),
        Some((Some(status), sent)) => match status.as_str() {
            Some(status @ ("ok" | "warn" | "fail" | "unknown")) => {
                assert_eq!(found.status, status);
                let expected = match sent {
                    None | Some(Value::Null) => None,
                    Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
                    Some(other) => Some(compact(other)),
                };
                assert_eq!(found.detail, expected);
                return;
            }
            _ => {
                let (field, status) = (&check.status_field, compact(status));
                assert_eq!(
                    detail,
                    Some(&*format!(
                        "`{field}` = {status} is not one of ok/warn/fail/unknown"
                    ))
                );
            }
        },
    }
    assert_eq!(found.status, "unknown");
}

fn listed(feed: &Feed, payload: &Value) {
    let Some(object) = payload.as_object() else {
        assert_eq!(items(feed, payload), FeedOutcome::NotObject);
        return;
    };
    let empty = Vec::new();
    let elements = match object.get(&feed.field) {
        None => &empty,
        Some(Value::Array(elements)) => elements,
        Some(_) => {
            assert_eq!(items(feed, payload), FeedOutcome::NotArray);
            return;
        }
    };
    let FeedOutcome::Items {
        items,
        item_count,
        without_key,
    } = items(feed, payload)
    else {
        panic!("a list that is none");
    };
    assert_eq!(usize::try_from(item_count).unwrap() + without_key, elements.len());
    // The later replaces the earlier, and stands where it stands itself.
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    for (at, element) in elements.iter().enumerate() {
        if let Some(id) = item_id(&feed.primary_key, element) {
            last.insert(id, at);
        }
    }
    let mut expected: Vec<(usize, String)> = last.into_iter().map(|(id, at)| (at, id)).collect();
    expected.sort();
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(at, id)| (id, compact(&elements[at])))
        .collect();
    let found: Vec<_> = items.into_iter().map(|item| (item.item_id, item.data)).collect();
    assert_eq!(found, expected);

    for one in elements.iter().take(PAIRS_MAX) {
        let texts = key(feed, one);
        assert_eq!(item_id(&feed.primary_key, one).is_some(), texts.is_some());
        for other in elements.iter().take(PAIRS_MAX) {
            let same = item_id(&feed.primary_key, one) == item_id(&feed.primary_key, other);
            assert_eq!(same, texts == key(feed, other), "{one} and {other}");
        }
    }
}

/// The texts of the key's fields; `None` without any of them.
fn key(feed: &Feed, element: &Value) -> Option<Vec<String>> {
    if feed.primary_key.is_empty() {
        return None;
    }
    let text = |field: &String| match element.get(field)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(compact(other)),
    };
    feed.primary_key.iter().map(text).collect()
}
