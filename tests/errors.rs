//! Every error that an operator can meet says what to do, or docs/OPERATING.md does.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::string_slice)]

#[path = "support/sources.rs"]
mod sources;

use std::fs;
use std::path::Path;

use results_projector::projection::issue::IssueCode;

/// Where the words of errors are made: what stands before their text.
const MAKERS: [&str; 11] = [
    "#[error(",
    "Unusable(",
    "Usage(",
    "Unavailable(",
    "Broken(",
    "Undone(",
    "Configuration(",
    "ConfigError(",
    "Locked(",
    "Silent(",
    "Message::Dead(",
];
/// By these an error says itself what to do.
const WAYS_OUT: [&str; 17] = [
    "; ",
    ": name ",
    ": say ",
    "? name ",
    ": start ",
    ": let ",
    ": wait ",
    ": put ",
    ": keep ",
    ": stop ",
    ": end ",
    ": `rebuild`",
    "try again",
    "is needed: ",
    "expected",
    "is the server running",
    "(`config show`",
];

/// The text of a literal that begins here, its line ends with a backslash joined; `None` when none does.
fn literal(code: &str) -> Option<String> {
    let mut rest = code.trim_start();
    rest = rest.strip_prefix("format!(").unwrap_or(rest).trim_start();
    let mut chars = rest.strip_prefix('"')?.chars().peekable();
    let mut text = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Some(text),
            '\\' => match chars.next()? {
                '\n' => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                'n' => text.push('\n'),
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
    None
}

/// The fixed words of an error: what stands outside its braces.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut depth = 0;
    for c in text.chars() {
        match c {
            '{' => {
                depth += 1;
                words.push(String::new());
            }
            '}' => depth -= 1,
            other if depth == 0 => words.last_mut().unwrap().push(other),
            _ => {}
        }
    }
    let trimmed = words
        .iter()
        .map(|part| part.trim_matches(|c: char| " :;,.'\"()".contains(c)).to_owned());
    trimmed
        .filter(|part| part.chars().filter(|c| c.is_alphabetic()).count() > 3)
        .collect()
}

#[test]
fn every_error_says_what_to_do_or_the_operators_guide_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("docs/OPERATING.md")).unwrap();
    let mut files = Vec::new();
    sources::sources(&root.join("src"), &mut files);
    let (mut seen, mut unexplained) = (0, Vec::new());
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for maker in MAKERS {
            for (at, _) in code.match_indices(maker) {
                let Some(error) = literal(&code[at + maker.len()..]) else {
                    continue;
                };
                seen += 1;
                let itself = WAYS_OUT.iter().any(|way| error.contains(way))
                    || ["{hint}", "{way_out}", "{expected}", "{refusal}"]
                        .iter()
                        .any(|way| error.contains(way));
                let explained = words(&error).iter().all(|words| guide.contains(words.as_str()));
                if !itself && !explained {
                    unexplained.push(format!("{}: {error}", path.strip_prefix(root).unwrap().display()));
                }
            }
        }
    }
    assert!(seen > 60, "only {seen} errors were found");
    assert!(
        unexplained.is_empty(),
        "neither says what to do:\n{}",
        unexplained.join("\n")
    );
}

#[test]
fn every_code_of_an_issue_is_in_the_operators_guide() {
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATING.md")).unwrap();
    for code in IssueCode::ALL {
        assert!(
            guide.contains(&format!("`{code}`")),
            "{code} is not in docs/OPERATING.md"
        );
    }
}
