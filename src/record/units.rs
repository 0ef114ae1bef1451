//! How durations, counts and signals are written.

use std::time::Duration;

use nix::sys::signal::Signal;

/// `SIGTERM`, or `signal 37` for a real-time signal.
pub fn signal_name(number: i32) -> String {
    let known = Signal::try_from(number).map(Signal::as_str);
    known.map_or_else(|_| format!("signal {number}"), str::to_owned)
}

/// `38ms`, `1.2s`, `30s`, `2m`, `2m 5s`.
pub fn format_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let tenths = (milliseconds + 50) / 100;
    match milliseconds {
        0..1000 => format!("{milliseconds}ms"),
        1000..59_950 if tenths.is_multiple_of(10) => format!("{}s", tenths / 10),
        1000..59_950 => format!("{}.{}s", tenths / 10, tenths % 10),
        _ => {
            let seconds = (milliseconds + 500) / 1000;
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            let parts = [(hours, "h"), (minutes, "m"), (seconds, "s")];
            let parts: Vec<String> = parts
                .iter()
                .filter(|part| part.0 > 0)
                .take(2)
                .map(|part| format!("{}{}", part.0, part.1))
                .collect();
            parts.join(" ")
        }
    }
}

pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub fn plural(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_exact_as_one_wants_to_read() {
        let said = [
            38, 999, 1200, 1000, 30_000, 59_949, 60_000, 125_000, 3_600_000, 3_725_000,
        ]
        .map(|t| format_duration(Duration::from_millis(t)));
        assert_eq!(
            said,
            [
                "38ms", "999ms", "1.2s", "1s", "30s", "59.9s", "1m", "2m 5s", "1h", "1h 2m"
            ]
        );
    }
}
