use minitunnel_model::{FailureCause, Timestamp};

use super::*;
use crate::testing::{Session, name, snapshot, status};

fn wish(names: &[&str], detach: bool) -> Wish {
    Wish {
        names: names.iter().map(|of| name(of)).collect(),
        mine: BTreeSet::new(),
        detach,
        fresh: true,
        hosts: false,
        wait: None,
    }
}

fn up(profile: &str, tunnel: TunnelState) -> ProfileStatus {
    ProfileStatus {
        tunnel,
        ..status(profile, TargetState::Up)
    }
}

fn connected() -> TunnelState {
    TunnelState::Connected {
        since: Timestamp(1),
    }
}

fn blocked() -> TunnelState {
    TunnelState::Blocked {
        conflicts: Vec::new(),
    }
}

fn waits_for_consent() -> TunnelState {
    TunnelState::Waiting {
        on: WaitingFor::Consent,
    }
}

fn judged(profiles: &[ProfileStatus], wish: &Wish) -> Option<Verdict> {
    judge(&snapshot(profiles), wish, &mut Past::default())
}

/// Follows a session that has `present` to show, and shows nothing else.
async fn followed(present: Snapshot, wish: &mut Wish) -> (Followed, Command) {
    let mut session = Session::new(present);
    let mut signals = Signals::new().unwrap();
    let handle = session.handle.clone();
    tokio::select! {
        (followed, command) = async {
            tokio::join!(follow(handle, wish, &mut signals), session.take())
        } => (followed, command),
        () = tokio::time::sleep(PATIENCE * 10) => panic!("it waits for a change"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_detached_up_of_a_tunnel_that_is_up_is_done_at_once() {
    let present = snapshot(&[up("p", connected())]);
    let (followed, command) = followed(present, &mut wish(&["p"], true)).await;
    let (profile, target) = (name("p"), TargetState::Up);
    assert_eq!(command, Command::SetTarget { profile, target });
    assert_eq!(followed, Followed::Over(Exit::Done));
}

#[tokio::test(start_paused = true)]
async fn an_up_goes_on_in_another_session_without_asking() {
    let mut wish = wish(&["p"], true);
    wish.fresh = false;
    let present = snapshot(&[up("p", connected())]);
    let (_, command) = followed(present, &mut wish).await;
    let profile = name("p");
    assert_eq!(command, Command::Resume { profile });
}

#[tokio::test(start_paused = true)]
async fn an_up_that_a_session_has_heard_is_not_fresh_any_more() {
    for (target, fresh) in [(TargetState::Up, false), (TargetState::Down, true)] {
        let mut wish = wish(&["p"], true);
        let mut present = snapshot(&[status("p", target)]);
        present.interrupted = vec![name("p")];
        let mut session = Session::new(present);
        let mut signals = Signals::new().unwrap();
        let handle = session.handle.clone();
        let engine = async {
            session.take().await;
            drop(session);
        };
        let (followed, ()) = tokio::join!(follow(handle, &mut wish, &mut signals), engine);
        assert_eq!(followed, Followed::Interrupted([name("p")].into()));
        assert_eq!(wish.fresh, fresh);
    }
}

#[test]
fn a_detached_up_waits_for_no_consent_that_nobody_is_asked_for() {
    let waits = [up("p", waits_for_consent())];
    let end = Some(Verdict::End(Exit::NotAuthorized));
    assert_eq!(judged(&waits, &wish(&["p"], true)), end);
    assert_eq!(judged(&waits, &wish(&["p"], false)), None);
}

#[test]
fn an_up_ends_when_none_of_its_tunnels_can_come_up_and_not_before() {
    let failed = TunnelState::Failed {
        cause: FailureCause::HelperMissing {
            message: String::new(),
        },
        retry_at: None,
    };
    let both = wish(&["a", "b"], false);
    let one = [up("a", blocked()), up("b", TunnelState::Connecting)];
    assert_eq!(judged(&one, &both), None);
    let none = [up("a", blocked()), up("b", failed)];
    assert_eq!(judged(&none, &both), Some(Verdict::End(Exit::Conflict)));
    // Of the other one nobody wants anything any more.
    let down = [up("a", blocked()), status("b", TargetState::Down)];
    assert_eq!(judged(&down, &both), Some(Verdict::End(Exit::Conflict)));
}

#[test]
fn an_up_waits_for_the_range_of_its_own_tunnel_that_was_brought_down() {
    let by = |owner: Option<&str>| {
        let mut conflict = crate::testing::conflict();
        conflict.profile = owner.map(name);
        let conflicts = vec![conflict];
        up("b", TunnelState::Blocked { conflicts })
    };
    let mut ending = status("a", TargetState::Down);
    ending.tunnel = TunnelState::Disconnecting;
    let both = wish(&["a", "b"], false);
    assert_eq!(judged(&[ending.clone(), by(Some("a"))], &both), None);
    // A stranger's range does not get free by that, nor does that of a tunnel that this command has nothing to do with.
    let end = Some(Verdict::End(Exit::Conflict));
    assert_eq!(judged(&[ending.clone(), by(None)], &both), end);
    assert_eq!(judged(&[ending, by(Some("a"))], &wish(&["b"], false)), end);
    let up = up("a", connected());
    assert_eq!(judged(&[up, by(Some("a"))], &wish(&["b"], false)), end);
}

#[test]
fn a_detached_up_leaves_what_is_up_beside_what_is_blocked() {
    let mixed = [up("a", blocked()), up("b", connected())];
    let leave = Some(Verdict::Leave(Exit::Conflict));
    assert_eq!(judged(&mixed, &wish(&["a", "b"], true)), leave);
}

#[test]
fn a_detached_up_does_not_stay_for_a_tunnel_that_fails_again() {
    let failed = |at| {
        let cause = FailureCause::Helper {
            message: "no".to_owned(),
        };
        let retry_at = Some(Timestamp(at));
        snapshot(&[up("p", TunnelState::Failed { cause, retry_at })])
    };
    for (detach, second) in [(true, Some(Verdict::End(Exit::Failed))), (false, None)] {
        let (wish, mut past) = (wish(&["p"], detach), Past::default());
        // The first may be owed to a moment; it is shown more than once.
        for _ in 0..2 {
            assert_eq!(judge(&failed(200), &wish, &mut past), None);
        }
        assert_eq!(judge(&failed(5_200), &wish, &mut past), second);
    }
}

#[tokio::test(start_paused = true)]
async fn an_up_that_joins_again_ends_what_it_had_set_up() {
    let mut wish = wish(&["p"], true);
    wish.mine = [name("p")].into();
    // It is wanted already, by this command.
    let mut session = Session::new(snapshot(&[up("p", blocked())]));
    let mut signals = Signals::new().unwrap();
    let handle = session.handle.clone();
    let (_, last) = tokio::join!(follow(handle, &mut wish, &mut signals), async {
        session.take().await;
        session.take().await
    });
    let down = Command::SetTarget {
        profile: name("p"),
        target: TargetState::Down,
    };
    assert_eq!(last, down);
}

#[test]
fn a_profile_that_is_gone_is_waited_for_until_nobody_wants_it() {
    let mut gone = snapshot(&[]);
    gone.awaited = vec![name("p")];
    let wish = wish(&["p"], false);
    let mut past = Past {
        connected: [name("p")].into(),
        ..Past::default()
    };
    assert_eq!(judge(&gone, &wish, &mut past), None);
    let leave = Some(Verdict::Leave(Exit::Done));
    assert_eq!(judged(&[], &wish), leave);
}

#[test]
fn after_a_sessions_end_only_what_nobody_brought_down_is_still_wanted() {
    let killed = Snapshot {
        profiles: vec![
            status("a", TargetState::Up),
            status("b", TargetState::Down),
            status("c", TargetState::Up),
        ],
        awaited: vec![name("d")],
        ..Snapshot::default()
    };
    let names = [name("a"), name("b"), name("d")].into();
    assert_eq!(still_wanted(&killed, &names), [name("a"), name("d")].into());

    let quit = Snapshot {
        profiles: vec![
            status("a", TargetState::Down),
            status("b", TargetState::Down),
        ],
        interrupted: vec![name("b"), name("c")],
        ..Snapshot::default()
    };
    assert_eq!(still_wanted(&quit, &names), [name("b")].into());
}

#[test]
fn the_end_of_its_own_session_is_not_waited_for() {
    let quit = Snapshot {
        profiles: vec![status("p", TargetState::Down)],
        interrupted: vec![name("p")],
        ..Snapshot::default()
    };
    let mut wish = wish(&["p"], false);
    assert_eq!(judge(&quit, &wish, &mut Past::default()), None);
    wish.hosts = true;
    let interrupted = Some(Verdict::Interrupted);
    assert_eq!(judge(&quit, &wish, &mut Past::default()), interrupted);
}
