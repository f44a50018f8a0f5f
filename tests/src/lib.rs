//! The harness of the end-to-end tests: a private system for each test, with a real system bus, polkit and Kubernetes.
//!
//! Tests are root's, and need no set-up of the machine but the packages that `tests/run` installs. They touch nothing of
//! it: a [`Lab`] has a network, mounts and processes of its own, and all of it ends with the value. Every wait has a
//! deadline, and a failed one shows what the program had printed.
//!
//! ```no_run
//! use minitunnel_e2e::{Cluster, ClusterOptions, Lab, MinikubeHome, Result, Signal, SystemBus, WAIT};
//!
//! // #[tokio::test]
//! async fn a_service_is_reachable_while_the_tunnel_is_up() -> Result {
//!     let lab = Lab::new()?;                                                  // this thread is now in the lab's network
//!     let bus = SystemBus::start(&lab, "").await?;                            // dbus-daemon, polkitd, our installed files
//!     let cluster = Cluster::start(&lab, ClusterOptions::default()).await?;   // etcd, kube-apiserver, kube-proxy, a pod
//!     let service = cluster.expose("web", "LoadBalancer").await?;
//!     MinikubeHome::create(&lab, "alice")?.add(&cluster)?;
//!
//!     let mut agent = bus.agent("approve").await?;                                // answers polkit's dialogs
//!     let mut up = agent.spawn(lab.user("alice").command("minitunnel").arg("up")).await?;
//!     up.wait_for_line("web", WAIT).await?;
//!     assert_eq!(lab.http_get(&service.url(), WAIT).await?, 200);
//!     up.signal(Signal::INT)?;
//!     assert!(up.exit(WAIT).await?.success());
//!     Ok(())
//! }
//! ```
//!
//! # Where things run
//!
//! - **The test's own thread** is in the network namespace of its lab from [`Lab::new`] until the lab is dropped, so kube
//!   clients, sockets and netlink handles of the test act on the lab directly. Use `#[tokio::test]` as it is (one thread).
//!   Everything else of the test's process (files, processes) stays outside.
//! - **Commands** from a [`Place`] run wholly inside: network, mounts, processes. `lab.command(…)` is root on the lab's
//!   host, `lab.user("alice").command(…)` a person's, `lab.netns("minikube").command(…)` the node's. Their `PATH` begins
//!   with the built `minitunnel`, `minitunnel-helper` and `minitunnel-lab`.
//! - Homes and files of a lab are below [`Lab::dir`], which has the same path inside and outside. `/run` is the lab's own;
//!   [`Lab::outside_path`] is the way in.
//! - `Lab::sudo("alice", …)` is a root command with sudo's variables, for what runs without a bus.
//!
//! A [`Scene`] is the usual beginning: a lab, a cluster, Alice's profile for it, and the tables before any tunnel.
//!
//! # Waiting
//!
//! [`Process::wait_for_line`] and [`Process::wait_for_count`] wait for output, [`Cluster::wait_for_service`] and its kin
//! watch the API server, [`Cluster::served`] waits for kube-proxy, [`Agent::asked`] for a dialog. [`eventually`] is for what
//! has no event. All give [`Result`]s: end a test function with `-> Result` and use `?`.
//!
//! # Rust programs under test are not rebuilt by `cargo test -p minitunnel-e2e`
//!
//! Run `cargo build` before it, or `tests/run e2e`, which does both.

mod agent;
mod bus;
mod caller;
mod cluster;
mod desktop;
mod front;
mod ground;
mod lab;
mod minikube;
mod pki;
mod process;
mod scene;
mod terminal;
mod trap;
mod wait;
mod window;

pub use agent::Agent;
pub use bus::{ALLOW, SystemBus};
pub use caller::{Answer, Caller, Refusal};
pub use cluster::{
    Cluster, ClusterOptions, Exposed, NODE_PORT, POD_PORT, ProxyMode, Worker, ingress,
};
pub use desktop::{FakeIcon, FakeNotifications, FakePanel, MenuEntry, SessionBus, Shown};
pub use front::{Front, Trouble};
pub use ground::{Ground, PeerHelper};
pub use lab::{Lab, Place, built_program};
pub use minikube::MinikubeHome;
pub use process::{Process, run};
pub use rustix::process::Signal;
pub use scene::Scene;
pub use terminal::Terminal;
pub use trap::{Effect, Point, Trap};
pub use wait::{WAIT, eventually};
pub use window::{Display, Look, Window};

/// The result of a test or of a step of one.
pub type Result<T = ()> = anyhow::Result<T>;
