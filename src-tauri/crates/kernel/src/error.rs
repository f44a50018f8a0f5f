use std::{io, net::IpAddr};

use minitunnel_base::Route;
use netlink_packet_core::DecodeError;
use rustix::io::Errno;

/// What went wrong with the routing table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel can't be asked at all, or does not answer.
    #[error("the routing table can't be reached: {0}")]
    Open(#[source] io::Error),
    /// A route to that destination exists already, whoever made it.
    #[error("a route to {} exists already", .0.destination)]
    Exists(Route),
    /// The gateway is on no network of this machine, or its link is down.
    #[error("{} is on no network of this machine, or its link is down", .0.gateway)]
    GatewayUnreachable(Route),
    /// No route leads there.
    #[error("no route leads to {0}")]
    NoRoute(IpAddr),
    /// The kernel refused for another reason.
    #[error("the kernel refused: {0}")]
    Refused(#[from] Errno),
    /// A message of the kernel's can't be read. What is not understood is never ignored: it could be a conflict.
    #[error("the kernel's answer can't be read: {0}")]
    Malformed(#[from] DecodeError),
    /// The table kept changing while it was read.
    #[error("the routing table kept changing while it was read; try again")]
    Restless,
    /// This operating system's table can't be read yet.
    #[error("minitunnel can't read the routing table of this operating system yet")]
    Unsupported,
}
