use std::{sync::Arc, time::Duration};

use minitunnel_model::{CleanupItem, GroupKind, Left, Pending, Route, ServicePort};

use super::*;
use crate::testing::{conflict, key, service, snapshot, status};

const MINUTE: u64 = 60_000;

fn lines(snapshot: &Snapshot, width: usize, height: usize) -> Vec<String> {
    let frame = Frame {
        width,
        height,
        now: Timestamp(125 * MINUTE),
        only: None,
        hint: "Ctrl-C ends",
    };
    let text = |line: &Line| line.iter().map(|span| span.text.as_str()).collect();
    let lines: Vec<String> = view(snapshot, &frame).iter().map(text).collect();
    lines
        .iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn route(destination: &str, gateway: &str) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    }
}

fn group(kind: GroupKind, routes: &[Route], state: GroupState) -> RouteGroup {
    let routes = routes.to_vec();
    RouteGroup {
        kind,
        routes,
        state,
    }
}

fn held() -> GroupState {
    GroupState::Held {
        conflicts: Vec::new(),
    }
}

fn pods(node: &str) -> GroupKind {
    GroupKind::Pods { node: node.into() }
}

fn web(name: &str, millis: u64) -> Arc<LoadBalancer> {
    let mut web = service(name, Owner::Us);
    let lb = Arc::make_mut(&mut web);
    lb.assigned_in = Some(Duration::from_millis(millis));
    lb.ports = [80, 443]
        .map(|port| ServicePort {
            port,
            protocol: "TCP".into(),
        })
        .to_vec();
    web
}

fn waiting(name: &str, pending: Pending) -> Arc<LoadBalancer> {
    let mut waiting = web(name, 0);
    let lb = Arc::make_mut(&mut waiting);
    lb.ingress.clear();
    lb.owner = Owner::Nobody;
    lb.pending = Some(pending);
    waiting
}

fn connected() -> ProfileStatus {
    let class = "x.io/lb".into();
    ProfileStatus {
        tunnel: TunnelState::Connected {
            since: Timestamp(MINUTE),
        },
        groups: vec![
            group(
                GroupKind::Services,
                &[route("10.96.0.0/12", "192.168.49.2")],
                held(),
            ),
            group(pods("a"), &[route("10.244.0.0/24", "192.168.49.2")], held()),
            group(
                pods("a-m02"),
                &[],
                GroupState::LeftOut {
                    reason: "it has no address".into(),
                },
            ),
        ],
        load_balancers: vec![
            web("web", 4),
            waiting("checkout", Pending::OtherClass { class }),
        ],
        ..status("a", TargetState::Up)
    }
}

fn blocked() -> ProfileStatus {
    let conflict = conflict();
    let ours = conflict.ours;
    let conflicts = vec![conflict];
    ProfileStatus {
        tunnel: TunnelState::Blocked {
            conflicts: conflicts.clone(),
        },
        groups: vec![group(
            GroupKind::Services,
            &[ours],
            GroupState::Conflicting { conflicts },
        )],
        ..status("b", TargetState::Up)
    }
}

#[test]
fn state_routes_services_and_conflicts_stand_in_columns() {
    let shown = lines(&snapshot(&[connected(), blocked()]), 80, 24);
    let expected = "\
minitunnel  1 of 2 tunnels up                                        Ctrl-C ends

● a  connected 2 h 4 min  docker
  routes    10.96.0.0/12   192.168.49.2  services
            10.244.0.0/24  192.168.49.2  pods of a
            -              -             pods of a-m02  it has no address
  services  default/web       10.99.1.2  80, 443  4 ms
            default/checkout  -          80, 443  it asks for the load balancer…

✗ b  blocked  docker
  routes    10.112.0.0/12  192.168.58.2  services  conflict
              10.112.0.0/12 would take traffic from OpenVPN's 10.0.0.0/8 (tun0)
            → minikube start -p b --service-cluster-ip-range 172.20.0.0/16";
    assert_eq!(shown.join("\n"), expected);
}

