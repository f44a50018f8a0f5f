//! Snapshots of every state that a view shows, for the tests of views and for their pictures. All of it is made up.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::{
    Activity, BrokenProfile, Change, CleanupItem, CleanupReport, ClusterState, Conflict,
    ConflictKind, FailureCause, GroupKind, GroupState, HelperStatus, Left, LoadBalancer,
    MinikubeTunnel, Node, Origin, Owner, Pending, Profile, ProfileName, ProfileStatus, Reach,
    Route, RouteGroup, ServiceKey, ServicePort, Snapshot, TableEntry, TargetState, Timestamp,
    TunnelState, WaitingFor, WayOut,
};

/// A moment for what is compared: 30 November 2026, 14:02:12 UTC.
pub const NOW: Timestamp = Timestamp(1_796_047_332_000);
/// For how long what is connected has been so, in milliseconds.
const UP: u64 = (2 * 60 + 14) * 60_000;

/// Four profiles on an ordinary day: one connected, one blocked, one stopped, one whose cluster does not answer.
pub fn desk(now: Timestamp) -> Snapshot {
    let mut shop = profile("shop", 49, 2);
    shop.tunnel = connected(now);
    shop.groups[0].state = held();
    shop.groups[1].state = held();
    shop.groups[2].state = GroupState::Conflicting {
        conflicts: vec![bridge(shop.groups[2].routes[0])],
    };
    shop.load_balancers = vec![
        assigned("default", "api", "10.98.3.201", &[443, 8443], 7),
        pending(
            "default",
            "legacy",
            8080,
            Pending::OtherClass {
                class: "example.com/lb".into(),
            },
        ),
        assigned("default", "web", "10.104.92.17", &[80], 8),
        assigned("edge", "gateway", "10.99.14.3", &[443], 8),
        assigned("monitoring", "grafana", "10.107.40.8", &[3000], 9),
    ];

    let mut payments = profile("payments", 58, 1);
    let wanted = route("10.112.0.0/12", "192.168.58.2");
    let conflict = vpn(wanted);
    payments.groups[0] = RouteGroup {
        kind: GroupKind::Services,
        routes: vec![wanted],
        state: GroupState::Conflicting {
            conflicts: vec![conflict.clone()],
        },
    };
    payments.tunnel = TunnelState::Blocked {
        conflicts: vec![conflict],
    };
    payments.load_balancers = vec![
        pending("default", "checkout", 443, Pending::TunnelDown),
        pending("default", "ledger", 8080, Pending::TunnelDown),
    ];

    let mut playground = profile("playground", 67, 1);
    playground.target = TargetState::Down;
    playground.tunnel = TunnelState::Disconnected;
    playground.load_balancers = vec![pending("default", "web", 80, Pending::TunnelDown)];

    let mut minikube = profile("minikube", 76, 1);
    let reason = "https://192.168.76.2:8443 does not answer".to_owned();
    minikube.cluster = ClusterState::Stopped {
        reason: reason.clone(),
    };
    minikube.tunnel = TunnelState::Waiting {
        on: WaitingFor::Cluster { reason },
    };
    Snapshot {
        activity: day(&shop, &payments, now),
        ..of(vec![minikube, payments, playground, shop])
    }
}

