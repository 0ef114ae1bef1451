//! One swap as a picture: each request a dot, by when it was meant to be made and how long it took.

use std::fmt::Write;
use std::time::Instant;

use crate::load::Request;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 50.0;
const COLOURS: [&str; 2] = ["#3b6fb6", "#e0922f"];

/// An SVG of these requests; `asked` is when the swap was asked for.
pub fn of(asked: Instant, requests: &[Request]) -> String {
    let since = |at: Instant| {
        at.saturating_duration_since(asked).as_secs_f64()
            - asked.saturating_duration_since(at).as_secs_f64()
    };
    let times = || requests.iter().map(|request| since(request.at));
    let (first, last) = (times().fold(0.0, f64::min), times().fold(0.0, f64::max));
    let slowest = requests
        .iter()
        .map(|request| request.took.as_secs_f64())
        .fold(0.001, f64::max);
    let x = |seconds: f64| MARGIN + (seconds - first) / (last - first) * (WIDTH - 2.0 * MARGIN);
    let y = |seconds: f64| HEIGHT - MARGIN - seconds / slowest * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut text = |at: (f64, f64), anchor: &str, text: &str| {
        let (x, y) = at;
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    };
    let bottom = HEIGHT - MARGIN;
    text(
        (MARGIN, MARGIN - 12.0),
        "start",
        &format!("{:.1} ms", slowest * 1000.0),
    );
    text(
        (MARGIN, bottom + 20.0),
        "middle",
        &format!("{:.0} ms", first * 1000.0),
    );
    text(
        (WIDTH - MARGIN, bottom + 20.0),
        "middle",
        &format!("{:.0} ms", last * 1000.0),
    );
    text((x(0.0), bottom + 20.0), "middle", "swap asked for");
    let failed = requests
        .iter()
        .filter(|request| request.met.is_err())
        .count();
    let title = format!("{} requests, {failed} failed", requests.len());
    text((WIDTH - MARGIN, MARGIN - 12.0), "end", &title);
    let _ = writeln!(
        svg,
        "<path d=\"M{MARGIN} {MARGIN}V{bottom}H{:.1}M{:.1} {MARGIN}V{bottom}\" fill=\"none\" stroke=\"#999\"/>",
        WIDTH - MARGIN,
        x(0.0)
    );
    for request in requests {
        let colour = match &request.met {
            Ok(answer) => COLOURS[answer.generation as usize % 2],
            Err(_) => "red",
        };
        let (x, y) = (x(since(request.at)), y(request.took.as_secs_f64()));
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"{colour}\"/>"
        );
    }
    svg + "</svg>\n"
}
