use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use minitunnel_base::Route;
use serde::{Deserialize, Serialize};

use crate::{MAIN_TABLE, PROTOCOL};

/// The routes of every table, IPv4 and IPv6, as they were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The policy rules, those of a family in the order in which they are asked.
    pub rules: Vec<Rule>,
}

impl Routes {
    /// The routes with our tag, of living and of dead owners.
    pub fn ours(&self) -> BTreeSet<Route> {
        self.entries.iter().filter_map(Entry::our_route).collect()
    }

    /// Whether any rule asks the entry's table.
    pub fn asks(&self, entry: &Entry) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.ipv6 == entry.is_ipv6() && rule.table == Some(entry.table))
    }
}

/// A policy rule (`ip-rule(8)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether it is one for IPv6.
    pub ipv6: bool,
    /// The table that it asks; `None` where it drops.
    pub table: Option<u32>,
    /// Where the packets go to that it is for, if it is for some ordinary ones and not for others: by their destination,
    /// their port or their protocol.
    pub part: Option<IpNet>,
    /// It is for every packet, and takes every answer but a default route.
    pub whole: bool,
}

/// One entry of a routing table; a route with several next hops is one entry for each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// The destination; the default route is `0.0.0.0/0` or `::/0`.
    pub destination: IpNet,
    /// The table's number.
    pub table: u32,
    /// The metric; lower wins.
    pub metric: u32,
    /// The place among several next hops, from 1; 0 for the only one, and for ours of IPv6 that others have joined.
    pub hop: u16,
    /// What becomes of a packet.
    pub kind: Kind,
    /// Who made it: `rtm_protocol`.
    pub protocol: u8,
    /// The gateway; `None` for a network on the link, and where packets are dropped.
    pub gateway: Option<IpAddr>,
    /// The outgoing device's index; 0 for none.
    pub link: u32,
    /// It says more than this: a source address, metrics, a type of service, a nexthop object.
    pub special: bool,
}

impl Entry {
    fn is_ipv6(&self) -> bool {
        self.destination.addr().is_ipv6()
    }

    /// What `route` is in the kernel's table, but for its device.
    pub fn ours(route: &Route) -> Self {
        Self {
            destination: route.destination,
            table: MAIN_TABLE,
            // The kernel's default (`ip-route(8)`, `IP6_RT_PRIO_USER`), so that an equal route of a careless program
            // collides with ours.
            metric: if route.gateway.is_ipv4() { 0 } else { 1024 },
            protocol: PROTOCOL,
            gateway: Some(route.gateway),
            ..Self::default()
        }
    }

    /// The route, if it has our tag and our form.
    pub fn our_route(&self) -> Option<Route> {
        let route = Route {
            destination: self.destination,
            gateway: self.gateway?,
        };
        // Whatever somebody adds to it, it goes with its owner.
        let plain = Self {
            link: 0,
            special: false,
            ..*self
        };
        let same = plain == Self::ours(&route);
        same.then_some(route)
    }

    /// Whether that is the answer to a lookup ([`crate::lookup`]) of a packet that takes `route`.
    pub fn takes(&self, route: &Route) -> bool {
        self.kind == Kind::Unicast
            && self.table == MAIN_TABLE
            && self.gateway == Some(route.gateway)
            && route.destination.contains(&self.destination)
    }
}

/// What becomes of a packet (`rtm_type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// It goes out.
    #[default]
    Unicast,
    /// It is for this machine.
    Local,
    /// It is for everybody on a link: broadcast, anycast, multicast.
    Group,
    /// It is dropped, silently or with an answer: blackhole, unreachable, prohibit.
    Dropped,
    /// The lookup goes on with the next rule.
    Throw,
}

/// Whether so broad a route only says where everything else goes, as OpenVPN's 0.0.0.0/1 and 128.0.0.0/1 do.
pub fn stands_for_default(net: &IpNet) -> bool {
    // The broadest networks that somebody can mean are 10.0.0.0/8 and fc00::/7.
    net.prefix_len() < if net.addr().is_ipv4() { 8 } else { 7 }
}
