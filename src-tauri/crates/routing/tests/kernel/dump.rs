use std::thread;

use ipnet::IpNet;
use minitunnel_routing::{Action, Address, Entry, Error, Kind, PROTOCOL, Rule, Selector, Table};

use crate::lab::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn link(table: &Table, name: &str) -> u32 {
    *table
        .links
        .iter()
        .find(|(_, link)| link.name == name)
        .unwrap()
        .0
}

/// The entries of a destination.
fn entries(table: &Table, destination: &str) -> Vec<Entry> {
    let destination = net(destination);
    table
        .entries
        .iter()
        .filter(|entry| entry.destination == destination)
        .copied()
        .collect()
}

#[test]
fn every_table_and_family_is_dumped() {
    in_namespace("dump::every_table_and_family_is_dumped", async |router| {
        for (family, destination, gateway) in [
            ("-4", "10.5.0.0/16", "192.168.49.9"),
            ("-6", "fd05::/32", "fd00:49::9"),
        ] {
            // Beyond the eight bits of the header, too.
            for table in [100, 254, 1000, u32::MAX] {
                ip(&format!(
                    "{family} route add {destination} via {gateway} table {table} proto 42 metric 7"
                ));
            }
            let dump = router.dump().await.unwrap();
            let expected = [100, 254, 1000, u32::MAX].map(|table| Entry {
                destination: net(destination),
                table,
                metric: 7,
                hop: 0,
                special: false,
                kind: Kind::Unicast,
                protocol: 42,
                gateway: Some(addr(gateway)),
                link: link(&dump, "host0"),
            });
            assert_eq!(entries(&dump, destination), expected);
        }
    });
}

#[test]
fn every_kind_of_route_is_dumped() {
    in_namespace("dump::every_kind_of_route_is_dumped", async |router| {
        for (words, kind) in [
            ("unicast 10.1.0.0/16 dev host0", Kind::Unicast),
            ("local 10.2.0.0/16 dev lo", Kind::Local),
            ("broadcast 10.3.0.0/16 dev host0", Kind::Group),
            ("blackhole 10.4.0.0/16", Kind::Dropped),
            ("unreachable 10.5.0.0/16", Kind::Dropped),
            ("prohibit 10.6.0.0/16", Kind::Dropped),
            ("throw 10.7.0.0/16", Kind::Throw),
        ] {
            ip(&format!("route add {words}"));
            let destination = words.split(' ').nth(1).unwrap();
            let found = entries(&router.dump().await.unwrap(), destination);
            assert_eq!(found.len(), 1, "{words}");
            assert_eq!((found[0].kind, found[0].gateway), (kind, None), "{words}");
        }
    });
}

