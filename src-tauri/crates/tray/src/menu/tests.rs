use minitunnel_model::{BrokenProfile, FailureCause, GroupKind, Pending, RouteGroup};

use super::*;
use crate::testing::{
    conflict, connected, name, route, service, services as group, snapshot, status, with,
};

fn text(text: &str) -> Item {
    Item::Text(text.into())
}

fn click(label: &str, action: Action) -> Item {
    Item::Click(label.into(), action)
}

fn start() -> Action {
    Action::Start(name("minikube"))
}

fn stop() -> Action {
    Action::Stop(name("minikube"))
}

/// What every menu ends with, for the default settings.
fn rest() -> Vec<Item> {
    let settings = Settings::default;
    vec![
        Item::Separator,
        click("Clean up", Action::CleanUp),
        click("Open window", Action::OpenWindow),
        Item::Separator,
        Item::Check {
            label: "Start tunnels with their cluster".into(),
            on: false,
            action: Action::Configure(Settings {
                start_with_cluster: true,
                ..settings()
            }),
        },
        Item::Check {
            label: "Start at login".into(),
            on: false,
            action: Action::Configure(Settings {
                start_at_login: true,
                ..settings()
            }),
        },
        Item::Separator,
        click("Quit", Action::Quit),
    ]
}

fn shown(snapshot: &Snapshot) -> Menu {
    menu(snapshot, &About::default())
}

