//! The real program, peer to peer and on a bus, on a real kernel's routing table: each test in a network namespace of its own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "it is how a test fails, in its helpers too"
)]

mod bus;
mod lab;

use std::{
    net::IpAddr,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    process::Child,
    time::Duration,
};

use futures::StreamExt;
use lab::{Helper, Kept, enter, in_namespace, ip, run, table, wait_for_end};
use minitunnel_helper_api::{Client, HelperError, HelperEvent, LeaseState};
use minitunnel_model::{ConflictKind, Origin, ProfileName, Route, TableEntry};
use rustix::process::Signal;

const SERVICES: &str = "10.96.0.0/12";
const PODS: &str = "10.244.0.0/16";

fn profile() -> ProfileName {
    "minikube".parse().unwrap()
}

fn route(destination: &str) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        gateway: IpAddr::from([192, 168, 49, 2]),
    }
}

async fn connect(stream: UnixStream) -> Client {
    Client::peer(stream).await.unwrap()
}

/// The part of a client in a process of its own: it applies, says so, and lives until its helper ends.
fn client() {
    run(async {
        let client = connect(minitunnel_helper_api::inherited().unwrap().unwrap()).await;
        let mut events = client.events().await.unwrap();
        let routes = [route(SERVICES), route(PODS)];
        client.apply(&profile(), &routes, true).await.unwrap();
        println!("applied by {}", std::process::id());
        while events.next().await != Some(HelperEvent::Gone) {}
        println!("gone");
    });
}

/// A helper, and a client in a process of its own that has applied.
fn helper_and_client(test: &str) -> (Helper, Child) {
    let (helper, stream) = Helper::start();
    let child = lab::client(test, stream);
    (helper, child)
}

#[test]
fn routes_are_applied_and_released() {
    in_namespace("routes_are_applied_and_released", client, || {
        let before = table();
        let (helper, stream) = Helper::start();
        run(async {
            let client = connect(stream).await;
            assert_eq!(client.version(), env!("CARGO_PKG_VERSION"));
            let ipv6 = Route {
                destination: "fd00:10:96::/112".parse().unwrap(),
                gateway: "fd00:49::2".parse().unwrap(),
            };
            let routes = [route(SERVICES), route(PODS), ipv6];
            assert_eq!(client.apply(&profile(), &routes, false).await, Ok(1));
            let added: Vec<String> = table()
                .into_iter()
                .filter(|line| !before.contains(line))
                .collect();
            assert_eq!(
                added,
                [
                    "10.244.0.0/16 via 192.168.49.2 dev cluster proto 109",
                    "10.96.0.0/12 via 192.168.49.2 dev cluster proto 109",
                    "fd00:10:96::/112 via fd00:49::2 dev cluster proto 109 metric 1024 pref medium"
                ]
            );
            let leases = client.list().await.unwrap();
            assert_eq!(leases.len(), 1);
            assert_eq!(leases[0].profile, Some(profile()));
            assert_eq!(leases[0].state, LeaseState::Active);
            assert_eq!(leases[0].routes, routes);
            assert_ne!(leases[0].started, 0);

            // The node is another one now.
            let moved = Route {
                gateway: IpAddr::from([192, 168, 49, 3]),
                ..route(SERVICES)
            };
            client.apply(&profile(), &[moved], false).await.unwrap();
            let now = table();
            assert_eq!(now.len(), before.len() + 1);
            let line = "10.96.0.0/12 via 192.168.49.3 dev cluster proto 109";
            assert!(now.contains(&line.to_owned()), "{now:?}");

            // A wider network by another node: the kernel would prefer the narrower one.
            for set in [route("10.96.0.0/16"), moved] {
                client.apply(&profile(), &[set], false).await.unwrap();
            }
            let now = table();
            assert_eq!(now.len(), before.len() + 1);
            assert!(now.contains(&line.to_owned()), "{now:?}");
            client.release(&profile()).await.unwrap();
            assert_eq!(table(), before);
            assert_eq!(client.list().await, Ok(Vec::new()));
        });
        assert!(helper.ends_well());
        assert_eq!(table(), before);
    });
}

