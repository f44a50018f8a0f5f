//! Consent, leases and deaths on a real system bus with a real polkit, and the product's own files for both.

mod consent;
mod deaths;
mod idle;
mod leases;
mod session;

use std::ops::{Deref, DerefMut};

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{Agent, Process, Result, Scene, SystemBus, WAIT, eventually};
use tokio::process::Command;

const HELPER: &str = "io.github.minitunnel.Helper";
/// The documented exit code of consent that was not given.
const NOT_AUTHORIZED: Option<i32> = Some(5);
/// A call that changes nothing, for any object on the bus.
const PING: &str = "org.freedesktop.DBus.Peer.Ping";

/// A scene with a system bus, and one LoadBalancer service in its cluster.
struct Bench {
    bus: SystemBus,
    scene: Scene,
    /// The service's cluster IP, which is the address that it gets.
    address: String,
}

impl Bench {
    async fn start(rules: &str) -> Result<Self> {
        let scene = Scene::api_only().await?;
        let bus = SystemBus::start(&scene.lab, rules).await?;
        let web = scene.cluster.expose("web", "LoadBalancer").await?;
        Ok(Self {
            bus,
            scene,
            address: web.ip().to_string(),
        })
    }

    /// `minitunnel up` of Alice's, for whom polkit asks that agent, if there is one.
    async fn up(&self, agent: Option<&mut Agent>, profiles: &[&str]) -> Result<Process> {
        let mut command = self.alice("minitunnel");
        command.arg("up");
        for profile in profiles {
            command.args(["-p", profile]);
        }
        match agent {
            Some(agent) => agent.spawn(&mut command).await,
            None => Process::spawn(&mut command).await,
        }
    }

    /// The same for the first profile, until its service has its address. Needs no consent, or has it.
    async fn connected(&self) -> Result<Process> {
        let up = self.up(None, &["minikube"]).await?;
        up.wait_for_count("minikube: connected", 1, WAIT).await?;
        let line = format!("minikube: service default/web → {}", self.address);
        up.wait_for_count(&line, 1, WAIT).await?;
        assert!(has_route(&self.lab.routes().await?), "{}", up.report("has"));
        Ok(up)
    }

    /// Nothing is left, and every view says so.
    async fn nothing_is_left(&self) -> Result {
        self.wait_for_before().await?;
        assert_eq!(self.cluster.addresses("web").await?, [""; 0]);
        let nothing = serde_json::json!(["disconnected", "nobody", []]);
        assert_eq!(self.service_status().await?, nothing);
        Ok(())
    }

    /// The helper's process, as the lab sees it.
    async fn helper(&self) -> Result<u32> {
        let owner = self.bus.owner(HELPER).await?;
        owner.context("the helper does not run")
    }

    /// Waits until no helper has the name on the bus.
    async fn wait_for_no_helper(&self) -> Result {
        eventually(WAIT, "the helper's end", async || {
            let owner = self.bus.owner(HELPER).await?;
            ensure!(owner.is_none(), "process {owner:?} is the helper");
            Ok(())
        })
        .await
    }

    /// Kills the helper, and waits until another one runs and the tables are the same as before that.
    async fn survives_a_killed_helper(&self, up: &Process) -> Result {
        let held = self.lab.routes().await?;
        let killed = self.helper().await?;
        self.lab.sh(&format!("kill -KILL {killed}")).await?;
        eventually(WAIT, "another helper", async || {
            let helper = self.helper().await?;
            ensure!(helper != killed, "the killed helper is still there");
            let same = self.lab.routes().await? == held;
            ensure!(same, up.report("has not got its routes back"));
            Ok(())
        })
        .await
    }

    /// A call of the helper's, which activates it if need be.
    fn call(&self, user: &str, call: &str) -> Command {
        let mut command = self.lab.user(user).command("dbus-send");
        command
            .args(["--system", "--print-reply", &format!("--dest={HELPER}")])
            .arg("/io/github/minitunnel/Helper")
            .args(call.split(' '));
        command
    }

    /// The name of the error with which the helper answers a call.
    async fn refusal(&self, user: &str, call: &str) -> Result<String> {
        let mut refused = Process::spawn(&mut self.call(user, call)).await?;
        let status = refused.exit(WAIT).await?;
        ensure!(!status.success(), refused.report("was not refused"));
        Ok(refused.lines().join("\n"))
    }
}

impl Deref for Bench {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

impl DerefMut for Bench {
    fn deref_mut(&mut self) -> &mut Scene {
        &mut self.scene
    }
}

fn has_route(routes: &[String]) -> bool {
    routes.iter().any(|route| route.contains("10.96.0.0/12"))
}
