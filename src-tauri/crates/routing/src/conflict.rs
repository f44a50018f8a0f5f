//! What stands in the way of a route. Pure.

use std::collections::{BTreeMap, BTreeSet};

use minitunnel_kernel::{Entry, Kind, LOCAL_TABLE, MAIN_TABLE, stands_for_default};
use minitunnel_model::{Conflict, ConflictKind, GroupKind, Origin, ProfileName, Route, TableEntry};

use crate::{
    Table,
    explain::{self, Why},
    policy::{Policy, Reached},
    span::{Span, Spans, overlap},
    table::origin,
};

/// Routes that a profile asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Who asks.
    pub profile: &'a ProfileName,
    /// What the routes are for, where it is known: it decides the ways out.
    pub group: Option<&'a GroupKind>,
    /// The routes.
    pub routes: &'a [Route],
}

/// A route that somebody holds through minitunnel, whether or not it is in the kernel at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The route.
    pub route: Route,
    /// Who holds it.
    pub holder: Holder,
}

/// Who holds a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Who asks now: no conflict with oneself.
    Asking,
    /// Another profile of the same user.
    Profile(ProfileName),
    /// Another user, whose profile is nobody else's business.
    OtherUser,
}

/// How many conflicts of one wanted route are told. Nobody reads more, and a machine may have 100,000 routes.
const TOLD: usize = 100;

/// Finds every overlap of the wanted routes with the table and with what others hold, and explains it.
///
/// Sorted by wanted route; of each, others' holdings come first, then the table in its order; at most 100 of each wanted
/// route. Empty exactly if the routes take their traffic once they are there, and take none from anybody else. (Rules that
/// jump are not followed: a lookup after the add tells of them.)
///
/// - A default route is no conflict, nor what stands for one (IPv4 shorter than /8, IPv6 shorter than /7), unless its
///   table is asked before main.
/// - The routes of [`Holder::Asking`] are none. A route with our tag that nobody in `held` holds is one: of another user's tunnel, or of a dead one.
/// - Tables that no rule asks don't count. A rule for special packets (marked, bound to a device or another source) does
///   not take ordinary traffic from us, but what its table has overlaps all the same.
pub fn conflicts(table: &Table, wanted: Wanted<'_>, held: &[Held]) -> Vec<Conflict> {
    let ours: BTreeMap<Route, &Entry> = table
        .entries
        .iter()
        .filter_map(|entry| Some((entry.our_route()?, entry)))
        .collect();
    let mut found: Vec<Vec<Overlap<'_>>> = wanted
        .routes
        .iter()
        .map(|route| with_others(table, &ours, route, held))
        .collect();
    with_entries(table, wanted.routes, held, &mut found);
    wanted
        .routes
        .iter()
        .zip(found)
        .filter(|(_, overlaps)| !overlaps.is_empty())
        .flat_map(|(route, overlaps)| {
            // It looks at the whole table: once, and not for each overlap.
            let range = explain::other_range(table, wanted, route);
            overlaps
                .into_iter()
                .map(move |overlap| explain::conflict(table, *route, overlap, range.as_ref()))
        })
        .collect()
}

/// One thing in the way of one wanted route.
#[derive(Clone, Debug)]
pub(crate) struct Overlap<'a> {
    pub(crate) kind: ConflictKind,
    pub(crate) other: TableEntry,
    pub(crate) why: Why<'a>,
}

fn with_others<'a>(
    table: &Table,
    ours: &BTreeMap<Route, &Entry>,
    route: &Route,
    held: &'a [Held],
) -> Vec<Overlap<'a>> {
    held.iter()
        .filter(|held| held.holder != Holder::Asking)
        .filter(|held| overlap(&held.route.destination, &route.destination))
        .take(TOLD)
        .map(|held| Overlap {
            kind: ConflictKind::OtherProfile,
            other: match ours.get(&held.route) {
                Some(entry) => table.describe(entry),
                None => table.describe(&Entry::ours(&held.route)),
            },
            why: Why::Held(&held.holder),
        })
        .collect()
}

fn with_entries<'a>(
    table: &'a Table,
    routes: &[Route],
    held: &[Held],
    found: &mut [Vec<Overlap<'a>>],
) {
    let spans: Spans = routes
        .iter()
        .map(|route| Span::of(&route.destination))
        .collect();
    // Few entries come near; only for these it is worth to look closer.
    let near: Vec<&Entry> = table
        .entries
        .iter()
        .filter(|entry| entry.hop <= 1 && entry.kind != Kind::Group)
        .filter(|entry| spans.touch(&Span::of(&entry.destination)))
        .collect();
    let throws: Vec<&Entry> = near
        .iter()
        .copied()
        .filter(|entry| entry.kind == Kind::Throw && entry.table != MAIN_TABLE)
        .collect();
    let held: BTreeSet<Route> = held.iter().map(|held| held.route).collect();
    for (route, found) in routes.iter().zip(found) {
        let policy = Policy::of(table, route);
        if let Some(rule) = policy.dropped_by() {
            found.push(Overlap {
                kind: ConflictKind::Policy,
                other: explain::rule_entry(rule),
                why: Why::DroppingRule(rule),
            });
        }
        for entry in &near {
            if found.len() >= TOLD {
                break;
            }
            let known = entry.our_route().is_some_and(|ours| held.contains(&ours));
            let thrown = throws.iter().any(|throw| shields(throw, entry, route));
            if known || thrown || !overlap(&entry.destination, &route.destination) {
                continue;
            }
            let Some(reached) = policy.reaches(entry) else {
                continue;
            };
            let Some(kind) = classify(entry, route, reached) else {
                continue;
            };
            if kind == ConflictKind::LocalNetwork && part_of_told(entry, found) {
                continue;
            }
            found.push(Overlap {
                kind,
                other: table.describe(entry),
                why: Why::Entry(entry, reached),
            });
        }
    }
}

pub(crate) fn classify(entry: &Entry, route: &Route, reached: Reached<'_>) -> Option<ConflictKind> {
    let (theirs, ours) = (entry.destination, route.destination);
    if entry.kind == Kind::Throw && entry.table != MAIN_TABLE {
        // It sends the packet on to us.
        return None;
    }
    if stands_for_default(&theirs) {
        return reached.before_main.then_some(ConflictKind::Policy);
    }
    let own_network =
        entry.kind == Kind::Unicast && entry.gateway.is_none() && origin(entry) == Origin::Kernel;
    Some(
        if entry.kind == Kind::Local || entry.table == LOCAL_TABLE || own_network {
            ConflictKind::LocalNetwork
        } else if reached.before_main {
            ConflictKind::Policy
        } else if theirs == ours {
            ConflictKind::SameDestination
        } else if ours.contains(&theirs) {
            ConflictKind::Covers
        } else {
            ConflictKind::CoveredBy
        },
    )
}

/// Whether a `throw` in the entry's table keeps the wanted traffic from it.
fn shields(throw: &Entry, entry: &Entry, route: &Route) -> bool {
    throw.table == entry.table
        && throw.destination != entry.destination
        && entry.destination.contains(&throw.destination)
        && throw.destination.contains(&route.destination)
}

/// Whether this address of the machine belongs to a network of it that was told already.
fn part_of_told(entry: &Entry, told: &[Overlap<'_>]) -> bool {
    entry.kind == Kind::Local
        && told.iter().any(|told| {
            told.kind == ConflictKind::LocalNetwork
                && told.other.destination.contains(&entry.destination)
        })
}
