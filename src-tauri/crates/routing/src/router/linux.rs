//! Linux: rtnetlink (`rtnetlink(7)`).

mod events;
mod read;

use minitunnel_kernel::{
    Error, GET_ADDRESS, GET_LINK, GET_ROUTE, GET_RULE, INET, INET6, dump, entries,
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
    let mut table = Table {
        links: dump(GET_LINK, 0, read::link)?.into_iter().collect(),
        ..Table::default()
    };
    for family in [INET, INET6] {
        let addresses = dump(GET_ADDRESS, family, read::address)?;
        table.addresses.extend(addresses);
        // Rules keep the kernel's order: among equal priorities it is the one in which they are asked.
        table.rules.extend(dump(GET_RULE, family, read::rule)?);
        table.entries.extend(dump(GET_ROUTE, family, entries)?);
    }
    table.entries.sort_unstable();
    table.addresses.sort_unstable();
    Ok(table)
}
