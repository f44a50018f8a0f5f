//! Each kind of conflict with real routes; the kernel's own lookups say who is right.

use ipnet::IpNet;
use minitunnel_model::{Conflict, ConflictKind, GroupKind, ProfileName, Route};
use minitunnel_routing::{Held, Holder, Router, Wanted, conflicts, free_cidr};

use crate::lab::*;

fn profile(name: &str) -> ProfileName {
    name.parse().unwrap()
}

async fn found(router: &Router, route: Route, held: &[Held]) -> Vec<Conflict> {
    let name = profile("mine");
    let wanted = Wanted {
        profile: &name,
        group: Some(&GroupKind::Services),
        routes: &[route],
    };
    conflicts(&router.dump().await.unwrap(), wanted, held)
}

fn kinds(conflicts: &[Conflict]) -> Vec<(ConflictKind, IpNet)> {
    conflicts
        .iter()
        .map(|conflict| (conflict.kind, conflict.other.destination))
        .collect()
}

/// Makes routes, expects exactly these conflicts, and unmakes them again.
async fn expect(router: &Router, wanted: Route, made: &[&str], expected: &[(ConflictKind, &str)]) {
    let before = tables();
    for words in made {
        ip(words);
    }
    let expected: Vec<_> = expected
        .iter()
        .map(|(kind, net)| (*kind, net.parse().unwrap()))
        .collect();
    let conflicts = found(router, wanted, &[]).await;
    assert_eq!(kinds(&conflicts), expected, "{made:?}");
    for words in made.iter().rev() {
        ip(&words.replacen(" add ", " del ", 1));
    }
    assert_eq!(tables(), before);
}

#[test]
fn a_free_destination_has_no_conflict() {
    in_namespace(
        "conflicts::a_free_destination_has_no_conflict",
        async |router| {
            for wanted in [services(), services6()] {
                expect(&router, wanted, &[], &[]).await;
            }
            // Beside it, and not over it.
            expect(
                &router,
                services(),
                &["route add 10.112.0.0/12 via 192.168.49.9"],
                &[],
            )
            .await;
            expect(
                &router,
                services6(),
                &["-6 route add fd00:10:97::/112 via fd00:49::9"],
                &[],
            )
            .await;
        },
    );
}

#[test]
fn overlaps_are_told_by_kind() {
    use ConflictKind::{CoveredBy, Covers, LocalNetwork, SameDestination};
    in_namespace("conflicts::overlaps_are_told_by_kind", async |router| {
        for (made, kind, net) in [
            (
                "route add 10.96.0.0/12 via 192.168.49.9",
                SameDestination,
                "10.96.0.0/12",
            ),
            (
                "route add 10.96.0.0/12 via 192.168.49.2",
                SameDestination,
                "10.96.0.0/12",
            ),
            (
                "route add 10.96.0.0/12 via 192.168.49.9 metric 99",
                SameDestination,
                "10.96.0.0/12",
            ),
            (
                "route add 10.96.0.0/12 via 192.168.49.2 proto 109",
                SameDestination,
                "10.96.0.0/12",
            ),
            (
                "route add 10.96.0.0/12 dev host0",
                SameDestination,
                "10.96.0.0/12",
            ),
            (
                "route add 10.96.0.0/12 via 192.168.49.9 table default",
                SameDestination,
                "10.96.0.0/12",
            ),
            (
                "route add 10.100.0.0/16 via 192.168.49.9",
                Covers,
                "10.100.0.0/16",
            ),
            (
                "route add 10.111.255.255/32 via 192.168.49.9",
                Covers,
                "10.111.255.255/32",
            ),
            ("route add blackhole 10.100.0.0/16", Covers, "10.100.0.0/16"),
            (
                "route add unreachable 10.100.0.0/16",
                Covers,
                "10.100.0.0/16",
            ),
            ("route add prohibit 10.100.0.0/16", Covers, "10.100.0.0/16"),
            ("route add throw 10.100.0.0/16", Covers, "10.100.0.0/16"),
            (
                "route add 10.100.0.0/16 nexthop via 192.168.49.9 nexthop via 192.168.49.8",
                Covers,
                "10.100.0.0/16",
            ),
            (
                "route add 10.0.0.0/8 via 192.168.49.9",
                CoveredBy,
                "10.0.0.0/8",
            ),
            ("route add blackhole 10.0.0.0/8", CoveredBy, "10.0.0.0/8"),
            (
                "addr add 10.100.0.1/16 dev node0",
                LocalNetwork,
                "10.100.0.0/16",
            ),
            ("addr add 10.0.0.1/8 dev node0", LocalNetwork, "10.0.0.0/8"),
            (
                "addr add 10.96.0.1/12 dev node0",
                LocalNetwork,
                "10.96.0.0/12",
            ),
            (
                "addr add 10.100.0.1/32 dev node0",
                LocalNetwork,
                "10.100.0.1/32",
            ),
            (
                "route add local 10.100.0.0/16 dev lo",
                LocalNetwork,
                "10.100.0.0/16",
            ),
        ] {
            expect(&router, services(), &[made], &[(kind, net)]).await;
        }
        for (made, kind, net) in [
            (
                "-6 route add fd00:10:96::/112 via fd00:49::9",
                SameDestination,
                "fd00:10:96::/112",
            ),
            (
                "-6 route add fd00:10:96::1/128 via fd00:49::9",
                Covers,
                "fd00:10:96::1/128",
            ),
            (
                "-6 route add fd00::/8 via fd00:49::9",
                CoveredBy,
                "fd00::/8",
            ),
            (
                "-6 route add fc00::/7 via fd00:49::9",
                CoveredBy,
                "fc00::/7",
            ),
            (
                "-6 route add unreachable fd00:10:96::5/128",
                Covers,
                "fd00:10:96::5/128",
            ),
            (
                "-6 addr add fd00:10:96::1/120 dev node0 nodad",
                LocalNetwork,
                "fd00:10:96::/120",
            ),
        ] {
            expect(&router, services6(), &[made], &[(kind, net)]).await;
        }
    });
}