/// The entries of the only profile.
fn entries(status: ProfileStatus) -> Vec<Item> {
    let Menu(items) = shown(&snapshot(&[status]));
    match items.into_iter().next() {
        Some(Item::Submenu { items, .. }) => items,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connected_profile_shows_its_routes_and_services_to_copy() {
    let mut status = connected("minikube");
    let reason = "the node has no address".to_owned();
    status.groups.push(RouteGroup {
        kind: GroupKind::Pods {
            node: "minikube".into(),
        },
        routes: Vec::new(),
        state: GroupState::LeftOut { reason },
    });
    let class = "example.com/lb".into();
    status.load_balancers = vec![
        service("web", &["10.99.1.2", "fd00::2"], None),
        service("other", &[], Some(Pending::OtherClass { class })),
    ];
    let copy = |label: &str, text: &str| click(label, Action::Copy(text.into()));
    let profile = Item::Submenu {
        label: "minikube – connected".into(),
        mood: Mood::Connected,
        items: vec![
            text("Connected, with one LoadBalancer service"),
            click("Stop", stop()),
            Item::Separator,
            text("10.96.0.0/12 via 192.168.49.2 (services)"),
            text("No route for pods of minikube: the node has no address"),
            Item::Separator,
            copy("default/web  10.99.1.2:80", "10.99.1.2:80"),
            copy("default/web  10.99.1.2:53/UDP", "10.99.1.2:53"),
            copy("default/web  [fd00::2]:80", "[fd00::2]:80"),
            copy("default/web  [fd00::2]:53/UDP", "[fd00::2]:53"),
            text("default/other: it asks for the load balancer class example.com/lb"),
        ],
    };
    let mut expected = vec![profile];
    expected.extend(rest());
    assert_eq!(shown(&snapshot(&[status])), Menu(expected));
}

#[test]
fn each_state_offers_what_can_be_done() {
    let up = |tunnel| with("minikube", TargetState::Up, tunnel);
    let waiting = |on| up(TunnelState::Waiting { on });
    let reason = "it does not answer".to_owned();
    let message = "the helper refused".to_owned();
    for (status, expected) in [
        (
            status("minikube", TargetState::Down),
            vec![text("Not connected"), click("Start", start())],
        ),
        (
            up(TunnelState::Connecting),
            vec![text("Connecting"), click("Stop", stop())],
        ),
        (
            waiting(WaitingFor::Cluster { reason }),
            vec![
                text("Waiting for the cluster: it does not answer"),
                click("Stop", stop()),
            ],
        ),
        (
            waiting(WaitingFor::Consent),
            vec![
                text("Waiting for your consent: start it again to be asked"),
                click("Ask for consent…", start()),
                click("Stop", stop()),
            ],
        ),
        (
            up(TunnelState::Failed {
                cause: FailureCause::Helper { message },
                retry_at: None,
            }),
            vec![
                text("Failed: the helper refused"),
                click("Try again", start()),
                click("Stop", stop()),
            ],
        ),
        (
            up(TunnelState::Blocked {
                conflicts: vec![conflict("tun0"), conflict("tun0")],
            }),
            vec![
                text("Blocked by a conflict"),
                click("Try again", start()),
                click("Stop", stop()),
                Item::Separator,
                click(
                    "Conflict: 10.96.0.0/12 with OpenVPN (tun0)…",
                    Action::OpenWindow,
                ),
            ],
        ),
    ] {
        assert_eq!(entries(status), expected);
    }
}

#[test]
fn no_profile_no_session_and_an_upgrade_say_so() {
    let mut none = vec![text("No minikube cluster yet: `minikube start` makes one")];
    none.extend(rest());
    assert_eq!(shown(&snapshot(&[])), Menu(none));

    let about = About {
        trouble: Some("the session that runs is another".into()),
        outdated: true,
        joined: false,
    };
    let expected = vec![
        text("the session that runs is another"),
        Item::Separator,
        click("Open window", Action::OpenWindow),
        Item::Separator,
        click("Restart to finish the update", Action::Restart),
        click("Quit", Action::Quit),
    ];
    let profiles = snapshot(&[connected("minikube")]);
    assert_eq!(menu(&profiles, &about), Menu(expected));
    assert_eq!(left_click(&profiles, &about), Action::OpenWindow);
    assert_eq!(mood(&profiles, &about), Mood::Error);
}

#[test]
fn what_is_wrong_beside_the_tunnels_is_shown_under_them() {
    let mut odd = snapshot(&[]);
    odd.broken = vec![BrokenProfile {
        name: "bad".into(),
        problem: "its config.json is no JSON\n".into(),
    }];
    odd.settings_problems = vec!["`x` is no setting".into()];
    odd.awaited = vec![name("later")];
    odd.helper = HelperStatus::Missing {
        message: "the helper is not installed".into(),
    };
    let about = About {
        joined: true,
        ..About::default()
    };
    let mut expected = vec![
        text("later – waiting for its cluster to be made"),
        text("bad – its config.json is no JSON "),
        Item::Separator,
        click("the helper is not installed", Action::OpenWindow),
        click("`x` is no setting", Action::OpenWindow),
        text("The tunnels are those of a terminal"),
    ];
    expected.extend(rest());
    assert_eq!(menu(&odd, &about), Menu(expected));
}

#[test]
fn what_is_not_ours_is_cleaned_up_in_the_window() {
    let mut left = snapshot(&[]);
    left.leftovers = vec![CleanupItem::Route(route())];
    let Menu(items) = shown(&left);
    assert!(items.contains(&click("Clean up", Action::OpenWindow)));
}

#[test]
fn a_long_list_and_a_long_line_are_cut_where_the_window_goes_on() {
    let mut status = connected("minikube");
    let message = "x".repeat(200);
    let pending = || {
        Some(Pending::Refused {
            message: message.clone(),
        })
    };
    let all = 0..MOST_SERVICES + 7;
    status.load_balancers = all
        .map(|at| service(&format!("s{at}"), &[], pending()))
        .collect();
    let items = entries(status);
    assert_eq!(items.last(), Some(&click("7 more…", Action::OpenWindow)));
    for item in &items {
        let (Item::Text(label) | Item::Click(label, _)) = item else {
            continue;
        };
        assert!(label.chars().count() <= 90, "{label}");
    }
}

#[test]
fn a_left_click_turns_the_only_tunnel_and_opens_the_window_beside_others() {
    let about = About::default();
    let of = |statuses: &[ProfileStatus]| left_click(&snapshot(statuses), &about);
    let down = status("minikube", TargetState::Down);
    assert_eq!(of(&[]), Action::OpenWindow);
    assert_eq!(of(std::slice::from_ref(&down)), start());
    assert_eq!(of(&[connected("minikube")]), stop());
    assert_eq!(of(&[down, connected("other")]), Action::OpenWindow);
    // The click that gives the consent which it waits for.
    let on = WaitingFor::Consent;
    let waits = with("minikube", TargetState::Up, TunnelState::Waiting { on });
    assert_eq!(of(&[waits]), start());
}

#[test]
fn the_icon_tells_the_worst() {
    let about = About::default();
    let of = |statuses: &[ProfileStatus]| mood(&snapshot(statuses), &about);
    let down = status("a", TargetState::Down);
    let blocked = |of| {
        let conflicts = vec![conflict("tun0")];
        with(of, TargetState::Up, TunnelState::Blocked { conflicts })
    };
    let connecting = with("c", TargetState::Up, TunnelState::Connecting);
    let mut overlapped = connected("d");
    let conflicts = vec![conflict("tun0")];
    overlapped.groups = vec![group(GroupState::Held { conflicts })];
    assert_eq!(of(&[]), Mood::Idle);
    assert_eq!(of(std::slice::from_ref(&down)), Mood::Idle);
    assert_eq!(of(&[down.clone(), connected("b")]), Mood::Connected);
    assert_eq!(of(&[connected("b"), connecting.clone()]), Mood::Connecting);
    assert_eq!(of(&[overlapped]), Mood::Conflict);
    assert_eq!(of(&[blocked("b"), connecting]), Mood::Conflict);
    let names = tooltip(&snapshot(&[down, connected("b")]), &about);
    assert_eq!(names, "a: off\nb: connected");
}
