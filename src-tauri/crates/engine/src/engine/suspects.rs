//! Who else is at work with routes in this network. Looked for once, when it is asked.

use std::{collections::BTreeMap, fs, path::Path};

/// Programs that put routes in order as they see it, by `/proc/PID/comm` (which has 15 letters).
const MANAGERS: [(&str, &str); 10] = [
    (
        "systemd-network",
        "systemd-networkd (unless ManageForeignRoutes=no)",
    ),
    ("NetworkManager", "NetworkManager"),
    ("connmand", "ConnMan"),
    ("dhcpcd", "dhcpcd"),
    ("openvpn", "OpenVPN"),
    ("openconnect", "OpenConnect"),
    ("charon", "strongSwan"),
    ("tailscaled", "Tailscale"),
    ("zebra", "FRRouting"),
    ("bird", "BIRD"),
];

/// The suspects, the likeliest first, each with its process, such as `NetworkManager (process 4242)`.
pub(super) fn suspects() -> Vec<String> {
    let mut found: BTreeMap<usize, (u32, &str)> = BTreeMap::new();
    for (pid, comm, line) in processes() {
        if let Some((rank, name)) = suspect(&comm, &line) {
            // Of several processes of one program, the one that came first.
            let first = found.entry(rank).or_insert((pid, name));
            first.0 = first.0.min(pid);
        }
    }
    let told = found.into_values();
    told.map(|(pid, name)| format!("{name} (process {pid})"))
        .collect()
}

/// Whether another session of minitunnel's runs in this network: `up`, `session` or the tray. Where a helper can be asked
/// whose routes there are, its word is better.
pub(super) fn other_sessions() -> bool {
    let own = std::process::id();
    processes().any(|(pid, comm, line)| pid != own && is_session(&comm, &line))
}

fn is_session(comm: &[u8], line: &[u8]) -> bool {
    // The options that may stand before the command have no value.
    let mut words = line.split(|byte| *byte == 0).skip(1);
    let command = words.find(|word| !word.starts_with(b"-"));
    match comm {
        // One that has died, and that nobody has waited for yet, has no command line.
        b"minitunnel-tray" => !line.is_empty(),
        b"minitunnel" => matches!(command, Some(b"up" | b"session")),
        _ => false,
    }
}

/// The processes that run in this network, each with its name of 15 letters at most and its command line.
#[cfg(target_os = "linux")]
fn processes() -> impl Iterator<Item = (u32, Vec<u8>, Vec<u8>)> {
    let proc = Path::new("/proc");
    let network = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    let here = network(&proc.join("self"));
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid = entry.file_name().to_string_lossy().parse::<u32>().ok()?;
        let path = entry.path();
        let read = |file: &str| fs::read(path.join(file)).unwrap_or_default();
        let comm = read("comm").trim_ascii_end().to_vec();
        // Another user's process does not tell its network.
        let is_here = network(&path).is_none_or(|network| Some(network) == here);
        is_here.then(|| (pid, comm, read("cmdline")))
    })
}

/// There is no `/proc` to look into.
#[cfg(not(target_os = "linux"))]
fn processes() -> impl Iterator<Item = (u32, Vec<u8>, Vec<u8>)> {
    std::iter::empty()
}

/// The program's name for people, and how likely it is: the lower, the likelier.
fn suspect(comm: &[u8], line: &[u8]) -> Option<(usize, &'static str)> {
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let file = program.rsplit(|byte| *byte == b'/').next();
    if file.is_some_and(|file| file.starts_with(b"minikube")) && words.any(|word| word == b"tunnel")
    {
        return Some((0, "`minikube tunnel`"));
    }
    let at = MANAGERS
        .iter()
        .position(|(name, _)| name.as_bytes() == comm)?;
    Some((at + 1, MANAGERS[at].1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minikube_tunnel_is_likelier_than_a_manager_and_other_programs_are_none() {
        let minikube = suspect(b"minikube", b"/usr/bin/minikube\0tunnel\0-p\0a\0");
        assert_eq!(minikube, Some((0, "`minikube tunnel`")));
        assert_eq!(suspect(b"minikube", b"minikube\0start\0"), None);
        let networkd = suspect(b"systemd-network", b"/usr/lib/systemd/systemd-networkd\0");
        assert!(networkd.is_some_and(|(rank, name)| rank > 0 && name.contains("networkd")));
        assert_eq!(suspect(b"bash", b"bash\0tunnel\0"), None);
        assert_eq!(suspect(b"", b""), None);
    }

    #[test]
    fn a_session_is_told_from_a_command_that_only_looks() {
        assert!(is_session(
            b"minitunnel",
            b"/usr/bin/minitunnel\0up\0-p\0a\0"
        ));
        assert!(is_session(b"minitunnel", b"minitunnel\0session\0"));
        assert!(is_session(b"minitunnel-tray", b"minitunnel-tray\0"));
        assert!(is_session(b"minitunnel", b"minitunnel\0-v\0up\0"));
        assert!(!is_session(b"minitunnel", b"minitunnel\0status\0"));
        assert!(!is_session(b"minitunnel", b"minitunnel\0status\0-p\0up\0"));
        assert!(!is_session(b"minitunnel", b""));
        assert!(!is_session(b"minitunnel-tray", b""));
        assert!(!is_session(
            b"minitunnel-help",
            b"minitunnel-helper\0serve\0"
        ));
    }
}
