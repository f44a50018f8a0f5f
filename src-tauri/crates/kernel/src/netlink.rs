//! Requests to the kernel and its answers (`netlink(7)`, `rtnetlink(7)`).

use std::{net::IpAddr, time::Duration};

use minitunnel_base::Route;
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, parse_i32,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};
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
    Entry, Error, Routes,
    read::{answer, entries, rule},
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
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let added = change(NEW_ROUTE, flags, &Entry::ours(route));
    added.map_err(|error| match error {
        Error::Refused(Errno::EXIST) => Error::Exists(*route),
        Error::Refused(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN) => {
            Error::GatewayUnreachable(*route)
        }
        error => error,
    })
}

/// Removes the entries of one next hop that `which` picks, by their full identity; afterwards, there are none.
///
/// The kernel takes IPv4's metric 0 for any (`fib_nh_match`), and the first next hop of several for all: so only what a dump
/// has just shown is removed, where it is the first one to match.
pub fn remove(which: impl Fn(&Entry) -> bool) -> Result<(), Error> {
    for entry in routes()?.entries.iter().filter(|entry| which(entry)) {
        match change(DELETE_ROUTE, NLM_F_ACK, entry) {
            Ok(()) | Err(Error::Refused(Errno::SRCH)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Has the kernel change an entry, which is named by all that identifies it.
fn change(kind: u16, flags: u16, entry: &Entry) -> Result<(), Error> {
    let mut message = message(entry.destination.addr(), entry.destination.prefix_len());
    message.header.protocol = entry.protocol.into();
    message.header.kind = RouteType::Unicast;
    let told = &mut message.attributes;
    // In the header it would have eight bits.
    told.push(RouteAttribute::Table(entry.table));
    told.push(RouteAttribute::Priority(entry.metric));
    let gateway = entry.gateway.map(Into::into);
    told.extend(gateway.map(RouteAttribute::Gateway));
    told.extend((entry.link != 0).then_some(RouteAttribute::Oif(entry.link)));
    exchange(kind, flags, &bytes(&message), |_| Ok(())).map(drop)
}

/// The index of a device.
pub fn link_index(device: &str) -> Option<u32> {
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
    name_to_index(any, device).ok()
}

/// Asks which way an ordinary packet of that user's would go, rules and all tables considered: an entry for that address
/// alone, which does not tell who made the route.
pub fn lookup(to: IpAddr, uid: u32) -> Result<Entry, Error> {
    let (way, source) = ask(to, uid, None)?;
    // The kernel looks again, too (`ip_route_connect`): a rule may send the source that was picked elsewhere.
    match source {
        Some(_) => ask(to, uid, source).map(|(way, _)| way),
        None => Ok(way),
    }
}

fn ask(to: IpAddr, uid: u32, from: Option<IpAddr>) -> Result<(Entry, Option<IpAddr>), Error> {
    let mut message = message(to, bits(to));
    message.header.flags = RouteFlags::LookupTable;
    message.header.source_prefix_length = from.map_or(0, bits);
    message.attributes.push(RouteAttribute::Uid(uid));
    let source = from.map(Into::into);
    message
        .attributes
        .extend(source.map(RouteAttribute::Source));
    let mut heard = None;
    let asked = exchange(GET_ROUTE, 0, &bytes(&message), |payload| {
        heard = Some(answer(payload)?);
        Ok(())
    });
    asked.map_err(|error| match error {
        // The last two are the answers of a prohibit and of a blackhole route.
        Error::Refused(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS | Errno::INVAL) => {
            Error::NoRoute(to)
        }
        error => error,
    })?;
    heard.ok_or_else(|| Error::Malformed("a lookup without a route".into()))
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
        let told = exchange(kind, NLM_F_DUMP, &message, |payload| {
            // A kernel without IPv6 tells of IPv4 instead.
            if family == 0 || payload.first() == Some(&family) {
                read(payload, &mut all)?;
            }
            Ok(())
        });
        match told {
            Ok(true) => {}
            // A kernel without IPv6 has no tables of it.
            Ok(false) | Err(Error::Refused(Errno::OPNOTSUPP | Errno::AFNOSUPPORT)) => {
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
    let request = request(kind, NLM_F_REQUEST | flags, payload);
    send(&kernel, &request, SendFlags::empty()).map_err(failed)?;

    let mut interrupted = false;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let heard = retry_on_intr(|| recv(&kernel, &mut buffer[..], RecvFlags::empty()));
        let (length, _) = heard.map_err(failed)?;
        let ended = each(&buffer[..length], &mut interrupted, &mut hear)?;
        // What is neither a change nor a dump has one answer.
        if ended || flags == 0 {
            return Ok(interrupted);
        }
    }
}

/// A request in a header. A fresh socket has one, so it needs no number.
fn request(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    header.flags = flags;
    // Ours are of some 100 bytes.
    header.length = (header.buffer_len() + payload.len()) as u32;
    [&bytes(&header), payload].concat()
}

/// Hands on the payload of each message of a datagram; true behind the last one of an answer, which says how it went.
fn each(
    mut datagram: &[u8],
    interrupted: &mut bool,
    hear: &mut impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<bool, Error> {
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram)?;
        // Also the last message may be the one that carries it.
        *interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
        match message.message_type() {
            // A dump that ends badly says so in its last message, too.
            NLMSG_ERROR | NLMSG_DONE => {
                let number = message.payload().get(..4).unwrap_or_default();
                return match parse_i32(number)? {
                    0 => Ok(true),
                    error => Err(Errno::from_raw_os_error(error.saturating_neg()).into()),
                };
            }
            _ => hear(message.payload())?,
        }
        // Messages are aligned to four bytes.
        let next = message.length().next_multiple_of(4) as usize;
        datagram = datagram.get(next..).unwrap_or_default();
    }
    Ok(false)
}

/// A message of a route's kind that names a network.
fn message(network: IpAddr, length: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    let family = if network.is_ipv4() { INET } else { INET6 };
    message.header = RouteHeader {
        address_family: family.into(),
        destination_prefix_length: length,
        ..RouteHeader::default()
    };
    let destination = RouteAttribute::Destination(network.into());
    message.attributes.push(destination);
    message
}

fn bytes(what: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; what.buffer_len()];
    what.emit(&mut bytes);
    bytes
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a datagram: the payloads, and whether the last message of an answer has come.
    fn read(datagram: &[u8]) -> Result<(Vec<Vec<u8>>, bool), Error> {
        let mut heard = Vec::new();
        let mut hear = |payload: &[u8]| {
            heard.push(payload.to_vec());
            Ok(())
        };
        let ended = each(datagram, &mut false, &mut hear)?;
        Ok((heard, ended))
    }

    #[test]
    fn each_message_of_a_datagram_is_read_and_nothing_that_is_cut_off() {
        let message = |payload: &[u8]| request(24, 7, payload);
        let datagram = [message(b"aaaa"), message(b"bbbb")].concat();
        let payloads = [b"aaaa".to_vec(), b"bbbb".to_vec()].to_vec();
        assert_eq!(read(&datagram).unwrap(), (payloads, false));
        let whole = message(b"aaaa");
        for cut in 1..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_mark_of_an_interruption_is_heard_of_any_message() {
        for kind in [24, NLMSG_DONE] {
            let (marked, mut interrupted) = (request(kind, 0x10, &[0; 4]), false);
            each(&marked, &mut interrupted, &mut |_| Ok(())).unwrap();
            assert!(interrupted);
        }
    }

    #[test]
    fn an_end_says_how_it_went() {
        let end = |payload: &[u8]| read(&request(3, 0, payload));
        assert_eq!(end(&[0; 4]).unwrap(), (vec![], true));
        let nomem = (-12_i32).to_ne_bytes();
        assert!(matches!(end(&nomem), Err(Error::Refused(Errno::NOMEM))));
        assert!(matches!(end(&[0; 2]), Err(Error::Malformed(_))));
    }
}
