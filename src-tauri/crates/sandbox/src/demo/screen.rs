//! The words on the terminal.

use std::{
    env,
    io::{self, IsTerminal, Write as _},
    time::Duration,
};

use super::Demo;

/// The width of a scene's title.
const TITLE: usize = 24;

/// The terminal, with colours where it has them.
#[derive(Clone, Copy)]
pub(super) struct Screen {
    color: bool,
}

impl Screen {
    /// Colours if standard output is a terminal and nobody asked for none (<https://no-color.org>).
    pub(super) fn of_terminal() -> Self {
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::new(io::stdout().is_terminal() && !plain)
    }

    pub(super) fn new(color: bool) -> Self {
        Self { color }
    }

    pub(super) fn color(&self) -> bool {
        self.color
    }

    /// What this is, and for those who want to play, the way in.
    pub(super) fn title(&self, options: &Demo, pid: u32) {
        let what = "a cluster, a tunnel and kill -9, in namespaces of their own";
        self.print(&format!("{} · {what}\n", self.bold("minitunnel demo")));
        if options.keep {
            let user = if rustix::process::geteuid().is_root() {
                ""
            } else {
                " --user --preserve-credentials"
            };
            self.dim(&format!(
                "a shell beside it: nsenter --target {pid}{user} --net --mount"
            ));
        }
    }

    /// A scene that went well.
    pub(super) fn good(&self, title: &str, detail: &str, took: Option<Duration>) {
        let took = took.map(|took| self.paint("2", &format!("  {}", human(took))));
        let mark = self.paint("32", "✓");
        let took = took.unwrap_or_default();
        self.print(&format!("  {mark} {title:TITLE$} {detail}{took}"));
    }

    /// A scene that did not.
    pub(super) fn bad(&self, title: &str, detail: &str) {
        let mark = self.paint("31", "✗");
        self.print(&format!(
            "  {mark} {title:TITLE$} {}",
            self.paint("31", detail)
        ));
    }

    /// A line of the tunnel's own; of its log without the time.
    pub(super) fn quote(&self, line: &str) {
        let line = line.split_once(" INFO ").map_or(line, |(_, told)| told);
        self.print(&format!("    {} {line}", self.paint("2", "│")));
    }

    /// An aside.
    pub(super) fn dim(&self, line: &str) {
        self.print(&format!("    {}", self.paint("2", line)));
    }

    /// What is left on the machine.
    pub(super) fn machine(&self, left: &[String]) {
        if left.is_empty() {
            let words = "no process, no namespace, no file; its routes are the ones before";
            self.good("the machine is clean", words, None);
        }
        for trace in left {
            self.bad("left on the machine", trace);
        }
    }

    /// The last line.
    pub(super) fn end(&self, good: bool, words: &str) {
        let words = self.paint(if good { "1;32" } else { "1;31" }, words);
        self.print(&format!("\n  {words}"));
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A line as it is. Where nobody reads, the exit code still says how it went.
    pub(super) fn print(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        drop(writeln!(stdout, "{text}").and_then(|()| stdout.flush()));
    }
}

fn human(took: Duration) -> String {
    let micros = took.as_micros();
    match micros {
        0..10_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        10_000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_with_two_or_three_figures() {
        let told = [3_456, 34_567, 1_234_567].map(|micros| human(Duration::from_micros(micros)));
        assert_eq!(told, ["3.4 ms", "34 ms", "1.2 s"]);
    }
}
