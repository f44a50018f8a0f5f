//! Linux: rtnetlink (`rtnetlink(7)`).

mod events;
mod read;

use minitunnel_kernel::{Error, dump, dump_entries};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Request, address::AddressMessage, link::LinkMessage,
    rule::RuleMessage,
};

pub use self::events::Events;
use crate::Table;

/// The kernel's routing tables, in the network namespace of the calling thread.
#[derive(Clone, Debug)]
pub struct Router(());

impl Router {
    /// Makes sure that the kernel can be asked.
    pub fn open() -> Result<Self, Error> {
        events::socket(0)?;
        Ok(Self(()))
    }

    /// Reads everything; see [`table`]. (Other systems may have to wait for the answer; Linux gives it at once.)
    pub async fn dump(&self) -> Result<Table, Error> {
        table()
    }
}

/// Reads the entries of every table, rules, addresses and devices of both families. What changes while it is being read is
/// read again.
pub fn table() -> Result<Table, Error> {
    let links = Request::GetLink(LinkMessage::default());
    let mut table = Table {
        links: dump(links, AddressFamily::Unspec, read::link)?
            .into_iter()
            .collect(),
        ..Table::default()
    };
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let (mut addresses, mut rules) = (AddressMessage::default(), RuleMessage::default());
        addresses.header.family = family;
        rules.header.family = family;
        let addresses = dump(Request::GetAddress(addresses), family, read::address)?;
        table.addresses.extend(addresses);
        // Rules keep the kernel's order: among equal priorities it is the one in which they are asked.
        let rules = dump(Request::GetRule(rules), family, read::rule)?;
        table.rules.extend(rules);
        table.entries.extend(dump_entries(family)?);
    }
    table.entries.sort_unstable();
    table.addresses.sort_unstable();
    Ok(table)
}
