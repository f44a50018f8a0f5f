//! A minikube-like cluster without minikube, in namespaces of its own, and the demo in it.

pub mod api;
mod demo;
pub mod home;
mod ip;
mod node;
pub mod pki;

use std::{io, net::IpAddr, path::PathBuf};

pub use demo::{Demo, demo};

/// The version that the API server and the profile name.
pub const KUBERNETES_VERSION: &str = "v1.37.2";

/// Why the cluster or the demo can't go on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "this system does not let {} make namespaces: run it as root (`sudo minitunnel demo`){}",
        if *.root { "even root" } else { "users" },
        if *.root { ", outside of a container or in a privileged one" } else { "" }
    )]
    Namespaces { root: bool },
    #[error("`{program}` can't be run: install {package} ({source})")]
    Program {
        program: &'static str,
        package: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    NoHelper(#[from] minitunnel_helper_api::NoHelper),
    #[error("this program's own path is unknown: {0}")]
    SelfPath(#[source] io::Error),
    #[error("`ip` failed ({message}) at: {commands}")]
    Ip { commands: String, message: String },
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error(transparent)]
    Api(#[from] api::StartError),
    #[error("the API server refused the demo's own object: {}", .0.message)]
    Refused(api::Refusal),
    #[error("cannot listen on {address} port {port}: {source}")]
    Listen {
        address: IpAddr,
        port: u16,
        source: io::Error,
    },
    #[error("cannot write {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot mount a file system on /run: {0}")]
    Mount(#[source] io::Error),
    #[error("a pipe between the demo's processes failed: {0}")]
    Pipe(#[source] io::Error),
    #[error("a message between the demo's processes makes no sense: {0}")]
    Message(#[source] serde_json::Error),
    #[error("the node ended early")]
    NodeGone,
    #[error("the tunnel ended early ({0})")]
    TunnelGone(std::process::ExitStatus),
    #[error("{what} did not come within {seconds} s")]
    Late { what: &'static str, seconds: u64 },
    #[error("cannot start {}: {source}", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("there is no desktop here whose panel could show it: run `minitunnel demo --keep`")]
    NoDesktop,
    #[error("{} is missing: build it with `cargo build --package minitunnel-tray`", .0.display())]
    NoTray(PathBuf),
    #[error("stopped by a signal")]
    Interrupted,
    #[error("the system does not tell of its processes: {0}")]
    Processes(#[source] io::Error),
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
}

impl From<api::Refusal> for Error {
    fn from(refusal: api::Refusal) -> Self {
        Self::Refused(refusal)
    }
}
