//! Invariants over random histories.

use proptest::prelude::*;

use super::{
    world::{entry, profiles, taken_by_another},
    *,
};
use crate::minikube::ProfileFiles;

#[derive(Clone, Debug)]
enum Event {
    Step(usize),
    Target(bool, bool),
    Resume(bool),
    Cluster(bool, bool),
    Add(bool, u8),
    Foreign(bool, u8),
    Lose(bool),
    HelperDies,
    Consents(bool),
    Fails(ApplyFailure),
    LockFails(bool),
    LockBusy(bool),
    Unreadable(bool),
    Vanishes(bool),
    NoCredentials(bool),
    Renewed(bool, u8),
    /// The route of another session, which lives, is in the table or for a moment is not.
    Flicker(bool),
    CleanUp,
    Wait,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0_usize..8).prop_map(Event::Step),
        2 => any::<(bool, bool)>().prop_map(|(of, up)| Event::Target(of, up)),
        1 => any::<bool>().prop_map(Event::Resume),
        2 => any::<(bool, bool)>().prop_map(|(of, up)| Event::Cluster(of, up)),
        2 => (any::<bool>(), 0_u8..5).prop_map(|(of, key)| Event::Add(of, key)),
        1 => (any::<bool>(), 0_u8..5).prop_map(|(of, key)| Event::Foreign(of, key)),
        1 => any::<bool>().prop_map(Event::Lose),
        1 => Just(Event::HelperDies),
        1 => any::<bool>().prop_map(Event::Consents),
        2 => prop_oneof![
            Just(ApplyFailure::Gone),
            Just(ApplyFailure::Missing("no".into())),
            Just(ApplyFailure::Refused("no".into())),
            Just(ApplyFailure::Unsure("no".into())),
            Just(ApplyFailure::Conflict(vec![taken_by_another(route("10.96.0.0/16", "192.168.49.2"))])),
        ]
        .prop_map(Event::Fails),
        1 => any::<bool>().prop_map(Event::LockFails),
        1 => any::<bool>().prop_map(Event::LockBusy),
        1 => any::<bool>().prop_map(Event::Unreadable),
        1 => any::<bool>().prop_map(Event::Vanishes),
        1 => any::<bool>().prop_map(Event::NoCredentials),
        1 => (any::<bool>(), 0_u8..3).prop_map(|(of, cert)| Event::Renewed(of, cert)),
        1 => any::<bool>().prop_map(Event::Flicker),
        1 => Just(Event::CleanUp),
        1 => Just(Event::Wait),
    ]
}

/// Two that are brought up and down, and one that another session serves.
fn all() -> [ProfileFiles; 3] {
    let [a, b] = two("10.96.0.0/16", "10.96.0.0/16");
    [a, b, files("c", "10.97.0.0/16", "192.168.67.2")]
}

fn both() -> Profiles {
    profiles(&all())
}

fn anothers() -> Route {
    route("10.97.0.0/16", "192.168.67.2")
}

fn beside_another() -> World {
    let mut world = World::new(&all());
    world.sessions = true;
    world.leases = Some(BTreeSet::from([anothers()]));
    flicker(&mut world, true);
    let theirs = Service {
        owner: Owner::Us,
        ingress: vec!["10.97.0.1".into()],
        ..service("theirs", "10.97.0.1")
    };
    world.cluster_up("c");
    world.add("c", theirs);
    world
}

fn flicker(world: &mut World, is_there: bool) {
    let theirs = [entry(&anothers(), minitunnel_routing::PROTOCOL)];
    world.foreign = theirs.into_iter().filter(|_| is_there).collect();
    world.dump(world.state.dumps);
}

