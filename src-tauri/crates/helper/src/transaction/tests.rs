use minitunnel_contract::Overlap;
use proptest::prelude::*;

use super::*;
use crate::{
    journal::Journal,
    testing::{Faults, World, change, entry, owner, profile, route, routes},
};

const SERVICES: &str = "10.96.0.0/12";
const PODS: &str = "10.244.0.0/16";
const POOL: &str = "172.31.7.0/28";

/// The journal without the number that only a success may use up.
fn essence(journal: &Journal) -> Journal {
    Journal {
        generation: 0,
        ..journal.clone()
    }
}

#[test]
fn routes_and_journal_change_together() {
    let world = World::new();
    let mut registry = world.registry();
    let generation = registry.apply(&change(&[SERVICES, PODS])).unwrap();
    assert_eq!(generation, 1);
    assert_eq!(world.ours(), routes(&[SERVICES, PODS]));
    assert_eq!(world.disk().unwrap(), registry.journal);
    let record = registry
        .journal
        .record(&owner(":1.1"), &profile("minikube"))
        .unwrap();
    assert_eq!(record.routes, routes(&[SERVICES, PODS]));
    assert_eq!(registry.journal.applying, None);
}

#[test]
fn a_set_replaces_the_one_before() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES, PODS])).unwrap();
    registry.apply(&change(&[SERVICES, POOL])).unwrap();
    assert_eq!(world.ours(), routes(&[SERVICES, POOL]));
}

#[test]
fn the_same_set_again_touches_no_route() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    world.fail(Faults::default());
    assert_eq!(registry.apply(&change(&[SERVICES])).unwrap(), 2);
    // A dump, the way to the gateway, and the journal twice.
    assert_eq!(world.operations(), 4);
}

#[test]
fn the_same_set_again_puts_back_what_is_lost() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES, PODS])).unwrap();
    world.lose(&route(PODS));
    registry.apply(&change(&[SERVICES, PODS])).unwrap();
    assert_eq!(world.ours(), routes(&[SERVICES, PODS]));
}

#[test]
fn a_gateway_moves() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES, PODS])).unwrap();
    registry.apply(&change(&["10.96.0.0/12@3", PODS])).unwrap();
    assert_eq!(world.ours(), routes(&["10.96.0.0/12@3", PODS]));
}

#[test]
fn a_gateway_moves_with_a_wider_or_a_narrower_network() {
    for (before, after) in [
        ("10.96.0.0/16", "10.96.0.0/12@3"),
        (SERVICES, "10.96.0.0/16@3"),
    ] {
        let world = World::new();
        let mut registry = world.registry();
        registry.apply(&change(&[before])).unwrap();
        registry.apply(&change(&[after])).unwrap();
        assert_eq!(world.ours(), routes(&[after]));
    }
}

#[test]
fn an_empty_set_releases() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    registry.apply(&change(&[])).unwrap();
    assert_eq!(world.ours(), routes(&[]));
    assert_eq!(world.disk().unwrap().records, []);
}

#[test]
fn an_overlap_is_refused_before_anything_is_written() {
    let world = World::new();
    world.insert(entry("10.0.0.0/8"));
    let mut registry = world.registry();
    let refused = registry.apply(&change(&[SERVICES]));
    assert!(
        matches!(&refused, Err(Refusal::Conflict(_, json)) if serde_json::from_str::<Vec<Overlap>>(json).unwrap().len() == 1),
        "{refused:?}"
    );
    assert_eq!(world.ours(), routes(&[]));
    assert_eq!(world.disk(), Some(Journal::default()));
}

#[test]
fn an_overlap_that_comes_over_what_is_held_stops_no_other_change() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES, PODS])).unwrap();
    world.insert(entry("10.244.7.0/24"));
    // Again, one more, one less, another gateway for one that nothing overlaps: the pods' route is kept.
    for wanted in [
        &[SERVICES, PODS][..],
        &[SERVICES, PODS, POOL],
        &["10.96.0.0/12@3", PODS],
        &[PODS],
    ] {
        registry.apply(&change(wanted)).unwrap();
        assert_eq!(world.ours(), routes(wanted));
    }
    // It is made neither anew nor by another gateway.
    for wanted in [&["10.244.0.0/16@3"][..], &["10.244.0.0/17"]] {
        let refused = registry.apply(&change(wanted));
        assert!(matches!(refused, Err(Refusal::Conflict(..))), "{refused:?}");
        assert_eq!(world.ours(), routes(&[PODS]));
    }
    registry.apply(&change(&[])).unwrap();
    let refused = registry.apply(&change(&[PODS]));
    assert!(matches!(refused, Err(Refusal::Conflict(..))), "{refused:?}");
}

