//! How the page's types describe what others define: `base`, which the helper links and which stays small, and `std`.

use std::net::IpAddr;

use ts_rs::TS;

/// A route that we want or hold: `destination` through `gateway`, of one address family.
#[derive(TS)]
#[ts(export_to = "model.ts")]
#[expect(dead_code, reason = "read by its derive")]
pub(crate) struct Route {
    /// A network without host bits.
    destination: String,
    /// A node's IP.
    gateway: IpAddr,
}

/// An entry of the OS routing table, with all that identifies it to the kernel.
#[derive(TS)]
#[ts(export_to = "model.ts")]
#[expect(dead_code, reason = "read by its derive")]
pub(crate) struct TableEntry {
    /// The destination; the default route is `0.0.0.0/0` or `::/0`.
    destination: String,
    /// The gateway; `null` for a network that is on the link, and for a blackhole.
    gateway: Option<IpAddr>,
    /// The outgoing device's name.
    device: Option<String>,
    /// The metric (Linux: priority); lower wins.
    metric: u32,
    /// The table's number (Linux: 254 is `main`, 255 is `local`).
    table: u32,
    /// Who made it.
    origin: Origin,
}

/// Who made a route.
#[derive(TS)]
#[ts(
    export_to = "model.ts",
    tag = "origin",
    content = "protocol",
    rename_all = "snake_case"
)]
#[expect(dead_code, reason = "read by its derive")]
pub(crate) enum Origin {
    /// minitunnel's helper, by its protocol tag.
    Ours,
    /// The kernel, for this machine's own addresses.
    Kernel,
    /// Another program, by its protocol number.
    Foreign(u8),
}

/// As serde writes [`std::time::Duration`].
#[derive(TS)]
#[ts(export_to = "model.ts")]
#[expect(dead_code, reason = "read by its derive")]
pub(crate) struct Duration {
    /// Whole seconds.
    secs: u32,
    /// What is left, below 1,000,000,000.
    nanos: u32,
}
