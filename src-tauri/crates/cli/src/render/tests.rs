use std::{sync::Arc, time::Duration};

use minitunnel_model::{
    BrokenProfile, GroupKind, Left, MinikubeTunnel, Pending, Profile, Route, ServiceKey,
    ServicePort, Timestamp, TunnelState,
};

use super::*;

fn status(tunnel: TunnelState, target: TargetState) -> ProfileStatus {
    let route = Route {
        destination: "10.96.0.0/12".parse().unwrap(),
        gateway: "192.168.49.2".parse().unwrap(),
    };
    let state = match target {
        TargetState::Up => GroupState::Held {
            conflicts: Vec::new(),
        },
        TargetState::Down => GroupState::Free,
    };
    let pods = GroupKind::Pods { node: "p".into() };
    ProfileStatus {
        profile: Profile {
            name: "p".parse().unwrap(),
            driver: "docker".into(),
            nodes: Vec::new(),
            service_cidrs: Vec::new(),
            dns_domain: "cluster.local".into(),
            endpoint: None,
            reach: Reach::Routed,
        },
        target,
        tunnel,
        cluster: ClusterState::Running,
        groups: vec![
            RouteGroup {
                kind: GroupKind::Services,
                routes: vec![route],
                state,
            },
            RouteGroup {
                kind: pods,
                routes: Vec::new(),
                state: GroupState::LeftOut {
                    reason: "why not".into(),
                },
            },
        ],
        load_balancers: Vec::new(),
        left: Vec::new(),
        minikube_tunnels: Vec::new(),
    }
}

fn balancer(name: &str, owner: Owner, ip: &str, pending: Option<Pending>) -> Arc<LoadBalancer> {
    Arc::new(LoadBalancer {
        key: ServiceKey {
            namespace: "default".into(),
            name: name.into(),
        },
        ports: vec![ServicePort {
            port: 80,
            protocol: "TCP".into(),
        }],
        cluster_ips: Vec::new(),
        ingress: if ip.is_empty() {
            Vec::new()
        } else {
            vec![ip.into()]
        },
        assigned_in: (owner == Owner::Us).then_some(Duration::from_millis(4)),
        owner,
        pending,
    })
}

/// The lines as one text.
fn text(snapshot: &Snapshot) -> String {
    render(snapshot).join("\n") + "\n"
}

fn snapshot(status: ProfileStatus) -> Snapshot {
    Snapshot {
        profiles: vec![status],
        ..Snapshot::default()
    }
}

#[test]
fn a_tunnel_that_is_up_shows_routes_and_services() {
    let since = Timestamp(1);
    let mut status = status(TunnelState::Connected { since }, TargetState::Up);
    let class = Pending::OtherClass {
        class: "x.io/lb".into(),
    };
    status.load_balancers = vec![
        balancer("web", Owner::Us, "10.99.1.2", None),
        balancer("longer", Owner::Nobody, "", Some(class)),
    ];
    let expected = "\
p (docker)  connected
  route     10.96.0.0/12 via 192.168.49.2 (services)
  no route  pods of p: why not
  service   default/web     10.99.1.2  80  (4 ms)
  service   default/longer  -  80  it asks for the load balancer class x.io/lb
";
    assert_eq!(text(&snapshot(status)), expected);
}

#[test]
fn an_assignment_faster_than_a_millisecond_is_no_zero() {
    let since = Timestamp(1);
    let mut status = status(TunnelState::Connected { since }, TargetState::Up);
    let mut fast = balancer("web", Owner::Us, "10.99.1.2", None);
    Arc::make_mut(&mut fast).assigned_in = Some(Duration::ZERO);
    status.load_balancers = vec![fast];
    let text = text(&snapshot(status));
    assert!(text.ends_with("10.99.1.2  80  (<1 ms)\n"), "{text}");
}

#[test]
fn what_a_dead_run_left_is_called_stale() {
    let mut status = status(TunnelState::Disconnected, TargetState::Down);
    status.load_balancers = vec![balancer("web", Owner::Us, "10.99.1.2", None)];
    let text = text(&snapshot(status));
    assert!(text.contains("stale: a run that died left it"), "{text}");
}

#[test]
fn what_a_lost_cluster_keeps_and_what_minikubes_tunnels_claim_is_shown() {
    let mut status = status(TunnelState::Disconnected, TargetState::Down);
    status.left = vec![Left {
        service: balancer("web", Owner::Us, "10.99.1.2", None).key.clone(),
        addresses: vec!["10.99.1.2".into()],
    }];
    status.minikube_tunnels = vec![MinikubeTunnel {
        route: Route {
            destination: "10.96.0.0/12".parse().unwrap(),
            gateway: "192.168.49.2".parse().unwrap(),
        },
        pid: 4242,
        running: false,
    }];
    let expected = "
  service   default/web  10.99.1.2  stays in the cluster until its API server can be asked again
  minikube  a `minikube tunnel` (process 4242) that ended without cleaning up had made 10.96.0.0/12 via 192.168.49.2
";
    let text = text(&snapshot(status));
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_stopped_cluster_and_a_broken_profile_say_why() {
    let mut status = status(TunnelState::Disconnected, TargetState::Down);
    status.cluster = ClusterState::Stopped {
        reason: "it is off".into(),
    };
    let mut snapshot = snapshot(status);
    snapshot.broken = vec![BrokenProfile {
        name: "q".into(),
        problem: "its config.json is empty".into(),
    }];
    let text = text(&snapshot);
    assert!(
        text.contains("p (docker)  disconnected, cluster stopped: it is off\n"),
        "{text}"
    );
    assert!(
        text.ends_with("q  can't be read: its config.json is empty; mend it, or have `minikube delete` remove it\n"),
        "{text}"
    );
}

#[test]
fn a_home_without_profiles_says_what_to_do() {
    let text = text(&Snapshot::default());
    assert!(
        text.contains("minikube start") && text.contains("minitunnel demo"),
        "{text}"
    );
}

#[test]
fn a_wanted_profile_that_is_gone_is_waited_for() {
    let snapshot = Snapshot {
        awaited: vec!["p".parse().unwrap()],
        ..Snapshot::default()
    };
    let shown = render(&snapshot);
    assert_eq!(
        shown.last().unwrap(),
        "p  is gone: its tunnel comes up again when it is back"
    );
}

#[test]
fn what_a_dead_minikube_tunnel_left_is_shown_with_the_way_out() {
    let item = minitunnel_model::CleanupItem::MinikubeAddress {
        profile: "p".parse().unwrap(),
        service: crate::testing::key("web"),
        uid: "uid-web".into(),
        addresses: vec!["10.96.0.7".parse().unwrap()],
    };
    let snapshot = Snapshot {
        leftovers: vec![item],
        ..Snapshot::default()
    };
    assert_eq!(
        render(&snapshot).last().unwrap(),
        "leftover  address 10.96.0.7 of service default/web in p that a `minikube tunnel` left: `minitunnel cleanup` removes it, if you want"
    );
}