#[test]
fn of_many_overlaps_a_hundred_are_told() {
    let world = World::new();
    for n in 0..200 {
        world.insert(entry(&format!("10.100.{n}.0/24")));
    }
    let refused = world.registry().apply(&change(&[SERVICES]));
    assert!(
        matches!(&refused, Err(Refusal::Conflict(_, json)) if serde_json::from_str::<Vec<Overlap>>(json).unwrap().len() == 100),
        "{refused:?}"
    );
}

#[test]
fn a_route_that_comes_between_is_found_and_everything_taken_back() {
    for intruder in [
        "10.96.0.0/12",
        "10.100.0.0/24",
        "10.96.0.1/32",
        "10.0.0.0/8",
    ] {
        let world = World::new();
        let mut registry = world.registry();
        registry.apply(&change(&[PODS])).unwrap();
        let before = essence(&registry.journal);
        world.intrude(entry(intruder));
        let refused = registry.apply(&change(&[PODS, POOL, SERVICES]));
        assert!(
            matches!(refused, Err(Refusal::Conflict(..))),
            "{intruder}: {refused:?}"
        );
        assert_eq!(world.ours(), routes(&[PODS]), "{intruder}");
        assert_eq!(essence(&registry.journal), before, "{intruder}");
        assert_eq!(essence(&world.disk().unwrap()), before, "{intruder}");
    }
}

#[test]
fn a_gateway_that_is_this_machine_or_far_away_is_refused() {
    for gateway in ["192.168.49.1", "192.168.77.2"] {
        let world = World::new();
        let mut registry = world.registry();
        let mut wanted = change(&[]);
        wanted.after = [Route {
            gateway: gateway.parse().unwrap(),
            ..route(SERVICES)
        }]
        .into();
        let refused = registry.apply(&wanted);
        assert!(
            matches!(refused, Err(Refusal::GatewayUnreachable(_))),
            "{gateway}: {refused:?}"
        );
        assert_eq!(world.ours(), routes(&[]));
    }
}

#[test]
fn without_a_journal_nothing_changes() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[PODS])).unwrap();
    let before = registry.journal.clone();
    // A dump, the way to the gateway, and then the journal.
    world.fail(Faults {
        refused: [2].into(),
        ..Faults::default()
    });
    for after in [&[SERVICES][..], &[]] {
        let refused = registry.apply(&change(after));
        // A release asks for no gateway: its second journal write fails, and the routes come back.
        assert!(
            matches!(
                refused,
                Err(Refusal::JournalFailed(_) | Refusal::RolledBack(_))
            ),
            "{refused:?}"
        );
        assert_eq!(world.ours(), routes(&[PODS]));
        assert_eq!(registry.journal, before);
        world.fail(Faults {
            refused: [3].into(),
            ..Faults::default()
        });
    }
}

#[test]
fn what_cannot_be_undone_ends_the_helper_and_goes_with_the_next_one() {
    let world = World::new();
    let mut registry = world.registry();
    // Dump, gateway, journal, add, add (fails); then the undo's delete fails, and that of the whole lease.
    world.fail(Faults {
        refused: [4, 5, 6].into(),
        ..Faults::default()
    });
    let answer = registry.apply(&change(&[SERVICES, PODS]));
    assert!(
        matches!(answer, Err(Refusal::RollbackIncomplete(_))),
        "{answer:?}"
    );
    assert_eq!(world.ours(), routes(&[SERVICES]));
    assert!(registry.broken);
    let said = sentence(answer.as_ref().unwrap_err());
    assert!(said.ends_with(
        "all routes of minikube stay until the next helper, which tries again to remove them"
    ));
    world.fail(Faults::default());
    assert!(!world.registry().broken);
    assert_eq!(world.ours(), routes(&[]));
    assert!(world.disk().unwrap().is_idle());
}

#[test]
fn a_set_does_not_come_back_over_what_has_come_in_its_way() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    // Dump, gateway, journal, and the delete with which the gateway moves: then the helper is killed.
    world.fail(Faults {
        refused: (4..200).collect(),
        ..Faults::default()
    });
    registry.apply(&change(&["10.96.0.0/12@3"])).unwrap_err();
    world.fail(Faults::default());
    world.insert(entry("10.100.0.0/24"));
    let next = world.registry();
    assert_eq!(world.ours(), routes(&[]));
    assert_eq!(next.journal.records, []);
}

