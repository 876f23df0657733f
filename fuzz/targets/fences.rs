//! A script's output, and the blocks that hints read of it (contract §4.4).

use results_projector::wire::fence::{Hint, block};

/// The markers of the four kinds of block; the last is nobody's hint.
const KINDS: [(Option<Hint>, &str); 4] = [
    (Some(Hint::Inventory), "INVENTORY"),
    (Some(Hint::Check), "CHECK"),
    (Some(Hint::Feed), "FEED"),
    (None, "COLLECT"),
];

pub(crate) fn run(data: &[u8]) {
    // The text as a message or an object gives it.
    let stdout = String::from_utf8_lossy(data);
    for (hint, kind) in KINDS {
        let Some(hint) = hint else { continue };
        let found = block(&stdout, hint);
        assert_eq!(found, expected(&stdout, kind), "{hint:?}");
        assert_eq!(found, found.trim());
        // What is read is a piece of the output and no copy: the output may be all of the budget.
        let (whole, piece) = (stdout.as_bytes().as_ptr_range(), found.as_bytes().as_ptr_range());
        assert!(found.is_empty() || (whole.start <= piece.start && piece.end <= whole.end));

        // Whatever is printed before a block, as long as it is no block, does not change what is in it.
        let again = format!("said before\n#KANADE-{kind}-BEGIN\n{found}\n#KANADE-{kind}-END\nsaid after");
        if !starts_line(found, &format!("#KANADE-{kind}-END")) {
            assert_eq!(block(&again, hint), found, "{hint:?} in a block again");
        }
    }
}

fn starts_line(text: &str, marker: &str) -> bool {
    text.split('\n').any(|line| line.starts_with(marker))
}

/// The contract's rules line by line.
fn expected<'a>(stdout: &'a str, kind: &str) -> &'a str {
    let begin = format!("#KANADE-{kind}-BEGIN");
    let end = format!("#KANADE-{kind}-END");
    let mut at = 0;
    let mut from = None;
    for line in stdout.split_inclusive('\n') {
        match from {
            None if line.starts_with(&begin) => {
                from = Some(at + begin.len());
                // To the backend the text after a marker begins a line: a block may end where it began.
                if line[begin.len()..].starts_with(&end) {
                    return "";
                }
            }
            Some(from) if line.starts_with(&end) => return stdout[from..at].trim(),
            _ => {}
        }
        at += line.len();
    }
    if let Some(from) = from {
        return stdout[from..].trim();
    }
    if KINDS
        .iter()
        .any(|(_, kind)| starts_line(stdout, &format!("#KANADE-{kind}-BEGIN")))
    {
        return "";
    }
    stdout.trim()
}
