//! What the kernel's messages say.
//!
//! Their attributes are told apart here, and not all read by `netlink-packet-route`, which refuses a whole route for one
//! attribute that it knows in another form: a route with an exotic attribute is still seen.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{
    DecodeError, Emitable, NlaBuffer, NlasIterator, parse_ip, parse_u16, parse_u32,
};
use netlink_packet_route::{
    AddressFamily,
    route::{RouteFlags, RouteHeader, RouteType},
    rule::{RuleAction, RuleFlags, RuleHeader},
};

use crate::{Entry, Error, Kind, PROTOCOL, Rule};

/// The entries of a route: one for each of its next hops.
pub(crate) fn entries(payload: &[u8], all: &mut Vec<Entry>) -> Result<(), Error> {
    // It is of the routing cache, and no route.
    if RouteHeader::parse(payload)?
        .flags
        .contains(RouteFlags::Cloned)
    {
        return Ok(());
    }
    let Route {
        mut entry, hops, ..
    } = route(payload)?;
    let Some(hops) = hops else {
        all.push(entry);
        return Ok(());
    };
    let mut hops = hops.value();
    // Another program's next hop for the same destination joins our route of IPv6, behind ours, which remains a route of
    // its own to whoever deletes it (`fib6_add_rt2node`, `ip6_route_del`).
    let joined = entry.destination.addr().is_ipv6() && entry.protocol == PROTOCOL;
    entry.hop = u16::from(!joined);
    // Each `struct rtnexthop` has a length, eight bytes that end with its device, and attributes.
    while !hops.is_empty() {
        let length = usize::from(parse_u16(hops.get(..2).unwrap_or_default())?);
        let hop = hops.get(..length).unwrap_or_default();
        entry.link = parse_u32(hop.get(4..8).unwrap_or_default())?;
        entry.gateway = None;
        for attribute in NlasIterator::new(&hop[8..]) {
            let attribute = attribute?;
            // RTA_GATEWAY, RTA_VIA
            if let 5 | 18 = attribute.kind() {
                entry.gateway = Some(gateway(attribute)?);
            }
        }
        all.push(entry);
        entry.hop += 1;
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// A policy rule (`struct fib_rule_hdr` and its attributes), if it asks a table or drops.
pub(crate) fn rule(payload: &[u8], all: &mut Vec<Rule>) -> Result<(), Error> {
    let header = RuleHeader::parse(payload)?;
    // It is for all packets but these.
    let inverted = header.flags.contains(RuleFlags::Invert);
    let mut special = header.src_len != 0 || header.tos != 0;
    let (mut to, mut by_port, mut suppresses) = (None, false, false);
    let mut table = u32::from(header.table);
    for attribute in NlasIterator::new(&payload[header.buffer_len()..]) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            // FRA_DST
            1 => to = IpNet::new(parse_ip(value)?, header.dst_len).ok(),
            // FRA_IIFNAME; what this machine sends comes from lo.
            3 => special |= value != b"lo\0",
            // FRA_FWMARK, FRA_OIFNAME, FRA_UID_RANGE
            10 | 17 | 20 => special = true,
            // FRA_SUPPRESS_PREFIXLEN: -1 for none, and 0 for the default route alone.
            14 => suppresses = parse_u32(value)?.cast_signed() > 0,
            // FRA_TABLE
            15 => table = parse_u32(value)?,
            // FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE
            22..=24 => by_port = true,
            _ => {}
        }
    }
    let ipv6 = header.family == AddressFamily::Inet6;
    let some = to.is_some() || by_port;
    all.push(Rule {
        ipv6,
        table: match header.action {
            RuleAction::ToTable => Some(table),
            RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => None,
            _ => return Ok(()),
        },
        part: (some && (inverted || !special))
            .then_some(to.filter(|_| !inverted).unwrap_or(everywhere(ipv6))),
        whole: !(special || some || inverted || suppresses),
    });
    Ok(())
}

/// What a message tells of a route.
pub(crate) struct Route<'a> {
    pub(crate) entry: Entry,
    /// The source address that its packets carry.
    pub(crate) source: Option<IpAddr>,
    /// Its next hops, if several.
    hops: Option<NlaBuffer<&'a [u8]>>,
}

