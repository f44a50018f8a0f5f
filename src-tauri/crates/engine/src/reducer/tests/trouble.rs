//! What goes wrong, late or twice: each story was once a bug.

use minitunnel_model::ConflictKind;

use super::{
    world::{profiles, taken_by_another},
    *,
};

/// Takes the apply that waits out of the world.
fn apply(world: &mut World) -> Option<(ProfileName, Vec<Route>, bool)> {
    let is_apply = |effect: &Effect| matches!(effect, Effect::Apply { .. });
    let at = world.pending.iter().position(is_apply)?;
    match world.pending.remove(at) {
        Effect::Apply {
            profile,
            routes,
            interactive,
        } => Some((profile, routes, interactive)),
        _ => None,
    }
}

fn answer(world: &mut World, profile: ProfileName, routes: Vec<Route>, failure: ApplyFailure) {
    world.input(Input::Applied {
        profile,
        routes,
        result: Err(failure),
    });
}

fn ingress(world: &World) -> Vec<String> {
    let services = world.services.values();
    services
        .flat_map(|service| service.ingress.clone())
        .collect()
}

/// The grant of the user is lost with all that was held.
fn lose_grant(world: &mut World) {
    world.kernel.clear();
    world.granted = false;
    world.input(Input::HelperGone);
    world.dump(world.state.dumps);
    world.run();
}

#[test]
fn asking_again_for_what_is_up_opens_no_dialog_later() {
    let mut world = up();
    world.target("p", TargetState::Up);
    world.run();
    lose_grant(&mut world);
    let waits = TunnelState::Waiting {
        on: WaitingFor::Consent,
    };
    assert_eq!((world.dialogs, world.tunnel("p")), (1, waits));
}

#[test]
fn a_consent_for_one_is_the_answer_for_one_that_is_blocked() {
    let mut world = World::new(&two("10.96.0.0/12", "10.96.0.0/12"));
    for profile in ["a", "b"] {
        world.cluster_up(profile);
        world.target(profile, TargetState::Up);
        world.run();
    }
    lose_grant(&mut world);
    assert_eq!(world.dialogs, 1);
}