#[test]
fn an_overlap_is_refused_and_changes_nothing() {
    in_namespace("an_overlap_is_refused_and_changes_nothing", client, || {
        let (_helper, stream) = Helper::start();
        run(async {
            let client = connect(stream).await;
            for (foreign, kind) in [
                ("10.96.0.0/12", ConflictKind::SameDestination),
                ("10.100.0.0/24", ConflictKind::Covers),
                ("10.0.0.0/8", ConflictKind::CoveredBy),
            ] {
                ip(&format!("route add {foreign} via 192.168.49.9 metric 77"));
                let before = table();
                let routes = [route(SERVICES)];
                let answer = client.apply(&profile(), &routes, false).await;
                let Err(HelperError::Conflict { conflicts, message }) = answer else {
                    panic!("{foreign}: {answer:?}");
                };
                assert_eq!(conflicts[0].kind, kind);
                assert_eq!(conflicts[0].ours, route(SERVICES));
                assert_eq!(conflicts[0].other.destination, foreign.parse().unwrap());
                assert_eq!(message, conflicts[0].effect);
                assert_eq!(table(), before);
                ip(&format!("route del {foreign} via 192.168.49.9 metric 77"));
            }
            client
                .apply(&profile(), &[route(SERVICES)], false)
                .await
                .unwrap();
        });
    });
}

#[test]
fn hostile_calls_are_refused_and_change_nothing() {
    in_namespace(
        "hostile_calls_are_refused_and_change_nothing",
        client,
        || {
            let before = table();
            let (_helper, stream) = Helper::start();
            run(async {
                let client = connect(stream).await;
                let own = Route {
                    gateway: IpAddr::from([192, 168, 49, 1]),
                    ..route(SERVICES)
                };
                let far = Route {
                    gateway: IpAddr::from([192, 168, 77, 2]),
                    ..route(SERVICES)
                };
                for gateway in [own, far] {
                    let answer = client.apply(&profile(), &[gateway], false).await;
                    assert!(
                        matches!(answer, Err(HelperError::GatewayUnreachable(_))),
                        "{answer:?}"
                    );
                }
                for destination in ["0.0.0.0/0", "127.0.0.0/8", "192.168.49.0/24", "8.8.8.0/24"] {
                    let answer = client.apply(&profile(), &[route(destination)], false).await;
                    assert!(
                        matches!(
                            answer,
                            Err(HelperError::InvalidRoute(_) | HelperError::Conflict { .. })
                        ),
                        "{destination}: {answer:?}"
                    );
                }
                let stale = client.remove_stale(&lab::kernel_entry()).await;
                assert!(
                    matches!(stale, Err(HelperError::InvalidRoute(_))),
                    "{stale:?}"
                );
            });
            assert_eq!(table(), before);
        },
    );
}

#[test]
fn a_set_that_nobody_confirms_goes() {
    in_namespace("a_set_that_nobody_confirms_goes", client, || {
        let before = table();
        let (_helper, stream) = Helper::start();
        run(async {
            let client = connect(stream).await;
            let mut events = client.events().await.unwrap();
            let second = Duration::from_secs(1);
            let routes = [route(SERVICES)];
            client
                .apply_guarded(&profile(), &routes, false, second)
                .await
                .unwrap();
            assert_eq!(
                client.list().await.unwrap()[0].state,
                LeaseState::Unconfirmed
            );
            let ended = events.next().await;
            assert!(
                matches!(ended, Some(HelperEvent::LeaseEnded { .. })),
                "{ended:?}"
            );
            assert_eq!(table(), before);

            let again = client
                .apply_guarded(&profile(), &routes, false, second)
                .await
                .unwrap();
            client.confirm(&profile(), again).await.unwrap();
            assert_eq!(client.list().await.unwrap()[0].state, LeaseState::Active);
        });
    });
}

