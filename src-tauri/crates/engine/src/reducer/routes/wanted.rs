//! Which routes a profile wants.
//!
//! The API server's objects decide, and whoever can write those is nobody that root, or this user, need trust: what the
//! helper would refuse is left out here, as it refuses all that it is asked for at once.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use minitunnel_helper_api::ROUTES_PER_LEASE;
use minitunnel_model::{GroupKind, GroupState, Node, Reach, Route, RouteGroup};
use minitunnel_routing::{Invalid, Table, validate};

use super::on_link;
use crate::{minikube::Cni, reducer::tunnel::Tunnel};

/// So many reasons of one kind are told.
const TOLD: usize = 3;

/// A profile's groups, the services first; what can't be asked for is left out, with the reason.
pub(super) fn groups(tunnel: &Tunnel, table: &Table) -> Vec<RouteGroup> {
    if tunnel.profile.reach != Reach::Routed {
        return Vec::new();
    }
    let ground = Ground::of(table);
    let mut groups = Groups::default();
    let services = services(tunnel, &ground);
    let linked = services
        .routes
        .iter()
        .any(|route| ground.has(route.gateway));
    groups.add(&GroupKind::Services, services);
    for (index, node) in tunnel.profile.nodes.iter().enumerate() {
        let kind = GroupKind::Pods {
            node: node.name.clone(),
        };
        let mut pods = pods(tunnel, node, index, &ground);
        if linked {
            pods.leave_out_unlinked(&ground);
        }
        groups.add(&kind, pods);
    }
    groups.done
}

/// This machine's networks and addresses.
struct Ground {
    networks: Vec<IpNet>,
    own: Vec<IpAddr>,
}

impl Ground {
    fn of(table: &Table) -> Self {
        Self {
            networks: on_link(table).collect(),
            own: table.addresses.iter().map(|own| own.net.addr()).collect(),
        }
    }

    /// Whether an address is on one of the networks.
    fn has(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&ip))
    }

    /// A node's address of the destination's family, unless it is this machine's.
    fn gateway(&self, node: &Node, destination: &IpNet) -> Option<IpAddr> {
        let ipv4 = matches!(destination, IpNet::V4(_));
        let mut ips = node.ips.iter().copied();
        ips.find(|ip| ip.is_ipv4() == ipv4 && !self.own.contains(ip))
    }
}

/// Routes to ask for, and why others are not among them.
#[derive(Default)]
struct Sorted {
    routes: Vec<Route>,
    reasons: Vec<String>,
}

impl Sorted {
    fn add(&mut self, route: Route) {
        match validate(&route) {
            Ok(()) => self.routes.push(route),
            Err(invalid) => self.reasons.push(invalid.to_string()),
        }
    }

    /// Makes one of routes that are neighbours, or within another, and go the same way.
    fn join(&mut self) {
        let mut ways: BTreeMap<IpAddr, Vec<IpNet>> = BTreeMap::new();
        for route in self.routes.drain(..) {
            let way = ways.entry(route.gateway).or_default();
            way.push(route.destination);
        }
        for (gateway, destinations) in ways {
            let joined = IpNet::aggregate(&destinations).into_iter();
            self.routes.extend(joined.map(|destination| Route {
                destination,
                gateway,
            }));
        }
    }

    /// The helper refuses a gateway that it can't reach at once.
    fn leave_out_unlinked(&mut self, ground: &Ground) {
        let (linked, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.routes)
            .into_iter()
            .partition(|route| ground.has(route.gateway));
        self.routes = linked;
        self.reasons.extend(others.iter().map(|route| {
            format!(
                "the gateway {} of {} is on no network of this machine",
                route.gateway, route.destination
            )
        }));
    }

    fn reason(&self) -> String {
        let told: Vec<&str> = self.reasons.iter().take(TOLD).map(String::as_str).collect();
        let mut text = told.join("; ");
        if self.reasons.len() > TOLD {
            text += &format!("; and {} more", self.reasons.len() - TOLD);
        }
        text
    }
}

/// The groups as far as they are made.
#[derive(Default)]
struct Groups {
    done: Vec<RouteGroup>,
    routes: usize,
}

impl Groups {
    /// Adds what can be asked for, and beside it what can't.
    fn add(&mut self, kind: &GroupKind, mut sorted: Sorted) {
        sorted.routes.sort_unstable();
        sorted.routes.dedup();
        if let Err(reason) = self.fits(&sorted.routes) {
            sorted.reasons.push(reason);
            sorted.routes.clear();
        }
        let reason = sorted.reason();
        self.routes += sorted.routes.len();
        let mut group = |routes, state| {
            let kind = kind.clone();
            self.done.push(RouteGroup {
                kind,
                routes,
                state,
            });
        };
        if !sorted.routes.is_empty() {
            group(sorted.routes, GroupState::Free);
        }
        if !reason.is_empty() {
            group(Vec::new(), GroupState::LeftOut { reason });
        }
    }

