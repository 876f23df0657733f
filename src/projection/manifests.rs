//! The bucket `jobs`, read as a whole into what the rules need of it (contract §4.3, §7.5.2). Immutable: a change of
//! the bucket makes a new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::explode::ExplodeSpec;
use super::issue::IssueCode;
use super::spec::{Claims, Refusal};
use crate::wire::hex::hex;
use crate::wire::json::compact;
use crate::wire::manifest::{self, Check, Explode, Feed, Inventory, Manifest, Posted, display_json};
use crate::wire::time::Timestamp;

/// All jobs of the bucket, by manifest id.
#[derive(Clone, Debug, Default)]
pub struct Manifests(BTreeMap<String, Job>);

/// One document of the bucket.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// `execute.timeout`, for the deadline of a start event (§5.4).
    pub timeout: Option<String>,
    /// What to do with the output; `None`: nothing.
    pub hints: Option<Arc<Hints>>,
    /// When the document was put into the bucket; `None`: not known.
    pub changed: Option<Timestamp>,
    /// Why the document does not decode. Such a job counts as none, and each of its results says so (§4.3).
    pub undecodable: Option<String>,
}

/// What a manifest says about its job's output, checked.
#[derive(Clone, Debug)]
pub struct Hints {
    /// SHA-256, in hexadecimal, of all that decides what is derived from an output: two equal ones derive the same.
    pub hash: String,
    /// §7.4.
    pub inventory: Option<InventoryHint>,
    /// §7.7; only one that concerns the fleet.
    pub check: Option<Check>,
    /// §7.8, their ids without blanks around them.
    pub feeds: Vec<Feed>,
}

/// `inventory`, checked.
#[derive(Clone, Debug)]
pub struct InventoryHint {
    /// The column's text (§6.3).
    pub display_json: String,
    /// The column's text (§6.3).
    pub summary_json: Option<String>,
    /// `history_scalars`.
    pub scalars: Vec<String>,
    /// The explode specs, in the manifest's order.
    pub specs: Vec<SpecState>,
}

/// What became of an explode spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecState {
    /// Valid and allowed; whether its table may be had is the database's to say.
    Valid(ExplodeSpec),
    /// Skipped and reported; its siblings go on.
    Refused(RefusedSpec),
}

/// A spec that is skipped. Its texts are the manifest's, whatever they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSpec {
    /// The table it names.
    pub table: String,
    /// The array it is about.
    pub field: String,
    /// Invalid or refused.
    pub code: IssueCode,
    /// One line for people.
    pub reason: String,
}

impl Manifests {
    /// Reads documents whose age is not known; see [`Manifests::of_bucket`].
    #[must_use]
    pub fn compile(documents: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        Self::of_bucket(documents.into_iter().map(|(id, document)| (id, document.into())))
    }

    /// Reads the documents of the bucket. Their order does not matter: manifest ids go in byte order.
    #[must_use]
    pub fn of_bucket(documents: impl IntoIterator<Item = (String, Posted)>) -> Self {
        let documents: BTreeMap<String, Posted> = documents.into_iter().collect();
        let mut claims = Claims::default();
        Self(
            documents
                .into_iter()
                .map(|(id, posted)| {
                    let job = Job {
                        changed: posted.changed,
                        ..job(&id, &posted.document, &mut claims)
                    };
                    (id, job)
                })
                .collect(),
        )
    }

    /// The job of a manifest id: the bucket's key counts, not the id inside (§4.3).
    #[must_use]
    pub fn job(&self, manifest_id: &str) -> Option<&Job> {
        self.0.get(manifest_id)
    }

    /// The hints of a manifest id, if it has any.
    #[must_use]
    pub fn hints(&self, manifest_id: &str) -> Option<&Arc<Hints>> {
        self.job(manifest_id)?.hints.as_ref()
    }

    /// All jobs, in byte order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Job)> {
        self.0.iter().map(|(id, job)| (id.as_str(), job))
    }
}

