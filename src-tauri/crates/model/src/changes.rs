use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Conflict, GroupKind, GroupState, LoadBalancer, Owner, Pending, ProfileName, ProfileStatus,
    Route, RouteGroup, ServiceKey, Snapshot, TunnelState,
};

/// Something that a view tells of, in the profile named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// The tunnel's state is another one.
    Tunnel {
        /// Whose tunnel.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// What it is now.
        tunnel: TunnelState,
    },
    /// The profile is not there any more.
    Gone {
        /// Its name.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
    },
    /// Routes came into the kernel.
    RoutesHeld {
        /// Whose.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// What they make reachable.
        group: GroupKind,
        /// They.
        #[cfg_attr(feature = "ts", ts(as = "Vec<crate::ts::Route>"))]
        routes: Vec<Route>,
    },
    /// Routes left the kernel.
    RoutesGone {
        /// Whose.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// What they made reachable.
        group: GroupKind,
        /// They.
        #[cfg_attr(feature = "ts", ts(as = "Vec<crate::ts::Route>"))]
        routes: Vec<Route>,
    },
    /// A group of routes goes without, beside a tunnel that is up.
    LeftOut {
        /// Whose.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// What is not reachable.
        group: GroupKind,
        /// Why, in one sentence.
        reason: String,
    },
    /// Something came to overlap routes that are held.
    Overlapped {
        /// Whose.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// What may not be reachable any more.
        group: GroupKind,
        /// The overlap.
        conflict: Conflict,
    },
    /// A service has an address from us.
    Assigned {
        /// Whose.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// The service as it is now.
        service: Arc<LoadBalancer>,
    },
    /// A service lost the address that it had from us.
    Withdrawn {
        /// Whose.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// The service.
        service: ServiceKey,
    },
    /// A service goes without an address beside a tunnel that is up.
    Pending {
        /// Whose.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// The service.
        service: ServiceKey,
        /// Why.
        reason: Pending,
    },
}

impl Change {
    /// Whose change it is.
    pub fn profile(&self) -> &ProfileName {
        match self {
            Self::Tunnel { profile, .. }
            | Self::Gone { profile }
            | Self::RoutesHeld { profile, .. }
            | Self::RoutesGone { profile, .. }
            | Self::LeftOut { profile, .. }
            | Self::Overlapped { profile, .. }
            | Self::Assigned { profile, .. }
            | Self::Withdrawn { profile, .. }
            | Self::Pending { profile, .. } => profile,
        }
    }
}

/// What came to pass between two snapshots, in the order of profiles, routes, services.
pub fn changes(old: &Snapshot, new: &Snapshot) -> Vec<Change> {
    let mut out = Vec::new();
    for now in &new.profiles {
        profile_changes(old.profile(&now.profile.name), now, &mut out);
    }
    let is_gone = |was: &&ProfileStatus| new.profile(&was.profile.name).is_none();
    for gone in old.profiles.iter().filter(is_gone) {
        routes_gone(gone, &[], &mut out);
        let profile = gone.profile.name.clone();
        out.push(Change::Gone { profile });
    }
    out
}

fn profile_changes(old: Option<&ProfileStatus>, new: &ProfileStatus, out: &mut Vec<Change>) {
    let profile = &new.profile.name;
    let old_groups = old.map(|old| old.groups.as_slice()).unwrap_or_default();
    if let Some(old) = old {
        routes_gone(old, &new.groups, out);
    }
    let connected = |status: &ProfileStatus| matches!(status.tunnel, TunnelState::Connected { .. });
    let comes_up = connected(new) && !old.is_some_and(connected);
    for after in &new.groups {
        let before = find(old_groups, &after.kind);
        // What goes without is told beside each tunnel that comes up, however long it has been so.
        if old_groups.contains(after) && (after.is_held() || !comes_up) {
            continue;
        }
        let held_before = before.filter(|before| before.is_held() && before.routes == after.routes);
        if after.is_held() {
            if held_before.is_none() {
                out.push(Change::RoutesHeld {
                    profile: profile.clone(),
                    group: after.kind.clone(),
                    routes: after.routes.clone(),
                });
            }
            let known = held_before.map(RouteGroup::conflicts).unwrap_or_default();
            let fresh = after
                .conflicts()
                .iter()
                .filter(|conflict| !known.contains(conflict));
            out.extend(fresh.map(|conflict| Change::Overlapped {
                profile: profile.clone(),
                group: after.kind.clone(),
                conflict: conflict.clone(),
            }));
        } else if let Some(reason) = left_out(after)
            && connected(new)
        {
            out.push(Change::LeftOut {
                profile: profile.clone(),
                group: after.kind.clone(),
                reason,
            });
        }
    }
    if old
        .map(|old| &old.tunnel)
        .unwrap_or(&TunnelState::Disconnected)
        != &new.tunnel
    {
        out.push(Change::Tunnel {
            profile: profile.clone(),
            tunnel: new.tunnel.clone(),
        });
    }
    service_changes(old, new, out);
}

