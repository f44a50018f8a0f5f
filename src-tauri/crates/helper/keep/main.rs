//! `minitunnel-keep`: three processes that live and die together, where no message bus watches over them.
//!
//! The keeper (root) makes a pair of sockets and starts the helper with one end as standard input, and the command with
//! the other, as the user who called sudo. The command's death closes the helper's socket; the keeper's death ends the
//! command by the signal that the kernel sends to it; the helper's death is seen by the keeper, who cleans up after it.
//!
//! It is a program of its own, so that the one that changes routes knows nothing of users and commands.

#[path = "../src/privileges.rs"]
mod privileges;

use std::{
    ffi::OsString,
    io,
    os::{
        fd::OwnedFd,
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    process::{Gid, Pid, Signal, Uid, getppid, kill_process, set_parent_process_death_signal},
    thread::{CapabilitySet, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::privileges::PrivilegeError;

const USAGE: &str = "\
minitunnel-keep: runs a command with a helper of its own, as the user who called sudo. You need not run it yourself.

  minitunnel-keep [--state-dir DIR] -- COMMAND…
";

/// What tells the command that its standard input is a socket whose other end is the helper (`minitunnel-helper-api`).
const INHERITED: (&str, &str) = ("MINITUNNEL_HELPER", "stdin");

/// For the helper to remove its routes, and for the command to withdraw its addresses from an API server that may hang.
const ENDING: Duration = Duration::from_secs(10);
/// A command that ends closes its socket a moment before, and the helper may be the first to have ended: its exit code
/// must not become that of a signal.
const LEAVING: Duration = Duration::from_secs(1);
/// The exit code where the helper ended before the command, which then ended in order: minitunnel's own for a helper that
/// is not to be had (README, "Exit codes").
const HELPER_LOST: u8 = 6;
/// The exit code of a helper that did nothing, as another one is at work.
const BUSY: i32 = 75;
/// The exit code of a command that ends by the signal that it is sent.
const SENT_TERM: u8 = 128 + 15;

/// What the keeper needs: to have a killed helper's routes removed, and to signal the command of another user.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::KILL);

/// Why nothing could be kept.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{what} can't be started: {source}")]
    Start { what: String, source: io::Error },
    #[error("the user {0} who called sudo is unknown: `getent passwd {0}` has no answer")]
    UnknownUser(u32),
    #[error("minitunnel can't go back to being the user who called sudo: {0}")]
    StepDown(#[source] rustix::io::Errno),
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    #[error(
        "the routes of the ended helper could not be removed: `minitunnel cleanup` tries again"
    )]
    Recover,
    #[error("a process that was started can't be waited for: {0}")]
    Wait(#[source] io::Error),
    #[error("the keeper ended before its command began")]
    KeeperGone,
}

/// What the command line asks for.
enum Task {
    Keep { state: Option<PathBuf> },
    StepDown { keeper: u32 },
}

fn main() -> ExitCode {
    let Some((task, command)) = parse(std::env::args_os().skip(1)) else {
        eprint!("{USAGE}");
        // As the shells have it for wrong usage.
        return ExitCode::from(2);
    };
    let ended = match task {
        Task::StepDown { keeper } => match step_down(keeper, &command) {
            Ok(never) => match never {},
            Err(error) => Err(error),
        },
        Task::Keep { state } => run(state.as_deref(), &command),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("minitunnel-keep: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the command line; `None` for one that makes no sense.
fn parse(words: impl IntoIterator<Item = OsString>) -> Option<(Task, Vec<OsString>)> {
    let mut words = words.into_iter();
    let mut task = Task::Keep { state: None };
    loop {
        let word = words.next()?;
        match word.to_str()? {
            "--state-dir" => {
                let state = Some(words.next()?.into());
                task = Task::Keep { state };
            }
            // How the keeper starts the command.
            "--step-down" => {
                let keeper = words.next()?.to_str()?.parse().ok()?;
                task = Task::StepDown { keeper };
            }
            "--" => break,
            _ => return None,
        }
    }
    let command: Vec<OsString> = words.collect();
    (!command.is_empty()).then_some((task, command))
}

fn run(state: Option<&Path>, command: &[OsString]) -> Result<u8, KeepError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(KeepError::Wait)?;
    runtime.block_on(keep(state, command))
}

/// The helper's program, beside this one, with the words that come first.
fn helper(words: &[&str], state: Option<&Path>) -> io::Result<Command> {
    let mut helper = Command::new(std::env::current_exe()?.with_file_name("minitunnel-helper"));
    helper.args(words);
    if let Some(state) = state {
        helper.arg("--state-dir").arg(state);
    }
    Ok(helper)
}

/// Runs the helper and the command, and returns the command's exit code once both have ended.
async fn keep(state: Option<&Path>, command: &[OsString]) -> Result<u8, KeepError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| KeepError::Start { what, source }
    };
    privileges::require(KEPT)?;
    let (ours, theirs) = UnixStream::pair().map_err(failed("a socket"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("a signal handler"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed("a signal handler"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("a signal handler"))?;

    let mut serving = helper(&["serve", "--peer"], state).map_err(failed("minitunnel-helper"))?;
    let mut helper = serving
        .stdin(Stdio::from(OwnedFd::from(ours)))
        // Ctrl-C in the terminal goes to the keeper, who passes it to the command alone.
        .process_group(0)
        .spawn()
        .map_err(failed("minitunnel-helper"))?;
    drop(serving);
    let exe = std::env::current_exe().map_err(failed("minitunnel-keep"))?;
    let mut stepping_down = Command::new(exe);
    stepping_down
        .args(["--step-down", &std::process::id().to_string(), "--"])
        .args(command)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .env(INHERITED.0, INHERITED.1)
        .process_group(0);
    let mut client = stepping_down.spawn().map_err(failed("the command"))?;
    // It holds a copy of the socket's end.
    drop(stepping_down);
    privileges::keep_only(KEPT)?;

    loop {
        let passed_on = tokio::select! {
            status = client.wait() => {
                let code = code(status.map_err(KeepError::Wait)?);
                // The command may have ended because of a killed helper, whose own end is told later than its socket's.
                let killed = end_helper(&mut helper, state).await?;
                return Ok(if killed && code == 0 { HELPER_LOST } else { code });
            }
            status = helper.wait() => {
                let killed = clean_up_after(status.map_err(KeepError::Wait)?, state).await;
                if let Ok(false) = killed {
                    if let Ok(status) = timeout(LEAVING, client.wait()).await {
                        return Ok(code(status.map_err(KeepError::Wait)?));
                    }
                    eprintln!("minitunnel-keep: the helper has ended, and the command ends with it");
                }
                // It sees the closed socket by itself; this is for the one that does not look.
                let code = end_client(&mut client).await?;
                killed?;
                // In order, or by the signal just sent: the helper's end is what there is to tell.
                let told = code == 0 || code == SENT_TERM;
                return Ok(if told { HELPER_LOST } else { code });
            }
            _ = interrupt.recv() => Signal::INT,
            _ = hangup.recv() => Signal::HUP,
            _ = terminate.recv() => Signal::TERM,
        };
        send(&client, passed_on);
    }
}

/// What the keeper starts in the command's place: it goes back to being the user who called sudo, binds itself to the
/// keeper's life, and becomes the command.
fn step_down(keeper: u32, command: &[OsString]) -> Result<std::convert::Infallible, KeepError> {
    let mut words = command.iter();
    let program = words.next().map(OsString::as_os_str).unwrap_or_default();
    let mut command = std::process::Command::new(program);
    command.args(words);
    if let Some(user) = calling_user()? {
        step_down_to(&user).map_err(KeepError::StepDown)?;
        command
            .env("HOME", user.home)
            .env("USER", &user.name)
            .env("LOGNAME", &user.name);
        let runtime = format!("/run/user/{}", user.uid);
        if Path::new(&runtime).is_dir() {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
    }
    // The kernel takes that from a process that changes its user, so it comes last.
    bind_to(keeper)?;
    let source = command.exec();
    Err(KeepError::Start {
        what: program.display().to_string(),
        source,
    })
}

/// Makes this process, which has one thread, the user's: all groups, the group and the user, in the order in which the
/// one before is the right to do the next.
fn step_down_to(user: &User) -> rustix::io::Result<()> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// Has the kernel end this process by SIGTERM when the keeper dies.
fn bind_to(keeper: u32) -> Result<(), KeepError> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| KeepError::Wait(error.into()))?;
    // It may have died before that line.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent == Some(keeper) {
        Ok(())
    } else {
        Err(KeepError::KeeperGone)
    }
}

/// The helper ends by itself when its socket closes; if it does not, it is killed. True if somebody else had killed it.
async fn end_helper(helper: &mut Child, state: Option<&Path>) -> Result<bool, KeepError> {
    match timeout(ENDING, helper.wait()).await {
        Ok(status) => clean_up_after(status.map_err(KeepError::Wait)?, state).await,
        Err(_) => {
            send(helper, Signal::KILL);
            helper.wait().await.map_err(KeepError::Wait)?;
            recover(state).await?;
            Ok(false)
        }
    }
}

/// Has the next helper remove what the one before left.
async fn recover(state: Option<&Path>) -> Result<(), KeepError> {
    let mut recovering = helper(&["recover"], state).map_err(KeepError::Wait)?;
    match recovering.status().await {
        Ok(status) if status.success() => Ok(()),
        _ => Err(KeepError::Recover),
    }
}

/// Removes what a helper left that did not end well; true if a signal ended it.
async fn clean_up_after(ended: ExitStatus, state: Option<&Path>) -> Result<bool, KeepError> {
    if ended.success() || ended.code() == Some(BUSY) {
        return Ok(false);
    }
    recover(state).await?;
    let Some(signal) = ended.signal() else {
        return Ok(false);
    };
    eprintln!(
        "minitunnel-keep: the helper was ended by signal {signal}; its routes are removed, and the command ends: start it again"
    );
    Ok(true)
}

async fn end_client(client: &mut Child) -> Result<u8, KeepError> {
    send(client, Signal::TERM);
    let status = match timeout(ENDING, client.wait()).await {
        Ok(status) => status,
        Err(_) => {
            send(client, Signal::KILL);
            client.wait().await
        }
    };
    Ok(code(status.map_err(KeepError::Wait)?))
}

fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It has ended if that fails, and is about to be waited for.
        let _ = kill_process(pid, signal);
    }
}

/// A shell's way of an exit code: 128 and the signal's number for a process that a signal ended.
fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// The user behind sudo.
#[derive(Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    name: String,
    home: String,
}

