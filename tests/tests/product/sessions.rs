//! Several commands of one user, and ends that come from elsewhere: what a terminal is told, and by which exit code.

use anyhow::Context as _;
use minitunnel_e2e::{
    ALLOW, Cluster, ClusterOptions, MinikubeHome, Process, Result, Scene, Signal, SystemBus, WAIT,
    eventually, run,
};
use tokio::process::Command;

/// The documented exit codes.
const NO_HELPER: Option<i32> = Some(6);
const ADDRESSES_REMAIN: Option<i32> = Some(8);
const GOES_ON: &str =
    "other: the session that this tunnel was part of has ended: going on without it";

/// Two clusters side by side, each with a profile of Alice's.
async fn two() -> Result<(Scene, Cluster)> {
    let mut scene = Scene::api_only().await?;
    let other = ClusterOptions {
        service_cidrs: vec!["10.112.0.0/12".to_owned()],
        ..ClusterOptions::second("other")
    };
    let other = scene.add(other).await?;
    Ok((scene, other))
}

async fn up(mut command: Command, profile: &str) -> Result<Process> {
    let up = Process::spawn(command.args(["up", "-p", profile])).await?;
    up.wait_for_count(&format!("{profile}: connected"), 1, WAIT)
        .await?;
    Ok(up)
}

fn has(routes: &[String], destination: &str) -> bool {
    routes.iter().any(|route| route.contains(destination))
}

/// Ends the `up` that hosts the session by that signal, and sees the other one go on by itself.
async fn second_goes_on_after(
    signal: Signal,
    scene: &Scene,
    command: impl Fn() -> Command,
) -> Result {
    let mut host = up(command(), "minikube").await?;
    let mut joined = up(command(), "other").await?;
    host.signal(signal)?;
    let status = host.exit(WAIT).await?;
    assert_eq!(status.success(), signal == Signal::INT, "{status}");
    joined.wait_for_count(GOES_ON, 1, WAIT).await?;
    joined.wait_for_count("other: connected", 2, WAIT).await?;
    eventually(WAIT, "the routes of the second alone", async || {
        let routes = scene.lab.routes().await?;
        anyhow::ensure!(has(&routes, "10.112.0.0/12") && !has(&routes, "10.96.0.0/12"));
        Ok(())
    })
    .await?;
    joined.signal(Signal::INT)?;
    joined.success(WAIT).await?;
    scene.wait_for_before().await
}

#[tokio::test]
async fn second_up_goes_on_when_the_first_one_ends_or_dies() -> Result {
    let (scene, _other) = two().await?;
    let _bus = SystemBus::start(&scene.lab, ALLOW).await?;
    second_goes_on_after(Signal::INT, &scene, || scene.alice("minitunnel")).await?;
    second_goes_on_after(Signal::KILL, &scene, || scene.alice("minitunnel")).await
}

#[tokio::test]
async fn second_up_by_sudo_goes_on_with_a_helper_of_its_own() -> Result {
    let (scene, _other) = two().await?;
    let sudo = || scene.lab.sudo("alice", "minitunnel");
    second_goes_on_after(Signal::INT, &scene, sudo).await
}

#[tokio::test]
async fn second_up_opens_no_dialog_because_the_first_one_died() -> Result {
    let (scene, _other) = two().await?;
    let bus = SystemBus::start(&scene.lab, "").await?;
    let mut agent = bus.agent("approve").await?;
    let mut first = scene.alice("minitunnel");
    let mut host = agent.spawn(first.args(["up", "-p", "minikube"])).await?;
    host.wait_for_count("minikube: connected", 1, WAIT).await?;
    let mut second = scene.alice("minitunnel");
    let mut joined = agent.spawn(second.args(["up", "-p", "other"])).await?;
    joined.wait_for_count("other: connected", 1, WAIT).await?;
    host.kill().await?;
    joined.wait_for_count(GOES_ON, 1, WAIT).await?;
    joined
        .wait_for_count("other: waiting for your consent", 1, WAIT)
        .await?;
    assert_eq!(agent.times_asked(), 1);
    scene.wait_for_before().await?;

    let mut third = scene.alice("minitunnel");
    let mut again = Process::spawn(third.args(["up", "--detach", "-p", "other"])).await?;
    again.success(WAIT).await?;
    joined.wait_for_count("other: connected", 2, WAIT).await?;
    assert_eq!(agent.times_asked(), 2);
    joined.signal(Signal::INT)?;
    joined.success(WAIT).await?;
    scene.wait_for_before().await
}

