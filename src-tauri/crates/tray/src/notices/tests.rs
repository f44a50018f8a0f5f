use minitunnel_model::{FailureCause, GroupState};

use super::*;
use crate::testing::{
    conflict, connected, name, service, services as group, snapshot, status, with,
};

/// What is told over a history of one profile, by title.
fn titles(history: &[ProfileStatus]) -> Vec<String> {
    told(history)
        .into_iter()
        .map(|notice| notice.title)
        .collect()
}

fn told(history: &[ProfileStatus]) -> Vec<Notice> {
    let history: Vec<Snapshot> = history
        .iter()
        .map(|status| snapshot(std::slice::from_ref(status)))
        .collect();
    over(&history)
}

fn over(history: &[Snapshot]) -> Vec<Notice> {
    let mut last = Snapshot::default();
    let mut all = Vec::new();
    for snapshot in history {
        all.extend(notices(&last, snapshot));
        last = settled(&last, snapshot);
    }
    all
}

fn up(tunnel: TunnelState) -> ProfileStatus {
    with("p", TargetState::Up, tunnel)
}

fn waiting(on: WaitingFor) -> ProfileStatus {
    up(TunnelState::Waiting { on })
}

fn cluster_gone() -> ProfileStatus {
    let reason = "minikube is stopping it".into();
    waiting(WaitingFor::Cluster { reason })
}

fn down() -> ProfileStatus {
    with("p", TargetState::Down, TunnelState::Disconnected)
}

fn going_down() -> ProfileStatus {
    with("p", TargetState::Down, TunnelState::Disconnecting)
}

fn blocked(device: &str) -> ProfileStatus {
    let conflicts = vec![conflict(device)];
    up(TunnelState::Blocked { conflicts })
}

#[test]
fn what_the_user_does_is_no_news() {
    let dialog = || waiting(WaitingFor::Dialog);
    let connecting = || up(TunnelState::Connecting);
    let by_click = [down(), connecting(), dialog(), connecting(), connected("p")];
    let and_back = [connected("p"), going_down(), down()];
    let history: Vec<ProfileStatus> = by_click.into_iter().chain(and_back).collect();
    assert_eq!(titles(&history), [""; 0]);
    let message = "no".into();
    let denied = up(TunnelState::Failed {
        cause: FailureCause::NotAuthorized { message },
        retry_at: None,
    });
    assert_eq!(titles(&[down(), connecting(), dialog(), denied]), [""; 0]);
}

#[test]
fn a_tunnel_that_is_lost_and_back_is_told_once_each() {
    let connecting = || up(TunnelState::Connecting);
    let lost = || up(TunnelState::Disconnecting);
    let history = [
        connected("p"),
        lost(),
        cluster_gone(),
        cluster_gone(),
        connecting(),
        connected("p"),
        connected("p"),
    ];
    let notices = told(&history);
    let open = ("Open", Action::OpenWindow);
    let of = |title: &str, body: &str| Notice {
        about: (Subject::Tunnel, Some(name("p"))),
        title: title.into(),
        body: body.into(),
        actions: vec![open.clone()],
    };
    assert_eq!(
        notices,
        [
            of(
                "p: tunnel lost",
                "waiting for the cluster: minikube is stopping it"
            ),
            of("p: tunnel is up", "Its services are reachable."),
        ]
    );
}

#[test]
fn a_repair_within_a_moment_is_no_news() {
    let history = [connected("p"), up(TunnelState::Connecting), connected("p")];
    assert_eq!(titles(&history), [""; 0]);
}

#[test]
fn a_tunnel_that_waits_for_the_user_has_a_button() {
    let notices = told(&[connected("p"), waiting(WaitingFor::Consent)]);
    let actions: Vec<_> = notices.iter().flat_map(|notice| &notice.actions).collect();
    assert_eq!(
        actions,
        [
            &("Start", Action::Start(name("p"))),
            &("Open", Action::OpenWindow)
        ]
    );
}

#[test]
fn a_tunnel_that_was_waiting_for_its_cluster_is_told_when_it_is_up() {
    let history = [
        down(),
        cluster_gone(),
        up(TunnelState::Connecting),
        connected("p"),
    ];
    assert_eq!(titles(&history), ["p: tunnel is up"]);
}

#[test]
fn a_conflict_is_told_once_and_another_one_again() {
    let mut overlapped = connected("p");
    let conflicts = vec![conflict("wg0")];
    overlapped.groups = vec![group(GroupState::Held { conflicts })];
    let connecting = || up(TunnelState::Connecting);
    let history = [
        down(),
        connecting(),
        blocked("tun0"),
        connecting(),
        blocked("tun0"),
        blocked("tun1"),
        connected("p"),
        overlapped.clone(),
        overlapped,
    ];
    assert_eq!(
        titles(&history),
        [
            "p: conflict with OpenVPN (tun0)",
            "p: conflict with OpenVPN (tun1)",
            "p: tunnel is up",
            "p: conflict with OpenVPN (wg0)",
        ]
    );
}

#[test]
fn a_connected_tunnel_that_is_blocked_has_one_notice() {
    let titles = titles(&[connected("p"), blocked("tun0")]);
    assert_eq!(titles, ["p: conflict with OpenVPN (tun0)"]);
}

#[test]
fn services_that_come_while_the_tunnel_is_down_are_told_together() {
    let with = |names: &[&str]| {
        let waits = Some(Pending::TunnelDown);
        let services = names.iter().map(|name| service(name, &[], waits.clone()));
        ProfileStatus {
            load_balancers: services.collect(),
            ..down()
        }
    };
    // What was there when the session began is no news, nor are those of a tunnel that was brought down.
    let mut before = status("p", TargetState::Down);
    before.cluster = ClusterState::Asking;
    let mut running = connected("p");
    running.load_balancers = vec![service("a", &["10.99.1.1"], None)];
    assert_eq!(titles(&[before, with(&["a"])]), [""; 0]);
    let ending = ProfileStatus {
        load_balancers: running.load_balancers.clone(),
        ..going_down()
    };
    assert_eq!(titles(&[running, ending, with(&["a"])]), [""; 0]);

    let history = [
        with(&["a"]),
        with(&["a", "b"]),
        with(&["a", "b"]),
        with(&["a", "b", "c", "d", "e", "f"]),
    ];
    let notices = told(&history);
    let said: Vec<_> = notices
        .iter()
        .map(|notice| (notice.title.as_str(), notice.body.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("p: a service waits for its tunnel", "default/b"),
            (
                "p: 4 services wait for their tunnel",
                "default/c, default/d, default/e and 1 more"
            ),
        ]
    );
    assert_eq!(notices[0].actions[0], ("Start", Action::Start(name("p"))));
}

#[test]
fn many_at_a_time_are_one() {
    let of = |profile: &str, status: ProfileStatus| ProfileStatus {
        profile: crate::testing::status(profile, TargetState::Up).profile,
        ..status
    };
    let all = ["a", "b", "c", "d"];
    let before: Vec<_> = all.iter().map(|name| connected(name)).collect();
    let after: Vec<_> = all.iter().map(|name| of(name, cluster_gone())).collect();
    let notices = over(&[snapshot(&before), snapshot(&after)]);
    let [one] = notices.as_slice() else {
        panic!("{notices:?}")
    };
    assert_eq!(one.title, "minitunnel: 4 changes");
    assert_eq!(
        one.body,
        "a: tunnel lost, b: tunnel lost, c: tunnel lost and 1 more"
    );
}