/// Who called sudo; `None` for root itself, and in a user namespace, where there is one user.
fn calling_user() -> Result<Option<User>, KeepError> {
    let uid: Option<u32> = std::env::var("SUDO_UID")
        .ok()
        .and_then(|uid| uid.parse().ok());
    let Some(uid) = uid.filter(|uid| *uid != 0) else {
        return Ok(None);
    };
    let line = answer("getent", &["passwd", &uid.to_string()])?;
    let mut user = user(uid, &line).ok_or(KeepError::UnknownUser(uid))?;
    let groups = answer("id", &["-G", "--", &user.name])?;
    let groups: Option<Vec<u32>> = groups.split(' ').map(id).collect();
    user.groups = groups.ok_or(KeepError::UnknownUser(uid))?;
    Ok(Some(user))
}

/// What getent(1) or id(1) says of a user: one may come from a directory service, and the C library's functions for that
/// are not safe ones.
fn answer(program: &str, arguments: &[&str]) -> Result<String, KeepError> {
    let output = std::process::Command::new(program)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| KeepError::Start {
            what: program.to_owned(),
            source,
        })?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

/// Reads a line of passwd(5): name, password, uid, gid, comment, home, shell. Its groups are asked for later.
fn user(uid: u32, line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, id, gid, _, home, _] = fields.as_slice() else {
        return None;
    };
    (self::id(id) == Some(uid)).then_some(())?;
    Some(User {
        uid,
        gid: self::id(gid)?,
        groups: Vec::new(),
        name: (*name).to_owned(),
        home: (*home).to_owned(),
    })
}

