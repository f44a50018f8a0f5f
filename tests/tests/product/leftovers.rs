//! A `minikube tunnel` that runs, ends, or died: it is waited for, followed, and what it left is removed where the user
//! chose so. Its part is played by a process of its name that holds its lock, and by the traces that it makes.

use anyhow::ensure;
use minitunnel_e2e::{
    ALLOW, ClusterOptions, Exposed, Process, ProxyMode, Result, Scene, Signal, SystemBus, WAIT,
    eventually, run,
};
use serde_json::{Value, json};

const CONFLICT: Option<i32> = Some(4);
/// As `minikube tunnel` makes it.
const ROUTE: &str = "10.96.0.0/12 via 192.168.49.2";

/// Nobody is asked for anything.
const ALLOW_ALL: &str = "polkit.addRule(function(action, subject) { return polkit.Result.YES; });";

/// `minikube tunnel` for Alice's profile `minikube`.
struct MinikubeTunnel {
    process: Process,
    pid: u32,
}

impl MinikubeTunnel {
    /// Takes the lock, makes the route, writes the record, sets the service's address.
    async fn start(scene: &Scene, service: &Exposed) -> Result<Self> {
        let lock = scene.home.profile("minikube").join(".tunnel_lock");
        let script = format!(
            "exec 9>>{}; flock 9; echo locked; exec -a minikube sleep 3600",
            lock.display()
        );
        let process = Process::spawn(scene.alice("bash").args(["-c", &script])).await?;
        process.wait_for_line("locked", WAIT).await?;
        let pid = process.lab_pid()?;
        // The shell has become what has the name of minikube.
        eventually(WAIT, "the process to be minikube", async || {
            let line = scene.lab.sh(&format!("cat /proc/{pid}/cmdline")).await?;
            anyhow::ensure!(line.starts_with("minikube"), "{line}");
            Ok(())
        })
        .await?;
        scene.lab.sh(&format!("ip route add {ROUTE}")).await?;
        let record = json!([{
            "Route": {
                "Gateway": "192.168.49.2",
                "DestCIDR": { "IP": "10.96.0.0", "Mask": "//AAAA==" },
                "ClusterDomain": "cluster.local",
                "ClusterDNSIP": "10.96.0.10",
            },
            "MachineName": "minikube",
            "Pid": pid,
        }]);
        write_records(scene, &record)?;
        let ingress = json!({ "ingress": [{ "ip": service.ip() }] });
        let cluster = &scene.cluster;
        cluster
            .set_load_balancer(&service.name, "minikube", ingress)
            .await?;
        Ok(Self { process, pid })
    }

    /// As by SIGKILL, a closed terminal or a reboot: all of it stays.
    async fn die(&mut self) -> Result {
        self.process.kill().await
    }

    /// As by Ctrl-C: all of it goes, the lock last.
    async fn end(mut self, scene: &Scene, service: &Exposed) -> Result {
        scene.lab.sh(&format!("ip route delete {ROUTE}")).await?;
        write_records(scene, &json!([]))?;
        let none = json!({ "ingress": null });
        let cluster = &scene.cluster;
        cluster
            .set_load_balancer(&service.name, "minikube", none)
            .await?;
        self.process.kill().await
    }
}

fn write_records(scene: &Scene, records: &Value) -> Result {
    let path = scene.home.path().join("tunnels.json");
    scene.home.write(&path, &serde_json::to_vec(records)?)
}

fn records(scene: &Scene) -> Result<Vec<u8>> {
    Ok(std::fs::read(scene.home.path().join("tunnels.json"))?)
}

/// What a view is shown of it.
async fn leftovers(scene: &Scene) -> Result<Vec<Value>> {
    let shown = scene.snapshot().await?["leftovers"].take();
    Ok(shown.as_array().cloned().unwrap_or_default())
}

