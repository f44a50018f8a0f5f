//! The host's end of the cluster: the cable to the node, and the lines that drive it.

use std::{fs, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::inside::{HOME, Place};
use crate::{
    Error,
    ip::ip,
    node::{FromNode, HOST, ToNode},
};

/// How long a scene may take before it counts as failed; the slowest takes a second on a slow machine.
const SCENE: Duration = Duration::from_secs(20);

/// The node's process.
pub(super) struct Node {
    /// Dropped, it dies.
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

/// A service that has its address.
pub(super) struct Assigned {
    /// `namespace/name`.
    pub(super) service: String,
    /// The address and its port.
    pub(super) address: SocketAddr,
    /// From its creation to the address.
    pub(super) took: Duration,
}

impl Node {
    /// Starts the node in a network namespace of its own, at the other end of a cable, and waits for the cluster.
    pub(super) async fn start(program: &Path, place: &Place) -> Result<Self, Error> {
        let mut child = Command::new("unshare")
            .arg("--net")
            .arg(program)
            .args(["demo", "--node"])
            .env_clear()
            .envs(place.environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C at the terminal is not for the node: it outlives the tunnel.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| Error::Program {
                program: "unshare",
                package: "util-linux",
                source,
            })?;
        let (Some(stdin), Some(stdout), Some(pid)) =
            (child.stdin.take(), child.stdout.take(), child.id())
        else {
            return Err(Error::NodeGone);
        };
        let lines = BufReader::new(stdout).lines();
        let mut node = Self {
            _child: child,
            stdin,
            lines,
        };
        node.wait("the node", |line| (*line == FromNode::Here).then_some(()))
            .await?;
        // The kernel gives a device IPv6 routes at a moment of its own; the demo's cable is IPv4 only.
        let no_ipv6 = Path::new("/proc/sys/net/ipv6/conf/default/disable_ipv6");
        if no_ipv6.exists() {
            let written = fs::write(no_ipv6, "1");
            written.map_err(|source| Error::File {
                path: no_ipv6.to_owned(),
                source,
            })?;
        }
        ip(&format!(
            "link set lo up\nlink add minikube type veth peer name eth0 netns {pid}\n\
             address add {HOST}/24 dev minikube\nlink set minikube up\n"
        ))
        .await?;
        node.tell(&ToNode::Start { home: HOME.into() }).await?;
        node.wait("the cluster", |line| {
            (*line == FromNode::Ready).then_some(())
        })
        .await?;
        Ok(node)
    }

    /// Makes a service and waits until it has an address.
    pub(super) async fn create(&mut self, name: &str, port: u16) -> Result<Assigned, Error> {
        let name = name.to_owned();
        self.tell(&ToNode::Create { name, port }).await?;
        self.wait("an address for the service", |line| match line {
            FromNode::Assigned {
                service,
                address,
                port,
                micros,
            } => Some(Assigned {
                service: service.clone(),
                address: (*address, *port).into(),
                took: Duration::from_micros(*micros),
            }),
            _ => None,
        })
        .await
    }

    /// Waits until a service's address is served no longer.
    pub(super) async fn withdrawn(&mut self, name: &str) -> Result<(), Error> {
        self.wait("the end of the service's address", |line| {
            matches!(line, FromNode::Withdrawn { service } if service == name).then_some(())
        })
        .await
    }

    async fn tell(&mut self, line: &ToNode) -> Result<(), Error> {
        let line = serde_json::to_string(line).map_err(Error::Message)?;
        let written = self.stdin.write_all(format!("{line}\n").as_bytes()).await;
        written.map_err(Error::Pipe)
    }

    async fn wait<T>(
        &mut self,
        what: &'static str,
        found: impl Fn(&FromNode) -> Option<T>,
    ) -> Result<T, Error> {
        within(what, async {
            loop {
                let line = self.lines.next_line().await.map_err(Error::Pipe)?;
                let line = line.ok_or(Error::NodeGone)?;
                let line = serde_json::from_str(&line).map_err(Error::Message)?;
                if let Some(found) = found(&line) {
                    return Ok(found);
                }
            }
        })
        .await
    }
}

/// The scene, or an error if it takes too long.
pub(super) async fn within<T>(
    what: &'static str,
    scene: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(SCENE, scene).await.unwrap_or(Err(Error::Late {
        what,
        seconds: SCENE.as_secs(),
    }))
}
