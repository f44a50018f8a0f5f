//! Why a service has no address: every view is told.

use super::*;

/// What views are told of a service.
fn pending(world: &mut World, name: &str) -> Option<Pending> {
    let shown = snapshot(&mut world.state);
    let mut services = shown.profiles[0].load_balancers.iter();
    let service = services.find(|service| service.key.name == name).unwrap();
    service.pending.clone()
}

/// Lets the API server answer the next request for an address.
fn answer(world: &mut World, result: Result<(), AssignError>) {
    let asked = |effect: &Effect| matches!(effect, Effect::Ask { .. });
    let at = world.pending.iter().position(asked).unwrap();
    let Effect::Ask {
        profile,
        service,
        request,
    } = world.pending.remove(at)
    else {
        unreachable!()
    };
    world.input(Input::Answered {
        profile,
        service,
        request,
        result,
    });
}

#[test]
fn each_service_without_an_address_says_why() {
    let mut world = up();
    let classed = Service {
        class: Some("x.io/lb".into()),
        ..service("classed", "10.99.1.3")
    };
    let foreign = Service {
        owner: Owner::Other("metallb-controller".into()),
        ingress: vec!["10.1.1.1".into()],
        ..service("foreign", "10.99.1.4")
    };
    // A `minikube tunnel` of a forwarding driver gives everybody this one.
    let local = Service {
        owner: Owner::Other("minikube".into()),
        ingress: vec!["127.0.0.1".into()],
        ..service("local", "10.99.1.5")
    };
    let without = Service {
        cluster_ips: Vec::new(),
        ..service("without", "10.99.1.6")
    };
    let class = Pending::OtherClass {
        class: "x.io/lb".into(),
    };
    let of = |manager: &str| Pending::SomeoneElses {
        manager: manager.into(),
    };
    for (service, reason) in [
        (classed, class),
        (foreign, of("metallb-controller")),
        (local, of("minikube")),
        (without, Pending::NoClusterIp),
    ] {
        let name = service.key.name.clone();
        world.add("p", service);
        world.run();
        assert_eq!(pending(&mut world, &name), Some(reason));
    }
    world.target("p", TargetState::Down);
    world.run();
    assert_eq!(pending(&mut world, "web"), Some(Pending::TunnelDown));
}

#[test]
fn beside_the_metallb_addon_nothing_is_asked_for_and_every_service_says_so() {
    let mut with = files("p", "10.96.0.0/12", "192.168.49.2");
    with.metallb = true;
    let mut world = World::new(&[with]);
    world.cluster_up("p");
    world.add("p", service("web", "10.99.1.2"));
    world.target("p", TargetState::Up);
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
    assert_eq!(pending(&mut world, "web"), Some(Pending::Metallb));
    assert!(
        world
            .services
            .values()
            .all(|service| service.ingress.is_empty())
    );
}

#[test]
fn a_refusal_is_told_in_the_servers_words_until_the_service_changes() {
    let mut world = up();
    let new = service("new", "10.99.1.7");
    world.add("p", new.clone());
    assert_eq!(pending(&mut world, "new"), Some(Pending::Assigning));
    let message = "admission policy says no".to_owned();
    let refused = AssignError::Refused {
        message: message.clone(),
    };
    answer(&mut world, Err(refused));
    assert_eq!(
        pending(&mut world, "new"),
        Some(Pending::Refused { message })
    );
    world.run();
    let slot = (name("p"), new.key.clone());
    assert_eq!(world.services[&slot].ingress, [""; 0]);

    world.add("p", new);
    world.run();
    assert_eq!(pending(&mut world, "new"), None);
    assert_eq!(world.services[&slot].ingress, ["10.99.1.7"]);
}

#[test]
fn a_server_that_goes_on_failing_is_quoted_while_it_is_asked_again() {
    let mut world = up();
    world.add("p", service("new", "10.99.1.7"));
    let failed = || Err(AssignError::Unreachable("etcd has no leader".into()));
    answer(&mut world, failed());
    assert_eq!(pending(&mut world, "new"), Some(Pending::Assigning));
    world.now = next_wake(&world.state).unwrap();
    world.input(Input::Tick);
    answer(&mut world, failed());
    let quoted = Pending::Unanswered {
        message: "etcd has no leader".into(),
    };
    assert_eq!(pending(&mut world, "new"), Some(quoted));
    world.now = next_wake(&world.state).unwrap();
    world.input(Input::Tick);
    world.run();
    assert_eq!(pending(&mut world, "new"), None);
}

#[test]
fn a_server_that_wants_to_be_left_alone_is_asked_again_when_it_says_and_no_later() {
    let mut world = up();
    world.add("p", service("new", "10.99.1.7"));
    let rest = Duration::from_secs(7);
    for _ in 0..5 {
        let message = "too many requests".to_owned();
        answer(&mut world, Err(AssignError::Later { message, rest }));
        assert_eq!(next_wake(&world.state), Some(world.now + rest));
        world.now = world.now + rest;
        world.input(Input::Tick);
    }
    let quoted = Pending::Unanswered {
        message: "too many requests".into(),
    };
    assert_eq!(pending(&mut world, "new"), Some(quoted));
    world.run();
    assert_eq!(pending(&mut world, "new"), None);
}
