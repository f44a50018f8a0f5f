//! The reducer against a world that answers in any order, and invariants over random histories.

use std::time::Duration;

use ipnet::IpNet;
use minitunnel_model::{
    CleanupReport, FailureCause, GroupState, Left, Node, Owner, Pending, Reach, TunnelState,
    WaitingFor,
};

use super::{tunnel::Lock, *};

mod histories;
mod lasting;
mod leftovers;
mod others;
mod pending;
mod plans;
mod renewed;
mod trouble;
mod world;

use world::{World, files, name, one, route, service, stale, two, up};

#[test]
fn a_tunnel_that_is_wanted_gets_routes_and_gives_addresses() {
    let mut world = up();
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
    let expected = [
        route("10.96.0.0/12", "192.168.49.2"),
        route("10.244.0.0/16", "192.168.49.2"),
    ];
    assert_eq!(world.held("p"), expected);
    let shown = snapshot(&mut world.state);
    let lb = &shown.profiles[0].load_balancers[0];
    assert_eq!(
        (lb.owner.clone(), lb.ingress.as_slice()),
        (Owner::Us, &["10.99.1.2".to_owned()][..])
    );
    assert!(lb.assigned_in.is_some() && lb.pending.is_none());
}

#[test]
fn nothing_is_done_before_anyone_asks() {
    let mut world = one();
    world.cluster_up("p");
    world.add("p", service("web", "10.99.1.2"));
    world.run();
    assert_eq!(world.tunnel("p"), TunnelState::Disconnected);
    assert_eq!((world.held("p"), world.dialogs), (vec![], 0));
    let shown = snapshot(&mut world.state);
    assert_eq!(
        shown.profiles[0].load_balancers[0].pending,
        Some(Pending::TunnelDown)
    );
}

#[test]
fn a_tunnel_that_is_not_wanted_any_more_takes_everything_back() {
    let mut world = up();
    world.target("p", TargetState::Down);
    world.run();
    assert_eq!(world.tunnel("p"), TunnelState::Disconnected);
    assert_eq!(world.held("p"), vec![]);
    assert!(
        world
            .services
            .values()
            .all(|service| service.ingress.is_empty())
    );
    assert_eq!(world.state.tunnels[&name("p")].lock, Lock::Free);
}

#[test]
fn an_address_that_a_dead_run_left_is_withdrawn_without_a_tunnel() {
    let mut world = one();
    let stale = stale();
    world.services.insert((name("p"), stale.key.clone()), stale);
    world.cluster_up("p");
    world.run();
    assert!(
        world
            .services
            .values()
            .all(|service| service.ingress.is_empty())
    );
    let report = clean_up(&mut world.state, false, &[], true).unwrap();
    assert_eq!((report.removed.len(), report.failed.len()), (1, 0));
    assert_eq!((world.held("p"), world.dialogs), (vec![], 0));
}

#[test]
fn an_engine_that_only_looks_shows_what_is_stale_and_changes_nothing() {
    let mut world = one();
    world.state.scope.acts = false;
    let stale = stale();
    world.pending.clear();
    world.services.insert((name("p"), stale.key.clone()), stale);
    world.cluster_up("p");
    assert_eq!(world.pending, vec![]);
    assert_eq!(snapshot(&mut world.state).profiles[0].stale().count(), 1);
}

#[test]
fn other_classes_and_other_controllers_are_left_alone() {
    let mut world = up();
    world.add(
        "p",
        Service {
            class: Some("x.io/lb".into()),
            ..service("classy", "10.99.1.3")
        },
    );
    let foreign = Owner::Other("metallb".into());
    world.add(
        "p",
        Service {
            owner: foreign,
            ingress: vec!["10.1.1.1".into()],
            ..service("theirs", "10.99.1.4")
        },
    );
    world.run();
    let theirs = &world.services[&(name("p"), service("theirs", "10.99.1.4").key)];
    assert_eq!(theirs.ingress, ["10.1.1.1"]);
    let classy = &world.services[&(name("p"), service("classy", "10.99.1.3").key)];
    assert_eq!(classy.ingress, Vec::<String>::new());
}

