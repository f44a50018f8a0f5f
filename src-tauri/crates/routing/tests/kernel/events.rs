use std::fs;

use futures::FutureExt;
use minitunnel_routing::{Events, Router};

use crate::lab::*;

/// The change must be queued already: the kernel tells before it answers who made it.
async fn heard(events: &mut Events, what: &str) {
    events
        .changed()
        .now_or_never()
        .unwrap_or_else(|| panic!("nothing was heard of: {what}"))
        .unwrap();
}

/// Lets the runtime see what is queued, until nothing is.
async fn quiet(events: &mut Events) {
    tokio::task::yield_now().await;
    while events.changed().now_or_never().is_some() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn each_change_is_heard() {
    in_namespace("events::each_change_is_heard", async |_| {
        let mut events = Events::open().unwrap();
        quiet(&mut events).await;
        for words in [
            "route add 10.1.0.0/16 via 192.168.49.9",
            "route del 10.1.0.0/16 via 192.168.49.9",
            "route add 10.1.0.0/16 via 192.168.49.9 table 1000",
            "-6 route add fd01::/32 via fd00:49::9",
            "-6 route del fd01::/32 via fd00:49::9",
            "rule add to 10.1.0.0/16 lookup 1000 priority 5",
            "rule del priority 5",
            "-6 rule add to fd01::/32 lookup 1000 priority 5",
            "addr add 192.168.50.1/24 dev host0",
            "addr del 192.168.50.1/24 dev host0",
            "-6 addr add fd00:50::1/64 dev host0 nodad",
            "link add br0 type bridge",
            "link set br0 name br1",
            "link del br1",
        ] {
            ip(words);
            tokio::time::timeout(std::time::Duration::from_secs(5), events.changed())
                .await
                .unwrap_or_else(|_| panic!("nothing was heard of: {words}"))
                .unwrap();
            quiet(&mut events).await;
        }
    });
}

#[test]
fn what_is_queued_counts_as_one_change() {
    in_namespace("events::what_is_queued_counts_as_one_change", async |_| {
        let mut events = Events::open().unwrap();
        quiet(&mut events).await;
        for third in 0..50 {
            ip(&format!("route add 10.1.{third}.0/24 via 192.168.49.9"));
        }
        tokio::task::yield_now().await;
        heard(&mut events, "fifty routes").await;
        assert!(events.changed().now_or_never().is_none());
    });
}

#[test]
fn a_link_that_goes_down_takes_routes_with_it_and_is_heard() {
    in_namespace(
        "events::a_link_that_goes_down_takes_routes_with_it_and_is_heard",
        async |router: Router| {
            minitunnel_kernel::add(&services()).unwrap();
            minitunnel_kernel::add(&services6()).unwrap();
            let mut events = Events::open().unwrap();
            quiet(&mut events).await;
            ip("link set host0 down");
            tokio::time::timeout(std::time::Duration::from_secs(5), events.changed())
                .await
                .unwrap()
                .unwrap();
            let dump = router.dump().await.unwrap();
            assert_eq!(dump.ours().count(), 0);
        },
    );
}

#[test]
fn a_queue_that_ran_over_is_a_change_and_the_next_one_is_heard() {
    in_namespace(
        "events::a_queue_that_ran_over_is_a_change_and_the_next_one_is_heard",
        async |_| {
            let mut events = Events::open().unwrap();
            quiet(&mut events).await;
            let batch: String = (0..4_000)
                .map(|number| {
                    format!(
                        "route add 10.1.{}.{}/32 via 192.168.49.9\n",
                        number / 250,
                        number % 250
                    )
                })
                .collect();
            ip_batch(&batch);
            assert!(dropped() > 0, "the queue did not run over");
            tokio::task::yield_now().await;
            heard(&mut events, "four thousand routes").await;
            quiet(&mut events).await;

            ip("route del 10.1.0.1/32 via 192.168.49.9");
            tokio::task::yield_now().await;
            heard(&mut events, "one route").await;
        },
    );
}

/// How many messages this namespace's netlink sockets lost: the ninth column of the kernel's list.
fn dropped() -> u64 {
    fs::read_to_string("/proc/self/net/netlink")
        .unwrap()
        .lines()
        .skip(1)
        .map(|line| {
            let column = line.split_whitespace().nth(8).unwrap();
            column.parse::<u64>().unwrap()
        })
        .sum()
}
