//! Other sessions on a cluster, and profiles that go while it answers.

use super::{
    world::{entry, profiles},
    *,
};

fn ingress(world: &World) -> Vec<String> {
    let services = world.services.values();
    services
        .flat_map(|service| service.ingress.clone())
        .collect()
}

/// An address of our manager's, and a route with our tag to its cluster that we have not made.
fn served_by_another() -> World {
    let mut world = one();
    let services = route("10.96.0.0/12", "192.168.49.2");
    world.foreign = vec![entry(&services, minitunnel_routing::PROTOCOL)];
    world.dump(0);
    world.run();
    world.cluster_up("p");
    world.add("p", stale());
    world.run();
    world
}

#[test]
fn addresses_of_a_living_session_of_another_home_are_left_alone_until_it_ends() {
    let mut world = one();
    world.sessions = true;
    world.foreign = served_by_another().foreign;
    world.dump(0);
    world.run();
    world.cluster_up("p");
    world.add("p", stale());
    world.run();
    assert_eq!(ingress(&world), ["10.99.1.2"]);
    let shown = snapshot(&mut world.state);
    let shown = shown.profile(&name("p")).unwrap();
    assert_eq!(shown.stale().count(), 0);
    let report = clean_up(&mut world.state, false, &[], true).unwrap();
    assert_eq!(report, CleanupReport::default());

    world.sessions = false;
    world.foreign.clear();
    world.dump(0);
    world.run();
    assert_eq!(ingress(&world), Vec::<String>::new());
}

#[test]
fn a_route_that_is_gone_for_a_moment_costs_a_living_session_no_address() {
    for leases in [
        None,
        Some(BTreeSet::from([route("10.96.0.0/12", "192.168.49.2")])),
    ] {
        let mut world = one();
        world.sessions = true;
        world.leases = leases;
        let theirs = served_by_another().foreign;
        world.foreign.clone_from(&theirs);
        world.dump(0);
        world.run();
        world.cluster_up("p");
        world.add("p", stale());
        for foreign in [Vec::new(), theirs, Vec::new()] {
            world.foreign = foreign;
            world.dump(0);
            assert!(!services::any_ours(&world.state.tunnels[&name("p")]));
            world.run();
        }
        assert_eq!(ingress(&world), ["10.99.1.2"]);
        // It dies without a trace in the table: a clean-up looks again.
        (world.sessions, world.leases) = (false, Some(BTreeSet::new()));
        let (dry_run, chosen) = (false, Vec::new());
        world.input(Input::Command(Command::Cleanup { dry_run, chosen }));
        assert_eq!(clean_up(&mut world.state, false, &[], true), None);
        world.run();
        let report = clean_up(&mut world.state, false, &[], true).unwrap();
        assert_eq!((report.removed.len(), ingress(&world)), (1, vec![]));
    }
}

#[test]
fn addresses_of_a_dead_session_go_though_a_third_one_lives_where_the_helper_can_be_asked() {
    let mut world = one();
    world.sessions = true;
    world.leases = Some(BTreeSet::from([route("10.100.0.0/16", "192.168.58.2")]));
    world.foreign = served_by_another().foreign;
    world.dump(0);
    world.run();
    world.cluster_up("p");
    world.add("p", stale());
    world.run();
    assert_eq!(ingress(&world), Vec::<String>::new());
}

#[test]
fn nothing_is_withdrawn_before_anyone_has_looked_whose_it_is() {
    let scope = Scope {
        acts: true,
        only: None,
    };
    let mut world = one();
    world.state = State::new("/home/u/.minikube".into(), scope);
    world.pending.clear();
    world.input(Input::Files(profiles(&[files(
        "p",
        "10.96.0.0/12",
        "192.168.49.2",
    )])));
    world.cluster_up("p");
    world.add("p", stale());
    world.run();
    assert_eq!(ingress(&world), ["10.99.1.2"]);
    assert_eq!(world.state.tunnels[&name("p")].lock, Lock::Free);
    world.dump(0);
    assert_eq!(world.pending.len(), 1, "{:?}", world.pending);
    world.run();
    assert_eq!(ingress(&world), Vec::<String>::new());
}

#[test]
fn a_late_answer_about_sessions_is_none() {
    let mut world = one();
    world.run();
    let earlier = world.state.looking_for_others;
    world.foreign = served_by_another().foreign;
    world.dump(0);
    world.cluster_up("p");
    world.add("p", stale());
    world.input(Input::Sessions(earlier, Others::Run(false)));
    assert_eq!(world.state.tunnels[&name("p")].lock, Lock::Free);
}

#[test]
fn a_tunnel_that_was_refused_comes_up_when_the_session_that_had_its_route_gives_it_back() {
    let mut world = one();
    world.sessions = true;
    let theirs = route("10.96.0.0/12", "192.168.49.2");
    world.foreign = vec![entry(&theirs, minitunnel_routing::PROTOCOL)];
    world.dump(0);
    world.run();
    world.cluster_up("p");
    world.failure = Some(ApplyFailure::Conflict(vec![
        super::world::taken_by_another(theirs),
    ]));
    world.target("p", TargetState::Up);
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Blocked { .. }));
    world.foreign.clear();
    world.dump(world.state.dumps);
    // The pause after a refusal.
    world.now = Timestamp(world.now.0 + 10_000);
    world.input(Input::Tick);
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
}

#[test]
fn a_route_that_a_dead_session_left_keeps_no_address() {
    assert_eq!(ingress(&served_by_another()), Vec::<String>::new());
}

#[test]
fn addresses_of_a_profile_whose_files_go_are_withdrawn_while_its_server_answers() {
    let mut world = up();
    world.input(Input::Files(profiles(&[])));
    world.run();
    assert_eq!((world.held("p"), ingress(&world)), (vec![], vec![]));
    assert!(snapshot(&mut world.state).profile(&name("p")).is_none());
    assert!(world.state.tunnels.is_empty());
}

#[test]
fn a_profile_whose_files_go_is_forgotten_with_a_server_that_does_not_answer() {
    let mut world = up();
    world.input(Input::Files(profiles(&[])));
    world.cluster_down("p");
    world
        .pending
        .retain(|effect| !matches!(effect, Effect::Ask { .. }));
    world.run();
    assert!(world.state.tunnels.is_empty());
}

#[test]
fn routes_of_our_own_that_a_dead_helper_left_are_nobody_elses() {
    let mut world = up();
    world.sessions = true;
    world.foreign = world
        .held("p")
        .iter()
        .map(|route| entry(route, minitunnel_routing::PROTOCOL))
        .collect();
    world.kernel.clear();
    // The helper can't be had any more, and its routes are there still.
    world.failure = Some(ApplyFailure::Missing("no".into()));
    world.input(Input::HelperGone);
    world.run();
    world.input(Input::Command(Command::Quit));
    world.run();
    assert!(world.ended);
    assert_eq!(ingress(&world), Vec::<String>::new());
}
