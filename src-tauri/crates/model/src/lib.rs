//! The words that every part of minitunnel speaks: plain types, no I/O.
//!
//! States and errors serialise with a tag (`"state": "connected"`), so that the window's page and `--json` read the same.

mod changes;
mod command;
mod conflict;
mod entry;
#[cfg(feature = "examples")]
pub mod examples;
mod profile;
mod route;
mod service;
mod session;
mod settings;
pub mod shown;
mod snapshot;
#[cfg(feature = "ts")]
mod ts;

pub use changes::{Change, changes};
pub use command::Command;
pub use conflict::{Conflict, ConflictKind, WayOut};
pub use entry::{Origin, TableEntry};
pub use minitunnel_base::{InvalidProfileName, ProfileName, Route};
pub use profile::{Node, Profile, Reach};
pub use route::{GroupKind, GroupState, RouteGroup};
pub use service::{LoadBalancer, Owner, Pending, ServiceKey, ServicePort};
pub use session::{FromSession, Hello, PROTOCOL, ToSession};
pub use settings::Settings;
pub use shown::{printable, shown};
pub use snapshot::{
    Activity, BrokenProfile, CleanupItem, CleanupReport, ClusterState, FailureCause, HelperStatus,
    Left, MinikubeTunnel, ProfileStatus, Snapshot, TargetState, Timestamp, TunnelState, WaitingFor,
};
