//! Which of the routes that a profile wants it can have.

mod wanted;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use minitunnel_model::{
    Conflict, GroupKind, GroupState, Origin, ProfileName, Reach, Route, RouteGroup,
};
use minitunnel_routing::{Entry, Held, Holder, Kind, Table, Wanted, conflicts};

pub(super) use wanted::are_all_out_of_bounds;

use super::{
    State, leftovers,
    tunnel::{Lock, Tunnel},
};

/// Works out every profile's groups anew: after a change of the table, or of what anyone holds.
pub(super) fn plan_all(state: &mut State) {
    let names: Vec<ProfileName> = state.tunnels.keys().cloned().collect();
    for name in &names {
        plan(state, name);
    }
}

/// Works out one profile's groups anew.
pub(super) fn plan(state: &mut State, name: &ProfileName) {
    // Before the first dump nothing is known to be free.
    let Some(table) = state.table.clone() else {
        return;
    };
    let held = held(state, name);
    let minikubes = leftovers::Records::of(state);
    let acts = state.scope.acts;
    let Some(tunnel) = state.tunnels.get_mut(name) else {
        return;
    };
    let mut groups = wanted::groups(tunnel, &table);
    for group in &mut groups {
        if !matches!(group.state, GroupState::LeftOut { .. }) {
            let wanted = Wanted {
                profile: name,
                group: Some(&group.kind),
                routes: &group.routes,
            };
            let mut found = conflicts(&table, wanted, &held);
            found.retain(|found| !is_the_helpers_to_say(found, acts));
            // What we see ourselves goes when we see it go, and is told once.
            tunnel
                .refused
                .retain(|refused| !found.iter().any(|found| is_same(found, refused)));
            let of_group = |found: &&Conflict| group.routes.contains(&found.ours);
            let refused: Vec<_> = tunnel.refused.iter().filter(of_group).cloned().collect();
            // What the helper has refused it does not hold, whatever we thought.
            let held =
                refused.is_empty() && group.routes.iter().all(|route| tunnel.held.contains(route));
            found.extend(refused);
            found.iter_mut().for_each(|found| minikubes.explain(found));
            group.state = if held {
                GroupState::Held { conflicts: found }
            } else if found.is_empty() {
                GroupState::Free
            } else {
                GroupState::Conflicting { conflicts: found }
            };
        }
    }
    tunnel.groups = groups;
}

/// Whether two conflicts are of the same two routes, by whoever found them.
fn is_same(one: &Conflict, another: &Conflict) -> bool {
    let routes = |of: &Conflict| (of.ours, of.other.destination, of.other.gateway);
    routes(one) == routes(another)
}

/// What all profiles hold, as it looks to one of them.
fn held(state: &State, name: &ProfileName) -> Vec<Held> {
    let of = |(holder, tunnel): (&ProfileName, &Tunnel)| {
        let holder = if holder == name {
            Holder::Asking
        } else {
            Holder::Profile(holder.clone())
        };
        let held = |route: &Route| Held {
            route: *route,
            holder: holder.clone(),
        };
        tunnel.held.iter().map(held).collect::<Vec<_>>()
    };
    state.tunnels.iter().flat_map(of).collect()
}

/// Whether a conflict is with a route of minitunnel's that is none of our tunnels': our own of this moment, another user's,
/// or one that a dead tunnel left. The helper, which we call if we act, removes the last and explains the second.
fn is_the_helpers_to_say(found: &Conflict, acts: bool) -> bool {
    let other = &found.other;
    let own =
        other.destination == found.ours.destination && other.gateway == Some(found.ours.gateway);
    other.origin == Origin::Ours && found.profile.is_none() && (own || acts)
}

/// Whether a dump says the same as the one before, apart from the routes that our own tunnels have made. One that they want
/// and another session has is not theirs: it is news when that one gives it back.
pub(super) fn is_same_beside(state: &State, table: &Table, ours: &BTreeSet<Route>) -> bool {
    let foreign = |entry: &&Entry| entry.our_route().is_none_or(|route| !ours.contains(&route));
    state.table.as_ref().is_some_and(|old| {
        old.rules == table.rules
            && old.addresses == table.addresses
            && old.links == table.links
            && old
                .entries
                .iter()
                .filter(foreign)
                .eq(table.entries.iter().filter(foreign))
    })
}

/// Whether an address is on one of this machine's links.
pub(super) fn is_on_link(table: &Table, ip: IpAddr) -> bool {
    on_link(table).any(|network| network.contains(&ip))
}

/// The networks of this machine's links.
fn on_link(table: &Table) -> impl Iterator<Item = IpNet> {
    let on_link = |entry: &&Entry| entry.gateway.is_none() && entry.kind == Kind::Unicast;
    let entries = table.entries.iter().filter(on_link);
    entries.map(|entry| entry.destination)
}

/// The routes to ask for.
pub(super) fn desired(tunnel: &Tunnel) -> Vec<Route> {
    if tunnel.profile.reach != Reach::Routed || !tunnel.is_wanted() || tunnel.lock != Lock::Held {
        return Vec::new();
    }
    usable(tunnel)
}

/// The routes of all groups that are free, provided that the services' is.
pub(super) fn usable(tunnel: &Tunnel) -> Vec<Route> {
    let usable =
        |group: &RouteGroup| matches!(group.state, GroupState::Free | GroupState::Held { .. });
    if !services(tunnel).is_some_and(usable) {
        return Vec::new();
    }
    let groups = tunnel.groups.iter().filter(|group| usable(group));
    let mut routes: Vec<Route> = groups
        .flat_map(|group| group.routes.iter().copied())
        .collect();
    routes.sort_unstable();
    routes.dedup();
    routes
}

/// The group of the services' routes.
pub(super) fn services(tunnel: &Tunnel) -> Option<&RouteGroup> {
    let mut groups = tunnel.groups.iter();
    groups.find(|group| group.kind == GroupKind::Services)
}

/// Whether the services' routes are not in the kernel, and can't be.
pub(super) fn are_blocked(tunnel: &Tunnel) -> bool {
    let blocked = |group: &RouteGroup| {
        matches!(
            group.state,
            GroupState::Conflicting { .. } | GroupState::LeftOut { .. }
        )
    };
    services(tunnel).is_some_and(blocked)
}

/// Whether the services' routes are in the kernel.
pub(super) fn services_held(tunnel: &Tunnel) -> bool {
    services(tunnel).is_some_and(|group| {
        let mut routes = group.routes.iter();
        !group.routes.is_empty() && routes.all(|route| tunnel.held.contains(route))
    })
}
