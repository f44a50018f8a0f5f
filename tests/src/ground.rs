//! A lab with a node's network but no cluster: for tests of the helper alone, hundreds of times in one lab.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{Caller, Lab, Result, WAIT, eventually};

/// A lab with one link, on which 192.168.49.0/24 and fd00:49::/64 are; the machine is .1 and ::1.
#[derive(Debug)]
pub struct Ground {
    /// The lab.
    pub lab: Lab,
    /// Every route of every table and both families, before any of the helper's.
    pub before: Vec<String>,
    /// The state folder of helpers that are started here, in the lab's `/run`, as this process reaches it.
    pub state: PathBuf,
}

/// A helper that serves a socket, started in the lab's network alone: the quickest way to have one.
#[derive(Debug)]
pub struct PeerHelper {
    child: Child,
    words: ChildStderr,
}

impl Ground {
    /// Makes it.
    pub async fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let state = lab.outside_path("/run/minitunnel");
        let mut ground = Self {
            lab,
            before: Vec::new(),
            state,
        };
        // The kernel makes up no addresses, which would come at any time.
        ground.ip("link add cluster type veth peer name node
link set cluster addrgenmode none
link set node addrgenmode none
link set cluster up
link set node up
address add 192.168.49.1/24 dev cluster
address add fd00:49::1/64 dev cluster nodad
")?;
        ground.before = eventually(WAIT, "a network at rest", async || {
            let table = ground.table()?;
            // What comes last, a moment after its link has its carrier.
            let multicast = |end: &str| {
                let of = format!(r#""dev":"{end}","dst":"ff00::/8""#);
                table.iter().any(|route| route.contains(&of))
            };
            let pending = table.iter().any(|route| route.contains("linkdown"));
            let settled = !pending && multicast("cluster") && multicast("node");
            ensure!(settled, "{table:#?}");
            Ok(table)
        })
        .await?;
        Ok(ground)
    }

    /// What [`crate::Place::routes`] gives, at a fifth of its time.
    pub fn table(&self) -> Result<Vec<String>> {
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            // This thread is in the lab's network, and so is what it starts.
            let output = Command::new("ip")
                .args([family, "-json", "-details", "route", "show", "table", "all"])
                .output()?;
            ensure!(output.status.success(), "ip route show: {output:?}");
            let entries: Vec<Value> = serde_json::from_slice(&output.stdout)?;
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

    /// Runs lines of ip(8), all of which must succeed.
    pub fn ip(&self, lines: &str) -> Result {
        ensure!(
            batch(&["-batch", "-"], lines)?,
            "ip refuses a line of {lines}"
        );
        Ok(())
    }

    /// Runs lines of ip(8), and goes on behind one that is refused.
    pub fn ip_each(&self, lines: &str) -> Result {
        batch(&["-force", "-batch", "-"], lines).map(drop)
    }

    /// The helper's program with a verb and the lab's own state folder, to be run in the lab's network and mounts.
    pub fn helper(&self, verb: &[&str]) -> Result<Command> {
        let program = self.lab.program("minitunnel-helper")?;
        // It is this thread's child itself: only a new process namespace would need another process.
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount={}", self.lab.namespace("mnt").display()))
            .arg("--")
            .arg(program)
            .args(verb);
        command.env_clear();
        Ok(command)
    }

    /// Starts a helper that serves a socket, and gives the socket's other end.
    pub fn serve(&self) -> Result<(PeerHelper, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut child = self
            .helper(&["serve", "--peer"])?
            .stdin(OwnedFd::from(theirs))
            .stderr(Stdio::piped())
            .spawn()?;
        let words = child.stderr.take().context("its messages are piped")?;
        Ok((PeerHelper { child, words }, ours))
    }

    /// Starts one, with a caller.
    pub async fn served(&self) -> Result<(PeerHelper, Caller)> {
        let (helper, socket) = self.serve()?;
        match Caller::peer(socket).await {
            Ok(caller) => Ok((helper, caller)),
            Err(error) => Err(error.context(format!("{:?}", helper.end()))),
        }
    }

    /// Runs the helper's recovery, which must succeed, and gives its messages.
    pub fn recover(&self) -> Result<String> {
        let output = self.helper(&["recover"])?.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "recover failed: {said}");
        Ok(said)
    }

    /// A helper that begins when the input is dropped, so that a [`crate::Trap`] comes first.
    pub fn held(&self, verb: &[&str]) -> Result<(PeerHelper, ChildStdin)> {
        let helper = self.helper(verb)?;
        let mut child = Command::new("sh")
            .args(["-c", "read -r _; exec \"$@\"", "sh"])
            .arg(helper.get_program())
            .args(helper.get_args())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let words = child.stderr.take().context("its messages are piped")?;
        let go = child.stdin.take().context("its input is piped")?;
        Ok((PeerHelper { child, words }, go))
    }

    /// The names in the state folder, sorted.
    pub fn state_files(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.state)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

impl PeerHelper {
    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Waits for its own end, and gives its messages and whether it ended well.
    pub fn end(mut self) -> Result<(String, bool)> {
        let mut said = String::new();
        self.words.read_to_string(&mut said)?;
        Ok((said, self.child.wait()?.success()))
    }

    /// What it had printed, of one that a [`crate::Trap`] has waited for.
    pub fn last_words(mut self) -> Result<String> {
        let mut said = String::new();
        self.words.read_to_string(&mut said)?;
        Ok(said)
    }
}

/// Runs ip(8) with these lines; whether all were done.
fn batch(arguments: &[&str], lines: &str) -> Result<bool> {
    let mut ip = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = ip.stdin.take().context("its input is piped")?;
    input.write_all(lines.as_bytes())?;
    drop(input);
    Ok(ip.wait()?.success())
}
