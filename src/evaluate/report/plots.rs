//! Plots as SVG: means with their standard errors, and prompts with and without a LoRA.

use std::fmt::Write as _;

use crate::evaluate::measures::Estimate;

/// Width of a plot, of labels beside the dots and of the margin, in units of its view box.
const WIDTH: f64 = 360.0;
const LABELS: f64 = 132.0;
const MARGIN: f64 = 12.0;
/// Height of a row, and of one whose label lies above its dots.
const ROW: f64 = 22.0;
const TALL_ROW: f64 = 34.0;
/// Characters of a label that fit beside the dots, and above them.
const SHORT: usize = 21;
const LONG: usize = 56;
/// Ticks of an axis, at most.
const TICKS: f64 = 5.0;

/// Row of a plot.
pub struct Row {
    /// Label at its left.
    pub label: String,
    /// Filled dot with its standard error.
    pub value: Estimate,
    /// Hollow dot.
    pub other: Option<f64>,
}

/// Scale of values along a plot.
struct Axis {
    from: f64,
    to: f64,
    /// Where it begins in the view box.
    left: f64,
}

impl Axis {
    /// Spans all values of `rows` and `mark`, with room beside.
    fn new(rows: &[Row], mark: Option<f64>, left: f64) -> Axis {
        let of_row = |row: &Row| {
            let error = row.value.standard_error.unwrap_or(0.0);
            [Some(row.value.mean - error), Some(row.value.mean + error), row.other]
        };
        let values = rows.iter().flat_map(of_row).flatten().chain(mark).filter(|v| v.is_finite());
        let (from, to) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let (from, to) = if from <= to { (from, to) } else { (0.0, 1.0) };
        let room = ((to - from) * 0.08).max(0.005);
        Axis { from: from - room, to: to + room, left }
    }

    fn x(&self, value: f64) -> f64 {
        self.left + (value - self.from) / (self.to - self.from) * (WIDTH - self.left - MARGIN)
    }

    /// Round values along the axis, two at least, each with its label; no two labels are alike.
    fn ticks(&self) -> Vec<(f64, String)> {
        let span = self.to - self.from;
        let power = 10f64.powf((span / TICKS).log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        // The smallest step with few enough ticks.
        let count = |step: f64| (self.to / step).floor() - (self.from / step).ceil() + 1.0;
        let step = steps.into_iter().find(|step| count(*step) <= TICKS).unwrap_or(10.0 * power);
        let decimals = (-step.log10()).ceil().clamp(0.0, 9.0) as usize;
        let first = (self.from / step).ceil();
        // Not "-0.00".
        let tick = |i: usize| (first + i as f64) * step + 0.0;
        (0..count(step).max(0.0) as usize).map(tick).map(|value| (value, format!("{value:.decimals$}"))).collect()
    }
}

/// Draws `rows` below each other, and a line at `mark`. `alt` says in words what the plot shows.
pub fn dots(rows: &[Row], mark: Option<f64>, alt: &str) -> String {
    // Long labels have lines of their own, so that they need not be cut.
    let above = rows.iter().any(|row| row.label.chars().count() > SHORT);
    let (left, tall) = if above { (MARGIN, TALL_ROW) } else { (LABELS, ROW) };
    let axis = Axis::new(rows, mark, left);
    let height = tall * rows.len() as f64 + 20.0;
    let alt = escaped(alt);
    let mut svg = format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{alt}\"><title>{alt}</title>"
    );
    let bottom = tall * rows.len() as f64 + 2.0;
    // Writing to a string does not fail.
    let _ = write!(svg, "<path class=\"axis\" d=\"M{left} {bottom}H{:.1}\"/>", WIDTH - MARGIN);
    for (value, label) in axis.ticks() {
        let (at, below) = (axis.x(value), bottom + 14.0);
        let _ = write!(svg, "<path class=\"axis\" d=\"M{at:.1} {bottom}v4\"/>");
        let _ =
            write!(svg, "<text class=\"tick\" x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{label}</text>");
    }
    if let Some(mark) = mark {
        let _ = write!(svg, "<path class=\"mark\" d=\"M{:.1} 0V{bottom}\"/>", axis.x(mark));
    }
    for (i, row) in rows.iter().enumerate() {
        let (top, half) = (tall * i as f64, ROW / 2.0);
        let (label, y) = if above { (top + 11.0, top + tall - half) } else { (top + half + 4.0, top + half) };
        draw_row(&mut svg, &axis, row, [label, y]);
    }
    svg + "</svg>"
}

