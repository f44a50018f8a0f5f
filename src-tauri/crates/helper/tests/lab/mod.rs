//! A network namespace for each test, with a network as a minikube profile has it, and the processes in it.

pub(crate) mod enter;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

pub(crate) use enter::in_namespace;
use minitunnel_model::{Origin, TableEntry};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_minitunnel-helper");

const KEEPER: &str = env!("CARGO_BIN_EXE_minitunnel-keep");

/// Longer than anything here takes: a test that hangs ends with a word instead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs an asynchronous test, for as long as patience lasts.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.unwrap() })
}

/// Runs ip(8).
pub(crate) fn ip(arguments: &str) {
    let words = arguments.split(' ');
    let status = Command::new("ip").args(words).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Every route of every table and both families, entry by entry and sorted.
pub(crate) fn table() -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let output = Command::new("ip")
            .args([family, "-N", "route", "show", "table", "all"])
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        // The kernel's own IPv6 multicast and link-local routes come a moment after their device.
        let ours = |line: &&str| !line.contains("fe80::") && !line.contains("ff00::");
        lines.extend(
            text.lines()
                .filter(ours)
                .map(|line| line.trim_end().to_owned()),
        );
    }
    lines.sort();
    lines
}

/// A route that no helper may ever remove.
pub(crate) fn kernel_entry() -> TableEntry {
    TableEntry {
        destination: "192.168.49.0/24".parse().unwrap(),
        gateway: None,
        device: Some("cluster".to_owned()),
        metric: 0,
        table: 254,
        origin: Origin::Kernel,
    }
}

/// A helper that serves the other end of a socket pair; killed when it is dropped.
pub(crate) struct Helper {
    child: Child,
    state: TempDir,
}

impl Helper {
    /// Starts one, with a state folder of its own.
    pub(crate) fn start() -> (Self, UnixStream) {
        let state = tempfile::tempdir().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = serve(&state.path().join("state"), ours).spawn().unwrap();
        (Self { child, state }, theirs)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id()), signal).unwrap();
    }

    /// Starts another one on the state folder of this one.
    pub(crate) fn another(&self) -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = serve(&self.state.path().join("state"), ours)
            .spawn()
            .unwrap();
        let state = tempfile::tempdir().unwrap();
        (Self { child, state }, theirs)
    }

    /// Waits for its end; whether it was a good one.
    pub(crate) fn ends_well(mut self) -> bool {
        wait_for_end(vec![pidfd(self.pid())]);
        self.child.wait().unwrap().success()
    }

    /// Kills it, and returns its state folder.
    pub(crate) fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.state, tempfile::tempdir().unwrap())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `recover` on a state folder.
pub(crate) fn recover(state: &TempDir) {
    let status = Command::new(PROGRAM)
        .args(["recover", "--state-dir"])
        .arg(state.path().join("state"))
        .status()
        .unwrap();
    assert!(status.success());
}

/// What a second helper on the first one's state folder says before it ends, once it was called.
pub(crate) fn second_helper(first: &Helper) -> String {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"\0").unwrap();
    let output = serve(&first.state.path().join("state"), ours)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    // The code at which systemd does not start another one.
    assert_eq!(output.status.code(), Some(75));
    String::from_utf8(output.stderr).unwrap()
}

/// Starts this test program in the part of the client, with `stream` to its helper; returns once it has applied.
pub(crate) fn client(test: &str, stream: UnixStream) -> Child {
    let mut child = enter::as_client(&mut Command::new(std::env::current_exe().unwrap()), test)
        .env("MINITUNNEL_HELPER", "stdin")
        .stdin(Stdio::from(OwnedFd::from(stream)))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    applied(&mut child);
    child
}

/// Runs a command under a keeper.
pub(crate) fn keep(command: &[&str], environment: &[(&str, &str)]) -> Output {
    keep_with(Path::new(PROGRAM), command, environment)
}