#[test]
fn where_the_set_before_cant_come_back_the_lease_ends() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES, PODS])).unwrap();
    // Somebody takes the destination in the moment in which its gateway moves.
    world.intrude(entry(SERVICES));
    let answer = registry.apply(&change(&["10.96.0.0/12@3", PODS]));
    assert!(
        matches!(answer, Err(Refusal::RollbackIncomplete(_))),
        "{answer:?}"
    );
    assert!(!registry.broken);
    assert!(sentence(&answer.unwrap_err()).ends_with("are removed: start it again"));
    assert_eq!(world.ours(), routes(&[]));
    assert_eq!(world.disk().unwrap().records, []);
}

/// Sets of routes that a transaction goes between; in some of them a destination has another gateway.
fn sets() -> impl Strategy<Value = Vec<&'static str>> {
    let through = |services, pool| vec![services, PODS, pool, "192.168.200.0/24"];
    prop_oneof![
        prop::sample::subsequence(through(SERVICES, POOL), 0..=4),
        prop::sample::subsequence(through("10.96.0.0/12@3", "172.31.7.0/28@3"), 0..=4),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The heart of the helper: wherever it fails, everything is as before, or what is not is named and tried again.
    #[test]
    fn any_failing_step_leaves_everything_as_before_or_says_what_is_stuck(
        before in sets(),
        after in sets(),
        intruder in prop::option::of(prop::sample::select(vec!["10.96.0.1/32", "10.244.0.0/16", "172.16.0.0/12"])),
        refused in prop::collection::btree_set(0usize..24, 0..4),
        answer_lost in prop::collection::btree_set(0usize..24, 0..2),
    ) {
        let world = World::new();
        let mut registry = world.registry();
        registry.apply(&change(&before)).unwrap();
        let held = routes(&before);
        let journal = essence(&registry.journal);
        if let Some(intruder) = intruder {
            world.intrude(entry(intruder));
        }
        world.fail(Faults { refused, answer_lost });
        let answer = registry.apply(&change(&after));
        let foreign = world.foreign();

        match &answer {
            Ok(_) => {
                prop_assert_eq!(world.ours(), routes(&after));
                if before != after {
                    prop_assert_eq!(&world.disk().unwrap_or_default(), &registry.journal);
                }
            }
            Err(Refusal::RollbackIncomplete(_)) => {
                // All of it went, or the next helper knows of it.
                let known = world.disk().unwrap_or_default().possible(|_| true);
                prop_assert!(registry.broken || world.ours().is_empty(), "{:?}", answer);
                prop_assert!(world.ours().is_subset(&known), "{:?}", answer);
            }
            Err(_) => {
                prop_assert!(!registry.broken);
                prop_assert_eq!(world.ours(), held.clone(), "{:?}", answer);
                prop_assert_eq!(essence(&registry.journal), journal.clone(), "{:?}", answer);
            }
        }

        // A helper that lives goes on from there, whatever the file says.
        world.fail(Faults::default());
        if let Err(error) = &answer && !matches!(error, Refusal::RollbackIncomplete(_)) {
            let next = world.registry();
            prop_assert_eq!(world.ours(), held);
            prop_assert_eq!(next.journal.possible(|_| true), journal.possible(|_| true));
        }

        // A helper that is killed now leaves a journal from which the next one removes everything.
        let next = world.recovered(&[]);
        prop_assert!(!next.broken);
        prop_assert_eq!(world.ours(), routes(&[]));
        prop_assert!(world.disk().unwrap().is_idle());
        prop_assert_eq!(world.foreign(), foreign);
    }

    /// However far it came: killed before any one operation, the next helper removes everything, or goes on with the
    /// set before for an owner that lives.
    #[test]
    fn killed_at_any_operation_nothing_stays_that_the_journal_does_not_know(
        before in sets(),
        after in sets(),
        at in 0usize..20,
        lives: bool,
    ) {
        let world = World::new();
        let mut registry = world.registry();
        registry.apply(&change(&before)).unwrap();
        // Every operation from that one on fails: the process is not there any more.
        world.fail(Faults { refused: (at..200).collect(), ..Faults::default() });
        let answer = registry.apply(&change(&after));
        world.fail(Faults::default());
        let alive: Vec<_> = lives.then(|| owner(":1.1")).into_iter().collect();
        let next = world.recovered(&alive);
        let expected = match (lives, answer.is_ok()) {
            (false, _) => routes(&[]),
            (true, true) => routes(&after),
            (true, false) => routes(&before),
        };
        prop_assert_eq!(world.ours(), expected);
        prop_assert!(!next.broken);
    }
}
