use std::fmt::Display;

/// Longer than any sentence of a parser's without its quotation.
const LONGEST: usize = 300;

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
}
