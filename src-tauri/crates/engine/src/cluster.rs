//! One API server: whether it answers, what it says of nodes and services, and the addresses that we set on services.

mod api;
mod assign;
mod client;
mod events;
mod health;
mod node;
mod pods;
mod service;
mod watch;

use ipnet::IpNet;
use minitunnel_model::{Node, ServiceKey};

pub use assign::AssignError;
pub use pods::PodSource;
pub use service::{FIELD_MANAGER, LOAD_BALANCER_CLASS, Service};
pub use watch::{Changing, Handle, watch};

/// What an API server told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// It answers, and this is all that is known of it.
    Up {
        /// Its `ServiceCIDR` objects' networks; empty where it has no such objects (before Kubernetes 1.33).
        service_cidrs: Vec<IpNet>,
        /// Its nodes, the control plane first.
        nodes: Vec<Node>,
        /// Its services that concern us.
        services: Vec<Service>,
    },
    /// It does not answer, or not as one of ours; nothing is known of it until the next `Up`.
    Down {
        /// Why, in one sentence.
        reason: String,
    },
    /// Its `ServiceCIDR` objects' networks are others now.
    ServiceCidrs(Vec<IpNet>),
    /// A service, or all of them, changed.
    Services(ServiceChange),
    /// The nodes changed: all of them, the control plane first.
    Nodes(Vec<Node>),
}

/// What became of the services that concern us: those with `type: LoadBalancer`, and others that still carry our address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceChange {
    /// These are all.
    Reset(Vec<Service>),
    /// This one is new, or is now like this.
    Applied(Service),
    /// This one is gone, or concerns us no longer.
    Deleted(ServiceKey),
}
