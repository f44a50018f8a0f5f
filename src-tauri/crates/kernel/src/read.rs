//! What the kernel's messages say.
//!
//! Only the attributes that matter are looked at, so that a route with an exotic one is still seen.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{Entry, Error, Kind, Lookup, PROTOCOL, Rule, netlink::INET6};

/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER: usize = 16;
/// `RTM_F_CLONED`, an entry of the routing cache: no route.
const CACHED: u32 = 0x200;

/// A message of netlink's.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The bytes of a request. A fresh socket has one, so it needs no number.
    pub(crate) fn request(kind: u16, flags: u16, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let length = u32::try_from(HEADER + payload.len());
        let mut bytes = length.map_err(io::Error::other)?.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        Ok(bytes)
    }

    /// Takes the next message off a datagram.
    pub(crate) fn read(datagram: &mut &'a [u8]) -> Result<Self, Error> {
        const WHAT: Error = Error::Malformed("a message of a wrong length");
        let length = u32_at(datagram, 0).ok_or(WHAT)? as usize;
        let message = datagram.get(..length).ok_or(WHAT)?;
        let payload = message.get(HEADER..).ok_or(WHAT)?;
        // Messages are aligned to four bytes.
        *datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        let field = |offset| u16_at(message, offset).ok_or(WHAT);
        Ok(Self {
            kind: field(4)?,
            flags: field(6)?,
            payload,
        })
    }

    /// What the last message of an answer says.
    pub(crate) fn result(&self) -> Result<(), Error> {
        match u32_at(self.payload, 0).map(u32::cast_signed) {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg()).into()),
            None => Err(Error::Malformed("an end without a result")),
        }
    }
}

/// The answer to a lookup, and the source address that the packet would carry.
pub(crate) fn lookup_answer(to: IpAddr, payload: &[u8]) -> Result<(Lookup, Option<IpAddr>), Error> {
    let Route { entry, source, .. } = Route::read(payload)?;
    let (gateway, link, table, kind) = (entry.gateway, entry.link, entry.table, entry.kind);
    let way = Lookup {
        to,
        gateway,
        link,
        table,
        kind,
    };
    Ok((way, source))
}

/// The entries of a route: one for each of its next hops.
pub fn entries(payload: &[u8], all: &mut Vec<Entry>) -> Result<(), Error> {
    const WHAT: Error = Error::Malformed("a next hop");
    let route = Route::read(payload)?;
    match route.hops {
        _ if route.cached => {}
        None => all.push(route.entry),
        // Each `struct rtnexthop` has a length, eight bytes that end with its device, and attributes.
        Some(mut hops) => {
            let mut entry = route.entry;
            // Another program's next hop for the same destination joins our route of IPv6, behind ours, which remains a
            // route of its own to whoever deletes it (`fib6_add_rt2node`, `ip6_route_del`).
            let joined = entry.destination.addr().is_ipv6() && entry.protocol == PROTOCOL;
            let mut hop = u16::from(!joined);
            while !hops.is_empty() {
                let length = u16_at(hops, 0).map(usize::from).ok_or(WHAT)?;
                entry.hop = hop;
                hop += 1;
                entry.link = u32_at(hops, 4).ok_or(WHAT)?;
                entry.gateway = None;
                for attribute in Attributes(hops.get(8..length).ok_or(WHAT)?) {
                    entry.gateway = gateway(attribute?)?.or(entry.gateway);
                }
                all.push(entry);
                hops = hops.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            }
        }
    }
    Ok(())
}

/// A policy rule (`struct fib_rule_hdr` and its attributes), if it asks a table or drops.
pub(crate) fn rule(payload: &[u8], all: &mut Vec<Rule>) -> Result<(), Error> {
    const WHAT: Error = Error::Malformed("a rule");
    /// `FIB_RULE_INVERT`: it is for all packets but these.
    const INVERT: u32 = 2;
    let (header, attributes) = split(payload, 12)?;
    let inverted = u32_at(header, 8).ok_or(WHAT)? & INVERT != 0;
    // The source's length, and the type of service.
    let mut special = header[2] != 0 || header[3] != 0;
    let (mut to, mut by_port, mut suppresses) = (None, false, false);
    let mut table = u32::from(header[4]);
    for attribute in Attributes(attributes) {
        let (kind, value) = attribute?;
        let number = || u32_at(value, 0).ok_or(WHAT);
        match kind {
            // FRA_DST
            1 => to = ip(value).and_then(|to| IpNet::new(to, header[1]).ok()),
            // FRA_IIFNAME; what this machine sends comes from lo.
            3 => special |= value != b"lo\0",
            // FRA_FWMARK, FRA_OIFNAME, FRA_UID_RANGE
            10 | 17 | 20 => special = true,
            // FRA_SUPPRESS_PREFIXLEN: -1 for none, and 0 for the default route alone.
            14 => suppresses = number()?.cast_signed() > 0,
            // FRA_TABLE
            15 => table = number()?,
            // FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE
            22..=24 => by_port = true,
            _ => {}
        }
    }
    let everywhere = match header[0] {
        INET6 => IpNet::V6(Default::default()),
        _ => IpNet::V4(Default::default()),
    };
    let some = to.is_some() || by_port;
    all.push(Rule {
        ipv6: header[0] == INET6,
        table: match header[7] {
            // FR_ACT_TO_TBL
            1 => Some(table),
            // FR_ACT_BLACKHOLE, FR_ACT_UNREACHABLE, FR_ACT_PROHIBIT
            6..=8 => None,
            _ => return Ok(()),
        },
        part: (some && (inverted || !special))
            .then_some(to.filter(|_| !inverted).unwrap_or(everywhere)),
        whole: !(special || some || inverted || suppresses),
    });
    Ok(())
}

