//! Routes that are in the way: each is explained, none is touched, and nothing is created beside it.

use std::ops::Deref;

use minitunnel_e2e::{Cluster, ClusterOptions, Process, Result, Scene, Signal, WAIT};
use serde_json::Value;

/// The documented exit code of a conflict.
const CONFLICT: Option<i32> = Some(4);

/// A scene with a VPN's device that has no routes yet.
struct Bench(Scene);

impl Bench {
    async fn start() -> Result<Self> {
        let mut scene = Scene::api_only().await?;
        let lab = &scene.lab;
        lab.sh(
            "ip link add tun0 type veth peer name vpn && ip link set vpn up && ip link set tun0 up",
        )
        .await?;
        // The link-local addresses of the new links come late, and belong to the tables that are compared.
        lab.sh("sysctl -qw net.ipv6.conf.tun0.disable_ipv6=1 net.ipv6.conf.vpn.disable_ipv6=1")
            .await?;
        scene.before = scene.lab.routes().await?;
        Ok(Self(scene))
    }

    /// A command of Alice's.
    async fn alice(&self, arguments: &str) -> Result<Process> {
        let mut command = self.0.alice("minitunnel");
        Process::spawn(command.args(arguments.split(' '))).await
    }

    /// The kinds of the conflicts that a view sees, of one profile's services.
    async fn kinds(&self, profile: &str) -> Result<Vec<String>> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let profiles = list(&self.snapshot().await?["profiles"]);
        let wanted = profiles
            .iter()
            .filter(|of| of["profile"]["name"] == profile);
        let groups = wanted.flat_map(|of| list(&of["groups"]));
        let conflicts = groups
            .filter(|group| group["kind"]["kind"] == "services")
            .flat_map(|group| list(&group["state"]["conflicts"]));
        Ok(conflicts
            .filter_map(|conflict| conflict["kind"].as_str().map(str::to_owned))
            .collect())
    }

    /// With the routes that `setup` makes, `up` and `check` say why in a sentence that has all of `words`, exit with 4,
    /// and change nothing.
    async fn refuses(&self, kind: &str, setup: &str, undo: &str, words: &[&str]) -> Result {
        self.lab.sh(setup).await?;
        let up = self.sudo_up(&["minikube"]).await?;
        self.is_refused(up, "minikube", kind, words).await?;
        self.lab.sh(undo).await?;
        Ok(())
    }

    /// That `up` of a profile says why in one sentence, and so does `check`; both exit with 4 and change nothing.
    async fn is_refused(&self, mut up: Process, of: &str, kind: &str, words: &[&str]) -> Result {
        let before = self.lab.routes().await?;
        let explained = |process: &Process, prefix: &str| {
            let says = |line: &String| {
                line.starts_with(prefix) && words.iter().all(|word| line.contains(word))
            };
            process.lines().iter().filter(|line| says(line)).count()
        };
        let status = up.exit(WAIT).await?;
        assert_eq!(status.code(), CONFLICT, "{}", up.report(kind));
        let blocked = explained(&up, &format!("{of}: blocked: "));
        assert_eq!(blocked, 1, "{words:?}: {}", up.report(kind));
        assert_eq!(self.lab.routes().await?, before, "after up: {kind}");

        let mut check = self.alice(&format!("check -p {of}")).await?;
        let status = check.exit(WAIT).await?;
        assert_eq!(status.code(), CONFLICT, "{}", check.report(kind));
        let explained = explained(&check, "    ");
        assert_eq!(explained, 1, "{words:?}: {}", check.report(kind));
        assert_eq!(self.kinds(of).await?, [kind]);
        assert_eq!(self.lab.routes().await?, before, "after check: {kind}");
        Ok(())
    }

    /// `up` connects with the route of the services and no other, and takes it away again.
    async fn comes_up_with_services_alone(&self) -> Result {
        let before = self.lab.routes().await?;
        let mut up = self.sudo_up(&["minikube"]).await?;
        up.wait_for_count("minikube: connected", 1, WAIT).await?;
        let line = "minikube: no route for pods of minikube: 10.244.0.0/16 of OpenVPN or another VPN (tun0)";
        up.wait_for_count(line, 1, WAIT).await?;
        let held = self.lab.routes().await?;
        assert_eq!(services_routes(&held), 1, "{}", up.report("connected"));
        assert_eq!(held.len(), before.len() + 1);
        up.signal(Signal::INT)?;
        up.success(WAIT).await?;
        assert_eq!(self.lab.routes().await?, before);
        Ok(())
    }
}

