//! The configuration file with every setting in it, each with what it is for and its default.

use std::fmt::Write;

use super::settings::{SETTINGS, Setting};

/// Columns of a comment.
const WIDTH: usize = 100;

const HEAD: &str = "\
# The configuration of results-projector. Every setting stands here with its default, commented out: a setting is made by taking
# the sign before it away. Flags beat the environment, which beats this file, which beats the defaults; each setting has a
# variable, RESULTS_PROJECTOR_ and its name in capitals, for instance RESULTS_PROJECTOR_STORE_PAGE_CACHE. Sizes and times carry
# units. `results-projector config check` says whether all is well, `config show` where each value comes from.
# Secrets stand in files of their own, which are named here.
";

/// The text: no setting is set in it.
#[must_use]
pub fn example() -> String {
    let mut text = HEAD.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        let (of, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if of != section {
            section = of;
            // Writing into a text does not fail.
            let _written = write!(text, "\n[{section}]\n");
        } else {
            text.push('\n');
        }
        comment(&mut text, &doc(setting));
        let _written = writeln!(text, "#{name} = {}", value(setting));
    }
    text
}

fn doc(setting: &Setting) -> String {
    let mut doc = setting.doc.to_owned();
    if setting.default.is_none() {
        doc.push_str("; not set by default");
    }
    match (setting.env, setting.flag) {
        (Some(env), Some(flag)) => doc.push_str(&format!(" (also {env}, --{flag})")),
        (Some(env), None) => doc.push_str(&format!(" (also {env})")),
        (None, Some(flag)) => doc.push_str(&format!(" (also --{flag})")),
        (None, None) => {}
    }
    doc
}

fn value(setting: &Setting) -> String {
    match setting.default {
        Some(number) if number.parse::<u32>().is_ok() => number.to_owned(),
        other => format!("\"{}\"", other.unwrap_or_default()),
    }
}

/// In lines of [`WIDTH`], broken between words.
fn comment(text: &mut String, doc: &str) {
    let mut line = "#".to_owned();
    for word in doc.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = "#".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