fn job(id: &str, document: &Bytes, claims: &mut Claims) -> Job {
    match manifest::decode(document) {
        Ok(manifest) => Job {
            timeout: manifest.timeout.clone(),
            hints: hints(id, manifest, claims).map(Arc::new),
            changed: None,
            undecodable: None,
        },
        Err(error) => Job {
            undecodable: Some(error.to_string()),
            ..Job::default()
        },
    }
}

fn hints(id: &str, manifest: Manifest, claims: &mut Claims) -> Option<Hints> {
    let inventory = manifest
        .inventory
        .map(|inventory| inventory_hint(id, inventory, claims));
    let check = manifest.check.filter(|check| check.fleet);
    let feeds: Vec<Feed> = manifest
        .feeds
        .into_iter()
        .map(|feed| Feed {
            id: feed.id.trim().to_owned(),
            ..feed
        })
        .collect();
    if inventory.is_none() && check.is_none() && feeds.is_empty() {
        return None;
    }
    let canonical = json!({
        "inventory": inventory.as_ref().map(canonical_inventory),
        "check": check.as_ref().map(|check| json!({
            "name": check.name, "label": check.label, "status_field": check.status_field,
            "detail_field": check.detail_field,
        })),
        "feeds": feeds.iter().map(|feed| json!({
            "id": feed.id, "field": feed.field, "primary_key": feed.primary_key,
        })).collect::<Vec<_>>(),
    });
    Some(Hints {
        hash: hex(&Sha256::digest(compact(&canonical))),
        inventory,
        check,
        feeds,
    })
}

fn inventory_hint(id: &str, inventory: Inventory, claims: &mut Claims) -> InventoryHint {
    let mut state = |sent: Explode| match claims.check(id, &sent) {
        Ok(spec) => SpecState::Valid(spec),
        Err(Refusal { code, reason }) => SpecState::Refused(RefusedSpec {
            table: sent.table,
            field: sent.field,
            code,
            reason,
        }),
    };
    InventoryHint {
        display_json: display_json(&inventory.display),
        summary_json: inventory.summary.as_deref().map(display_json),
        specs: inventory.explode.into_iter().map(&mut state).collect(),
        scalars: inventory.history_scalars,
    }
}

