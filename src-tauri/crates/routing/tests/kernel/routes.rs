use minitunnel_kernel::{Entry, Error, Kind, MAIN_TABLE};

use crate::lab::*;

#[test]
fn a_route_is_added_used_and_deleted_again() {
    in_namespace(
        "routes::a_route_is_added_used_and_deleted_again",
        async |router| {
            let before = tables();
            for (route, inside, shown) in [
                (
                    services(),
                    addr("10.96.0.10"),
                    "10.96.0.0/12 via 192.168.49.2 dev host0 proto 109",
                ),
                (
                    services6(),
                    addr("fd00:10:96::10"),
                    "fd00:10:96::/112 via fd00:49::2 dev host0 proto 109 metric 1024 pref medium",
                ),
            ] {
                minitunnel_kernel::add(&route).unwrap();
                assert!(tables().iter().any(|line| line == shown), "{:?}", tables());
                assert!(router.dump().await.unwrap().holds(&route));
                let way = lookup(inside, 0).unwrap();
                assert!(way.takes(&route), "{way:?}");

                remove(&route).unwrap();
                assert_eq!(tables(), before);
                assert!(!router.dump().await.unwrap().holds(&route));
            }
        },
    );
}

#[test]
fn a_destination_that_has_a_route_gets_no_other() {
    in_namespace(
        "routes::a_destination_that_has_a_route_gets_no_other",
        async |_| {
            ip("route add 10.96.0.0/12 via 192.168.49.7");
            ip("-6 route add fd00:10:96::/112 via fd00:49::7");
            let before = tables();
            for route in [services(), services6()] {
                let error = minitunnel_kernel::add(&route).unwrap_err();
                assert!(
                    matches!(error, Error::Exists(told) if told == route),
                    "{error}"
                );
            }
            assert_eq!(tables(), before);
        },
    );
}

#[test]
fn the_same_route_twice_exists() {
    in_namespace("routes::the_same_route_twice_exists", async |_| {
        for route in [services(), services6()] {
            minitunnel_kernel::add(&route).unwrap();
            let error = minitunnel_kernel::add(&route).unwrap_err();
            assert!(matches!(error, Error::Exists(_)), "{error}");
        }
    });
}

#[test]
fn a_gateway_on_no_network_is_unreachable() {
    in_namespace(
        "routes::a_gateway_on_no_network_is_unreachable",
        async |_| {
            let before = tables();
            for route in [
                route("10.96.0.0/12", "192.168.50.2"),
                route("fd00:10:96::/112", "fd00:50::2"),
            ] {
                let error = minitunnel_kernel::add(&route).unwrap_err();
                assert!(matches!(error, Error::GatewayUnreachable(_)), "{error}");
            }
            assert_eq!(
                minitunnel_kernel::add(&route("10.96.0.0/12", "192.168.50.2"))
                    .unwrap_err()
                    .to_string(),
                "192.168.50.2 is on no network of this machine, or its link is down"
            );
            assert_eq!(tables(), before);
        },
    );
}

#[test]
fn a_gateway_behind_a_link_that_is_down_is_unreachable() {
    in_namespace(
        "routes::a_gateway_behind_a_link_that_is_down_is_unreachable",
        async |_| {
            ip("link set host0 down");
            for route in [services(), services6()] {
                let error = minitunnel_kernel::add(&route).unwrap_err();
                assert!(matches!(error, Error::GatewayUnreachable(_)), "{error}");
            }
        },
    );
}