/// Draws a row: the baseline of its label, and the height of its dots.
fn draw_row(svg: &mut String, axis: &Axis, row: &Row, [baseline, y]: [f64; 2]) {
    let x = axis.x(row.value.mean);
    let label = escaped(&shortened(&row.label));
    let _ = write!(svg, "<text x=\"0\" y=\"{baseline:.1}\">{label}</text>");
    if let Some(other) = row.other {
        let from = axis.x(other);
        let _ = write!(svg, "<path class=\"link\" d=\"M{from:.1} {y:.1}H{x:.1}\"/>");
        let _ = write!(svg, "<circle class=\"hollow\" cx=\"{from:.1}\" cy=\"{y:.1}\" r=\"4\"/>");
    }
    if let Some(error) = row.value.standard_error {
        let (from, to) = (axis.x(row.value.mean - error), axis.x(row.value.mean + error));
        let _ = write!(svg, "<path class=\"error\" d=\"M{from:.1} {y:.1}H{to:.1}\"/>");
    }
    let _ = write!(svg, "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>");
}

/// `text` in the length of a label: labels differ at their beginnings and at their ends, so the middle goes.
fn shortened(text: &str) -> String {
    let all: Vec<char> = text.chars().collect();
    let (first, last) = (LONG / 2, LONG - LONG / 2 - 1);
    match all.len() > LONG {
        true => all[..first].iter().chain(&['…']).chain(&all[all.len() - last..]).collect(),
        false => text.to_owned(),
    }
}

/// `text` as it stands in an attribute or between tags; without characters that XML has none of.
fn escaped(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, mean: f64, error: Option<f64>, other: Option<f64>) -> Row {
        Row { label: label.into(), value: Estimate { mean, standard_error: error, count: 1 }, other }
    }

    #[test]
    fn every_dot_lies_within_the_plot() {
        let rows = [row("a", 0.2, Some(0.05), Some(-0.9)), row("b", 0.9, None, None), row("c", 0.9, Some(0.3), None)];
        let svg = dots(&rows, Some(1.4), "three");
        let numbers = |name: &str| {
            let parts = svg.split(name).skip(1);
            parts.map(|part| part.split('"').next().unwrap().parse::<f64>().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(numbers("cx=\"").len(), 4);
        assert!(numbers("cx=\"").iter().all(|x| (LABELS..=WIDTH).contains(x)), "{svg}");
        assert!(numbers("cy=\"").iter().all(|y| (0.0..ROW * 3.0).contains(y)), "{svg}");
    }

    #[test]
    fn one_value_and_none_are_drawn() {
        for rows in [vec![row("a", 0.5, None, None)], Vec::new()] {
            let svg = dots(&rows, None, "");
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    /// Texts of the ticks of a plot.
    fn ticks(svg: &str) -> Vec<&str> {
        let texts = svg.split("class=\"tick\"").skip(1);
        texts.map(|rest| rest.split(['>', '<']).nth(1).unwrap()).collect()
    }

    #[test]
    fn no_two_ticks_are_alike() {
        for (a, b) in
            [(0.5, 0.5), (0.497, 0.503), (0.0, 1e-9), (-0.004, 0.004), (-0.9, 0.9), (0.123, 0.987), (3e5, 4e5)]
        {
            let svg = dots(&[row("a", a, None, Some(b))], None, "");
            let mut found = ticks(&svg);
            assert!((2..=5).contains(&found.len()), "{a} {b}: {found:?}");
            assert!(!found.iter().any(|tick| tick.starts_with("-0") && tick.parse::<f64>() == Ok(0.0)), "{found:?}");
            let all = found.len();
            found.dedup();
            assert_eq!(found.len(), all, "{a} {b}: {found:?}");
        }
        assert_eq!(ticks(&dots(&[row("a", 0.2, None, Some(0.8))], None, "")), ["0.2", "0.4", "0.6", "0.8"]);
    }

    #[test]
    fn labels_are_escaped_and_whole() {
        let label = "<script>\u{7} & \"a very long label\"";
        let svg = dots(&[row(label, 0.5, None, None)], None, "a \"b\" <c>");
        assert!(svg.contains("&lt;script&gt; &amp; &quot;a very long label&quot;</text>"), "{svg}");
        assert!(svg.contains("aria-label=\"a &quot;b&quot; &lt;c&gt;\""), "{svg}");
        // Of what does not fit above the dots, both ends are left.
        let svg = dots(&[row(&format!("begin {} end", "x".repeat(80)), 0.5, None, None)], None, "");
        assert!(svg.contains(">begin xxx") && svg.contains("…xxx") && svg.contains("x end</text>"), "{svg}");
    }
}
