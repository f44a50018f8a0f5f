//! Who likely owns an entry, and how to make them give way.

use minitunnel_model::{Origin, TableEntry, WayOut};

use crate::{Entry, Kind, MAIN_TABLE, Table};

/// Who likely owns an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// In the words of a view, such as `Docker (docker0)`.
    pub(crate) name: String,
    /// What a user can do about it.
    pub(crate) way_out: WayOut,
}

/// Tailscale's table on Linux (`wgengine/router`).
const TAILSCALE_TABLE: u32 = 52;

/// The owner of an entry of the table.
pub(crate) fn of(table: &Table, entry: &Entry) -> Owner {
    let told = table.describe(entry);
    if told.origin == Origin::Ours {
        return Owner {
            name: "another user's minitunnel, or one that died".to_owned(),
            way_out: WayOut::command("If no tunnel uses it, remove it", "minitunnel cleanup"),
        };
    }
    let kind = table
        .links
        .get(&entry.link)
        .and_then(|link| link.kind.as_deref());
    by_device(&told, kind)
        .or_else(|| by_table(&told))
        .unwrap_or_else(|| by_protocol(&told, entry.kind))
}

fn by_device(told: &TableEntry, kind: Option<&str>) -> Option<Owner> {
    let device = told.device.as_deref()?;
    let is = |prefix: &str| device.starts_with(prefix);
    let net = told.destination;
    let (who, advice) = if is("docker") || (is("br-") && kind == Some("bridge")) {
        (
            "Docker",
            format!("Give the Docker network with {net} another range (`docker network ls`)"),
        )
    } else if is("podman") || is("cni-podman") {
        (
            "Podman",
            format!("Give the Podman network with {net} another range (`podman network ls`)"),
        )
    } else if is("virbr") || is("vnet") {
        (
            "libvirt",
            format!("Give the libvirt network with {net} another range (`virsh net-list`)"),
        )
    } else if is("vboxnet") {
        (
            "VirtualBox",
            format!("Give the VirtualBox network {device} another range"),
        )
    } else if is("vmnet") {
        (
            "VMware",
            format!("Give the VMware network {device} another range"),
        )
    } else if is("lxdbr") || is("incusbr") || is("lxcbr") {
        (
            "LXD or Incus",
            format!("Give the network {device} another range"),
        )
    } else if is("tailscale") {
        return Some(tailscale(told, device));
    } else if is("wg") || kind == Some("wireguard") {
        (
            "WireGuard",
            format!("Take {net} out of the AllowedIPs of {device}, or bring {device} down"),
        )
    } else if is("zt") {
        (
            "ZeroTier",
            format!(
                "Leave the ZeroTier network behind {device}, or don't accept its route to {net}"
            ),
        )
    } else if is("tun") || is("tap") || is("ovpn") || matches!(kind, Some("tun" | "ovpn")) {
        (
            "OpenVPN or another VPN",
            format!("Disconnect the VPN on {device}, or have {net} left out of its routes"),
        )
    } else if is("ppp") {
        (
            "a dial-up or VPN connection",
            format!("Disconnect {device}, or have {net} left out of its routes"),
        )
    } else if is("cni") || is("flannel") || is("cali") || is("cilium") {
        (
            "another Kubernetes on this machine",
            format!("Stop the Kubernetes that owns {device}"),
        )
    } else {
        return None;
    };
    Some(Owner {
        name: format!("{who} ({device})"),
        way_out: WayOut::advice(advice),
    })
}

fn by_table(told: &TableEntry) -> Option<Owner> {
    (told.table == TAILSCALE_TABLE).then(|| tailscale(told, &format!("table {TAILSCALE_TABLE}")))
}

fn tailscale(told: &TableEntry, place: &str) -> Owner {
    let way_out = if told.destination.prefix_len() == 0 {
        WayOut::command("Use no exit node", "tailscale set --exit-node=")
    } else {
        WayOut::command(
            "Accept no subnet routes",
            "tailscale set --accept-routes=false",
        )
    };
    Owner {
        name: format!("Tailscale ({place})"),
        way_out,
    }
}

/// The numbers of `/etc/iproute2/rt_protos`.
fn by_protocol(told: &TableEntry, kind: Kind) -> Owner {
    let who = match told.origin {
        Origin::Ours => "minitunnel",
        Origin::Kernel => "this machine's own network",
        Origin::Foreign(9) => "the router of the network",
        Origin::Foreign(16) => "the network's DHCP server",
        Origin::Foreign(3) => "`minikube tunnel`, or somebody's `ip route add`",
        Origin::Foreign(4) => "an administrator, by NetworkManager or systemd-networkd",
        Origin::Foreign(11 | 12 | 14 | 42 | 186..=189 | 192) => "a routing daemon",
        Origin::Foreign(_) => "another program",
    };
    let device = told.device.as_deref();
    let name = match device {
        Some(device) => format!("{who} ({device})"),
        None => who.to_owned(),
    };
    let way_out = match (told.origin, device) {
        (Origin::Kernel, Some(device)) => WayOut::advice(format!(
            "Give the network on {device} another range, or disconnect {device}"
        )),
        (Origin::Foreign(3), _) => WayOut::command(
            "End the `minikube tunnel` that made it, or remove it",
            delete_command(told, kind),
        ),
        _ => WayOut::command(
            "Remove it where it was set, or until it comes back",
            delete_command(told, kind),
        ),
    };
    Owner { name, way_out }
}

/// The command that deletes exactly this entry.
fn delete_command(told: &TableEntry, kind: Kind) -> String {
    let family = if told.destination.addr().is_ipv4() {
        ""
    } else {
        " -6"
    };
    let mut command = format!("sudo ip{family} route del {}", told.destination);
    if kind == Kind::Unicast {
        if let Some(gateway) = told.gateway {
            command.push_str(&format!(" via {gateway}"));
        }
        if let Some(device) = &told.device {
            command.push_str(&format!(" dev {device}"));
        }
    }
    if told.metric != 0 {
        command.push_str(&format!(" metric {}", told.metric));
    }
    if told.table != MAIN_TABLE {
        command.push_str(&format!(" table {}", told.table));
    }
    command
}