/// A profile in each state in which something is to be done, or is on its way.
pub fn trouble(now: Timestamp) -> Snapshot {
    let with = |name: &str, tunnel: TunnelState| ProfileStatus {
        tunnel,
        ..profile(name, 49, 1)
    };
    let waiting = |on| TunnelState::Waiting { on };
    let failed = |cause| TunnelState::Failed {
        cause,
        retry_at: None,
    };
    let reached = |name: &str, driver: &str, reach: Reach| {
        let mut status = profile(name, 85, 1);
        status.profile.driver = driver.into();
        status.profile.reach = reach;
        status.target = TargetState::Down;
        status.cluster = ClusterState::Unasked;
        status.tunnel = TunnelState::Disconnected;
        status.groups.clear();
        status
    };
    let mut stopped = with("asleep", TunnelState::Disconnected);
    stopped.target = TargetState::Down;
    stopped.cluster = ClusterState::Stopped {
        reason: "https://192.168.49.2:8443 does not answer".into(),
    };
    stopped.left = vec![Left {
        service: key("default", "web"),
        addresses: vec!["10.104.92.17".into()],
    }];
    let mut stale = with("crashed", TunnelState::Disconnected);
    stale.target = TargetState::Down;
    stale.load_balancers = vec![assigned("default", "web", "10.104.92.17", &[80], 8)];
    stale.minikube_tunnels = vec![MinikubeTunnel {
        route: route("10.96.0.0/12", "192.168.49.2"),
        pid: 4242,
        running: false,
    }];
    let mut local = reached("local", "none", Reach::Local);
    local.target = TargetState::Up;
    local.cluster = ClusterState::Running;
    local.tunnel = connected(now);
    local.load_balancers = vec![assigned("default", "web", "10.104.92.17", &[80], 4)];
    let forwarded = "it can't be reached by routes: its API server is at https://127.0.0.1:32771, behind a local port, as rootless docker and Docker Desktop have it; use `minikube tunnel -p laptop`, or a driver whose nodes have addresses of their own (rootful docker on Linux, kvm2)";
    let qemu = "emulated uses QEMU's builtin network, which nothing outside can reach; make it anew with another driver, such as `minikube start -p emulated --driver=kvm2`";
    let message = "minitunnel's helper is not installed: run installers/linux/install, or use `sudo minitunnel up`".to_owned();
    let mut snapshot = of(vec![
        stopped,
        with("consent", waiting(WaitingFor::Consent)),
        with("connecting", TunnelState::Connecting),
        stale,
        with("dialog", waiting(WaitingFor::Dialog)),
        reached("emulated", "qemu2", Reach::Unsupported { reason: qemu.into() }),
        with(
            "fight",
            failed(FailureCause::Fight {
                message: "10.96.0.0/12 via 192.168.49.2 was removed three times within 10 s, probably by systemd-networkd: have it leave foreign routes alone (ManageForeignRoutes=no), then start the tunnel again".into(),
            }),
        ),
        with("helperless", failed(FailureCause::HelperMissing { message: message.clone() })),
        reached("laptop", "docker", Reach::Forwarded { reason: forwarded.into() }),
        local,
        with("lock", waiting(WaitingFor::Lock { pid: Some(31337) })),
        with("quitting", TunnelState::Disconnecting),
        with(
            "refused",
            failed(FailureCause::NotAuthorized {
                message: "you did not consent: start the tunnel again to be asked again".into(),
            }),
        ),
    ]);
    snapshot.helper = HelperStatus::Missing { message };
    snapshot.awaited = vec![name("vanished")];
    snapshot.broken = vec![BrokenProfile {
        name: "broken".into(),
        problem: "config.json ends in the middle (line 12): run `minikube delete -p broken`".into(),
    }];
    snapshot.leftovers = leftovers();
    snapshot.settings_problems =
        vec!["notifications is \"maybe\", and has to be true or false: true is used".into()];
    snapshot
}

/// A minikube home without a profile.
pub fn empty() -> Snapshot {
    of(Vec::new())
}

/// 30 profiles, long names among them, and a first one with 500 services of both families.
pub fn crowd(now: Timestamp) -> Snapshot {
    let mut profiles: Vec<ProfileStatus> = (1..30)
        .map(|number| {
            let mut status = profile(&format!("team-{number:02}"), 49, 1);
            match number % 4 {
                0 => status.tunnel = connected(now),
                1 => {
                    status.target = TargetState::Down;
                    status.tunnel = TunnelState::Disconnected;
                }
                2 => status.tunnel = TunnelState::Connecting,
                _ => {
                    status.tunnel = TunnelState::Waiting {
                        on: WaitingFor::Consent,
                    }
                }
            }
            status
        })
        .collect();
    let long = "a-profile-with-a-name-as-long-as-any-name-of-a-profile-may-be-63";
    let mut busy = profile(&long[..63], 49, 3);
    busy.tunnel = connected(now);
    for group in &mut busy.groups {
        group.state = held();
    }
    busy.load_balancers = (0..500_u16).map(service).collect();
    busy.load_balancers
        .sort_by(|one, other| one.key.cmp(&other.key));
    profiles.insert(0, busy);
    of(profiles)
}

/// What a clean-up finds after a bad day.
pub fn cleanup() -> CleanupReport {
    CleanupReport {
        dry_run: true,
        removed: vec![CleanupItem::Route(route("10.160.0.0/12", "192.168.85.2"))],
        leftovers: leftovers(),
        unasked: vec![name("minikube")],
        ..CleanupReport::default()
    }
}

