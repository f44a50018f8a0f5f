//! The machine's routing table, and what stands in a route's way.
//!
//! [`Router`] reads the whole table ([`Table`]); `minitunnel-kernel` has what the privileged helper needs of that, and all
//! that changes it. [`Events`] tells when the table may have changed. [`conflicts`] is pure: it finds every overlap of wanted
//! routes with a table, and explains it; [`free_cidr`] finds a range without one. What the helper finds is explained by
//! [`explain_entry`], [`explain_held`] and [`explain_detour`].

mod conflict;
mod explain;
mod free;
mod owner;
mod policy;
mod router;
mod span;
mod table;

pub use conflict::{Held, Holder, Wanted, conflicts};
pub use explain::{explain_detour, explain_entry, explain_held};
pub use free::free_cidr;
pub use minitunnel_base::{Invalid, validate};
pub use minitunnel_kernel::{Entry, Error, Kind, LOCAL_TABLE, MAIN_TABLE, PROTOCOL};
pub use router::{Events, Router, table};
pub use table::{Action, Address, Link, Rule, Selector, Table};
