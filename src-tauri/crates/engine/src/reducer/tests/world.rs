//! What is outside of the reducer, in a few lines.

use std::collections::BTreeMap;

use ipnet::IpNet;
use minitunnel_model::{Node, Owner, Profile, Reach, ServiceKey, ServicePort, TunnelState};
use minitunnel_routing::{Action, Address, Entry, Kind, Rule};

use super::super::*;
use crate::{
    cluster::ServiceChange,
    minikube::{Cni, ProfileFiles},
};

pub(super) fn name(text: &str) -> ProfileName {
    text.parse().unwrap()
}

pub(super) fn route(destination: &str, gateway: &str) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    }
}

pub(super) fn files(profile: &str, cidr: &str, node: &str) -> ProfileFiles {
    ProfileFiles {
        profile: Profile {
            name: name(profile),
            driver: "docker".into(),
            nodes: vec![Node {
                name: profile.into(),
                ips: vec![node.parse().unwrap()],
                control_plane: true,
                ready: None,
                pod_cidrs: Vec::new(),
            }],
            service_cidrs: vec![cidr.parse().unwrap()],
            dns_domain: "cluster.local".into(),
            endpoint: Some(format!("https://{node}:8443")),
            reach: Reach::Routed,
        },
        credentials: Some(Credentials {
            server: format!("https://{node}:8443"),
            ca: Vec::new(),
            cert: Vec::new(),
            key: Vec::new(),
        }),
        problem: None,
        kubernetes: true,
        metallb: false,
        cni: Cni::Bridge,
        stopping_until: None,
        momentary: false,
        minikube_tunnels: Vec::new(),
    }
}

pub(super) fn profiles(list: &[ProfileFiles]) -> Profiles {
    Profiles {
        readable: list
            .iter()
            .map(|files| (files.profile.name.clone(), files.clone()))
            .collect(),
        ..Profiles::default()
    }
}

pub(super) fn service(name: &str, ip: &str) -> Service {
    Service {
        key: ServiceKey {
            namespace: "default".into(),
            name: name.into(),
        },
        uid: format!("uid-{name}"),
        is_load_balancer: true,
        class: None,
        ports: vec![ServicePort {
            port: 80,
            protocol: "TCP".into(),
        }],
        cluster_ips: vec![ip.parse().unwrap()],
        ingress: Vec::new(),
        owner: Owner::Nobody,
        left_by_minikube: false,
    }
}

/// The service `web` with the address that a dead run of ours left.
pub(super) fn stale() -> Service {
    Service {
        owner: Owner::Us,
        ingress: vec!["10.99.1.2".into()],
        ..service("web", "10.99.1.2")
    }
}

pub(super) fn taken_by_another(route: Route) -> Conflict {
    let other = minitunnel_model::TableEntry {
        destination: route.destination,
        gateway: Some(route.gateway),
        device: None,
        metric: 0,
        table: minitunnel_routing::MAIN_TABLE,
        origin: minitunnel_model::Origin::Ours,
    };
    Conflict {
        kind: minitunnel_model::ConflictKind::OtherProfile,
        ours: route,
        other,
        owner: "another lease".into(),
        profile: None,
        effect: format!("{route} is taken"),
        ways_out: Vec::new(),
    }
}

/// An entry of the main table, by that protocol.
pub(super) fn entry(route: &Route, protocol: u8) -> Entry {
    // What the kernel gives a route that names none: 0, for IPv6 1024.
    let ipv6 = matches!(route.destination, IpNet::V6(_));
    Entry {
        destination: route.destination,
        gateway: Some(route.gateway),
        protocol,
        table: minitunnel_routing::MAIN_TABLE,
        metric: if ipv6 { 1024 } else { 0 },
        hop: 0,
        special: false,
        kind: Kind::Unicast,
        link: 0,
    }
}

