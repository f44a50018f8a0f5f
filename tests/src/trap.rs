//! SIGKILL at an exact system call: a supervisor that stops a program at each of its effects, by ptrace(2).

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::{Result, WAIT};

/// A program whose effects are counted, and that is killed at one of them.
///
/// An effect is a system call that somebody else could notice: a message on a socket (netlink, bus, network), a socket that
/// gets an address or a peer, a lock, or a change of a file or folder. Each has two points: the call is refused to the program, which dies before it; or it is done, and
/// the program dies before it hears so. The program lives no longer than this value.
#[derive(Debug)]
pub struct Trap {
    shared: Arc<Shared>,
    pid: Pid,
    program: OwnedFd,
    supervisor: Option<JoinHandle<Result>>,
}

/// Where a program was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// What the call does.
    pub effect: Effect,
    /// Whether it was done.
    pub done: bool,
}

/// What an effect changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// A file or a folder.
    File,
    /// The kernel was asked by netlink.
    Netlink,
    /// Something was said on another socket: to the bus, a peer, a server.
    Message,
}

/// What the supervisor's thread and the test share.
#[derive(Debug, Default)]
struct Shared {
    /// The points to let pass before the kill, and 1; 0 while all pass.
    left: AtomicUsize,
    struck: Mutex<Option<Point>>,
    ended: AtomicUsize,
    companion: Option<OwnedFd>,
}

impl Trap {
    /// Attaches to a program, and lets it run on.
    pub fn attach(pid: i32) -> Result<Self> {
        Self::attach_with(pid, None)
    }

    /// The same with a companion, which is killed in the same moment: right before the program, which hears nothing of it.
    pub fn attach_with(pid: i32, companion: Option<i32>) -> Result<Self> {
        let open = |pid| -> Result<OwnedFd> {
            let pid = rustix::process::Pid::from_raw(pid).context("no process has the id 0")?;
            Ok(pidfd_open(pid, PidfdFlags::empty())?)
        };
        let program = open(pid)?;
        let shared = Arc::new(Shared {
            companion: companion.map(open).transpose()?,
            ..Shared::default()
        });
        let (attached, ready) = mpsc::channel();
        let theirs = Arc::clone(&shared);
        // ptrace(2) hears the thread that attached, and no other one.
        let supervisor = thread::spawn(move || {
            let result = supervise(Pid::from_raw(pid), &theirs, &attached);
            theirs.ended.store(1, Ordering::SeqCst);
            result
        });
        let trap = Self {
            shared,
            pid: Pid::from_raw(pid),
            program,
            supervisor: Some(supervisor),
        };
        match ready.recv_timeout(WAIT) {
            Ok(()) => Ok(trap),
            Err(error) => Err(trap.end().err().unwrap_or_else(|| anyhow!(error))),
        }
    }

