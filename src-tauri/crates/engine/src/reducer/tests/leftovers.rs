//! What `minikube tunnel`s left that died.

use minitunnel_model::{ConflictKind, MinikubeTunnel};

use minitunnel_routing::Entry;

use super::{
    world::{entry, profiles},
    *,
};

/// `RTPROT_BOOT`: by `ip route add`.
const BOOT: u8 = 3;
const ZEBRA: u8 = 11;

fn services() -> Route {
    route("10.96.0.0/12", "192.168.49.2")
}

fn record(running: bool) -> MinikubeTunnel {
    MinikubeTunnel {
        route: services(),
        pid: 4242,
        running,
    }
}

/// `tunnels.json` has a record of profile `p`'s.
fn told(world: &mut World, running: bool) {
    let mut files = files("p", "10.96.0.0/12", "192.168.49.2");
    files.minikube_tunnels = vec![record(running)];
    world.input(Input::Files(profiles(&[files])));
}

/// A service with that address by `minikube tunnel`.
fn minikubes(key: &str, ip: &str) -> Service {
    Service {
        owner: Owner::Other("minikube".into()),
        ingress: vec![ip.into()],
        left_by_minikube: true,
        ..service(key, ip)
    }
}

/// A dead one has left its route and an address; the cluster answers.
fn left() -> World {
    let mut world = one();
    world.foreign = vec![entry(&services(), BOOT)];
    world.dump(0);
    told(&mut world, false);
    world.cluster_up("p");
    world.add("p", minikubes("web", "10.99.1.2"));
    world.run();
    world
}

fn shown(world: &mut World) -> Vec<CleanupItem> {
    snapshot(&mut world.state).leftovers
}

/// The route and the address of [`left`].
fn both() -> Vec<CleanupItem> {
    let route = CleanupItem::MinikubeRoute {
        profile: name("p"),
        pid: 4242,
        entry: minitunnel_model::TableEntry {
            destination: "10.96.0.0/12".parse().unwrap(),
            gateway: Some("192.168.49.2".parse().unwrap()),
            device: None,
            metric: 0,
            table: 254,
            origin: minitunnel_model::Origin::Foreign(BOOT),
        },
    };
    let address = CleanupItem::MinikubeAddress {
        profile: name("p"),
        service: service("web", "10.99.1.2").key,
        uid: "uid-web".to_owned(),
        addresses: vec!["10.99.1.2".parse().unwrap()],
    };
    vec![route, address]
}

fn choose(world: &mut World, chosen: Vec<CleanupItem>) {
    world.input(Input::Command(Command::Cleanup {
        dry_run: false,
        chosen,
    }));
    world.look();
}

#[test]
fn what_a_dead_minikube_tunnel_left_is_shown_and_stays_until_it_is_chosen() {
    let mut world = left();
    assert_eq!(shown(&mut world), both());
    let preview = clean_up(&mut world.state, true, &[], true).unwrap();
    assert_eq!((preview.removed, preview.leftovers), (vec![], both()));
    choose(&mut world, Vec::new());
    world.run();
    let report = clean_up(&mut world.state, false, &[], true).unwrap();
    assert_eq!((report.removed, report.leftovers), (vec![], both()));
    assert_eq!(shown(&mut world), both());

    choose(&mut world, both());
    assert_eq!(clean_up(&mut world.state, false, &both(), true), None);
    world.run();
    let report = clean_up(&mut world.state, false, &both(), true).unwrap();
    assert_eq!((report.removed, report.failed), (both(), vec![]));
    assert_eq!(shown(&mut world), vec![]);
    // The lock that kept minikube out is free again.
    world.input(Input::Tick);
    assert_eq!(world.state.tunnels[&name("p")].lock, Lock::Free);
}

