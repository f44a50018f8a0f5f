//! The private system of a test.

mod folder;

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader};
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as StdCommand, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tokio::process::Command;

use crate::pki::Authority;
use crate::{Process, Result, WAIT, run};
use folder::Folder;

/// The people of a lab and their user (and group) ids.
const USERS: [(&str, u32); 4] = [
    ("alice", 4001),
    ("bob", 4002),
    ("carol", 4003),
    ("dave", 4004),
];

/// The programs that a lab's `PATH` begins with, where they are built.
const PROGRAMS: [&str; 6] = [
    "minitunnel",
    "minitunnel-tray",
    "minitunnel-helper",
    "minitunnel-keep",
    "minitunnel-window",
    LAB_PROGRAM,
];
/// The harness's own helper program.
const LAB_PROGRAM: &str = "minitunnel-lab";

/// A private system: network, mounts, processes, users, `/run`. It ends, with all that runs in it, when dropped.
///
/// The thread that makes it is in its network for as long (see the crate's documentation), so it cannot be sent to another.
#[derive(Debug)]
pub struct Lab {
    place: Place,
    init: Child,
    outside: OwnedFd,
    dir: Folder,
    authority: Arc<Authority>,
    thread: PhantomData<*const ()>,
}

/// Where in a lab, and as whom, a command runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// The process id of `unshare`, which is in the lab's namespaces but the process one.
    entry: u32,
    dir: PathBuf,
    netns: Option<String>,
    user: Option<(&'static str, u32)>,
}

impl Lab {
    /// Starts a lab and moves this thread into its network.
    pub fn new() -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "the end-to-end tests need root: run them with `tests/run e2e`, or as root"
        );
        let dir = Folder::new()?;
        prepare(dir.path())?;
        let mut init = StdCommand::new("unshare")
            .args([
                "--mount",
                "--net",
                "--pid",
                "--ipc",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args([
                "--propagation",
                "private",
                "bash",
                "-c",
                include_str!("lab/init.sh"),
                "init",
            ])
            .arg(dir.path())
            .args(built_programs()?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare (package util-linux)")?;
        let mut ready = String::new();
        if let Some(stdout) = init.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready)?;
        }
        if ready != "ready\n" {
            let status = init.wait()?;
            bail!("the lab did not start ({status}): its messages are on the standard error");
        }
        let entry = init.id();
        let outside = File::open("/proc/thread-self/ns/net")?.into();
        let inside = File::open(format!("/proc/{entry}/ns/net"))?;
        move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network))?;
        let place = Place {
            entry,
            dir: dir.path().to_owned(),
            netns: None,
            user: None,
        };
        Ok(Self {
            place,
            init,
            outside,
            dir,
            authority: Arc::new(Authority::new()?),
            thread: PhantomData,
        })
    }

    /// A folder with the same path inside and outside, readable by all users, removed with the lab.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path of the lab as this process reaches it, such as the bus's socket in the lab's own `/run`.
    pub fn outside_path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.place.entry))
    }

    /// The certificate authority of all the lab's clusters: minikube has one for all profiles too.
    pub(crate) fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    /// The lab's namespaces, as files.
    pub(crate) fn namespace(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.place.entry))
    }

    /// The process id outside of the lab for one as the lab sees it.
    pub fn outside_pid(&self, inside: u32) -> Result<i32> {
        let namespace = |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}"));
        let ours = namespace(&self.place.entry.to_string(), "pid_for_children")?;
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Ok(status) = fs::read_to_string(format!("/proc/{name}/status")) else {
                continue;
            };
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let innermost = ids.and_then(|ids| ids.split_whitespace().next_back());
            if innermost == Some(&inside.to_string())
                && namespace(&name, "pid").is_ok_and(|namespace| namespace == ours)
            {
                return Ok(name.parse()?);
            }
        }
        bail!("the lab has no process {inside}")
    }

    /// A built program, as a lab command and a D-Bus service file name it.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir().join("bin").join(name);
        ensure!(
            path.exists(),
            "{name} is not built: run `cargo build` first"
        );
        Ok(path)
    }
}

