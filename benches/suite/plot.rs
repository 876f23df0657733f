//! The growth as a picture: an SVG of our own, since its colours must follow the reader's scheme by a rule of CSS, for which a
//! plotting crate's output would have to be rewritten.

use std::fmt::Write;

use crate::report::Slice;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 50.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}\
     .grid{stroke:#d1d9e0}.product{stroke:#0969da}.bare{stroke:#8c6a00}\
     text.product{fill:#0969da;stroke:none}text.bare{fill:#8c6a00;stroke:none}\
     path{fill:none;stroke-width:2}path.bare{stroke-dasharray:6 4}\
     @media(prefers-color-scheme:dark){text{fill:#d1d7e0}.grid{stroke:#3d444d}\
     .product{stroke:#4493f8}.bare{stroke:#d4a72c}text.product{fill:#4493f8}text.bare{fill:#d4a72c}}";

/// A round number of steps that reach up to a value: the size of one.
fn step(up_to: f64, steps: f64) -> f64 {
    let rough = up_to / steps;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    step.into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

/// Thousands, or millions where the largest of them is some.
fn short(number: f64, largest: f64) -> String {
    if number == 0.0 {
        "0".to_owned()
    } else if largest >= 1e6 {
        format!("{} M", number / 1e6)
    } else {
        format!("{} k", number / 1e3)
    }
}

/// Rates against rows stored.
pub fn svg(slices: &[Slice]) -> String {
    let most_rows = slices.last().map_or(1.0, |slice| slice.stored as f64);
    let most = slices
        .iter()
        .map(|slice| slice.product.max(slice.bare))
        .fold(1.0, f64::max);
    let (step_x, step_y) = (step(most_rows, 10.0), step(most, 6.0));
    let top = (most / step_y).ceil() * step_y;
    let x = |rows: f64| LEFT + (WIDTH - LEFT - RIGHT) * rows / most_rows;
    let y = |rate: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate / top;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Rows per second against rows stored\">\n<style>{STYLE}</style>\n"
    );
    let steps =
        |step: f64, end: f64| (0..=(end / step + 0.001) as usize).map(move |number| number as f64 * step);
    for rate in steps(step_y, top) {
        let y = y(rate);
        writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            short(rate, top)
        )
        .unwrap();
    }
    for rows in steps(step_x, most_rows) {
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x(rows),
            HEIGHT - BOTTOM + 18.0,
            short(rows, most_rows)
        )
        .unwrap();
    }
    writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"20\">rows per second</text>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">rows stored</text>",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 10.0
    )
    .unwrap();
    let rates = |of: fn(&Slice) -> f64| slices.iter().map(of).collect::<Vec<_>>();
    let lines = [
        ("bare", "insert alone", rates(|slice| slice.bare)),
        ("product", "whole path", rates(|slice| slice.product)),
    ];
    let ends = [0, 1].map(|line| y(lines[line].2.last().copied().unwrap_or(0.0)));
    // A slice's rate stands in its middle.
    let half = slices.first().map_or(0.0, |slice| slice.stored as f64 / 2.0);
    for ((class, name, rates), label) in lines.iter().zip(apart(ends)) {
        let points: Vec<String> = (slices.iter().zip(rates))
            .map(|(slice, rate)| format!("{:.1} {:.1}", x(slice.stored as f64 - half), y(*rate)))
            .collect();
        writeln!(
            svg,
            "<path class=\"{class}\" d=\"M{}\"/><text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
            points.join("L"),
            WIDTH - RIGHT + 6.0,
            label + 4.0
        )
        .unwrap();
    }
    svg + "</svg>\n"
}

/// The heights of two labels, where they do not lie on each other.
fn apart([one, other]: [f64; 2]) -> [f64; 2] {
    let missing = (16.0 - (one - other).abs()).max(0.0) / 2.0;
    let shift = if one < other { missing } else { -missing };
    [one - shift, other + shift]
}
