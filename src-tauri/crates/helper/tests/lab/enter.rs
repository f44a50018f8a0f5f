//! Getting into the namespace: a test starts its own program again in it, and that one's parts are told apart by a
//! variable.

use std::process::Command;

use super::ip;

const PART: &str = "MINITUNNEL_TEST_PART";

/// Runs `test` in a new network and process namespace with the network of a cluster: 192.168.49.0/24 behind `cluster`.
///
/// `name` is the test's own name. `client` is what this program does where [`as_client`] started it.
pub(crate) fn in_namespace(name: &str, client: impl FnOnce(), test: impl FnOnce()) {
    match std::env::var(PART).as_deref() {
        Ok("inside") => {
            ip("link set lo up");
            ip("link add cluster type veth peer name node");
            ip("address add 192.168.49.1/24 dev cluster");
            ip("link set node up");
            ip("link set cluster up");
            // A route and no address, whose own entries the kernel makes some time later.
            ip("-6 route add fd00:49::/64 dev cluster");
            test();
        }
        Ok("client") => client(),
        _ => {
            let mut unshare = Command::new("unshare");
            if !rustix::process::geteuid().is_root() {
                // Then there is one user in it, who is its root.
                unshare.args(["--user", "--map-root-user"]);
            }
            let status = unshare
                .args([
                    "--net",
                    "--mount",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                ])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture"])
                .env(PART, "inside")
                // The machine's own bus is nobody's here; a test may make one at this place.
                .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/bus")
                .status()
                .expect("unshare (util-linux) runs");
            assert!(status.success(), "{name} failed in its namespace");
        }
    }
}

/// Completes a command that runs this program, or is followed by it, so that it takes the client's part of `test`.
pub(crate) fn as_client<'a>(command: &'a mut Command, test: &str) -> &'a mut Command {
    command
        .args(["--exact", test, "--nocapture"])
        .env(PART, "client")
}

/// Says so where a test needs more users than one.
pub(crate) fn real_root() {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    assert!(
        map.split_whitespace().last() != Some("1"),
        "this test needs root: run it with sudo"
    );
}
