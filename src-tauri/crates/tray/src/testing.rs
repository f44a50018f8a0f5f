//! Snapshots for the tests of this crate.

use std::sync::Arc;

use minitunnel_model::{
    ClusterState, Conflict, ConflictKind, GroupKind, GroupState, LoadBalancer, Node, Origin, Owner,
    Pending, Profile, ProfileName, ProfileStatus, Reach, Route, RouteGroup, ServiceKey,
    ServicePort, Snapshot, TableEntry, TargetState, TunnelState,
};

pub(crate) fn name(name: &str) -> ProfileName {
    name.parse().unwrap()
}

pub(crate) fn status(of: &str, target: TargetState) -> ProfileStatus {
    ProfileStatus {
        profile: Profile {
            name: name(of),
            driver: "docker".into(),
            nodes: vec![Node {
                name: of.into(),
                ips: vec!["192.168.49.2".parse().unwrap()],
                control_plane: true,
                ready: None,
                pod_cidrs: Vec::new(),
            }],
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            dns_domain: "cluster.local".into(),
            endpoint: Some("https://192.168.49.2:8443".into()),
            reach: Reach::Routed,
        },
        target,
        tunnel: TunnelState::Disconnected,
        cluster: ClusterState::Unasked,
        groups: Vec::new(),
        load_balancers: Vec::new(),
        left: Vec::new(),
        minikube_tunnels: Vec::new(),
    }
}

/// One whose cluster runs, with that tunnel.
pub(crate) fn with(of: &str, target: TargetState, tunnel: TunnelState) -> ProfileStatus {
    ProfileStatus {
        tunnel,
        cluster: ClusterState::Running,
        ..status(of, target)
    }
}

pub(crate) fn connected(of: &str) -> ProfileStatus {
    let tunnel = TunnelState::Connected {
        since: Default::default(),
    };
    let mut status = with(of, TargetState::Up, tunnel);
    status.groups = vec![services(GroupState::Held {
        conflicts: Vec::new(),
    })];
    status
}

pub(crate) fn services(state: GroupState) -> RouteGroup {
    RouteGroup {
        kind: GroupKind::Services,
        routes: vec![route()],
        state,
    }
}

pub(crate) fn route() -> Route {
    Route {
        destination: "10.96.0.0/12".parse().unwrap(),
        gateway: "192.168.49.2".parse().unwrap(),
    }
}

pub(crate) fn conflict(device: &str) -> Conflict {
    Conflict {
        kind: ConflictKind::CoveredBy,
        ours: route(),
        other: TableEntry {
            destination: "10.0.0.0/8".parse().unwrap(),
            gateway: None,
            device: Some(device.into()),
            metric: 0,
            table: 254,
            origin: Origin::Foreign(3),
        },
        owner: format!("OpenVPN ({device})"),
        profile: None,
        effect: format!("10.96.0.0/12 would take traffic from 10.0.0.0/8 ({device})"),
        ways_out: Vec::new(),
    }
}

pub(crate) fn service(of: &str, ingress: &[&str], pending: Option<Pending>) -> Arc<LoadBalancer> {
    let port = |port, protocol: &str| ServicePort {
        port,
        protocol: protocol.into(),
    };
    Arc::new(LoadBalancer {
        key: ServiceKey {
            namespace: "default".into(),
            name: of.into(),
        },
        ports: vec![port(80, "TCP"), port(53, "UDP")],
        cluster_ips: Vec::new(),
        ingress: ingress.iter().map(ToString::to_string).collect(),
        owner: if ingress.is_empty() {
            Owner::Nobody
        } else {
            Owner::Us
        },
        pending,
        assigned_in: None,
    })
}

pub(crate) fn snapshot(profiles: &[ProfileStatus]) -> Snapshot {
    Snapshot {
        complete: true,
        profiles: profiles.to_vec(),
        ..Snapshot::default()
    }
}
