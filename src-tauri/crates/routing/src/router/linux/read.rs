//! What the kernel's messages say of rules, addresses and devices.

use ipnet::IpNet;
use minitunnel_kernel::{Attributes, Error, INET, INET6, ip, u32_at};

use crate::{Action, Address, Link, Rule, Selector};

/// `struct fib_rule_hdr` and its attributes.
pub(super) fn rule(payload: &[u8], all: &mut Vec<Rule>) -> Result<(), Error> {
    const WHAT: Error = Error::Malformed("a rule");
    /// `FIB_RULE_INVERT`.
    const INVERT: u32 = 2;
    let Some((header, attributes)) = payload.split_at_checked(12) else {
        return Err(WHAT);
    };
    let ipv6 = header[0] == INET6;
    let (mut table, mut mark, mut mask) = (u32::from(header[4]), None, None);
    let mut rule = Rule {
        ipv6,
        priority: 0,
        action: Action::Continue,
        selectors: Vec::new(),
        inverted: u32_at(header, 8).unwrap_or_default() & INVERT != 0,
        suppress: None,
        protocol: 0,
    };
    // A TOS.
    if header[3] != 0 {
        rule.selectors.push(Selector::Special);
    }
    for attribute in Attributes(attributes) {
        let (kind, value) = attribute?;
        let number = || u32_at(value, 0).ok_or(WHAT);
        let net = |length| {
            ip(value)
                .and_then(|ip| IpNet::new(ip, length).ok())
                .ok_or(WHAT)
        };
        match kind {
            // FRA_DST, FRA_SRC
            1 => rule.selectors.push(Selector::To(net(header[1])?)),
            2 => rule.selectors.push(Selector::From(net(header[2])?)),
            // FRA_IIFNAME
            3 if value.starts_with(b"lo\0") => rule.selectors.push(Selector::MadeHere),
            // FRA_IIFNAME, FRA_TUN_ID, FRA_OIFNAME, FRA_L3MDEV, FRA_DSCP and its mask
            3 | 12 | 17 | 19 | 25 | 30 => rule.selectors.push(Selector::Special),
            // FRA_PRIORITY
            6 => rule.priority = number()?,
            // FRA_FWMARK, FRA_FWMASK
            10 => mark = Some(number()?),
            16 => mask = Some(number()?),
            // FRA_SUPPRESS_PREFIXLEN; -1 for none
            14 => rule.suppress = u8::try_from(number()?).ok(),
            // FRA_TABLE
            15 => table = number()?,
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
    const WHAT: Error = Error::Malformed("an address");
    let Some((header, attributes)) = payload.split_at_checked(8) else {
        return Err(WHAT);
    };
    if !matches!(header[0], INET | INET6) {
        return Ok(());
    }
    let (mut local, mut other) = (None, None);
    for attribute in Attributes(attributes) {
        match attribute? {
            // IFA_LOCAL
            (2, value) => local = Some(ip(value).ok_or(WHAT)?),
            // IFA_ADDRESS: the far end where there is a local one
            (1, value) => other = Some(ip(value).ok_or(WHAT)?),
            _ => {}
        }
    }
    let net = local
        .or(other)
        .and_then(|ip| IpNet::new(ip, header[1]).ok())
        .ok_or(WHAT)?;
    let link = u32_at(header, 4).ok_or(WHAT)?;
    all.push(Address { net, link });
    Ok(())
}

/// `struct ifinfomsg` and its attributes.
pub(super) fn link(payload: &[u8], all: &mut Vec<(u32, Link)>) -> Result<(), Error> {
    const WHAT: Error = Error::Malformed("a device");
    /// `IFF_UP | IFF_RUNNING`.
    const RUNNING: u32 = 0x41;
    let Some((header, attributes)) = payload.split_at_checked(16) else {
        return Err(WHAT);
    };
    let index = u32_at(header, 4).ok_or(WHAT)?;
    let mut link = Link {
        name: String::new(),
        kind: None,
        running: u32_at(header, 8).unwrap_or_default() & RUNNING == RUNNING,
    };
    for attribute in Attributes(attributes) {
        match attribute? {
            // IFLA_IFNAME
            (3, value) => link.name = text(value),
            // IFLA_LINKINFO, in it IFLA_INFO_KIND
            (18, value) => {
                for info in Attributes(value) {
                    if let (1, kind) = info? {
                        link.kind = Some(text(kind));
                    }
                }
            }
            _ => {}
        }
    }
    all.push((index, link));
    Ok(())
}

/// A string that ends with a zero byte.
fn text(value: &[u8]) -> String {
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    String::from_utf8_lossy(value).into_owned()
}
