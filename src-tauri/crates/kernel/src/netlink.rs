//! Requests to the kernel and its answers (`netlink(7)`, `rtnetlink(7)`).

use std::{net::IpAddr, time::Duration};

use minitunnel_base::Route;
use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketType, connect,
        netdevice::name_to_index,
        netlink::SocketAddrNetlink,
        recv, send, socket,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::{
    Entry, Error, Lookup, Routes,
    read::{Message, entries, lookup_answer, rule},
};

/// `AF_INET`.
pub const INET: u8 = 2;
/// `AF_INET6`.
pub const INET6: u8 = 10;

/// `RTM_GETLINK`.
pub const GET_LINK: u16 = 18;
/// `RTM_GETADDR`.
pub const GET_ADDRESS: u16 = 22;
/// `RTM_GETROUTE`.
pub const GET_ROUTE: u16 = 26;
/// `RTM_GETRULE`.
pub const GET_RULE: u16 = 34;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;

// Flags of a request (`linux/netlink.h`).
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

/// `NLM_F_DUMP_INTR`: what was told changed while it was being told.
const INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR`, which also says that all went well.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;

/// For one answer: the kernel answers at once, if at all.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a dump is taken again because the table changed meanwhile; changes come in bursts.
const TRIES: usize = 30;
/// The kernel puts at most 32 KiB into one datagram (`NLMSG_GOODSIZE` and `netlink_recvmsg`).
const DATAGRAM: usize = 64 * 1024;

/// Reads the routes of both families, and the policy rules.
pub fn routes() -> Result<Routes, Error> {
    let mut all = Routes::default();
    for family in [INET, INET6] {
        all.entries.extend(dump(GET_ROUTE, family, entries)?);
        all.rules.extend(dump(GET_RULE, family, rule)?);
    }
    all.entries.sort_unstable();
    Ok(all)
}

/// Adds a route to table main, with our tag; never replaces one.
///
/// [`Error::Exists`] where the destination has a route of the same metric, whatever its gateway and owner: to move a
/// destination to another gateway, remove it first.
pub fn add(route: &Route) -> Result<(), Error> {
    let message = route_message(&Entry::ours(route));
    let flags = ACKNOWLEDGE | CREATE | EXCLUSIVE;
    exchange(NEW_ROUTE, flags, &message, |_| Ok(())).map_err(|error| match errno(&error) {
        Some(Errno::EXIST) => Error::Exists(*route),
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN) => {
            Error::GatewayUnreachable(*route)
        }
        _ => error,
    })?;
    Ok(())
}

/// Removes the entries of one next hop that `which` picks, by their full identity; afterwards, there are none.
///
/// The kernel takes IPv4's metric 0 for any (`fib_nh_match`), and the first next hop of several for all: so only what a dump
/// has just shown is removed, where it is the first one to match.
pub fn remove(which: impl Fn(&Entry) -> bool) -> Result<(), Error> {
    for entry in routes()?.entries.iter().filter(|entry| which(entry)) {
        match exchange(DELETE_ROUTE, ACKNOWLEDGE, &route_message(entry), |_| Ok(())) {
            Err(error) if errno(&error) != Some(Errno::SRCH) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The index of a device.
pub fn link_index(device: &str) -> Option<u32> {
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    name_to_index(any, device).ok()
}

/// Asks which way an ordinary packet of that user's would go, rules and all tables considered.
pub fn lookup(to: IpAddr, uid: u32) -> Result<Lookup, Error> {
    let (way, source) = ask(to, uid, None)?;
    // The kernel looks again, too (`ip_route_connect`): a rule may send the source that was picked elsewhere.
    match source {
        Some(_) => ask(to, uid, source).map(|(way, _)| way),
        None => Ok(way),
    }
}

fn ask(to: IpAddr, uid: u32, from: Option<IpAddr>) -> Result<(Lookup, Option<IpAddr>), Error> {
    /// `RTM_F_LOOKUP_TABLE`: tell the table that answers.
    const TELL_TABLE: u32 = 0x1000;
    let bits = |ip: IpAddr| if ip.is_ipv4() { 32 } else { 128 };
    let mut message = vec![family(to), bits(to), from.map_or(0, bits), 0, 0, 0, 0, 0];
    message.extend(TELL_TABLE.to_ne_bytes());
    // RTA_DST, RTA_SRC, RTA_UID
    attribute(&mut message, 1, &octets(to));
    if let Some(from) = from {
        attribute(&mut message, 2, &octets(from));
    }
    attribute(&mut message, 25, &uid.to_ne_bytes());
    let mut answer = None;
    exchange(GET_ROUTE, 0, &message, |payload| {
        answer = Some(lookup_answer(to, payload)?);
        Ok(())
    })
    .map_err(|error| match errno(&error) {
        // The last two are the answers of a prohibit and of a blackhole route.
        Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS | Errno::INVAL) => {
            Error::NoRoute(to)
        }
        _ => error,
    })?;
    answer.ok_or(Error::Malformed("a lookup without a route"))
}

/// Dumps what a kind of request asks for, again while the kernel marks it as interrupted; `read` takes each message.
pub fn dump<T>(
    kind: u16,
    family: u8,
    read: impl Fn(&[u8], &mut Vec<T>) -> Result<(), Error>,
) -> Result<Vec<T>, Error> {
    // The longest of the headers (`struct ifinfomsg`); each begins with the family.
    let mut message = [0; 16];
    message[0] = family;
    for _ in 0..TRIES {
        let mut all = Vec::new();
        let told = exchange(kind, DUMP, &message, |payload| {
            // A kernel without IPv6 tells of IPv4 instead.
            if family == 0 || payload.first() == Some(&family) {
                read(payload, &mut all)?;
            }
            Ok(())
        });
        match told {
            Ok(interrupted) if interrupted => {}
            Ok(_) => return Ok(all),
            // A kernel without IPv6 has no tables of it.
            Err(error) if matches!(errno(&error), Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT)) => {
                return Ok(all);
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Restless)
}

/// Sends a request, and hands on the payload of each answer; true if they don't belong together.
fn exchange(
    kind: u16,
    flags: u16,
    payload: &[u8],
    mut hear: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<bool, Error> {
    let failed = |error: Errno| Error::Open(error.into());
    // No protocol's number is 0, NETLINK_ROUTE.
    let kernel = socket(AddressFamily::NETLINK, SocketType::RAW, None).map_err(failed)?;
    set_socket_timeout(&kernel, Timeout::Recv, Some(DEADLINE)).map_err(failed)?;
    // A connected socket hears nobody but the kernel.
    connect(&kernel, &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
    let request = Message::request(kind, REQUEST | flags, payload)?;
    send(&kernel, &request, SendFlags::empty()).map_err(failed)?;

    let mut interrupted = false;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let heard = retry_on_intr(|| recv(&kernel, &mut buffer[..], RecvFlags::empty()));
        let (length, _) = heard.map_err(failed)?;
        let mut datagram = &buffer[..length];
        while !datagram.is_empty() {
            let message = Message::read(&mut datagram)?;
            // Also the last message may be the one that carries it.
            interrupted |= message.flags & INTERRUPTED != 0;
            match message.kind {
                // A dump that ends badly says so in its last message, too.
                ERROR | DONE => return message.result().map(|()| interrupted),
                _ => hear(message.payload)?,
            }
            if flags == 0 {
                return Ok(false);
            }
        }
    }
}

/// `struct rtmsg` of an entry and its attributes: all that identifies it.
fn route_message(entry: &Entry) -> Vec<u8> {
    /// `RTN_UNICAST`.
    const UNICAST: u8 = 1;
    let (net, protocol) = (entry.destination, entry.protocol);
    let (family, length) = (family(net.addr()), net.prefix_len());
    // The table is an attribute, as here it has eight bits.
    let mut message = vec![family, length, 0, 0, 0, protocol, 0, UNICAST];
    message.extend(0_u32.to_ne_bytes());
    // RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE
    attribute(&mut message, 1, &octets(net.addr()));
    if entry.link != 0 {
        attribute(&mut message, 4, &entry.link.to_ne_bytes());
    }
    if let Some(gateway) = entry.gateway {
        attribute(&mut message, 5, &octets(gateway));
    }
    attribute(&mut message, 6, &entry.metric.to_ne_bytes());
    attribute(&mut message, 15, &entry.table.to_ne_bytes());
    message
}

/// Appends a `struct nlattr`; what comes here is aligned.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Its own four bytes, and at most the 16 of an address.
    let length = 4 + value.len() as u16;
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { INET } else { INET6 }
}

fn errno(error: &Error) -> Option<Errno> {
    match error {
        Error::Refused(error) => Errno::from_io_error(error),
        _ => None,
    }
}
