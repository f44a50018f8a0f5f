//! A connection to the system bus on behalf of the test, whose process the bus and polkit see: this one.

use anyhow::{Context as _, Result};
use tokio::net::UnixStream;

/// The system bus of the lab.
const BUS: &str = "/run/dbus/system_bus_socket";

/// Carries bytes between the socket that is standard input and the bus, until either ends.
pub(crate) async fn run() -> Result<()> {
    let test = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?;
    let test = std::os::unix::net::UnixStream::from(test);
    test.set_nonblocking(true)?;
    let mut test = UnixStream::from_std(test)?;
    let mut bus = UnixStream::connect(BUS)
        .await
        .with_context(|| format!("cannot connect to {BUS}"))?;
    // Either end's death is the other's: what is left of the last words does not matter.
    let _ = tokio::io::copy_bidirectional(&mut test, &mut bus).await;
    Ok(())
}
