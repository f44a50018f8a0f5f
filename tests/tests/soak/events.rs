//! What happens: each event is done to the real parts, and noted in the model.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Error, anyhow, ensure};
use kube::api::ListParams;
use minitunnel_e2e::{
    ALLOW, Cluster, ClusterOptions, Process, Result, Scene, SystemBus, WAIT, eventually, ingress,
    run,
};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Random;
use crate::model::{
    ELSEWHERE, IN_PODS, IN_SERVICES, Kind, Node, Route, SECOND_PODS, Service, THEIRS, World,
};

/// The documented exit code of a conflict.
const CONFLICT: Option<i32> = Some(4);
/// The second node, which is an object alone.
const SECOND: &str = "minikube-m02";
/// Time for all that follows an event: a call's deadline, the longest pause between tries, and as much for a loaded machine.
const SETTLED: Duration = Duration::from_secs(30);
/// Three losses of a route within 10 s are a fight, and the tunnel's end: no accident is as frequent. Which events there are
/// depends on no clock, so there are as many rounds between two losses as take that time anyhow, and where they do not, the
/// second loss is waited for.
const BETWEEN_LOSSES: Duration = Duration::from_secs(11);
const ROUNDS_BETWEEN_LOSSES: usize = 12;
/// More services than these say nothing new.
const SERVICES: usize = 40;

/// The world, its model, and the session that lives in it.
pub(crate) struct Soak {
    random: Random,
    scene: Calm,
    bus: SystemBus,
    /// Its `up` is the session.
    session: Process,
    world: World,
    /// What was done, for whoever asks why.
    pub(crate) done: Vec<String>,
    /// Which round this is, and in which and when a route was lost.
    round: usize,
    lost: Option<(usize, Instant)>,
}

/// Who may be killed in a round: what a process leaks shows only where it lives on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mortal {
    pub(crate) session: bool,
    pub(crate) helper: bool,
}

/// The scene, and a second cluster in it to which nothing happens.
pub(crate) struct Calm {
    scene: Scene,
    _other: Cluster,
}

impl Calm {
    /// Our routes to the first cluster, and to the other one.
    pub(crate) async fn our_routes(&self) -> Result<BTreeSet<Route>> {
        let lines = self
            .scene
            .lab
            .sh("ip route show table all proto 109")
            .await?;
        let route = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.nth(1)?.to_owned()))
        };
        Ok(lines.lines().filter_map(route).collect())
    }
}

impl Soak {
    pub(crate) async fn start(random: Random) -> Result<Self> {
        let mut scene = Scene::api_only().await?;
        let options = ClusterOptions {
            service_cidrs: vec!["10.112.0.0/12".to_owned()],
            ..ClusterOptions::second("other")
        };
        let other = scene.add(options).await?;
        // The pods of one cluster can be had; those of the other are not the matter.
        scene.choose_cni("minikube", "kindnet")?;
        scene.choose_cni("other", "false")?;
        scene
            .lab
            .sh("ip link add tun0 type veth peer name vpn && ip link set vpn up && ip link set tun0 up")
            .await?;
        let bus = SystemBus::start(&scene.lab, ALLOW).await?;
        let session = session(&scene).await?;
        let first = Node {
            ip: scene.cluster.node_ip().to_string(),
            ready: true,
            pods: "10.244.0.0/24",
        };
        let world = World {
            running: true,
            linked: true,
            nodes: [("minikube".to_owned(), first)].into(),
            ..World::default()
        };
        let mut soak = Self {
            random,
            scene: Calm {
                scene,
                _other: other,
            },
            bus,
            session,
            world,
            done: Vec::new(),
            round: 0,
            lost: None,
        };
        soak.up().await?;
        Ok(soak)
    }

    /// A round of events.
    pub(crate) async fn round(&mut self, events: usize, mortal: Mortal) -> Result {
        self.round += 1;
        for _ in 0..events {
            self.happen(mortal).await?;
        }
        Ok(())
    }

