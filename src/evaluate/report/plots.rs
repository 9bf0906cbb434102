//! Plots as SVG: means with their standard errors, and prompts with and without a LoRA.

use std::fmt::Write as _;

use crate::evaluate::measures::Estimate;

/// Width of a plot, of its labels, and height of a row, in units of its view box.
const WIDTH: f64 = 360.0;
const LABELS: f64 = 132.0;
const ROW: f64 = 22.0;
/// Characters of a label that fit.
pub const LONGEST: usize = 21;

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
}

impl Axis {
    /// Spans all values of `rows` and `mark`, with room beside.
    fn new(rows: &[Row], mark: Option<f64>) -> Axis {
        let of_row = |row: &Row| {
            let error = row.value.standard_error.unwrap_or(0.0);
            [Some(row.value.mean - error), Some(row.value.mean + error), row.other]
        };
        let values = rows.iter().flat_map(of_row).flatten().chain(mark).filter(|v| v.is_finite());
        let (from, to) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let (from, to) = if from <= to { (from, to) } else { (0.0, 1.0) };
        let room = ((to - from) * 0.08).max(0.005);
        Axis { from: from - room, to: to + room }
    }

    fn x(&self, value: f64) -> f64 {
        LABELS + (value - self.from) / (self.to - self.from) * (WIDTH - LABELS - 12.0)
    }
}

/// Draws `rows` below each other, and a line at `mark`. `alt` says in words what the plot shows.
pub fn dots(rows: &[Row], mark: Option<f64>, alt: &str) -> String {
    let axis = Axis::new(rows, mark);
    let height = ROW * rows.len() as f64 + 20.0;
    let alt = escaped(alt);
    let mut svg = format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{alt}\"><title>{alt}</title>"
    );
    let bottom = ROW * rows.len() as f64 + 2.0;
    // Writing to a string does not fail.
    let _ = write!(svg, "<path class=\"axis\" d=\"M{LABELS} {bottom}H{:.1}\"/>", WIDTH - 12.0);
    for (share, anchor) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
        let value = axis.from + share * (axis.to - axis.from);
        let at = axis.x(value);
        // Not "-0.00".
        let value = (value * 100.0).round() / 100.0 + 0.0;
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{value:.2}</text>",
            bottom + 14.0
        );
    }
    if let Some(mark) = mark {
        let _ = write!(svg, "<path class=\"mark\" d=\"M{:.1} 0V{bottom}\"/>", axis.x(mark));
    }
    for (i, row) in rows.iter().enumerate() {
        draw_row(&mut svg, &axis, row, ROW * (i as f64 + 0.5));
    }
    svg + "</svg>"
}

fn draw_row(svg: &mut String, axis: &Axis, row: &Row, y: f64) {
    let (x, baseline) = (axis.x(row.value.mean), y + 4.0);
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

/// `text` in the length of a label.
fn shortened(text: &str) -> String {
    match text.chars().count() > LONGEST {
        true => text.chars().take(LONGEST - 1).chain(['…']).collect(),
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

    #[test]
    fn labels_are_escaped_and_shortened() {
        let svg = dots(&[row("<script>\u{7} & \"a very long label\"", 0.5, None, None)], None, "a \"b\" <c>");
        assert!(svg.contains("&lt;script&gt; &amp; &quot;a very …</text>"), "{svg}");
        assert!(svg.contains("aria-label=\"a &quot;b&quot; &lt;c&gt;\""), "{svg}");
    }
}
