//! The report as a JUnit file, for CI.

use std::time::Duration;

use super::{Report, describe};
use crate::escape::escape;

impl Report {
    /// One test case for the start and the swaps, and one for each kind of client.
    pub fn junit(&self) -> String {
        let mut cases = case(
            "swaps",
            self.took,
            self.problem.as_deref(),
            &self.last_lines,
        );
        for (habit, count) in &self.tally.by_habit {
            let failed = (count.failed() > 0).then(|| describe(count));
            cases += &case(
                &format!("{habit} clients"),
                count.slowest,
                failed.as_deref(),
                &[],
            );
        }
        let tests = 1 + self.tally.by_habit.len();
        let failures = cases.matches("<failure ").count();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuite name=\"hotswap smoke\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" time=\"{}\">\n\
             {cases}</testsuite>\n",
            self.took.as_secs_f64()
        )
    }
}

/// `lines` are what was written until it failed.
fn case(name: &str, took: Duration, failure: Option<&str>, lines: &[String]) -> String {
    let inner = failure.map_or_else(String::new, |why| {
        let lines: Vec<String> = lines.iter().map(|line| escaped(&escape(line))).collect();
        let (why, lines) = (escaped(why), lines.join("\n"));
        format!("<failure message=\"{why}\">{lines}</failure>")
    });
    let (name, took) = (escaped(name), took.as_secs_f64());
    format!(
        "  <testcase classname=\"hotswap\" name=\"{name}\" time=\"{took}\">{inner}</testcase>\n"
    )
}

/// Fit for an attribute of XML 1.0, which has no way to spell most control characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\r' | '\t' => escaped.push(' '),
            '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_breaks_the_junit_file() {
        assert_eq!(
            escaped("a<b>&\"c\"\x1b\n"),
            "a&lt;b&gt;&amp;&quot;c&quot;? "
        );
    }
}
