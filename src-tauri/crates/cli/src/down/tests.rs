use std::time::Duration;

use minitunnel_model::{Left, Owner};
use tokio::time::Instant;

use super::*;
use crate::testing::{Session, key, name, service, snapshot, status};

#[test]
fn addresses_that_remain_are_named_whether_the_cluster_hangs_or_is_gone() {
    let mut hangs = status("hangs", TargetState::Down);
    let other = Owner::Other("metallb".into());
    hangs.load_balancers = vec![service("web", Owner::Us), service("other", other)];
    let mut gone = status("gone", TargetState::Down);
    gone.left = vec![Left {
        service: key("api"),
        addresses: vec!["10.98.1.1".into(), "fd00::1".into()],
    }];
    let mut not_ours = status("unasked", TargetState::Down);
    not_ours.left = gone.left.clone();
    let snapshot = Snapshot {
        profiles: vec![gone, hangs, not_ours],
        ..Snapshot::default()
    };
    let why = "its API server does not answer";
    let expected = [
        format!(
            "gone: service default/api keeps 10.98.1.1, fd00::1: {why}; `minitunnel cleanup` withdraws it later"
        ),
        format!(
            "hangs: service default/web keeps 10.99.1.2: {why}; `minitunnel cleanup` withdraws it later"
        ),
    ];
    let names = [name("gone"), name("hangs"), name("absent")].into();
    assert_eq!(remaining(&snapshot, &names, why), expected);
}

/// A session that withdraws these services' addresses from `p`.
fn withdrawing(services: &[&str]) -> Snapshot {
    let mut of = status("p", TargetState::Down);
    of.tunnel = TunnelState::Disconnecting;
    of.load_balancers = services
        .iter()
        .map(|name| service(name, Owner::Us))
        .collect();
    snapshot(&[of])
}

/// What comes of an end after which `p` was seen with these services, one after the other, `gap` apart.
async fn ended_after(seen: &[&[&str]], gap: Duration) -> Exit {
    let mut session = Session::new(withdrawing(&["a", "b", "c"]));
    let names = [name("p")].into();
    let mut printer = Printer::new(session.handle.clone(), &names);
    let engine = async {
        session.take().await;
        for services in seen {
            tokio::time::sleep(gap).await;
            session.show(withdrawing(services));
        }
        tokio::time::sleep(gap).await;
        session.show(snapshot(&[status("p", TargetState::Down)]));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        exit = end(&mut printer, &names) => exit,
        () = engine => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_has_time_as_long_as_addresses_go() {
    let gap = PATIENCE - Duration::from_millis(1);
    let exit = ended_after(&[&["b", "c"], &["c"], &[]], gap).await;
    assert_eq!(exit, Exit::Done);
}

#[tokio::test(start_paused = true)]
async fn an_end_in_which_nothing_goes_is_given_up_whatever_else_changes() {
    let gap = PATIENCE - Duration::from_millis(1);
    let exit = ended_after(&[&["a", "b", "c", "new"], &["a", "b", "new"], &[]], gap).await;
    assert_eq!(exit, Exit::AddressesRemain);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_takes_no_command_is_not_waited_for_longer_than_an_end() {
    let session = Session::new(withdrawing(&["a"]));
    let names = [name("p")].into();
    let mut printer = Printer::new(session.handle.clone(), &names);
    let begun = Instant::now();
    assert_eq!(end(&mut printer, &names).await, Exit::AddressesRemain);
    assert_eq!(begun.elapsed(), PATIENCE);
}