    /// One event, of those that can happen now.
    async fn happen(&mut self, mortal: Mortal) -> Result {
        let reachable = self.world.reachable();
        match self.random.below(100) {
            0..36 if reachable => self.make_service().await?,
            36..50 if reachable => self.delete_service().await?,
            50..62 if reachable => self.change_service().await?,
            62..71 if reachable => self.take_or_give_back().await?,
            71..77 if reachable => self.change_nodes().await?,
            77..79 if reachable && mortal.session => self.kill_the_session().await?,
            79..86 => self.foreign_route().await?,
            86..88 => self.lose_a_route().await?,
            88..90 if mortal.helper => self.kill_the_helper().await?,
            90..92 if reachable => self.hang().await?,
            92..93 if reachable => self.replace_the_server().await?,
            93..95 if self.world.running => self.plug_or_unplug().await?,
            95..96 => self.bounce_the_link().await?,
            96..97 => self.start_or_stop().await?,
            97..98 if reachable => self.rewrite_the_profile().await?,
            98..100 if reachable => self.up_or_down().await?,
            _ => {}
        }
        let pause = self.random.below(20);
        sleep(Duration::from_millis(u64::try_from(pause)?)).await;
        Ok(())
    }

    /// Waits until routes and addresses are as the model says.
    pub(crate) async fn is_as_the_model_says(&self) -> Result {
        let Err(error) = self.is_right().await else {
            return Ok(());
        };
        let mut status = self.scene.scene.alice("minitunnel");
        let status = run(status.arg("status")).await;
        let status = status.unwrap_or_else(|error| format!("{error:#}"));
        // The cause first: whoever shows the beginning only shows that.
        Err(anyhow!("{error:#}\nthe session says\n{status}"))
    }

    async fn is_right(&self) -> Result {
        let may = self.world.routes();
        let routes = async || {
            let mut ours = self.scene.our_routes().await?;
            let other = ("10.112.0.0/12".to_owned(), "192.168.58.2".to_owned());
            ensure!(
                ours.remove(&other),
                "the other cluster has no route: {ours:?}"
            );
            ensure!(may.contains(&ours), "{ours:?} instead of {may:?}");
            Ok(())
        };
        eventually(SETTLED, "the routes", routes).await?;
        if !self.world.reachable() {
            return Ok(());
        }
        eventually(SETTLED, "the addresses", async || {
            let services = self
                .cluster()
                .services()
                .list(&ListParams::default())
                .await?;
            for service in services {
                let name = service.metadata.name.clone().unwrap_or_default();
                let Some(wanted) = self.world.services.get(&name) else {
                    ensure!(ingress(&service).is_empty(), "{name}");
                    continue;
                };
                let now = ingress(&service);
                let right = self
                    .world
                    .addresses(wanted)
                    .is_none_or(|right| now == right);
                ensure!(right, "{name} has {now:?}: {wanted:?}");
            }
            Ok(())
        })
        .await
    }

    /// Ends all that is foreign or broken: the routes are those that are wanted, and no other.
    pub(crate) async fn calm(&mut self) -> Result {
        for route in std::mem::take(&mut self.world.foreign) {
            self.sh(&format!("ip route delete {route} dev tun0"))
                .await?;
        }
        if !self.world.running {
            self.start_or_stop().await?;
        }
        if !self.world.linked {
            self.plug_or_unplug().await?;
        }
        if !self.world.up {
            self.up().await?;
        }
        ensure!(self.world.routes().len() == 1, "{:?}", self.world);
        self.is_as_the_model_says().await
    }

    /// Ends the tunnel of the first cluster, with all that it gave.
    pub(crate) async fn end(mut self) -> Result<(Process, Calm)> {
        self.down().await?;
        self.is_as_the_model_says().await?;
        Ok((self.session, self.scene))
    }

    /// The session's folder in `/proc`.
    pub(crate) fn session_process(&self) -> Result<PathBuf> {
        Ok(format!("/proc/{}", self.session.pid()?).into())
    }

