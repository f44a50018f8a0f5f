//! `cleanup --dry-run`: it tells what is left over, and touches nothing, not even by starting the helper that would.

use anyhow::Context as _;
use minitunnel_e2e::{
    ALLOW, MinikubeHome, Process, Result, Scene, Signal, SystemBus, WAIT, eventually, run,
};

const HELPER: &str = "io.github.minitunnel.Helper";
const SERVICES: &str = "route 10.96.0.0/12 via ";
const PODS: &str = "route 10.244.0.0/16 via ";
/// Where no helper can be asked, a route may be another user's living one.
const UNCLAIMED: &str = " has minitunnel's tag, and no helper runs that tells whose it is";
const NOTHING: &str = "nothing is left over\n";

/// What `minitunnel cleanup --dry-run` of Alice's prints, after an orderly end.
async fn dry_run(scene: &Scene) -> Result<String> {
    run(scene.alice("minitunnel").args(["cleanup", "--dry-run"])).await
}

/// `minitunnel up` of Alice's, until the tunnel is up.
async fn up(scene: &Scene) -> Result<Process> {
    let up = Process::spawn(scene.alice("minitunnel").arg("up")).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    Ok(up)
}

/// The routes of the tunnel are named, and not as what would go in any case.
fn assert_unclaimed(said: &str) {
    assert!(said.contains(SERVICES) && said.contains(PODS), "{said}");
    assert_eq!(said.matches(UNCLAIMED).count(), 2, "{said}");
    assert!(!said.contains("would remove route"), "{said}");
}

#[tokio::test]
async fn dry_run_condemns_no_route_of_another_users_sudo() -> Result {
    let scene = Scene::api_only().await?;
    let _bus = SystemBus::start(&scene.lab, ALLOW).await?;
    MinikubeHome::create(&scene.lab, "bob")?.add(&scene.cluster)?;
    let bob = Process::spawn(scene.lab.sudo("bob", "minitunnel").arg("up")).await?;
    bob.wait_for_count("minikube: connected", 1, WAIT).await?;
    assert_unclaimed(&dry_run(&scene).await?);
    Ok(())
}

#[tokio::test]
async fn dry_run_names_what_a_dead_helper_left_and_starts_no_other_one() -> Result {
    let scene = Scene::api_only().await?;
    let bus = SystemBus::start(&scene.lab, ALLOW).await?;
    assert_eq!(dry_run(&scene).await?, NOTHING);
    assert_eq!(bus.owner(HELPER).await?, None, "after an idle dry run");

    let mut up = up(&scene).await?;
    let held = scene.lab.routes().await?;
    let helper = bus.owner(HELPER).await?.context("no helper")?;
    // A client that is stopped can't call for another helper.
    up.signal(Signal::STOP)?;
    scene.lab.sh(&format!("kill -KILL {helper}")).await?;
    up.kill().await?;
    eventually(WAIT, "the killed helper's name to go", async || {
        anyhow::ensure!(bus.owner(HELPER).await?.is_none());
        Ok(())
    })
    .await?;

    assert_unclaimed(&dry_run(&scene).await?);
    assert_eq!(bus.owner(HELPER).await?, None, "after the dry run");
    assert_eq!(scene.lab.routes().await?, held);

    run(scene.alice("minitunnel").arg("cleanup")).await?;
    assert_eq!(scene.lab.routes().await?, scene.before);
    assert_eq!(dry_run(&scene).await?, NOTHING);
    Ok(())
}

#[tokio::test]
async fn dry_run_beside_a_tunnel_names_tagged_routes_that_no_lease_has() -> Result {
    let scene = Scene::api_only().await?;
    let _bus = SystemBus::start(&scene.lab, ALLOW).await?;
    let _up = up(&scene).await?;
    assert_eq!(dry_run(&scene).await?, NOTHING);
    // Bob's has no session of his to ask.
    let mut bob = scene.lab.user("bob").command("minitunnel");
    assert_eq!(run(bob.args(["cleanup", "--dry-run"])).await?, NOTHING);

    let held = scene.lab.routes().await?;
    let ours = held.iter().find(|route| route.contains("10.96.0.0/12"));
    let gateway = ours.and_then(|route| route.split("\"gateway\":\"").nth(1));
    let gateway = gateway.and_then(|rest| rest.split('"').next());
    let gateway = gateway.context("no route of the tunnel")?;
    let add = format!("ip route add 10.77.0.0/16 via {gateway} proto 109");
    scene.lab.sh(&add).await?;
    let expected = format!("would remove route 10.77.0.0/16 via {gateway}\n");
    assert_eq!(dry_run(&scene).await?, expected);
    let mut bob = scene.lab.user("bob").command("minitunnel");
    assert_eq!(run(bob.args(["cleanup", "--dry-run"])).await?, expected);
    Ok(())
}

#[tokio::test]
async fn dry_run_by_sudo_is_about_the_calling_user_and_recovers_nothing() -> Result {
    let scene = Scene::api_only().await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let sudo = || scene.lab.sudo("alice", "minitunnel");
    let mut up = Process::spawn(sudo().arg("up")).await?;
    up.wait_for_count("service default/web → ", 1, WAIT).await?;
    assert_eq!(
        run(sudo().args(["cleanup", "--dry-run"])).await?,
        NOTHING,
        "beside the tunnel of the session"
    );
    let held = scene.lab.routes().await?;
    // All three at once; those that are stopped can't act on the death of the others.
    let keeper = up.lab_pid()?;
    let kill = format!(
        "all=$(cat /proc/{keeper}/task/{keeper}/children); kill -STOP $all; kill -KILL {keeper} $all"
    );
    scene.lab.sh(&kill).await?;
    up.exit(WAIT).await?;
    assert_eq!(scene.lab.routes().await?, held);

    let said = run(sudo().args(["cleanup", "--dry-run"])).await?;
    assert_unclaimed(&said);
    let address = format!("would remove address {} of service default/web", web.ip());
    assert!(said.contains(&address), "{said}");
    assert_eq!(scene.lab.routes().await?, held);
    assert_eq!(
        scene.cluster.addresses("web").await?,
        [web.ip().to_string()]
    );
    Ok(())
}