/// Reads a route (`struct rtmsg` and its attributes).
pub(crate) fn route(payload: &[u8]) -> Result<Route<'_>, Error> {
    let header = RouteHeader::parse(payload)?;
    let mut destination = everywhere(header.address_family == AddressFamily::Inet6).addr();
    let mut entry = Entry {
        // Eight bits; the attribute has all.
        table: u32::from(header.table),
        kind: match header.kind {
            RouteType::Local => Kind::Local,
            RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => Kind::Group,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Kind::Dropped,
            RouteType::Throw => Kind::Throw,
            // And what nobody uses any more.
            _ => Kind::Unicast,
        },
        protocol: header.protocol.into(),
        special: header.tos != 0,
        ..Entry::default()
    };
    let (mut source, mut hops) = (None, None);
    for attribute in NlasIterator::new(&payload[header.buffer_len()..]) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            // RTA_DST
            1 => destination = parse_ip(value)?,
            // RTA_OIF
            4 => entry.link = parse_u32(value)?,
            // RTA_GATEWAY, RTA_VIA
            5 | 18 => entry.gateway = Some(gateway(attribute)?),
            // RTA_PRIORITY
            6 => entry.metric = parse_u32(value)?,
            // RTA_PREFSRC
            7 => {
                source = Some(parse_ip(value)?);
                entry.special = true;
            }
            // RTA_MULTIPATH
            9 => hops = Some(attribute),
            // RTA_TABLE
            15 => entry.table = parse_u32(value)?,
            // RTA_CACHEINFO, RTA_PREF: every route of IPv6 has them.
            12 | 20 => {}
            _ => entry.special = true,
        }
    }
    entry.destination = IpNet::new(destination, header.destination_prefix_length)
        .map_err(|_| DecodeError::from("a prefix of a wrong length"))?;
    Ok(Route {
        entry,
        source,
        hops,
    })
}

/// The gateway of RTA_GATEWAY, or of RTA_VIA, where its family comes first.
fn gateway(attribute: NlaBuffer<&[u8]>) -> Result<IpAddr, DecodeError> {
    let value = attribute.value();
    let family = if attribute.kind() == 18 { 2 } else { 0 };
    parse_ip(value.get(family..).unwrap_or_default())
}

/// The destination of a default route.
fn everywhere(ipv6: bool) -> IpNet {
    match ipv6 {
        true => IpNet::V6(Default::default()),
        false => IpNet::V4(Default::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RTM_F_CLONED`.
    const CACHED: u32 = 0x200;

    /// A route of table main, with its attributes.
    fn route(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        // rtmsg: family, lengths, tos, table, protocol, scope, type, flags
        let mut bytes = vec![2, 16, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
        for (kind, value) in attributes {
            let length = u16::try_from(4 + value.len()).unwrap();
            bytes.extend(length.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn read(payload: &[u8]) -> Result<Vec<Entry>, Error> {
        let mut all = Vec::new();
        entries(payload, &mut all).map(|()| all)
    }

    #[test]
    fn a_route_with_an_unknown_attribute_is_seen() {
        let seen = read(&route(&[(99, b"?"), (1, &[10, 1, 0, 0])])).unwrap();
        assert_eq!(seen[0].destination, "10.1.0.0/16".parse().unwrap());
    }

    #[test]
    fn a_route_with_an_attribute_of_another_form_is_seen() {
        // RTA_METRICS, RTA_NEWDST, RTA_ENCAP, RTA_EXPIRES, RTA_NH_ID
        for kind in [8, 19, 22, 23, 30] {
            let seen = read(&route(&[(kind, b"?"), (1, &[10, 1, 0, 0])])).unwrap();
            assert_eq!(seen[0].destination, "10.1.0.0/16".parse().unwrap());
            assert!(seen[0].special);
        }
    }

    #[test]
    fn a_next_hop_of_a_wrong_length_is_an_error_and_never_left_out() {
        let hop = |length: u16| {
            // rtnexthop: length, flags, hops, device; then RTA_GATEWAY
            let hop = [&length.to_ne_bytes()[..], &[0, 0, 7, 0, 0, 0, 8, 0, 5, 0]].concat();
            [hop, vec![192, 168, 49, 2]].concat()
        };
        let of = |length| read(&route(&[(1, &[10, 1, 0, 0]), (9, &hop(length))]));
        let seen = of(16).unwrap();
        assert_eq!((seen.len(), seen[0].hop, seen[0].link), (1, 1, 7));
        assert_eq!(seen[0].gateway, Some("192.168.49.2".parse().unwrap()));
        for length in [0, 1, 4, 7, 9, 12, 15, 17, 20, u16::MAX] {
            assert!(of(length).is_err(), "{length}");
        }
    }

    #[test]
    fn a_route_that_is_cut_off_is_an_error_and_never_left_out() {
        let whole = route(&[(1, &[10, 1, 0, 0]), (5, &[192, 168, 49, 2])]);
        // Attributes end at these places.
        let ends = [12, 20, whole.len()];
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]).is_ok(), ends.contains(&cut), "{cut}");
        }
    }

    #[test]
    fn what_is_of_the_cache_is_no_entry() {
        let mut cached = route(&[(1, &[10, 1, 0, 0])]);
        cached[8..12].copy_from_slice(&CACHED.to_ne_bytes());
        assert_eq!(read(&cached).unwrap(), []);
    }
}
