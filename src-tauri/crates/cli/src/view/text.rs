//! Lines of styled text, and how wide they are.

use minitunnel_model::Timestamp;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::out::printable;

/// One line of the view.
pub(crate) type Line = Vec<Span>;

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) style: Style,
    /// Printable.
    pub(crate) text: String,
}

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    /// A name to find.
    Bold,
    /// Beside the point.
    Dim,
    /// As it should be.
    Good,
    /// On its way, or waiting.
    Busy,
    /// In need of somebody.
    Bad,
}

/// A piece of text, whose control characters are harmless from here on.
pub(crate) fn span(style: Style, text: &str) -> Span {
    let text = printable(text);
    Span { style, text }
}

/// Columns that the line takes.
pub(crate) fn width(line: &[Span]) -> usize {
    line.iter().map(|span| span.text.width()).sum()
}

/// Fills a cell up to `wide` columns, or cuts it there.
pub(crate) fn column(cell: Span, wide: usize) -> Span {
    let mut cells = clip(vec![cell], wide);
    match cells.pop() {
        Some(mut cell) => {
            let missing = wide.saturating_sub(cell.text.width());
            cell.text.push_str(&" ".repeat(missing));
            cell
        }
        None => span(Style::Plain, &" ".repeat(wide)),
    }
}

/// Cuts a line off at `wide` columns, visibly.
pub(crate) fn clip(line: Line, wide: usize) -> Line {
    if width(&line) <= wide {
        return line;
    }
    let mut room = wide.saturating_sub(1);
    let mut out = Line::new();
    for mut span in line {
        let cut = prefix(&span.text, room);
        room -= span.text[..cut].width();
        let whole = cut == span.text.len();
        span.text.truncate(cut);
        if !whole && wide > 0 {
            span.text.push('…');
        }
        out.push(span);
        if !whole {
            break;
        }
    }
    out
}

/// Breaks a text into lines of at most `wide` columns, between words where that is possible.
pub(crate) fn wrap(text: &str, wide: usize) -> Vec<String> {
    let wide = wide.max(1);
    let text = printable(text);
    let mut lines = Vec::new();
    let mut line = String::new();
    for mut word in text.split(' ') {
        if !line.is_empty() && line.width() + 1 + word.width() > wide {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        while word.width() > wide {
            // A character that is wider than the window is not broken.
            let first = word.chars().next().map_or(0, char::len_utf8);
            let (now, later) = word.split_at(prefix(word, wide).max(first));
            lines.push(now.to_owned());
            word = later;
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// How many bytes of the text take at most `room` columns.
fn prefix(text: &str, room: usize) -> usize {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > room {
            return at;
        }
    }
    text.len()
}

/// How long ago that was, in minutes and more: what a view shows between two events.
pub(crate) fn ago(since: Timestamp, now: Timestamp) -> String {
    let minutes = now.0.saturating_sub(since.0) / 60_000;
    match (minutes / 60, minutes % 60) {
        (0, 0) => "<1 min".into(),
        (0, minutes) => format!("{minutes} min"),
        (hours @ 1..24, minutes) => format!("{hours} h {minutes} min"),
        (hours, _) => format!("{} d {} h", hours / 24, hours % 24),
    }
}