#[test]
fn narrow_window_has_the_tables_without_their_names_and_wraps_sentences() {
    let mut waiting = status("b", TargetState::Up);
    waiting.tunnel = TunnelState::Waiting {
        on: WaitingFor::Cluster {
            reason: "its API server does not answer".into(),
        },
    };
    let shown = lines(&snapshot(&[connected(), waiting]), 34, 24);
    let expected = "\
minitunnel  1 of 2 tunnels up

● a  connected 2 h 4 min  docker
  10.96.0.0/12   192.168.49.2  se…
  10.244.0.0/24  192.168.49.2  po…
  -              -             po…
  default/web       10.99.1.2  80…
  default/checkout  -          80…

● b  waiting  docker
  for the cluster: its API server
  does not answer";
    assert_eq!(shown.join("\n"), expected);
}

#[test]
fn services_give_way_in_a_low_window_and_what_is_missing_is_counted() {
    let mut many = connected();
    many.load_balancers = (0..50).map(|n| web(&format!("s{n:02}"), n)).collect();
    many.load_balancers.push(waiting("t", Pending::Assigning));
    let shown = lines(&snapshot(&[many, blocked()]), 80, 16);
    assert_eq!(shown.len(), 16);
    assert!(shown[6].starts_with("  services  default/s00  10.99.1.2"));
    assert_eq!(shown[10], "  … 47 more; 1 of all without an address");
    assert_eq!(shown[12], "✗ b  blocked  docker");
    assert!(shown[15].ends_with("172.20.0.0/16"));
}

#[test]
fn every_window_is_filled_at_most() {
    let mut wide = connected();
    Arc::make_mut(&mut wide.load_balancers[0]).key.name = "漢字".repeat(30);
    wide.left = vec![Left {
        service: key("left"),
        addresses: vec!["10.99.1.9".into()],
    }];
    let mut broken = blocked();
    broken.tunnel = TunnelState::Waiting {
        on: WaitingFor::Cluster {
            reason: "漢".repeat(200),
        },
    };
    let snapshot = snapshot(&[wide, broken]);
    for columns in 0..130 {
        for height in 1..30 {
            let frame = Frame {
                width: columns,
                height,
                now: Timestamp(0),
                only: None,
                hint: "Ctrl-C ends",
            };
            let lines = view(&snapshot, &frame);
            assert!(lines.len() <= height, "{columns}×{height}: {}", lines.len());
            for line in &lines {
                let wide = width(line);
                // One column has no room for a character of two.
                assert!(
                    wide <= columns.max(1),
                    "{columns}×{height}: {wide}: {line:?}"
                );
            }
        }
    }
}

#[test]
fn hostile_words_change_nothing_but_their_own_cell() {
    let mut status = connected();
    let message = "no\n\x1b[2J\x1b]0;x\x07\u{202e}".to_owned();
    status.load_balancers = vec![waiting("web", Pending::Refused { message })];
    let shown = lines(&snapshot(&[status]), 200, 24).join("\n");
    assert!(!shown.contains(['\x1b', '\x07', '\u{202e}']), "{shown}");
    assert!(shown.contains("no\\n\\u{1b}[2J"), "{shown}");
}

#[test]
fn only_the_profiles_that_a_command_is_for_are_shown() {
    let only = BTreeSet::from(["a".parse().unwrap()]);
    let frame = Frame {
        width: 80,
        height: 24,
        now: Timestamp(0),
        only: Some(&only),
        hint: "",
    };
    let lines = view(&snapshot(&[connected(), blocked()]), &frame);
    let names = lines
        .iter()
        .flatten()
        .filter(|span| span.style == Style::Bold);
    let names: Vec<_> = names.map(|span| span.text.as_str()).collect();
    assert_eq!(names, ["minitunnel", "a"]);
}

#[test]
fn what_others_left_is_shown_in_a_view_of_everything() {
    let address = CleanupItem::MinikubeAddress {
        profile: "a".parse().unwrap(),
        service: key("web"),
        uid: "uid-web".into(),
        addresses: vec!["10.96.0.7".parse().unwrap()],
    };
    let left = Snapshot {
        profiles: vec![status("a", TargetState::Down)],
        leftovers: vec![address],
        ..Snapshot::default()
    };
    let expected = "\
minitunnel  no tunnel is up                                          Ctrl-C ends

○ a  disconnected  docker

● leftovers  `minitunnel cleanup` removes them, if you want
  address 10.96.0.7 of service default/web in a that a `minikube tunnel` left";
    assert_eq!(lines(&left, 80, 24).join("\n"), expected);
}
