//! The kernel's routes: read, looked up, added and removed by their full identity.
//!
//! All that changes a route is here. Each request has a netlink socket of its own, in the network namespace of the calling
//! thread; the kernel answers while it is asked, so nothing here waits.

mod error;
#[cfg(target_os = "linux")]
mod netlink;
#[cfg(target_os = "linux")]
mod read;
mod table;

pub use error::Error;
#[cfg(target_os = "linux")]
pub use netlink::{add, dump, dump_entries, link_index, lookup, remove, routes};
pub use table::{Entry, Kind, Routes, Rule, stands_for_default};

/// The `rtm_protocol` of our routes, by which everybody can tell them from others' (`rtnetlink(7)`).
pub const PROTOCOL: u8 = 109;

/// The table that our routes are in: the one that is asked where no rule says otherwise (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

/// The table of this machine's own addresses (`RT_TABLE_LOCAL`).
pub const LOCAL_TABLE: u32 = 255;