impl std::ops::Deref for Lab {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let left =
            move_into_link_name_space(self.outside.as_fd(), Some(LinkNameSpaceType::Network));
        // Process 1 ends with its input, and the kernel kills the others before `unshare` hears of it.
        self.init.stdin = None;
        self.wake_waiters();
        let ended = self.wait_for_init();
        if let Some(error) = left.err().map(Into::into).or(ended.err()) {
            eprintln!("the lab did not end well: {error:#}");
        }
    }
}

impl Lab {
    /// Lets every `nsenter` of the lab's programs go on: one stops itself with its program, and the lab ends when all
    /// its programs have been waited for.
    fn wake_waiters(&self) {
        let into = format!("--target={}", self.place.entry);
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace() {
                let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
                let words = &mut line.split(|byte| *byte == 0);
                if words.any(|word| word == into.as_bytes())
                    && let Some(pid) = child.parse().ok().and_then(Pid::from_raw)
                {
                    // One that has ended is none to wake.
                    let _ = kill_process(pid, Signal::CONT);
                }
            }
        }
    }

    /// Waits for the end of `unshare`, but not for ever: a test that failed must say so.
    fn wait_for_init(&mut self) -> Result {
        let pid = Pid::from_child(&self.init);
        let end = pidfd_open(pid, PidfdFlags::empty())?;
        let deadline = Instant::now() + WAIT;
        let ended = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = Timespec::try_from(left)?;
            match poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&limit)) {
                // The ends of other children interrupt it.
                Err(Errno::INTR) => {}
                ended => break ended?,
            }
        };
        ensure!(ended > 0, "a program of it is still there after {WAIT:?}");
        self.init.wait()?;
        Ok(())
    }
}

impl Place {
    /// The same place in a named network namespace of the lab, such as a cluster's node.
    pub fn netns(&self, name: &str) -> Self {
        Self {
            netns: Some(name.to_owned()),
            ..self.clone()
        }
    }

    /// The same place in the namespaces below the lab's that an `unshare` with `--fork`, a process of the lab, has made.
    pub fn below(&self, unshare: &Process) -> Result<Self> {
        Ok(Self {
            entry: unshare.pid()?.cast_unsigned(),
            ..self.clone()
        })
    }

    /// The same place as one of the lab's people: alice (uid 4001), bob, carol or dave (4004).
    ///
    /// # Panics
    ///
    /// Panics for any other name.
    #[expect(clippy::panic, reason = "a wrong literal in a test")]
    pub fn user(&self, name: &str) -> Self {
        let Some(user) = USERS.into_iter().find(|user| user.0 == name) else {
            panic!("the lab has no user {name}");
        };
        Self {
            user: Some(user),
            ..self.clone()
        }
    }

    /// The home folder of the user, by default root's.
    pub fn home(&self) -> PathBuf {
        self.dir.join("home").join(self.user_name())
    }

    /// The user's id.
    pub fn uid(&self) -> u32 {
        self.user.map_or(0, |(_, uid)| uid)
    }

    /// A command that runs here, with a login's environment and nothing of the test's.
    pub fn command(&self, program: &str) -> Command {
        let entry = self.entry;
        let mut command = Command::new("nsenter");
        // The first `--` comes right before the program: messages and the agent look for it.
        command
            .args([
                format!("--target={entry}"),
                format!("--pid=/proc/{entry}/ns/pid_for_children"),
            ])
            .args(["--mount", "--net", "--ipc"]);
        if let Some(netns) = &self.netns {
            command.args(["nsenter".to_owned(), format!("--net=/run/netns/{netns}")]);
        }
        if let Some((_, uid)) = self.user {
            command
                .args(["setpriv", "--init-groups"])
                .args([format!("--reuid={uid}"), format!("--regid={uid}")]);
        }
        command
            .args(["--", program])
            .env_clear()
            .env(
                "PATH",
                format!(
                    "{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    self.dir.display()
                ),
            )
            .env("HOME", self.home())
            .env("USER", self.user_name())
            .env("LOGNAME", self.user_name())
            .env("TMPDIR", self.dir.join("tmp"))
            .env("LANG", "C.UTF-8")
            .env("XDG_RUNTIME_DIR", format!("/run/user/{}", self.uid()));
        command
    }