impl Deref for Bench {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.0
    }
}

/// How many of the routes lead to the services of a default cluster.
fn services_routes(routes: &[String]) -> usize {
    let leads = |route: &&String| route.contains("10.96.0.0/12");
    routes.iter().filter(leads).count()
}

/// The exit codes that the tests expect are what the README promises.
#[test]
fn readme_has_the_exit_code_of_a_conflict() {
    let readme = include_str!("../../../README.md");
    assert!(readme.contains("\n| 4 | a route conflicts |\n"));
}

#[tokio::test]
async fn each_kind_of_overlap_is_refused_in_one_sentence() -> Result {
    let bench = Bench::start().await?;
    let before = bench.lab.routes().await?;
    for (kind, route) in [
        ("same_destination", "10.96.0.0/12"),
        ("covers", "10.100.7.0/24"),
        ("covered_by", "10.0.0.0/8"),
    ] {
        let setup = format!("ip route add {route} dev tun0");
        let undo = format!("ip route delete {route} dev tun0");
        let words = [
            "10.96.0.0/12",
            route,
            "via 192.168.49.2",
            "OpenVPN or another VPN (tun0)",
        ];
        bench.refuses(kind, &setup, &undo, &words).await?;
    }
    let (setup, undo) = (
        "ip route add 10.99.0.0/16 dev tun0 table 77 && ip rule add priority 100 lookup 77",
        "ip rule delete priority 100 && ip route flush table 77",
    );
    let words = ["rule 100", "table 77", "10.99.0.0/16", "10.96.0.0/12"];
    bench.refuses("policy", setup, undo, &words).await?;
    // A default is none in table main; asked before main, it wins.
    let (setup, words) = (
        "ip route add default dev tun0 table 77 && ip rule add to 10.0.0.0/8 priority 100 lookup 77",
        ["rule 100", "table 77", "0.0.0.0/0", "10.96.0.0/12"],
    );
    bench.refuses("policy", setup, undo, &words).await?;
    bench
        .refuses(
            "local_network",
            "ip address add 10.98.0.1/16 dev tun0",
            "ip address delete 10.98.0.1/16 dev tun0",
            &["10.98.0.0/16", "10.96.0.0/12 via 192.168.49.2", "tun0"],
        )
        .await?;
    assert_eq!(bench.lab.routes().await?, before);
    Ok(())
}

#[tokio::test]
async fn pods_in_conflict_cost_nobody_the_services() -> Result {
    let bench = Bench::start().await?;
    bench.lab.sh("ip route add 10.244.0.0/16 dev tun0").await?;
    bench.comes_up_with_services_alone().await
}

#[tokio::test]
async fn what_stands_for_the_default_route_is_no_conflict() -> Result {
    let bench = Bench::start().await?;
    // The other way to pods, which are not the matter here, is kept closed.
    bench
        .lab
        .sh("ip route add 10.244.0.0/16 dev tun0 && ip route add 0.0.0.0/1 dev tun0 && ip route add 128.0.0.0/1 dev tun0")
        .await?;
    assert_eq!(bench.kinds("minikube").await?, Vec::<String>::new());
    bench.comes_up_with_services_alone().await
}

/// A VPN comes up inside what is held: that is told, what is held stays, and nothing else is held up by it.
#[tokio::test]
async fn conflict_that_comes_over_a_held_route_is_told_and_costs_nothing_else() -> Result {
    let bench = Bench::start().await?;
    bench.choose_cni("minikube", "kindnet")?;
    let (second, third) = ("192.168.49.3", "192.168.49.4");
    let cluster = &bench.cluster;
    cluster
        .put_bare_node("minikube-m02", second, "10.244.1.0/24")
        .await?;
    let mut up = bench.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    bench.wait_for_route("10.244.1.0/24", Some(second)).await?;

    let vpn = "10.244.0.128/25";
    bench
        .lab
        .sh(&format!("ip route add {vpn} dev tun0"))
        .await?;
    up.wait_for_count(&format!("{vpn} of OpenVPN or another VPN (tun0)"), 1, WAIT)
        .await?;
    // The services go through another node, which is the first one's pods' affair no more than a node that joins or goes is.
    cluster.set_ready("minikube", false).await?;
    bench.wait_for_route("10.96.0.0/12", Some(second)).await?;
    cluster
        .put_bare_node("minikube-m03", third, "10.244.2.0/24")
        .await?;
    bench.wait_for_route("10.244.2.0/24", Some(third)).await?;
    cluster.remove_node("minikube-m03").await?;
    bench.wait_for_route("10.244.2.0/24", None).await?;
    let held = "10.244.0.0/24";
    bench.wait_for_route(held, Some("192.168.49.2")).await?;

    // Once it is gone, it is not made anew.
    bench
        .lab
        .sh(&format!("ip route delete {held} proto 109"))
        .await?;
    let left_out = format!("no route for pods of minikube: the narrower route {vpn}");
    up.wait_for_count(&left_out, 1, WAIT).await?;
    bench.wait_for_route(held, None).await?;
    bench.lab.sh(&format!("ip route delete {vpn}")).await?;
    bench.wait_for_route(held, Some("192.168.49.2")).await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(bench.lab.routes().await?, bench.before);
    Ok(())
}