/// What is outside of the reducer: it carries effects out, one at a time, when it is told to.
pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Timestamp,
    pub(super) pending: Vec<Effect>,
    pub(super) kernel: BTreeMap<ProfileName, Vec<Route>>,
    pub(super) services: BTreeMap<(ProfileName, ServiceKey), Service>,
    /// Whether the user, if asked, consents.
    pub(super) consents: bool,
    pub(super) dialogs: usize,
    pub(super) granted: bool,
    /// Whether the user has asked for a tunnel since the last dialog.
    pub(super) asked: bool,
    /// What the helper answers to the next apply instead of doing it.
    pub(super) failure: Option<ApplyFailure>,
    pub(super) ended: bool,
    /// Whether other sessions run, where no helper can be asked.
    pub(super) sessions: bool,
    /// What the helper holds for others, if it can be asked.
    pub(super) leases: Option<BTreeSet<Route>>,
    /// Other programs' routes.
    pub(super) foreign: Vec<Entry>,
    /// The turns of the watches and of the locks that were asked for last.
    pub(super) watches: BTreeMap<ProfileName, Turn>,
    pub(super) locks: BTreeMap<ProfileName, Turn>,
}

impl World {
    pub(super) fn new(list: &[ProfileFiles]) -> Self {
        let scope = Scope {
            acts: true,
            only: None,
        };
        let mut world = Self {
            state: State::new("/home/u/.minikube".into(), scope),
            now: Timestamp(1_000),
            pending: Vec::new(),
            kernel: BTreeMap::new(),
            services: BTreeMap::new(),
            consents: true,
            dialogs: 0,
            granted: false,
            asked: false,
            failure: None,
            ended: false,
            sessions: false,
            leases: None,
            foreign: Vec::new(),
            watches: BTreeMap::new(),
            locks: BTreeMap::new(),
        };
        world.input(Input::Files(profiles(list)));
        world.dump(0);
        world.look();
        world
    }

