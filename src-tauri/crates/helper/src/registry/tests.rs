use std::time::Duration;

use minitunnel_contract::{Obstacle, Overlap};
use minitunnel_kernel::Entry;

use super::*;
use crate::testing::{Faults, World, change, client, entry, owner, profile, route, routes};

const SERVICES: &str = "10.96.0.0/12";
const PODS: &str = "10.244.0.0/16";

/// A helper with the routes of `:1.1` and, of another user, of `:1.2`.
fn of_two(world: &World) -> Registry<World> {
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    let other = Change {
        client: client(":1.2", 1001),
        ..change(&[PODS])
    };
    registry.apply(&other).unwrap();
    registry
}

/// A change that is to be confirmed within that many seconds.
fn guarded(destinations: &[&str], seconds: u64) -> Change {
    Change {
        trial: Some(Duration::from_secs(seconds)),
        ..change(destinations)
    }
}

fn after(seconds: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(seconds)
}

#[test]
fn a_dead_owners_routes_go_and_another_ones_stay() {
    let world = World::new();
    let mut registry = of_two(&world);
    registry.reap(&owner(":1.1"));
    assert_eq!(world.ours(), routes(&[PODS]));
    assert_eq!(world.disk().unwrap(), registry.journal);
    world.fail(Faults::default());
    registry.reap(&owner(":1.1"));
    assert_eq!(world.operations(), 0);
}

#[test]
fn a_dead_owners_routes_go_even_if_the_journal_cant_be_written() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES, PODS])).unwrap();
    // Two deletes, then the journal.
    world.fail(Faults {
        refused: [2].into(),
        ..Faults::default()
    });
    registry.reap(&owner(":1.1"));
    assert_eq!(world.ours(), routes(&[]));
    assert!(registry.journal.is_idle() && !registry.broken);
}

#[test]
fn a_route_that_the_kernel_keeps_ends_the_helper_and_goes_with_the_next_one() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES, PODS])).unwrap();
    world.fail(Faults {
        refused: [0].into(),
        ..Faults::default()
    });
    registry.reap(&owner(":1.1"));
    assert!(registry.broken);
    let next = world.recovered(&[]);
    assert!(!next.broken);
    assert_eq!(world.ours(), routes(&[]));
    assert!(world.disk().unwrap().is_idle());
}

#[test]
fn the_next_helper_takes_over_the_living_and_removes_the_dead() {
    let world = World::new();
    let mut first = of_two(&world);
    first.grant(&owner(":1.1"));
    first.grant(&owner(":1.2"));
    let second = world.recovered(&[owner(":1.2")]);
    assert_eq!(world.ours(), routes(&[PODS]));
    assert_eq!(second.journal.grants, [owner(":1.2")].into());
    assert_eq!(second.list(0).len(), 1);
    assert_eq!(world.disk().unwrap(), second.journal);
}

#[test]
fn an_unconfirmed_set_goes_back_to_the_confirmed_one() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    registry.apply(&guarded(&[SERVICES, PODS], 10)).unwrap();
    assert_eq!(registry.list(0)[0].4, "unconfirmed");
    // A second guarded set does not make the first one a place to return to.
    registry.apply(&guarded(&[PODS], 20)).unwrap();
    assert!(registry.journal.next_end().unwrap() > after(15));
    assert_eq!(registry.expire(after(15)), []);
    assert_eq!(registry.expire(after(25)), []);
    assert_eq!(registry.journal.next_end(), None);
    assert_eq!(world.ours(), routes(&[SERVICES]));
    assert_eq!(world.disk().unwrap(), registry.journal);
}

#[test]
fn an_unconfirmed_first_set_ends_the_lease() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&guarded(&[SERVICES], 1)).unwrap();
    let ended = registry.expire(after(2));
    assert_eq!(ended[0].profile, profile("minikube"));
    assert_eq!(world.ours(), routes(&[]));
}

#[test]
fn a_set_before_that_is_no_longer_free_leaves_nothing() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    registry.apply(&guarded(&[PODS], 1)).unwrap();
    world.insert(entry("10.100.0.0/24"));
    assert_eq!(registry.expire(after(2)).len(), 1);
    assert_eq!(world.ours(), routes(&[]));
    assert_eq!(world.disk().unwrap().records, []);
}

#[test]
fn a_confirmed_set_stays() {
    let world = World::new();
    let mut registry = world.registry();
    let generation = registry.apply(&guarded(&[SERVICES], 1)).unwrap();
    let (owner, profile) = (owner(":1.1"), profile("minikube"));
    let wrong = registry.confirm(&owner, &profile, generation + 1);
    assert!(matches!(wrong, Err(Refusal::LeaseHeld(_))));
    registry.confirm(&owner, &profile, generation).unwrap();
    assert_eq!(registry.expire(after(2)), []);
    assert_eq!(world.ours(), routes(&[SERVICES]));
    assert_eq!(world.disk().unwrap(), registry.journal);
}

#[test]
fn a_guard_outlives_a_transaction_that_is_cut_short() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    registry.apply(&guarded(&[SERVICES, PODS], 10)).unwrap();
    // Dump, gateway, journal: and then the helper is killed.
    world.fail(Faults {
        refused: (3..200).collect(),
        ..Faults::default()
    });
    registry
        .apply(&change(&[PODS, "172.31.7.0/28"]))
        .unwrap_err();
    world.fail(Faults::default());

    let mut next = world.registry();
    assert_eq!(world.ours(), routes(&[SERVICES, PODS]));
    assert_eq!(next.list(0)[0].4, "unconfirmed");
    assert_eq!(next.expire(after(5)), []);
    next.expire(after(15));
    assert_eq!(world.ours(), routes(&[SERVICES]));
}