fn leftovers() -> Vec<CleanupItem> {
    let old = name("old");
    vec![
        CleanupItem::MinikubeRoute {
            profile: old,
            pid: 4242,
            entry: entry(
                "10.128.0.0/12",
                Some("192.168.67.2"),
                "br-67f0",
                Origin::Foreign(3),
            ),
        },
        CleanupItem::MinikubeAddress {
            profile: name("minikube"),
            service: key("default", "web"),
            uid: "5f1c0c7e-2a64-4d0b-9a52-0d9d1d1b7a11".into(),
            addresses: vec![ip("10.101.7.9")],
        },
    ]
}

fn of(profiles: Vec<ProfileStatus>) -> Snapshot {
    Snapshot {
        home: "/home/ada/.minikube".into(),
        complete: true,
        helper: HelperStatus::Ready {
            version: "0.1.0".into(),
        },
        profiles,
        ..Snapshot::default()
    }
}

/// A wanted tunnel in a cluster that runs, with its routes free.
fn profile(text: &str, subnet: u8, nodes: u8) -> ProfileStatus {
    let address = |node: u8| ip(&format!("192.168.{subnet}.{}", node + 2));
    let node_name = |node: u8| match node {
        0 => text.to_owned(),
        node => format!("{text}-m{:02}", node + 1),
    };
    let pods = |node: u8| RouteGroup {
        kind: GroupKind::Pods {
            node: node_name(node),
        },
        routes: vec![Route {
            destination: net(&format!("10.244.{node}.0/24")),
            gateway: address(node),
        }],
        state: GroupState::Free,
    };
    let services = RouteGroup {
        kind: GroupKind::Services,
        routes: vec![Route {
            destination: net("10.96.0.0/12"),
            gateway: address(0),
        }],
        state: GroupState::Free,
    };
    ProfileStatus {
        profile: Profile {
            name: name(text),
            driver: "docker".into(),
            nodes: (0..nodes)
                .map(|node| Node {
                    name: node_name(node),
                    ips: vec![address(node)],
                    control_plane: node == 0,
                    ready: Some(true),
                    pod_cidrs: vec![net(&format!("10.244.{node}.0/24"))],
                })
                .collect(),
            service_cidrs: vec![net("10.96.0.0/12")],
            dns_domain: "cluster.local".into(),
            endpoint: Some(format!("https://192.168.{subnet}.2:8443")),
            reach: Reach::Routed,
        },
        target: TargetState::Up,
        tunnel: TunnelState::Disconnected,
        cluster: ClusterState::Running,
        groups: std::iter::once(services)
            .chain((0..nodes).map(pods))
            .collect(),
        load_balancers: Vec::new(),
        left: Vec::new(),
        minikube_tunnels: Vec::new(),
    }
}

fn connected(now: Timestamp) -> TunnelState {
    TunnelState::Connected {
        since: Timestamp(now.0 - UP),
    }
}

fn held() -> GroupState {
    GroupState::Held {
        conflicts: Vec::new(),
    }
}

/// A VPN's route inside the services' range.
fn vpn(ours: Route) -> Conflict {
    Conflict {
        kind: ConflictKind::Covers,
        ours,
        other: entry("10.120.0.0/16", None, "tun0", Origin::Foreign(3)),
        owner: "OpenVPN (tun0)".into(),
        profile: None,
        effect: format!(
            "the narrower route 10.120.0.0/16 of OpenVPN (tun0) lies inside {ours}: those addresses would not lead to the cluster"
        ),
        ways_out: vec![
            WayOut::command(
                "Make the cluster anew with a range that is free (an existing cluster can't change its own)",
                "minikube delete -p payments && minikube start -p payments --service-cluster-ip-range=10.144.0.0/12",
            ),
            WayOut::advice("Have the VPN's server not push 10.120.0.0/16, or disconnect tun0"),
        ],
    }
}

/// A docker network where the pods are.
fn bridge(ours: Route) -> Conflict {
    Conflict {
        kind: ConflictKind::LocalNetwork,
        ours,
        other: entry("10.244.1.0/24", None, "br-5f2c", Origin::Kernel),
        owner: "Docker (br-5f2c)".into(),
        profile: None,
        effect: format!(
            "10.244.1.0/24 of Docker (br-5f2c) lies inside {ours}: this machine and the cluster would share those addresses"
        ),
        ways_out: vec![WayOut::advice(
            "Give the Docker network with 10.244.1.0/24 another range (`docker network ls`)",
        )],
    }
}