#[test]
fn a_delete_never_touches_a_foreign_twin() {
    in_namespace(
        "routes::a_delete_never_touches_a_foreign_twin",
        async |_| {
            for twin in [
                // Not our tag, another gateway, another table.
                "route add 10.96.0.0/12 via 192.168.49.2",
                "route add 10.96.0.0/12 via 192.168.49.3 proto 109 metric 5",
                "route add 10.96.0.0/12 via 192.168.49.2 proto 109 table 100",
                "-6 route add fd00:10:96::/112 via fd00:49::2",
                "-6 route add fd00:10:96::/112 via fd00:49::2 proto 109 metric 5",
                "-6 route add fd00:10:96::/112 via fd00:49::3 proto 109 metric 6",
                "-6 route add fd00:10:96::/112 via fd00:49::2 proto 109 table 100",
            ] {
                ip(twin);
            }
            let before = tables();
            for route in [services(), services6()] {
                remove(&route).unwrap();
            }
            assert_eq!(tables(), before);
        },
    );
}

#[test]
fn a_tagged_route_of_another_metric_or_of_several_gateways_is_not_ours() {
    in_namespace(
        "routes::a_tagged_route_of_another_metric_or_of_several_gateways_is_not_ours",
        async |router| {
            for twin in [
                "route add 10.96.0.0/12 via 192.168.49.2 proto 109 metric 7",
                "route add 10.96.0.0/12 proto 109 nexthop via 192.168.49.2 nexthop via 192.168.49.3",
            ] {
                ip(twin);
                let before = tables();
                remove(&services()).unwrap();
                assert_eq!(tables(), before, "{twin}");
                assert_eq!(router.dump().await.unwrap().ours().next(), None, "{twin}");
                ip(&twin.replace(" add ", " del "));
            }
        },
    );
}

#[test]
fn of_two_routes_to_one_destination_a_delete_takes_ours() {
    in_namespace(
        "routes::of_two_routes_to_one_destination_a_delete_takes_ours",
        async |_| {
            ip("route add 10.96.0.0/12 via 192.168.49.2 metric 5");
            ip("-6 route add fd00:10:96::/112 via fd00:49::2 metric 5");
            let before = tables();
            for route in [services(), services6()] {
                minitunnel_kernel::add(&route).unwrap();
                remove(&route).unwrap();
            }
            assert_eq!(tables(), before);
        },
    );
}

#[test]
fn a_delete_finds_ours_behind_a_narrower_route() {
    in_namespace(
        "routes::a_delete_finds_ours_behind_a_narrower_route",
        async |_| {
            ip("route add 10.96.0.0/32 via 192.168.49.7");
            ip("-6 route add fd00:10:96::/128 via fd00:49::7");
            let before = tables();
            for route in [services(), services6()] {
                minitunnel_kernel::add(&route).unwrap();
                remove(&route).unwrap();
            }
            assert_eq!(tables(), before);
        },
    );
}

#[test]
fn who_may_not_change_routes_is_told_so() {
    let dropping = [
        "sh",
        "-ec",
        "ip route add 10.96.0.0/12 via 192.168.49.2 proto 109
         exec setpriv --bounding-set=-net_admin --inh-caps=-net_admin -- \"$@\"",
        "sh",
    ];
    in_namespace_as(
        &dropping,
        "routes::who_may_not_change_routes_is_told_so",
        async |router| {
            let error = minitunnel_kernel::add(&services6()).unwrap_err();
            assert!(matches!(error, Error::Refused(_)), "{error}");
            let error = remove(&services()).unwrap_err();
            assert!(matches!(error, Error::Refused(_)), "{error}");
            // Reading is for everybody.
            router.dump().await.unwrap();
            lookup(addr("192.168.49.2"), 0).unwrap();
        },
    );
}

#[test]
fn a_lookup_tells_the_way() {
    in_namespace("routes::a_lookup_tells_the_way", async |router| {
        ip("route add 10.0.0.0/8 via 192.168.49.9");
        let host0 = *router
            .dump()
            .await
            .unwrap()
            .links
            .iter()
            .find(|(_, link)| link.name == "host0")
            .unwrap()
            .0;
        let (neighbour, inside) = (addr("192.168.49.2"), addr("10.1.2.3"));
        let on_link = Entry {
            destination: neighbour.into(),
            link: host0,
            table: MAIN_TABLE,
            // It tells the source address, too.
            special: true,
            ..Entry::default()
        };
        assert_eq!(lookup(neighbour, 0).unwrap(), on_link);

        let routed = Entry {
            destination: inside.into(),
            gateway: Some(addr("192.168.49.9")),
            ..on_link
        };
        assert_eq!(lookup(inside, 0).unwrap(), routed);
    });
}

