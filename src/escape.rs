//! Makes text from outside safe for one line of a terminal: it moves no cursor and forges no second line.

/// Starts the line that says what the user can try.
const HINT: &str = "\ntry: ";

/// Escapes control characters but tabs, and drops colors.
pub fn escape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        if let Some(behind) = color(next, rest.as_str()) {
            rest = behind.chars();
        } else if next.is_control() && next != '\t' {
            plain.extend(next.escape_default());
        } else {
            plain.push(next);
        }
    }
    plain
}

/// The same for our own messages, whose hint has its own line.
pub fn escape_but_for_hints(text: &str) -> String {
    let parts = text.split(HINT).map(escape);
    parts.collect::<Vec<_>>().join(HINT)
}

/// One of our own messages, and its hint if it has one.
pub fn divide_hint(text: &str) -> (&str, Option<&str>) {
    match text.split_once(HINT) {
        Some((what, hint)) => (what, Some(hint)),
        None => (text, None),
    }
}

/// Continues the sentence of one of our own messages: its hint stays behind that, on its own line.
pub fn continue_before_hint(text: &str, more: &str) -> String {
    match divide_hint(text) {
        (what, Some(hint)) => format!("{what}{more}{HINT}{hint}"),
        (what, None) => format!("{what}{more}"),
    }
}

/// What follows a color (`ESC [ 1 ; 3 1 m`), if the text begins with one.
fn color(first: char, rest: &str) -> Option<&str> {
    let rest = rest.strip_prefix('[').filter(|_| first == '\x1b')?;
    let behind = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
    behind.strip_prefix('m')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_moves_the_cursor_or_begins_a_line() {
        assert_eq!(escape("naïve ü 漢字"), "naïve ü 漢字");
        assert_eq!(escape("\x1b[1;31mred\x1b[0m"), "red");
        assert_eq!(escape("main.go:8\n\t+0xc5"), "main.go:8\\n\t+0xc5");
        assert_eq!(escape("a\x1b[2Jb\r\n\u{9b}c"), r"a\u{1b}[2Jb\r\n\u{9b}c");
    }

    #[test]
    fn a_sentence_goes_on_before_its_hint() {
        let text = continue_before_hint("cannot run x\ntry: chmod +x x", "; the old one serves");
        assert_eq!(text, "cannot run x; the old one serves\ntry: chmod +x x");
        assert_eq!(
            continue_before_hint("cannot run x", "; so"),
            "cannot run x; so"
        );
    }

    #[test]
    fn a_hint_keeps_its_line() {
        let text = "cannot run x\ny\ntry: z\n";
        assert_eq!(escape_but_for_hints(text), "cannot run x\\ny\ntry: z\\n");
    }

    proptest! {
        #[test]
        fn no_text_keeps_a_control_character_but_tabs(text in any::<String>()) {
            prop_assert!(!escape(&text).replace('\t', "").contains(char::is_control));
        }
    }
}
