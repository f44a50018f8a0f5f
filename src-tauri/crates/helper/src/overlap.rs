//! What stands in the way of wanted routes.

use std::collections::BTreeSet;

use ipnet::IpNet;
use minitunnel_base::Route;
use minitunnel_contract::{Obstacle, Overlap, Refusal};
use minitunnel_kernel::{Entry, Kind, MAIN_TABLE, Routes, stands_for_default};

use crate::{journal::Journal, transaction::Change};

/// So many overlaps are told. Nobody reads more, and a machine may have 100,000 routes.
const TOLD: usize = 100;

/// Refuses those `new` routes of a change that overlap a table that any rule asks, or what others hold.
///
/// What the caller holds already is not new: an overlap that came over it is no reason to refuse what else is wanted.
///
/// This is stricter than what the client finds, which looks at the packets that a rule is for. A default route is no
/// overlap; whether one of another table would win is seen by a lookup ([`refuse_detour`]), and where that is so for some
/// packets only, by the rule ([`detours`]).
pub(crate) fn refuse(
    table: &Routes,
    change: &Change,
    new: &BTreeSet<Route>,
    journal: &Journal,
) -> Result<(), Refusal> {
    // They are disjoint, and so their last addresses are in order, too.
    let wanted: Vec<Route> = new.iter().copied().collect();
    let in_the_way = |theirs: IpNet| {
        let first = wanted.partition_point(|ours| ours.destination.broadcast() < theirs.network());
        let behind = move |ours: &&Route| ours.destination.network() <= theirs.broadcast();
        wanted[first..].iter().take_while(behind)
    };
    let others = journal
        .records
        .iter()
        .filter(|record| !record.is_of(&change.client.owner, &change.profile));
    let held = others.flat_map(|record| {
        let obstacle = match record.client.uid == change.client.uid {
            true => Obstacle::Profile(record.profile.clone()),
            false => Obstacle::OtherUser,
        };
        let routes = record.routes.iter();
        routes.map(move |route| (Entry::ours(route), obstacle.clone()))
    });
    let known = journal.possible(|_| true);
    let entries = table.entries.iter().filter(|entry| {
        entry.hop <= 1
            && entry.kind != Kind::Group
            // In another table it sends the packet on to us.
            && (entry.kind != Kind::Throw || entry.table == MAIN_TABLE)
            && table.asks(entry)
            && !stands_for_default(&entry.destination)
            && !entry.our_route().is_some_and(|ours| known.contains(&ours))
    });
    let overlaps = held
        .chain(entries.map(|entry| (*entry, Obstacle::Entry)))
        .chain(detours(table).map(|entry| (entry, Obstacle::Detour)))
        .flat_map(|(entry, obstacle)| {
            in_the_way(entry.destination).map(move |ours| Overlap {
                ours: *ours,
                other: entry,
                obstacle: obstacle.clone(),
            })
        });
    conflict(&overlaps.take(TOLD).collect::<Vec<_>>())
}

/// Where rules send some of the packets to a destination before table main is asked: to another default route, or nowhere.
fn detours(table: &Routes) -> impl Iterator<Item = Entry> {
    let before = [false, true].into_iter().flat_map(|ipv6| {
        let rules = table.rules.iter().filter(move |rule| rule.ipv6 == ipv6);
        rules.take_while(|rule| !rule.whole || rule.table != Some(MAIN_TABLE))
    });
    before.filter_map(|rule| {
        let destination = rule.part?;
        let Some(asked) = rule.table else {
            return Some(Entry {
                destination,
                kind: Kind::Dropped,
                ..Entry::default()
            });
        };
        let default = table.entries.iter().find(|entry| {
            entry.table == asked
                && asked != MAIN_TABLE
                && entry.kind != Kind::Throw
                && entry.destination.addr().is_ipv4() == destination.addr().is_ipv4()
                && stands_for_default(&entry.destination)
        })?;
        Some(Entry {
            destination,
            ..*default
        })
    })
}

/// Refuses the way of a packet that should take the route.
pub(crate) fn refuse_detour(ours: &Route, way: &Entry) -> Result<(), Refusal> {
    conflict(&[Overlap {
        ours: *ours,
        // It does not tell who made the route: 0 is RTPROT_UNSPEC.
        other: Entry {
            protocol: 0,
            ..*way
        },
        obstacle: Obstacle::Detour,
    }])
}

/// The answer that carries every overlap, for the client to explain.
fn conflict(overlaps: &[Overlap]) -> Result<(), Refusal> {
    let Some(Overlap { ours, other, .. }) = overlaps.first() else {
        return Ok(());
    };
    let message = format!(
        "{ours} overlaps {} of table {}: remove that one, or choose another range",
        other.destination, other.table
    );
    let json = serde_json::to_string(overlaps).unwrap_or_else(|_| "[]".to_owned());
    Err(Refusal::Conflict(message, json))
}
