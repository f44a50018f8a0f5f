use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::net::UnixStream},
};

use crate::{INHERITED_VARIABLE, STDIN};

/// Takes the socket to the helper that `minitunnel-keep` handed over, if this process was started by it.
///
/// Standard input becomes `/dev/null`, so that no child of this process keeps the socket open after its death. The
/// environment stays as it is: call it once, at the start.
///
/// # Errors
///
/// If the environment says that there is a socket and there is none.
pub fn inherited() -> io::Result<Option<UnixStream>> {
    if std::env::var_os(INHERITED_VARIABLE).is_none_or(|value| value != STDIN) {
        return Ok(None);
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    // A file or a terminal in its place would only fail later, and less clearly.
    rustix::net::sockopt::socket_type(&socket)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(Some(UnixStream::from(socket)))
}
