//! The client, `minitunnel up`, killed at its effects: what it says to the bus and to the API server, and what it writes.

use minitunnel_e2e::{
    Effect, Point, Process, Result, Scene, Signal, SystemBus, Trap, WAIT, eventually, run,
};
use serde_json::json;

use crate::{bus::ALLOW, in_labs};

/// Each has an API server of its own, and one run costs half a second.
const LABS: usize = 3;

/// When a client is killed.
#[derive(Debug, Clone, Copy)]
enum Way {
    Up,
    Down,
}

struct Bench {
    scene: Scene,
    _bus: SystemBus,
    address: String,
}

impl Bench {
    async fn new() -> Result<Self> {
        let scene = Scene::api_only().await?;
        let bus = SystemBus::start(&scene.lab, ALLOW).await?;
        let web = scene.cluster.expose("web", "LoadBalancer").await?;
        let address = web.ip().to_string();
        Ok(Self {
            scene,
            _bus: bus,
            address,
        })
    }

    /// `minitunnel up` of Alice's, killed at that point of its way until its service has an address, or of its way from
    /// there by Ctrl-C; where it was, if it got there.
    async fn killed(&self, way: Way, nth: usize) -> Result<Option<Point>> {
        let mut command = self.scene.alice("sh");
        command.args(["-c", "read -r _; exec minitunnel up -p minikube"]);
        let mut up = Process::spawn(&mut command).await?;
        let trap = Trap::attach(up.pid()?)?;
        if matches!(way, Way::Up) {
            trap.arm(nth);
        }
        up.write_line("go").await?;
        let line = format!("minikube: service default/web → {}", self.address);
        // It is killed, or gets there.
        let there = up.wait_for_count(&line, 1, WAIT).await;
        if matches!(way, Way::Down) {
            there?;
            trap.arm(nth);
            up.signal(Signal::INT)?;
            trap.wait().await?;
        }
        let struck = trap.end()?;
        up.exit(WAIT).await?;
        Ok(struck)
    }

    /// No route is left at once; an address may be, and every view says so.
    async fn is_stale(&self, when: &str) -> Result {
        self.scene.wait_for_before().await?;
        let left = self.scene.cluster.addresses("web").await?;
        let wanted = if left.is_empty() {
            json!(["disconnected", "nobody", []])
        } else {
            assert_eq!(left, [self.address.as_str()], "{when}");
            json!(["disconnected", "us", [self.address]])
        };
        assert_eq!(self.scene.service_status().await?, wanted, "{when}");
        Ok(())
    }

    async fn is_clean(&self, when: &str) -> Result {
        assert_eq!(
            self.scene.cluster.addresses("web").await?,
            [""; 0],
            "{when}"
        );
        assert_eq!(self.scene.lab.routes().await?, self.scene.before, "{when}");
        Ok(())
    }
}

fn every_point(what: &'static str, way: Way) -> Result {
    let tally = in_labs(LABS, what, Bench::new, async |bench: &Bench, nth| {
        let struck = bench.killed(way, nth).await?;
        let when = format!("{what}, killed at point {nth}, {struck:?}");
        bench.is_stale(&when).await?;
        if nth % 2 == 0 {
            run(bench.scene.alice("minitunnel").arg("cleanup")).await?;
        } else {
            // The next `up` takes over what is left, and its end takes it back.
            let mut next = bench.scene.alice("minitunnel");
            let mut next = Process::spawn(next.args(["up", "-p", "minikube"])).await?;
            next.wait_for_count("→", 1, WAIT).await?;
            next.signal(Signal::INT)?;
            next.success(WAIT).await?;
        }
        eventually(WAIT, "a clean cluster", async || {
            bench.is_clean(&when).await
        })
        .await?;
        Ok(struck)
    })?;
    // Consent, routes and an address go by sockets; the tables are read by netlink before.
    assert!(tally.of(Effect::Message) > 5, "{what}");
    tally.tell(0, 0)
}

#[test]
fn client_killed_on_its_way_up_leaves_no_route_and_its_address_is_taken_back() -> Result {
    every_point("a client's way up", Way::Up)
}

#[test]
fn client_killed_on_its_way_down_leaves_no_route_and_its_address_is_taken_back() -> Result {
    every_point("a client's way down", Way::Down)
}
