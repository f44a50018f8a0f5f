//! What the kernel's messages say of rules, addresses and devices.

use ipnet::IpNet;
use minitunnel_kernel::Error;
use netlink_packet_core::{DecodeError, NlasIterator, parse_ip, parse_u32};

use crate::{Action, Address, Link, Rule, Selector};

/// `AF_INET`.
const INET: u8 = 2;
/// `AF_INET6`.
const INET6: u8 = 10;

/// `struct fib_rule_hdr` and its attributes.
pub(super) fn rule(payload: &[u8], all: &mut Vec<Rule>) -> Result<(), Error> {
    /// `FIB_RULE_INVERT`.
    const INVERT: u32 = 2;
    let (header, attributes) = split(payload, 12)?;
    let ipv6 = header[0] == INET6;
    let (mut table, mut mark, mut mask) = (u32::from(header[4]), None, None);
    let mut rule = Rule {
        ipv6,
        priority: 0,
        action: Action::Continue,
        selectors: Vec::new(),
        inverted: parse_u32(&header[8..])? & INVERT != 0,
        suppress: None,
        protocol: 0,
    };
    // A TOS.
    if header[3] != 0 {
        rule.selectors.push(Selector::Special);
    }
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            // FRA_DST, FRA_SRC
            1 => rule.selectors.push(Selector::To(net(value, header[1])?)),
            2 => rule.selectors.push(Selector::From(net(value, header[2])?)),
            // FRA_IIFNAME
            3 if value.starts_with(b"lo\0") => rule.selectors.push(Selector::MadeHere),
            // FRA_IIFNAME, FRA_TUN_ID, FRA_OIFNAME, FRA_L3MDEV, FRA_DSCP and its mask
            3 | 12 | 17 | 19 | 25 | 30 => rule.selectors.push(Selector::Special),
            // FRA_PRIORITY
            6 => rule.priority = parse_u32(value)?,
            // FRA_FWMARK, FRA_FWMASK
            10 => mark = Some(parse_u32(value)?),
            16 => mask = Some(parse_u32(value)?),
            // FRA_SUPPRESS_PREFIXLEN; -1 for none
            14 => rule.suppress = u8::try_from(parse_u32(value)?).ok(),
            // FRA_TABLE
            15 => table = parse_u32(value)?,
            // FRA_PROTOCOL
            21 => rule.protocol = value.first().copied().unwrap_or_default(),
            // FRA_GOTO, three that nobody uses, FRA_FLOW (a mark on the answer), FRA_SUPPRESS_IFGROUP, FRA_PAD
            4 | 5 | 7..=9 | 11 | 13 | 18 => {}
            // FRA_UID_RANGE, FRA_IP_PROTO, the ports, the flow label, and what is newer than this list
            _ => rule.selectors.push(Selector::Some),
        }
    }
    if mark.is_some() || mask.is_some() {
        rule.selectors.push(Selector::Mark {
            value: mark.unwrap_or_default(),
            mask: mask.unwrap_or(u32::MAX),
        });
    }
    rule.action = match header[7] {
        // FR_ACT_TO_TBL
        1 => Action::Lookup(table),
        // FR_ACT_BLACKHOLE, FR_ACT_UNREACHABLE, FR_ACT_PROHIBIT
        6..=8 => Action::Drop,
        _ => Action::Continue,
    };
    rule.selectors.sort_unstable();
    rule.selectors.dedup();
    all.push(rule);
    Ok(())
}

/// `struct ifaddrmsg` and its attributes.
pub(super) fn address(payload: &[u8], all: &mut Vec<Address>) -> Result<(), Error> {
    let (header, attributes) = split(payload, 8)?;
    if !matches!(header[0], INET | INET6) {
        return Ok(());
    }
    let (mut local, mut other) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        match attribute.kind() {
            // IFA_LOCAL
            2 => local = Some(attribute),
            // IFA_ADDRESS: the far end where there is a local one
            1 => other = Some(attribute),
            _ => {}
        }
    }
    let address = local.or(other).ok_or("an entry without an address".into());
    let net = address.and_then(|address| net(address.value(), header[1]))?;
    let link = parse_u32(&header[4..])?;
    all.push(Address { net, link });
    Ok(())
}

/// `struct ifinfomsg` and its attributes.
pub(super) fn link(payload: &[u8], all: &mut Vec<(u32, Link)>) -> Result<(), Error> {
    /// `IFF_UP | IFF_RUNNING`.
    const RUNNING: u32 = 0x41;
    let (header, attributes) = split(payload, 16)?;
    let index = parse_u32(&header[4..8])?;
    let mut link = Link {
        name: String::new(),
        kind: None,
        running: parse_u32(&header[8..12])? & RUNNING == RUNNING,
    };
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        match attribute.kind() {
            // IFLA_IFNAME
            3 => link.name = text(attribute.value()),
            // IFLA_LINKINFO, in it IFLA_INFO_KIND
            18 => {
                for info in NlasIterator::new(attribute.value()) {
                    let info = info?;
                    if info.kind() == 1 {
                        link.kind = Some(text(info.value()));
                    }
                }
            }
            _ => {}
        }
    }
    all.push((index, link));
    Ok(())
}

/// A message's header of that length, and its attributes.
fn split(payload: &[u8], header: usize) -> Result<(&[u8], &[u8]), DecodeError> {
    let split = payload.split_at_checked(header);
    split.ok_or("a message that is cut off".into())
}

fn net(address: &[u8], length: u8) -> Result<IpNet, DecodeError> {
    let net = IpNet::new(parse_ip(address)?, length);
    net.map_err(|_| "a prefix of a wrong length".into())
}

/// A string that ends with a zero byte.
fn text(value: &[u8]) -> String {
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    String::from_utf8_lossy(value).into_owned()
}
