//! Where figures are measured: a private system with a bus, a real API server and a minikube profile for it.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use kube::Client;
use minitunnel_e2e::{
    ALLOW, Cluster, ClusterOptions, Display, Lab, Look, MinikubeHome, Process, ProxyMode, Result,
    SessionBus, Signal, SystemBus, WAIT, Window, eventually,
};
use minitunnel_model::Route;
use tokio::process::Command;
use tokio::time::Instant;

use crate::api::{self, Access};
use crate::process::Proc;

const HELPER: &str = "io.github.minitunnel.Helper";
const USER: &str = "alice";
pub(crate) const PROFILE: &str = "minikube";

/// A lab with all that a tunnel of alice's needs, and a client of the benchmark's own.
pub(crate) struct Scene {
    pub(crate) client: Client,
    pub(crate) cluster: Cluster,
    pub(crate) home: MinikubeHome,
    pub(crate) access: Access,
    bus: SystemBus,
    /// Ends the others, so it is last.
    lab: Lab,
}

impl Scene {
    pub(crate) async fn new() -> Result<Self> {
        Self::with(false).await
    }

    /// One whose API server writes down each request.
    pub(crate) async fn audited() -> Result<Self> {
        Self::with(true).await
    }

    async fn with(audit: bool) -> Result<Self> {
        let lab = Lab::new()?;
        let bus = SystemBus::start(&lab, ALLOW).await?;
        let options = ClusterOptions {
            proxy: ProxyMode::None,
            audit,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(&lab, options).await?;
        let mut home = MinikubeHome::create(&lab, USER)?;
        home.add(&cluster)?;
        let access = access(&home, &cluster);
        Ok(Self {
            client: api::client(&access)?,
            cluster,
            home,
            access,
            bus,
            lab,
        })
    }

    /// Adds a cluster of another profile, and a client of its API server. The services of each have 10.N.0.0/16 of their
    /// own, beside the first cluster's /12.
    pub(crate) async fn add(&mut self, number: u8) -> Result<(Cluster, Client)> {
        let options = ClusterOptions {
            profile: format!("{PROFILE}-{number}"),
            // minikube's own steps: 49, 58, 67, ...
            subnet: 40 + 9 * number,
            service_cidrs: vec![format!("10.{}.0.0/16", 112 + number)],
            proxy: ProxyMode::None,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start(&self.lab, options).await?;
        self.home.add(&cluster)?;
        let client = api::client(&access(&self.home, &cluster))?;
        Ok((cluster, client))
    }

    /// Another client, with connections of its own.
    pub(crate) fn another_client(&self) -> Result<Client> {
        api::client(&self.access)
    }

    /// The route that makes the cluster's services reachable.
    pub(crate) fn route(&self) -> Result<Route> {
        let destination = self.cluster.options().service_cidrs[0].parse()?;
        let gateway = self.cluster.node_ip().into();
        Ok(Route {
            destination,
            gateway,
        })
    }

    /// Alice's `minitunnel up`, connected.
    pub(crate) async fn up(&self) -> Result<Process> {
        self.up_for(&[PROFILE]).await
    }

    /// The same for several profiles.
    pub(crate) async fn up_for(&self, profiles: &[&str]) -> Result<Process> {
        let mut up = Process::spawn(&mut self.held_up(profiles)).await?;
        self.let_go(&mut up).await?;
        for profile in profiles {
            // In whatever order they are told.
            up.wait_for_count(&format!("{profile}: connected"), 1, WAIT)
                .await?;
        }
        Ok(up)
    }

    /// The same, which waits for [`Scene::let_go`] before it starts: what the harness does to get it there is not measured.
    pub(crate) async fn ready_up(&self) -> Result<Process> {
        let up = Process::spawn(&mut self.held_up(&[PROFILE])).await?;
        up.wait_for_line("held", WAIT).await?;
        Ok(up)
    }

    /// Starts it, and tells when.
    pub(crate) async fn let_go(&self, up: &mut Process) -> Result<Instant> {
        let at = Instant::now();
        up.write_line("go").await?;
        Ok(at)
    }

    fn held_up(&self, profiles: &[&str]) -> Command {
        let mut command = self.lab.user(USER).command("sh");
        command
            .args(["-c", "echo held && read -r _ && exec \"$@\"", "sh"])
            .args(["minitunnel", "up"]);
        for profile in profiles {
            command.args(["-p", profile]);
        }
        command
    }

    /// Ends an `up` by Ctrl-C, in order.
    pub(crate) async fn down(&self, mut up: Process) -> Result {
        up.signal(Signal::INT)?;
        up.success(WAIT).await
    }

    /// The same, whatever it could not withdraw.
    pub(crate) async fn end(&self, mut up: Process) -> Result {
        up.signal(Signal::INT)?;
        up.exit(WAIT).await.map(drop)
    }

    /// The bare loop, watching.
    pub(crate) async fn bare(&self) -> Result<Process> {
        let this = std::env::current_exe()?;
        let Access {
            server,
            ca,
            certificate,
            key,
        } = &self.access;
        let mut command = self.lab.command(&this.display().to_string());
        command.args(["bare", server]).args([ca, certificate, key]);
        let bare = Process::spawn(&mut command).await?;
        bare.wait_for_line("ready", WAIT).await?;
        Ok(bare)
    }

    /// The costs of a process of the lab.
    pub(crate) fn costs(&self, process: &Process) -> Result<Proc> {
        Ok(self.proc(process.lab_pid()?))
    }

    /// The costs of the helper.
    pub(crate) async fn helper_costs(&self) -> Result<Proc> {
        let pid = self.bus.owner(HELPER).await?;
        Ok(self.proc(pid.context("the helper does not run")?))
    }

    /// The costs of the lab's process of that number.
    pub(crate) fn proc(&self, pid: u32) -> Proc {
        Proc(self.lab.outside_path(&format!("/proc/{pid}")))
    }

    /// Somebody who can tell when the helper has done what it was doing.
    pub(crate) async fn helper_at_rest(&self) -> Result<impl AsyncFn() -> Result> {
        let bus = self.bus.connect().await?;
        Ok(async move || {
            // It answers between two changes, never amid one.
            let (path, interface) = (
                "/io/github/minitunnel/Helper",
                "io.github.minitunnel.Helper1",
            );
            bus.call_method(Some(HELPER), path, Some(interface), "List", &())
                .await?;
            Ok(())
        })
    }

    /// Ends the helper, and waits until it is gone.
    pub(crate) async fn end_helper(&self) -> Result {
        let Some(pid) = self.bus.owner(HELPER).await? else {
            return Ok(());
        };
        self.lab.sh(&format!("kill {pid}")).await?;
        let folder = self.lab.outside_path(&format!("/proc/{pid}"));
        eventually(WAIT, "the end of the helper", async || {
            ensure!(!folder.exists(), "{} is there", folder.display());
            Ok(())
        })
        .await
    }

    /// Alice's session bus.
    pub(crate) async fn session_bus(&self) -> Result<SessionBus> {
        SessionBus::start(&self.lab.user(USER)).await
    }

    /// A screen.
    pub(crate) async fn display(&self) -> Result<Display> {
        Display::start(&self.lab).await
    }

    /// Alice's window, driven.
    pub(crate) async fn window(&self, display: &Display) -> Result<Window> {
        display.open(Some(USER), Look::default()).await
    }

    /// Ends the window that is open.
    pub(crate) async fn end_window(&self) -> Result {
        let end = "pkill -TERM --full '^[^ ]*minitunnel-window'";
        self.lab.sh(end).await.map(drop)
    }

    /// The session socket of alice's `up`.
    pub(crate) fn session_socket(&self) -> PathBuf {
        let uid = self.lab.user(USER).uid();
        let path = format!("/run/user/{uid}/minitunnel/session.sock");
        self.lab.outside_path(&path)
    }

    /// Alice's minikube home.
    pub(crate) fn minikube_home(&self) -> PathBuf {
        self.lab.user(USER).home().join(".minikube")
    }
}

/// What the profile's files say of its API server.
fn access(home: &MinikubeHome, cluster: &Cluster) -> Access {
    let profile = home.profile(cluster.profile());
    Access {
        server: cluster.server(),
        ca: home.path().join("ca.crt"),
        certificate: profile.join("client.crt"),
        key: profile.join("client.key"),
    }
}