#[test]
fn cleanup_removes_what_a_dead_helper_left_without_a_journal() {
    in_namespace(
        "cleanup_removes_what_a_dead_helper_left_without_a_journal",
        client,
        || {
            let before = table();
            ip("route add 10.32.0.0/16 via 192.168.49.2 proto 109");
            ip("route add 10.33.0.0/16 via 192.168.49.2 proto 110");
            let (_helper, stream) = Helper::start();
            run(async {
                let client = connect(stream).await;
                assert_eq!(client.cleanup().await, Ok(vec![route("10.32.0.0/16")]));
            });
            ip("route del 10.33.0.0/16");
            assert_eq!(table(), before);
        },
    );
}

#[test]
fn of_foreign_routes_only_one_as_minikube_makes_it_is_ever_removed() {
    const TEST: &str = "of_foreign_routes_only_one_as_minikube_makes_it_is_ever_removed";
    in_namespace(TEST, client, || {
        let (_helper, stream) = Helper::start();
        run(async {
            let client = connect(stream).await;
            let before = table();
            for (words, protocol, goes) in [
                ("", 3, true),
                // An administrator's, and networkd's and NetworkManager's for one.
                (" proto static", 4, false),
                (" src 192.168.49.1", 3, false),
                (" mtu 1400", 3, false),
                (" tos 4", 3, false),
            ] {
                ip(&format!("route add 10.50.0.0/16 via 192.168.49.2{words}"));
                let made = table();
                let named = TableEntry {
                    destination: "10.50.0.0/16".parse().unwrap(),
                    gateway: Some(IpAddr::from([192, 168, 49, 2])),
                    origin: Origin::Foreign(protocol),
                    ..lab::kernel_entry()
                };
                let answer = client.remove_stale(&named).await;
                assert_eq!(answer.is_ok(), goes, "{words}: {answer:?}");
                if !goes {
                    assert_eq!(table(), made, "{words}");
                    ip(&format!("route del 10.50.0.0/16{words}"));
                }
                assert_eq!(table(), before, "{words}");
            }
        });
    });
}

#[test]
fn a_recovery_that_the_kernel_refuses_waits_and_leaves_the_journal_to_the_next_one() {
    const TEST: &str =
        "a_recovery_that_the_kernel_refuses_waits_and_leaves_the_journal_to_the_next_one";
    in_namespace(TEST, client, || {
        let before = table();
        ip("route add 10.96.0.0/12 via 192.168.49.2 proto 109");
        let state = tempfile::tempdir().unwrap();
        let journal = state.path().join("state/journal.json");
        lab::private_folder(&state.path().join("state"));
        std::fs::write(&journal, "{").unwrap();
        std::fs::set_permissions(&journal, PermissionsExt::from_mode(0o600)).unwrap();
        let begun = std::time::Instant::now();
        // Root of another user namespace has the capability, and no right to this network.
        let refused = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", lab::PROGRAM, "recover"])
            .arg("--state-dir")
            .arg(state.path().join("state"))
            .status();
        assert_eq!(refused.unwrap().code(), Some(1));
        // Ten in ten seconds, of which systemd starts 50.
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert_ne!(table(), before);
        assert_eq!(std::fs::read_to_string(&journal).unwrap(), "{");
        lab::recover(&state);
        assert_eq!(table(), before);
    });
}

