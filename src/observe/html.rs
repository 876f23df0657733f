//! What the page is put together of: texts made harmless, lists, tables, pictures.

use std::fmt::Write;

use super::history::every;
use crate::wire::inert::inert;
use crate::wire::shown::{grouped, span};

/// Characters of a value.
const VALUE_MAX: usize = 300;
/// Height and width of a picture, in its own units.
const HEIGHT: f64 = 40.0;
const WIDTH: f64 = 240.0;

#[expect(clippy::cast_precision_loss, reason = "a point of a picture")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// What was sampled in the last hour, from left to right; in words too, for those who do not see it.
pub(super) fn picture(what: &str, how: &str, values: &[f64], samples: usize) -> String {
    let most = values.iter().copied().fold(0.0, f64::max);
    if values.len() < 2 {
        return String::new();
    }
    let step = WIDTH / float(values.len().saturating_sub(1) as u64);
    let mut points = String::new();
    for (index, value) in values.iter().enumerate() {
        let height = if most > 0.0 {
            value / most * (HEIGHT - 2.0)
        } else {
            0.0
        };
        let _written = write!(
            points,
            "{:.1},{:.1} ",
            step * float(index as u64),
            HEIGHT - 1.0 - height
        );
    }
    let time = span(every() * u32::try_from(samples).unwrap_or(u32::MAX));
    let told = format!("{what}: {} {how} in the last {time}", grouped(most.ceil() as u64));
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{told}\">\
         <title>{told}</title><polyline points=\"{}\"/></svg><span class=\"dim\">{told}</span>",
        points.trim_end()
    )
}

/// Names and what stands behind them, which is HTML already.
pub(super) fn list(facts: &[(&str, String)]) -> String {
    let lines = facts
        .iter()
        .map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>"));
    format!("<dl>{}</dl>", lines.collect::<String>())
}

/// Cells are HTML already.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
    let rows: String = rows
        .iter()
        .map(|row| {
            let cells: String = row.iter().map(|cell| format!("<td>{cell}</td>")).collect();
            format!("<tr>{cells}</tr>")
        })
        .collect();
    format!("<div class=\"wide\"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>")
}

/// A stored time as people read it: to the second, in UTC.
pub(super) fn when(stored: &str) -> String {
    let (day, time) = stored.split_once('T').unwrap_or((stored, ""));
    let time = time.get(..8).unwrap_or(time);
    format!("<span>{} {} UTC</span>", text(day), text(time))
}

/// Our own words, with commands between backticks.
pub(super) fn with_code(words: &str) -> String {
    let parts = words.split('`').enumerate();
    let told = parts.map(|(index, part)| match index % 2 {
        0 => text(part),
        _ => format!("<code>{}</code>", text(part)),
    });
    told.collect()
}

/// Text from outside: inert, cut, escaped.
pub(super) fn text(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in inert(value, VALUE_MAX).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_stays_text() {
        assert_eq!(
            text("<img src=x onerror='alert(1)'>&\"\u{1b}"),
            "&lt;img src=x onerror=&#39;alert(1)&#39;&gt;&amp;&quot;\\u{1b}"
        );
        assert_eq!(
            text(&"x".repeat(1_000)).chars().filter(|c| *c == 'x').count(),
            VALUE_MAX
        );
    }

    #[test]
    fn a_picture_is_told_in_words_too() {
        let drawn = picture("messages behind", "at most", &[0.0, 10.0, 5.0], 3);
        assert!(
            drawn.contains("points=\"0.0,39.0 120.0,1.0 240.0,20.0\""),
            "{drawn}"
        );
        assert!(drawn.contains("10 at most in the last 45 s"), "{drawn}");
        assert_eq!(picture("messages behind", "at most", &[1.0], 1), "");
    }
}
