//! The terminal that a live view is drawn on, and given back as it was.
//!
//! It is drawn on the terminal's second screen, so that nothing of it stays between the lines of the first. What is typed
//! meanwhile is not shown; the signals of Ctrl-C and Ctrl-Z are as always.

use std::{
    io::{self, IsTerminal, Write},
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use minitunnel_engine::log;
use minitunnel_model::Timestamp;
use rustix::{
    process::{Signal as Number, getpgrp},
    termios::{
        InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize,
        tcsetattr,
    },
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

use crate::view::{Frame, Line, Style, width};

/// The second screen, without a cursor, and without the line that a full line would begin (`ctlseqs` of xterm).
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Around a frame, for terminals that then show it at once ("synchronized output"; the others ignore it).
const BEGIN: &str = "\x1b[?2026h\x1b[H";
const END: &str = "\x1b[?2026l";
/// How often times are drawn anew, which are in minutes.
const TICK: Duration = Duration::from_secs(60);

/// A terminal that shows a live view.
pub(crate) struct Screen {
    terminal: Arc<Terminal>,
    colours: bool,
    /// The last frame.
    drawn: String,
    resized: Signal,
    continued: Signal,
    tick: Instant,
}

/// What must be given back, by whoever comes to it first.
pub(crate) struct Terminal {
    /// Its modes before.
    before: Termios,
    entered: AtomicBool,
}

impl Screen {
    /// The standard output, if it is a terminal that can be drawn on, and nothing else writes to it.
    pub(crate) fn open() -> Option<Self> {
        let term = std::env::var("TERM").unwrap_or_default();
        if !io::stdout().is_terminal() || matches!(&*term, "" | "dumb") || log::is_shown() {
            return None;
        }
        let terminal = Arc::new(Terminal {
            before: tcgetattr(io::stdout()).ok()?,
            entered: AtomicBool::new(false),
        });
        let panicked = Arc::clone(&terminal);
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            panicked.leave();
            tell(panic);
        }));
        Some(Self {
            terminal,
            // https://no-color.org
            colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            drawn: String::new(),
            resized: signal(SignalKind::window_change()).ok()?,
            continued: signal(SignalKind::from_raw(Number::CONT.as_raw())).ok()?,
            tick: Instant::now() + TICK,
        })
    }

    /// What is to be given back before this process is stopped.
    pub(crate) fn terminal(&self) -> Arc<Terminal> {
        Arc::clone(&self.terminal)
    }

    /// Whether a view is on it.
    pub(crate) fn is_entered(&self) -> bool {
        self.terminal.entered.load(Ordering::Relaxed)
    }

    /// Draws a view; false if this is not the terminal's program at the moment.
    pub(crate) fn show(&mut self, view: impl FnOnce(Frame<'_>) -> Vec<Line>) -> bool {
        if !self.terminal.is_ours() {
            return false;
        }
        let entered = self.terminal.enter();
        let size = tcgetwinsize(io::stdout()).ok();
        // A terminal that does not know its size: what terminals have always been.
        let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
        let (width, height) =
            size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()));
        let lines = view(Frame {
            width,
            height,
            now: Timestamp::now(),
            only: None,
            hint: "",
        });
        let frame = paint(&lines, width, self.colours);
        if entered || frame != self.drawn {
            write(&format!("{BEGIN}{frame}{END}"));
            self.drawn = frame;
        }
        true
    }

    /// Gives the terminal back.
    pub(crate) fn leave(&mut self) {
        self.terminal.leave();
    }

    /// Waits until the view has to be drawn again though nothing changed: another size, the next minute, the end of Ctrl-Z.
    /// (A shell may give the terminal back to what runs in the background without a word; then it is the next minute.)
    async fn disturbed(&mut self) {
        tokio::select! {
            _ = self.resized.recv() => {}
            () = sleep_until(self.tick) => self.tick = Instant::now() + TICK,
            _ = self.continued.recv() => {}
        }
        // Whatever is on the terminal now.
        self.drawn.clear();
    }
}

/// The bytes that show these lines from the upper left corner on, and nothing of what was there before.
fn paint(lines: &[Line], columns: usize, colours: bool) -> String {
    let mut frame = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            frame.push_str("\r\n");
        }
        // All from here on, before the last line is there: behind a full one the cursor is on its last character still.
        if index + 1 == lines.len() {
            frame.push_str("\x1b[J");
        }
        for span in line {
            let colour = match span.style {
                _ if !colours => "",
                Style::Plain => "",
                Style::Bold => "\x1b[1m",
                Style::Dim => "\x1b[2m",
                Style::Good => "\x1b[32m",
                Style::Busy => "\x1b[33m",
                Style::Bad => "\x1b[31m",
            };
            frame.push_str(colour);
            frame.push_str(&span.text);
            if !colour.is_empty() {
                frame.push_str("\x1b[m");
            }
        }
        // What the frame before had behind it.
        if index + 1 < lines.len() && width(line) < columns {
            frame.push_str("\x1b[K");
        }
    }
    frame
}

/// Waits for a disturbance of the screen, if there is one.
pub(crate) async fn disturbed(screen: &mut Option<Screen>) {
    match screen {
        Some(screen) => screen.disturbed().await,
        None => std::future::pending().await,
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Terminal {
    /// Whether this program is in the terminal's foreground: in the background it would be stopped by a change of modes.
    fn is_ours(&self) -> bool {
        tcgetpgrp(io::stdout()).is_ok_and(|group| group == getpgrp())
    }

    /// Begins the second screen; whether it was not there before.
    fn enter(&self) -> bool {
        let new = !self.entered.swap(true, Ordering::Relaxed);
        if new {
            let mut modes = self.before.clone();
            modes.local_modes.remove(LocalModes::ECHO);
            // Ctrl-S would hold up what this process does beside drawing.
            modes.input_modes.remove(InputModes::IXON);
            // Without it, typed text is shown until the next frame.
            let _ = tcsetattr(io::stdout(), OptionalActions::Now, &modes);
            write(ENTER);
        }
        new
    }

    /// Ends the second screen, if it is there.
    pub(crate) fn leave(&self) {
        if self.entered.swap(false, Ordering::Relaxed) {
            write(LEAVE);
            if self.is_ours() {
                // What was typed meanwhile was for nobody. A terminal that is gone needs no modes.
                let _ = tcsetattr(io::stdout(), OptionalActions::Flush, &self.before);
            }
        }
    }
}

fn write(text: &str) {
    let mut out = io::stdout().lock();
    // A terminal that is gone shows nothing.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Span;

    #[test]
    fn nothing_is_cleared_behind_a_full_line() {
        let line = |text: &str| {
            vec![Span {
                style: Style::Good,
                text: text.into(),
            }]
        };
        let lines = [line("full"), line("not"), line("full")];
        let plain = "full\r\nnot\x1b[K\r\n\x1b[Jfull";
        assert_eq!(paint(&lines, 4, false), plain);
        let coloured = "\x1b[J\x1b[32mfull\x1b[m";
        assert_eq!(paint(&lines[..1], 4, true), coloured);
        assert!(!END.contains("\x1b[J"));
    }
}