#[test]
fn a_cleanup_that_finds_nothing_writes_nothing() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    world.fail(Faults::default());
    assert_eq!(registry.cleanup().unwrap(), routes(&[]));
    // The dump.
    assert_eq!(world.operations(), 1);
}

#[test]
fn cleanup_removes_what_nobody_holds_and_nothing_else() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    let orphan = route("10.32.0.0/16");
    world.insert(Entry::ours(&orphan));
    let foreign = world.foreign();
    assert_eq!(registry.cleanup().unwrap(), [orphan].into());
    assert_eq!(world.ours(), routes(&[SERVICES]));
    assert_eq!(world.foreign(), foreign);
}

#[test]
fn other_users_see_a_lease_without_its_profile() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    assert_eq!(registry.list(1000)[0].0, "minikube");
    assert_eq!(registry.list(0)[0].0, "minikube");
    let (profile, uid, pid, started, state, _, held) = registry.list(1001).remove(0);
    assert_eq!((profile.as_str(), state.as_str()), ("", "active"));
    assert_eq!((uid, pid, started), (1000, 42, 7));
    assert_eq!(held, to_wire(&routes(&[SERVICES])));
}

#[test]
fn another_users_overlap_names_no_profile() {
    let world = World::new();
    let mut registry = world.registry();
    let mut first = change(&[SERVICES]);
    first.profile = profile("secret-project");
    registry.apply(&first).unwrap();
    let told = |registry: &mut Registry<World>, name, uid| {
        let refused = registry.apply(&Change {
            client: client(name, uid),
            ..change(&[SERVICES])
        });
        let Err(Refusal::Conflict(message, json)) = refused else {
            panic!("an overlap was accepted");
        };
        (message, json)
    };
    let (message, json) = told(&mut registry, ":1.2", 1001);
    assert!(
        !message.contains("secret") && !json.contains("secret"),
        "{message} {json}"
    );
    let (_, json) = told(&mut registry, ":1.3", 1000);
    let overlaps: Vec<Overlap> = serde_json::from_str(&json).unwrap();
    assert_eq!(
        overlaps[0].obstacle,
        Obstacle::Profile(profile("secret-project"))
    );
    assert_eq!(overlaps[0].other.destination, SERVICES.parse().unwrap());
}

/// One of many leases of a user.
fn lease(n: u8, uid: u32, routes: BTreeSet<Route>) -> Change {
    Change {
        client: client(&format!(":1.{n}"), uid),
        profile: profile(&format!("p{n}")),
        after: routes,
        trial: None,
    }
}

#[test]
fn a_user_has_at_most_32_leases() {
    let world = World::new();
    let mut registry = world.registry();
    let one = |n, uid| lease(n, uid, routes(&[&format!("10.{n}.0.0/16")]));
    for n in 0..32 {
        registry.apply(&one(n, 1000)).unwrap();
    }
    let refused = registry.apply(&one(32, 1000));
    assert!(matches!(refused, Err(Refusal::LimitExceeded(_))));
    registry.apply(&one(31, 1000)).unwrap();
    registry.apply(&one(32, 1001)).unwrap();
}

#[test]
fn a_user_has_at_most_4096_routes_over_all_connections() {
    let many = |n: u8, count: u16| {
        let nets =
            (0..count).map(|host| route(&format!("10.{n}.{}.{}/32", host / 256, host % 256)));
        lease(n, 1000, nets.collect())
    };
    let registry = |journal: Vec<Change>| {
        let mut registry = World::new().registry();
        for change in journal {
            registry.journal.put(Record {
                client: change.client,
                profile: change.profile,
                generation: 1,
                since: UNIX_EPOCH,
                routes: change.after,
                guard: None,
            });
        }
        registry
    };
    let three = registry((0..3).map(|n| many(n, 1_024)).collect());
    assert!(three.room(&many(3, 1_024)).is_ok());
    let four = registry((0..4).map(|n| many(n, 1_024)).collect());
    let refused = four.room(&many(4, 1));
    assert!(matches!(refused, Err(Refusal::LimitExceeded(_))));
    // A set replaces the one before.
    assert!(four.room(&many(3, 1_000)).is_ok());
}

#[test]
fn a_profile_has_one_owner_of_a_user() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    let second = Change {
        client: client(":1.2", 1000),
        ..change(&[PODS])
    };
    let Err(Refusal::LeaseHeld(told)) = registry.apply(&second) else {
        panic!("two owners");
    };
    assert!(told.starts_with("process 42 holds"), "{told}");
    registry.reap(&owner(":1.1"));
    registry.apply(&second).unwrap();
}

#[test]
fn a_release_that_cant_be_written_down_keeps_the_routes() {
    let world = World::new();
    let mut registry = world.registry();
    registry.apply(&change(&[SERVICES])).unwrap();
    // Dump, journal, delete, and the journal again.
    for at in [1, 3] {
        world.fail(Faults {
            refused: [at].into(),
            ..Faults::default()
        });
        let answer = registry.apply(&change(&[]));
        assert!(
            matches!(answer, Err(Refusal::JournalFailed(_))),
            "{answer:?}"
        );
        assert_eq!(world.ours(), routes(&[SERVICES]));
        assert_eq!(registry.list(0).len(), 1);
    }
}

#[test]
fn releasing_what_is_not_held_is_done() {
    let mut registry = World::new().registry();
    assert_eq!(registry.apply(&change(&[])).unwrap(), 0);
}