#[tokio::test]
async fn second_default_cluster_is_told_who_has_the_range() -> Result {
    let mut bench = Bench::start().await?;
    let _second = bench.0.add(ClusterOptions::second("second")).await?;
    let mut first = bench.sudo_up(&["minikube"]).await?;
    first.wait_for_line("minikube: connected", WAIT).await?;
    let held = bench.lab.routes().await?;

    let second = bench.alice("up -p second").await?;
    let words = [
        "profile minikube already has 10.96.0.0/12 via 192.168.49.2",
        "overlaps 10.96.0.0/12 via 192.168.58.2",
    ];
    bench
        .is_refused(second, "second", "other_profile", &words)
        .await?;
    assert_eq!(bench.lab.routes().await?, held);

    first.signal(Signal::INT)?;
    first.success(WAIT).await?;
    assert_eq!(bench.lab.routes().await?, bench.before);
    Ok(())
}

#[tokio::test]
async fn of_two_default_clusters_in_one_up_one_connects_and_the_other_is_told() -> Result {
    let mut bench = Bench::start().await?;
    let _second = bench.0.add(ClusterOptions::second("second")).await?;
    let mut up = bench.sudo_up(&["minikube", "second"]).await?;
    up.wait_for_count(": connected", 1, WAIT).await?;
    let blocked = up.wait_for_count(": blocked: ", 1, WAIT).await?;
    let (loser, winner) = if blocked.starts_with("second") {
        ("second", "minikube")
    } else {
        ("minikube", "second")
    };
    let said = format!("{loser}: blocked: profile {winner} already has ");
    assert!(blocked.starts_with(&said), "{blocked}");
    let held = bench.lab.routes().await?;
    assert_eq!(services_routes(&held), 1, "{}", up.report("overlaps"));
    assert_eq!(up.count(": connected"), 1, "{}", up.report("overlaps"));
    // The range is free when the winner is brought down, and this `up` is there to take it.
    let mut down = bench.alice(&format!("down -p {winner}")).await?;
    down.success(WAIT).await?;
    let taken = format!("{loser}: connected");
    up.wait_for_count(&taken, 1, WAIT).await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(bench.lab.routes().await?, bench.before);
    Ok(())
}

#[tokio::test]
async fn pods_of_another_profile_leave_out_the_pods_and_the_services_work() -> Result {
    let mut scene = Scene::new(ClusterOptions::default()).await?;
    let options = ClusterOptions {
        service_cidrs: vec!["10.112.0.0/12".to_owned()],
        ..ClusterOptions::second("second")
    };
    let second = Cluster::start(&scene.lab, options).await?;
    scene.home.add(&second)?;
    let before = scene.lab.routes().await?;
    let services = [
        scene.cluster.expose("web", "LoadBalancer").await?.url(),
        second.expose("web", "LoadBalancer").await?.url(),
    ];
    scene.cluster.served(&services[0]).await?;
    second.served(&services[1]).await?;

    let mut up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_line("minikube: connected", WAIT).await?;
    let mut command = scene.alice("minitunnel");
    let mut other = Process::spawn(command.args(["up", "-p", "second"])).await?;
    let left_out = "second: no route for pods of second: profile minikube already has \
                    10.244.0.0/16 via 192.168.49.2";
    other.wait_for_count(left_out, 1, WAIT).await?;
    other.wait_for_count("second: connected", 1, WAIT).await?;
    for url in services {
        assert_eq!(scene.lab.http_get(&url, WAIT).await?, 200, "{url}");
    }
    let held = scene.lab.routes().await?;
    assert_eq!(held.len(), before.len() + 3, "{held:#?}");

    other.signal(Signal::INT)?;
    other.success(WAIT).await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(scene.lab.routes().await?, before);
    Ok(())
}