    /// Waits until the program has ended, or waits for others alone, with nothing of its own to be done soon: what it does
    /// next is what it is asked.
    pub async fn at_rest(&self) -> Result {
        let deadline = Instant::now() + WAIT;
        while !self.ended() && !rests(self.pid) {
            ensure!(
                Instant::now() < deadline,
                "the program does not come to rest"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Has the program killed at this point, counted from 0 and from now.
    pub fn arm(&self, point: usize) {
        self.shared.left.store(point + 1, Ordering::SeqCst);
    }

    /// Lets every point pass from now on.
    pub fn disarm(&self) {
        self.shared.left.store(0, Ordering::SeqCst);
    }

    /// Where the program was killed, if it was.
    pub fn struck(&self) -> Option<Point> {
        *self.shared.struck()
    }

    /// Whether the program has ended, killed or not.
    pub fn ended(&self) -> bool {
        self.shared.ended.load(Ordering::SeqCst) != 0
    }

    /// Waits for the program's own end, or its kill.
    pub async fn wait(&self) -> Result {
        crate::eventually(WAIT, "the end of a supervised program", async || {
            ensure!(self.ended(), "it lives");
            Ok(())
        })
        .await
    }

    /// Kills the program if it still lives, waits until it is gone, and says where it was killed before.
    pub fn end(mut self) -> Result<Option<Point>> {
        self.disarm();
        self.stop()?;
        Ok(self.struck())
    }

    fn stop(&mut self) -> Result {
        let Some(supervisor) = self.supervisor.take() else {
            return Ok(());
        };
        // It may have ended.
        let _ = pidfd_send_signal(&self.program, rustix::process::Signal::KILL);
        let deadline = Instant::now() + WAIT;
        while !supervisor.is_finished() {
            ensure!(Instant::now() < deadline, "a killed program does not end");
            // A join has no time-out.
            thread::sleep(Duration::from_micros(200));
        }
        supervisor
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the supervisor panicked")))
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("a supervised program did not end well: {error:#}");
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = if self.done { "after" } else { "before" };
        write!(f, "{moment} {:?}", self.effect)
    }
}

impl Shared {
    fn struck(&self) -> std::sync::MutexGuard<'_, Option<Point>> {
        self.struck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a point; true for the one to die at.
    fn count(&self, point: Point) -> bool {
        let counted = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        if counted != Ok(1) {
            return false;
        }
        *self.struck() = Some(point);
        true
    }
}

/// Follows all threads of the program to their end.
fn supervise(program: Pid, shared: &Shared, attached: &mpsc::Sender<()>) -> Result {
    let options =
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::seize(program, options).context("the program can't be traced")?;
    ptrace::interrupt(program)?;
    // Each thread's effect between its two stops.
    let mut effects: BTreeMap<Pid, Option<Effect>> = BTreeMap::new();
    let mut running = false;
    loop {
        let ours = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let (thread, signal) = match waitpid(None, Some(ours)) {
            Err(Errno::ECHILD) => return Ok(()),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                let begins = !effects.contains_key(&thread);
                let effect = if begins {
                    let effect = effect(thread);
                    effects.insert(thread, effect);
                    effect
                } else {
                    effects.remove(&thread).flatten()
                };
                let point = effect.map(|effect| Point {
                    effect,
                    done: !begins,
                });
                if point.is_some_and(|point| shared.count(point)) {
                    if let Some(companion) = &shared.companion {
                        pidfd_send_signal(companion, rustix::process::Signal::KILL)?;
                    }
                    kill(program, Signal::SIGKILL)?;
                    // It has left its stop by that: before the call, if it was about to begin.
                    continue;
                }
                (thread, None)
            }
            // SIGTRAP is ptrace's own; a stop by a signal is not to be prolonged.
            Ok(WaitStatus::PtraceEvent(thread, _, _)) => (thread, None),
            Ok(WaitStatus::Stopped(thread, signal)) => (thread, Some(signal)),
            Ok(WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, _, _)) => {
                effects.remove(&thread);
                continue;
            }
            Ok(_) => continue,
        };
        match ptrace::syscall(thread, signal) {
            // Killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
        if !running {
            running = true;
            // Nobody listens to one that was given up.
            let _ = attached.send(());
        }
    }
}

/// Whether a program of one thread sleeps in epoll_wait(2), without a time-out or with a long one.
fn rests(program: Pid) -> bool {
    // At a stop of the supervisor's it is not asleep, though it may be about to.
    let stat = fs::read_to_string(format!("/proc/{program}/stat")).unwrap_or_default();
    let asleep = stat
        .rsplit_once(") ")
        .is_some_and(|(_, state)| state.starts_with('S'));
    let Some((number, arguments)) = system_call(program).filter(|_| asleep) else {
        return false;
    };
    #[cfg(target_arch = "x86_64")]
    let waits = number == libc::SYS_epoll_wait || number == libc::SYS_epoll_pwait;
    #[cfg(not(target_arch = "x86_64"))]
    let waits = number == libc::SYS_epoll_pwait;
    // An int of milliseconds, of which -1 is none. The pauses between two pieces of work are much shorter, and what is
    // to be done at a time that somebody named is not sooner than in a second.
    waits && arguments[3] & 0xffff_ffff > 500
}

/// The system call that a stopped or sleeping thread is in, and its arguments: proc_pid_syscall(5).
fn system_call(thread: Pid) -> Option<(libc::c_long, [u64; 6])> {
    let line = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let mut words = line.split(' ');
    let number = words.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        let word = words.next()?.trim_end().trim_start_matches("0x");
        *argument = u64::from_str_radix(word, 16).ok()?;
    }
    Some((number, arguments))
}

/// What the system call that a stopped thread is about to do changes, if anything.
fn effect(thread: Pid) -> Option<Effect> {
    let (number, arguments) = system_call(thread)?;
    match number {
        libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pwrite64
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_sendmmsg
        | libc::SYS_bind
        | libc::SYS_connect
        | libc::SYS_flock
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_ftruncate => of_descriptor(thread, arguments[0]),
        libc::SYS_openat => {
            // Behind the folder's descriptor and the path.
            let flags = arguments[2];
            let writes = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT).cast_unsigned();
            (flags & u64::from(writes) != 0).then_some(Effect::File)
        }
        libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_unlinkat
        | libc::SYS_mkdirat
        | libc::SYS_linkat
        | libc::SYS_symlinkat
        | libc::SYS_fchmod
        | libc::SYS_fchmodat => Some(Effect::File),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename
        | libc::SYS_unlink
        | libc::SYS_mkdir
        | libc::SYS_link
        | libc::SYS_chmod => Some(Effect::File),
        _ => None,
    }
}

/// What is behind a descriptor; nothing for a pipe or a counter of the program's own, and its messages to people.
fn of_descriptor(thread: Pid, descriptor: u64) -> Option<Effect> {
    let target = fs::read_link(format!("/proc/{thread}/fd/{descriptor}")).ok()?;
    let target = target.to_str()?;
    let socket = target
        .strip_prefix("socket:[")
        .and_then(|rest| rest.strip_suffix(']'));
    let Some(inode) = socket else {
        let file = target.starts_with('/') && !target.starts_with("/dev/");
        return file.then_some(Effect::File);
    };
    let netlink = fs::read_to_string(format!("/proc/{thread}/net/netlink")).ok()?;
    let known = netlink
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some(inode));
    Some(if known {
        Effect::Netlink
    } else {
        Effect::Message
    })
}