#[test]
fn a_route_of_ours_goes_where_somebody_elses_next_hop_has_joined_it() {
    const TEST: &str = "a_route_of_ours_goes_where_somebody_elses_next_hop_has_joined_it";
    in_namespace(TEST, client, || {
        let before = table();
        let ours = Route {
            destination: "fd00:10:96::/112".parse().unwrap(),
            gateway: "fd00:49::2".parse().unwrap(),
        };
        let theirs = "fd00:10:96::/112 via fd00:49::3";
        let join = || {
            ip(&format!(
                "-6 route append {theirs} metric 1024 proto static"
            ))
        };
        let left_alone = || {
            let now = table();
            let mut added = now.iter().filter(|line| !before.contains(line));
            let line = added.next().unwrap();
            assert!(
                line.starts_with(&format!("{theirs} dev cluster")),
                "{now:?}"
            );
            assert_eq!((now.len(), added.next()), (before.len() + 1, None));
            ip(&format!("-6 route del {theirs}"));
        };
        let (helper, stream) = Helper::start();
        run(async {
            let client = connect(stream).await;
            client.apply(&profile(), &[ours], false).await.unwrap();
            join();
            // What is held is not made again.
            client.apply(&profile(), &[ours], false).await.unwrap();
            client.release(&profile()).await.unwrap();
            let again = client.apply(&profile(), &[ours], false).await;
            assert!(
                matches!(again, Err(HelperError::Conflict { .. })),
                "{again:?}"
            );
        });
        assert!(helper.ends_well());
        left_alone();

        let (_helper, stream) = Helper::start();
        run(async {
            let client = connect(stream).await;
            ip("-6 route add fd00:10:96::/112 via fd00:49::2 proto 109");
            join();
            assert_eq!(client.cleanup().await, Ok(vec![ours]));
        });
        left_alone();
        assert_eq!(table(), before);
    });
}

#[test]
fn a_killed_clients_routes_go() {
    const TEST: &str = "a_killed_clients_routes_go";
    in_namespace(TEST, client, || {
        let before = table();
        let (helper, mut client) = helper_and_client(TEST);
        assert_eq!(table().len(), before.len() + 2);
        client.kill().unwrap();
        client.wait().unwrap();
        assert!(helper.ends_well());
        assert_eq!(table(), before);
    });
}

#[test]
fn a_killed_helpers_routes_go_with_recover() {
    const TEST: &str = "a_killed_helpers_routes_go_with_recover";
    in_namespace(TEST, client, || {
        let before = table();
        let (helper, mut client) = helper_and_client(TEST);
        let state = helper.kill();
        // Its client sees it at once, and nobody else can remove the routes.
        assert!(client.wait().unwrap().success());
        assert_eq!(table().len(), before.len() + 2);
        lab::recover(&state);
        assert_eq!(table(), before);
    });
}

#[test]
fn a_helper_that_is_told_to_end_leaves_nothing() {
    const TEST: &str = "a_helper_that_is_told_to_end_leaves_nothing";
    in_namespace(TEST, client, || {
        let before = table();
        let (helper, mut client) = helper_and_client(TEST);
        helper.signal(Signal::TERM);
        assert!(helper.ends_well());
        assert_eq!(table(), before);
        assert!(client.wait().unwrap().success());
    });
}

#[test]
fn there_are_never_two_helpers() {
    const TEST: &str = "there_are_never_two_helpers";
    in_namespace(TEST, client, || {
        let (first, stream) = Helper::start();
        run(async {
            // It serves, so it has the lock.
            let client = connect(stream).await;
            let said = lab::second_helper(&first);
            let process = format!(
                "another minitunnel helper is at work (process {})",
                first.pid()
            );
            assert!(said.contains(&process), "{said}");
            assert_eq!(client.list().await, Ok(Vec::new()));
        });
    });
}

#[test]
fn a_helper_that_nobody_calls_keeps_no_other_one_from_its_work() {
    const TEST: &str = "a_helper_that_nobody_calls_keeps_no_other_one_from_its_work";
    in_namespace(TEST, client, || {
        let (uncalled, silent) = Helper::start();
        let (caller, stream) = uncalled.another();
        run(async {
            let client = connect(stream).await;
            let routes = [route(SERVICES)];
            assert_eq!(client.apply(&profile(), &routes, false).await, Ok(1));
        });
        assert!(caller.ends_well());
        drop(silent);
        assert!(uncalled.ends_well());
    });
}

