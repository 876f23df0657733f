//! Text from outside, made inert: what an agent has sent cannot steer a terminal, turn a line around, end one or begin
//! another. The one place that says which characters do.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character does something else than stand in its place: controls (C0, DEL, C1), direction marks, line and
/// paragraph separators, and those that nobody sees.
#[must_use]
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Those as `\n`, `\u{1b}` and the like, all else as it is: one line. Cut after `max` characters of the text.
#[must_use]
pub fn inert(text: &str, max: usize) -> Cow<'_, str> {
    let end = text.char_indices().nth(max).map(|(at, _)| at);
    let kept = end.and_then(|end| text.get(..end)).unwrap_or(text);
    if end.is_none() && !kept.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(kept.len());
    for c in kept.chars() {
        if steers(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    if end.is_some() {
        shown.push('…');
    }
    Cow::Owned(shown)
}

/// The same within JSON that is written already, where these stand in texts only: there an escape means the character
/// itself. Ends of lines between its values stay.
#[must_use]
pub fn inert_json(json: &str) -> Cow<'_, str> {
    let steers = |c: char| c != '\n' && steers(c);
    if !json.chars().any(steers) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if steers(c) {
            json_escape(&mut shown, c);
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// A character as JSON escapes it: one beyond the first plane in two halves.
pub fn json_escape(json: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        // Writing into a String cannot fail.
        let _written = write!(json, "\\u{unit:04x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &str = "a\u{1b}[31mred\u{7}\n\u{9b}m\u{7f}\u{0}\u{202e}b\u{2028}\u{61c}\u{e0041}";

    #[test]
    fn outside_text_cannot_steer_a_terminal_nor_end_its_line() {
        assert_eq!(
            inert(NASTY, 100),
            "a\\u{1b}[31mred\\u{7}\\n\\u{9b}m\\u{7f}\\u{0}\\u{202e}b\\u{2028}\\u{61c}\\u{e0041}"
        );
        assert_eq!(inert("abcdef", 3), "abc…");
        assert!(matches!(inert("abc", 3), Cow::Borrowed("abc")));
        assert_eq!(inert("é\u{e9}日本 \"<b>\" \\", 100), "éé日本 \"<b>\" \\");
    }

    #[test]
    fn inert_json_cannot_steer_a_terminal_and_reads_back_the_same() {
        let document = serde_json::json!({ NASTY: [NASTY, "é"] });
        let shown = serde_json::to_string_pretty(&document).unwrap();
        let shown = inert_json(&shown);
        assert!(!shown.chars().any(|c| c != '\n' && steers(c)), "{shown}");
        assert!(shown.contains('é'));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            document
        );
    }
}