#[test]
fn a_default_route_and_what_stands_for_it_is_no_conflict() {
    in_namespace(
        "conflicts::a_default_route_and_what_stands_for_it_is_no_conflict",
        async |router| {
            for words in [
                "route add default via 192.168.49.9",
                "route add 0.0.0.0/1 via 192.168.49.9",
                "route add 128.0.0.0/1 via 192.168.49.9",
                "route add 8.0.0.0/7 via 192.168.49.9",
                "-6 route add default via fd00:49::9",
                "-6 route add 8000::/1 via fd00:49::9",
                "-6 route add fc00::/6 via fd00:49::9",
            ] {
                ip(words);
            }
            for (wanted, inside) in [
                (services(), addr("10.96.0.10")),
                (services6(), addr("fd00:10:96::10")),
            ] {
                assert_eq!(kinds(&found(&router, wanted, &[]).await), []);
                minitunnel_kernel::add(&wanted).unwrap();
                assert!(lookup(inside, 0).unwrap().takes(&wanted));
            }
        },
    );
}

/// Whether the kernel sends to the cluster once the route is there.
fn works(wanted: Route) -> bool {
    let inside = match wanted.destination {
        IpNet::V4(_) => addr("10.96.0.10"),
        IpNet::V6(_) => addr("fd00:10:96::10"),
    };
    minitunnel_kernel::add(&wanted).unwrap();
    let way = lookup(inside, 0);
    remove(&wanted).unwrap();
    way.is_ok_and(|way| way.takes(&wanted))
}

#[test]
fn what_is_asked_before_main_wins_over_us() {
    in_namespace(
        "conflicts::what_is_asked_before_main_wins_over_us",
        async |router| {
            for rule in [
                "rule add lookup 1000",
                "rule add to 10.0.0.0/8 lookup 1000",
                "rule add iif lo lookup 1000",
                // As WireGuard does it for its default route, …
                "rule add not fwmark 51820 lookup 1000",
                "rule add fwmark 0/0xff lookup 1000",
                "rule add from 192.168.0.0/16 lookup 1000",
                "rule add not from 10.0.0.0/8 lookup 1000",
            ] {
                for net in ["0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/8", "10.96.0.0/12"] {
                    let route = format!("route add {net} via 192.168.49.9 table 1000");
                    let made: [&str; 2] = [&route, rule];
                    expect(&router, services(), &made, &[(ConflictKind::Policy, net)]).await;
                    made.iter().for_each(|words| _ = ip(words));
                    assert!(!works(services()), "{made:?}");
                    made.iter()
                        .for_each(|words| _ = ip(&words.replacen(" add ", " del ", 1)));
                }
            }
            ip("-6 route add default via fd00:49::9 table 1000");
            ip("-6 rule add lookup 1000");
            assert_eq!(
                kinds(&found(&router, services6(), &[]).await),
                [(ConflictKind::Policy, "::/0".parse().unwrap())]
            );
            assert!(!works(services6()));
        },
    );
}

#[test]
fn a_rule_that_leaves_ordinary_traffic_alone_takes_nothing_by_its_default() {
    in_namespace(
        "conflicts::a_rule_that_leaves_ordinary_traffic_alone_takes_nothing_by_its_default",
        async |router| {
            ip("route add default via 192.168.49.9 table 1000");
            for rule in [
                "rule add fwmark 51820 lookup 1000",
                "rule add from 10.1.0.0/16 lookup 1000",
                "rule add to 10.112.0.0/12 lookup 1000",
                "rule add iif host0 lookup 1000",
                "rule add lookup 1000 suppress_prefixlength 0",
                "rule add lookup 1000 priority 40000",
                "rule add to 10.96.0.0/12 goto 32766",
            ] {
                expect(&router, services(), &[rule], &[]).await;
                ip(rule);
                assert!(works(services()), "{rule}");
                ip(&rule.replacen(" add ", " del ", 1));
            }
            // … but it asks main for everything narrower first.
            let wireguard = [
                "rule add not fwmark 51820 lookup 1000",
                "rule add lookup main suppress_prefixlength 0",
            ];
            expect(&router, services(), &wireguard, &[]).await;
            wireguard.iter().for_each(|words| _ = ip(words));
            assert!(works(services()));
        },
    );
}

