//! Requests to the kernel and its answers (`netlink(7)`, `rtnetlink(7)`).

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use minitunnel_base::Route;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, parse_i32,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Request,
    route::{RouteAttribute, RouteFlags, RouteMessage, RouteType},
    rule::RuleMessage,
};
use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        self, RecvFlags, SendFlags, SocketType, connect,
        netdevice::name_to_index,
        netlink::SocketAddrNetlink,
        recv, send, socket,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::{
    Entry, Error, Routes,
    read::{entries, route, rule},
};

/// For one answer: the kernel answers at once, if at all.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a dump is taken again because the table changed meanwhile; changes come in bursts.
const TRIES: usize = 30;
/// The kernel puts at most 32 KiB into one datagram (`NLMSG_GOODSIZE` and `netlink_recvmsg`).
const DATAGRAM: usize = 64 * 1024;

/// Reads the routes of both families, and the policy rules.
pub fn routes() -> Result<Routes, Error> {
    let mut all = Routes::default();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        all.entries.extend(dump_entries(family)?);
        let mut message = RuleMessage::default();
        message.header.family = family;
        all.rules
            .extend(dump(Request::GetRule(message), family, rule)?);
    }
    all.entries.sort_unstable();
    Ok(all)
}

/// Reads the routes of one family.
pub fn dump_entries(family: AddressFamily) -> Result<Vec<Entry>, Error> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    dump(Request::GetRoute(message), family, entries)
}

/// Adds a route to table main, with our tag; never replaces one.
///
/// [`Error::Exists`] where the destination has a route of the same metric, whatever its gateway and owner: to move a
/// destination to another gateway, remove it first.
pub fn add(route: &Route) -> Result<(), Error> {
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let added = change(Request::NewRoute, flags, &Entry::ours(route));
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
        match change(Request::DelRoute, NLM_F_ACK, entry) {
            Ok(()) | Err(Error::Refused(Errno::SRCH)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Has the kernel change an entry, which is named by all that identifies it.
fn change(kind: fn(RouteMessage) -> Request, flags: u16, entry: &Entry) -> Result<(), Error> {
    let mut message = message(entry.destination);
    message.header.protocol = entry.protocol.into();
    message.header.kind = RouteType::Unicast;
    let told = &mut message.attributes;
    // In the header it would have eight bits.
    told.push(RouteAttribute::Table(entry.table));
    told.push(RouteAttribute::Priority(entry.metric));
    let gateway = entry.gateway.map(Into::into);
    told.extend(gateway.map(RouteAttribute::Gateway));
    told.extend((entry.link != 0).then_some(RouteAttribute::Oif(entry.link)));
    exchange(kind(message), flags, |_| Ok(())).map(drop)
}

/// The index of a device.
pub fn link_index(device: &str) -> Option<u32> {
    let any = socket(net::AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
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
    let mut message = message(to.into());
    message.header.flags = RouteFlags::LookupTable;
    let source = from.map(IpNet::from);
    message.header.source_prefix_length = source.map_or(0, |source| source.prefix_len());
    message.attributes.push(RouteAttribute::Uid(uid));
    let source = from.map(Into::into);
    message
        .attributes
        .extend(source.map(RouteAttribute::Source));
    let mut heard = None;
    let asked = exchange(Request::GetRoute(message), 0, |payload| {
        let way = route(payload)?;
        heard = Some((way.entry, way.source));
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

/// Dumps what a request asks for, of a family or of all, again while the kernel marks it as interrupted; `read` takes each
/// message.
pub fn dump<T>(
    request: Request,
    family: AddressFamily,
    read: impl Fn(&[u8], &mut Vec<T>) -> Result<(), Error>,
) -> Result<Vec<T>, Error> {
    for _ in 0..TRIES {
        let mut all = Vec::new();
        let told = exchange(request.clone(), NLM_F_DUMP, |payload| {
            // A kernel without IPv6 tells of IPv4 instead. Each message begins with its family.
            let is_asked = payload.first() == Some(&family.into());
            if is_asked || family == AddressFamily::Unspec {
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
    request: Request,
    flags: u16,
    mut hear: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<bool, Error> {
    let failed = |error: Errno| Error::Open(error.into());
    // No protocol's number is 0, NETLINK_ROUTE.
    let kernel = socket(net::AddressFamily::NETLINK, SocketType::RAW, None).map_err(failed)?;
    set_socket_timeout(&kernel, Timeout::Recv, Some(DEADLINE)).map_err(failed)?;
    // A connected socket hears nobody but the kernel.
    connect(&kernel, &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
    // A fresh socket has one request, so it needs no number.
    let mut request = NetlinkMessage::from(request);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    send(&kernel, &bytes, SendFlags::empty()).map_err(failed)?;

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

/// A message about the routes to a network.
fn message(network: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match network {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = network.prefix_len();
    let destination = RouteAttribute::Destination(network.addr().into());
    message.attributes.push(destination);
    message
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{Emitable, NetlinkHeader};

    use super::*;

    /// A message of netlink's.
    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        header.flags = flags;
        header.length = 16 + payload.len() as u32;
        let mut bytes = vec![0; 16];
        header.emit(&mut bytes);
        [&bytes, payload].concat()
    }

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
        let message = |payload: &[u8]| message(24, 7, payload);
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
            let (marked, mut interrupted) = (message(kind, 0x10, &[0; 4]), false);
            each(&marked, &mut interrupted, &mut |_| Ok(())).unwrap();
            assert!(interrupted);
        }
    }

    #[test]
    fn an_end_says_how_it_went() {
        let end = |payload: &[u8]| read(&message(3, 0, payload));
        assert_eq!(end(&[0; 4]).unwrap(), (vec![], true));
        let nomem = (-12_i32).to_ne_bytes();
        assert!(matches!(end(&nomem), Err(Error::Refused(Errno::NOMEM))));
        assert!(matches!(end(&[0; 2]), Err(Error::Malformed(_))));
    }
}
