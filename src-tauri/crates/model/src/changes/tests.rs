use std::time::Duration;

use super::*;
use crate::{
    ClusterState, ConflictKind, Origin, Profile, Reach, ServicePort, TableEntry, TargetState,
    Timestamp,
};

fn route(destination: &str) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        gateway: "192.168.49.2".parse().unwrap(),
    }
}

fn conflict() -> Conflict {
    Conflict {
        kind: ConflictKind::CoveredBy,
        ours: route("10.96.0.0/12"),
        other: TableEntry {
            destination: "10.0.0.0/8".parse().unwrap(),
            gateway: None,
            device: Some("tun0".into()),
            metric: 0,
            table: 254,
            origin: Origin::Foreign(4),
        },
        owner: "OpenVPN (tun0)".into(),
        profile: None,
        effect: "10.96.0.0/12 lies inside of OpenVPN's 10.0.0.0/8".into(),
        ways_out: Vec::new(),
    }
}

fn services(state: GroupState) -> RouteGroup {
    RouteGroup {
        kind: GroupKind::Services,
        routes: vec![route("10.96.0.0/12")],
        state,
    }
}

fn held() -> GroupState {
    GroupState::Held {
        conflicts: Vec::new(),
    }
}

fn balancer(owner: Owner, pending: Option<Pending>) -> Arc<LoadBalancer> {
    let ours = owner == Owner::Us;
    Arc::new(LoadBalancer {
        key: ServiceKey {
            namespace: "default".into(),
            name: "web".into(),
        },
        ports: vec![
            ServicePort {
                port: 80,
                protocol: "TCP".into(),
            },
            ServicePort {
                port: 53,
                protocol: "UDP".into(),
            },
        ],
        cluster_ips: vec!["10.99.1.2".parse().unwrap()],
        ingress: if ours {
            vec!["10.99.1.2".into()]
        } else {
            Vec::new()
        },
        owner,
        pending,
        assigned_in: ours.then_some(Duration::from_millis(4)),
    })
}

fn snapshot(
    tunnel: TunnelState,
    groups: Vec<RouteGroup>,
    load_balancers: Vec<Arc<LoadBalancer>>,
) -> Snapshot {
    let profile = Profile {
        name: "p".parse().unwrap(),
        driver: "docker".into(),
        nodes: Vec::new(),
        service_cidrs: Vec::new(),
        dns_domain: "cluster.local".into(),
        endpoint: None,
        reach: Reach::Routed,
    };
    let status = ProfileStatus {
        profile,
        target: TargetState::Up,
        tunnel,
        cluster: ClusterState::Running,
        groups,
        load_balancers,
        left: Vec::new(),
        minikube_tunnels: Vec::new(),
    };
    Snapshot {
        profiles: vec![status],
        ..Snapshot::default()
    }
}

fn up(groups: Vec<RouteGroup>, load_balancers: Vec<Arc<LoadBalancer>>) -> Snapshot {
    let since = Timestamp(1);
    snapshot(TunnelState::Connected { since }, groups, load_balancers)
}

fn lines(old: &Snapshot, new: &Snapshot) -> Vec<String> {
    changes(old, new).iter().map(Change::to_string).collect()
}

#[test]
fn the_same_snapshot_tells_nothing() {
    let now = up(vec![services(held())], vec![balancer(Owner::Us, None)]);
    assert_eq!(lines(&now, &now.clone()), Vec::<String>::new());
}

#[test]
fn a_tunnel_that_comes_up_tells_routes_state_and_addresses() {
    let old = snapshot(
        TunnelState::Connecting,
        vec![services(GroupState::Free)],
        vec![balancer(Owner::Nobody, Some(Pending::Assigning))],
    );
    let new = up(vec![services(held())], vec![balancer(Owner::Us, None)]);
    let expected = [
        "route  10.96.0.0/12 via 192.168.49.2 (services)",
        "connected",
        "service default/web → 10.99.1.2 port 80, 53/UDP (4 ms)",
    ];
    assert_eq!(lines(&old, &new), expected);
}

