//! A plot of what was measured: tokens per second over sequences, and the time between tokens.

use super::{Measured, Point};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
const MARGIN: f64 = 48.0;

/// Colour of a line, and a point's part of its height.
type Line<'a> = (&'a str, &'a dyn Fn(&Point) -> f64);

/// One panel a model, as an SVG.
pub(super) fn svg(models: &[Measured]) -> String {
    let height = (HEIGHT + 24.0) * models.len().max(1) as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (at, model) in models.iter().enumerate() {
        out.push_str(&format!("<g transform=\"translate(0 {})\">\n", (HEIGHT + 24.0) * at as f64));
        panel(&mut out, model);
        out.push_str("</g>\n");
    }
    out + "</svg>\n"
}

fn panel(out: &mut String, model: &Measured) {
    let name = model.model.replace('&', "&amp;").replace('<', "&lt;");
    let most = |value: fn(&Point) -> f64| model.points.iter().map(value).fold(1.0, f64::max);
    let (speed, wait) = (most(|p| p.output_tokens_per_second), most(|p| p.inter_token_p99_ms));
    out.push_str(&format!(
        "<text x=\"{MARGIN}\" y=\"18\" font-weight=\"bold\">{name}</text>\n\
         <text x=\"{MARGIN}\" y=\"34\" fill=\"#1b6ca8\">output tokens/s, most {speed:.0}</text>\n\
         <text x=\"{}\" y=\"34\" fill=\"#b5532a\" text-anchor=\"end\">p99 between tokens, most {wait:.1} ms</text>\n",
        WIDTH - MARGIN
    ));
    let last = model.points.len().saturating_sub(1).max(1) as f64;
    let place = |at: usize, part: f64| {
        (MARGIN + (WIDTH - 2.0 * MARGIN) * at as f64 / last, HEIGHT - 8.0 - (HEIGHT - 56.0) * part)
    };
    let lines: [Line<'_>; 2] = [
        ("#1b6ca8", &|point| point.output_tokens_per_second / speed),
        ("#b5532a", &|point| point.inter_token_p99_ms / wait),
    ];
    for (color, part) in lines {
        let line: Vec<String> = model
            .points
            .iter()
            .enumerate()
            .map(|(at, point)| place(at, part(point)))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let line = line.join(" ");
        out.push_str(&format!(
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>\n"
        ));
    }
    for (at, point) in model.points.iter().enumerate() {
        let (x, _) = place(at, 0.0);
        let sequences = point.sequences;
        out.push_str(&format!(
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{sequences}</text>\n",
            HEIGHT + 8.0
        ));
    }
}