#[test]
fn nothing_is_removed_but_under_the_lock() {
    let mut world = left();
    choose(&mut world, both());
    let lock = world.pending.clone();
    assert!(
        matches!(lock.as_slice(), [Effect::Lock(of, _)] if *of == name("p")),
        "{lock:?}"
    );
    world.pending.clear();
    world.lock("p", LockNews::Busy(Some(77)));
    assert_eq!(world.pending, [Effect::Unlock(name("p"))]);
    let report = clean_up(&mut world.state, false, &both(), true).unwrap();
    let why = "`minikube tunnel` is running for the profile: end it and try again";
    let failed = both().into_iter().map(|item| (item, why.to_owned()));
    assert_eq!(report.failed, failed.collect::<Vec<_>>());
    assert_eq!(report.removed, []);
}

#[test]
fn what_a_running_minikube_tunnel_has_made_is_nobody_elses() {
    let mut world = left();
    told(&mut world, true);
    assert_eq!(shown(&mut world), vec![]);
    // It began between the preview and the answer.
    choose(&mut world, both());
    assert_eq!(world.pending, []);
    let report = clean_up(&mut world.state, false, &both(), true).unwrap();
    assert_eq!((report.removed, report.failed.len()), (vec![], 2));
}

#[test]
fn what_is_not_as_it_was_shown_stays() {
    for made_anew in [false, true] {
        stays_if_it_is_not_as_shown(made_anew);
    }
}

fn stays_if_it_is_not_as_shown(made_anew: bool) {
    let mut world = left();
    let anothers = |mut item: CleanupItem| {
        match &mut item {
            CleanupItem::MinikubeRoute { entry, .. } => entry.metric = 7,
            CleanupItem::MinikubeAddress { uid, .. } if made_anew => uid.push('2'),
            CleanupItem::MinikubeAddress { addresses, .. } => addresses.clear(),
            _ => {}
        }
        item
    };
    let chosen: Vec<_> = both().into_iter().map(anothers).collect();
    choose(&mut world, chosen.clone());
    world.run();
    let report = clean_up(&mut world.state, false, &chosen, true).unwrap();
    assert_eq!((report.removed, report.failed.len()), (vec![], 2));
    assert_eq!(shown(&mut world), both());
}

#[test]
fn only_a_route_as_minikube_makes_it_is_minikubes() {
    let mut world = left();
    let like = entry(&services(), BOOT);
    for other in [
        entry(&services(), ZEBRA),
        Entry { metric: 5, ..like },
        Entry { table: 77, ..like },
        Entry { hop: 1, ..like },
        Entry {
            special: true,
            ..like
        },
        // `RTPROT_STATIC`: an administrator's.
        entry(&services(), 4),
        entry(&route("10.96.0.0/12", "192.168.49.3"), BOOT),
        entry(&route("10.96.0.0/16", "192.168.49.2"), BOOT),
    ] {
        world.foreign = vec![other];
        world.dump(0);
        assert_eq!(shown(&mut world), both()[1..], "{other:?}");
    }
}

#[test]
fn the_route_of_a_deleted_profile_can_be_removed() {
    let mut world = left();
    let mut files = profiles(&[]);
    files.minikube_tunnels = [(name("p"), vec![record(false)])].into();
    world.input(Input::Files(files));
    assert_eq!(shown(&mut world), both()[..1]);
    choose(&mut world, both()[..1].to_vec());
    world.run();
    assert_eq!(shown(&mut world), vec![]);
}

#[test]
fn a_dead_record_is_shown_until_nothing_of_it_is_left() {
    let mut world = left();
    let records = |world: &mut World| {
        let shown = snapshot(&mut world.state);
        shown.profiles[0].minikube_tunnels.len()
    };
    assert_eq!(records(&mut world), 1);
    choose(&mut world, both());
    world.run();
    // The file is minikube's, and says what it said.
    assert_eq!(records(&mut world), 0);
    told(&mut world, true);
    assert_eq!(records(&mut world), 1);
}

#[test]
fn both_who_choose_the_same_are_told_what_became_of_it() {
    let mut world = left();
    choose(&mut world, both());
    choose(&mut world, both());
    world.run();
    for _ in 0..2 {
        let report = clean_up(&mut world.state, false, &both(), true).unwrap();
        assert_eq!(report.removed, both());
    }
    assert!(world.state.chosen.is_empty());
}

