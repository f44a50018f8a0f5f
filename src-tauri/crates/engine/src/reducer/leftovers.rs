//! What `minikube tunnel`s left that died: shown, explained, and removed where the user chose so from a preview.
//!
//! It is not ours. Each thing is looked at again before it is removed, and is removed under minikube's own tunnel lock: no
//! `minikube tunnel` can start, and take it for its own, while the user is asked for consent.

use minitunnel_model::{
    CleanupItem, Conflict, MinikubeTunnel, Origin, ProfileName, Reach, Route, TableEntry, WayOut,
};
use minitunnel_routing::{Entry, Kind, MAIN_TABLE, Table};

use super::{
    Effect, State,
    tunnel::{Health, Lock, Tunnel},
};
use crate::cluster::Service;

/// `RTPROT_BOOT`: what a route has that somebody made with `ip route add`, as minikube does.
const BOOT: u8 = 3;

/// Something that the user chose, and what became of it.
#[derive(Debug)]
pub(super) struct Chosen {
    item: CleanupItem,
    stage: Stage,
    /// How many wait for what becomes of it.
    askers: usize,
}

#[derive(Debug)]
enum Stage {
    /// For the lock, or for the API server.
    Waiting,
    /// It is being removed.
    Asked,
    /// Its removal is being called off.
    Leaving,
    /// It is gone, or stays for this reason.
    Over(Result<(), String>),
}

/// All that was left, the routes first.
pub(super) fn all(state: &State) -> Vec<CleanupItem> {
    let table = state.table.as_deref();
    let mut all: Vec<CleanupItem> = table.map_or(Vec::new(), |table| routes(state, table));
    for (name, tunnel) in &state.tunnels {
        let left = tunnel.services.values();
        let left = left.filter(|tracked| tracked.is_minikubes);
        if !tunnel.gone && !is_minikubes(tunnel) {
            all.extend(left.map(|tracked| address(name, &tracked.service)));
        }
    }
    all
}

fn routes(state: &State, table: &Table) -> Vec<CleanupItem> {
    let records = Records::of(state);
    let mut routes = Vec::new();
    for entry in &table.entries {
        let record = route(entry).and_then(|route| records.of_route(&route));
        let Some((profile, record)) = record.filter(|(_, record)| !record.running) else {
            continue;
        };
        // One that has begun has not told of its route yet.
        let tunnel = state.tunnels.get(profile);
        if !tunnel.is_some_and(is_minikubes) {
            routes.push(CleanupItem::MinikubeRoute {
                profile: profile.clone(),
                pid: record.pid,
                entry: table.describe(entry),
            });
        }
    }
    routes
}

/// Whether a `minikube tunnel` runs for the profile.
fn is_minikubes(tunnel: &Tunnel) -> bool {
    let mut records = tunnel.files.minikube_tunnels.iter();
    matches!(tunnel.lock, Lock::Busy(_)) || records.any(|record| record.running)
}

/// The route, if it is of the form in which minikube makes it.
fn route(entry: &Entry) -> Option<Route> {
    // `ip route add` names no metric: the kernel takes 0, and 1024 for IPv6.
    let metric = if entry.destination.addr().is_ipv4() {
        0
    } else {
        1024
    };
    let made = entry.table == MAIN_TABLE
        && entry.kind == Kind::Unicast
        && entry.hop == 0
        && entry.metric == metric
        && !entry.special
        && entry.protocol == BOOT;
    let gateway = entry.gateway.filter(|_| made)?;
    Some(Route {
        destination: entry.destination,
        gateway,
    })
}

fn address(profile: &ProfileName, service: &Service) -> CleanupItem {
    let addresses = service.ingress.iter().filter_map(|text| text.parse().ok());
    CleanupItem::MinikubeAddress {
        profile: profile.clone(),
        service: service.key.clone(),
        uid: service.uid.clone(),
        addresses: addresses.collect(),
    }
}

/// What `tunnels.json` says, of profiles that are there and that are not.
pub(super) struct Records(Vec<(ProfileName, MinikubeTunnel)>);