#[test]
fn a_group_that_goes_without_is_told_once_beside_each_tunnel_that_comes_up() {
    let pods = RouteGroup {
        kind: GroupKind::Pods { node: "n".into() },
        routes: vec![route("10.244.0.0/16")],
        state: GroupState::Conflicting {
            conflicts: vec![conflict()],
        },
    };
    let groups = vec![services(held()), pods];
    let old = snapshot(TunnelState::Connecting, groups.clone(), Vec::new());
    let new = up(groups, Vec::new());
    let expected = [
        "no route for pods of n: 10.96.0.0/12 lies inside of OpenVPN's 10.0.0.0/8",
        "connected",
    ];
    assert_eq!(lines(&old, &new), expected);
    assert_eq!(lines(&new, &new.clone()), Vec::<String>::new());
}

#[test]
fn an_address_within_the_first_millisecond_is_not_said_to_have_taken_none() {
    let mut service = balancer(Owner::Us, None);
    let at_once = Arc::make_mut(&mut service);
    at_once.assigned_in = Some(Duration::ZERO);
    assert_eq!(at_once.took().as_deref(), Some("<1 ms"));
    at_once.assigned_in = Some(Duration::from_millis(1));
    assert_eq!(at_once.took().as_deref(), Some("1 ms"));
    at_once.assigned_in = None;
    assert_eq!(at_once.took(), None);
}

#[test]
fn what_is_taken_back_is_told() {
    let old = up(vec![services(held())], vec![balancer(Owner::Us, None)]);
    let new = snapshot(
        TunnelState::Disconnected,
        vec![services(GroupState::Free)],
        vec![balancer(Owner::Nobody, Some(Pending::TunnelDown))],
    );
    let expected = [
        "route  10.96.0.0/12 via 192.168.49.2 (services) removed",
        "disconnected",
        "service default/web: address withdrawn",
    ];
    assert_eq!(lines(&old, &new), expected);
}

#[test]
fn an_overlap_that_comes_later_is_told_once_and_loses_no_route() {
    let old = up(vec![services(held())], Vec::new());
    let overlapped = GroupState::Held {
        conflicts: vec![conflict()],
    };
    let new = up(vec![services(overlapped)], Vec::new());
    let expected =
        ["conflict with the route for services: 10.96.0.0/12 lies inside of OpenVPN's 10.0.0.0/8"];
    assert_eq!(lines(&old, &new), expected);
    assert_eq!(lines(&new, &new.clone()), Vec::<String>::new());
}

#[test]
fn a_service_that_goes_without_says_why() {
    let theirs = Pending::SomeoneElses {
        manager: "metallb".into(),
    };
    let new = up(
        vec![services(held())],
        vec![balancer(Owner::Other("metallb".into()), Some(theirs))],
    );
    let old = up(vec![services(held())], Vec::new());
    let expected = ["service default/web: metallb has set its address"];
    assert_eq!(lines(&old, &new), expected);
}

#[test]
fn each_service_is_compared_with_itself_wherever_it_stands() {
    let named = |name: &str| {
        let mut balancer = Arc::unwrap_or_clone(balancer(Owner::Us, None));
        balancer.key.name = name.into();
        Arc::new(balancer)
    };
    let (b, c, d) = (named("b"), named("c"), named("d"));
    let old = up(
        Vec::new(),
        vec![named("a"), b.clone(), d.clone(), named("f")],
    );
    let new = up(
        Vec::new(),
        vec![b, c, Arc::unwrap_or_clone(d).into(), named("e")],
    );
    let mut lines = lines(&old, &new);
    lines.sort();
    assert_eq!(
        lines,
        [
            "service default/a: address withdrawn",
            "service default/c → 10.99.1.2 port 80, 53/UDP (4 ms)",
            "service default/e → 10.99.1.2 port 80, 53/UDP (4 ms)",
            "service default/f: address withdrawn",
        ]
    );
}

#[test]
fn a_cluster_that_can_not_be_asked_withdraws_nothing() {
    let old = up(Vec::new(), vec![balancer(Owner::Us, None)]);
    let new = snapshot(TunnelState::Disconnecting, Vec::new(), Vec::new());
    assert_eq!(lines(&old, &new), ["disconnecting"]);
}

#[test]
fn a_profile_that_vanishes_takes_its_routes_and_is_told() {
    let old = up(vec![services(held())], vec![balancer(Owner::Us, None)]);
    let expected = [
        "route  10.96.0.0/12 via 192.168.49.2 (services) removed",
        "the profile is gone",
    ];
    assert_eq!(lines(&old, &Snapshot::default()), expected);
}
