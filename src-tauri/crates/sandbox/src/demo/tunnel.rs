//! The tunnel's processes: the keeper, the helper and `minitunnel up`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::fd::OwnedFd,
    path::Path,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open},
};
use tokio::{process::Child, sync::mpsc, task::spawn_blocking, time::timeout};

use super::inside::Place;
use crate::Error;

/// How long an end may take: three seconds for the addresses of a server that hangs, and then some.
const END: Duration = Duration::from_secs(10);

/// What makes the tunnel.
pub(super) struct Command {
    pub(super) words: Vec<OsString>,
    /// Beside the place's.
    pub(super) environment: Vec<(&'static str, OsString)>,
    /// As people are told of it.
    pub(super) shown: String,
}

/// A running `minitunnel-keep -- minitunnel up`, or with the tray.
pub(super) struct Tunnel {
    keeper: Child,
    group: Pid,
    /// What it prints, both streams, line by line.
    lines: mpsc::UnboundedReceiver<String>,
}

/// A process by a handle that never means another one.
struct Process {
    pid: Pid,
    handle: OwnedFd,
}

impl Tunnel {
    /// Starts it with the environment of the place, its own, and nothing else.
    pub(super) fn start(helper: &Path, command: &Command, place: &Place) -> Result<Self, Error> {
        let mut keeper = tokio::process::Command::new(helper)
            .arg("--")
            .args(&command.words)
            .env_clear()
            .envs(place.environment())
            .envs(command.environment.iter().cloned())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C at the terminal is for the demo, which passes it on in good order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| Error::Start {
                program: helper.to_owned(),
                source,
            })?;
        let group = keeper.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let group = group.ok_or(Error::Processes(io::ErrorKind::NotFound.into()))?;
        let (sender, lines) = mpsc::unbounded_channel();
        if let Some(stdout) = keeper.stdout.take() {
            tokio::spawn(forward(stdout, sender.clone()));
        }
        if let Some(stderr) = keeper.stderr.take() {
            tokio::spawn(forward(stderr, sender));
        }
        Ok(Self {
            keeper,
            group,
            lines,
        })
    }

    /// The next line that it prints; an error once it has ended.
    pub(super) async fn line(&mut self) -> Result<String, Error> {
        match self.lines.recv().await {
            Some(line) => Ok(line),
            None => Err(Error::TunnelGone(
                self.keeper.wait().await.map_err(Error::Processes)?,
            )),
        }
    }