    /// The helper's, if there is one at this moment.
    pub(crate) async fn helper_process(&self) -> Result<Option<PathBuf>> {
        let pid = self.bus.owner("io.github.minitunnel.Helper").await?;
        let path = |pid| self.scene.scene.lab.outside_path(&format!("/proc/{pid}"));
        Ok(pid.map(path))
    }

    /// What went wrong, what was done last, and what the model says.
    pub(crate) fn story(&self, error: &Error) -> Error {
        let last = &self.done[self.done.len().saturating_sub(60)..];
        let last = last.join("\n  ");
        anyhow!("{error:#}\nafter\n  {last}\nin {:?}", self.world)
    }

    async fn make_service(&mut self) -> Result {
        if self.world.services.len() >= SERVICES {
            return self.delete_service().await;
        }
        let name = format!("s{}", self.done.len());
        let (kind, spec) = match self.random.below(6) {
            0 => (Kind::Internal, json!({ "type": "ClusterIP" })),
            1 => (
                Kind::OtherClass,
                json!({ "type": "LoadBalancer", "loadBalancerClass": "example.org/other" }),
            ),
            _ => (Kind::LoadBalancer, json!({ "type": "LoadBalancer" })),
        };
        self.note(format!("{kind:?} {name}"));
        let exposed = self.cluster().expose_as(&name, spec).await?;
        let service = Service {
            kind,
            ips: exposed.addresses(),
            taken: false,
        };
        self.world.services.insert(name, service);
        Ok(())
    }

    async fn delete_service(&mut self) -> Result {
        let Some(name) = self.any_service(|_| true) else {
            return Ok(());
        };
        self.note(format!("delete {name}"));
        self.world.services.remove(&name);
        self.cluster().delete(&name).await
    }

    async fn change_service(&mut self) -> Result {
        let changeable = |service: &Service| service.kind != Kind::OtherClass && !service.taken;
        let Some(name) = self.any_service(changeable) else {
            return Ok(());
        };
        let Some(service) = self.world.services.get_mut(&name) else {
            return Ok(());
        };
        service.kind = match service.kind {
            Kind::Internal => Kind::LoadBalancer,
            _ => Kind::Internal,
        };
        let internal = service.kind == Kind::Internal;
        let kind = if internal {
            "ClusterIP"
        } else {
            "LoadBalancer"
        };
        self.note(format!("{name} is a {kind}"));
        self.cluster()
            .change(&name, json!({ "type": kind }))
            .await?;
        Ok(())
    }

    /// Another controller sets an address, or takes it away.
    async fn take_or_give_back(&mut self) -> Result {
        let Some(name) = self.any_service(|service| service.kind != Kind::Internal) else {
            return Ok(());
        };
        let Some(service) = self.world.services.get_mut(&name) else {
            return Ok(());
        };
        service.taken = !service.taken;
        let ingress = service.taken.then(|| json!([{ "ip": THEIRS }]));
        self.note(format!("other controller: {name} {ingress:?}"));
        let balancer = json!({ "ingress": ingress });
        self.cluster()
            .set_load_balancer(&name, "other", balancer)
            .await
    }

    async fn change_nodes(&mut self) -> Result {
        let ips = ["192.168.49.3", "192.168.49.4"];
        let ip = self.random.choose(&ips).copied().unwrap_or_default();
        let there = self.world.nodes.contains_key(SECOND);
        match self.random.below(4) {
            0 if there => {
                self.note("the second node goes".to_owned());
                self.world.nodes.remove(SECOND);
                self.cluster().remove_node(SECOND).await
            }
            1 | 2 => {
                let names: Vec<String> = self.world.nodes.keys().cloned().collect();
                let name = self.random.choose(&names).cloned().unwrap_or_default();
                let Some(node) = self.world.nodes.get_mut(&name) else {
                    return Ok(());
                };
                node.ready = !node.ready;
                let ready = node.ready;
                self.note(format!("{name} is ready: {ready}"));
                self.cluster().set_ready(&name, ready).await
            }
            _ => {
                self.note(format!("the second node is at {ip}"));
                let node = Node {
                    ip: ip.to_owned(),
                    ready: true,
                    pods: SECOND_PODS,
                };
                self.world.nodes.insert(SECOND.to_owned(), node);
                self.cluster().put_bare_node(SECOND, ip, SECOND_PODS).await
            }
        }
    }