    /// Answers what was asked about other sessions.
    pub(super) fn look(&mut self) {
        let look = |effect: &Effect| matches!(effect, Effect::LookForSessions(_));
        while let Some(at) = self.pending.iter().position(look) {
            self.step(at);
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        self.now = Timestamp(self.now.0 + 1);
        let effects = reduce(&mut self.state, self.now, input);
        for effect in &effects {
            match effect {
                Effect::Watch(name, turn, ..) => self.watches.insert(name.clone(), *turn),
                Effect::Lock(name, turn) => self.locks.insert(name.clone(), *turn),
                _ => None,
            };
        }
        self.pending.extend(effects);
        let mut applying: Vec<&ProfileName> = Vec::new();
        for effect in &self.pending {
            if let Effect::Apply { profile, .. } = effect {
                assert!(
                    !applying.contains(&profile),
                    "two applies in flight for {profile}"
                );
                applying.push(profile);
            }
        }
    }

    pub(super) fn dump(&mut self, after: u64) {
        let ours = |route: &Route| entry(route, minitunnel_routing::PROTOCOL);
        let mut entries: Vec<Entry> = self.kernel.values().flatten().map(ours).collect();
        // The networks on whose link the nodes are.
        for nodes in [
            route("192.168.0.0/16", "192.168.0.1"),
            route("fd00:49::/64", "fd00:49::1"),
        ] {
            entries.push(Entry {
                gateway: None,
                link: 1,
                ..entry(&nodes, 2)
            });
        }
        entries.extend(&self.foreign);
        let main = |ipv6| Rule {
            ipv6,
            priority: 32_766,
            action: Action::Lookup(minitunnel_routing::MAIN_TABLE),
            selectors: Vec::new(),
            inverted: false,
            suppress: None,
            protocol: 2,
        };
        let table = Table {
            entries,
            rules: vec![main(false), main(true)],
            addresses: vec![Address {
                net: "192.168.0.1/16".parse().unwrap(),
                link: 1,
            }],
            ..Table::default()
        };
        self.input(Input::Table {
            table: Arc::new(table),
            after,
        });
    }

    /// Carries one effect out.
    pub(super) fn step(&mut self, which: usize) {
        if self.pending.is_empty() {
            return;
        }
        let effect = self.pending.remove(which % self.pending.len());
        match effect {
            Effect::Watch(..) | Effect::Unwatch(_) | Effect::Unlock(_) | Effect::Wake(_) => {}
            Effect::LookForSessions(turn) => {
                let leases = self.leases.clone().map(Others::Leases);
                let others = leases.unwrap_or(Others::Run(self.sessions));
                self.input(Input::Sessions(turn, others));
            }
            Effect::Suspect(name) => {
                let suspects = vec!["a daemon (process 7)".into()];
                self.input(Input::Suspects(name, suspects));
            }
            Effect::Dismiss(name) => {
                let open = |effect: &Effect| matches!(effect, Effect::Apply { profile, .. } if *profile == name);
                let Some(at) = self.pending.iter().position(open) else {
                    return;
                };
                if let Effect::Apply {
                    profile, routes, ..
                } = self.pending.remove(at)
                {
                    let result = Err(ApplyFailure::NotAuthorized("dismissed".into()));
                    self.input(Input::Applied {
                        profile,
                        routes,
                        result,
                    });
                }
            }
            Effect::Lock(name, turn) => self.input(Input::Lock(name, turn, LockNews::Acquired)),
            Effect::Apply {
                profile,
                routes,
                interactive,
            } => {
                if !routes.is_empty() && !self.granted && interactive {
                    assert!(self.asked, "a dialog that nobody asked for");
                    // One that is being closed, or whose helper fails, is answered for nothing.
                    let closing = self.pending.contains(&Effect::Dismiss(profile.clone()));
                    self.asked = closing || self.failure.is_some();
                    self.dialogs += 1;
                    self.granted = self.consents;
                }
                let theirs = |other: &&Route| {
                    routes
                        .iter()
                        .any(|route| route.destination == other.destination)
                };
                let others = self.kernel.iter().filter(|(of, _)| **of != profile);
                let result = if let Some(failure) = self.failure.take() {
                    if matches!(failure, ApplyFailure::Missing(_)) {
                        // Leases end with the connection.
                        self.kernel.clear();
                        self.granted = false;
                    }
                    Err(failure)
                } else if let Some(taken) = others.flat_map(|(_, held)| held).find(theirs) {
                    Err(ApplyFailure::Conflict(vec![taken_by_another(*taken)]))
                } else if routes.is_empty() || self.granted {
                    self.kernel.insert(profile.clone(), routes.clone());
                    Ok(())
                } else {
                    Err(ApplyFailure::NotAuthorized("no".into()))
                };
                self.input(Input::Applied {
                    profile,
                    routes,
                    result,
                });
            }
            Effect::Ask {
                profile,
                service,
                request,
            } => {
                let key = service.key.clone();
                let slot = (profile.clone(), key.clone());
                let result = match self.services.get_mut(&slot) {
                    None => Err(AssignError::Gone),
                    Some(real) => {
                        let give = request == Request::Assign;
                        real.owner = if give { Owner::Us } else { Owner::Nobody };
                        let ips = real.cluster_ips.iter().map(ToString::to_string);
                        real.ingress = if give { ips.collect() } else { Vec::new() };
                        let event = ClusterEvent::Services(ServiceChange::Applied(real.clone()));
                        self.cluster(profile.as_str(), event);
                        Ok(())
                    }
                };
                self.input(Input::Answered {
                    profile,
                    service,
                    request,
                    result,
                });
            }
            Effect::Remove(item) => {
                let result = self.remove(&item);
                self.input(Input::Removed { item, result });
            }
            Effect::Leave(item) => {
                let removal = Effect::Remove(item.clone());
                if let Some(at) = self.pending.iter().position(|effect| *effect == removal) {
                    self.pending.remove(at);
                    let result = Err("it was called off".into());
                    self.input(Input::Removed { item, result });
                }
            }
            Effect::Dump(number) => self.dump(number),
            Effect::Ended => self.ended = true,
        }
    }

    /// Removes what a `minikube tunnel` left.
    fn remove(&mut self, item: &CleanupItem) -> Result<(), String> {
        match item {
            CleanupItem::MinikubeRoute { entry, .. } => {
                let is = |other: &Entry| {
                    (other.destination, other.gateway) == (entry.destination, entry.gateway)
                };
                self.foreign.retain(|other| !is(other));
                self.dump(self.state.dumps);
            }
            CleanupItem::MinikubeAddress {
                profile, service, ..
            } => {
                let slot = (profile.clone(), service.clone());
                let real = self.services.get_mut(&slot).ok_or("it is gone")?;
                real.owner = Owner::Nobody;
                real.ingress.clear();
                let event = ClusterEvent::Services(ServiceChange::Applied(real.clone()));
                self.cluster(profile.as_str(), event);
            }
            _ => return Err("it is ours".into()),
        }
        Ok(())
    }

    pub(super) fn run(&mut self) {
        for _ in 0..10_000 {
            if self.pending.is_empty() {
                return;
            }
            self.step(0);
        }
        panic!("no end of effects: {:?}", self.pending);
    }

    /// An event of the API server, for the watch of now.
    pub(super) fn cluster(&mut self, profile: &str, event: ClusterEvent) {
        let turn = self.watches.get(&name(profile)).copied().unwrap_or(0);
        self.input(Input::Cluster(name(profile), turn, event));
    }

    pub(super) fn cluster_up(&mut self, profile: &str) {
        let mine = self.services.iter();
        let mine = mine.filter(|((of, _), _)| of.as_str() == profile);
        let up = ClusterEvent::Up {
            service_cidrs: Vec::new(),
            nodes: Vec::new(),
            services: mine.map(|(_, service)| service.clone()).collect(),
        };
        self.cluster(profile, up);
    }

    pub(super) fn cluster_down(&mut self, profile: &str) {
        let reason = "it is gone".into();
        self.cluster(profile, ClusterEvent::Down { reason });
    }

    pub(super) fn add(&mut self, profile: &str, service: Service) {
        let slot = (name(profile), service.key.clone());
        self.services.insert(slot, service.clone());
        let event = ClusterEvent::Services(ServiceChange::Applied(service));
        self.cluster(profile, event);
    }

    pub(super) fn lock(&mut self, profile: &str, news: LockNews) {
        let turn = self.locks[&name(profile)];
        self.input(Input::Lock(name(profile), turn, news));
    }

    pub(super) fn target(&mut self, profile: &str, target: TargetState) {
        self.asked |= target == TargetState::Up;
        self.input(Input::Command(Command::SetTarget {
            profile: name(profile),
            target,
        }));
    }

    pub(super) fn resume(&mut self, profile: &str) {
        let profile = name(profile);
        self.input(Input::Command(Command::Resume { profile }));
    }

    pub(super) fn tunnel(&mut self, profile: &str) -> TunnelState {
        snapshot(&mut self.state)
            .profile(&name(profile))
            .unwrap()
            .tunnel
            .clone()
    }

    pub(super) fn held(&self, profile: &str) -> Vec<Route> {
        self.kernel.get(&name(profile)).cloned().unwrap_or_default()
    }
}

/// Two profiles, `a` and `b`, with these service CIDRs.
pub(super) fn two(a: &str, b: &str) -> [ProfileFiles; 2] {
    [files("a", a, "192.168.49.2"), files("b", b, "192.168.58.2")]
}

pub(super) fn one() -> World {
    World::new(&[files("p", "10.96.0.0/12", "192.168.49.2")])
}

pub(super) fn up() -> World {
    let mut world = one();
    world.cluster_up("p");
    world.add("p", service("web", "10.99.1.2"));
    world.target("p", TargetState::Up);
    world.run();
    world
}