fn routes_gone(old: &ProfileStatus, new_groups: &[RouteGroup], out: &mut Vec<Change>) {
    for before in old.groups.iter().filter(|group| group.is_held()) {
        let after = find(new_groups, &before.kind);
        if !after.is_some_and(|after| after.is_held() && after.routes == before.routes) {
            out.push(Change::RoutesGone {
                profile: old.profile.name.clone(),
                group: before.kind.clone(),
                routes: before.routes.clone(),
            });
        }
    }
}

fn find<'a>(groups: &'a [RouteGroup], kind: &GroupKind) -> Option<&'a RouteGroup> {
    groups.iter().find(|group| group.kind == *kind)
}

fn left_out(group: &RouteGroup) -> Option<String> {
    match &group.state {
        GroupState::LeftOut { reason } => Some(reason.clone()),
        GroupState::Conflicting { conflicts } => {
            conflicts.first().map(|conflict| conflict.effect.clone())
        }
        GroupState::Free | GroupState::Held { .. } => None,
    }
}

fn service_changes(old: Option<&ProfileStatus>, new: &ProfileStatus, out: &mut Vec<Change>) {
    let profile = &new.profile.name;
    let before = old.map(|old| old.load_balancers.as_slice());
    let mut before = before.unwrap_or_default().iter().peekable();
    let mut gone = Vec::new();
    for now in &new.load_balancers {
        // Both are in the order of their keys, and share what is as it was.
        let is_same = |was: &&Arc<LoadBalancer>| Arc::ptr_eq(was, now);
        if before.next_if(is_same).is_some() {
            continue;
        }
        while let Some(was) = before.next_if(|was| was.key < now.key) {
            gone.push(was);
        }
        let was = before.next_if(|was| was.key == now.key);
        if was == Some(now) {
            continue;
        }
        let ours_before = was.filter(|was| was.owner == Owner::Us);
        if now.owner == Owner::Us {
            if ours_before.is_none_or(|was| was.ingress != now.ingress) {
                out.push(Change::Assigned {
                    profile: profile.clone(),
                    service: now.clone(),
                });
            }
            continue;
        }
        if ours_before.is_some() {
            out.push(Change::Withdrawn {
                profile: profile.clone(),
                service: now.key.clone(),
            });
        }
        if let Some(reason) = &now.pending
            && !matches!(reason, Pending::Assigning | Pending::TunnelDown)
            && was.is_none_or(|was| was.pending.as_ref() != Some(reason))
        {
            out.push(Change::Pending {
                profile: profile.clone(),
                service: now.key.clone(),
                reason: reason.clone(),
            });
        }
    }
    // A cluster that can't be asked shows no service; that withdraws nothing.
    let gone = gone.into_iter().chain(before);
    let gone = gone.filter(|was| was.owner == Owner::Us);
    if !new.load_balancers.is_empty() || matches!(new.tunnel, TunnelState::Connected { .. }) {
        out.extend(gone.map(|was| Change::Withdrawn {
            profile: profile.clone(),
            service: was.key.clone(),
        }));
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tunnel { tunnel, .. } => write!(f, "{tunnel}"),
            Self::Gone { .. } => f.write_str("the profile is gone"),
            Self::RoutesHeld { group, routes, .. } => {
                write!(f, "route  {} ({group})", list(routes))
            }
            Self::RoutesGone { group, routes, .. } => {
                write!(f, "route  {} ({group}) removed", list(routes))
            }
            Self::LeftOut { group, reason, .. } => write!(f, "no route for {group}: {reason}"),
            Self::Overlapped {
                group, conflict, ..
            } => {
                write!(f, "conflict with the route for {group}: {conflict}")
            }
            Self::Assigned { service, .. } => {
                write!(
                    f,
                    "service {} → {}",
                    service.key,
                    service.ingress.join(", ")
                )?;
                if !service.ports.is_empty() {
                    write!(f, " port {}", list(&service.ports))?;
                }
                match service.took() {
                    Some(time) => write!(f, " ({time})"),
                    None => Ok(()),
                }
            }
            Self::Withdrawn { service, .. } => write!(f, "service {service}: address withdrawn"),
            Self::Pending {
                service, reason, ..
            } => write!(f, "service {service}: {reason}"),
        }
    }
}

impl fmt::Display for TunnelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("disconnected"),
            Self::Waiting { on } => write!(f, "{on}"),
            Self::Blocked { conflicts } => {
                f.write_str("blocked")?;
                conflicts
                    .iter()
                    .try_for_each(|conflict| write!(f, ": {conflict}"))
            }
            Self::Connecting => f.write_str("connecting"),
            Self::Connected { .. } => f.write_str("connected"),
            Self::Disconnecting => f.write_str("disconnecting"),
            Self::Failed { cause, .. } => write!(f, "failed: {}", cause.message()),
        }
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