/// Runs a command under a keeper whose helper is that program.
pub(crate) fn keep_with(helper: &Path, command: &[&str], environment: &[(&str, &str)]) -> Output {
    // Where another user can reach it, unlike the folder of the build.
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(helper, open.path().join("minitunnel-helper")).unwrap();
    let program = open.path().join("minitunnel-keep");
    fs::copy(KEEPER, &program).unwrap();
    Command::new(program)
        .arg("--state-dir")
        .arg(open.path().join("state"))
        .arg("--")
        .args(command)
        // That is the test's own way to root.
        .env_remove("SUDO_UID")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// Adds a line to the namespace's /etc/group.
pub(crate) fn add_group(line: &str) {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let copy = tempfile::NamedTempFile::new().unwrap();
    fs::write(copy.path(), format!("{groups}{line}\n")).unwrap();
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let status = Command::new("mount")
        .arg("--bind")
        .args([copy.path(), Path::new("/etc/group")])
        .status()
        .unwrap();
    assert!(status.success());
}

/// A keeper, its helper and its client.
pub(crate) struct Kept {
    keeper: Child,
    helper: u32,
    client: u32,
    _state: TempDir,
}

impl Kept {
    /// Starts them; returns once the client has applied.
    pub(crate) fn start(test: &str) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new(KEEPER);
        command
            .arg("--state-dir")
            .arg(state.path().join("state"))
            .arg("--")
            .arg(std::env::current_exe().unwrap())
            .env_remove("SUDO_UID");
        let mut keeper = enter::as_client(&mut command, test)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let client = applied(&mut keeper);
        let helper = children(keeper.id())
            .into_iter()
            .find(|child| *child != client)
            .unwrap();
        Self {
            keeper,
            helper,
            client,
            _state: state,
        }
    }

    pub(crate) fn pids(&self) -> [(&'static str, u32); 3] {
        [
            ("keeper", self.keeper.id()),
            ("helper", self.helper),
            ("client", self.client),
        ]
    }

    /// Handles by which the end of all three can be waited for.
    pub(crate) fn watch(&self) -> Vec<OwnedFd> {
        self.pids().map(|(_, pid)| pidfd(pid)).into()
    }

    /// The keeper's exit code, at its end.
    pub(crate) fn code(mut self) -> Option<i32> {
        self.keeper.wait().unwrap().code()
    }

    pub(crate) fn kill(&self, victim: &str) {
        let (_, victim) = self
            .pids()
            .into_iter()
            .find(|(name, _)| *name == victim)
            .unwrap();
        kill_process(pid(victim), Signal::KILL).unwrap();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.keeper.wait();
    }
}

/// Waits until all these processes have ended.
pub(crate) fn wait_for_end(processes: Vec<OwnedFd>) {
    let patience = PATIENCE.try_into().unwrap();
    for process in processes {
        let mut ready = [PollFd::new(&process, PollFlags::IN)];
        assert_eq!(
            poll(&mut ready, Some(&patience)).unwrap(),
            1,
            "a process does not end"
        );
    }
}

fn serve(state: &Path, stream: UnixStream) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["serve", "--peer", "--state-dir"])
        .arg(state)
        .stdin(Stdio::from(OwnedFd::from(stream)));
    command
}

/// Waits for a client's word that it has applied; its process.
fn applied(child: &mut Child) -> u32 {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    loop {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the client ended");
        // The test harness writes the test's name before it, on the same line.
        if let Some((_, pid)) = line.trim_end().rsplit_once("applied by ") {
            let pid = pid.parse().unwrap();
            // Whoever writes to a pipe that nobody reads is killed.
            std::mem::forget(output);
            return pid;
        }
    }
}

fn children(parent: u32) -> Vec<u32> {
    let path: PathBuf = format!("/proc/{parent}/task/{parent}/children").into();
    let text = fs::read_to_string(path).unwrap();
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn pid(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}

pub(crate) fn pidfd(process: u32) -> OwnedFd {
    pidfd_open(pid(process), PidfdFlags::empty()).unwrap()
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill_process(pid(child.id()), signal).unwrap();
}

/// Makes a state folder as the helper makes it.
pub(crate) fn private_folder(path: &Path) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Waits for the first line that a process prints.
pub(crate) fn first_line(child: &mut Child) {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    assert_ne!(output.read_line(&mut String::new()).unwrap(), 0);
}

/// Runs many commands of ip(8), one a line.
pub(crate) fn ip_batch(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
}

/// The most memory that a process ever had, in kB.
pub(crate) fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
