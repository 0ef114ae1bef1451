//! One swap as a picture: each request a dot, by when it was meant to be made and how long it took.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Instant;

use crate::load::Request;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 40.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = HEIGHT - 40.0;
const COLORS: [&str; 2] = ["#3b6fb6", "#e0922f"];
const FAILED: &str = "#d00000";
/// The fastest that is told apart, in milliseconds; above it each decade has a line.
const LEAST: f64 = 0.1;

/// An SVG of these requests; `asked` is when the swap was asked for.
pub fn of(asked: Instant, requests: &[Request]) -> String {
    let at = |request: &Request| {
        let later = request.at.saturating_duration_since(asked).as_secs_f64();
        (later - asked.saturating_duration_since(request.at).as_secs_f64()) * 1000.0
    };
    let took = |request: &Request| request.took.as_secs_f64() * 1000.0;
    let first = requests.iter().map(at).fold(0.0, f64::min);
    let last = requests.iter().map(at).fold(1.0, f64::max);
    let slowest = requests.iter().map(took).fold(LEAST, f64::max);
    let decades = (slowest / LEAST).log10().ceil().max(2.0);
    let x = |ms: f64| LEFT + (ms - first) / (last - first) * (RIGHT - LEFT);
    let y = |ms: f64| BOTTOM - (ms.max(LEAST) / LEAST).log10() / decades * (BOTTOM - TOP);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut line = LEAST;
    while y(line) >= TOP - 1.0 {
        let y = y(line);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{line} ms</text>",
            LEFT - 8.0,
            y + 4.0
        );
        line *= 10.0;
    }
    for (ms, words) in [
        (first, format!("{first:.0} ms")),
        (0.0, "swap asked for".to_owned()),
        (last, format!("{last:.0} ms")),
    ] {
        let x = x(ms);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {TOP}V{BOTTOM}\" stroke=\"#999\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{words}</text>",
            BOTTOM + 20.0
        );
    }
    for request in requests {
        let color = match &request.met {
            Ok(answer) => color(answer.generation),
            Err(_) => FAILED,
        };
        let (x, y) = (x(at(request)), y(took(request)));
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"{color}\"/>"
        );
    }
    svg + &legend(requests) + "</svg>\n"
}

fn color(generation: u32) -> &'static str {
    COLORS[generation as usize % COLORS.len()]
}

fn legend(requests: &[Request]) -> String {
    let answers = requests
        .iter()
        .filter_map(|request| request.met.as_ref().ok());
    let generations: BTreeSet<u32> = answers.map(|answer| answer.generation).collect();
    let failed = requests
        .iter()
        .filter(|request| request.met.is_err())
        .count();
    let mut words = format!(
        "<text x=\"{LEFT}\" y=\"24\">{} requests, each from when it was due to the end of its answer:",
        requests.len()
    );
    for generation in generations {
        let color = color(generation);
        let _ = write!(
            words,
            " <tspan fill=\"{color}\">● generation {generation}</tspan>"
        );
    }
    let _ = writeln!(
        words,
        " <tspan fill=\"{FAILED}\">● {failed} failed</tspan></text>"
    );
    words
}
