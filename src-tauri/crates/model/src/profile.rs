use std::net::IpAddr;

use ipnet::IpNet;
use minitunnel_base::ProfileName;
use serde::{Deserialize, Serialize};

/// A minikube profile: what its files say, completed by what its API server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct Profile {
    /// The name, also of its kubeconfig context.
    #[cfg_attr(feature = "ts", ts(as = "String"))]
    pub name: ProfileName,
    /// The driver as minikube spells it: `docker`, `kvm2`, `none`, …
    pub driver: String,
    /// The nodes, the first one first.
    pub nodes: Vec<Node>,
    /// Where the cluster IPs come from: the API server's `ServiceCIDR` objects, else the profile's setting.
    #[cfg_attr(feature = "ts", ts(as = "Vec<String>"))]
    pub service_cidrs: Vec<IpNet>,
    /// The cluster's DNS domain, `cluster.local` by default.
    pub dns_domain: String,
    /// The kubeconfig's `server`, such as `https://192.168.49.2:8443`.
    pub endpoint: Option<String>,
    /// How this machine reaches the nodes.
    pub reach: Reach,
}

/// A node of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct Node {
    /// The name in Kubernetes: the profile's for the first node, then `<profile>-m02`.
    pub name: String,
    /// Its internal addresses, the primary one first; empty while it has none.
    pub ips: Vec<IpAddr>,
    /// Whether it runs the control plane.
    pub control_plane: bool,
    /// The `Ready` condition; `None` until the API server has told.
    pub ready: Option<bool>,
    /// `spec.podCIDRs`; empty until the API server has told.
    #[cfg_attr(feature = "ts", ts(as = "Vec<String>"))]
    pub pod_cidrs: Vec<IpNet>,
}

/// How this machine reaches a profile's nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "reach", rename_all = "snake_case")]
pub enum Reach {
    /// The node's IP is on a network of this machine: routes go through it.
    Routed,
    /// The node is this machine (driver `none`): no route is needed, only addresses.
    Local,
    /// Behind forwarded local ports: no route can help.
    Forwarded {
        /// Why, and what the user can do, in one sentence.
        reason: String,
    },
    /// minikube itself has no tunnel for it.
    Unsupported {
        /// Why, and what the user can do, in one sentence.
        reason: String,
    },
}
