use std::{fmt, future::poll_fn, task::Poll};

use minitunnel_kernel::Error;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

/// The kernel puts at most 32 KiB into one datagram (`NLMSG_GOODSIZE` and `netlink_recvmsg`).
const DATAGRAM: usize = 64 * 1024;

/// `RTMGRP_*` (`linux/rtnetlink.h`) of all that decides which way a packet goes. A link that goes down takes its IPv4
/// routes with it without a word about them.
const GROUPS: u32 = group(1)  // RTNLGRP_LINK
    | group(5)   // RTNLGRP_IPV4_IFADDR
    | group(7)   // RTNLGRP_IPV4_ROUTE
    | group(8)   // RTNLGRP_IPV4_RULE
    | group(9)   // RTNLGRP_IPV6_IFADDR
    | group(11)  // RTNLGRP_IPV6_ROUTE
    | group(19); // RTNLGRP_IPV6_RULE

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// Tells when the [`crate::Table`] may have become another: a route, rule, address or device came, went or changed.
///
/// What happens between two calls is kept. It says *that*, not *what*: messages can be lost, and some changes come
/// without any, so whoever wants to know takes a dump.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Events {
    /// Listens from now on, in the network namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: socket(GROUPS)?,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Returns after a change; all that is queued by then counts as one. Nothing is lost when the future is dropped before.
    pub async fn changed(&mut self) -> Result<(), Error> {
        let Self { socket, buffer } = self;
        poll_fn(|context| {
            let mut heard = false;
            loop {
                buffer.clear();
                match socket.poll_recv_from(context, buffer) {
                    // Port 0 is the kernel.
                    Poll::Ready(Ok(sender)) => heard |= sender.port_number() == 0,
                    // The queue ran over, and messages are lost: there were changes.
                    Poll::Ready(Err(error))
                        if Errno::from_io_error(&error) == Some(Errno::NOBUFS) =>
                    {
                        heard = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Error::Open(error))),
                    Poll::Pending if heard => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Opens a socket that hears the groups of that mask.
pub(super) fn socket(groups: u32) -> Result<TokioSocket, Error> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(Error::Open)?;
    let bound = socket.socket_mut().bind(&SocketAddr::new(0, groups));
    bound.map_err(Error::Open)?;
    Ok(socket)
}
