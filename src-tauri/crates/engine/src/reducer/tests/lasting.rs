//! What may last without an end in sight: it costs little, and gives back what it can. Each story was once a bug.

use super::{world::profiles, *};
use crate::minikube::ProfileFiles;

fn apply(world: &mut World, failure: ApplyFailure) {
    world.failure = Some(failure);
    world.run();
}

fn tick(world: &mut World, wait: Duration) {
    world.now = world.now + wait;
    world.input(Input::Tick);
}

fn changed(world: &mut World, change: impl FnOnce(&mut ProfileFiles)) {
    let mut files = files("p", "10.96.0.0/12", "192.168.49.2");
    change(&mut files);
    world.input(Input::Files(profiles(&[files])));
}

fn ingress(world: &World) -> &[String] {
    let key = service("web", "10.99.1.2").key;
    &world.services[&(name("p"), key)].ingress
}

#[test]
fn a_consent_that_nobody_gives_is_asked_of_no_helper_that_comes_and_goes() {
    let mut world = one();
    world.cluster_up("p");
    world.resume("p");
    world.run();
    let waits = TunnelState::Waiting {
        on: WaitingFor::Consent,
    };
    assert_eq!(world.tunnel("p"), waits);
    // It had nothing to stay for.
    world.input(Input::HelperGone);
    assert_eq!(world.pending, []);
    assert_eq!(world.tunnel("p"), waits);
}

#[test]
fn who_looks_at_all_or_cleans_up_has_every_api_server_asked() {
    let clean = Command::Cleanup {
        dry_run: true,
        chosen: Vec::new(),
    };
    for command in [Command::Look, clean] {
        let mut world = World::new(&two("10.96.0.0/16", "10.97.0.0/16"));
        world.state.scope.only = Some([name("a")].into());
        world.input(Input::Command(command));
        let asks = |effect: &Effect| matches!(effect, Effect::Watch(of, ..) if *of == name("b"));
        assert!(world.pending.iter().any(asks), "{:?}", world.pending);
    }
}

#[test]
fn an_entry_that_is_removed_from_the_kubeconfig_takes_the_addresses_along() {
    let mut world = up();
    changed(&mut world, |files| files.credentials = None);
    world.run();
    assert_eq!((world.held("p"), ingress(&world)), (vec![], &[][..]));
    let left = snapshot(&mut world.state).profiles[0].left.len();
    assert_eq!(left, 0);
    assert!(world.state.tunnels[&name("p")].watch.is_none());
    // It comes back by itself.
    changed(&mut world, |_| {});
    world.cluster_up("p");
    world.run();
    assert_eq!(ingress(&world), ["10.99.1.2"]);
}

#[test]
fn a_stop_that_is_announced_while_a_failure_rests_withdraws_at_once() {
    let mut world = up();
    world.kernel.clear();
    world.input(Input::HelperGone);
    apply(&mut world, ApplyFailure::Refused("no".into()));
    tick(&mut world, Duration::from_secs(1));
    world.failure = Some(ApplyFailure::Refused("no".into()));
    world.dump(world.state.dumps);
    world.run();
    assert_eq!(ingress(&world), ["10.99.1.2"]);
    let until = world.now + Duration::from_secs(180);
    changed(&mut world, |files| files.stopping_until = Some(until));
    world.run();
    assert_eq!(ingress(&world), [""; 0]);
}

#[test]
fn an_address_that_somebody_takes_away_again_and_again_is_given_three_times_and_no_more() {
    let mut world = up();
    let empty = service("web", "10.99.1.2");
    for _ in 0..3 {
        assert_eq!(ingress(&world), ["10.99.1.2"]);
        world.add("p", empty.clone());
        world.run();
    }
    assert_eq!(ingress(&world), [""; 0]);
    let pending = |world: &mut World| {
        let shown = snapshot(&mut world.state);
        shown.profiles[0].load_balancers[0].pending.clone()
    };
    assert_eq!(pending(&mut world), Some(Pending::Emptied));
    // Another change of it is no reason to begin again; the user's word is.
    world.add("p", empty);
    world.run();
    assert_eq!(pending(&mut world), Some(Pending::Emptied));
    world.target("p", TargetState::Up);
    world.run();
    assert_eq!(ingress(&world), ["10.99.1.2"]);
}

#[test]
fn what_was_refused_is_asked_for_soon_when_the_table_is_another() {
    let mut world = one();
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    for _ in 0..6 {
        apply(&mut world, ApplyFailure::Refused("no".into()));
        let due = next_wake(&world.state).unwrap();
        let wait = Duration::from_millis(due.0 - world.now.0);
        tick(&mut world, wait);
    }
    apply(&mut world, ApplyFailure::Refused("no".into()));
    let wait = |world: &World| next_wake(&world.state).unwrap().0 - world.now.0;
    assert!(wait(&world) > 50_000, "{}", wait(&world));
    let vpn = route("172.30.0.0/16", "192.168.0.9");
    world.foreign.push(world::entry(&vpn, 3));
    world.dump(world.state.dumps);
    assert!(wait(&world) <= 5_000, "{}", wait(&world));
}

#[test]
fn a_server_that_names_no_service_range_costs_nobody_the_routes() {
    let mut world = up();
    let held = world.held("p");
    world.cluster("p", ClusterEvent::ServiceCidrs(Vec::new()));
    world.run();
    assert_eq!(world.held("p"), held);
}

#[test]
fn an_assignment_that_was_never_answered_is_named_when_its_server_is_lost() {
    let unreachable = AssignError::Unreachable("reset".into());
    let refused = AssignError::Refused {
        message: "no".into(),
    };
    for (answer, is_left) in [
        (None, true),
        (Some(unreachable), true),
        (Some(refused), false),
    ] {
        let mut world = one();
        world.cluster_up("p");
        world.target("p", TargetState::Up);
        world.run();
        world.add("p", service("web", "10.99.1.2"));
        let mut pending = world.pending.drain(..);
        let asked = pending.find_map(|effect| match effect {
            Effect::Ask { service, .. } => Some(service),
            _ => None,
        });
        drop(pending);
        if let Some(error) = answer {
            world.input(Input::Answered {
                profile: name("p"),
                service: asked.unwrap(),
                request: Request::Assign,
                result: Err(error),
            });
        }
        world.cluster_down("p");
        let left = &snapshot(&mut world.state).profiles[0].left;
        let addresses: Vec<&str> = left
            .iter()
            .flat_map(|left| &left.addresses)
            .map(|text| &**text)
            .collect();
        assert_eq!(addresses, if is_left { vec!["10.99.1.2"] } else { vec![] });
    }
}

#[test]
fn a_dead_runs_address_is_not_shown_as_served_while_the_user_is_waited_for() {
    let mut world = one();
    let dead = stale();
    world.services.insert((name("p"), dead.key.clone()), dead);
    world.cluster_up("p");
    world.resume("p");
    world.run();
    let shown = |world: &mut World| {
        snapshot(&mut world.state).profiles[0].load_balancers[0]
            .pending
            .clone()
    };
    assert_eq!(shown(&mut world), Some(Pending::TunnelDown));
    world.target("p", TargetState::Up);
    world.run();
    assert_eq!(shown(&mut world), None);
}
