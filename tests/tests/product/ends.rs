//! Every end of `sudo minitunnel up`, orderly or not: what was put into the kernel and the cluster goes.

use std::fs;
use std::ops::Deref;
use std::time::Duration;

use anyhow::Context as _;
use minitunnel_e2e::{Process, Result, Scene, Signal, WAIT, eventually, run};
use rustix::process::{Pid, kill_process};
use serde_json::json;
use tokio::time::Instant;

/// The exit code for addresses that remain on services.
const ADDRESSES_REMAIN: Option<i32> = Some(8);

/// The user's patience with an API server that hangs is 3 s; the rest is for a loaded machine. Without it, the end would come
/// when the server goes on, which is never.
const HUNG_END: Duration = Duration::from_secs(10);

/// A scene with one LoadBalancer service in its cluster; the data plane is of no concern.
struct Ending {
    scene: Scene,
    /// The service's cluster IP, which is the address that it gets.
    address: String,
}

/// The three processes of one `sudo minitunnel up`.
struct Up {
    keeper: Process,
    helper: Pid,
    client: Pid,
}

impl Ending {
    async fn new() -> Result<Self> {
        let scene = Scene::api_only().await?;
        let web = scene.cluster.expose("web", "LoadBalancer").await?;
        Ok(Self {
            scene,
            address: web.ip().to_string(),
        })
    }

    /// Runs Alice's `sudo minitunnel up` until the routes are held and the address is assigned.
    async fn up(&self) -> Result<Up> {
        let keeper = self.sudo_up(&["minikube"]).await?;
        keeper
            .wait_for_count("minikube: connected", 1, WAIT)
            .await?;
        let line = format!("minikube: service default/web → {}", self.address);
        keeper.wait_for_count(&line, 1, WAIT).await?;
        assert_eq!(self.addresses().await?, [self.address.as_str()]);
        let held = self.lab.routes().await?;
        assert_eq!(held.len(), self.before.len() + 2, "{held:#?}");
        let helper = child(&keeper, "serve")?;
        let client = child(&keeper, "up")?;
        Ok(Up {
            keeper,
            helper,
            client,
        })
    }

    async fn addresses(&self) -> Result<Vec<String>> {
        self.cluster.addresses("web").await
    }

    /// The address is there, and every view says whose it is.
    async fn address_is_stale(&self) -> Result {
        assert_eq!(self.addresses().await?, [self.address.as_str()]);
        let stale = json!(["disconnected", "us", [self.address]]);
        assert_eq!(self.service_status().await?, stale);
        Ok(())
    }

    /// No route is left, and the address alone, which a clean-up takes back.
    async fn is_stale_until_cleanup(&self) -> Result {
        self.wait_for_before().await?;
        self.address_is_stale().await?;
        let cleaned = self.cleanup().await?;
        assert!(cleaned.contains(&self.address), "{cleaned}");
        self.nothing_is_left().await
    }

    /// No route and no address, and every view says so.
    async fn nothing_is_left(&self) -> Result {
        assert_eq!(self.lab.routes().await?, self.before);
        assert_eq!(self.addresses().await?, [""; 0]);
        let nothing = json!(["disconnected", "nobody", []]);
        assert_eq!(self.service_status().await?, nothing);
        Ok(())
    }

    /// Alice's `minitunnel cleanup`, with root's way to the helper's routes.
    async fn cleanup(&self) -> Result<String> {
        run(self.lab.sudo("alice", "minitunnel").arg("cleanup")).await
    }
}

impl Deref for Ending {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

/// The keeper's child that has this word on its command line.
fn child(keeper: &Process, word: &str) -> Result<Pid> {
    let pid = keeper.pid()?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let found = children.split_whitespace().find(|child| {
        let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|part| part == word.as_bytes())
    });
    let found = found.with_context(|| keeper.report(&format!("has no child with `{word}`")))?;
    Pid::from_raw(found.parse()?).context("no process has the id 0")
}

/// An orderly end by a signal leaves nothing, and says so by its exit code.
async fn ends_in_order_by(signal: Signal) -> Result {
    let ending = Ending::new().await?;
    let mut up = ending.up().await?;
    up.keeper.signal(signal)?;
    up.keeper.success(WAIT).await?;
    ending.nothing_is_left().await
}

#[tokio::test]
async fn ctrl_c_leaves_no_route_and_no_address() -> Result {
    ends_in_order_by(Signal::INT).await
}

#[tokio::test]
async fn sigterm_leaves_no_route_and_no_address() -> Result {
    ends_in_order_by(Signal::TERM).await
}

#[tokio::test]
async fn sighup_leaves_no_route_and_no_address() -> Result {
    ends_in_order_by(Signal::HUP).await
}