impl Records {
    pub(super) fn of(state: &State) -> Self {
        let here = state.tunnels.iter().filter(|(_, tunnel)| !tunnel.gone);
        let here = here.map(|(name, tunnel)| (name, &tunnel.files.minikube_tunnels));
        let all = here.chain(&state.minikube_tunnels);
        let all = all.flat_map(|(name, records)| {
            records
                .iter()
                .map(move |record| (name.clone(), record.clone()))
        });
        Self(all.collect())
    }

    /// The record of a route; one of a process that lives before one of a dead one.
    fn of_route(&self, route: &Route) -> Option<(&ProfileName, &MinikubeTunnel)> {
        let of_it = self.0.iter().filter(|(_, record)| record.route == *route);
        of_it
            .max_by_key(|(_, record)| record.running)
            .map(|(profile, record)| (profile, record))
    }

    /// Says of a conflict that a `minikube tunnel` made the other route, if one did.
    pub(super) fn explain(&self, conflict: &mut Conflict) {
        let Some((profile, record)) =
            made_by_hand(&conflict.other).and_then(|route| self.of_route(&route))
        else {
            return;
        };
        let pid = record.pid;
        let (owner, way_out) = if record.running {
            (
                format!("the `minikube tunnel` of {profile} (process {pid})"),
                WayOut::advice("End it with Ctrl-C in its terminal"),
            )
        } else {
            (
                format!("the `minikube tunnel` of {profile} that died (process {pid})"),
                WayOut::command("Remove what it left", "minitunnel cleanup"),
            )
        };
        conflict.effect = conflict.effect.replace(&conflict.owner, &owner);
        conflict.owner = owner;
        // The last is that of the owner who was guessed by the route's looks.
        conflict.ways_out.pop();
        conflict.ways_out.insert(0, way_out);
    }
}

fn made_by_hand(entry: &TableEntry) -> Option<Route> {
    let made = entry.table == MAIN_TABLE && entry.origin == Origin::Foreign(BOOT);
    let gateway = entry.gateway.filter(|_| made)?;
    Some(Route {
        destination: entry.destination,
        gateway,
    })
}

/// Whether all that is in the way of a tunnel is the `minikube tunnel` of its own profile, for whose end it waits.
pub(super) fn is_all_in_the_way(tunnel: &Tunnel) -> bool {
    let mut groups = tunnel.groups.iter();
    let conflicts = groups.find_map(|group| match group.conflicts() {
        [] => None,
        conflicts => Some(conflicts),
    });
    let running = |conflict: &Conflict| {
        let route = made_by_hand(&conflict.other);
        let mut records = tunnel.files.minikube_tunnels.iter();
        records.any(|record| record.running && Some(record.route) == route)
    };
    tunnel.profile.reach == Reach::Routed
        && conflicts.is_some_and(|conflicts| conflicts.iter().all(running))
}

/// Takes on what the user chose.
pub(super) fn choose(state: &mut State, items: &[CleanupItem]) {
    for item in items {
        let mut chosen = state.chosen.iter_mut();
        match chosen.find(|chosen| chosen.item == *item) {
            Some(chosen) => chosen.askers += 1,
            None => state.chosen.push(Chosen {
                item: item.clone(),
                stage: Stage::Waiting,
                askers: 1,
            }),
        }
    }
}

/// Who chose these waits no more: what is not being removed for anybody else stays.
pub(super) fn abandon(state: &mut State, items: &[CleanupItem]) {
    for chosen in &mut state.chosen {
        if items.contains(&chosen.item) {
            chosen.askers = chosen.askers.saturating_sub(1);
        }
    }
    forget(state);
}

/// Forgets what nobody waits for, but for what is being removed.
fn forget(state: &mut State) {
    let on_its_way = |chosen: &Chosen| matches!(chosen.stage, Stage::Asked | Stage::Leaving);
    let chosen = &mut state.chosen;
    chosen.retain(|chosen| chosen.askers > 0 || on_its_way(chosen));
}

