//! The analysis of conflicts against two oracles: overlaps counted bit by bit, and the kernel's lookup played packet by
//! packet. And against 100,000 routes.
#![expect(clippy::unwrap_used, reason = "a test ends where it is wrong")]

use std::{collections::BTreeSet, net::Ipv4Addr, time::Instant};

use ipnet::{IpNet, Ipv4Net};
use minitunnel_model::{ConflictKind, GroupKind, ProfileName, Route};
use minitunnel_routing::{
    Action, Address, Entry, Held, Holder, Kind, LOCAL_TABLE, MAIN_TABLE, PROTOCOL, Rule, Selector,
    Table, Wanted, conflicts, free_cidr,
};
use proptest::prelude::*;

fn name() -> ProfileName {
    "mine".parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn rule(ipv6: bool, priority: u32, table: u32) -> Rule {
    Rule {
        ipv6,
        priority,
        action: Action::Lookup(table),
        selectors: Vec::new(),
        inverted: false,
        suppress: None,
        protocol: 2,
    }
}

/// The rules of a machine where nobody made any.
fn usual_rules() -> Vec<Rule> {
    vec![
        rule(false, 0, LOCAL_TABLE),
        rule(false, 32766, MAIN_TABLE),
        rule(false, 32767, 253),
        rule(true, 0, LOCAL_TABLE),
        rule(true, 32766, MAIN_TABLE),
    ]
}

fn entry(destination: IpNet, table: u32, kind: Kind) -> Entry {
    Entry {
        destination,
        table,
        metric: 0,
        hop: 0,
        special: false,
        kind,
        protocol: 4,
        gateway: None,
        link: 0,
    }
}

fn table(mut entries: Vec<Entry>, rules: Vec<Rule>) -> Table {
    entries.sort();
    Table {
        entries,
        rules,
        ..Table::default()
    }
}

/// The network's bits, as a text.
fn bits(net: &IpNet) -> String {
    let all = match net {
        IpNet::V4(net) => format!("4{:032b}", u32::from(net.network())),
        IpNet::V6(net) => format!("6{:0128b}", u128::from(net.network())),
    };
    all[..=usize::from(net.prefix_len())].to_owned()
}

/// Networks that overlap often: a few bits vary, behind a fixed beginning.
fn networks() -> impl Strategy<Value = IpNet> {
    let v4 = (0_u32..64, prop_oneof![0_u8..=9, 22_u8..=32]).prop_map(|(low, length)| {
        let address = Ipv4Addr::from(0x0a60_0000 | (low << 4));
        IpNet::V4(Ipv4Net::new(address, length).unwrap().trunc())
    });
    let v6 = (0_u128..64, prop_oneof![0_u8..=9, 118_u8..=128]).prop_map(|(low, length)| {
        let address = (0xfd00_u128 << 112) | (low << 4);
        IpNet::new(std::net::Ipv6Addr::from(address).into(), length)
            .unwrap()
            .trunc()
    });
    prop_oneof![3 => v4, 1 => v6]
}

fn wanted_networks() -> impl Strategy<Value = IpNet> {
    networks().prop_filter("the helper refuses these", |net| match net {
        IpNet::V4(net) => net.prefix_len() >= 8,
        IpNet::V6(net) => net.prefix_len() >= 48,
    })
}

fn routes(destinations: impl Strategy<Value = IpNet>) -> impl Strategy<Value = Route> {
    (destinations, 2_u8..4).prop_map(|(destination, host)| Route {
        destination,
        gateway: match destination {
            IpNet::V4(_) => [192, 168, 49, host].into(),
            IpNet::V6(_) => [0xfd49, 0, 0, 0, 0, 0, 0, u16::from(host)].into(),
        },
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    let kinds = prop_oneof![
        4 => Just(Kind::Unicast),
        1 => Just(Kind::Local),
        1 => Just(Kind::Group),
        1 => Just(Kind::Dropped),
    ];
    let tables =
        prop_oneof![4 => Just(MAIN_TABLE), 1 => Just(LOCAL_TABLE), 1 => Just(253), 1 => Just(77)];
    let protocols = prop_oneof![Just(2), Just(4), Just(PROTOCOL)];
    (
        routes(networks()),
        tables,
        kinds,
        protocols,
        any::<bool>(),
        0_u16..3,
    )
        .prop_map(|(route, table, kind, protocol, direct, hop)| Entry {
            protocol,
            hop,
            metric: u32::from(route.destination.addr().is_ipv6()) * 1024,
            gateway: (!direct && kind == Kind::Unicast).then_some(route.gateway),
            ..entry(route.destination, table, kind)
        })
}

fn holders() -> impl Strategy<Value = Holder> {
    prop_oneof![
        Just(Holder::Asking),
        Just(Holder::OtherUser),
        Just(Holder::Profile("theirs".parse().unwrap())),
    ]
}

/// What [`conflicts`] should tell on a machine without policy rules, found the long way.
fn naive(table: &Table, routes: &[Route], held: &[Held]) -> Vec<(Route, ConflictKind, IpNet)> {
    let mut all = Vec::new();
    for route in routes {
        let ours = bits(&route.destination);
        let meet = |other: &str| other.starts_with(&ours) || ours.starts_with(other);
        for held in held {
            if held.holder != Holder::Asking && meet(&bits(&held.route.destination)) {
                all.push((*route, ConflictKind::OtherProfile, held.route.destination));
            }
        }
        let mut own = Vec::new();
        for entry in &table.entries {
            let theirs = bits(&entry.destination);
            let default = theirs.len() <= if theirs.starts_with('4') { 8 } else { 7 };
            let asked = entry.table == MAIN_TABLE
                || entry.table == LOCAL_TABLE
                || entry.table == 253 && theirs.starts_with('4');
            let main = entry.table == MAIN_TABLE;
            let tagged =
                entry.protocol == PROTOCOL && main && entry.kind == Kind::Unicast && entry.hop == 0;
            let known = tagged
                && held.iter().any(|held| {
                    Some(held.route.gateway) == entry.gateway
                        && held.route.destination == entry.destination
                });
            let behind = entry.hop > 1 || entry.kind == Kind::Group;
            if !meet(&theirs) || !asked || known || behind {
                continue;
            }
            // On the local table nothing is a default: it is asked before main.
            if default {
                if entry.table == LOCAL_TABLE {
                    all.push((*route, ConflictKind::Policy, entry.destination));
                }
                continue;
            }
            let network =
                entry.protocol == 2 && entry.kind == Kind::Unicast && entry.gateway.is_none();
            let kind = if entry.kind == Kind::Local || entry.table == LOCAL_TABLE || network {
                if entry.kind == Kind::Local
                    && own.iter().any(|told: &String| theirs.starts_with(told))
                {
                    continue;
                }
                own.push(theirs.clone());
                ConflictKind::LocalNetwork
            } else if theirs == ours {
                ConflictKind::SameDestination
            } else if theirs.starts_with(&ours) {
                ConflictKind::Covers
            } else {
                ConflictKind::CoveredBy
            };
            all.push((*route, kind, entry.destination));
        }
    }
    all
}

/// A packet to be sent by this machine.
#[derive(Clone, Copy, Debug)]
struct Packet {
    to: Ipv4Addr,
    from: Option<Ipv4Addr>,
    mark: u32,
    /// What [`Selector::Some`] and [`Selector::Special`] look at.
    some: bool,
    special: bool,
}

/// This machine's address on the cable to the node.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 49, 1);

/// What the kernel would do (`fib_rules_lookup`, `fib_table_lookup`).
fn lookup(table: &Table, packet: &Packet) -> Option<Result<Entry, u32>> {
    for rule in table.rules.iter().filter(|rule| !rule.ipv6) {
        let holds = rule.selectors.iter().all(|selector| match selector {
            Selector::To(net) => net.contains(&std::net::IpAddr::V4(packet.to)),
            Selector::From(net) => {
                let from = packet.from.unwrap_or(Ipv4Addr::UNSPECIFIED);
                net.contains(&std::net::IpAddr::V4(from))
            }
            Selector::Mark { value, mask } => packet.mark & mask == *value,
            Selector::MadeHere => true,
            Selector::Special => packet.special,
            Selector::Some => packet.some,
        });
        if holds == rule.inverted {
            continue;
        }
        let number = match rule.action {
            Action::Lookup(number) => number,
            Action::Drop => return Some(Err(rule.priority)),
            Action::Continue => continue,
        };
        let best = table
            .entries
            .iter()
            .filter(|entry| entry.table == number)
            .filter(|entry| entry.destination.contains(&std::net::IpAddr::V4(packet.to)))
            .max_by_key(|entry| entry.destination.prefix_len());
        let suppressed = |entry: &Entry| {
            rule.suppress
                .is_some_and(|length| entry.destination.prefix_len() <= length)
        };
        match best {
            Some(entry) if entry.kind != Kind::Throw && !suppressed(entry) => {
                return Some(Ok(*entry));
            }
            _ => {}
        }
    }
    None
}

fn selectors() -> impl Strategy<Value = Selector> {
    prop_oneof![
        networks().prop_map(Selector::To),
        Just(Selector::From(net("192.168.0.0/16"))),
        Just(Selector::From(net("10.1.0.0/16"))),
        (0_u32..2).prop_map(|value| Selector::Mark { value, mask: 1 }),
        Just(Selector::MadeHere),
        Just(Selector::Special),
        Just(Selector::Some),
    ]
    .prop_filter("of IPv4", |selector| {
        !matches!(selector, Selector::To(IpNet::V6(_)))
    })
}

fn rules() -> impl Strategy<Value = Rule> {
    let actions = prop_oneof![
        3 => Just(Action::Lookup(77)),
        3 => Just(Action::Lookup(78)),
        2 => Just(Action::Lookup(MAIN_TABLE)),
        1 => Just(Action::Drop),
        1 => Just(Action::Continue),
    ];
    let suppress = prop_oneof![3 => Just(None), 1 => (0_u8..32).prop_map(Some)];
    let selectors = prop::collection::vec(selectors(), 0..3);
    (1_u32..40_000, actions, selectors, any::<bool>(), suppress).prop_map(
        |(priority, action, selectors, inverted, suppress)| Rule {
            ipv6: false,
            priority,
            action,
            selectors,
            inverted,
            suppress,
            protocol: 4,
        },
    )
}

fn policy_entries() -> impl Strategy<Value = Entry> {
    let kinds =
        prop_oneof![4 => Just(Kind::Unicast), 2 => Just(Kind::Throw), 1 => Just(Kind::Dropped)];
    let tables = prop_oneof![Just(MAIN_TABLE), Just(77), Just(78)];
    (networks(), tables, kinds)
        .prop_filter("of IPv4", |(net, ..)| net.addr().is_ipv4())
        .prop_map(|(net, table, kind)| entry(net, table, kind))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        // Random tables are full of conflicts.
        max_global_rejects: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn overlaps_are_those_that_are_found_bit_by_bit(
        entries in prop::collection::vec(entries(), 0..12),
        wanted in prop::collection::vec(routes(wanted_networks()), 1..4),
        held in prop::collection::vec((routes(wanted_networks()), holders()), 0..3),
        ours in prop::collection::vec(any::<prop::sample::Index>(), 0..2),
    ) {
        let mut held: Vec<Held> =
            held.into_iter().map(|(route, holder)| Held { route, holder }).collect();
        // Some entries of ours are held, too.
        let tagged: Vec<Route> = entries.iter().filter_map(Entry::our_route).collect();
        if !tagged.is_empty() {
            held.extend(ours.iter().map(|index| Held { route: *index.get(&tagged), holder: Holder::Asking }));
        }
        let table = table(entries, usual_rules());
        let name = name();
        let asked = Wanted { profile: &name, group: None, routes: &wanted };
        let found: Vec<_> = conflicts(&table, asked, &held)
            .into_iter()
            .map(|conflict| (conflict.ours, conflict.kind, conflict.other.destination))
            .collect();
        prop_assert_eq!(found, naive(&table, &wanted, &held));
    }

    #[test]
    fn without_a_conflict_our_route_takes_its_traffic_and_nobody_elses(
        entries in prop::collection::vec(policy_entries(), 0..8),
        mut rules in prop::collection::vec(rules(), 0..4),
        low in 0_u32..64,
    ) {
        rules.extend(usual_rules());
        // Stable, as the kernel's.
        rules.sort_by_key(|rule| (rule.ipv6, rule.priority));
        let mut table = table(entries, rules);
        table.addresses.push(Address { net: net("192.168.49.1/24"), link: 1 });
        let first = 0x0a60_0000 | (low << 4);
        let ours = Route {
            destination: IpNet::V4(Ipv4Net::new(first.into(), 28).unwrap()),
            gateway: [192, 168, 49, 2].into(),
        };
        let name = name();
        let asked = Wanted { profile: &name, group: None, routes: &[ours] };
        prop_assume!(conflicts(&table, asked, &[]).is_empty());

        let mut with_ours = table.clone();
        let our_entry = Entry {
            protocol: PROTOCOL,
            gateway: Some(ours.gateway),
            ..entry(ours.destination, MAIN_TABLE, Kind::Unicast)
        };
        with_ours.entries.push(our_entry);
        for to in (first..first + 16).map(Ipv4Addr::from) {
            for number in 0..24 {
                let packet = Packet {
                    to,
                    from: (number & 1 != 0).then_some(OWN),
                    some: number & 2 != 0,
                    special: number & 4 != 0,
                    mark: u32::from(number >= 8),
                };
                if !packet.special && packet.mark == 0 {
                    prop_assert_eq!(lookup(&with_ours, &packet), Some(Ok(our_entry)));
                }
                if let Some(Ok(taken)) = lookup(&table, &packet) {
                    prop_assert!(taken.destination.prefix_len() < 8, "{:?} had {:?}", packet, taken);
                }
            }
        }
    }

    #[test]
    fn a_free_range_is_of_the_same_size_aligned_private_and_free(
        entries in prop::collection::vec(entries(), 0..12),
        // There are larger ones, but not always another one that is free.
        like in wanted_networks().prop_filter("small", |net| net.prefix_len() >= 12),
    ) {
        let table = table(entries, usual_rules());
        let Some(free) = free_cidr(&table, like) else {
            let everything = |entry: &Entry| matches!(entry.destination, IpNet::V6(net) if matches!(net.prefix_len(), 7 | 8));
            prop_assert!(like.addr().is_ipv6() && table.entries.iter().any(everything));
            return Ok(());
        };
        prop_assert_eq!(free.prefix_len(), like.prefix_len());
        prop_assert_eq!(free, free.trunc());
        let route = Route {
            destination: free,
            gateway: match free {
                IpNet::V4(_) => [192, 168, 49, 2].into(),
                IpNet::V6(_) => [0xfd49, 0, 0, 0, 0, 0, 0, 2].into(),
            },
        };
        let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];
        let inside = |net: &&str| net.parse::<IpNet>().unwrap().contains(&free);
        prop_assert!(private.iter().any(inside));
        let name = name();
        let asked = Wanted { profile: &name, group: None, routes: &[route] };
        let kinds: BTreeSet<_> = conflicts(&table, asked, &[]).into_iter().map(|found| found.kind).collect();
        // A default on the local table wins over everything.
        prop_assert!(kinds.is_subset(&BTreeSet::from([ConflictKind::Policy])), "{:?}", kinds);
    }
}

#[test]
fn the_range_after_minikubes_default_is_the_next_aligned_one() {
    let free = |taken: &[&str], like| {
        let entries = taken
            .iter()
            .map(|text| entry(net(text), MAIN_TABLE, Kind::Unicast));
        free_cidr(&table(entries.collect(), usual_rules()), net(like)).map(|net| net.to_string())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(free(&[], "10.96.0.0/12"), some("10.112.0.0/12"));
    assert_eq!(
        free(&["0.0.0.0/0", "10.112.9.0/24"], "10.96.0.0/12"),
        some("10.128.0.0/12")
    );
    // Not where minikube's pods are, and round the end.
    assert_eq!(
        free(&["10.224.0.0/12"], "10.208.0.0/12"),
        some("10.0.0.0/12")
    );
    assert_eq!(free(&["10.0.0.0/8"], "10.96.0.0/12"), some("172.16.0.0/12"));
    assert_eq!(free(&["10.0.0.0/8", "172.17.0.0/16"], "10.96.0.0/12"), None);
    assert_eq!(
        free(&["fd00:10:97::/112"], "fd00:10:96::/112"),
        some("fd00:10:96::1:0/112")
    );
}

#[test]
fn a_hundred_thousand_routes_hide_nothing() {
    let mut entries: Vec<Entry> = (0..100_000_u32)
        .map(|number| {
            let address = Ipv4Addr::from(0xac10_0000 + number);
            entry(
                IpNet::from(std::net::IpAddr::from(address)),
                MAIN_TABLE,
                Kind::Unicast,
            )
        })
        .collect();
    entries.push(entry(net("10.100.0.0/16"), MAIN_TABLE, Kind::Unicast));
    let table = table(entries, usual_rules());
    let name = name();
    let ask = |destination| {
        let routes = [Route {
            destination: net(destination),
            gateway: [192, 168, 49, 2].into(),
        }];
        conflicts(
            &table,
            Wanted {
                profile: &name,
                group: None,
                routes: &routes,
            },
            &[],
        )
    };
    assert_eq!(ask("10.96.0.0/12").len(), 1);
    assert_eq!(ask("10.112.0.0/12"), []);
    // Nobody reads more.
    assert_eq!(ask("172.16.0.0/12").len(), 100);
}

#[test]
fn a_hundred_conflicts_cost_one_look_for_another_range() {
    let host = |n: u32| Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + n * 256), 32).unwrap();
    // 100 in the services' range, and 30,000 that the look for another one has to sort.
    let inside = (0..100).map(|n| Ipv4Net::new(Ipv4Addr::new(10, 96, n, 1), 32).unwrap());
    let entries = (0..30_000)
        .map(host)
        .filter(|host| host.addr().octets()[1] < 90);
    let entries = entries
        .chain(inside)
        .map(|net| entry(IpNet::V4(net), MAIN_TABLE, Kind::Unicast))
        .collect();
    let table = table(entries, usual_rules());
    let services = [Route {
        destination: net("10.96.0.0/12"),
        gateway: "192.168.49.2".parse().unwrap(),
    }];
    let fastest = |group: Option<&GroupKind>| {
        let name = name();
        let wanted = Wanted {
            profile: &name,
            group,
            routes: &services,
        };
        let once = || {
            let begun = Instant::now();
            assert_eq!(conflicts(&table, wanted, &[]).len(), 100);
            begun.elapsed()
        };
        (0..3).map(|_| once()).min().unwrap()
    };
    let (bare, with_range) = (fastest(None), fastest(Some(&GroupKind::Services)));
    // Seven times as long here, and 500 times with a look for each conflict.
    assert!(with_range < bare * 60, "{with_range:?} and {bare:?}");
}