/// A user's or a group's number. The one that is -1 to the kernel means there that nothing changes.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "up",
            "--",
            "--state-dir",
            "--step-down x -- ls",
            "--state-dir /x --",
        ] {
            let words = line.split_whitespace().map(OsString::from);
            assert!(parse(words).is_none(), "{line:?}");
        }
        let words = ["--state-dir", "/x", "--", "ls", "--state-dir"].map(OsString::from);
        let (_, command) = parse(words).unwrap();
        assert_eq!(command, ["ls", "--state-dir"]);
    }

    #[test]
    fn a_passwd_line_is_read() {
        assert_eq!(
            user(1000, "ann:x:1000:1001:Ann,,,:/home/ann:/bin/bash"),
            Some(User {
                uid: 1000,
                gid: 1001,
                groups: Vec::new(),
                name: "ann".to_owned(),
                home: "/home/ann".to_owned(),
            })
        );
    }

    #[test]
    fn another_users_line_or_a_broken_one_is_refused() {
        for line in [
            "",
            "ann",
            "ann:x:1000",
            "bob:x:1001:1001::/home/bob:/bin/sh",
            "ann:x:1000:4294967295:Ann,,,:/home/ann:/bin/bash",
        ] {
            assert_eq!(user(1000, line), None, "{line:?}");
        }
    }

    #[test]
    fn a_signal_is_an_exit_code_as_in_a_shell() {
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
        // The upper byte of wait(2)'s status is the exit code.
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
    }
}