#[test]
fn what_was_chosen_by_who_left_stays_and_its_dialog_is_closed() {
    let mut world = left();
    choose(&mut world, both());
    world.lock("p", LockNews::Acquired);
    let removal = Effect::Remove(both().remove(0));
    assert!(world.pending.contains(&removal), "{:?}", world.pending);
    world.input(Input::Abandoned(both()));
    let leave = Effect::Leave(both().remove(0));
    assert!(world.pending.contains(&leave), "{:?}", world.pending);
    // The last of them first: before anything is removed.
    while !world.pending.is_empty() {
        world.step(world.pending.len() - 1);
    }
    assert_eq!(world.state.tunnels[&name("p")].lock, Lock::Free);
    assert!(world.state.chosen.is_empty());
    assert!(shown(&mut world).contains(&both()[0]));
}

#[test]
fn a_route_that_a_new_minikube_tunnel_takes_for_its_own_is_not_asked_about_any_more() {
    let mut world = left();
    choose(&mut world, both());
    world.lock("p", LockNews::Acquired);
    told(&mut world, true);
    let leave = Effect::Leave(both().remove(0));
    assert!(world.pending.contains(&leave), "{:?}", world.pending);
}

#[test]
fn consent_may_take_minutes_and_a_lock_that_does_not_come_is_not_waited_for() {
    let mut world = left();
    choose(&mut world, both());
    // The lock neither comes nor is busy.
    world.pending.clear();
    assert_eq!(clean_up(&mut world.state, false, &both(), true), None);
    let report = clean_up(&mut world.state, false, &both(), false).unwrap();
    assert_eq!((report.removed, report.failed.len()), (vec![], 2));

    choose(&mut world, both());
    world.pending.clear();
    world.lock("p", LockNews::Acquired);
    let removals: Vec<_> = both().into_iter().map(Effect::Remove).collect();
    assert_eq!(world.pending, removals);
    world.step(1);
    assert_eq!(clean_up(&mut world.state, false, &both(), false), None);
    world.step(0);
    assert!(clean_up(&mut world.state, false, &both(), false).is_some());
}

#[test]
fn a_tunnel_that_is_blocked_by_a_dead_one_names_it_and_comes_up_after_the_clean_up() {
    let mut world = left();
    world.target("p", TargetState::Up);
    world.run();
    let TunnelState::Blocked { conflicts } = world.tunnel("p") else {
        panic!("{:?}", world.tunnel("p"))
    };
    let [conflict] = conflicts.as_slice() else {
        panic!("{conflicts:?}")
    };
    assert_eq!(conflict.kind, ConflictKind::SameDestination);
    let effect = "10.96.0.0/12 via 192.168.49.2 of the `minikube tunnel` of p that died (process 4242) is there already: beside 10.96.0.0/12 via 192.168.49.2, only one of the two would get the traffic";
    assert_eq!(conflict.effect, effect);
    assert_eq!(
        conflict.ways_out[0].to_string(),
        "Remove what it left: minitunnel cleanup"
    );
    choose(&mut world, both());
    world.run();
    assert!(
        matches!(world.tunnel("p"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("p")
    );
}

#[test]
fn a_tunnel_waits_for_its_own_profiles_minikube_tunnel_and_follows_it() {
    let mut world = left();
    told(&mut world, true);
    world.target("p", TargetState::Up);
    // A command that is told of a conflict gives up, so it is not told before it is known that there is one.
    assert_eq!(world.tunnel("p"), TunnelState::Connecting);
    world.pending.clear();
    world.lock("p", LockNews::Busy(Some(4242)));
    let waits = TunnelState::Waiting {
        on: WaitingFor::Lock { pid: Some(4242) },
    };
    assert_eq!(world.tunnel("p"), waits);
    // Its orderly end: the route, the record, the lock. The news of the route come last.
    world.foreign.clear();
    world.input(Input::Files(profiles(&[files(
        "p",
        "10.96.0.0/12",
        "192.168.49.2",
    )])));
    assert_eq!(world.tunnel("p"), waits);
    world.lock("p", LockNews::Acquired);
    assert_eq!(world.tunnel("p"), TunnelState::Connecting);
    world.run();
    assert!(
        matches!(world.tunnel("p"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("p")
    );
}