    async fn foreign_route(&mut self) -> Result {
        let routes = [IN_PODS, IN_SERVICES, ELSEWHERE];
        let route = self.random.choose(&routes).copied().unwrap_or_default();
        let comes = self.world.foreign.insert(route);
        let verb = if comes { "add" } else { "delete" };
        if !comes {
            self.world.foreign.remove(route);
        }
        self.note(format!("foreign: {verb} {route}"));
        self.sh(&format!("ip route {verb} {route} dev tun0")).await
    }

    /// Whether a route may be lost in this round; if so, it is to be now.
    async fn may_lose(&mut self) -> bool {
        if let Some((round, at)) = self.lost {
            if self.round < round + ROUNDS_BETWEEN_LOSSES {
                return false;
            }
            sleep_until(at + BETWEEN_LOSSES).await;
        }
        self.lost = Some((self.round, Instant::now()));
        true
    }

    /// Somebody deletes our route, by accident.
    async fn lose_a_route(&mut self) -> Result {
        if !self.may_lose().await {
            return Ok(());
        }
        self.note("somebody deletes 10.96.0.0/12".to_owned());
        self.sh("ip route delete 10.96.0.0/12 proto 109 || true")
            .await
    }

    async fn kill_the_helper(&mut self) -> Result {
        let Some(pid) = self.bus.owner("io.github.minitunnel.Helper").await? else {
            return Ok(());
        };
        self.note("kill the helper".to_owned());
        self.sh(&format!("kill -KILL {pid} || true")).await
    }

    /// The next one finds what it left, and goes on.
    async fn kill_the_session(&mut self) -> Result {
        self.note("kill the session".to_owned());
        self.session.kill().await?;
        self.session = session(&self.scene.scene).await?;
        if self.world.up {
            self.up().await?;
        }
        Ok(())
    }

    /// The API server says nothing for a while.
    async fn hang(&mut self) -> Result {
        self.note("the API server hangs".to_owned());
        self.cluster().pause_api_server()?;
        let long = 200 + self.random.below(1_200);
        sleep(Duration::from_millis(u64::try_from(long)?)).await;
        self.cluster().resume_api_server()
    }

    /// With all connections to it; now and then while there is no link on which they could be told.
    async fn replace_the_server(&mut self) -> Result {
        let unseen = self.random.below(2) == 0;
        self.note(format!("another API server; unseen: {unseen}"));
        let cluster = &mut self.scene.scene.cluster;
        if unseen {
            cluster.replace_api_server_unseen().await?;
        } else {
            cluster.replace_api_server().await?;
        }
        self.asked_again().await
    }

    async fn plug_or_unplug(&mut self) -> Result {
        self.world.linked = !self.world.linked;
        let linked = self.world.linked;
        self.note(format!("the node's link is there: {linked}"));
        if !linked {
            return self.cluster().unplug().await;
        }
        self.cluster().plug_in().await?;
        if self.world.running {
            self.asked_again().await?;
        }
        Ok(())
    }

    /// The bridge goes down, which takes its routes without a word, and up again.
    async fn bounce_the_link(&mut self) -> Result {
        if !self.may_lose().await {
            return Ok(());
        }
        self.note("the bridge goes down and up".to_owned());
        let bridge = self.cluster().bridge();
        self.sh(&format!(
            "ip link set {bridge} down && ip link set {bridge} up"
        ))
        .await
    }