    /// A command that runs here as root on behalf of a user, with the variables that sudo(8) sets.
    pub fn sudo(&self, user: &str, program: &str) -> Command {
        let person = self.user(user);
        let mut command = Self {
            user: None,
            ..self.clone()
        }
        .command(program);
        command
            .env("SUDO_USER", user)
            .envs([
                ("SUDO_UID", person.uid().to_string()),
                ("SUDO_GID", person.uid().to_string()),
            ])
            .env("SUDO_COMMAND", program)
            .env_remove("XDG_RUNTIME_DIR");
        command
    }

    /// Runs a shell script here to its end and gives its standard output.
    pub async fn sh(&self, script: &str) -> Result<String> {
        run(self.command("sh").args(["-euc", script])).await
    }

    /// Asks for a page from here, and gives the status, or an error where there is none within the time.
    ///
    /// Each call is a new connection.
    pub async fn http_get(&self, url: &str, within: Duration) -> Result<u16> {
        let seconds = within.as_secs_f64().to_string();
        let mut curl = self.command("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--globoff",
            "--output",
            "/dev/null",
        ])
        .args(["--write-out", "%{http_code}", "--max-time", &seconds, url]);
        Ok(run(&mut curl).await?.trim().parse()?)
    }

    /// Every route of every table and both families here, sorted, without cache counters and expiry times.
    pub async fn routes(&self) -> Result<Vec<String>> {
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            let dump = run(self
                .command("ip")
                .args([family, "-json", "-details", "route", "show", "table", "all"]))
            .await?;
            let entries: Vec<Value> = serde_json::from_str(&dump)?;
            routes.extend(entries.into_iter().map(|mut entry| {
                if let Some(entry) = entry.as_object_mut() {
                    entry.retain(|key, _| {
                        !matches!(key.as_str(), "cache" | "expires" | "used" | "age")
                    });
                }
                format!("{family} {entry}")
            }));
        }
        routes.sort();
        Ok(routes)
    }

    fn user_name(&self) -> &'static str {
        self.user.map_or("root", |(name, _)| name)
    }
}

/// The folders of a lab: `bin`, `etc` with the users, `home`, `tmp`.
fn prepare(dir: &Path) -> Result {
    for folder in ["bin", "etc", "home", "home/root", "tmp"] {
        fs::create_dir(dir.join(folder))?;
    }
    fs::set_permissions(dir.join("tmp"), Permissions::from_mode(0o1777))?;
    let mut files = [
        ("passwd", String::new()),
        ("group", String::new()),
        ("shadow", String::new()),
    ];
    for (name, uid) in USERS {
        let home = dir.join("home").join(name);
        fs::create_dir(&home)?;
        chown(&home, Some(uid), Some(uid))?;
        files[0].1 += &format!("{name}:x:{uid}:{uid}::{}:/bin/bash\n", home.display());
        files[1].1 += &format!("{name}:x:{uid}:\n");
        files[2].1 += &format!("{name}:*:::::::\n");
    }
    for (file, lines) in files {
        let system = fs::read_to_string(Path::new("/etc").join(file))?;
        fs::write(dir.join("etc").join(file), system + &lines)?;
    }
    Ok(())
}

/// The file of a program that was built, seen from outside of any lab.
pub fn built_program(name: &str) -> Result<PathBuf> {
    let mut built = built_programs()?.into_iter();
    built
        .find(|path| path.ends_with(name))
        .with_context(|| format!("{name} is not built: run `cargo build` first"))
}

/// The programs of `target/<profile>`, where this one is too, or below it in `deps` if it is a test.
fn built_programs() -> Result<Vec<PathBuf>> {
    let this = std::env::current_exe()?;
    let target = this
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .context("a test outside of a target folder")?;
    let lab = target.join(LAB_PROGRAM);
    ensure!(
        lab.exists(),
        "{} is not built: run `cargo build -p minitunnel-e2e`",
        lab.display()
    );
    Ok(PROGRAMS
        .iter()
        .map(|name| target.join(name))
        .filter(|path| path.exists())
        .collect())
}
