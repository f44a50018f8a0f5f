//! What minikube keeps on disk: read tolerantly, watched, and never written (but for the empty `.tunnel_lock`).
//!
//! Every file may be missing, half written, enormous or wrong: it costs its own profile at most, and a sentence says so.

mod cni;
mod config;
mod file;
mod home;
mod kubeconfig;
mod lock;
mod profiles;
mod reach;
mod tunnels;
mod watcher;

use std::{collections::BTreeMap, fmt, time::Duration};

use minitunnel_model::{BrokenProfile, MinikubeTunnel, Profile, ProfileName, Timestamp};

pub use cni::Cni;
pub(crate) use file::{ReadError, read};
pub use home::{Environment, Home, NoHome};
pub use lock::{TunnelLock, lock_owner};
pub use profiles::{active_profile, read_profiles};
pub use reach::Host;
pub use watcher::{WatchError, Watcher, forward};

/// What a thread needs that waits in one system call.
const STACK: usize = 64 * 1024;

/// The profiles of a minikube home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profiles {
    /// What can be read.
    pub readable: BTreeMap<ProfileName, ProfileFiles>,
    /// What can't, by folder name.
    pub broken: Vec<BrokenProfile>,
    /// What `tunnels.json` says of profiles that can't be read, or are not there any more.
    pub minikube_tunnels: BTreeMap<ProfileName, Vec<MinikubeTunnel>>,
    /// The folder of all profiles can't be read at this moment: nothing is known of any of them.
    pub unreadable: bool,
}

impl Profiles {
    /// Tells times by another clock than the wall's: this is the present by both.
    pub(crate) fn retime(&mut self, wall: Timestamp, clock: Timestamp) {
        for files in self.readable.values_mut() {
            let rest = files.stopping_until.map(|at| at.0.saturating_sub(wall.0));
            files.stopping_until = rest.map(|rest| clock + Duration::from_millis(rest));
        }
    }
}

/// All that one profile's files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileFiles {
    /// The profile; its nodes' readiness and pod CIDRs are the API server's to tell.
    pub profile: Profile,
    /// How to reach its API server; `None` has its reason in `problem`.
    pub credentials: Option<Credentials>,
    /// Why there are no credentials, in one sentence: minikube removes the kubeconfig's entry of a stopped cluster.
    pub problem: Option<String>,
    /// Whether the reason is one of the moment, such as a half-written file: what was read before it still holds.
    pub momentary: bool,
    /// Whether it runs Kubernetes at all (`v0.0.0` does not).
    pub kubernetes: bool,
    /// Whether the metallb addon hands out its addresses.
    pub metallb: bool,
    /// Which node serves which pods.
    pub cni: Cni,
    /// A `minikube stop` or `minikube delete` is under way, by `events.json`: a hint, before the API server is gone, that
    /// is believed until this time.
    pub stopping_until: Option<Timestamp>,
    /// What `tunnels.json` says of it.
    pub minikube_tunnels: Vec<MinikubeTunnel>,
}

/// What it takes to speak to an API server as the profile's administrator.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The kubeconfig's `server`, such as `https://192.168.49.2:8443`.
    pub server: String,
    /// The authority that signed the server's certificate, PEM.
    pub ca: Vec<u8>,
    /// The client's certificate, PEM.
    pub cert: Vec<u8>,
    /// Its private key, PEM.
    pub key: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A private key belongs into no log.
        f.debug_struct("Credentials")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