#[test]
fn this_machines_own_address_is_no_gateway() {
    in_namespace(
        "routes::this_machines_own_address_is_no_gateway",
        async |_| {
            for own in ["192.168.49.1", "fd00:49::1"] {
                let way = lookup(addr(own), 0).unwrap();
                assert_eq!(way.kind, Kind::Local);
            }
            // The kernel itself would take it.
            minitunnel_kernel::add(&route("10.96.0.0/12", "192.168.49.1")).unwrap();
        },
    );
}

#[test]
fn a_lookup_without_a_way_says_so() {
    in_namespace("routes::a_lookup_without_a_way_says_so", async |_| {
        ip("route add unreachable 10.1.0.0/16");
        ip("route add prohibit 10.2.0.0/16");
        ip("route add blackhole 10.3.0.0/16");
        ip("-6 route add unreachable fd01::/16");
        for nowhere in [
            "172.16.0.1",
            "10.1.0.1",
            "10.2.0.1",
            "10.3.0.1",
            "fc00::1",
            "fd01::1",
        ] {
            let answer = lookup(addr(nowhere), 0);
            assert!(
                matches!(answer, Err(Error::NoRoute(to)) if to == addr(nowhere)),
                "{nowhere}: {answer:?}"
            );
        }
    });
}

#[test]
fn a_lookup_goes_through_the_rules_also_for_the_source_that_was_picked() {
    in_namespace(
        "routes::a_lookup_goes_through_the_rules_also_for_the_source_that_was_picked",
        async |_| {
            minitunnel_kernel::add(&services()).unwrap();
            let inside = addr("10.96.0.10");
            ip("route add default via 192.168.49.9 table 1000");
            assert!(lookup(inside, 0).unwrap().takes(&services()));

            // A connection looks up again once it has its source.
            ip("rule add from 192.168.0.0/16 lookup 1000");
            let way = lookup(inside, 0).unwrap();
            assert_eq!((way.table, way.gateway), (1000, Some(addr("192.168.49.9"))));
            assert!(!way.takes(&services()));
        },
    );
}

#[test]
fn another_programs_route_goes_alone_and_only_as_it_was_shown() {
    in_namespace(
        "routes::another_programs_route_goes_alone_and_only_as_it_was_shown",
        async |router| {
            ip("route add 10.96.0.0/12 via 192.168.49.2 metric 5");
            ip("route add 10.96.0.0/12 via 192.168.49.2 table 77");
            ip("route add 10.96.0.0/16 via 192.168.49.2");
            ip("-6 route add fd00:10:96::/112 via fd00:49::2 metric 5");
            let before = tables();
            ip("route add 10.96.0.0/12 via 192.168.49.2");
            ip("-6 route add fd00:10:96::/112 via fd00:49::2");
            for route in [services(), services6()] {
                let table = router.dump().await.unwrap();
                let usual = if route.gateway.is_ipv4() { 0 } else { 1024 };
                let is = |entry: &&minitunnel_routing::Entry| {
                    (entry.destination, entry.metric, entry.table)
                        == (route.destination, usual, MAIN_TABLE)
                };
                let entry = *table.entries.iter().find(is).unwrap();
                let other = minitunnel_kernel::Entry {
                    protocol: 4,
                    ..entry
                };
                let there = tables();
                minitunnel_kernel::remove(|found| *found == other).unwrap();
                assert_eq!(tables(), there);
                minitunnel_kernel::remove(|found| *found == entry).unwrap();
            }
            assert_eq!(tables(), before);
        },
    );
}