/// What happened on that day, the oldest first.
fn day(shop: &ProfileStatus, payments: &ProfileStatus, now: Timestamp) -> Vec<Arc<Activity>> {
    let tunnel = |of: &ProfileStatus, tunnel: TunnelState| Change::Tunnel {
        profile: of.profile.name.clone(),
        tunnel,
    };
    let mut changes = vec![
        tunnel(payments, payments.tunnel.clone()),
        tunnel(shop, TunnelState::Connecting),
    ];
    for group in &shop.groups[..2] {
        changes.push(Change::RoutesHeld {
            profile: shop.profile.name.clone(),
            group: group.kind.clone(),
            routes: group.routes.clone(),
        });
    }
    changes.push(tunnel(shop, shop.tunnel.clone()));
    for service in &shop.load_balancers {
        if service.owner == Owner::Us {
            changes.push(Change::Assigned {
                profile: shop.profile.name.clone(),
                service: service.clone(),
            });
        }
    }
    let begun = now.0 - UP;
    let timed = (0..).zip(changes);
    timed
        .map(|(at, change)| {
            Arc::new(Activity {
                at: Timestamp(begun + at * 400),
                change,
            })
        })
        .collect()
}

fn assigned(
    namespace: &str,
    name: &str,
    address: &str,
    ports: &[u16],
    milliseconds: u64,
) -> Arc<LoadBalancer> {
    Arc::new(LoadBalancer {
        key: key(namespace, name),
        ports: ports.iter().map(|port| tcp(*port)).collect(),
        cluster_ips: vec![ip(address)],
        ingress: vec![address.into()],
        owner: Owner::Us,
        pending: None,
        assigned_in: Some(Duration::from_millis(milliseconds)),
    })
}

fn pending(namespace: &str, name: &str, port: u16, why: Pending) -> Arc<LoadBalancer> {
    Arc::new(LoadBalancer {
        key: key(namespace, name),
        ports: vec![tcp(port)],
        cluster_ips: Vec::new(),
        ingress: Vec::new(),
        owner: Owner::Nobody,
        pending: Some(why),
        assigned_in: None,
    })
}

/// One of many services, each seventh in a state of its own.
fn service(number: u16) -> Arc<LoadBalancer> {
    let (high, low) = (number / 250, number % 250 + 1);
    let address = format!("10.100.{high}.{low}");
    let mut service = LoadBalancer {
        key: key(
            &format!("team-{:02}", number % 30),
            &format!("service-{number:03}"),
        ),
        ports: vec![tcp(8000 + number)],
        cluster_ips: vec![ip(&address)],
        ingress: vec![address, format!("fd00:96::{number:x}")],
        owner: Owner::Us,
        pending: None,
        assigned_in: Some(Duration::from_millis(u64::from(number % 19))),
    };
    let message =
        "Service \"web\" is invalid: status.loadBalancer.ingress[0].ipMode: may not be set";
    let why = match number % 49 {
        7 => Pending::Refused {
            message: message.into(),
        },
        14 => Pending::Unanswered {
            message: "the API server has too much to do".into(),
        },
        21 => Pending::NoClusterIp,
        28 => Pending::Assigning,
        35 => {
            service.key.name = format!(
                "{}-with-a-name-of-sixty-three-characters-as-dns-has",
                service.key.name
            );
            return Arc::new(service);
        }
        42 => {
            service.owner = Owner::Other("metallb-controller".into());
            service.assigned_in = None;
            service.pending = Some(Pending::SomeoneElses {
                manager: "metallb-controller".into(),
            });
            return Arc::new(service);
        }
        _ => return Arc::new(service),
    };
    service.owner = Owner::Nobody;
    service.ingress.clear();
    service.assigned_in = None;
    service.pending = Some(why);
    Arc::new(service)
}

fn tcp(port: u16) -> ServicePort {
    ServicePort {
        port,
        protocol: "TCP".into(),
    }
}

fn key(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn entry(to: &str, gateway: Option<&str>, device: &str, origin: Origin) -> TableEntry {
    TableEntry {
        destination: net(to),
        gateway: gateway.map(ip),
        device: Some(device.into()),
        metric: 0,
        table: 254,
        origin,
    }
}

fn route(to: &str, gateway: &str) -> Route {
    Route {
        destination: net(to),
        gateway: ip(gateway),
    }
}

#[expect(clippy::expect_used, reason = "literals of this file")]
fn net(text: &str) -> ipnet::IpNet {
    text.parse().expect("a network")
}

#[expect(clippy::expect_used, reason = "literals of this file")]
fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[expect(clippy::expect_used, reason = "literals of this file")]
fn name(text: &str) -> ProfileName {
    text.parse().expect("a profile's name")
}
