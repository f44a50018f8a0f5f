//! Conflicts in the words of a user.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use minitunnel_model::{Conflict, ConflictKind, GroupKind, Origin, Route, TableEntry, WayOut};

use crate::{
    Entry, Holder, Kind, LOCAL_TABLE, MAIN_TABLE, Rule, Selector, Table, Wanted,
    conflict::{Overlap, classify},
    free_cidr, owner,
    policy::{Policy, Reached},
};

/// What is behind an overlap.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Why<'a> {
    /// Somebody holds it through minitunnel.
    Held(&'a Holder),
    /// An entry of a table that a rule asks.
    Entry(&'a Entry, Reached<'a>),
    /// A rule without a table.
    DroppingRule(&'a Rule),
}

/// Puts an overlap into words; `range` is the [`other_range`] of that route.
pub(crate) fn conflict(
    table: &Table,
    ours: Route,
    overlap: Overlap<'_>,
    range: Option<&WayOut>,
) -> Conflict {
    let Overlap { kind, other, why } = overlap;
    let (owner, effect, way_out) = match why {
        Why::Held(holder) => held(&ours, &other, holder),
        Why::Entry(entry, reached) => {
            let owner = owner::of(table, entry);
            let effect = effect(&ours, &other, kind, entry, reached, &owner.name);
            (owner.name, effect, owner.way_out)
        }
        Why::DroppingRule(rule) => dropped(&ours, rule),
    };
    let profile = match why {
        Why::Held(Holder::Profile(profile)) => Some(profile.clone()),
        _ => None,
    };
    let ways_out = range.cloned().into_iter().chain([way_out]).collect();
    Conflict {
        kind,
        ours,
        other,
        owner,
        profile,
        effect,
        ways_out,
    }
}

/// The overlap with an entry that the helper found.
pub fn explain_entry(table: &Table, ours: Route, other: &Entry) -> Conflict {
    let entry = table.entries.iter().find(|entry| *entry == other);
    let policy = Policy::of(table, &ours);
    let reached = entry.and_then(|entry| policy.reaches(entry));
    if let (Some(entry), Some(reached)) = (entry, reached)
        && let Some(kind) = classify(entry, &ours, reached)
    {
        let overlap = Overlap {
            kind,
            other: table.describe(entry),
            why: Why::Entry(entry, reached),
        };
        return conflict(table, ours, overlap, None);
    }
    // It is gone by now, or its table is asked for packets to other places alone: the helper does not look at that.
    let told = table.describe(other);
    let theirs = describe(&told, other.kind);
    Conflict {
        kind: match ours.destination.contains(&other.destination) {
            true => ConflictKind::Covers,
            false => ConflictKind::CoveredBy,
        },
        ours,
        other: told,
        owner: "another program".to_owned(),
        profile: None,
        effect: format!("{theirs} of table {} overlaps {ours}", other.table),
        ways_out: vec![WayOut::command(
            "Look who set it, and remove it there",
            "ip route show table all",
        )],
    }
}

/// The overlap with a route that somebody holds through minitunnel, as the helper knows.
pub fn explain_held(table: &Table, ours: Route, other: &Entry, holder: &Holder) -> Conflict {
    let overlap = Overlap {
        kind: ConflictKind::OtherProfile,
        other: table.describe(other),
        why: Why::Held(holder),
    };
    conflict(table, ours, overlap, None)
}

/// The overlap that only a lookup of the helper's shows: the kernel sends the traffic of `ours` another way.
pub fn explain_detour(table: &Table, ours: Route, other: &Entry) -> Conflict {
    let via = match other.gateway {
        Some(gateway) => format!("via {gateway}"),
        None => "elsewhere".to_owned(),
    };
    let (to, number) = (other.destination.addr(), other.table);
    Conflict {
        kind: ConflictKind::Policy,
        ours,
        other: table.describe(other),
        owner: format!("routing table {number}"),
        profile: None,
        effect: format!(
            "{to} would go {via} by routing table {number} and not to {}",
            ours.gateway
        ),
        ways_out: vec![WayOut::advice(
            "look at `ip rule` and `ip route show table all`, and end the program that made the rule",
        )],
    }
}

/// A rule, where an entry is asked for.
pub(crate) fn rule_entry(rule: &Rule) -> TableEntry {
    let to = rule.selectors.iter().find_map(|selector| match selector {
        Selector::To(net) if !rule.inverted => Some(*net),
        _ => None,
    });
    let everything = if rule.ipv6 {
        IpNet::V6(Ipv6Net::default())
    } else {
        IpNet::V4(Ipv4Net::default())
    };
    TableEntry {
        destination: to.unwrap_or(everything),
        gateway: None,
        device: None,
        metric: 0,
        table: 0,
        origin: Origin::Foreign(rule.protocol),
    }
}

fn held(ours: &Route, other: &TableEntry, holder: &Holder) -> (String, String, WayOut) {
    let (owner, way_out) = match holder {
        Holder::Profile(profile) => (
            format!("profile {profile}"),
            WayOut::command(
                "Stop the other tunnel",
                format!("minitunnel down -p {profile}"),
            ),
        ),
        Holder::OtherUser | Holder::Asking => (
            "another user's minitunnel".to_owned(),
            WayOut::advice("Ask the other user of this machine to stop that tunnel"),
        ),
    };
    let effect = format!(
        "{owner} already has {}, which overlaps {ours}: an address can lead to one cluster only",
        describe(other, Kind::Unicast)
    );
    (owner, effect, way_out)
}

fn dropped(ours: &Route, rule: &Rule) -> (String, String, WayOut) {
    let family = if rule.ipv6 { " -6" } else { "" };
    (
        format!("policy rule {}", rule.priority),
        format!(
            "policy rule {} drops packets before table main is asked, so {ours} would get none of them",
            rule.priority
        ),
        WayOut::command(
            "Look at the rule, and at who set it",
            format!("ip{family} rule show priority {}", rule.priority),
        ),
    )
}

fn effect(
    ours: &Route,
    other: &TableEntry,
    kind: ConflictKind,
    entry: &Entry,
    reached: Reached<'_>,
    owner: &str,
) -> String {
    let place = place(other, reached);
    let theirs = format!("{} of {owner}{place}", describe(other, entry.kind));
    match kind {
        ConflictKind::SameDestination => format!(
            "{theirs} is there already: beside {ours}, only one of the two would get the traffic"
        ),
        ConflictKind::Covers => format!(
            "the narrower route {theirs} lies inside {ours}: those addresses would not lead to the cluster"
        ),
        ConflictKind::CoveredBy => {
            format!("{ours} would take traffic away from the broader route {theirs}")
        }
        ConflictKind::LocalNetwork if ours.destination.contains(&other.destination) => format!(
            "{theirs} lies inside {ours}: this machine and the cluster would share those addresses"
        ),
        ConflictKind::LocalNetwork => format!("{ours} would cut a part out of {theirs}"),
        ConflictKind::Policy => format!(
            "policy rule {} asks table {} before table main, where {theirs} wins over {ours}",
            reached.rule.priority, other.table
        ),
        ConflictKind::OtherProfile | ConflictKind::LiveTraffic => {
            format!("{theirs} overlaps {ours}")
        }
    }
}

/// Names the table, where it is not the one that everybody looks at.
fn place(other: &TableEntry, reached: Reached<'_>) -> String {
    match other.table {
        MAIN_TABLE | LOCAL_TABLE => String::new(),
        _ if reached.before_main => String::new(),
        table if reached.special => format!(
            " in table {table} (rule {} asks it for some packets)",
            reached.rule.priority
        ),
        table => format!(" in table {table}"),
    }
}

/// The entry in a sentence. Its device is in the owner's name.
fn describe(other: &TableEntry, kind: Kind) -> String {
    let net = other.destination;
    let text = match other.gateway {
        Some(gateway) => format!("{net} via {gateway}"),
        None => net.to_string(),
    };
    match kind {
        Kind::Dropped => format!("{text} (which drops packets)"),
        Kind::Throw => format!("{text} (which passes packets on)"),
        Kind::Unicast | Kind::Local | Kind::Group => text,
    }
}

/// Another range for the cluster, where that is possible: a service range is chosen when the cluster is made.
pub(crate) fn other_range(table: &Table, wanted: Wanted<'_>, ours: &Route) -> Option<WayOut> {
    let services = wanted.group == Some(&GroupKind::Services);
    // minikube takes one range, and of IPv4.
    if !services || !matches!(ours.destination, IpNet::V4(_)) {
        return None;
    }
    let name = wanted.profile;
    let free = free_cidr(table, ours.destination)?;
    Some(WayOut::command(
        "Make the cluster anew with a range that is free (an existing cluster can't change its own)",
        format!(
            "minikube delete -p {name} && minikube start -p {name} --service-cluster-ip-range={free}"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use minitunnel_model::ProfileName;

    use super::*;
    use crate::{Action, Link, conflicts};

    const ETH0: u32 = 2;

    fn entry(net: &str, gateway: Option<&str>, protocol: u8) -> Entry {
        Entry {
            destination: net.parse().unwrap(),
            table: MAIN_TABLE,
            metric: 0,
            hop: 0,
            special: false,
            kind: Kind::Unicast,
            protocol,
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            link: ETH0,
        }
    }

    /// The one conflict of minikube's default services with that entry on that device.
    fn told(entry: Entry, device: &str, kind: Option<&str>) -> Conflict {
        let rule = |priority, table| Rule {
            ipv6: false,
            priority,
            action: Action::Lookup(table),
            selectors: Vec::new(),
            inverted: false,
            suppress: None,
            protocol: 2,
        };
        let link = Link {
            name: device.to_owned(),
            kind: kind.map(str::to_owned),
            running: true,
        };
        let table = Table {
            entries: vec![entry],
            rules: vec![rule(5270, 52), rule(32766, MAIN_TABLE)],
            addresses: Vec::new(),
            links: BTreeMap::from([(ETH0, link)]),
        };
        let name: ProfileName = "mine".parse().unwrap();
        let wanted = Wanted {
            profile: &name,
            group: Some(&GroupKind::Services),
            routes: &[Route {
                destination: "10.96.0.0/12".parse().unwrap(),
                gateway: "192.168.49.2".parse().unwrap(),
            }],
        };
        let [conflict] = conflicts(&table, wanted, &[]).try_into().unwrap();
        conflict
    }

    #[test]
    fn each_kind_is_one_sentence_that_names_both_routes() {
        let dropping = Entry {
            kind: Kind::Dropped,
            link: 0,
            ..entry("10.100.0.0/16", None, 4)
        };
        let table52 = Entry {
            table: 52,
            ..entry("0.0.0.0/0", None, 3)
        };
        for (entry, device, effect) in [
            (
                entry("10.96.0.0/12", Some("192.168.49.2"), 3),
                "br-0123",
                "10.96.0.0/12 via 192.168.49.2 of Docker (br-0123) is there already: beside 10.96.0.0/12 via 192.168.49.2, only one of the two would get the traffic",
            ),
            (
                entry("10.100.0.0/16", Some("10.8.0.1"), 3),
                "tun0",
                "the narrower route 10.100.0.0/16 via 10.8.0.1 of OpenVPN or another VPN (tun0) lies inside 10.96.0.0/12 via 192.168.49.2: those addresses would not lead to the cluster",
            ),
            (
                entry("10.0.0.0/8", None, 3),
                "wg0",
                "10.96.0.0/12 via 192.168.49.2 would take traffic away from the broader route 10.0.0.0/8 of WireGuard (wg0)",
            ),
            (
                entry("10.100.0.0/24", None, 2),
                "virbr0",
                "10.100.0.0/24 of libvirt (virbr0) lies inside 10.96.0.0/12 via 192.168.49.2: this machine and the cluster would share those addresses",
            ),
            (
                entry("10.0.0.0/8", None, 2),
                "eth0",
                "10.96.0.0/12 via 192.168.49.2 would cut a part out of 10.0.0.0/8 of this machine's own network (eth0)",
            ),
            (
                table52,
                "tailscale0",
                "policy rule 5270 asks table 52 before table main, where 0.0.0.0/0 of Tailscale (tailscale0) wins over 10.96.0.0/12 via 192.168.49.2",
            ),
            (
                dropping,
                "eth0",
                "the narrower route 10.100.0.0/16 (which drops packets) of an administrator, by NetworkManager or systemd-networkd lies inside 10.96.0.0/12 via 192.168.49.2: those addresses would not lead to the cluster",
            ),
        ] {
            assert_eq!(told(entry, device, Some("bridge")).effect, effect);
        }
    }

    #[test]
    fn the_owner_is_known_by_device_table_and_protocol() {
        let plain = entry("10.0.0.0/8", Some("192.168.1.1"), 16);
        let tagged = entry("10.0.0.0/8", Some("192.168.1.1"), crate::PROTOCOL);
        let like_ours = Entry {
            metric: 7,
            ..tagged
        };
        let table52 = Entry {
            table: 52,
            link: 0,
            ..plain
        };
        for (entry, device, kind, owner) in [
            (plain, "docker0", Some("bridge"), "Docker (docker0)"),
            (plain, "br-lan", None, "the network's DHCP server (br-lan)"),
            (plain, "wg1", None, "WireGuard (wg1)"),
            (plain, "office", Some("wireguard"), "WireGuard (office)"),
            (
                plain,
                "office",
                Some("tun"),
                "OpenVPN or another VPN (office)",
            ),
            (plain, "virbr0", Some("bridge"), "libvirt (virbr0)"),
            (plain, "eth0", None, "the network's DHCP server (eth0)"),
            (table52, "eth0", None, "Tailscale (table 52)"),
            (
                tagged,
                "eth0",
                None,
                "another user's minitunnel, or one that died",
            ),
            (like_ours, "eth0", None, "another program (eth0)"),
            (
                Entry {
                    protocol: 186,
                    ..plain
                },
                "eth0",
                None,
                "a routing daemon (eth0)",
            ),
        ] {
            assert_eq!(told(entry, device, kind).owner, owner, "{device}");
        }
    }

    #[test]
    fn the_ways_out_are_commands_to_type() {
        let said = |conflict: Conflict| -> Vec<String> {
            let ways = conflict.ways_out.iter();
            ways.map(ToString::to_string).collect()
        };
        let conflict = told(entry("10.0.0.0/8", Some("192.168.1.1"), 4), "eth0", None);
        assert_eq!(
            said(conflict),
            [
                "Make the cluster anew with a range that is free (an existing cluster can't change its own): minikube delete -p mine && minikube start -p mine --service-cluster-ip-range=172.16.0.0/12",
                "Remove it where it was set, or until it comes back: sudo ip route del 10.0.0.0/8 via 192.168.1.1 dev eth0",
            ]
        );
        let conflict = told(entry("10.100.0.0/16", None, 3), "wg0", None);
        assert_eq!(
            said(conflict),
            [
                "Make the cluster anew with a range that is free (an existing cluster can't change its own): minikube delete -p mine && minikube start -p mine --service-cluster-ip-range=10.112.0.0/12",
                "Take 10.100.0.0/16 out of the AllowedIPs of wg0, or bring wg0 down",
            ]
        );
    }
}
