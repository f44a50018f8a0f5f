//! Credentials that change under a tunnel.

use super::{world::profiles, *};
use crate::minikube::ProfileFiles;

/// The files with another client certificate.
fn renewed() -> ProfileFiles {
    let mut renewed = files("p", "10.96.0.0/12", "192.168.49.2");
    if let Some(credentials) = &mut renewed.credentials {
        credentials.cert = b"renewed".to_vec();
    }
    renewed
}

#[test]
fn certificates_that_are_renewed_cost_nothing_unless_the_new_watch_finds_the_server_down() {
    let mut world = up();
    let held = world.held("p");
    world.input(Input::Files(profiles(&[renewed()])));
    let asked = &world.pending[..];
    assert!(
        matches!(asked, [Effect::Unwatch(_), Effect::Watch(..)]),
        "{asked:?}"
    );
    world.run();
    assert_eq!(world.held("p"), held);
    assert!(matches!(world.tunnel("p"), TunnelState::Connected { .. }));
    world.cluster_up("p");
    assert_eq!(world.pending, []);

    world.input(Input::Files(profiles(&[files(
        "p",
        "10.96.0.0/12",
        "192.168.49.2",
    )])));
    world.cluster_down("p");
    world.run();
    assert_eq!(world.held("p"), vec![]);
}

#[test]
fn a_profile_that_names_another_server_is_not_taken_for_the_one_that_answered() {
    let mut world = up();
    let mut moved = files("p", "10.96.0.0/12", "192.168.49.2");
    if let Some(credentials) = &mut moved.credentials {
        credentials.ca = b"another cluster".to_vec();
    }
    world.input(Input::Files(profiles(&[moved])));
    world.run();
    assert_eq!(world.held("p"), vec![]);
}