    /// What it has printed meanwhile.
    pub(super) fn said(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    /// Kills `minitunnel up`, and nothing else, with SIGKILL; waits until the processes beside it have ended too.
    ///
    /// Gives the killed process's id, how many processes the tunnel had, and how long their end took.
    pub(super) async fn kill(&mut self, program: &Path) -> Result<(u32, usize, Duration), Error> {
        let processes = self.processes()?;
        let up = processes.iter().find(|process| {
            let path = format!("/proc/{}/exe", process.pid.as_raw_nonzero());
            fs::read_link(path).is_ok_and(|exe| exe == program)
        });
        let Some(up) = up else {
            return Err(Error::Start {
                program: program.to_owned(),
                source: io::Error::other("the tunnel has no such process"),
            });
        };
        let pid = up.pid;
        let count = processes.len();
        let start = Instant::now();
        kill_process(pid, Signal::KILL).map_err(|error| Error::Processes(error.into()))?;
        self.end(processes).await?;
        let took = start.elapsed();
        Ok((pid.as_raw_nonzero().get().cast_unsigned(), count, took))
    }

    /// Ends it as Ctrl-C at its terminal would.
    pub(super) async fn interrupt(&mut self) -> Result<ExitStatus, Error> {
        let processes = self.processes()?;
        kill_process_group(self.group, Signal::INT)
            .map_err(|error| Error::Processes(error.into()))?;
        self.end(processes).await
    }

    /// Waits for the end of them all.
    async fn end(&mut self, processes: Vec<Process>) -> Result<ExitStatus, Error> {
        let late = Error::Late {
            what: "the end of the tunnel's processes",
            seconds: END.as_secs(),
        };
        let ended = spawn_blocking(move || processes.iter().all(Process::ends)).await;
        if !ended.unwrap_or(false) {
            return Err(late);
        }
        let keeper = timeout(END, self.keeper.wait()).await;
        keeper.map_err(|_| late)?.map_err(Error::Processes)
    }

    /// The keeper and everything that came from it, but for the window: no tunnel ends by that, nor it by a tunnel's end.
    fn processes(&self) -> Result<Vec<Process>, Error> {
        let parents = parents().map_err(Error::Processes)?;
        let keeper = self.group.as_raw_nonzero().get();
        opened(tree(&parents, vec![keeper], Stat::is_window), &parents)
    }
}

/// Closes the window that the tray has opened, if it did.
pub(super) async fn close_window() -> Result<(), Error> {
    let parents = parents().map_err(Error::Processes)?;
    let windows = parents.iter().filter(|(_, stat)| stat.is_window());
    let windows: Vec<i32> = windows.map(|(pid, _)| *pid).collect();
    let all = opened(tree(&parents, windows.clone(), |_| false), &parents)?;
    for pid in windows.into_iter().filter_map(Pid::from_raw) {
        // It may have been closed just now.
        let _ = kill_process(pid, Signal::TERM);
    }
    let ended = spawn_blocking(move || all.iter().all(Process::ends)).await;
    if ended.unwrap_or(false) {
        return Ok(());
    }
    Err(Error::Late {
        what: "the end of the window",
        seconds: END.as_secs(),
    })
}

/// These processes and all that came from them, without the subtrees of those that are left out.
fn tree(
    parents: &BTreeMap<i32, Stat>,
    roots: Vec<i32>,
    is_left_out: impl Fn(&Stat) -> bool,
) -> Vec<i32> {
    let mut found = roots;
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = parents.iter();
        let children = children.filter(|(_, of)| of.parent == parent && !is_left_out(of));
        found.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// Handles of those that live.
fn opened(pids: Vec<i32>, parents: &BTreeMap<i32, Stat>) -> Result<Vec<Process>, Error> {
    let open = |pid: i32| -> io::Result<Option<Process>> {
        let Some(pid) = Pid::from_raw(pid).filter(|_| parents.contains_key(&pid)) else {
            return Ok(None);
        };
        Ok(Some(Process {
            pid,
            handle: pidfd_open(pid, PidfdFlags::empty())?,
        }))
    };
    pids.into_iter()
        .filter_map(|pid| open(pid).transpose())
        .collect::<io::Result<_>>()
        .map_err(Error::Processes)
}

impl Process {
    /// Blocks until it has ended: its handle is readable then (pidfd_open(2)).
    fn ends(&self) -> bool {
        let end = Timespec {
            tv_sec: END.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut handle = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut handle, Some(&end)) == Ok(1)
    }
}

/// One process in `/proc`.
pub(super) struct Stat {
    /// Its parent.
    pub(super) parent: i32,
    /// Its short name.
    pub(super) name: String,
}

impl Stat {
    /// Whether it is minitunnel-window, of whose name the kernel keeps 15 characters.
    fn is_window(&self) -> bool {
        self.name == "minitunnel-wind"
    }
}

/// All living processes: their parents and names. A zombie lives no more; process 1 may not have read its end yet.
pub(super) fn parents() -> io::Result<BTreeMap<i32, Stat>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // It may end while it is looked at.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // proc_pid_stat(5): pid (name) state parent …; the name may hold anything.
        let Some((head, tail)) = stat.rsplit_once(')') else {
            continue;
        };
        let mut fields = tail.split_whitespace();
        let (Some(state), Some(parent)) = (fields.next(), fields.next()) else {
            continue;
        };
        if let ("R" | "S" | "D" | "T" | "t" | "I", Ok(parent)) = (state, parent.parse()) {
            let name = head
                .split_once('(')
                .map_or(head, |(_, name)| name)
                .to_owned();
            found.insert(pid, Stat { parent, name });
        }
    }
    Ok(found)
}

async fn forward(stream: impl tokio::io::AsyncRead + Unpin, to: mpsc::UnboundedSender<String>) {
    use tokio::io::AsyncBufReadExt as _;
    let mut lines = tokio::io::BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if to.send(line).is_err() {
            return;
        }
    }
}