#[tokio::test]
async fn ctrl_c_while_the_api_server_hangs_names_the_address_that_cleanup_withdraws_later() -> Result
{
    let mut ending = Ending::new().await?;
    let mut up = ending.up().await?;
    ending.cluster.pause_api_server()?;
    let asked = Instant::now();
    up.keeper.signal(Signal::INT)?;
    let status = up.keeper.exit(WAIT).await?;
    assert!(asked.elapsed() < HUNG_END, "{:?}", asked.elapsed());
    assert_eq!(
        status.code(),
        ADDRESSES_REMAIN,
        "{}",
        up.keeper.report("ended")
    );
    let named = format!("service default/web keeps {}", ending.address);
    assert_eq!(up.keeper.count(&named), 1, "{}", up.keeper.report("ended"));
    assert_eq!(ending.lab.routes().await?, ending.before);

    // A server that goes on would act on what it was asked before; another one has heard nothing.
    ending.scene.cluster.replace_api_server().await?;
    ending.address_is_stale().await?;
    let cleaned = ending.cleanup().await?;
    assert!(cleaned.contains(&ending.address), "{cleaned}");
    ending.nothing_is_left().await
}

#[tokio::test]
async fn sigkill_of_the_client_leaves_no_route_and_a_stale_address_until_cleanup() -> Result {
    let ending = Ending::new().await?;
    let mut up = ending.up().await?;
    kill_process(up.client, Signal::KILL)?;
    up.keeper.exit(WAIT).await?;
    ending.is_stale_until_cleanup().await
}

#[tokio::test]
async fn sigkill_of_the_helper_leaves_no_route_and_no_address() -> Result {
    let ending = Ending::new().await?;
    let mut up = ending.up().await?;
    kill_process(up.helper, Signal::KILL)?;
    up.keeper.exit(WAIT).await?;
    ending.nothing_is_left().await
}

#[tokio::test]
async fn sigkill_of_helper_and_client_at_once_leaves_no_route_and_a_stale_address_until_cleanup()
-> Result {
    let ending = Ending::new().await?;
    let mut up = ending.up().await?;
    stop_and_kill(&[up.helper, up.client])?;
    // The keeper lives, and does what the helper can't any more.
    up.keeper.exit(WAIT).await?;
    ending.is_stale_until_cleanup().await
}

#[tokio::test]
async fn sigkill_of_the_keeper_leaves_no_route_and_no_address() -> Result {
    let ending = Ending::new().await?;
    let mut up = ending.up().await?;
    up.keeper.kill().await?;
    ending.wait_for_before().await?;
    ending.cluster.wait_for_no_address("web").await
}

/// Kills these as if at one instant: none can act on the death of another.
fn stop_and_kill(pids: &[Pid]) -> Result {
    for signal in [Signal::STOP, Signal::KILL] {
        for pid in pids {
            kill_process(*pid, signal)?;
        }
    }
    Ok(())
}

/// Kills all three as if at one instant: the two that are stopped can't act on the death of the others.
async fn kill_all(mut up: Up) -> Result {
    for pid in [up.helper, up.client] {
        kill_process(pid, Signal::STOP)?;
    }
    up.keeper.kill().await?;
    for pid in [up.helper, up.client] {
        kill_process(pid, Signal::KILL)?;
    }
    for pid in [up.helper, up.client] {
        let path = format!("/proc/{}", pid.as_raw_nonzero());
        eventually(WAIT, "the end of a killed process", async || {
            anyhow::ensure!(!fs::exists(&path)?, "{path} is there");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What is left when nobody is left to clean up.
async fn left_by_killed() -> Result<Ending> {
    let ending = Ending::new().await?;
    let up = ending.up().await?;
    let held = ending.lab.routes().await?;
    kill_all(up).await?;
    assert_eq!(ending.lab.routes().await?, held, "somebody cleaned up");
    ending.address_is_stale().await?;
    Ok(ending)
}

#[tokio::test]
async fn recover_removes_the_routes_after_sigkill_of_all_three() -> Result {
    let ending = left_by_killed().await?;
    run(ending.lab.command("minitunnel-helper").arg("recover")).await?;
    assert_eq!(ending.lab.routes().await?, ending.before);
    ending.address_is_stale().await
}

#[tokio::test]
async fn cleanup_leaves_nothing_after_sigkill_of_all_three() -> Result {
    let ending = left_by_killed().await?;
    let cleaned = ending.cleanup().await?;
    assert!(cleaned.contains(&ending.address), "{cleaned}");
    ending.nothing_is_left().await
}

#[tokio::test]
async fn next_up_and_its_end_leave_nothing_after_sigkill_of_all_three() -> Result {
    let ending = left_by_killed().await?;
    let mut next = ending.up().await?;
    next.keeper.signal(Signal::INT)?;
    next.keeper.success(WAIT).await?;
    ending.nothing_is_left().await
}
