use std::collections::BTreeMap;

use ipnet::IpNet;
use minitunnel_kernel::Entry;
use minitunnel_model::{Origin, Route, TableEntry};

/// All that decides which way a packet goes, as it was at one moment. Sorted, so that equal tables are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The entries of every table, IPv4 and IPv6.
    pub entries: Vec<Entry>,
    /// The policy rules of both families, each family in the order in which they are asked.
    pub rules: Vec<Rule>,
    /// This machine's own addresses.
    pub addresses: Vec<Address>,
    /// The network devices, by their index.
    pub links: BTreeMap<u32, Link>,
}

impl Table {
    /// The entry in the words of the model, with its device's name.
    pub fn describe(&self, entry: &Entry) -> TableEntry {
        TableEntry {
            destination: entry.destination,
            gateway: entry.gateway,
            device: self.link_name(entry.link).map(str::to_owned),
            metric: entry.metric,
            table: entry.table,
            origin: origin(entry),
        }
    }

    /// The routes with our tag, of living and of dead owners.
    pub fn ours(&self) -> impl Iterator<Item = Route> {
        self.entries.iter().filter_map(Entry::our_route)
    }

    /// Whether that route is there, with our tag.
    pub fn holds(&self, route: &Route) -> bool {
        self.ours().any(|ours| ours == *route)
    }

    /// The name of a device.
    pub fn link_name(&self, index: u32) -> Option<&str> {
        self.links.get(&index).map(|link| link.name.as_str())
    }
}

/// Who made an entry. Only one of exactly our form is ours: whatever else has our tag, we did not make it.
pub(crate) fn origin(entry: &Entry) -> Origin {
    /// `RTPROT_KERNEL`: made by the kernel, for this machine's own addresses.
    const KERNEL: u8 = 2;
    match entry.protocol {
        _ if entry.our_route().is_some() => Origin::Ours,
        KERNEL => Origin::Kernel,
        other => Origin::Foreign(other),
    }
}

/// A policy rule (`ip-rule(8)`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Whether it is one for IPv6.
    pub ipv6: bool,
    /// Its place: lower is asked first.
    pub priority: u32,
    /// What it does.
    pub action: Action,
    /// Which packets it is for: those that match all of these.
    pub selectors: Vec<Selector>,
    /// It is for the packets that do not match instead.
    pub inverted: bool,
    /// Answers with a prefix of this length or shorter are ignored, and the next rule is asked.
    pub suppress: Option<u8>,
    /// Who made it: a routing protocol's number.
    pub protocol: u8,
}

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Asks the table of that number.
    Lookup(u32),
    /// Drops the packet: blackhole, unreachable, prohibit.
    Drop,
    /// Nothing that ends a lookup: a jump, or no operation.
    Continue,
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// The destination lies inside.
    To(IpNet),
    /// The source lies inside.
    From(IpNet),
    /// The mark that a firewall or a socket option gave: `mark & mask == value`.
    Mark {
        /// The bits.
        value: u32,
        /// Those that count.
        mask: u32,
    },
    /// It was made on this machine (`iif lo`).
    MadeHere,
    /// It comes from another device, is bound to one, carries a TOS or DSCP, or belongs to a VRF: no ordinary packet
    /// that a program of this machine sends.
    Special,
    /// Some ordinary packets and not others: user, protocol, port, or a selector that is not known here.
    Some,
}

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The address, with the prefix length of its network.
    pub net: IpNet,
    /// Its device's index.
    pub link: u32,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name, such as `eth0`.
    pub name: String,
    /// The kind of a virtual one, such as `bridge`, `tun` or `wireguard`.
    pub kind: Option<String>,
    /// Whether it is up and has a carrier.
    pub running: bool,
}