    /// Whether the helper would take the routes beside those of the groups before: it refuses all for one too many, and for
    /// one that overlaps.
    fn fits(&self, routes: &[Route]) -> Result<(), String> {
        if self.routes + routes.len() > ROUTES_PER_LEASE {
            return Err(format!(
                "its {} routes are more than a tunnel may have ({ROUTES_PER_LEASE} in all)",
                routes.len()
            ));
        }
        for group in &self.done {
            for taken in &group.routes {
                let overlaps = |route: &&Route| {
                    let (ours, taken) = (&route.destination, &taken.destination);
                    ours.contains(taken) || taken.contains(ours)
                };
                if let Some(route) = routes.iter().find(overlaps) {
                    return Err(format!(
                        "its network {} overlaps {} ({}): the cluster itself can't tell them apart",
                        route.destination, taken.destination, group.kind
                    ));
                }
            }
        }
        Ok(())
    }
}

fn services(tunnel: &Tunnel, ground: &Ground) -> Sorted {
    let nodes = &tunnel.profile.nodes;
    let mut sorted = Sorted::default();
    for destination in broadest(&tunnel.profile.service_cidrs) {
        match gateway(nodes, &destination, ground) {
            Some(gateway) => sorted.add(Route {
                destination,
                gateway,
            }),
            None if nodes.iter().all(|node| node.ips.is_empty()) => {
                sorted.reasons = vec!["no node has an address yet".into()];
            }
            None => sorted.reasons.push(format!(
                "no node has an address of the family of {destination}"
            )),
        }
    }
    // A network without any link to it, as of a cluster that stops, says nothing about one family.
    if sorted.routes.iter().any(|route| ground.has(route.gateway)) {
        sorted.leave_out_unlinked(ground);
    }
    sorted
}

/// Whether no service range is one that minitunnel ever makes a route to.
pub(in crate::reducer) fn are_all_out_of_bounds(networks: &[IpNet]) -> bool {
    let out_of_bounds = |network: &IpNet| {
        // Whichever gateway it has.
        let route = Route {
            destination: network.trunc(),
            gateway: network.addr(),
        };
        matches!(
            validate(&route),
            Err(Invalid::NotPrivate(_) | Invalid::TooBroad(_))
        )
    };
    !networks.is_empty() && networks.iter().all(out_of_bounds)
}

/// The networks without those that lie in another, as where a range was extended.
fn broadest(networks: &[IpNet]) -> Vec<IpNet> {
    let mut networks: Vec<IpNet> = networks.iter().map(IpNet::trunc).collect();
    networks.sort_unstable();
    networks.dedup();
    let within = |network: &IpNet| {
        networks
            .iter()
            .any(|other| other != network && other.contains(network))
    };
    let broadest = networks.iter().filter(|network| !within(network));
    broadest.copied().collect()
}

/// The node that serves the cluster IPs: one that can be reached and is not known to be unready, the control plane first.
fn gateway(nodes: &[Node], cidr: &IpNet, ground: &Ground) -> Option<IpAddr> {
    let candidates = nodes
        .iter()
        .filter_map(|node| Some((node, ground.gateway(node, cidr)?)));
    let rank = |(node, ip): &(&Node, IpAddr)| {
        (
            !ground.has(*ip),
            node.ready == Some(false),
            !node.control_plane,
        )
    };
    candidates.min_by_key(rank).map(|(_, address)| address)
}

fn pods(tunnel: &Tunnel, node: &Node, index: usize, ground: &Ground) -> Sorted {
    let mut sorted = Sorted::default();
    let cidrs = if index > 0 && tunnel.files.cni == Cni::Bridge {
        Err("minikube's bridge network is the first node's alone".into())
    } else {
        tunnel.files.cni.pod_cidrs(node)
    };
    let cidrs = match cidrs {
        Ok(cidrs) => cidrs,
        Err(reason) => {
            sorted.reasons.push(reason);
            return sorted;
        }
    };
    for destination in cidrs.iter().map(IpNet::trunc) {
        match ground.gateway(node, &destination) {
            Some(gateway) => sorted.add(Route {
                destination,
                gateway,
            }),
            None => sorted.reasons.push(format!(
                "{} has no address of its own of the family of {destination}",
                node.name
            )),
        }
    }
    sorted.join();
    sorted
}