/// `struct rtmsg` and the attributes that follow it.
struct Route<'a> {
    entry: Entry,
    source: Option<IpAddr>,
    cached: bool,
    hops: Option<&'a [u8]>,
}

impl<'a> Route<'a> {
    fn read(payload: &'a [u8]) -> Result<Self, Error> {
        const WHAT: Error = Error::Malformed("a route");
        let (header, attributes) = split(payload, 12)?;
        let mut destination = match header[0] {
            INET6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        };
        let mut route = Self {
            entry: Entry {
                destination: IpNet::from(destination),
                // Eight bits; the attribute has all.
                table: u32::from(header[4]),
                metric: 0,
                hop: 0,
                kind: kind(header[7]),
                protocol: header[5],
                gateway: None,
                link: 0,
                // The type of service.
                special: header[3] != 0,
            },
            source: None,
            cached: u32_at(header, 8).ok_or(WHAT)? & CACHED != 0,
            hops: None,
        };
        let entry = &mut route.entry;
        for attribute in Attributes(attributes) {
            let (kind, value) = attribute?;
            let number = || u32_at(value, 0).ok_or(WHAT);
            match kind {
                // RTA_DST
                1 => destination = ip(value).ok_or(WHAT)?,
                // RTA_OIF
                4 => entry.link = number()?,
                // RTA_PRIORITY
                6 => entry.metric = number()?,
                // RTA_PREFSRC
                7 => {
                    route.source = Some(ip(value).ok_or(WHAT)?);
                    entry.special = true;
                }
                // RTA_MULTIPATH
                9 => route.hops = Some(value),
                // RTA_TABLE
                15 => entry.table = number()?,
                // RTA_GATEWAY, RTA_VIA
                5 | 18 => entry.gateway = gateway((kind, value))?,
                // RTA_CACHEINFO, RTA_PREF: every route of IPv6 has them.
                12 | 20 => {}
                _ => entry.special = true,
            }
        }
        entry.destination = IpNet::new(destination, header[1]).map_err(|_| WHAT)?;
        Ok(route)
    }
}

fn kind(rtm_type: u8) -> Kind {
    match rtm_type {
        // RTN_LOCAL
        2 => Kind::Local,
        // RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST
        3..=5 => Kind::Group,
        // RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT
        6..=8 => Kind::Dropped,
        // RTN_THROW
        9 => Kind::Throw,
        // RTN_UNICAST, and what nobody uses any more.
        _ => Kind::Unicast,
    }
}

/// The gateway, if the attribute tells one: RTA_GATEWAY, or RTA_VIA, where its family comes first.
fn gateway((kind, value): (u16, &[u8])) -> Result<Option<IpAddr>, Error> {
    let address = match kind {
        5 => value,
        18 => value.get(2..).unwrap_or_default(),
        _ => return Ok(None),
    };
    let gateway = ip(address).ok_or(Error::Malformed("a gateway"))?;
    Ok(Some(gateway))
}

/// `struct nlattr`, one after the other: type and value.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are no part of the type.
        const TYPE: u16 = 0x3fff;
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        let whole = u16_at(bytes, 0)
            .zip(u16_at(bytes, 2))
            .and_then(|(length, kind)| {
                let length = usize::from(length);
                self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
                Some((kind & TYPE, bytes.get(4..length)?))
            });
        Some(whole.ok_or(Error::Malformed("an attribute")))
    }
}

/// A message's header of that length, and its attributes.
fn split(payload: &[u8], header: usize) -> Result<(&[u8], &[u8]), Error> {
    payload
        .split_at_checked(header)
        .ok_or(Error::Malformed("a message that is cut off"))
}

/// An address of either family.
pub fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..offset + 2)?;
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

/// The number of 32 bits at that place.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::INET;

    /// A route of table main, with its attributes.
    fn route(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        // rtmsg: family, lengths, tos, table, protocol, scope, type, flags
        let mut bytes = vec![INET, 16, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
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

    #[test]
    fn each_message_of_a_datagram_is_read_and_nothing_that_is_cut_off() {
        let message = |payload: &[u8]| Message::request(24, 7, payload).unwrap();
        let datagram = [message(b"aaaa"), message(b"bbbb")].concat();
        let mut rest = &datagram[..];
        for payload in [b"aaaa", b"bbbb"] {
            let read = Message::read(&mut rest).unwrap();
            assert_eq!((read.kind, read.flags, read.payload), (24, 7, &payload[..]));
        }
        assert_eq!(rest, []);
        let whole = message(b"aaaa");
        for cut in 1..whole.len() {
            assert!(Message::read(&mut &whole[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_end_says_how_it_went() {
        let end = |payload: &[u8]| {
            let bytes = Message::request(3, 0, payload).unwrap();
            Message::read(&mut &bytes[..]).unwrap().result()
        };
        assert!(end(&[0; 4]).is_ok());
        let nomem = (-12_i32).to_ne_bytes();
        assert!(
            matches!(end(&nomem), Err(Error::Refused(error)) if error.raw_os_error() == Some(12))
        );
        assert!(matches!(end(&[0; 2]), Err(Error::Malformed(_))));
    }
}
