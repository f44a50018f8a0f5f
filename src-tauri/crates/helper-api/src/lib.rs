//! The client of minitunnel's privileged helper, by both ways in. (`minitunnel-contract` is what both sides agree on.)
//!
//! On the system bus the helper is activated on demand and polkit decides. Peer to peer it is the other end of a
//! socket that was inherited as standard input, and whoever holds that socket may do all that the helper can.

mod client;
mod error;
mod inherited;
mod program;
mod wire;

pub use client::{Client, ConnectError, HelperEvent};
pub use error::HelperError;
pub use inherited::inherited;
pub use minitunnel_contract::{
    ACTION_APPLY, ACTION_REMOVE_STALE, BUS_NAME, OBJECT_PATH, OPTION_CONFIRM_WITHIN, PROTOCOL,
    ROUTES_PER_LEASE, WireLease, WireRoute, to_wire,
};
pub use program::{NoHelper, find_helper, find_keeper};
pub use wire::{HelperProxy, Lease, LeaseState, from_wire};

/// Set to [`STDIN`] where standard input is a socket whose other end is the helper.
pub const INHERITED_VARIABLE: &str = "MINITUNNEL_HELPER";
/// The one value of [`INHERITED_VARIABLE`].
pub const STDIN: &str = "stdin";

/// The interface of [`OBJECT_PATH`].
pub const INTERFACE: &str = "io.github.minitunnel.Helper1";
