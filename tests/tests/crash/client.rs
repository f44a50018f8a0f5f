//! The client, `minitunnel up`, killed at its effects: what it says to the bus and to the API server, and what it writes; by
//! itself, and together with the helper.

use std::cell::Cell;

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{
    ALLOW, Caller, Effect, Point, Process, Result, Scene, Signal, SystemBus, Trap, WAIT,
    eventually, run,
};
use serde_json::json;

use crate::bus::HELPER;
use crate::{Case, in_labs};

/// Each has an API server of its own, and one run costs half a second.
const LABS: usize = 3;

/// When a client is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    /// The gateway of its services moves to another node.
    Change,
    Down,
}

/// What is killed, and the least points of that: near what they are, so that one that ends before its time is no success.
struct Kill {
    way: Way,
    /// With the helper, in the same moment.
    both: bool,
    /// Of the points, every so many: those of both in a helper's calls are killed at one by one beside this (`bus`).
    every: usize,
    least: usize,
}

struct Bench {
    scene: Scene,
    bus: SystemBus,
    address: String,
    /// Whether the control plane is, which is the gateway of the services then.
    ready: Cell<bool>,
}

impl Bench {
    async fn new() -> Result<Self> {
        let scene = Scene::api_only().await?;
        let bus = SystemBus::start(&scene.lab, ALLOW).await?;
        // An object is all of the second node.
        let second = scene
            .cluster
            .put_bare_node("minikube-m02", "192.168.49.3", "10.244.1.0/24");
        second.await?;
        let web = scene.cluster.expose("web", "LoadBalancer").await?;
        let address = web.ip().to_string();
        Ok(Self {
            scene,
            bus,
            address,
            ready: Cell::new(true),
        })
    }

    /// `minitunnel up` of Alice's, killed at that point of its way; where it was, if it got there.
    async fn killed(&self, kill: &Kill, nth: usize) -> Result<Option<Point>> {
        let helper = match kill.both {
            true => Some(self.helper().await?),
            false => None,
        };
        let mut command = self.scene.alice("sh");
        command.args(["-c", "read -r _; exec minitunnel up -p minikube"]);
        let mut up = Process::spawn(&mut command).await?;
        let trap = Trap::attach_with(up.pid()?, helper)?;
        if kill.way == Way::Up {
            trap.arm(nth);
        }
        up.write_line("go").await?;
        let line = format!("minikube: service default/web → {}", self.address);
        let mut there = up.wait_for_count(&line, 1, WAIT).await.map(drop);
        if there.is_ok() || kill.way != Way::Up {
            there.with_context(|| format!("before {:?}", kill.way))?;
            // What follows the line belongs to it.
            trap.at_rest().await?;
            there = Ok(());
        }
        match kill.way {
            Way::Up => {}
            Way::Change => {
                trap.arm(nth);
                there = self.change(&trap).await;
                trap.at_rest().await?;
            }
            Way::Down => {
                trap.arm(nth);
                up.signal(Signal::INT)?;
                there = trap.wait().await;
            }
        }
        let struck = trap.end()?;
        let status = up.exit(WAIT).await?;
        if struck.is_none() {
            // Nobody killed it: it has to have done what was asked.
            there.with_context(|| up.report("was not killed"))?;
            let orderly = kill.way != Way::Down || status.success();
            ensure!(orderly, up.report(&format!("ended with {status}")));
        }
        Ok(struck)
    }

    /// Moves the services' gateway to the other node, and waits until their route does, or its owner is killed.
    async fn change(&self, trap: &Trap) -> Result {
        let ready = !self.ready.get();
        self.scene.cluster.set_ready("minikube", ready).await?;
        self.ready.set(ready);
        let gateway = if ready {
            "192.168.49.2"
        } else {
            "192.168.49.3"
        };
        let words = [
            r#""dst":"10.96.0.0/12""#.to_owned(),
            format!(r#""gateway":"{gateway}""#),
        ];
        eventually(WAIT, "the services' other gateway", async || {
            let routes = self.scene.lab.routes().await?;
            let moved = |route: &String| words.iter().all(|word| route.contains(word));
            ensure!(trap.ended() || routes.iter().any(moved), "{routes:#?}");
            Ok(())
        })
        .await
    }

    /// The process of the helper, which whoever calls starts.
    async fn helper(&self) -> Result<i32> {
        self.somebody_calls().await?;
        let pid = self.bus.owner(HELPER).await?.context("no helper serves")?;
        self.scene.lab.outside_pid(pid)
    }

    /// Bob has no routes, and wants none.
    async fn somebody_calls(&self) -> Result {
        let bob = Caller::bus(&self.scene.lab.user("bob")).await?;
        bob.list().await?;
        bob.end().await
    }

    /// No route is left at once; an address may be, and every view says so.
    async fn is_stale(&self, when: &str) -> Result {
        self.scene
            .wait_for_before()
            .await
            .with_context(|| when.to_owned())?;
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

async fn one(bench: &Bench, case: &Case<Kill>, nth: usize) -> Result<Option<Point>> {
    let what = case.what;
    let nth = nth * case.case.every;
    let killed = bench.killed(&case.case, nth).await;
    let struck = killed.with_context(|| format!("{what}, to be killed at point {nth}"))?;
    let when = format!("{what}, killed at point {nth}, {struck:?}");
    if case.case.both {
        // The next helper finds what the killed one left.
        bench.somebody_calls().await.with_context(|| when.clone())?;
    }
    bench.is_stale(&when).await?;
    if nth.is_multiple_of(2) {
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
}

/// One after another, in the same labs: more API servers would have no processor.
#[test]
fn client_killed_anywhere_alone_or_with_the_helper_leaves_no_route_and_its_address_is_taken_back()
-> Result {
    let case = |what, way, both, every, least| {
        let kill = Kill {
            way,
            both,
            every,
            least,
        };
        Case::new(what, kill)
    };
    let cases = [
        case("a client's way up", Way::Up, false, 1, 150),
        case("a client's change", Way::Change, false, 1, 12),
        case("a client's way down", Way::Down, false, 1, 30),
        case(
            "client and helper on the way up, every third point",
            Way::Up,
            true,
            3,
            43,
        ),
        case("client and helper in a change", Way::Change, true, 1, 10),
    ];
    in_labs(LABS, &cases, Bench::new, one)?;
    for case in &cases {
        let tally = case.tally();
        tally.tell(0, 0)?;
        let Kill { least, .. } = case.case;
        ensure!(tally.total() >= least, "{}: {:?}", case.what, tally.points);
        // Consent, routes and an address go by sockets; the tables are read by netlink before, and a log is written.
        for effect in [Effect::Message, Effect::Netlink, Effect::File] {
            ensure!(tally.of(effect) > 0, "{}: {:?}", case.what, tally.points);
        }
    }
    Ok(())
}
