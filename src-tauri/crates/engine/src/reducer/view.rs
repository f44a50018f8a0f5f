//! What the views are shown: a pure function of the state.

use minitunnel_model::{
    CleanupItem, ClusterState, FailureCause, GroupState, Left, Profile, ProfileName, ProfileStatus,
    Reach, Snapshot, TargetState, TunnelState, WaitingFor,
};

use super::{
    State,
    apply::Consent,
    leftovers, routes,
    services::{self, Circumstances},
    tunnel::{Health, Lock, Tunnel},
};

/// What is. The services' views are kept in the state, so that snapshots share what did not change.
pub fn snapshot(state: &mut State) -> Snapshot {
    let consent = state.consent.clone();
    let leftovers = leftovers::all(state);
    let profiles = state
        .tunnels
        .iter_mut()
        .map(|(name, tunnel)| status(name, tunnel, &consent, &leftovers))
        .collect();
    Snapshot {
        home: state.home.clone(),
        complete: super::is_complete(state),
        helper: state.helper.clone(),
        profiles,
        awaited: awaited(state),
        broken: state.broken.clone(),
        leftovers,
        activity: Vec::new(),
        interrupted: state.interrupted.clone(),
        ending: state.quitting,
        ..Snapshot::default()
    }
}

/// The wanted profiles that are not there; all of them, before the files have been read.
fn awaited(state: &State) -> Vec<ProfileName> {
    let up = state
        .targets
        .iter()
        .filter(|(_, target)| **target == TargetState::Up);
    up.map(|(name, _)| name)
        .filter(|name| !state.tunnels.contains_key(*name))
        .cloned()
        .collect()
}

fn status(
    name: &ProfileName,
    tunnel: &mut Tunnel,
    consent: &Consent,
    leftovers: &[CleanupItem],
) -> ProfileStatus {
    let state = tunnel_state(name, tunnel, consent);
    let up = tunnel.is_connected();
    let metallb = tunnel.files.metallb;
    let cluster = cluster_state(tunnel);
    let shown = tunnel
        .services
        .values_mut()
        .filter(|tracked| tracked.service.is_load_balancer);
    let whose = tunnel.whose;
    let waits = matches!(
        state,
        TunnelState::Waiting {
            on: WaitingFor::Consent | WaitingFor::Dialog
        }
    );
    let now = Circumstances {
        up,
        waits,
        metallb,
        whose,
    };
    let shown = shown.map(|tracked| tracked.show(now));
    let left = tunnel.left.iter().map(|(service, addresses)| Left {
        service: service.clone(),
        addresses: addresses.clone(),
    });
    // Nobody writes minikube's file for it: what a dead one left may have been removed long ago.
    let is_left = leftovers.iter().any(|item| item.profile() == Some(name));
    let records = tunnel.files.minikube_tunnels.iter();
    let records = records.filter(|record| record.running || is_left);
    ProfileStatus {
        cluster,
        load_balancers: shown.collect(),
        left: left.collect(),
        minikube_tunnels: records.cloned().collect(),
        profile: Profile {
            name: name.clone(),
            ..tunnel.profile.clone()
        },
        target: tunnel.target,
        tunnel: state,
        groups: tunnel.groups.clone(),
    }
}

fn tunnel_state(name: &ProfileName, tunnel: &Tunnel, consent: &Consent) -> TunnelState {
    let locking = matches!(tunnel.lock, Lock::Held | Lock::Asked);
    let withdrawing = locking && services::any_to_withdraw(tunnel);
    if tunnel.target == TargetState::Down || tunnel.gone {
        return if tunnel.is_at_rest() && !withdrawing {
            TunnelState::Disconnected
        } else {
            TunnelState::Disconnecting
        };
    }
    if let Some((cause, retry_at)) = &tunnel.failure {
        return TunnelState::Failed {
            cause: cause.clone(),
            retry_at: *retry_at,
        };
    }
    if let Reach::Forwarded { reason } | Reach::Unsupported { reason } = &tunnel.profile.reach {
        let cause = FailureCause::Reach {
            message: reason.clone(),
        };
        return TunnelState::Failed {
            cause,
            retry_at: None,
        };
    }
    if let Some(reason) = not_running(tunnel) {
        return if tunnel.held.is_empty() && tunnel.applying.is_none() {
            TunnelState::Waiting {
                on: WaitingFor::Cluster { reason },
            }
        } else {
            TunnelState::Disconnecting
        };
    }
    if let Lock::Busy(owner) = tunnel.lock {
        let mut records = tunnel.files.minikube_tunnels.iter();
        let record = records.find(|record| record.running);
        let pid = owner.or(record.map(|record| record.pid));
        return TunnelState::Waiting {
            on: WaitingFor::Lock { pid },
        };
    }
    if tunnel.is_connected() {
        return TunnelState::Connected {
            since: tunnel.since.unwrap_or_default(),
        };
    }
    // Whether the `minikube tunnel` in the way is waited for, its lock tells in a moment.
    if tunnel.lock == Lock::Asked && leftovers::is_all_in_the_way(tunnel) {
        return TunnelState::Connecting;
    }
    let group = routes::services(tunnel).filter(|_| tunnel.looking.is_none());
    if let Some(group) = group.filter(|group| !group.conflicts().is_empty()) {
        return TunnelState::Blocked {
            conflicts: group.conflicts().to_vec(),
        };
    }
    if let Some(GroupState::LeftOut { reason }) = routes::services(tunnel).map(|group| &group.state)
    {
        if routes::are_all_out_of_bounds(&tunnel.profile.service_cidrs) {
            let message = format!(
                "{reason}: make the cluster anew with a private range, such as `minikube start -p {name} --service-cluster-ip-range=10.96.0.0/12`"
            );
            return TunnelState::Failed {
                cause: FailureCause::Reach { message },
                retry_at: None,
            };
        }
        let reason = reason.clone();
        return TunnelState::Waiting {
            on: WaitingFor::Cluster { reason },
        };
    }
    match consent {
        Consent::Asking(of) if of == name || tunnel.asked => TunnelState::Waiting {
            on: WaitingFor::Dialog,
        },
        Consent::Needed if tunnel.applying.is_none() && !routes::desired(tunnel).is_empty() => {
            TunnelState::Waiting {
                on: WaitingFor::Consent,
            }
        }
        _ => TunnelState::Connecting,
    }
}

fn cluster_state(tunnel: &Tunnel) -> ClusterState {
    match (not_running(tunnel), &tunnel.health) {
        (None, _) => ClusterState::Running,
        (Some(_), Health::Unknown) if tunnel.watch.is_some() => ClusterState::Asking,
        (Some(reason), Health::Down(_)) => ClusterState::Stopped { reason },
        (Some(reason), _) if tunnel.files.credentials.is_none() => ClusterState::Stopped { reason },
        (Some(_), _) => ClusterState::Unasked,
    }
}

/// Why the cluster can't carry a tunnel now, in one sentence.
fn not_running(tunnel: &Tunnel) -> Option<String> {
    if !tunnel.files.kubernetes {
        return Some("the profile runs without Kubernetes".into());
    }
    if tunnel.files.credentials.is_none() {
        let problem = tunnel.files.problem.clone();
        return Some(
            problem.unwrap_or_else(|| "it has no certificates: run `minikube start`".into()),
        );
    }
    if tunnel.files.stopping_until.is_some() {
        return Some("minikube is stopping it".into());
    }
    match &tunnel.health {
        Health::Up => None,
        Health::Unknown => Some("its API server has not answered yet".into()),
        Health::Down(reason) => Some(reason.clone()),
    }
}