/// Waits until nothing is: a session hears of a route's end from the kernel, maybe after the clean-up's answer.
async fn nothing_left(scene: &Scene) -> Result {
    eventually(WAIT, "no leftovers", async || {
        let left = leftovers(scene).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

/// A cluster with a service `web`, of which a `minikube tunnel` died.
async fn left(options: ClusterOptions) -> Result<(Scene, Exposed, MinikubeTunnel)> {
    let options = ClusterOptions {
        proxy: ProxyMode::None,
        ..options
    };
    let scene = Scene::new(options).await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let mut tunnel = MinikubeTunnel::start(&scene, &web).await?;
    tunnel.die().await?;
    Ok((scene, web, tunnel))
}

fn sentences(web: &Exposed, pid: u32) -> [String; 2] {
    [
        format!(
            "route {ROUTE} dev br-49 that the `minikube tunnel` of minikube (process {pid}) left"
        ),
        format!(
            "address {} of service default/web in minikube that a `minikube tunnel` left",
            web.ip()
        ),
    ]
}

#[tokio::test]
async fn what_a_dead_minikube_tunnel_left_goes_only_after_preview_choice_and_consent() -> Result {
    let (scene, web, dead) = left(ClusterOptions::default()).await?;
    let bus = SystemBus::start(&scene.lab, ALLOW).await?;
    let mut agent = bus.agent("deny").await?;
    // A twin that differs in the metric alone is somebody else's.
    scene
        .lab
        .sh(&format!("ip route add {ROUTE} metric 5"))
        .await?;
    let (routes, file) = (scene.lab.routes().await?, records(&scene)?);
    let [route, address] = sentences(&web, dead.pid);
    assert_eq!(leftovers(&scene).await?.len(), 2);

    let preview = run(scene.alice("minitunnel").args(["cleanup", "--dry-run"])).await?;
    for item in [&route, &address] {
        let line = format!("would ask whether to remove {item}\n");
        assert!(preview.contains(&line), "{preview}");
    }
    // A script that says nothing of it has not chosen it.
    let kept = run(scene.alice("minitunnel").arg("cleanup")).await?;
    for item in [&route, &address] {
        assert!(kept.contains(&format!("not removed: {item};")), "{kept}");
    }
    assert_eq!(agent.times_asked(), 0);
    assert_eq!(scene.lab.routes().await?, routes);
    assert_eq!(scene.cluster.addresses("web").await?, web.addresses());

    // No consent: the route stays, and is said to.
    let mut refused = scene.alice("minitunnel");
    let mut refused = agent.spawn(refused.args(["cleanup", "--yes"])).await?;
    let asked = agent.asked().await?;
    let action = "asked io.github.minitunnel.remove-stale: ";
    assert!(
        asked.contains(action) && asked.contains(&format!("{ROUTE} on br-49")),
        "{asked} names not what it is about"
    );
    assert_eq!(refused.exit(WAIT).await?.code(), Some(1));
    assert_eq!(refused.count(&format!("left {route}: ")), 1);
    assert_eq!(refused.count(&format!("removed {address}")), 1);
    assert_eq!(scene.lab.routes().await?, routes);
    assert_eq!(scene.cluster.addresses("web").await?, [""; 0]);

    agent.answer("approve").await?;
    let mut cleaned = scene.alice("minitunnel");
    let mut cleaned = agent.spawn(cleaned.args(["cleanup", "--yes"])).await?;
    cleaned.success(WAIT).await?;
    assert_eq!(cleaned.count(&format!("removed {route}")), 1);
    assert_eq!(agent.times_asked(), 2);
    let twin = |line: &&String| line.contains("10.96.0.0/12");
    let left = scene.lab.routes().await?;
    let left: Vec<_> = left.iter().filter(twin).collect();
    assert!(
        matches!(left.as_slice(), [twin] if twin.contains(r#""metric":5"#)),
        "{left:?}"
    );
    scene.lab.sh(&format!("ip route delete {ROUTE}")).await?;
    scene.wait_for_before().await?;
    nothing_left(&scene).await?;
    assert_eq!(records(&scene)?, file, "minikube's own file was changed");
    Ok(())
}

#[tokio::test]
async fn dialog_of_a_clean_up_closes_when_its_user_leaves_and_no_other_opens() -> Result {
    let scene = Scene::api_only().await?;
    // Of a profile that was deleted, by a process that was killed.
    let mut dead = Vec::new();
    for network in ["10.112.0.0", "10.128.0.0"] {
        let route = format!("{network}/12 via 192.168.49.2");
        scene.lab.sh(&format!("ip route add {route}")).await?;
        dead.push(json!({
            "Route": {
                "Gateway": "192.168.49.2",
                "DestCIDR": { "IP": network, "Mask": "//AAAA==" },
                "ClusterDomain": "cluster.local",
                "ClusterDNSIP": "10.112.0.10",
            },
            "MachineName": "deleted",
            // The kernel gives none so high.
            "Pid": i32::MAX,
        }));
    }
    write_records(&scene, &Value::from(dead))?;
    let bus = SystemBus::start(&scene.lab, ALLOW).await?;
    let mut agent = bus.agent("hold").await?;
    let mut up = agent.spawn(scene.alice("minitunnel").arg("up")).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    assert_eq!(leftovers(&scene).await?.len(), 2);
    let routes = scene.lab.routes().await?;

    let mut cleanup = scene.alice("minitunnel");
    let mut cleanup = Process::spawn(cleanup.args(["cleanup", "--yes"])).await?;
    agent.asked().await?;
    cleanup.signal(Signal::INT)?;
    cleanup.exit(WAIT).await?;
    agent.cancelled().await?;
    // Whoever asks next has a dialog at once: none is open for nobody.
    let mut next = scene.alice("minitunnel");
    let mut next = Process::spawn(next.args(["cleanup", "--yes"])).await?;
    agent.asked().await?;
    assert_eq!(agent.times_asked(), 2);
    assert_eq!(scene.lab.routes().await?, routes);
    agent.answer("approve").await?;
    next.success(WAIT).await?;
    nothing_left(&scene).await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    scene.wait_for_before().await
}

#[tokio::test]
async fn in_a_terminal_cleanup_asks_and_no_is_no() -> Result {
    let (scene, web, dead) = left(ClusterOptions::default()).await?;
    let [route, address] = sentences(&web, dead.pid);
    let _bus = SystemBus::start(&scene.lab, ALLOW_ALL).await?;
    let routes = scene.lab.routes().await?;
    for (answer, verb) in [("n", "not removed: "), ("y", "removed ")] {
        // `script` is the terminal.
        let script = "script -qec 'minitunnel cleanup' /dev/null";
        let mut terminal = Process::spawn(scene.alice("bash").args(["-c", script])).await?;
        terminal.wait_for_count("[y/N]", 1, WAIT).await?;
        assert_eq!(terminal.count(&route), 1, "{}", terminal.report("asked"));
        assert_eq!(scene.lab.routes().await?, routes);
        terminal.write_line(answer).await?;
        terminal.success(WAIT).await?;
        for item in [&route, &address] {
            let said = terminal.count(&format!("{verb}{item}"));
            assert_eq!(said, 1, "{}", terminal.report("cleaned up"));
        }
    }
    scene.wait_for_before().await?;
    assert_eq!(scene.cluster.addresses("web").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn up_that_a_dead_minikube_tunnel_blocks_names_it_and_connects_after_the_clean_up() -> Result
{
    let (scene, web, dead) = left(ClusterOptions::default()).await?;
    let mut up = scene.sudo_up(&["minikube"]).await?;
    assert_eq!(up.exit(WAIT).await?.code(), CONFLICT);
    let named = format!(
        "minikube: blocked: {ROUTE} of the `minikube tunnel` of minikube that died (process {}) is there already",
        dead.pid
    );
    assert_eq!(up.count(&named), 1, "{}", up.report("was blocked"));
    let mut check = Process::spawn(scene.alice("minitunnel").arg("check")).await?;
    check.exit(WAIT).await?;
    let way_out = "Remove what it left: minitunnel cleanup";
    assert_eq!(check.count(way_out), 1, "{}", check.report("checked"));

    // sudo is the consent.
    let sudo = || scene.lab.sudo("alice", "minitunnel");
    let cleaned = run(sudo().args(["cleanup", "--yes"])).await?;
    for item in sentences(&web, dead.pid) {
        assert!(cleaned.contains(&format!("removed {item}\n")), "{cleaned}");
    }
    scene.wait_for_before().await?;
    let mut up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    scene.cluster.wait_for_addresses("web").await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    scene.wait_for_before().await
}

#[tokio::test]
async fn running_minikube_tunnel_is_waited_for_left_alone_and_followed() -> Result {
    let scene = Scene::api_only().await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let theirs = MinikubeTunnel::start(&scene, &web).await?;
    let routes = scene.lab.routes().await?;
    let mut up = scene.sudo_up(&["minikube"]).await?;
    let waits = format!(
        "minikube: `minikube tunnel` is running in a terminal (process {})",
        theirs.pid
    );
    up.wait_for_count(&waits, 1, WAIT).await?;
    nothing_left(&scene).await?;
    let cleaned = run(scene.alice("minitunnel").args(["cleanup", "--yes"])).await?;
    assert_eq!(cleaned, "nothing is left over\n");
    assert_eq!(scene.lab.routes().await?, routes);
    assert_eq!(scene.cluster.addresses("web").await?, web.addresses());

    theirs.end(&scene, &web).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    scene.cluster.wait_for_addresses("web").await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    scene.wait_for_before().await
}

#[tokio::test]
async fn up_that_waits_for_a_minikube_tunnel_says_what_it_left_when_that_dies() -> Result {
    let scene = Scene::api_only().await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let mut theirs = MinikubeTunnel::start(&scene, &web).await?;
    let mut up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("is running in a terminal", 1, WAIT)
        .await?;
    theirs.die().await?;
    assert_eq!(up.exit(WAIT).await?.code(), CONFLICT);
    let died = format!("that died (process {})", theirs.pid);
    assert_eq!(up.count(&died), 1, "{}", up.report("was blocked"));
    Ok(())
}

#[tokio::test]
async fn address_of_one_family_in_two_and_the_route_of_a_deleted_profile_can_be_removed() -> Result
{
    let (mut scene, web, _dead) = left(ClusterOptions::dual_stack()).await?;
    assert_eq!(web.cluster_ips.len(), 2);
    assert_eq!(leftovers(&scene).await?.len(), 2);
    let sudo = |scene: &Scene| scene.lab.sudo("alice", "minitunnel");
    // While it is there, the route is that of a profile without files.
    scene.home.delete("minikube")?;
    let preview = run(scene.alice("minitunnel").args(["cleanup", "--dry-run"])).await?;
    assert_eq!(preview.matches("would ask").count(), 1, "{preview}");
    run(sudo(&scene).args(["cleanup", "--yes"])).await?;
    scene.wait_for_before().await?;
    assert_eq!(
        scene.cluster.addresses("web").await?,
        [web.ip().to_string()]
    );

    scene.home.add(&scene.cluster)?;
    run(sudo(&scene).args(["cleanup", "--yes"])).await?;
    assert_eq!(scene.cluster.addresses("web").await?, [""; 0]);
    Ok(())
}
