//! A terminal for a program under test, and the screen that a person would see.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::Result;

/// A program in a pseudo-terminal of its own.
pub struct Terminal {
    child: Child,
    controller: File,
    /// The program's end: kept, as its modes are looked at after the program.
    program: File,
    screen: Arc<Mutex<Screen>>,
    changed: watch::Receiver<()>,
}

struct Screen {
    parser: vt100::Parser,
    /// All that was written, as it came.
    bytes: Vec<u8>,
}

impl Terminal {
    /// Starts a program, such as a lab's `setsid --ctty --wait minitunnel …`, in a terminal of that many lines and columns.
    pub fn spawn(command: &mut Command, rows: u16, columns: u16) -> Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let name = ptsname(&controller, Vec::new())?.into_string()?;
        let program = File::options().read(true).write(true).open(name)?;
        let controller = File::from(controller);
        resize(&controller, rows, columns)?;
        let end = || -> Result<OwnedFd> { Ok(program.try_clone()?.into()) };
        let child = command
            .stdin(Stdio::from(end()?))
            .stdout(Stdio::from(end()?))
            .stderr(Stdio::from(end()?))
            .env("TERM", "xterm-256color")
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a program in a terminal")?;
        let parser = vt100::Parser::new(size(rows)?, size(columns)?, 0);
        let bytes = Vec::new();
        let screen = Arc::new(Mutex::new(Screen { parser, bytes }));
        let (tell, changed) = watch::channel(());
        let (mut output, shown) = (controller.try_clone()?, Arc::clone(&screen));
        // It ends with the last holder of the program's end.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let mut screen = shown.lock().unwrap_or_else(PoisonError::into_inner);
                screen.parser.process(&buffer[..length]);
                screen.bytes.extend_from_slice(&buffer[..length]);
                drop(screen);
                tell.send_replace(());
            }
        });
        Ok(Self {
            child,
            controller,
            program,
            screen,
            changed,
        })
    }

    /// What a person sees, row by row, without the blank rows at the end.
    pub fn text(&self) -> String {
        self.look(|screen| {
            let screen = screen.parser.screen();
            let (_, columns) = screen.size();
            // Not `contents`: it joins rows that once were one line, as a frame drawn at a resize was.
            let rows: Vec<String> = screen.rows(0, columns.get()).collect();
            rows.join("\n").trim_end().to_owned()
        })
    }

    /// Whether the second screen is shown.
    pub fn is_second_screen(&self) -> bool {
        self.look(|screen| screen.parser.screen().alternate_screen())
    }

    /// Whether the cursor is shown, and what is typed.
    pub fn is_as_before(&self) -> Result<bool> {
        let cursor = !self.look(|screen| screen.parser.screen().hide_cursor());
        let echo = tcgetattr(&self.program)?.local_modes;
        Ok(cursor && echo.contains(LocalModes::ECHO) && !self.is_second_screen())
    }

    /// All that was written to it so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.look(|screen| screen.bytes.clone())
    }

    /// Gives the terminal another size.
    pub fn resize(&self, rows: u16, columns: u16) -> Result {
        let (height, width) = (size(rows)?, size(columns)?);
        self.look(|screen| screen.parser.screen_mut().set_size(height, width));
        resize(&self.controller, rows, columns)
    }

    /// Types something, such as `\x03` for Ctrl-C.
    pub fn type_in(&mut self, text: &str) -> Result {
        Ok(self.controller.write_all(text.as_bytes())?)
    }

    /// Waits until the screen is so, and gives its text.
    pub async fn wait_until(
        &mut self,
        what: &str,
        within: Duration,
        is_so: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let deadline = Instant::now() + within;
        loop {
            self.changed.mark_unchanged();
            let text = self.text();
            if is_so(&text) {
                return Ok(text);
            }
            if timeout_at(deadline, self.changed.changed()).await.is_err() {
                bail!("the terminal did not show {what} within {within:?}, but:\n{text}");
            }
        }
    }

    /// Waits for the program's end.
    pub async fn exit(&mut self, within: Duration) -> Result<ExitStatus> {
        match timeout(within, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!(
                "the program did not end within {within:?}; the terminal:\n{}",
                self.text()
            ),
        }
    }

    fn look<T>(&self, look: impl FnOnce(&mut Screen) -> T) -> T {
        look(&mut self.screen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn size(of: u16) -> Result<NonZero<u16>> {
    NonZero::new(of).context("a terminal without lines or columns")
}

fn resize(controller: &File, rows: u16, columns: u16) -> Result {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(controller, size)?)
}