#[test]
fn the_helper_has_one_capability_and_no_way_to_another() {
    const TEST: &str = "the_helper_has_one_capability_and_no_way_to_another";
    in_namespace(TEST, client, || {
        let (helper, _client) = helper_and_client(TEST);
        let status = std::fs::read_to_string(format!("/proc/{}/status", helper.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].trim().to_owned()
        };
        // CAP_NET_ADMIN is number 12.
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(field(set), "0000000000001000", "{set}");
        }
        for set in ["CapInh:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
    });
}

#[test]
fn of_three_kept_processes_the_death_of_any_one_leaves_nothing() {
    const TEST: &str = "of_three_kept_processes_the_death_of_any_one_leaves_nothing";
    in_namespace(TEST, client, || {
        let before = table();
        for victim in ["client", "helper", "keeper"] {
            let kept = Kept::start(TEST);
            assert_eq!(table().len(), before.len() + 2);
            let all = kept.pids();
            let ends = kept.watch();
            kept.kill(victim);
            wait_for_end(ends);
            assert_eq!(table(), before, "after the {victim} of {all:?}");
        }
    });
}

#[test]
fn a_helper_that_was_killed_is_no_orderly_end_of_its_command() {
    const TEST: &str = "a_helper_that_was_killed_is_no_orderly_end_of_its_command";
    in_namespace(TEST, client, || {
        let kept = Kept::start(TEST);
        kept.kill("helper");
        // The client itself ends with 0; that the helper is not to be had is 6 in minitunnel's words.
        assert_eq!(kept.code(), Some(6));
    });
}

#[test]
fn a_helper_that_left_routes_is_followed_by_one_that_removes_them_or_the_keeper_fails() {
    const TEST: &str =
        "a_helper_that_left_routes_is_followed_by_one_that_removes_them_or_the_keeper_fails";
    in_namespace(TEST, client, || {
        // It ends as one does that the kernel refuses to remove its routes: at once, or with its client.
        for waits in ["", "cat"] {
            for (recovers, code) in [("exit 0", 0), ("exit 1", 1)] {
                let folder = tempfile::tempdir().unwrap();
                let (helper, recovered) = (folder.path().join("h"), folder.path().join("r"));
                let serve = format!("[ $1 = serve ] && {{ {waits}; exit 1; }}").replace("{ ;", "{");
                let recover = format!("touch {}; {recovers}", recovered.display());
                std::fs::write(&helper, format!("#!/bin/sh\n{serve}\n{recover}\n")).unwrap();
                std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
                let kept = lab::keep_with(&helper, &["true"], &[]);
                assert!(recovered.exists(), "{waits}: nobody tried again");
                assert_eq!(
                    kept.status.code(),
                    Some(code),
                    "{waits}, {recovers}: {kept:?}"
                );
            }
        }
    });
}

#[test]
fn a_kept_command_gets_the_keepers_signals_and_gives_its_exit_code() {
    const TEST: &str = "a_kept_command_gets_the_keepers_signals_and_gives_its_exit_code";
    in_namespace(TEST, client, || {
        assert_eq!(
            lab::keep(&["sh", "-c", "exit 7"], &[]).status.code(),
            Some(7)
        );
        let trap = "trap 'exit 8' INT; kill -INT $PPID; while :; do :; done";
        assert_eq!(lab::keep(&["bash", "-c", trap], &[]).status.code(), Some(8));
    });
}

#[test]
fn a_kept_command_runs_as_the_user_who_called_sudo() {
    const TEST: &str = "a_kept_command_runs_as_the_user_who_called_sudo";
    in_namespace(TEST, client, || {
        enter::real_root();
        lab::add_group("minitunnel-test:x:4242:nobody");
        let print = "id -u; id -g; id -G; echo $HOME; grep CapEff /proc/self/status | tr -d '\\t'";
        let output = lab::keep(
            &["sh", "-c", print],
            &[("SUDO_UID", "65534"), ("HOME", "/root")],
        );
        // Debian's nobody.
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "65534\n65534\n65534 4242\n/nonexistent\nCapEff:0000000000000000\n"
        );
        assert_eq!(output.status.code(), Some(0));
    });
}