#[test]
fn a_narrow_route_overlaps_even_where_only_special_packets_find_it() {
    in_namespace(
        "conflicts::a_narrow_route_overlaps_even_where_only_special_packets_find_it",
        async |router| {
            ip("rule add fwmark 7 lookup 1000 priority 77");
            ip("route add 10.100.0.0/16 via 192.168.49.9 table 1000");
            let conflicts = found(&router, services(), &[]).await;
            assert_eq!(
                kinds(&conflicts),
                [(ConflictKind::Covers, "10.100.0.0/16".parse().unwrap())]
            );
            assert_eq!(
                conflicts[0].effect,
                "the narrower route 10.100.0.0/16 via 192.168.49.9 of `minikube tunnel`, or somebody's `ip route add` (host0) \
                 in table 1000 (rule 77 asks it for some packets) lies inside 10.96.0.0/12 via 192.168.49.2: \
                 those addresses would not lead to the cluster"
            );
        },
    );
}

#[test]
fn a_table_that_no_rule_asks_does_not_count() {
    in_namespace(
        "conflicts::a_table_that_no_rule_asks_does_not_count",
        async |router| {
            for table in ["100", "1000"] {
                let made = format!("route add 10.100.0.0/16 via 192.168.49.9 table {table}");
                expect(&router, services(), &[&made], &[]).await;
            }
        },
    );
}

#[test]
fn a_throw_sends_the_traffic_back_to_us() {
    in_namespace(
        "conflicts::a_throw_sends_the_traffic_back_to_us",
        async |router| {
            let tailscale = [
                "rule add lookup 52 priority 5270",
                "route add default dev node0 table 52",
                "route add throw 10.0.0.0/8 table 52",
            ];
            expect(&router, services(), &tailscale, &[]).await;
            tailscale.iter().for_each(|words| _ = ip(words));
            assert!(works(services()));
        },
    );
}

#[test]
fn a_rule_that_drops_wins_over_us() {
    in_namespace(
        "conflicts::a_rule_that_drops_wins_over_us",
        async |router| {
            for (rule, net) in [
                ("rule add unreachable", "0.0.0.0/0"),
                ("rule add to 10.100.0.0/16 prohibit", "10.100.0.0/16"),
                ("rule add to 10.0.0.0/8 blackhole", "10.0.0.0/8"),
            ] {
                expect(&router, services(), &[rule], &[(ConflictKind::Policy, net)]).await;
            }
            expect(&router, services(), &["rule add fwmark 7 unreachable"], &[]).await;
        },
    );
}

#[test]
fn what_others_hold_is_theirs_and_what_we_hold_is_ours() {
    in_namespace(
        "conflicts::what_others_hold_is_theirs_and_what_we_hold_is_ours",
        async |router| {
            minitunnel_kernel::add(&services()).unwrap();
            let held = |holder| {
                vec![Held {
                    route: services(),
                    holder,
                }]
            };
            assert_eq!(
                kinds(&found(&router, services(), &held(Holder::Asking)).await),
                []
            );
            let wanted = route("10.96.0.0/12", "192.168.49.3");
            for (holder, owner, profile) in [
                (
                    Holder::Profile(profile("theirs")),
                    "profile theirs",
                    Some(profile("theirs")),
                ),
                (Holder::OtherUser, "another user's minitunnel", None),
            ] {
                // Also while it is out of the kernel.
                for there in [true, false] {
                    let conflicts = found(&router, wanted, &held(holder.clone())).await;
                    let [conflict] = conflicts.as_slice() else {
                        panic!("{conflicts:?}");
                    };
                    assert_eq!(conflict.kind, ConflictKind::OtherProfile);
                    assert_eq!(conflict.owner, owner);
                    assert_eq!(conflict.profile, profile);
                    assert_eq!(conflict.other.device.as_deref(), there.then_some("host0"),);
                    if there {
                        remove(&services()).unwrap();
                    }
                }
                minitunnel_kernel::add(&services()).unwrap();
            }
            // Nobody that is known holds it.
            let conflicts = found(&router, services(), &[]).await;
            assert_eq!(conflicts[0].kind, ConflictKind::SameDestination);
            assert_eq!(
                conflicts[0].owner,
                "another user's minitunnel, or one that died"
            );
            assert_eq!(
                conflicts[0].ways_out.last().unwrap().to_string(),
                "If no tunnel uses it, remove it: minitunnel cleanup"
            );
        },
    );
}

#[test]
fn a_free_range_is_free_of_every_route() {
    in_namespace(
        "conflicts::a_free_range_is_free_of_every_route",
        async |router| {
            ip("route add 10.112.5.0/24 via 192.168.49.9 table 1000");
            ip("addr add 10.128.0.1/16 dev node0");
            ip("route add default via 192.168.49.9");
            let table = router.dump().await.unwrap();
            let free = free_cidr(&table, services().destination).unwrap();
            assert_eq!(free, "10.144.0.0/12".parse::<IpNet>().unwrap());
        },
    );
}