#[test]
fn a_cluster_that_stops_loses_its_routes_and_gets_them_back_without_a_second_dialog() {
    let mut world = up();
    world.cluster_down("p");
    world.run();
    assert_eq!(world.held("p"), vec![]);
    let waits = TunnelState::Waiting {
        on: WaitingFor::Cluster {
            reason: "it is gone".into(),
        },
    };
    assert_eq!(world.tunnel("p"), waits);
    world.cluster_up("p");
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
    assert_eq!(world.dialogs, 1);
}

#[test]
fn one_consent_serves_all_profiles() {
    let mut world = World::new(&two("10.96.0.0/16", "10.97.0.0/16"));
    for profile in ["a", "b"] {
        world.cluster_up(profile);
        world.target(profile, TargetState::Up);
    }
    world.run();
    assert_eq!(world.dialogs, 1);
    for profile in ["a", "b"] {
        assert!(
            matches!(world.tunnel(profile), TunnelState::Connected { .. }),
            "{profile}"
        );
    }
}

#[test]
fn a_refused_consent_is_not_asked_for_again_until_the_user_does() {
    let mut world = World::new(&two("10.96.0.0/16", "10.97.0.0/16"));
    world.consents = false;
    for profile in ["a", "b"] {
        world.cluster_up(profile);
        world.target(profile, TargetState::Up);
    }
    world.run();
    assert_eq!(world.dialogs, 1);
    for profile in ["a", "b"] {
        let state = world.tunnel(profile);
        let refused = matches!(
            state,
            TunnelState::Failed {
                cause: FailureCause::NotAuthorized { .. },
                retry_at: None
            }
        );
        assert!(refused, "{profile}: {state:?}");
    }
    world.consents = true;
    world.target("a", TargetState::Up);
    world.run();
    assert_eq!(world.dialogs, 2);
    assert!(matches!(world.tunnel("a"), TunnelState::Connected { .. }));
}

#[test]
fn the_same_services_of_two_profiles_block_the_second_and_name_the_first() {
    let mut world = World::new(&two("10.96.0.0/12", "10.96.0.0/12"));
    for profile in ["a", "b"] {
        world.cluster_up(profile);
        world.target(profile, TargetState::Up);
        world.run();
    }
    assert!(matches!(world.tunnel("a"), TunnelState::Connected { .. }));
    let TunnelState::Blocked { conflicts } = world.tunnel("b") else {
        panic!("{:?}", world.tunnel("b"));
    };
    assert_eq!(conflicts[0].profile, Some(name("a")));
    assert_eq!(world.held("b"), vec![]);
}

#[test]
fn a_pod_conflict_costs_no_services() {
    let mut world = World::new(&two("10.96.0.0/16", "10.97.0.0/16"));
    for profile in ["a", "b"] {
        world.cluster_up(profile);
        world.target(profile, TargetState::Up);
        world.run();
    }
    assert_eq!(world.held("b"), [route("10.97.0.0/16", "192.168.58.2")]);
    let shown = snapshot(&mut world.state);
    let pods = &shown.profile(&name("b")).unwrap().groups[1];
    assert!(matches!(pods.state, GroupState::Conflicting { .. }));
}

#[test]
fn a_route_that_someone_removes_comes_back_and_the_third_loss_is_a_fight() {
    let mut world = up();
    let wanted = world.held("p");
    for _ in 0..2 {
        world.kernel.insert(name("p"), vec![]);
        world.dump(world.state.dumps);
        world.run();
        assert_eq!(world.held("p"), wanted);
    }
    world.kernel.insert(name("p"), vec![]);
    world.dump(world.state.dumps);
    world.run();
    let TunnelState::Failed {
        cause: FailureCause::Fight { message },
        retry_at: None,
    } = world.tunnel("p")
    else {
        panic!("{:?}", world.tunnel("p"))
    };
    assert_eq!(
        message,
        "something removed the routes of p 3 times within 10 s; suspected, as it manages routes here: a daemon (process 7); \
         end it, or have it leave the routes with protocol 109 alone, then start the tunnel again"
    );
    assert_eq!(world.held("p"), vec![]);
}

