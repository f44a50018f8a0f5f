use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An entry of the OS routing table, with all that identifies it to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableEntry {
    /// The destination; the default route is `0.0.0.0/0` or `::/0`.
    pub destination: IpNet,
    /// The gateway; `None` for a network that is on the link, and for a blackhole.
    pub gateway: Option<IpAddr>,
    /// The outgoing device's name.
    pub device: Option<String>,
    /// The metric (Linux: priority); lower wins.
    pub metric: u32,
    /// The table's number (Linux: 254 is `main`, 255 is `local`).
    pub table: u32,
    /// Who made it.
    pub origin: Origin,
}

/// Who made a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "origin", content = "protocol", rename_all = "snake_case")]
pub enum Origin {
    /// minitunnel's helper, by its protocol tag.
    Ours,
    /// The kernel, for this machine's own addresses.
    Kernel,
    /// Another program, by its protocol number (`rtnetlink(7)`, `/etc/iproute2/rt_protos`).
    Foreign(u8),
}
