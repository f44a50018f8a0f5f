use std::{io, path::PathBuf};

use crate::privileges::PrivilegeError;

/// Why the helper can't serve, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    #[error("{path} can't be used as the helper's state folder: {source}")]
    State { path: PathBuf, source: io::Error },
    #[error("{0} is no folder of root's own with mode 0700: remove it and try again")]
    UnsafeState(PathBuf),
    #[error(
        "another minitunnel helper is at work{process}: end the session that uses it, such as the tray or `minitunnel up`, and try again"
    )]
    Busy { process: String },
    #[error("this process can't wait for anything: {0}")]
    Runtime(#[source] io::Error),
    #[error("the other end of the bus or socket can't be used: {0}")]
    Bus(#[from] zbus::Error),
    #[error("the other end of the bus or socket did not answer in time")]
    Silent,
    #[error(
        "standard input is no socket: run `minitunnel-keep COMMAND`, or let the system bus start it: {0}"
    )]
    NoSocket(#[source] io::Error),
    #[error("process {0} holds tunnels through the system bus: end them there, then try again")]
    HeldOverBus(u32),
    #[error("some routes could not be removed: `minitunnel cleanup` tries again")]
    Left,
    #[error("told to end while tunnels are up: their routes stay for the next helper")]
    HandedOver,
}
