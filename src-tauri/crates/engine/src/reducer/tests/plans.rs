//! Which routes are wanted, and through which node.

use super::*;

fn node(name: &str, ip: &str, pods: &str) -> Node {
    Node {
        name: name.into(),
        ips: vec![ip.parse().unwrap()],
        control_plane: name == "p",
        ready: Some(true),
        pod_cidrs: vec![pods.parse().unwrap()],
    }
}

#[test]
fn a_range_within_another_needs_no_route_and_one_without_a_gateway_says_so() {
    let mut world = one();
    let cidrs = ["10.96.0.0/24", "10.96.0.0/28", "fd00:96::/112"];
    let cidrs = cidrs.map(|cidr| cidr.parse().unwrap()).to_vec();
    world.cluster_up("p");
    world.cluster("p", ClusterEvent::ServiceCidrs(cidrs));
    world.target("p", TargetState::Up);
    world.run();
    let services = route("10.96.0.0/24", "192.168.49.2");
    assert_eq!(
        world.held("p"),
        [services, route("10.244.0.0/16", "192.168.49.2")]
    );
    let shown = snapshot(&mut world.state);
    let GroupState::LeftOut { reason } = &shown.profiles[0].groups[1].state else {
        panic!("{:?}", shown.profiles[0].groups)
    };
    assert!(reason.contains("fd00:96::/112"), "{reason}");
}