    async fn start_or_stop(&mut self) -> Result {
        let Scene { cluster, home, .. } = &mut self.scene.scene;
        if self.world.running {
            if !self.world.linked {
                return Ok(());
            }
            self.world.running = false;
            self.done.push("minikube stop".to_owned());
            home.event("minikube", "Stopping")?;
            cluster.stop().await?;
            return home.event("minikube", "Done");
        }
        let ips = ["192.168.49.2", "192.168.49.7"];
        let ip = self.random.choose(&ips).copied().unwrap_or_default();
        self.done.push(format!("minikube start at {ip}"));
        cluster.start_again(Some(ip.parse()?)).await?;
        home.add(cluster)?;
        self.scene.scene.choose_cni("minikube", "kindnet")?;
        (self.world.running, self.world.linked) = (true, true);
        if let Some(node) = self.world.nodes.get_mut("minikube") {
            (node.ip, node.ready) = (ip.to_owned(), true);
        }
        Ok(())
    }

    /// As it is, damaged for a moment, or gone for a moment.
    async fn rewrite_the_profile(&mut self) -> Result {
        let way = self.random.below(3);
        self.note(format!("the profile is written anew: {way}"));
        let Scene { cluster, home, .. } = &mut self.scene.scene;
        match way {
            0 => {}
            1 => home.write(
                &home.profile("minikube").join("config.json"),
                b"{\"Name\": ",
            )?,
            _ => home.delete("minikube")?,
        }
        sleep(Duration::from_millis(200)).await;
        home.add(cluster)?;
        self.scene.scene.choose_cni("minikube", "kindnet")
    }

    async fn up_or_down(&mut self) -> Result {
        if self.world.up {
            self.down().await
        } else {
            self.up().await
        }
    }

    async fn up(&mut self) -> Result {
        self.note("up".to_owned());
        let code = self
            .minitunnel(&["up", "--detach", "-p", "minikube"])
            .await?;
        let blocked = code == CONFLICT && self.world.foreign.contains(IN_SERVICES);
        ensure!(code == Some(0) || blocked, "up ended with {code:?}");
        // One that is refused wants nothing any more.
        self.world.up = !blocked;
        Ok(())
    }

    async fn down(&mut self) -> Result {
        self.note("down".to_owned());
        self.world.up = false;
        // Right after the link came back the session may not know yet that the server is there, and says what remains. Said
        // again, it is done.
        eventually(SETTLED, "an orderly down", async || {
            let code = self.minitunnel(&["down", "-p", "minikube"]).await?;
            ensure!(code == Some(0), "down ended with {code:?}");
            Ok(())
        })
        .await
    }

    async fn minitunnel(&self, arguments: &[&str]) -> Result<Option<i32>> {
        let mut command: Command = self.scene.scene.alice("minitunnel");
        let mut process = Process::spawn(command.args(arguments)).await?;
        Ok(process.exit(SETTLED).await?.code())
    }

    fn cluster(&self) -> &Cluster {
        &self.scene.scene.cluster
    }

    fn note(&mut self, what: String) {
        self.done.push(what);
    }

    fn any_service(&mut self, fits: impl Fn(&Service) -> bool) -> Option<String> {
        let fitting = self
            .world
            .services
            .iter()
            .filter(|(_, service)| fits(service));
        let names: Vec<String> = fitting.map(|(name, _)| name.clone()).collect();
        self.random.choose(&names).cloned()
    }

    async fn sh(&self, script: &str) -> Result {
        self.scene.scene.lab.sh(script).await.map(drop)
    }

    /// Has the test's own client find out that its connections are gone.
    async fn asked_again(&self) -> Result {
        eventually(WAIT, "the API server", async || {
            let (services, all) = (self.cluster().services(), ListParams::default());
            let within = Duration::from_secs(2);
            Ok(tokio::time::timeout(within, services.list(&all))
                .await
                .map(drop)?)
        })
        .await
    }
}

/// A session, which begins with the tunnel of the other cluster.
async fn session(scene: &Scene) -> Result<Process> {
    let mut up = scene.alice("minitunnel");
    let session = Process::spawn(up.args(["up", "-p", "other"])).await?;
    session.wait_for_count("other: connected", 1, WAIT).await?;
    Ok(session)
}
