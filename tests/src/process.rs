//! Programs under test: their output, signals and end.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, pidfd_send_signal,
    waitid,
};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::Result;

/// Output lines that an error shows.
const SHOWN_LINES: usize = 40;

/// A started program. It is killed when dropped.
///
/// What it prints, on both streams, is kept line by line.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    program: Option<Program>,
    output: Arc<Output>,
}

/// The program itself, which for a command in a lab is the child of our child `nsenter`.
#[derive(Debug)]
pub(crate) struct Program {
    pid: Pid,
    pub(crate) fd: OwnedFd,
}

/// What a program printed.
#[derive(Debug)]
struct Output {
    state: Mutex<OutputState>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct OutputState {
    lines: Vec<Line>,
    /// How many of `lines` a wait has passed.
    read: usize,
    /// How many of the two streams still are open.
    open: usize,
}

#[derive(Debug)]
struct Line {
    text: String,
    stream: Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Output,
    Error,
}

impl Process {
    /// Starts the program, with its output and input piped.
    pub async fn spawn(command: &mut Command) -> Result<Self> {
        let name = describe(command);
        let entered = command.as_std().get_program() == OsStr::new("nsenter");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{name}`"))?;
        let output = Arc::new(Output {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        if let Some(stdout) = child.stdout.take() {
            output.follow(stdout, Stream::Output);
        }
        if let Some(stderr) = child.stderr.take() {
            output.follow(stderr, Stream::Error);
        }
        let stdin = child.stdin.take();
        let program = find_program(&mut child, entered).await?;
        Ok(Self {
            name,
            child,
            stdin,
            program,
            output,
        })
    }

    /// The process id, as seen outside of the lab.
    pub fn pid(&self) -> Result<i32> {
        let program = self
            .program
            .as_ref()
            .with_context(|| self.report("has ended"))?;
        Ok(program.pid.as_raw_nonzero().get())
    }

    /// The process id, as seen inside the lab.
    pub fn lab_pid(&self) -> Result<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))
            .with_context(|| self.report("has ended"))?;
        let ids = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .context("no NSpid in /proc")?;
        Ok(ids
            .split_whitespace()
            .next_back()
            .context("an empty NSpid in /proc")?
            .parse()?)
    }

    /// Sends the program a signal; one that has ended is an error.
    pub fn signal(&self, signal: Signal) -> Result {
        let program = self
            .program
            .as_ref()
            .with_context(|| self.report("has ended"))?;
        pidfd_send_signal(&program.fd, signal)
            .with_context(|| self.report(&format!("cannot be sent {signal:?}")))?;
        match (signal, self.waiter()) {
            // `nsenter` stops itself with its child. Later signals must find it stopped, or it would sleep through them.
            (Signal::STOP, Some(waiter)) => {
                let stopped = WaitIdOptions::STOPPED | WaitIdOptions::EXITED;
                waitid(WaitId::Pid(waiter), stopped | WaitIdOptions::NOWAIT)?;
            }
            (Signal::CONT | Signal::KILL, Some(waiter)) => kill_process(waiter, Signal::CONT)?,
            _ => {}
        }
        Ok(())
    }

    /// Our child, which for a command in a lab is the `nsenter` that waits for the program.
    fn waiter(&self) -> Option<Pid> {
        let id = self.child.id()?;
        Pid::from_raw(id.cast_signed())
    }

    /// Waits for the next line that contains `pattern`, on either stream, and gives it.
    ///
    /// Each wait goes on after the line that the last one found, so a sequence of waits is a sequence of lines.
    pub async fn wait_for_line(&self, pattern: &str, within: Duration) -> Result<String> {
        let next = |state: &mut OutputState| {
            let mut unread = state.lines.iter().enumerate().skip(state.read);
            let (index, line) = unread.find(|(_, line)| line.text.contains(pattern))?;
            let text = line.text.clone();
            state.read = index + 1;
            Some(text)
        };
        self.wait(&format!("`{pattern}`"), within, next).await
    }

    /// Waits until `count` lines contain `pattern`, and gives the last of them; other waits are not affected.
    pub async fn wait_for_count(
        &self,
        pattern: &str,
        count: usize,
        within: Duration,
    ) -> Result<String> {
        let last = |state: &mut OutputState| {
            let mut found = state
                .lines
                .iter()
                .filter(|line| line.text.contains(pattern));
            found
                .nth(count.saturating_sub(1))
                .map(|line| line.text.clone())
        };
        self.wait(&format!("`{pattern}` {count} times"), within, last)
            .await
    }

    /// Everything printed so far, on both streams.
    pub fn lines(&self) -> Vec<String> {
        self.output
            .state()
            .lines
            .iter()
            .map(|line| line.text.clone())
            .collect()
    }

    /// Everything printed so far on the standard output, each line with its end.
    pub fn stdout(&self) -> String {
        let state = self.output.state();
        let lines = state
            .lines
            .iter()
            .filter(|line| line.stream == Stream::Output);
        lines.flat_map(|line| [&line.text, "\n"]).collect()
    }

    /// How many of the lines so far contain `pattern`.
    pub fn count(&self, pattern: &str) -> usize {
        self.output
            .state()
            .lines
            .iter()
            .filter(|line| line.text.contains(pattern))
            .count()
    }

    /// Writes a line to the program's input.
    pub async fn write_line(&mut self, line: &str) -> Result {
        let stdin = self
            .stdin
            .as_mut()
            .context("the program's input is closed")?;
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(stdin.flush().await?)
    }

    /// Waits for the end of the program and of its output.
    ///
    /// The status of a program that a signal ended says so, within a lab too.
    pub async fn exit(&mut self, within: Duration) -> Result<ExitStatus> {
        self.stdin = None;
        let deadline = Instant::now() + within;
        let Ok(status) = timeout_at(deadline, self.child.wait()).await else {
            bail!(self.report(&format!("did not end within {within:?}")));
        };
        // A child of the program may hold the streams for longer: its lines do not matter.
        let mut changed = self.output.changed.subscribe();
        let drained = Duration::from_secs(1).min(within);
        let _ = timeout(drained, async {
            while self.output.state().open > 0 && changed.changed().await.is_ok() {}
        })
        .await;
        self.program = None;
        Ok(status?)
    }

    /// Waits for the end, which must be an orderly one (exit code 0).
    pub async fn success(&mut self, within: Duration) -> Result {
        let status = self.exit(within).await?;
        ensure!(
            status.success(),
            self.report(&format!("ended with {status}"))
        );
        Ok(())
    }

    /// Kills the program (SIGKILL) and waits until it is gone.
    pub async fn kill(&mut self) -> Result {
        self.signal(Signal::KILL)?;
        let status = self.exit(crate::WAIT).await?;
        let killed = status.signal() == Some(Signal::KILL.as_raw());
        ensure!(
            killed,
            self.report(&format!("was to be killed and ended with {status}"))
        );
        Ok(())
    }

    async fn wait(
        &self,
        what: &str,
        within: Duration,
        find: impl Fn(&mut OutputState) -> Option<String>,
    ) -> Result<String> {
        let deadline = Instant::now() + within;
        let mut changed = self.output.changed.subscribe();
        loop {
            let ended = {
                let mut state = self.output.state();
                if let Some(line) = find(&mut state) {
                    return Ok(line);
                }
                state.open == 0
            };
            ensure!(!ended, self.report(&format!("ended without {what}")));
            if timeout_at(deadline, changed.changed()).await.is_err() {
                bail!(self.report(&format!("did not print {what} within {within:?}")));
            }
        }
    }

    /// One line about the program, and the last ones that it printed.
    pub fn report(&self, what: &str) -> String {
        let state = self.output.state();
        let mut report = format!("`{}` {what}; its last lines:", self.name);
        for line in state
            .lines
            .iter()
            .skip(state.lines.len().saturating_sub(SHOWN_LINES))
        {
            let _ = write!(report, "\n  | {}", line.text);
        }
        report
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(program) = &self.program {
            // Ended already: nothing to do. `nsenter` is left to end by itself: were it killed, the program would be
            // adopted by the machine's process 1 and keep the lab from ending until that one reaps it.
            let _ = pidfd_send_signal(&program.fd, Signal::KILL);
            if let Some(waiter) = self.waiter() {
                // It may have stopped itself with the program.
                let _ = kill_process(waiter, Signal::CONT);
            }
        }
    }
}

/// Runs a command to its end, which must be an orderly one, and gives what it printed on its standard output.
pub async fn run(command: &mut Command) -> Result<String> {
    let mut process = Process::spawn(command).await?;
    process.success(crate::WAIT).await?;
    Ok(process.stdout())
}

impl Output {
    fn state(&self) -> MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, pipe: impl AsyncRead + Unpin + Send + 'static, stream: Stream) {
        self.state().open += 1;
        let output = Arc::clone(self);
        tokio::spawn(async move {
            let mut lines = BufReader::new(pipe).split(b'\n');
            while let Ok(Some(line)) = lines.next_segment().await {
                let text = String::from_utf8_lossy(&line).into_owned();
                output.state().lines.push(Line { text, stream });
                output.changed.send_replace(());
            }
            output.state().open -= 1;
            output.changed.send_replace(());
        });
    }
}

/// Finds the program below `nsenter`, which forks to enter a process namespace; `None` if it has ended already.
pub(crate) async fn find_program(child: &mut Child, entered: bool) -> Result<Option<Program>> {
    let Some(id) = child.id() else {
        return Ok(None);
    };
    let find = async || -> Result<Option<i32>> {
        if !entered {
            return Ok(Some(id.cast_signed()));
        }
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        Ok(children
            .split_whitespace()
            .next()
            .map(str::parse)
            .transpose()?)
    };
    // The fork takes a millisecond or two and announces itself to nobody.
    let deadline = Instant::now() + crate::WAIT;
    loop {
        if let Some(pid) = find().await?.and_then(Pid::from_raw) {
            return Ok(pidfd_open(pid, PidfdFlags::empty())
                .ok()
                .map(|fd| Program { pid, fd }));
        }
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        ensure!(
            Instant::now() < deadline,
            "nsenter started nothing within {:?}",
            crate::WAIT
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The command as a person would write it, without the way into the lab (see `Place::command`).
fn describe(command: &Command) -> String {
    let command = command.as_std();
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .collect();
    let from = words
        .iter()
        .position(|word| *word == OsStr::new("--"))
        .map_or(0, |at| at + 1);
    words[from..]
        .join(OsStr::new(" "))
        .to_string_lossy()
        .into_owned()
}