#[test]
fn a_dialog_that_we_closed_ourselves_is_no_refusal() {
    let mut world = one();
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    world.lock("p", LockNews::Acquired);
    world.cluster_down("p");
    let dismiss = Effect::Dismiss(name("p"));
    assert!(world.pending.contains(&dismiss), "{:?}", world.pending);
    world
        .pending
        .retain(|effect| !matches!(effect, Effect::Lock(..)));
    let (profile, routes, interactive) = apply(&mut world).unwrap();
    assert!(interactive);
    answer(
        &mut world,
        profile,
        routes,
        ApplyFailure::NotAuthorized("dismissed".into()),
    );
    world.pending.clear();
    world.cluster_up("p");
    world.lock("p", LockNews::Acquired);
    world.run();
    assert!(
        matches!(world.tunnel("p"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("p")
    );
}

#[test]
fn the_late_no_of_one_leaves_the_dialog_of_another_alone() {
    let mut world = World::new(&two("10.96.0.0/16", "10.97.0.0/16"));
    for profile in ["a", "b"] {
        world.cluster_up(profile);
    }
    world.target("b", TargetState::Up);
    world.run();
    world.granted = false;
    world.kernel.clear();
    world.input(Input::HelperGone);
    let (profile, routes, interactive) = apply(&mut world).unwrap();
    assert!(!interactive);
    world.target("a", TargetState::Up);
    world.lock("a", LockNews::Acquired);
    answer(
        &mut world,
        profile,
        routes,
        ApplyFailure::NotAuthorized("no".into()),
    );
    assert_eq!(world.state.consent, Consent::Asking(name("a")));
    world.run();
    assert_eq!(world.dialogs, 2);
    assert!(
        matches!(world.tunnel("b"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("b")
    );
}

#[test]
fn what_fails_for_a_moment_is_still_what_the_user_asked_for() {
    let mut world = one();
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    world.pending.clear();
    world.lock("p", LockNews::Failed("no".into()));
    world.now = world.now + Duration::from_secs(6);
    world.input(Input::Tick);
    world.run();
    assert!(
        matches!(world.tunnel("p"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("p")
    );
}

#[test]
fn a_failure_that_waits_for_the_user_keeps_no_address() {
    let mut world = up();
    for _ in 0..3 {
        world.kernel.insert(name("p"), vec![]);
        world.dump(world.state.dumps);
        world.run();
    }
    assert!(matches!(
        world.tunnel("p"),
        TunnelState::Failed { retry_at: None, .. }
    ));
    assert_eq!((world.held("p"), ingress(&world)), (vec![], vec![]));
}

#[test]
fn a_folder_that_can_not_be_read_for_a_moment_costs_nothing() {
    let mut world = up();
    let held = world.held("p");
    let unreadable = Profiles {
        unreadable: true,
        ..Profiles::default()
    };
    world.input(Input::Files(unreadable));
    world.run();
    assert_eq!(
        (world.held("p"), ingress(&world)),
        (held, vec!["10.99.1.2".into()])
    );
}

#[test]
fn credentials_that_can_not_be_read_for_a_moment_cost_nothing() {
    let mut world = up();
    let held = world.held("p");
    let mut half = files("p", "10.96.0.0/12", "192.168.49.2");
    (half.credentials, half.momentary) = (None, true);
    half.profile.endpoint = None;
    half.profile.reach = Reach::Unsupported {
        reason: "no server".into(),
    };
    world.input(Input::Files(profiles(&[half])));
    world.run();
    assert_eq!(
        (world.held("p"), ingress(&world)),
        (held, vec!["10.99.1.2".into()])
    );
}

#[test]
fn a_lock_that_someone_has_is_waited_for_once() {
    let mut world = one();
    world.services.insert((name("p"), stale().key), stale());
    world.cluster_up("p");
    world.lock("p", LockNews::Busy(Some(42)));
    world.pending.clear();
    for ip in 1..100 {
        world.add("p", service("other", &format!("10.99.2.{ip}")));
    }
    assert_eq!(world.pending, []);
    world.lock("p", LockNews::Acquired);
    world.run();
    assert_eq!(ingress(&world), Vec::<String>::new());
}

#[test]
fn an_event_that_comes_before_the_answer_is_not_the_last_word() {
    let mut world = up();
    world.add("p", service("two", "10.99.1.3"));
    let Some(Effect::Ask {
        profile,
        service: asked,
        request,
    }) = world.pending.pop()
    else {
        panic!("{:?}", world.pending)
    };
    world.add("p", service("two", "10.99.1.3"));
    let result = Err(AssignError::Gone);
    world.input(Input::Answered {
        profile,
        service: asked,
        request,
        result,
    });
    world.now = next_wake(&world.state).unwrap();
    world.input(Input::Tick);
    world.run();
    assert_eq!(ingress(&world), ["10.99.1.3", "10.99.1.2"]);
}

#[test]
fn a_server_that_never_answers_is_asked_less_and_less() {
    let mut world = up();
    world.add("p", service("two", "10.99.1.3"));
    let mut waits = Vec::new();
    for _ in 0..9 {
        let Some(Effect::Ask {
            profile,
            service,
            request,
        }) = world.pending.pop()
        else {
            panic!("{:?}", world.pending)
        };
        let result = Err(AssignError::Unreachable("no".into()));
        world.input(Input::Answered {
            profile,
            service,
            request,
            result,
        });
        let due = next_wake(&world.state).unwrap();
        waits.push((due.0 - world.now.0) / 1_000);
        world.now = due;
        world.input(Input::Tick);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
}

#[test]
fn what_the_helper_refused_is_asked_again_only_when_others_change_something() {
    let mut world = one();
    world.granted = true;
    world.state.grant();
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    world.lock("p", LockNews::Acquired);
    let (profile, routes, _) = apply(&mut world).unwrap();
    world.pending.clear();
    // The helper has added them, looks them up, and takes them back.
    world.kernel.insert(name("p"), routes.clone());
    world.dump(world.state.dumps);
    world.kernel.clear();
    let conflicts: Vec<Conflict> = routes
        .iter()
        .map(|route| taken_by_another(*route))
        .collect();
    answer(
        &mut world,
        profile,
        routes.clone(),
        ApplyFailure::Conflict(conflicts),
    );
    world.run();
    world.now = world.now + Duration::from_secs(6);
    world.input(Input::Tick);
    assert!(
        matches!(world.tunnel("p"), TunnelState::Blocked { .. }),
        "{:?}",
        world.tunnel("p")
    );
    assert_eq!(world.state.tunnels[&name("p")].lock, Lock::Free);
    assert_eq!(apply(&mut world), None);

    world.foreign = vec![world::entry(&route("172.16.0.0/16", "172.16.0.1"), 3)];
    world.dump(world.state.dumps);
    world.run();
    assert_eq!(world.held("p"), routes);
}

#[test]
fn a_restarted_helper_that_refuses_what_we_held_is_believed() {
    let mut world = up();
    world.input(Input::HelperGone);
    let (profile, routes, _) = apply(&mut world).unwrap();
    let conflicts: Vec<Conflict> = routes
        .iter()
        .map(|route| taken_by_another(*route))
        .collect();
    answer(
        &mut world,
        profile,
        routes,
        ApplyFailure::Conflict(conflicts),
    );
    world.now = world.now + Duration::from_secs(6);
    world.input(Input::Tick);
    world.run();
    assert!(
        matches!(world.tunnel("p"), TunnelState::Blocked { .. }),
        "{:?}",
        world.tunnel("p")
    );
    assert_eq!(world.held("p"), vec![]);
}

#[test]
fn anothers_tagged_route_is_shown_to_who_looks_and_left_to_the_helper_by_who_acts() {
    let taken = world::entry(
        &route("10.96.0.0/12", "192.168.67.2"),
        minitunnel_routing::PROTOCOL,
    );
    let mut world = one();
    world.foreign = vec![taken];
    world.cluster_up("p");
    world.dump(world.state.dumps);
    let group = |world: &mut World| {
        snapshot(&mut world.state).profiles[0].groups[0]
            .state
            .clone()
    };
    assert_eq!(group(&mut world), GroupState::Free);
    world.state.scope.acts = false;
    world.dump(world.state.dumps);
    let GroupState::Conflicting { conflicts } = group(&mut world) else {
        panic!("{:?}", group(&mut world))
    };
    assert_eq!(conflicts[0].kind, ConflictKind::SameDestination);
}

#[test]
fn a_first_refusal_is_tried_again_soon_and_further_ones_ever_later() {
    let mut world = one();
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    let mut waits = Vec::new();
    for _ in 0..7 {
        world.failure = Some(ApplyFailure::Refused("no".into()));
        world.run();
        let due = next_wake(&world.state).unwrap();
        waits.push((due.0 - world.now.0).div_ceil(100) * 100);
        world.now = due;
        world.input(Input::Tick);
    }
    let wanted = [200, 5_000, 10_000, 20_000, 40_000, 60_000, 60_000];
    assert_eq!(waits, wanted);
    world.run();
    assert!(
        matches!(world.tunnel("p"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("p")
    );
}

#[test]
fn a_helper_that_was_there_is_looked_for_again() {
    let mut world = up();
    let version = "1".into();
    world.input(Input::Helper(HelperStatus::Ready { version }));
    world.input(Input::HelperGone);
    for _ in 0..3 {
        // The engine tells that it can't be had before it answers the apply.
        let message = "no bus".into();
        world.input(Input::Helper(HelperStatus::Missing { message }));
        world.failure = Some(ApplyFailure::Missing("no bus".into()));
        world.run();
        let failed = matches!(
            world.tunnel("p"),
            TunnelState::Failed {
                retry_at: Some(_),
                ..
            }
        );
        assert!(failed, "{:?}", world.tunnel("p"));
        world.now = world.now + Duration::from_secs(6);
        world.input(Input::Tick);
    }
    world.granted = true;
    world.run();
    assert!(
        matches!(world.tunnel("p"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("p")
    );
}

#[test]
fn addresses_of_a_tunnel_that_comes_to_be_blocked_go_and_leave_the_lock_to_others() {
    let mut world = up();
    world.input(Input::HelperGone);
    let (profile, routes, _) = apply(&mut world).unwrap();
    let conflicts: Vec<Conflict> = routes
        .iter()
        .map(|route| taken_by_another(*route))
        .collect();
    answer(
        &mut world,
        profile,
        routes,
        ApplyFailure::Conflict(conflicts),
    );
    world.now = world.now + Duration::from_secs(6);
    world.input(Input::Tick);
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Blocked { .. }));
    assert_eq!(ingress(&world), [""; 0]);
    assert_eq!(world.state.tunnels[&name("p")].lock, Lock::Free);
    world.target("p", TargetState::Down);
    world.run();
    assert_eq!(
        (world.tunnel("p"), ingress(&world)),
        (TunnelState::Disconnected, vec![])
    );
}

#[test]
fn an_assignment_that_is_answered_before_the_watch_tells_of_it_is_ours_to_withdraw() {
    let mut world = up();
    let two = service("two", "10.99.1.3");
    world.add("p", two.clone());
    let Some(Effect::Ask {
        profile,
        service: asked,
        request,
    }) = world.pending.pop()
    else {
        panic!("{:?}", world.pending)
    };
    world.target("p", TargetState::Down);
    let real = Service {
        owner: Owner::Us,
        ingress: vec!["10.99.1.3".into()],
        ..two
    };
    world.services.insert((name("p"), real.key.clone()), real);
    world.input(Input::Answered {
        profile,
        service: asked,
        request,
        result: Ok(()),
    });
    world.run();
    assert_eq!(
        (world.tunnel("p"), ingress(&world)),
        (TunnelState::Disconnected, vec![])
    );
}

#[test]
fn a_withdrawal_that_is_refused_ends_and_is_named() {
    let mut world = up();
    world.target("p", TargetState::Down);
    let is_ask = |effect: &Effect| matches!(effect, Effect::Ask { .. });
    let at = world.pending.iter().position(is_ask).unwrap();
    let Effect::Ask {
        profile,
        service,
        request,
    } = world.pending.remove(at)
    else {
        unreachable!("it was found")
    };
    let result = Err(AssignError::Refused {
        message: "not you".into(),
    });
    world.input(Input::Answered {
        profile,
        service,
        request,
        result,
    });
    world.run();
    assert_eq!(world.tunnel("p"), TunnelState::Disconnected);
    assert_eq!(world.state.tunnels[&name("p")].lock, Lock::Free);
    let report = clean_up(&mut world.state, false, &[], true).unwrap();
    assert!(
        report.failed[0].1.contains("not you"),
        "{:?}",
        report.failed
    );
}

#[test]
fn asking_again_forgets_at_once_what_the_helper_refused() {
    let mut world = one();
    world.state.grant();
    world.granted = true;
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    world.lock("p", LockNews::Acquired);
    let (profile, routes, _) = apply(&mut world).unwrap();
    let conflicts: Vec<Conflict> = routes
        .iter()
        .map(|route| taken_by_another(*route))
        .collect();
    answer(
        &mut world,
        profile,
        routes,
        ApplyFailure::Conflict(conflicts),
    );
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Blocked { .. }));
    world.target("p", TargetState::Up);
    world.run();
    assert!(
        matches!(world.tunnel("p"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("p")
    );
}

#[test]
fn a_session_that_ends_takes_on_nothing() {
    let mut world = World::new(&two("10.96.0.0/16", "10.97.0.0/16"));
    for profile in ["a", "b"] {
        world.cluster_up(profile);
    }
    world.target("a", TargetState::Up);
    world.run();
    world.input(Input::Command(Command::Quit));
    world.target("b", TargetState::Up);
    world.run();
    assert!(world.ended);
    assert_eq!(world.tunnel("b"), TunnelState::Disconnected);
}
