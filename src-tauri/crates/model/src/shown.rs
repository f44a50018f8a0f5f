//! Words from elsewhere, made fit to be shown.

use std::fmt::Display;

/// Longer than any sentence of a parser's without its quotation.
const LONGEST: usize = 300;

/// A text that moves no cursor, changes no terminal and begins no line, wherever it came from.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // What `escape_debug` escapes for Rust's sake alone.
            '"' | '\'' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

/// The words of a parser, which may quote what it read: short, and without control characters.
pub fn shown(error: &dyn Display) -> String {
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    error
        .to_string()
        .chars()
        .take(LONGEST)
        .map(printable)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_quotation_is_short_and_on_one_line() {
        let text = format!("unknown variant `\u{1b}[2J\n{}`", "x".repeat(10_000));
        let told = shown(&text);
        assert!(
            told.starts_with("unknown variant `\u{fffd}[2J\u{fffd}xx"),
            "{told}"
        );
        assert_eq!(told.chars().count(), 300);
    }

    #[test]
    fn hostile_text_is_one_harmless_line() {
        let text = "a \"b\" → c\\d\n\x1b[2J\r\u{9b}1m\u{202e}\u{7f}";
        let expected = "a \"b\" → c\\d\\n\\u{1b}[2J\\r\\u{9b}1m\\u{202e}\\u{7f}";
        assert_eq!(printable(text), expected);
    }
}
