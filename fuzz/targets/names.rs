//! Subjects, keys and names, built of any texts and parsed again (contract §1.4, §2.2, §3.5).

use results_projector::wire::kv::{self, StreamName};
use results_projector::wire::object;
use results_projector::wire::result::Field;
use results_projector::wire::sequence::SubjectHash;
use results_projector::wire::subject::{self, Subject};

use super::parts;

pub(crate) fn run(data: &[u8]) {
    let texts: Vec<String> = parts(data)
        .into_iter()
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    let text = |at: usize| texts.get(at).map_or("", String::as_str);
    let (one, two) = (text(0), text(1));
    subjects(one, two);
    parsed(one);
    keys(one);
    objects(one, two, text(2));
    streams(one);
}

/// What was built of names without dots (and a PC's, which may have them) is found again.
fn subjects(one: &str, two: &str) {
    let results = subject::results(one);
    assert_eq!(
        subject::parse(&results),
        (!one.is_empty()).then_some(Subject::Result { request_id: one })
    );
    if !one.contains('.') {
        let started = subject::events_started(one, two);
        assert_eq!(
            subject::parse(&started),
            Some(Subject::Started {
                exec_id: one,
                pc_id: two
            })
        );
        assert!(subject::is_start(&started));
        let inventory = subject::inventory(two, one);
        assert_eq!(
            subject::parse(&inventory),
            Some(Subject::Inventory {
                pc_id: two,
                category: one
            })
        );
    }
}

/// Any text: what is read of it is all of it, and of one stream.
fn parsed(text: &str) {
    let of: Vec<StreamName> = StreamName::ALL
        .into_iter()
        .filter(|stream| subject::belongs_to(*stream, text))
        .collect();
    assert!(of.len() <= 1);
    assert!(!subject::is_start(text) || of == [StreamName::Events]);
    match subject::parse(text) {
        Some(Subject::Result { request_id }) => {
            assert_eq!(
                (subject::results(request_id).as_str(), of),
                (text, vec![StreamName::Results])
            );
        }
        Some(Subject::Started { exec_id, pc_id }) => {
            assert_eq!(
                (subject::events_started(exec_id, pc_id).as_str(), of),
                (text, vec![StreamName::Events])
            );
            assert!(!exec_id.contains('.') && subject::is_start(text));
        }
        Some(Subject::Inventory { pc_id, category }) => {
            assert_eq!(
                (subject::inventory(pc_id, category).as_str(), of),
                (text, vec![StreamName::Inventory])
            );
            assert!(!category.contains('.'));
        }
        None => {}
    }
    let hash = SubjectHash::of(text);
    assert_eq!(SubjectHash::parse(&hash.to_string()), Some(hash));
    if let Some(hash) = SubjectHash::parse(text) {
        assert_eq!(
            hash.to_string(),
            text.to_ascii_lowercase(),
            "a hash is 16 digits and nothing else"
        );
    }
}

fn keys(text: &str) {
    let (group, pc) = (kv::agent_config_group_key(text), kv::agent_config_pc_key(text));
    assert_eq!(kv::parse_agent_config_group_key(&group), Some(text));
    assert_eq!(kv::parse_agent_config_pc_key(&pc), Some(text));
    assert_eq!(
        (
            kv::parse_agent_config_group_key(&pc),
            kv::parse_agent_config_pc_key(&group)
        ),
        (None, None)
    );
    if let Some(rest) = kv::parse_agent_config_group_key(text) {
        assert_eq!(kv::agent_config_group_key(rest), text);
        assert_eq!(kv::parse_agent_config_pc_key(text), None);
    }
    if let Some(rest) = kv::parse_agent_config_pc_key(text) {
        assert_eq!(kv::agent_config_pc_key(rest), text);
    }
}

fn objects(request_id: &str, pc_id: &str, content: &str) {
    for field in [Field::Stdout, Field::Stderr] {
        let names = object::candidates(request_id, pc_id, field, content.as_bytes());
        assert_eq!(names.len(), 10);
        for name in &names {
            assert!(object::belongs_to(name, request_id));
            let parsed = object::parse(name).unwrap();
            assert_eq!(parsed.field, field);
            if !request_id.contains('/') {
                assert_eq!((parsed.request_id, parsed.pc_id), (request_id, Some(pc_id)));
            }
        }
        assert!(
            names
                .iter()
                .enumerate()
                .all(|(at, name)| !names[..at].contains(name))
        );
        assert_eq!(Field::parse(field.as_str()), Some(field));
    }
    // Any text as a pointer: what is read of it puts it together again.
    if let Some(name) = object::parse(request_id) {
        let pc_id = name.pc_id.map(|pc_id| format!("/{pc_id}")).unwrap_or_default();
        let alternate = name
            .alternate
            .map(|alternate| format!(".{alternate}"))
            .unwrap_or_default();
        assert_eq!(
            format!("{}{pc_id}/{}{alternate}", name.request_id, name.field),
            request_id
        );
    }
    let subject = object::meta_subject("b", request_id);
    let encoded = subject.strip_prefix("$O.b.M.").unwrap();
    assert!(
        encoded
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte)),
        "{subject}"
    );
    assert_eq!(encoded.len(), request_id.len().div_ceil(3) * 4);
}

fn streams(text: &str) {
    let found = StreamName::parse(text);
    assert_eq!(
        found.map(StreamName::as_str),
        found.map(|_| text.to_ascii_uppercase()).as_deref()
    );
}
