//! What should be, by a model that knows nothing of how it comes about.

use std::collections::{BTreeMap, BTreeSet};

/// A route: destination and gateway.
pub(crate) type Route = (String, String);

/// The foreign route inside the services.
pub(crate) const IN_SERVICES: &str = "10.100.7.0/24";
/// The foreign route inside the pods of the second node.
pub(crate) const IN_PODS: &str = "10.244.1.128/25";
/// A foreign route that is nobody's business.
pub(crate) const ELSEWHERE: &str = "172.30.0.0/16";
/// The pods of the second node.
pub(crate) const SECOND_PODS: &str = "10.244.1.0/24";
/// The address that another controller gives.
pub(crate) const THEIRS: &str = "172.31.0.9";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    LoadBalancer,
    OtherClass,
    Internal,
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) kind: Kind,
    pub(crate) ips: Vec<String>,
    /// Another controller has given it an address.
    pub(crate) taken: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) ip: String,
    pub(crate) ready: bool,
    pub(crate) pods: &'static str,
}

/// All that was done to the world.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) up: bool,
    pub(crate) running: bool,
    pub(crate) linked: bool,
    pub(crate) services: BTreeMap<String, Service>,
    /// By name; the first is the control plane.
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) foreign: BTreeSet<&'static str>,
}

impl World {
    pub(crate) fn reachable(&self) -> bool {
        self.running && self.linked
    }

    /// The routes that may be there. One that was held before a foreign one came into it stays; it is not taken up anew.
    pub(crate) fn routes(&self) -> Vec<BTreeSet<Route>> {
        if !self.up || !self.reachable() {
            return vec![BTreeSet::new()];
        }
        let pods = |node: &Node| (node.pods.to_owned(), node.ip.clone());
        let mut all: BTreeSet<Route> = self.nodes.values().map(pods).collect();
        let ready = self.nodes.values().find(|node| node.ready);
        let gateway = ready.or_else(|| self.nodes.values().next());
        all.extend(gateway.map(|node| ("10.96.0.0/12".to_owned(), node.ip.clone())));
        let mut may = vec![all.clone()];
        if self.foreign.contains(IN_PODS) {
            all.retain(|(destination, _)| destination != SECOND_PODS);
            may.push(all);
        }
        if self.foreign.contains(IN_SERVICES) {
            may.push(BTreeSet::new());
        }
        may
    }

    /// The addresses that a service has; nothing can be said where the tunnel may be up or not.
    pub(crate) fn addresses(&self, service: &Service) -> Option<Vec<String>> {
        if service.kind == Kind::Internal {
            return Some(Vec::new());
        }
        if service.taken {
            return Some(vec![THEIRS.to_owned()]);
        }
        if service.kind == Kind::OtherClass || !self.up {
            return Some(Vec::new());
        }
        (!self.foreign.contains(IN_SERVICES)).then(|| service.ips.clone())
    }
}