#[tokio::test]
async fn up_of_a_tunnel_that_is_up_says_so_and_detached_it_is_done() -> Result {
    let scene = Scene::api_only().await?;
    let _bus = SystemBus::start(&scene.lab, ALLOW).await?;
    let mut host = up(scene.alice("minitunnel"), "minikube").await?;
    let mut detached = scene.alice("minitunnel");
    let mut detached = Process::spawn(detached.args(["up", "--detach"])).await?;
    detached.success(WAIT).await?;
    let said = detached.report("ended");
    assert_eq!(detached.count("minikube: connected"), 1, "{said}");

    // Its end leaves the tunnel that another one has brought up.
    let mut beside = up(scene.alice("minitunnel"), "minikube").await?;
    beside.signal(Signal::INT)?;
    beside.success(WAIT).await?;
    assert_eq!(host.count("removed"), 0, "{}", host.report("saw an end"));
    host.signal(Signal::INT)?;
    host.success(WAIT).await?;
    scene.wait_for_before().await
}

#[tokio::test]
async fn up_waits_for_a_profile_that_is_deleted_and_asks_nobody_when_it_is_back() -> Result {
    let mut scene = Scene::api_only().await?;
    let bus = SystemBus::start(&scene.lab, "").await?;
    let mut agent = bus.agent("approve").await?;
    let mut up = agent
        .spawn(scene.alice("minitunnel").args(["up", "-p", "minikube"]))
        .await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    scene.home.delete("minikube")?;
    up.wait_for_count("minikube: the profile is gone", 1, WAIT)
        .await?;
    up.wait_for_count("its tunnel comes up again when the profile does", 1, WAIT)
        .await?;
    assert_eq!(up.count("(services) removed"), 1, "{}", up.report("saw"));
    scene.wait_for_before().await?;

    scene.home.add(&scene.cluster)?;
    up.wait_for_count("minikube: connected", 2, WAIT).await?;
    assert_eq!(agent.times_asked(), 1);
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    scene.wait_for_before().await
}

#[tokio::test]
async fn watched_status_shows_the_session_that_begins_after_it_and_its_end() -> Result {
    let scene = Scene::api_only().await?;
    scene.cluster.expose("web", "LoadBalancer").await?;
    let _bus = SystemBus::start(&scene.lab, ALLOW).await?;
    let mut status = scene.alice("minitunnel");
    let status = Process::spawn(status.args(["status", "--watch"])).await?;
    status
        .wait_for_line("minikube (docker)  disconnected", WAIT)
        .await?;
    for round in 1..=2 {
        let mut up = up(scene.alice("minitunnel"), "minikube").await?;
        let connected = "minikube (docker)  connected";
        status.wait_for_count(connected, round, WAIT).await?;
        scene.cluster.wait_for_addresses("web").await?;
        up.signal(Signal::INT)?;
        up.success(WAIT).await?;
        let last = async || {
            let lines = status.lines();
            let last = lines.iter().rfind(|line| line.contains("(docker)"));
            let last = last.context("no profile")?;
            anyhow::ensure!(last.contains("disconnected"), "{last}");
            Ok(())
        };
        eventually(WAIT, "the end to be shown", last).await?;
    }
    let said = status.report("is watched");
    assert_eq!(status.count("stale"), 0, "{said}");
    Ok(())
}

#[tokio::test]
async fn down_ends_both_ups_for_good() -> Result {
    let (scene, _other) = two().await?;
    let _bus = SystemBus::start(&scene.lab, ALLOW).await?;
    let mut host = up(scene.alice("minitunnel"), "minikube").await?;
    let mut joined = up(scene.alice("minitunnel"), "other").await?;
    run(scene.alice("minitunnel").arg("down")).await?;
    host.success(WAIT).await?;
    joined.success(WAIT).await?;
    assert_eq!(joined.count(GOES_ON), 0, "{}", joined.report("went on"));
    scene.wait_for_before().await
}

#[tokio::test]
async fn address_in_a_cluster_that_died_before_ctrl_c_is_named_at_the_end() -> Result {
    let mut scene = Scene::api_only().await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let mut up = up(scene.lab.sudo("alice", "minitunnel"), "minikube").await?;
    up.wait_for_count("service default/web → ", 1, WAIT).await?;
    assert_eq!(up.count("dialog"), 0, "{}", up.report("spoke of a dialog"));
    scene.cluster.stop().await?;
    up.wait_for_line("waiting for the cluster", WAIT).await?;
    up.signal(Signal::INT)?;
    let status = up.exit(WAIT).await?;
    assert_eq!(status.code(), ADDRESSES_REMAIN, "{}", up.report("ended"));
    let named = format!("minikube: service default/web keeps {}", web.ip());
    assert_eq!(up.count(&named), 1, "{}", up.report("ended"));
    Ok(())
}