#[test]
fn each_next_hop_is_an_entry() {
    in_namespace("dump::each_next_hop_is_an_entry", async |router| {
        ip("route add 10.5.0.0/16 nexthop via 192.168.49.9 nexthop via 192.168.49.8");
        ip("-6 route add fd05::/32 nexthop via fd00:49::9 nexthop via fd00:49::8");
        ip("route add 10.6.0.0/16 via inet6 fd00:49::7");
        let dump = router.dump().await.unwrap();
        let hops = |destination| {
            entries(&dump, destination)
                .iter()
                .map(|entry| (entry.hop, entry.gateway.unwrap()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            hops("10.5.0.0/16"),
            [(1, addr("192.168.49.9")), (2, addr("192.168.49.8"))]
        );
        assert_eq!(
            hops("fd05::/32"),
            [(1, addr("fd00:49::9")), (2, addr("fd00:49::8"))]
        );
        assert_eq!(hops("10.6.0.0/16"), [(0, addr("fd00:49::7"))]);
    });
}

#[test]
fn rules_are_dumped_with_what_they_look_at() {
    in_namespace(
        "dump::rules_are_dumped_with_what_they_look_at",
        async |router| {
            let rule = |priority, selectors: &[Selector], action| Rule {
                ipv6: false,
                priority,
                action,
                selectors: selectors.to_vec(),
                inverted: false,
                suppress: None,
                protocol: 3,
            };
            let kernels = |ipv6, priority, table| Rule {
                ipv6,
                priority,
                action: Action::Lookup(table),
                selectors: Vec::new(),
                inverted: false,
                suppress: None,
                protocol: 2,
            };
            let mark = Selector::Mark {
                value: 0x10,
                mask: 0xf0,
            };
            let mut v4 = vec![kernels(false, 0, 255)];
            for (words, expected) in [
                ("from all lookup 1000", rule(11, &[], Action::Lookup(1000))),
                (
                    "from 10.1.0.0/16 to 10.2.0.0/16 lookup 100",
                    rule(
                        12,
                        &[
                            Selector::To(net("10.2.0.0/16")),
                            Selector::From(net("10.1.0.0/16")),
                        ],
                        Action::Lookup(100),
                    ),
                ),
                (
                    "fwmark 0x10/0xf0 lookup 100",
                    rule(13, &[mark], Action::Lookup(100)),
                ),
                (
                    "not fwmark 0x10/0xf0 lookup 100",
                    Rule {
                        inverted: true,
                        ..rule(14, &[mark], Action::Lookup(100))
                    },
                ),
                (
                    "lookup main suppress_prefixlength 0",
                    Rule {
                        suppress: Some(0),
                        ..rule(15, &[], Action::Lookup(254))
                    },
                ),
                (
                    "iif lo lookup 100",
                    rule(16, &[Selector::MadeHere], Action::Lookup(100)),
                ),
                (
                    "iif host0 lookup 100",
                    rule(17, &[Selector::Special], Action::Lookup(100)),
                ),
                (
                    "oif host0 lookup 100",
                    rule(18, &[Selector::Special], Action::Lookup(100)),
                ),
                (
                    "tos 0x10 lookup 100",
                    rule(19, &[Selector::Special], Action::Lookup(100)),
                ),
                (
                    "uidrange 0-0 lookup 100",
                    rule(20, &[Selector::Some], Action::Lookup(100)),
                ),
                (
                    "ipproto tcp dport 80 lookup 100",
                    rule(21, &[Selector::Some], Action::Lookup(100)),
                ),
                (
                    "to 10.9.0.0/16 unreachable",
                    rule(22, &[Selector::To(net("10.9.0.0/16"))], Action::Drop),
                ),
                (
                    "to 10.9.0.0/16 goto 32766",
                    rule(23, &[Selector::To(net("10.9.0.0/16"))], Action::Continue),
                ),
            ] {
                ip(&format!(
                    "rule add {words} priority {} protocol 3",
                    expected.priority
                ));
                v4.push(expected);
            }
            v4.extend([kernels(false, 32766, 254), kernels(false, 32767, 253)]);
            ip("-6 rule add to fd09::/32 lookup 100 priority 30 protocol 3");
            let v6 = [
                kernels(true, 0, 255),
                Rule {
                    ipv6: true,
                    ..rule(30, &[Selector::To(net("fd09::/32"))], Action::Lookup(100))
                },
                kernels(true, 32766, 254),
            ];
            let rules = router.dump().await.unwrap().rules;
            assert_eq!(rules, [v4.as_slice(), v6.as_slice()].concat());
        },
    );
}

#[test]
fn addresses_and_devices_are_dumped() {
    in_namespace("dump::addresses_and_devices_are_dumped", async |router| {
        ip("link add br0 type bridge");
        let dump = router.dump().await.unwrap();
        let host0 = link(&dump, "host0");
        for net in [net("192.168.49.1/24"), net("fd00:49::1/64")] {
            assert!(dump.addresses.contains(&Address { net, link: host0 }));
        }
        let (veth, bridge) = (&dump.links[&host0], &dump.links[&link(&dump, "br0")]);
        assert_eq!((veth.kind.as_deref(), veth.running), (Some("veth"), true));
        assert_eq!(
            (bridge.kind.as_deref(), bridge.running),
            (Some("bridge"), false)
        );
    });
}

#[test]
fn equal_tables_are_equal_values() {
    in_namespace("dump::equal_tables_are_equal_values", async |router| {
        ip("route add 10.1.0.0/16 via 192.168.49.9");
        ip("route add 10.2.0.0/16 via 192.168.49.9");
        let before = router.dump().await.unwrap();
        ip("route del 10.1.0.0/16");
        assert_ne!(router.dump().await.unwrap(), before);
        ip("route add 10.1.0.0/16 via 192.168.49.9");
        assert_eq!(router.dump().await.unwrap(), before);
    });
}

#[test]
fn only_our_own_routes_are_ours() {
    in_namespace("dump::only_our_own_routes_are_ours", async |router| {
        for words in [
            "10.1.0.0/16 via 192.168.49.2",
            "10.2.0.0/16 via 192.168.49.2 proto 109 metric 5",
            "10.3.0.0/16 via 192.168.49.2 proto 109 table 100",
            "blackhole 10.4.0.0/16 proto 109",
            "10.5.0.0/16 dev host0 proto 109",
            "10.96.0.0/12 via 192.168.49.2 proto 109",
        ] {
            ip(&format!("route add {words}"));
        }
        assert_eq!(PROTOCOL, 109);
        let ours: Vec<_> = router.dump().await.unwrap().ours().collect();
        assert_eq!(ours, [services()]);
    });
}

/// A dump of many takes several turns; what goes away between two of them moves others out of sight, and the kernel marks
/// that dump.
#[test]
fn a_dump_is_whole_while_others_change_the_tables() {
    in_namespace(
        "dump::a_dump_is_whole_while_others_change_the_tables",
        async |router| {
            const MANY: usize = 2_000;
            let lines = |verb: &str, prefix: &str| -> String {
                (0..MANY)
                    .map(|number| {
                        let (high, low) = (number / 250, number % 250);
                        format!("addr {verb} {prefix}.{high}.{low}/32 dev host0\n")
                    })
                    .collect()
            };
            ip_batch(&lines("add", "10.1"));
            ip_batch(&lines("add", "10.2"));
            let going = lines("del", "10.1");
            let busy = thread::spawn(move || ip_batch(&going));
            let mut dumped = 0;
            loop {
                let last = busy.is_finished();
                match router.dump().await {
                    Ok(dump) => {
                        let stays = net("10.2.0.0/16");
                        let told = dump
                            .addresses
                            .iter()
                            .filter(|address| stays.contains(&address.net));
                        // None is missing, and none is there twice.
                        assert_eq!(told.count(), MANY);
                        dumped += 1;
                    }
                    // Honest, and no excuse once it is quiet.
                    Err(Error::Restless) if !last => {}
                    Err(error) => panic!("{error}"),
                }
                if last {
                    break;
                }
            }
            assert!(dumped > 0);
            busy.join().unwrap();
        },
    );
}
