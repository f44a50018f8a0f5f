use std::sync::Arc;

use minitunnel_model::{
    FailureCause, GroupKind, GroupState, Pending, ProfileStatus, Route, RouteGroup, ServicePort,
    TargetState, Timestamp,
};

use super::*;
use crate::testing::{Session, key, name, service, snapshot, status};

/// A tunnel that is up, with a route to 10.96.0.0/12 and the service `default/web` at 10.99.1.2.
fn up(ports: &[(u16, &str)]) -> ProfileStatus {
    let port = |(port, protocol): &(u16, &str)| ServicePort {
        port: *port,
        protocol: (*protocol).into(),
    };
    let mut web = service("web", Owner::Us);
    Arc::make_mut(&mut web).ports = ports.iter().map(port).collect();
    let since = Timestamp(1);
    ProfileStatus {
        tunnel: TunnelState::Connected { since },
        groups: vec![RouteGroup {
            kind: GroupKind::Services,
            routes: vec![Route {
                destination: "10.96.0.0/12".parse().unwrap(),
                gateway: "192.168.49.2".parse().unwrap(),
            }],
            state: GroupState::Held {
                conflicts: Vec::new(),
            },
        }],
        load_balancers: vec![web],
        ..status("p", TargetState::Up)
    }
}

fn progress_of(status: ProfileStatus) -> Progress {
    progress(&snapshot(&[status]), &name("p"), &key("web"))
}

fn pending(why: &str) -> Progress {
    Progress::Pending(why.into())
}

#[test]
fn the_first_tcp_port_is_what_answers() {
    let dns = up(&[(53, "UDP"), (8053, "TCP"), (80, "TCP")]);
    let address = "10.99.1.2:8053".parse().unwrap();
    assert_eq!(progress_of(dns), Progress::At(address));
}

#[test]
fn without_a_tcp_port_the_routed_address_is_all_there_is_to_wait_for() {
    let address = "10.99.1.2".parse().unwrap();
    assert_eq!(
        progress_of(up(&[(53, "UDP")])),
        Progress::Unconnected(address)
    );
}

#[test]
fn what_can_not_answer_says_why() {
    let mut gone = up(&[(80, "TCP")]);
    gone.load_balancers.clear();
    let reason = "there is no LoadBalancer service of that name";
    assert_eq!(progress_of(gone), pending(reason));

    let mut refused = up(&[(80, "TCP")]);
    let web = Arc::make_mut(&mut refused.load_balancers[0]);
    web.ingress.clear();
    web.pending = Some(Pending::OtherClass { class: "x".into() });
    assert_eq!(
        progress_of(refused),
        pending("it asks for the load balancer class x")
    );

    let mut unrouted = up(&[(80, "TCP")]);
    unrouted.groups[0].state = GroupState::Free;
    assert_eq!(
        progress_of(unrouted),
        pending("no route of the tunnel leads to its address 10.99.1.2")
    );

    let mut blocked = up(&[(80, "TCP")]);
    blocked.tunnel = TunnelState::Connecting;
    assert_eq!(progress_of(blocked), pending("connecting"));
}

#[test]
fn a_tunnel_that_does_not_come_back_by_itself_is_not_waited_for() {
    let mut blocked = up(&[(80, "TCP")]);
    let conflicts = Vec::new();
    blocked.tunnel = TunnelState::Blocked { conflicts };
    let why = blocked.tunnel.to_string();
    assert_eq!(progress_of(blocked), Progress::Lost(Exit::Conflict, why));
    let mut fought = up(&[(80, "TCP")]);
    fought.tunnel = TunnelState::Failed {
        cause: FailureCause::Profile {
            message: "broken".into(),
        },
        retry_at: None,
    };
    assert!(matches!(
        progress_of(fought),
        Progress::Lost(Exit::Failed, _)
    ));
}

#[tokio::test]
async fn a_wait_ends_when_its_tunnel_can_not_go_on() {
    let mut waiting = up(&[(80, "TCP")]);
    waiting.load_balancers.clear();
    let session = Session::new(snapshot(&[waiting.clone()]));
    let limit = Duration::from_secs(1);
    let mut wait = Wait::new(&[name("p")], vec![key("web")], limit);
    let wait = wait.as_mut().unwrap().as_mut().unwrap();
    let mut printer = Printer::new(session.handle.clone(), &[name("p")].into());
    let conflicts = Vec::new();
    waiting.tunnel = TunnelState::Blocked { conflicts };
    session.show(snapshot(&[waiting]));
    let waited = wait.until_answered(&mut printer).await;
    assert_eq!(waited.ok(), Some(Waited::Lost(Exit::Conflict)));
}

#[test]
fn an_address_of_somebody_else_is_reached_without_a_route_of_ours() {
    let mut status = up(&[(80, "TCP")]);
    status.groups.clear();
    Arc::make_mut(&mut status.load_balancers[0]).owner = Owner::Other("metallb".into());
    assert!(matches!(progress_of(status), Progress::At(_)));
}

#[test]
fn services_are_named_as_kubectl_names_them() {
    assert_eq!(parse_service("default/web"), Ok(key("web")));
    let long = "a".repeat(63);
    assert_eq!(parse_service(&format!("default/{long}")), Ok(key(&long)));
    for wrong in [
        &format!("default/{long}a"),
        "default/-web",
        "default-/web",
        "default/-",
        "web",
        "/web",
        "default/",
        "default/web/x",
        "Default/web",
        "a b/c",
        "",
    ] {
        assert!(parse_service(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn services_of_several_profiles_are_not_waited_for_at_once() {
    let limit = Duration::from_secs(1);
    let two = [name("a"), name("b")];
    assert_eq!(
        Wait::new(&two, vec![key("web")], limit).unwrap_err().exit,
        Exit::Usage
    );
    assert!(Wait::new(&two, Vec::new(), limit).unwrap().is_none());
}
