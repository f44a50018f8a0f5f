use std::{fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

/// A service's name within its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: String,
    /// The name within it.
    pub name: String,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A service with `type: LoadBalancer`, as its API server's watch shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct LoadBalancer {
    /// Its name.
    pub key: ServiceKey,
    /// Its ports, as declared.
    pub ports: Vec<ServicePort>,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// The addresses and host names in `status.loadBalancer.ingress`.
    pub ingress: Vec<String>,
    /// Who set them.
    pub owner: Owner,
    /// Why it has no address from us.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pending: Option<Pending>,
    /// From the first sight of it without an address to the sight of ours; `None` where we did not wait for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "ts", ts(as = "Option<crate::ts::Duration>"))]
    pub assigned_in: Option<Duration>,
}

impl LoadBalancer {
    /// How long we took to give it its address, for people: `12 ms`, or `<1 ms`, as the times are whole milliseconds.
    pub fn took(&self) -> Option<String> {
        Some(match self.assigned_in?.as_millis() {
            0 => "<1 ms".into(),
            time => format!("{time} ms"),
        })
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct ServicePort {
    /// The port number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == "TCP" {
            write!(f, "{}", self.port)
        } else {
            write!(f, "{}/{}", self.port, self.protocol)
        }
    }
}

/// Who set a service's ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "owner", content = "name", rename_all = "snake_case")]
pub enum Owner {
    /// We did.
    Us,
    /// Another field manager, by its name.
    Other(String),
    /// There is no ingress.
    Nobody,
}

/// Why a service has no address from us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "pending", rename_all = "snake_case")]
pub enum Pending {
    /// Its tunnel is not up.
    TunnelDown,
    /// On its way.
    Assigning,
    /// It asks for another load balancer.
    OtherClass {
        /// `spec.loadBalancerClass`.
        class: String,
    },
    /// Another controller set its ingress.
    SomeoneElses {
        /// That field manager.
        manager: String,
    },
    /// The profile's metallb addon serves it.
    Metallb,
    /// It has no cluster IP yet.
    NoClusterIp,
    /// The API server refused the address.
    Refused {
        /// The server's words.
        message: String,
    },
    /// Somebody takes each address away that it is given.
    Emptied,
    /// The API server has not taken the address so far; it is asked again.
    Unanswered {
        /// What it says, or what became of the question.
        message: String,
    },
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TunnelDown => f.write_str("the tunnel is not up"),
            Self::Assigning => f.write_str("an address is on its way"),
            Self::OtherClass { class } => write!(f, "it asks for the load balancer class {class}"),
            Self::SomeoneElses { manager } => write!(f, "{manager} has set its address"),
            Self::Metallb => f.write_str("the metallb addon serves it"),
            Self::NoClusterIp => f.write_str("it has no cluster IP"),
            Self::Refused { message } => write!(f, "the API server refused the address: {message}"),
            Self::Emptied => f.write_str(
                "somebody takes its address away again and again: end the other load balancer controller, then start the tunnel again",
            ),
            Self::Unanswered { message } => write!(
                f,
                "the API server has not taken the address yet, and is asked again: {message}"
            ),
        }
    }
}