fn happen(world: &mut World, event: &Event) {
    let of = |second: bool| if second { "b" } else { "a" };
    let lb = |key: u8| service(&format!("s{key}"), &format!("10.96.0.{}", key + 1));
    match event {
        Event::Step(which) => world.step(*which),
        Event::Target(second, up) => {
            world.target(
                of(*second),
                if *up {
                    TargetState::Up
                } else {
                    TargetState::Down
                },
            );
        }
        Event::Resume(second) => world.resume(of(*second)),
        Event::Cluster(second, true) => world.cluster_up(of(*second)),
        Event::Cluster(second, false) => world.cluster_down(of(*second)),
        Event::Add(second, key) => world.add(of(*second), lb(*key)),
        Event::Foreign(second, key) => {
            let (owner, ingress) = (Owner::Other("x".into()), vec!["10.0.0.1".into()]);
            world.add(
                of(*second),
                Service {
                    owner,
                    ingress,
                    ..lb(*key)
                },
            );
        }
        Event::Lose(second) => {
            world.kernel.insert(name(of(*second)), vec![]);
            world.dump(world.state.dumps);
        }
        Event::HelperDies => {
            world.kernel.clear();
            world.granted = false;
            world.input(Input::HelperGone);
            world.dump(world.state.dumps);
        }
        Event::Consents(yes) => world.consents = *yes,
        Event::Fails(failure) => world.failure = Some(failure.clone()),
        Event::LockFails(second) => {
            answer_lock(world, of(*second), LockNews::Failed("no".into()));
        }
        Event::LockBusy(second) => answer_lock(world, of(*second), LockNews::Busy(None)),
        Event::Vanishes(second) => {
            let mut files = both();
            files.readable.remove(&name(of(*second)));
            world.input(Input::Files(files));
        }
        Event::Unreadable(second) => {
            let mut files = both();
            files.readable.remove(&name(of(*second)));
            files.broken = vec![BrokenProfile {
                name: of(*second).into(),
                problem: "half written".into(),
            }];
            world.input(Input::Files(files));
        }
        Event::NoCredentials(second) => {
            let mut files = both();
            if let Some(files) = files.readable.get_mut(&name(of(*second))) {
                files.credentials = None;
            }
            world.input(Input::Files(files));
        }
        Event::Renewed(second, cert) => {
            let mut files = both();
            let of = name(of(*second));
            if let Some(files) = files.readable.get_mut(&of)
                && let Some(credentials) = &mut files.credentials
            {
                credentials.cert = vec![*cert];
            }
            let tunnel = world.state.tunnels.get(&of);
            let up = tunnel.is_some_and(Tunnel::is_connected);
            let before = world.pending.len();
            world.input(Input::Files(files));
            let new = &world.pending[before..];
            let ends = |effect: &Effect| match effect {
                Effect::Apply {
                    profile, routes, ..
                } => *profile == of && routes.is_empty(),
                Effect::Unlock(profile) => *profile == of,
                _ => false,
            };
            assert!(!up || !new.iter().any(ends), "renewed: {new:?}");
        }
        Event::Flicker(is_there) => flicker(world, *is_there),
        Event::CleanUp => {
            let (dry_run, chosen) = (false, Vec::new());
            world.input(Input::Command(Command::Cleanup { dry_run, chosen }));
        }
        Event::Wait => {
            world.now = Timestamp(world.now.0 + 20_000);
            world.input(Input::Tick);
        }
    }
}

fn answer_lock(world: &mut World, of: &str, news: LockNews) {
    let asked = |effect: &Effect| matches!(effect, Effect::Lock(name, _) if name.as_str() == of);
    if let Some(at) = world.pending.iter().position(asked) {
        world.pending.remove(at);
        world.lock(of, news);
    }
}

proptest! {
    #[test]
    fn whatever_happens_no_dialog_comes_unasked_and_every_run_ends_disconnected(
        history in prop::collection::vec(event(), 0..60),
    ) {
        let mut world = beside_another();
        for event in &history {
            happen(&mut world, event);
            let both = world.held("a").iter().any(|route| {
                world.held("b").iter().any(|other| other.destination == route.destination)
            });
            prop_assert!(!both, "two profiles hold the same destination");
            let mut others = world.services.values().filter(|service| service.key.name == "theirs");
            let kept = others.all(|service| service.owner == Owner::Us);
            prop_assert!(kept, "a living session has lost its address");
        }
        world.failure = None;
        world.input(Input::Files(both()));
        for profile in ["a", "b"] {
            world.cluster_up(profile);
            world.target(profile, TargetState::Down);
        }
        // Who has a lock gives it back, and waiting ends.
        for profile in ["a", "b"] {
            if let Some(Lock::Busy(_)) = world.state.tunnels.get(&name(profile)).map(|of| of.lock) {
                world.lock(profile, LockNews::Acquired);
            }
        }
        for _ in 0..2 {
            world.run();
            world.now = Timestamp(world.now.0 + 100_000);
            world.input(Input::Tick);
        }
        world.run();
        for profile in ["a", "b"] {
            prop_assert_eq!(world.tunnel(profile), TunnelState::Disconnected);
            prop_assert_eq!(world.held(profile), Vec::<Route>::new());
        }
        let ours = world.services.values().filter(|service| service.owner == Owner::Us);
        let ours: Vec<_> = ours.map(|service| service.key.name.as_str()).collect();
        prop_assert_eq!(ours, ["theirs"]);
        let foreign = |service: &&Service| matches!(service.owner, Owner::Other(_));
        for service in world.services.values().filter(foreign) {
            prop_assert_eq!(&service.ingress, &["10.0.0.1"]);
        }
    }
}
