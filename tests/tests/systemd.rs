//! The helper under the machine's own systemd, as process 1 of a lab's namespace, with the unit as it is installed.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _},
    ops::Deref,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use minitunnel_e2e::{Lab, Place, Process, Result, Scene, Signal, WAIT, eventually, run};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::process::Command;

const INSTALLERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../installers/linux");
const UNIT: &str = "minitunnel-helper.service";
/// CAP_NET_ADMIN is the capability number 12 (capabilities(7)).
const NET_ADMIN: &str = "0000000000001000";

/// systemd in a lab, with a bus, polkit, and minitunnel installed.
struct Booted {
    process: Process,
    place: Place,
    /// Where its messages are.
    log: PathBuf,
    _cgroup: Cgroup,
}

/// A cgroup of the machine's for a lab's systemd, which ends with it.
struct Cgroup {
    parent: File,
    name: String,
}

impl Cgroup {
    async fn new(lab: &Lab) -> Result<Self> {
        let name = format!(
            "minitunnel-lab-{}",
            lab.dir().file_name().context("no name")?.display()
        );
        let make = "mkdir /run/cgroup; mount -t cgroup2 cgroup2 /run/cgroup; mkdir /run/cgroup/";
        lab.sh(&format!("{make}{name}")).await?;
        let parent = File::open(lab.outside_path("/run/cgroup"))?;
        Ok(Self { parent, name })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The lab's mount, which this descriptor keeps where the lab has ended already.
        let parent = format!("/proc/self/fd/{}", self.parent.as_raw_fd());
        let cgroup = Path::new(&parent).join(&self.name);
        match end(&cgroup) {
            Ok(()) => remove(&cgroup),
            Err(error) => eprintln!("{} stays: {error:#}", self.name),
        }
    }
}

/// Kills all in a cgroup and waits for their ends (cgroups(7), `cgroup.events`).
fn end(cgroup: &Path) -> Result {
    fs::write(cgroup.join("cgroup.kill"), "1")?;
    let path = cgroup.join("cgroup.events");
    let mut events = File::open(path)?;
    let deadline = Instant::now() + WAIT;
    loop {
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if text.contains("populated 0") {
            return Ok(());
        }
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        // The ends of this process's children interrupt it.
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left)) {
            Ok(0) => bail!("somebody is in it after {WAIT:?}"),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a cgroup and those below it: their files can't be, and need not.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(cgroup) {
        eprintln!("{} stays: {error}", cgroup.display());
    }
}

impl Booted {
    async fn start(lab: &Lab) -> Result<Self> {
        let cgroup = Cgroup::new(lab).await?;
        let folder = lab.dir().join("systemd");
        fs::create_dir(&folder)?;
        let helper = lab.program("minitunnel-helper")?;
        let boot = folder.join("boot.sh");
        fs::write(&boot, include_str!("systemd/boot.sh"))?;
        let enter = format!(
            "echo $$ >/run/cgroup/{}/cgroup.procs; exec unshare --mount --propagation private --pid --ipc --uts --cgroup \
             --fork --kill-child --mount-proc bash \"$@\"",
            cgroup.name
        );
        let mut command = lab.command("bash");
        command.args(["-euc", &enter, "boot"]);
        command.args([&boot, &folder, Path::new(INSTALLERS), &helper]);
        let process = Process::spawn(&mut command).await?;
        let booted = Self {
            place: lab.below(&process)?,
            process,
            log: folder.join("dev/kmsg"),
            _cgroup: cgroup,
        };
        let bus = lab.outside_path("/run/dbus/system_bus_socket");
        eventually(WAIT, "systemd's bus", async || {
            ensure!(bus.exists(), booted.report("has no bus"));
            Ok(())
        })
        .await?;
        Ok(booted)
    }

    /// What systemd says.
    fn report(&self, what: &str) -> String {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        format!("{}\n{said}", self.process.report(what))
    }

    /// A call of Alice's that changes nothing, and that the bus has systemd start the helper for.
    async fn call(&self) -> Result {
        let mut call = self.place.user("alice").command("dbus-send");
        call.args([
            "--system",
            "--print-reply",
            "--dest=io.github.minitunnel.Helper",
        ])
        .args([
            "/io/github/minitunnel/Helper",
            "org.freedesktop.DBus.Peer.Ping",
        ]);
        let answer = run(&mut call).await;
        answer
            .with_context(|| self.report("has no helper"))
            .map(drop)
    }

    /// A property of the unit.
    async fn show(&self, property: &str) -> Result<String> {
        let script = format!("systemctl show --property={property} --value {UNIT}");
        Ok(self.place.sh(&script).await?.trim().to_owned())
    }

