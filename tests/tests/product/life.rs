//! What becomes of a tunnel in the life of its cluster and of its machine.

use anyhow::ensure;
use minitunnel_e2e::{
    ALLOW, ClusterOptions, Exposed, MinikubeHome, Process, ProxyMode, Result, Scene, Signal,
    SystemBus, WAIT, eventually, run,
};

/// A cluster with a service `web` of type LoadBalancer, and Alice's tunnel for it, which is up.
async fn connected(scene: &Scene) -> Result<(Process, Exposed)> {
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    scene.cluster.wait_for_addresses("web").await?;
    Ok((up, web))
}

/// Ctrl-C, and nothing is left.
async fn end(up: Process, scene: &Scene) -> Result {
    interrupt(up, scene).await?;
    scene.wait_for_before().await
}

/// The same where links were made anew meanwhile.
async fn end_on_new_links(up: Process, scene: &Scene) -> Result {
    interrupt(up, scene).await?;
    scene.is_as_before_on_new_links().await
}

/// Ctrl-C, an orderly end, and no address is left.
async fn interrupt(mut up: Process, scene: &Scene) -> Result {
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(scene.cluster.addresses("web").await?, [""; 0]);
    Ok(())
}

/// Waits for the route of the services to be there, or not to be.
async fn route_is(scene: &Scene, there: bool) -> Result {
    eventually(WAIT, &format!("the route: {there}"), async || {
        let routes = scene.lab.routes().await?;
        let found = routes.iter().any(|route| route.contains("10.96.0.0/12"));
        ensure!(found == there, "{routes:#?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn stop_that_minikube_announces_withdraws_addresses_while_the_server_answers() -> Result {
    let mut scene = Scene::api_only().await?;
    let (up, web) = connected(&scene).await?;
    scene.home.event("minikube", "Stopping")?;
    // The server runs all the time: it is asked here, and was asked for the withdrawal.
    scene.cluster.wait_for_no_address("web").await?;
    route_is(&scene, false).await?;
    up.wait_for_count("minikube is stopping it", 1, WAIT)
        .await?;

    scene.cluster.stop().await?;
    scene.home.event("minikube", "Done")?;
    up.wait_for_line("waiting for the cluster", WAIT).await?;
    scene.cluster.start_again(None).await?;
    up.wait_for_count("minikube: connected", 2, WAIT).await?;
    assert_eq!(
        scene.cluster.wait_for_addresses("web").await?,
        web.addresses()
    );
    end_on_new_links(up, &scene).await
}

#[tokio::test]
async fn home_that_is_removed_takes_routes_and_addresses_along_and_brings_them_back() -> Result {
    let mut scene = Scene::api_only().await?;
    let (up, web) = connected(&scene).await?;
    std::fs::remove_dir_all(scene.home.path())?;
    up.wait_for_count("minikube: the profile is gone", 1, WAIT)
        .await?;
    scene.wait_for_before().await?;
    // The server answers: what it was given is taken back with what is known of it.
    scene.cluster.wait_for_no_address("web").await?;

    scene.home = MinikubeHome::create(&scene.lab, "alice")?;
    scene.home.add(&scene.cluster)?;
    up.wait_for_count("minikube: connected", 2, WAIT).await?;
    assert_eq!(
        scene.cluster.wait_for_addresses("web").await?,
        web.addresses()
    );
    end(up, &scene).await
}

#[tokio::test]
async fn bridge_that_goes_and_comes_back_costs_its_time_and_is_no_fight() -> Result {
    let scene = Scene::api_only().await?;
    let (up, _web) = connected(&scene).await?;
    for _ in 0..3 {
        // As when the container engine is restarted: its IPv4 routes go without a word from the kernel.
        scene.lab.sh("ip link set br-49 down").await?;
        route_is(&scene, false).await?;
        scene.lab.sh("ip link set br-49 up").await?;
        route_is(&scene, true).await?;
    }
    assert_eq!(up.count("something removed"), 0, "{}", up.report("fights"));
    end_on_new_links(up, &scene).await
}

#[tokio::test]
async fn certificates_that_are_renewed_are_used_without_an_interruption() -> Result {
    let mut scene = Scene::new(ClusterOptions {
        proxy: ProxyMode::None,
        audit: true,
        ..ClusterOptions::default()
    })
    .await?;
    let (up, _web) = connected(&scene).await?;
    let watches = |scene: &Scene| -> Result<usize> {
        let requests = scene.cluster.requests()?;
        let watch = |line: &&String| line.starts_with("watch /api/v1/services?");
        Ok(requests.iter().filter(watch).count())
    };
    let before = watches(&scene)?;
    let held = scene.lab.routes().await?;
    let monitor = monitor(&scene).await?;
    scene.cluster.renew_client()?;
    scene.home.add(&scene.cluster)?;
    eventually(WAIT, "a watch by the new certificate", async || {
        let now = watches(&scene)?;
        ensure!(now > before, "{now} watches");
        Ok(())
    })
    .await?;
    let late = scene.cluster.expose("late", "LoadBalancer").await?;
    assert_eq!(
        scene.cluster.wait_for_addresses("late").await?,
        late.addresses()
    );
    assert_eq!(scene.lab.routes().await?, held);
    let deleted = "Deleted 10.96.0.0/12";
    assert_eq!(monitor.count(deleted), 0, "{}", monitor.report("watched"));
    end(up, &scene).await?;
    // It was there all the time, and has seen the end.
    monitor.wait_for_count(deleted, 1, WAIT).await?;
    Ok(())
}

/// Somebody who tells of each route that comes or goes.
async fn monitor(scene: &Scene) -> Result<Process> {
    let process = Process::spawn(scene.lab.command("ip").args(["monitor", "route"])).await?;
    let probe = "10.250.0.0/24";
    eventually(WAIT, "the monitor to listen", async || {
        let script = format!("ip route add {probe} dev lo && ip route delete {probe} dev lo");
        scene.lab.sh(&script).await?;
        ensure!(process.count(probe) > 0, "it has heard nothing");
        Ok(())
    })
    .await?;
    Ok(process)
}

/// Somebody who removes the route of the services whenever it is there, by this name.
async fn saboteur(scene: &Scene, name: &str) -> Result<Process> {
    let program = scene.lab.dir().join(name);
    std::fs::copy("/bin/bash", &program)?;
    // One process, which hears its own probes before it says that it listens.
    let script = "exec 3< <(exec ip monitor route)
        until read -t 1 -r line <&3; do
            ip route add 10.250.0.0/24 dev lo && ip route delete 10.250.0.0/24 dev lo
        done
        echo listening
        while read -r line <&3; do
            case $line in
                10.96.0.0/12*) ip route delete 10.96.0.0/12 proto 109 2>/dev/null && echo deleted ;;
            esac
        done";
    let mut command = scene.lab.command(&program.display().to_string());
    let process = Process::spawn(command.args(["-c", script])).await?;
    process.wait_for_line("listening", WAIT).await?;
    Ok(process)
}

#[tokio::test]
async fn who_deletes_the_route_in_a_loop_is_fought_three_times_and_named() -> Result {
    let scene = Scene::api_only().await?;
    let (up, _web) = connected(&scene).await?;
    let mut saboteur = saboteur(&scene, "systemd-networkd").await?;
    scene
        .lab
        .sh("ip route delete 10.96.0.0/12 proto 109")
        .await?;
    let said = up
        .wait_for_count("minikube: failed: something removed the routes", 1, WAIT)
        .await?;
    assert!(
        said.contains("systemd-networkd (unless ManageForeignRoutes=no) (process "),
        "{said}"
    );
    let losses = saboteur.count("deleted");
    assert!(losses >= 2, "{}", saboteur.report("deleted too little"));
    scene.wait_for_before().await?;
    // It is for the user to end the other program, and to ask again.
    saboteur.kill().await?;
    assert_eq!(saboteur.count("deleted"), losses);
    let again = Process::spawn(scene.alice("minitunnel").arg("up")).await?;
    again.wait_for_count("minikube: connected", 1, WAIT).await?;
    end(up, &scene).await
}

#[tokio::test]
async fn session_of_another_home_on_the_same_cluster_takes_no_address_away() -> Result {
    let scene = Scene::api_only().await?;
    MinikubeHome::create(&scene.lab, "bob")?.add(&scene.cluster)?;
    let _bus = SystemBus::start(&scene.lab, ALLOW).await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let up = Process::spawn(scene.alice("minitunnel").arg("up")).await?;
    up.wait_for_count("service default/web → ", 1, WAIT).await?;
    let version = async || -> Result<Option<String>> {
        let service = scene.cluster.services().get("web").await?;
        Ok(service.metadata.resource_version)
    };
    let before = version().await?;

    let bob = |arguments: &[&str]| {
        let mut command = scene.lab.user("bob").command("minitunnel");
        command.args(arguments);
        command
    };
    let status = run(&mut bob(&["status"])).await?;
    assert!(!status.contains("stale"), "{status}");
    let preview = run(&mut bob(&["cleanup", "--dry-run"])).await?;
    assert_eq!(preview, "nothing is left over\n");
    let cleaned = run(&mut bob(&["cleanup"])).await?;
    assert_eq!(cleaned, "nothing is left over\n");
    let mut blocked = Process::spawn(&mut bob(&["up"])).await?;
    assert_eq!(blocked.exit(WAIT).await?.code(), Some(4));
    assert_eq!(scene.cluster.addresses("web").await?, web.addresses());
    assert_eq!(version().await?, before, "{}", up.report("was disturbed"));
    end(up, &scene).await
}