fn canonical_inventory(hint: &InventoryHint) -> Value {
    let spec = |state: &SpecState| match state {
        SpecState::Valid(spec) => {
            let columns = spec
                .columns
                .iter()
                .map(|column| json!([column.name, column.kind.as_sql(), column.index]));
            json!({
                "field": spec.field, "table": spec.table, "columns": columns.collect::<Vec<_>>(), "key": spec.key,
                "track_history": spec.track_history,
            })
        }
        // Not the reason: other words for it would derive nothing else.
        SpecState::Refused(refused) => json!({
            "field": refused.field, "table": refused.table, "refused": refused.code.as_str(),
        }),
    };
    json!({
        "display": hint.display_json, "summary": hint.summary_json, "scalars": hint.scalars,
        "specs": hint.specs.iter().map(spec).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(more: Value) -> Bytes {
        let mut document =
            json!({"id": "inside", "version": "1", "execute": {"shell": "sh", "timeout": "30s"}});
        if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
            document.extend(more);
        }
        Bytes::from(document.to_string())
    }

    fn explode(table: &str, key: &str) -> Value {
        json!({"inventory": {"display": [], "explode": [
            {"field": "apps", "table": table, "primary_key": [key], "columns": [{"field": "a"}, {"field": "b"}]},
        ]}})
    }

    fn compile(documents: &[(&str, Bytes)]) -> Manifests {
        Manifests::compile(
            documents
                .iter()
                .map(|(id, document)| ((*id).to_owned(), document.clone())),
        )
    }

    fn spec<'a>(manifests: &'a Manifests, id: &str) -> &'a SpecState {
        &manifests.hints(id).unwrap().inventory.as_ref().unwrap().specs[0]
    }

    #[test]
    fn absent_undecodable_and_silent_jobs_can_be_told_apart() {
        let manifests = compile(&[
            ("silent", document(json!({}))),
            ("broken", Bytes::from_static(b"{\"id\":\"broken\"}")),
            (
                "private",
                document(json!({"check": {"name": "c", "fleet": false}})),
            ),
        ]);
        assert!(manifests.job("absent").is_none());
        let silent = manifests.job("silent").unwrap();
        assert_eq!(
            (silent.timeout.as_deref(), &silent.undecodable),
            (Some("30s"), &None)
        );
        assert!(silent.hints.is_none());
        let broken = manifests.job("broken").unwrap();
        assert!(
            broken
                .undecodable
                .as_ref()
                .unwrap()
                .contains("missing field `version`")
        );
        assert!(manifests.hints("private").is_none());
        assert!(
            manifests.job("inside").is_none(),
            "the key counts, not the id inside"
        );
    }

    #[test]
    fn the_order_of_the_documents_does_not_matter() {
        let documents = [
            ("b", document(explode("t", "a"))),
            ("a", document(explode("T", "b"))),
            ("B", document(explode("t", "b"))),
        ];
        for rotation in 0..documents.len() {
            let mut documents = documents.clone();
            documents.rotate_left(rotation);
            let manifests = compile(&documents);
            let ids: Vec<_> = manifests.iter().map(|(id, _)| id).collect();
            assert_eq!(ids, ["B", "a", "b"]);
            assert!(matches!(spec(&manifests, "a"), SpecState::Valid(_)));
            assert!(matches!(spec(&manifests, "B"), SpecState::Valid(_)));
            let SpecState::Refused(refused) = spec(&manifests, "b") else {
                panic!("one table, two shapes");
            };
            assert_eq!(refused.code, IssueCode::ExplodeTableRefused);
        }
    }

    #[test]
    fn the_hash_is_of_all_that_derives_and_of_nothing_else() {
        let hash = |more: Value| compile(&[("j", document(more))]).hints("j").unwrap().hash.clone();
        let base = json!({"inventory": {"display": []}, "check": {"name": "c"}});
        assert_eq!(hash(base.clone()).len(), 64);
        let mut same = base.clone();
        same["version"] = json!("2");
        same["check"]["alert"] = json!({"title": "t"});
        same["check"]["troubleshoot"] = json!("fix");
        same["inventory"]["explode"] = Value::Null;
        assert_eq!(hash(base.clone()), hash(same));
        let mut hashes = vec![hash(base.clone())];
        for (place, name, value) in [
            ("inventory", "summary", json!([])),
            ("inventory", "history_scalars", json!(["ram"])),
            ("inventory", "display", json!([{"field": "a", "label": "A"}])),
            ("check", "detail_field", json!("d")),
            ("check", "label", json!("C")),
            ("check", "fleet", json!(false)),
        ] {
            let mut other = base.clone();
            other[place][name] = value;
            hashes.push(hash(other));
        }
        hashes.push(hash(
            json!({"feed": [{"id": "f", "field": "x", "primary_key": ["k"]}]}),
        ));
        hashes.push(hash(
            json!({"feed": [{"id": "f", "field": "x", "primary_key": ["l"]}]}),
        ));
        let count = hashes.len();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }

    #[test]
    fn a_table_lost_to_another_manifest_changes_the_hash() {
        let second = document(explode("t", "b"));
        let alone = compile(&[("b", second.clone())]);
        let beside = compile(&[("a", document(explode("t", "a"))), ("b", second)]);
        assert_ne!(alone.hints("b").unwrap().hash, beside.hints("b").unwrap().hash);
    }

    #[test]
    fn a_feeds_id_counts_without_blanks_around_it() {
        let feed = json!({"feed": [{"id": " kev ", "field": "v", "primary_key": ["id"]}]});
        let manifests = compile(&[("j", document(feed))]);
        assert_eq!(manifests.hints("j").unwrap().feeds[0].id, "kev");
    }
}