#[test]
fn after_a_sleep_every_server_is_asked_at_once_and_what_is_due_is_done() {
    let mut world = up();
    world.input(Input::Applied {
        profile: name("p"),
        routes: vec![],
        result: Err(ApplyFailure::Refused("no".into())),
    });
    world.pending.clear();
    world.now = world.now + Duration::from_secs(3_600);
    world.input(Input::Resumed);
    assert!(world.pending.contains(&Effect::Wake(name("p"))));
    world.run();
    assert_eq!(next_wake(&world.state), None);
    assert!(
        matches!(world.tunnel("p"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("p")
    );
}

#[test]
fn a_helper_that_died_is_asked_again_without_a_dialog() {
    let mut world = up();
    world.input(Input::HelperGone);
    assert!(matches!(
        world.pending.as_slice(),
        [Effect::Apply {
            interactive: false,
            ..
        }]
    ));
    world.run();
    assert_eq!(world.dialogs, 1);
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
}

#[test]
fn minikubes_own_tunnel_is_waited_for() {
    let mut world = one();
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    world.pending.clear();
    world.lock("p", LockNews::Busy(Some(42)));
    let waits = TunnelState::Waiting {
        on: WaitingFor::Lock { pid: Some(42) },
    };
    assert_eq!((world.tunnel("p"), world.pending.len()), (waits, 0));
    world.lock("p", LockNews::Acquired);
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
}

#[test]
fn a_profile_whose_files_go_loses_its_routes_and_is_forgotten() {
    let mut world = up();
    world.input(Input::Files(Profiles::default()));
    world.run();
    assert_eq!(world.held("p"), vec![]);
    assert!(snapshot(&mut world.state).profiles.is_empty());
}

#[test]
fn a_profile_that_comes_back_gets_its_tunnel_back_without_a_second_dialog() {
    let mut world = up();
    world.input(Input::Files(Profiles::default()));
    world.run();
    assert_eq!(snapshot(&mut world.state).awaited, [name("p")]);
    let back = files("p", "10.96.0.0/12", "192.168.49.2");
    world.input(Input::Files(world::profiles(&[back])));
    world.run();
    world.cluster_up("p");
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
    assert_eq!(snapshot(&mut world.state).awaited, []);
    assert_eq!(world.dialogs, 1);
}

#[test]
fn a_tunnel_of_an_ended_session_waits_for_the_consent_that_its_user_asks_for() {
    let mut world = one();
    world.cluster_up("p");
    world.resume("p");
    world.run();
    let waits = TunnelState::Waiting {
        on: WaitingFor::Consent,
    };
    assert_eq!((world.tunnel("p"), world.dialogs), (waits, 0));
    world.target("p", TargetState::Up);
    // One that somebody asks for is not set back.
    world.resume("p");
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
    assert_eq!(world.dialogs, 1);
}

#[test]
fn quit_ends_when_everything_is_taken_back() {
    let mut world = up();
    world.input(Input::Command(Command::Quit));
    assert!(!world.pending.contains(&Effect::Ended));
    world.run();
    assert!(world.ended);
    assert_eq!(world.held("p"), vec![]);
}

#[test]
fn quit_tells_which_tunnels_were_wanted_and_ends_those_alone_that_were_not_brought_down_before() {
    let mut world = up();
    world.input(Input::Command(Command::Quit));
    world.run();
    assert_eq!(snapshot(&mut world.state).interrupted, [name("p")]);

    let mut down = up();
    down.target("p", TargetState::Down);
    down.input(Input::Command(Command::Quit));
    down.run();
    assert_eq!(snapshot(&mut down.state).interrupted, []);

    let mut late = up();
    late.input(Input::Command(Command::Quit));
    late.target("p", TargetState::Down);
    late.run();
    assert_eq!(snapshot(&mut late.state).interrupted, []);

    let mut gone = up();
    gone.input(Input::Files(Profiles::default()));
    gone.run();
    gone.input(Input::Command(Command::Quit));
    assert_eq!(snapshot(&mut gone.state).interrupted, [name("p")]);
}

#[test]
fn a_helper_that_asks_nobody_opens_no_dialog() {
    let mut world = one();
    world.state.grant();
    world.granted = true;
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    let dialog = TunnelState::Waiting {
        on: WaitingFor::Dialog,
    };
    while !world.pending.is_empty() {
        assert_ne!(world.tunnel("p"), dialog);
        world.step(0);
    }
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
}

#[test]
fn news_of_an_earlier_watch_or_lock_are_no_news() {
    let mut world = up();
    let (watch, lock) = (world.watches[&name("p")], world.locks[&name("p")]);
    // Other credentials mean another watch, a new start another lock.
    let mut renewed = files("p", "10.96.0.0/12", "192.168.49.2");
    renewed.credentials.as_mut().unwrap().server = "https://192.168.49.2:9443".into();
    world.input(Input::Files(world::profiles(&[renewed])));
    world.cluster_up("p");
    world.target("p", TargetState::Down);
    world.run();
    world.target("p", TargetState::Up);
    world.pending.clear();
    let reason = "the old watch ended".into();
    world.input(Input::Cluster(
        name("p"),
        watch,
        ClusterEvent::Down { reason },
    ));
    world.input(Input::Lock(name("p"), lock, LockNews::Acquired));
    assert_eq!(world.tunnel("p"), TunnelState::Connecting);
    assert_eq!(world.state.tunnels[&name("p")].lock, Lock::Asked);
    world.lock("p", LockNews::Acquired);
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
}

#[test]
fn an_answer_for_a_service_that_was_made_anew_is_not_the_new_ones() {
    let mut world = one();
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    world.run();
    world.add("p", service("web", "10.99.1.2"));
    let asked = world.pending.pop();
    let Some(Effect::Ask {
        profile,
        service: old,
        request,
    }) = asked
    else {
        panic!("{asked:?}")
    };
    let anew = Service {
        uid: "another".into(),
        ..service("web", "10.99.1.9")
    };
    world.add("p", anew);
    let result = Ok(());
    world.input(Input::Answered {
        profile,
        service: old,
        request,
        result,
    });
    world.run();
    let shown = snapshot(&mut world.state);
    assert_eq!(shown.profiles[0].load_balancers[0].ingress, ["10.99.1.9"]);
}

#[test]
fn addresses_in_a_cluster_that_was_lost_are_named_until_it_is_back() {
    let mut world = up();
    world.cluster_down("p");
    world.target("p", TargetState::Down);
    world.run();
    let left = Left {
        service: service("web", "10.99.1.2").key,
        addresses: vec!["10.99.1.2".into()],
    };
    assert_eq!(snapshot(&mut world.state).profiles[0].left, [left]);
    world.cluster_up("p");
    world.run();
    assert_eq!(snapshot(&mut world.state).profiles[0].left, []);
    assert!(
        world
            .services
            .values()
            .all(|service| service.ingress.is_empty())
    );
}

#[test]
fn a_clean_up_waits_for_the_files_and_names_what_the_watch_tells_before_the_answer() {
    let scope = Scope {
        acts: true,
        only: None,
    };
    let mut unread = State::new("/home/u/.minikube".into(), scope);
    assert_eq!(clean_up(&mut unread, false, &[], true), None);

    let mut world = one();
    let stale = stale();
    world.services.insert((name("p"), stale.key.clone()), stale);
    world.cluster_up("p");
    world.lock("p", LockNews::Acquired);
    let asked = world.pending.pop();
    let Some(Effect::Ask {
        profile,
        service: asked,
        request,
    }) = asked
    else {
        panic!("{asked:?}")
    };
    world.add("p", service("web", "10.99.1.2"));
    assert_eq!(clean_up(&mut world.state, false, &[], true), None);
    let result = Ok(());
    world.input(Input::Answered {
        profile,
        service: asked,
        request,
        result,
    });
    let report = clean_up(&mut world.state, false, &[], true).unwrap();
    let removed: Vec<String> = report.removed.iter().map(ToString::to_string).collect();
    assert_eq!(removed, ["address 10.99.1.2 of service default/web in p"]);
}

#[test]
fn a_stop_that_never_ends_is_believed_for_its_time_and_no_longer() {
    let mut world = up();
    let mut stopping = files("p", "10.96.0.0/12", "192.168.49.2");
    let until = world.now + Duration::from_secs(180);
    stopping.stopping_until = Some(until);
    world.input(Input::Files(world::profiles(&[stopping])));
    world.run();
    assert_eq!(
        (world.held("p"), next_wake(&world.state)),
        (vec![], Some(until))
    );
    world.now = until;
    world.input(Input::Tick);
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
}