    /// The helper's process, as systemd sees it.
    async fn helper(&self) -> Result<u32> {
        match self.show("MainPID").await?.as_str() {
            "0" => bail!(self.report("runs no helper")),
            pid => Ok(pid.parse()?),
        }
    }

    /// Sends the helper a signal, and waits until systemd runs another one that has taken its name.
    async fn restarts(&self, signal: &str) -> Result<u32> {
        let before = self.helper().await?;
        self.place.sh(&format!("kill -{signal} {before}")).await?;
        eventually(WAIT, "another helper", async || {
            let now = self.helper().await?;
            ensure!(now != before, "it is still there");
            let state = self.show("ActiveState").await?;
            ensure!(
                state == "active",
                self.report(&format!("has the unit {state}"))
            );
            Ok(now)
        })
        .await
    }
}

/// A scene with systemd in its lab, and `minitunnel up` of Alice's.
struct Tunnel {
    up: Process,
    /// Every route while the tunnel is up.
    held: Vec<String>,
    systemd: Booted,
    scene: Scene,
}

impl Tunnel {
    async fn start() -> Result<Self> {
        let scene = Scene::api_only().await?;
        let systemd = Booted::start(&scene.lab).await?;
        let mut command: Command = systemd.place.user("alice").command("minitunnel");
        let up = Process::spawn(command.arg("up")).await?;
        let connected = up.wait_for_line("minikube: connected", WAIT).await;
        connected.with_context(|| systemd.report("lets nobody connect"))?;
        let held = scene.lab.routes().await?;
        ensure!(held != scene.before, "no route was made");
        Ok(Self {
            up,
            held,
            systemd,
            scene,
        })
    }

    async fn end(mut self) -> Result {
        self.up.signal(Signal::INT)?;
        self.up.success(WAIT).await?;
        assert_eq!(self.lab.routes().await?, self.before);
        Ok(())
    }
}

impl Deref for Tunnel {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

#[tokio::test]
async fn unit_starts_at_a_users_call_with_one_capability_and_behind_its_walls() -> Result {
    let lab = Lab::new()?;
    let systemd = Booted::start(&lab).await?;
    assert_eq!(systemd.show("ActiveState").await?, "inactive");
    systemd.call().await?;
    let helper = systemd.helper().await?;
    let status = systemd
        .place
        .sh(&format!("cat /proc/{helper}/status"))
        .await?;
    let has = |name: &str, value: &str| {
        let mut lines = status
            .lines()
            .map(|line| line.split_once(':').unwrap_or_default());
        assert!(
            lines.any(|(of, is)| of == name && is.trim() == value),
            "{name} {value}: {status}"
        );
    };
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        has(set, NET_ADMIN);
    }
    for set in ["CapInh", "CapAmb"] {
        has(set, "0000000000000000");
    }
    has("NoNewPrivs", "1");
    // A filter (proc_pid_status(5)).
    has("Seccomp", "2");
    let mounts = systemd
        .place
        .sh(&format!("cat /proc/{helper}/mounts"))
        .await?;
    let read_only = |mount: &str| {
        let mut lines = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        lines.any(|line| line[1] == mount && line[3].split(',').any(|option| option == "ro"))
    };
    assert!(read_only("/") && read_only("/usr"), "{mounts}");
    Ok(())
}

#[tokio::test]
async fn units_exposure_is_at_most_1_6() -> Result {
    let unit = Path::new(INSTALLERS).join("systemd").join(UNIT);
    let mut analyze = Command::new("systemd-analyze");
    // Ten times the exposure; above it the command fails.
    analyze
        .args(["security", "--no-pager", "--offline=yes", "--threshold=16"])
        .arg(unit);
    run(&mut analyze).await?;
    Ok(())
}

#[tokio::test]
async fn killed_or_ended_helper_is_followed_by_one_that_keeps_the_routes_of_the_living() -> Result {
    let tunnel = Tunnel::start().await?;
    for signal in ["KILL", "TERM", "ABRT"] {
        tunnel.systemd.restarts(signal).await?;
        assert_eq!(tunnel.lab.routes().await?, tunnel.held, "after SIG{signal}");
    }
    // It knows whose they are.
    tunnel.end().await
}

#[tokio::test]
async fn routes_of_an_owner_that_died_with_the_helper_go_without_a_call() -> Result {
    let mut tunnel = Tunnel::start().await?;
    let helper = tunnel.systemd.helper().await?;
    // A stopped client can't call for another helper, nor be one's owner when it is dead.
    tunnel.up.signal(Signal::STOP)?;
    tunnel
        .systemd
        .place
        .sh(&format!("kill -STOP {helper}"))
        .await?;
    tunnel.up.kill().await?;
    assert_eq!(tunnel.lab.routes().await?, tunnel.held);
    tunnel.systemd.restarts("KILL").await?;
    tunnel.wait_for_before().await
}
