//! A network namespace for a test, and the words that the tests share.

use std::{
    env,
    net::IpAddr,
    process::{Command, Stdio},
};

use minitunnel_kernel::Error;
pub(crate) use minitunnel_kernel::lookup;
use minitunnel_model::Route;
use minitunnel_routing::{Events, Link, Router, Table};

/// Set in the process that is inside the namespace.
const INSIDE: &str = "MINITUNNEL_TEST_INSIDE";

/// Runs the test named `test` in a new network namespace; see [`in_namespace_as`].
pub(crate) fn in_namespace(test: &str, body: impl AsyncFnOnce(Router)) {
    in_namespace_as(&[], test, body);
}

/// Runs the test named `test` by a command (such as one that drops a capability) in a new network namespace.
///
/// The test starts itself again there: a namespace is for a whole process, and must be entered before any thread starts.
/// In it, `host0` (192.168.49.1/24, fd00:49::1/64) and `node0` are the ends of one cable.
pub(crate) fn in_namespace_as(by: &[&str], test: &str, body: impl AsyncFnOnce(Router)) {
    if env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(async {
            let router = Router::open().unwrap();
            plugged_in(&router).await;
            body(router).await;
        });
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--fork", "--kill-child"]);
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let output = unshare
        .args(["--", "sh", "-ec", SETUP, "sh"])
        .args(by)
        .arg(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("unshare (package util-linux) is needed");
    let told = String::from_utf8_lossy(&output.stdout);
    // A name without a test would pass, too.
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{test}: {}\n{told}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits for the cable: the kernel notices the carrier on its own time.
async fn plugged_in(router: &Router) {
    let mut events = Events::open().unwrap();
    let plugged = |table: &Table| {
        let cable = |link: &&Link| link.kind.as_deref() == Some("veth");
        table.links.values().filter(cable).all(|link| link.running)
    };
    while !plugged(&router.dump().await.unwrap()) {
        events.changed().await.unwrap();
    }
}

const SETUP: &str = "
    ip link set lo up
    ip link add host0 type veth peer name node0
    ip link set host0 addrgenmode none
    ip link set node0 addrgenmode none
    ip addr add 192.168.49.1/24 dev host0
    ip addr add fd00:49::1/64 dev host0 nodad
    ip link set host0 up
    ip link set node0 up
    exec \"$@\"
";

/// Runs `ip` with these words; they end at spaces.
pub(crate) fn ip(words: &str) -> String {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .expect("ip (package iproute2) is needed");
    assert!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Each line of `ip`'s answer, without the spaces at its end.
pub(crate) fn ip_lines(words: &str) -> Vec<String> {
    ip(words)
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// Everything that the kernel's tables hold, by another program.
pub(crate) fn tables() -> Vec<String> {
    ["-4", "-6"]
        .iter()
        .flat_map(|family| ip_lines(&format!("{family} route show table all")))
        .collect()
}

pub(crate) fn route(destination: &str, gateway: &str) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
    }
}

pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The services of a cluster whose node is on the cable.
pub(crate) fn services() -> Route {
    route("10.96.0.0/12", "192.168.49.2")
}

/// The same for IPv6.
pub(crate) fn services6() -> Route {
    route("fd00:10:96::/112", "fd00:49::2")
}

/// Runs many commands of `ip`, one a line.
pub(crate) fn ip_batch(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("ip (package iproute2) is needed");
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, lines.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// Removes a route of ours.
pub(crate) fn remove(route: &Route) -> Result<(), Error> {
    minitunnel_kernel::remove(|entry| entry.our_route() == Some(*route))
}