#[test]
fn a_link_that_goes_takes_its_routes_and_is_no_fight() {
    let mut world = up();
    for _ in 0..5 {
        world.kernel.insert(name("p"), vec![]);
        world.input(Input::Table {
            table: Arc::default(),
            after: world.state.dumps,
        });
        world.run();
        world.dump(world.state.dumps);
        world.run();
    }
    assert!(
        matches!(world.tunnel("p"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("p")
    );
}

#[test]
fn each_nodes_pods_go_through_that_node_and_the_services_through_one_that_is_ready() {
    let mut several = files("p", "10.96.0.0/12", "192.168.49.2");
    several.cni = crate::minikube::Cni::Kindnet;
    let mut world = World::new(&[several]);
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    let [mut first, second] = [
        node("p", "192.168.49.2", "10.244.0.0/24"),
        node("p-m02", "192.168.49.3", "10.244.1.0/24"),
    ];
    // The same pods for a second time cost neither the services nor the others.
    let twin = node("p-m03", "192.168.49.4", "10.244.1.0/24");
    let nodes = vec![first.clone(), second.clone(), twin];
    world.cluster("p", ClusterEvent::Nodes(nodes));
    world.run();
    let pods = [
        route("10.244.0.0/24", "192.168.49.2"),
        route("10.244.1.0/24", "192.168.49.3"),
    ];
    let services = route("10.96.0.0/12", "192.168.49.2");
    assert_eq!(world.held("p"), [services, pods[0], pods[1]]);
    let shown = snapshot(&mut world.state);
    let twin = &shown.profiles[0].groups[3];
    assert!(matches!(twin.state, GroupState::LeftOut { .. }), "{twin:?}");

    first.ready = Some(false);
    world.cluster("p", ClusterEvent::Nodes(vec![first, second.clone()]));
    world.run();
    let services = route("10.96.0.0/12", "192.168.49.3");
    assert_eq!(world.held("p"), [services, pods[0], pods[1]]);
    world.cluster("p", ClusterEvent::Nodes(vec![second]));
    world.run();
    assert_eq!(world.held("p"), [services, pods[1]]);
}

#[test]
fn a_gateway_is_of_its_destinations_family() {
    let mut world = one();
    let dual: Vec<IpNet> = ["10.96.0.0/12", "fd00:10:96::/112"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let node = Node {
        name: "p".into(),
        ips: vec![
            "192.168.49.2".parse().unwrap(),
            "fd00:49::2".parse().unwrap(),
        ],
        control_plane: true,
        ready: Some(true),
        pod_cidrs: Vec::new(),
    };
    let up = ClusterEvent::Up {
        service_cidrs: dual,
        nodes: vec![node],
        services: Vec::new(),
    };
    world.cluster("p", up);
    world.target("p", TargetState::Up);
    world.run();
    let held = world.held("p");
    assert!(
        held.contains(&route("fd00:10:96::/112", "fd00:49::2")),
        "{held:?}"
    );
    assert!(
        held.contains(&route("10.96.0.0/12", "192.168.49.2")),
        "{held:?}"
    );
}

/// The reasons of the groups that are left out.
fn left_out(world: &mut World) -> Vec<String> {
    let shown = snapshot(&mut world.state);
    let groups = shown.profiles[0].groups.iter();
    let reasons = groups.filter_map(|group| match &group.state {
        GroupState::LeftOut { reason } => Some(format!("{}: {reason}", group.kind)),
        _ => None,
    });
    reasons.collect()
}

/// A connected profile whose nodes the API server tells, with a pod network that goes by what nodes say.
fn with_nodes(nodes: Vec<Node>) -> World {
    let mut several = files("p", "10.96.0.0/12", "192.168.49.2");
    several.cni = crate::minikube::Cni::Calico;
    let mut world = World::new(&[several]);
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    world.cluster("p", ClusterEvent::Nodes(nodes));
    world.run();
    world
}

#[test]
fn networks_that_nobody_may_route_are_left_out_and_cost_nothing_else() {
    let networks = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
    let mut first = node("p", "192.168.49.2", "10.244.7.0/26");
    let [low, high] = ["10.244.7.0/26", "10.244.7.64/26"];
    first.pod_cidrs = networks(&["0.0.0.0/0", low, "8.8.8.0/24", high, "fd00:7::/64"]);
    let mut ours = node("p-m02", "192.168.0.1", "10.244.8.0/26");
    ours.ready = None;
    let far = node("p-m03", "172.16.0.9", "10.244.9.0/26");
    let none = Node {
        pod_cidrs: Vec::new(),
        ..node("p-m04", "192.168.49.5", "10.0.0.0/8")
    };
    let mut world = with_nodes(vec![first, ours, far, none]);
    let expected = [
        route("10.96.0.0/12", "192.168.49.2"),
        // Two neighbours are one route.
        route("10.244.7.0/25", "192.168.49.2"),
    ];
    assert_eq!(world.held("p"), expected);
    let reasons = left_out(&mut world);
    for (reason, words) in reasons.iter().zip([
        ["pods of p:", "0.0.0.0/0"],
        ["pods of p-m02:", "no address of its own"],
        ["pods of p-m03:", "172.16.0.9"],
        ["pods of p-m04:", "Calico has bound no block"],
    ]) {
        assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
    }
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    let first = &reasons[0];
    assert!(
        first.contains("8.8.8.0/24") && first.contains("fd00:7::/64"),
        "{first}"
    );
}

#[test]
fn more_networks_than_the_helper_takes_are_left_out_as_a_whole_and_the_other_nodes_keep_theirs() {
    // Every other /26 of a range, so that none are neighbours.
    let block = |number: u32| {
        let first = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0)) + number * 128;
        ipnet::Ipv4Net::new(first.into(), 26).unwrap().into()
    };
    let mut first = node("p", "192.168.49.2", "10.244.0.0/26");
    first.pod_cidrs = (0..5_000).map(block).collect();
    let second = node("p-m02", "192.168.49.3", "10.244.1.0/26");
    let mut world = with_nodes(vec![first, second]);
    let expected = [
        route("10.96.0.0/12", "192.168.49.2"),
        route("10.244.1.0/26", "192.168.49.3"),
    ];
    assert_eq!(world.held("p"), expected);
    let reasons = left_out(&mut world);
    assert!(
        reasons.len() == 1 && reasons[0].contains("5000 routes") && reasons[0].contains("1024"),
        "{reasons:?}"
    );
}

#[test]
fn a_service_range_that_nobody_may_route_says_so_and_is_asked_of_nobody() {
    let mut world = World::new(&[files("p", "34.118.224.0/20", "192.168.49.2")]);
    world.cluster_up("p");
    world.target("p", TargetState::Up);
    world.run();
    assert_eq!((world.held("p"), world.dialogs), (vec![], 0));
    let state = world.tunnel("p");
    let TunnelState::Failed {
        cause: FailureCause::Reach { message },
        retry_at: None,
    } = &state
    else {
        panic!("{state:?}")
    };
    let words = [
        "34.118.224.0/20",
        "minikube start -p p --service-cluster-ip-range",
    ];
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn a_family_whose_gateway_is_on_no_link_costs_the_other_nothing() {
    let mut dual = node("p", "192.168.49.2", "10.244.0.0/24");
    dual.ips.push("fd00:50::2".parse().unwrap());
    let mut world = with_nodes(vec![dual]);
    let cidrs = ["10.96.0.0/12", "fd00:10:96::/112"];
    let cidrs = cidrs.map(|cidr| cidr.parse().unwrap()).to_vec();
    world.cluster("p", ClusterEvent::ServiceCidrs(cidrs));
    world.run();
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
    assert_eq!(world.held("p")[0], route("10.96.0.0/12", "192.168.49.2"));
    let reasons = left_out(&mut world);
    assert!(
        reasons.len() == 1 && reasons[0].contains("fd00:50::2"),
        "{reasons:?}"
    );
}

#[test]
fn the_services_go_through_a_ready_control_plane_then_any_ready_node_then_what_there_is() {
    let named = |name: &str, last: u8, ready: bool| Node {
        control_plane: name != "worker",
        ready: Some(ready),
        ..node(
            name,
            &format!("192.168.49.{last}"),
            &format!("10.244.{last}.0/24"),
        )
    };
    let nodes = |first, second, worker| {
        vec![
            named("p", 2, first),
            named("p-m02", 3, second),
            named("worker", 4, worker),
        ]
    };
    let mut world = with_nodes(nodes(true, true, true));
    for (first, second, worker, gateway) in [
        (true, true, true, "192.168.49.2"),
        (false, true, true, "192.168.49.3"),
        (false, false, true, "192.168.49.4"),
        (false, false, false, "192.168.49.2"),
        (true, false, false, "192.168.49.2"),
    ] {
        let event = ClusterEvent::Nodes(nodes(first, second, worker));
        world.cluster("p", event);
        world.run();
        let services = route("10.96.0.0/12", gateway);
        assert_eq!(world.held("p")[0], services, "{first} {second} {worker}");
        assert_eq!(world.held("p").len(), 4);
    }
    assert_eq!(world.dialogs, 1);
}

#[test]
fn routes_follow_a_node_to_its_new_address_at_once() {
    let mut world = with_nodes(vec![node("p", "192.168.49.2", "10.244.0.0/24")]);
    let moved = vec![node("p", "192.168.49.9", "10.244.0.0/24")];
    world.cluster("p", ClusterEvent::Nodes(moved));
    let asked = world.pending.iter().filter(|effect| {
        let wanted = [
            route("10.96.0.0/12", "192.168.49.9"),
            route("10.244.0.0/24", "192.168.49.9"),
        ];
        matches!(effect, Effect::Apply { routes, .. } if *routes == wanted)
    });
    assert_eq!(asked.count(), 1);
}

#[test]
fn a_range_that_the_helper_refused_is_free_when_the_tunnel_that_had_it_is_seen_to_give_it_back() {
    let mut world = World::new(&two("10.96.0.0/12", "10.96.0.0/12"));
    world.cluster_up("a");
    world.cluster_up("b");
    world.target("a", TargetState::Up);
    world.target("b", TargetState::Up);
    let [first, second] =
        ["192.168.49.2", "192.168.58.2"].map(|gateway| route("10.96.0.0/12", gateway));
    let refused = Conflict {
        ours: second,
        ..world::taken_by_another(first)
    };
    world.run();
    world.input(Input::Applied {
        profile: name("b"),
        routes: vec![second],
        result: Err(ApplyFailure::Conflict(vec![refused])),
    });
    world.run();
    let TunnelState::Blocked { conflicts } = world.tunnel("b") else {
        panic!("{:?}", world.tunnel("b"))
    };
    assert_eq!(conflicts.len(), 1, "told twice: {conflicts:?}");

    world.target("a", TargetState::Down);
    world.run();
    world.now = next_wake(&world.state).unwrap_or(world.now);
    world.input(Input::Tick);
    world.run();
    assert!(
        matches!(world.tunnel("b"), TunnelState::Connected { .. }),
        "{:?}",
        world.tunnel("b")
    );
    assert_eq!(world.held("b")[0], second);
}
