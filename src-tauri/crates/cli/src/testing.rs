//! What the unit tests are made of.

use std::sync::Arc;

use minitunnel_engine::engine::{Ask, Handle};
use minitunnel_model::{
    ClusterState, Command, Conflict, ConflictKind, LoadBalancer, Origin, Owner, Profile,
    ProfileName, ProfileStatus, Reach, Route, ServiceKey, Snapshot, TableEntry, TargetState,
    TunnelState, WayOut,
};
use tokio::sync::{mpsc, watch};

pub(crate) fn name(text: &str) -> ProfileName {
    text.parse().unwrap()
}

pub(crate) fn status(profile: &str, target: TargetState) -> ProfileStatus {
    ProfileStatus {
        profile: Profile {
            name: name(profile),
            driver: "docker".into(),
            nodes: Vec::new(),
            service_cidrs: Vec::new(),
            dns_domain: "cluster.local".into(),
            endpoint: None,
            reach: Reach::Routed,
        },
        target,
        tunnel: TunnelState::Disconnected,
        cluster: ClusterState::Running,
        groups: Vec::new(),
        load_balancers: Vec::new(),
        left: Vec::new(),
        minikube_tunnels: Vec::new(),
    }
}

pub(crate) fn service(name: &str, owner: Owner) -> Arc<LoadBalancer> {
    Arc::new(LoadBalancer {
        key: key(name),
        ports: Vec::new(),
        cluster_ips: Vec::new(),
        ingress: vec!["10.99.1.2".into()],
        owner,
        pending: None,
        assigned_in: None,
    })
}

pub(crate) fn key(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "default".into(),
        name: name.into(),
    }
}

/// A route of a VPN's that covers the services of a profile.
pub(crate) fn conflict() -> Conflict {
    Conflict {
        kind: ConflictKind::CoveredBy,
        ours: Route {
            destination: "10.112.0.0/12".parse().unwrap(),
            gateway: "192.168.58.2".parse().unwrap(),
        },
        other: TableEntry {
            destination: "10.0.0.0/8".parse().unwrap(),
            gateway: None,
            device: Some("tun0".into()),
            metric: 0,
            table: 254,
            origin: Origin::Foreign(3),
        },
        owner: "OpenVPN (tun0)".into(),
        profile: None,
        effect: "10.112.0.0/12 would take traffic from OpenVPN's 10.0.0.0/8 (tun0)".into(),
        ways_out: vec![WayOut::advice(
            "minikube start -p b --service-cluster-ip-range 172.20.0.0/16",
        )],
    }
}

pub(crate) fn snapshot(profiles: &[ProfileStatus]) -> Snapshot {
    Snapshot {
        profiles: profiles.to_vec(),
        ..Snapshot::default()
    }
}

/// A session whose engine is the test.
pub(crate) struct Session {
    pub(crate) handle: Handle,
    pub(crate) publish: watch::Sender<Arc<Snapshot>>,
    asked: mpsc::Receiver<Ask>,
}

impl Session {
    pub(crate) fn new(present: Snapshot) -> Self {
        let (asks, asked) = mpsc::channel(8);
        let (publish, snapshots) = watch::channel(Arc::new(present));
        Self {
            handle: Handle::new(asks, snapshots),
            publish,
            asked,
        }
    }

    pub(crate) fn show(&self, snapshot: Snapshot) {
        self.publish.send_replace(Arc::new(snapshot));
    }

    /// Takes the next command, and answers that the present snapshot has what came of it.
    pub(crate) async fn take(&mut self) -> Command {
        let Some(Ask::Command { command, taken }) = self.asked.recv().await else {
            panic!("no command")
        };
        taken.send(Ok(())).unwrap();
        command
    }
}