#[tokio::test]
async fn killed_helper_of_sudo_is_said_and_no_success() -> Result {
    let scene = Scene::api_only().await?;
    let mut up = up(scene.lab.sudo("alice", "minitunnel"), "minikube").await?;
    let keeper = up.lab_pid()?;
    // The helper's effective user is root; the command's is Alice.
    let kill = format!(
        "for child in $(cat /proc/{keeper}/task/{keeper}/children); do
            if [ \"$(stat -c %u /proc/$child)\" = 0 ]; then kill -KILL $child; fi
        done"
    );
    scene.lab.sh(&kill).await?;
    let status = up.exit(WAIT).await?;
    assert_eq!(status.code(), NO_HELPER, "{}", up.report("ended"));
    let said = "the helper was ended by signal 9; its routes are removed";
    assert_eq!(up.count(said), 1, "{}", up.report("ended"));
    assert_eq!(scene.lab.routes().await?, scene.before);
    Ok(())
}

#[tokio::test]
async fn socket_of_a_killed_up_goes_with_the_next_cleanup() -> Result {
    let scene = Scene::api_only().await?;
    let _bus = SystemBus::start(&scene.lab, ALLOW).await?;
    let mut up = up(scene.alice("minitunnel"), "minikube").await?;
    let folder = scene.lab.outside_path("/run/user/4001/minitunnel");
    let socket = folder.join("session.sock");
    up.kill().await?;
    assert!(socket.exists());
    run(scene.alice("minitunnel").arg("cleanup")).await?;
    assert!(!socket.exists());
    // The file of the lock stays, empty and unlocked.
    assert_eq!(std::fs::read(folder.join("session.lock"))?, b"");
    Ok(())
}

#[tokio::test]
async fn sudo_waits_for_the_idle_helper_of_the_bus() -> Result {
    let scene = Scene::api_only().await?;
    let bus = SystemBus::start(&scene.lab, ALLOW).await?;
    run(scene.alice("minitunnel").arg("cleanup")).await?;
    let idle = bus.owner("io.github.minitunnel.Helper").await?;
    idle.context("the helper of the clean-up has ended already")?;
    let mut up = up(scene.lab.sudo("alice", "minitunnel"), "minikube").await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    scene.wait_for_before().await
}

#[tokio::test]
async fn sudo_of_another_user_is_told_which_helper_is_at_work() -> Result {
    let scene = Scene::api_only().await?;
    MinikubeHome::create(&scene.lab, "bob")?.add(&scene.cluster)?;
    let _alice = up(scene.lab.sudo("alice", "minitunnel"), "minikube").await?;
    let held = scene.lab.routes().await?;
    let mut bob = Process::spawn(scene.lab.sudo("bob", "minitunnel").arg("up")).await?;
    let status = bob.exit(WAIT).await?;
    assert_eq!(status.code(), NO_HELPER, "{}", bob.report("ended"));
    let said = "another minitunnel helper is at work (process ";
    assert_eq!(bob.count(said), 1, "{}", bob.report("ended"));

    assert_eq!(scene.lab.routes().await?, held);
    Ok(())
}

#[tokio::test]
async fn output_that_nobody_reads_any_more_is_no_reason_to_leave_an_address() -> Result {
    let scene = Scene::api_only().await?;
    scene.cluster.expose("web", "LoadBalancer").await?;
    let _bus = SystemBus::start(&scene.lab, ALLOW).await?;
    // As in a terminal that is closed: every line after the first finds no reader.
    let script = "minitunnel up | { read -r line; echo \"$line\"; }; echo ended";
    let pipe = Process::spawn(scene.alice("bash").args(["-c", script])).await?;
    scene.cluster.wait_for_addresses("web").await?;
    run(scene.alice("minitunnel").arg("down")).await?;
    pipe.wait_for_count("ended", 1, WAIT).await?;
    assert_eq!(pipe.count("panicked"), 0, "{}", pipe.report("panicked"));
    assert_eq!(scene.cluster.addresses("web").await?, [""; 0]);
    scene.wait_for_before().await
}