/// Whether a profile's lock is needed for what was chosen.
pub(super) fn need_lock(state: &State, name: &ProfileName) -> bool {
    let waits = |chosen: &Chosen| {
        chosen.item.profile() == Some(name) && !matches!(chosen.stage, Stage::Over(_))
    };
    state.chosen.iter().any(waits)
}

/// Removes what was chosen and can be removed now.
pub(super) fn reconcile(state: &mut State, effects: &mut Vec<Effect>) {
    if state.chosen.is_empty() {
        return;
    }
    let all = all(state);
    for chosen in &mut state.chosen {
        match chosen.stage {
            Stage::Waiting => {}
            // The dialog is open for nobody, or for what is a living tunnel's by now.
            Stage::Asked
                if chosen.askers == 0
                    || is_there(state.table.as_deref(), &chosen.item)
                        && !all.contains(&chosen.item) =>
            {
                chosen.stage = Stage::Leaving;
                effects.push(Effect::Leave(chosen.item.clone()));
                continue;
            }
            _ => continue,
        }
        let profile = chosen.item.profile();
        let tunnel = profile.and_then(|name| state.tunnels.get(name));
        let busy = tunnel.is_some_and(is_minikubes);
        let refused = if busy {
            Some("`minikube tunnel` is running for the profile: end it and try again")
        } else if !all.contains(&chosen.item) || !state.scope.acts {
            Some(
                "it is not what was shown any more: look again with `minitunnel cleanup --dry-run`",
            )
        } else {
            None
        };
        if let Some(why) = refused {
            chosen.stage = Stage::Over(Err(why.into()));
            continue;
        }
        // A profile that is not there any more has no lock, and no `minikube tunnel`.
        let ready = tunnel.is_none_or(|tunnel| {
            let address = matches!(chosen.item, CleanupItem::MinikubeAddress { .. });
            tunnel.lock == Lock::Held && (!address || tunnel.health == Health::Up)
        });
        if ready {
            chosen.stage = Stage::Asked;
            effects.push(Effect::Remove(chosen.item.clone()));
        }
    }
}

/// Whether a route that was chosen is in the table still.
fn is_there(table: Option<&Table>, item: &CleanupItem) -> bool {
    let CleanupItem::MinikubeRoute { entry, .. } = item else {
        return false;
    };
    table.is_some_and(|table| {
        let mut entries = table.entries.iter();
        entries.any(|other| table.describe(other) == *entry)
    })
}

/// What came of a removal.
pub(super) fn removed(state: &mut State, item: &CleanupItem, result: Result<(), String>) {
    let mut chosen = state.chosen.iter_mut();
    if let Some(chosen) = chosen.find(|chosen| chosen.item == *item) {
        chosen.stage = Stage::Over(result);
    }
    forget(state);
}

/// Whether something of these is on its way; a caller who is `patient` waits for locks and API servers, too.
pub(super) fn are_on_their_way(state: &State, items: &[CleanupItem], patient: bool) -> bool {
    let mut chosen = state.chosen.iter();
    chosen.any(|chosen| {
        items.contains(&chosen.item)
            && match chosen.stage {
                Stage::Waiting => patient,
                // Whoever is asked for consent may take minutes; all else has a deadline.
                Stage::Asked | Stage::Leaving => true,
                Stage::Over(_) => false,
            }
    })
}

/// What became of these, which are forgotten as soon as all who chose them have been told.
pub(super) fn settle(
    state: &mut State,
    items: &[CleanupItem],
) -> Vec<(CleanupItem, Result<(), String>)> {
    let mut told = Vec::new();
    for chosen in &mut state.chosen {
        if !items.contains(&chosen.item) {
            continue;
        }
        chosen.askers = chosen.askers.saturating_sub(1);
        let result = match &chosen.stage {
            Stage::Over(result) => result.clone(),
            Stage::Waiting | Stage::Asked | Stage::Leaving => {
                Err("the profile's `.tunnel_lock` and API server were not to be had in time".into())
            }
        };
        told.push((chosen.item.clone(), result));
    }
    forget(state);
    told
}
