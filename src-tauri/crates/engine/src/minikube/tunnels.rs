//! `tunnels.json`: the routes that `minikube tunnel`s say they have made.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use minitunnel_model::{MinikubeTunnel, ProfileName, Route};
use tokio::sync::Notify;

use super::{Home, config::TunnelEntry, file};

/// Reads the entries; those that make no sense are left out, and a file that can't be read has none.
///
/// minikube rewrites the file in place and without a lock: half of it may be seen, and its end is an event of its own.
pub(super) fn tunnels(home: &Home) -> BTreeMap<ProfileName, Vec<MinikubeTunnel>> {
    let bytes = file::read(&home.path.join("tunnels.json")).unwrap_or_default();
    let entries: Option<Vec<serde_json::Value>> =
        serde_json::from_slice(&bytes).unwrap_or_default();
    let mut tunnels: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (profile, tunnel) in entries.into_iter().flatten().filter_map(record) {
        tunnels.entry(profile).or_default().push(tunnel);
    }
    tunnels
}

fn record(entry: serde_json::Value) -> Option<(ProfileName, MinikubeTunnel)> {
    let entry: TunnelEntry = serde_json::from_value(entry).ok()?;
    let tunnel = MinikubeTunnel {
        route: Route {
            destination: entry.route.destination.network()?.trunc(),
            gateway: entry.route.gateway,
        },
        pid: entry.pid,
        running: is_minikube(entry.pid),
    };
    Some((entry.machine_name.parse().ok()?, tunnel))
}

/// Whether that process runs, and is a minikube by the name that it was called by (its number may be another's by now).
#[cfg(target_os = "linux")]
fn is_minikube(pid: u32) -> bool {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

    // One that ended, and that nobody has asked for its exit code yet, has an empty line.
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = Path::new(OsStr::from_bytes(program)).file_name();
    name.is_some_and(|name| name.as_bytes().starts_with(b"minikube"))
}

/// Not to be known here without a process of ours that asks: the entry is taken at its word.
#[cfg(not(target_os = "linux"))]
fn is_minikube(_pid: u32) -> bool {
    true
}

/// The ends of processes, which no file tells.
#[derive(Debug, Default)]
pub(super) struct Ends {
    followed: BTreeSet<u32>,
    ended: Arc<Notify>,
}

impl Ends {
    /// Waits for the ends of these from now on.
    pub(super) fn follow(&mut self, pids: BTreeSet<u32>) {
        for pid in pids.difference(&self.followed) {
            let ended = self.ended.clone();
            if let Err(error) = wait_for_end(*pid, move || ended.notify_one()) {
                tracing::debug!(pid, %error, "it can't be waited for: it may have ended");
                self.ended.notify_one();
            }
        }
        self.followed = pids;
    }

    /// One of them has ended.
    pub(super) async fn next(&self) {
        self.ended.notified().await;
    }
}

/// A thread of its own sits in the system call: there is no safe way to have the runtime wait for a process.
#[cfg(target_os = "linux")]
fn wait_for_end(pid: u32, then: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    use rustix::{
        event::{PollFd, PollFlags, poll},
        process::{Pid, PidfdFlags, pidfd_open},
    };

    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = pidfd_open(pid.ok_or_else(invalid)?, PidfdFlags::empty())?;
    std::thread::Builder::new()
        .name("process-end".to_owned())
        .stack_size(super::STACK)
        .spawn(move || {
            let mut ended = [PollFd::new(&process, PollFlags::IN)];
            while poll(&mut ended, None) == Err(rustix::io::Errno::INTR) {}
            then();
        })?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn wait_for_end(_pid: u32, _then: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::Host, *};

    const ENTRY: &str = r#"{"Route":{"Gateway":"192.168.49.2","DestCIDR":{"IP":"10.96.0.0","Mask":"//AAAA=="},"ClusterDomain":"cluster.local","ClusterDNSIP":"10.96.0.10"},"MachineName":"minikube","Pid":4242}"#;

    fn read(text: &str) -> Vec<(String, MinikubeTunnel)> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tunnels.json"), text).unwrap();
        let home = Home {
            path: dir.path().to_owned(),
            kubeconfig: dir.path().join("none"),
            host: Host::default(),
        };
        let of = |(name, list): (ProfileName, Vec<_>)| {
            list.into_iter()
                .map(move |tunnel| (name.to_string(), tunnel))
        };
        tunnels(&home).into_iter().flat_map(of).collect()
    }

    fn expected() -> (String, MinikubeTunnel) {
        let tunnel = MinikubeTunnel {
            route: Route {
                destination: "10.96.0.0/12".parse().unwrap(),
                gateway: "192.168.49.2".parse().unwrap(),
            },
            pid: 4242,
            running: is_minikube(4242),
        };
        ("minikube".into(), tunnel)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_end_of_a_process_is_told() {
        let mut process = std::process::Command::new("sleep");
        let mut process = process.arg("60").spawn().unwrap();
        let mut ends = Ends::default();
        ends.follow([process.id()].into());
        process.kill().unwrap();
        // Only a product that does not see it reaches the end of this time.
        let told = tokio::time::timeout(std::time::Duration::from_secs(10), ends.next());
        told.await.unwrap();
        process.wait().unwrap();
    }

    #[test]
    fn minikubes_own_format_is_read() {
        assert_eq!(read(&format!("[{ENTRY}]")), [expected()]);
    }

    #[test]
    fn entries_that_make_no_sense_are_left_out() {
        let text = format!(r#"[{{"Pid":"x"}},{ENTRY},7,null]"#);
        assert_eq!(read(&text), [expected()]);
    }

    #[test]
    fn a_missing_empty_half_or_rubbish_file_has_no_entries() {
        for text in ["", "null", "[]", "{}", "rubbish", &ENTRY[..100]] {
            assert_eq!(read(text), [], "{text}");
        }
    }
}
