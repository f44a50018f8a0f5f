use std::{
    fmt,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    Conflict, GroupKind, LoadBalancer, Owner, Profile, ProfileName, Route, RouteGroup, ServiceKey,
    Settings, TableEntry,
};

/// All that a view shows, as it is (never as it was asked for).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct Snapshot {
    /// The minikube home that the session works on.
    pub home: PathBuf,
    /// Whether the minikube home and the routing table have been read since the session began.
    pub complete: bool,
    /// The privileged helper.
    pub helper: HelperStatus,
    /// The profiles, by name.
    pub profiles: Vec<ProfileStatus>,
    /// The names of profiles that are not there (any more), and whose tunnels come up when they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "ts", ts(as = "Vec<String>"))]
    pub awaited: Vec<ProfileName>,
    /// Profile folders that can't be read.
    pub broken: Vec<BrokenProfile>,
    /// What `minikube tunnel`s left that died: not ours, and removed only where the user chooses so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<CleanupItem>,
    /// What happened lately, the oldest first; at most 100.
    pub activity: Vec<Arc<Activity>>,
    /// The profiles whose tunnels were wanted when the session was told to end: whoever wants them still goes on without
    /// it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "ts", ts(as = "Vec<String>"))]
    pub interrupted: Vec<ProfileName>,
    /// Whether the session was told to end.
    #[serde(default)]
    pub ending: bool,
    /// The user's settings, as they hold.
    #[serde(default)]
    pub settings: Settings,
    /// What is wrong with the file of the settings: a sentence for each value, in whose place the default holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings_problems: Vec<String>,
}

impl Snapshot {
    /// The profile of that name.
    pub fn profile(&self, name: &ProfileName) -> Option<&ProfileStatus> {
        self.profiles
            .iter()
            .find(|status| status.profile.name == *name)
    }

    /// Whether somebody wants that profile's tunnel, there or not.
    pub fn wants(&self, name: &ProfileName) -> bool {
        let up = |status: &ProfileStatus| status.target == TargetState::Up;
        self.profile(name).is_some_and(up) || self.awaited.contains(name)
    }

    /// The profiles whose tunnels somebody wants, there or not.
    pub fn wanted(&self) -> impl Iterator<Item = &ProfileName> {
        let up = |status: &&ProfileStatus| status.target == TargetState::Up;
        let here = self.profiles.iter().filter(up);
        here.map(|status| &status.profile.name).chain(&self.awaited)
    }
}

/// One profile, as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct ProfileStatus {
    /// The profile.
    pub profile: Profile,
    /// What the user wants.
    pub target: TargetState,
    /// What is.
    pub tunnel: TunnelState,
    /// What its API server says.
    pub cluster: ClusterState,
    /// Its routes, services first.
    pub groups: Vec<RouteGroup>,
    /// Its LoadBalancer services, by namespace and name; empty while its API server does not answer.
    pub load_balancers: Vec<Arc<LoadBalancer>>,
    /// Our addresses in a cluster that was lost before they could be withdrawn, and those that were on their way to it; they
    /// go when it is back.
    pub left: Vec<Left>,
    /// What minikube's own tunnels say of themselves; dead ones only as long as anything is there that they left.
    pub minikube_tunnels: Vec<MinikubeTunnel>,
}

impl ProfileStatus {
    /// Addresses that a dead run of ours left, while no tunnel is up for them.
    pub fn stale(&self) -> impl Iterator<Item = &Arc<LoadBalancer>> {
        let idle = matches!(
            self.tunnel,
            TunnelState::Disconnected | TunnelState::Failed { retry_at: None, .. }
        );
        self.load_balancers
            .iter()
            .filter(move |lb| idle && lb.owner == Owner::Us)
    }

    /// Every conflict of its groups, with the group.
    pub fn conflicts(&self) -> impl Iterator<Item = (&GroupKind, &Conflict)> {
        self.groups.iter().flat_map(|group| {
            group
                .conflicts()
                .iter()
                .map(|conflict| (&group.kind, conflict))
        })
    }
}

/// Addresses that we gave to a service whose API server can't be asked any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct Left {
    /// The service.
    pub service: ServiceKey,
    /// What its ingress was when it was last seen, or was to become.
    pub addresses: Vec<String>,
}

/// An entry of minikube's `tunnels.json`: a claim of a `minikube tunnel`, which it takes back when it ends in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct MinikubeTunnel {
    /// The route that it says it has made.
    #[cfg_attr(feature = "ts", ts(as = "crate::ts::Route"))]
    pub route: Route,
    /// Its process, by the number at that time.
    pub pid: u32,
    /// Whether that process runs, and is a minikube.
    pub running: bool,
}

impl fmt::Display for MinikubeTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, pid, .. } = self;
        if self.running {
            write!(f, "`minikube tunnel` (process {pid}) has made {route}")
        } else {
            write!(
                f,
                "a `minikube tunnel` (process {pid}) that ended without cleaning up had made {route}"
            )
        }
    }
}

/// A folder below `profiles` that is no readable profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct BrokenProfile {
    /// The folder's name.
    pub name: String,
    /// What is wrong, in one sentence.
    pub problem: String,
}

/// What an API server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "cluster", rename_all = "snake_case")]
pub enum ClusterState {
    /// It is not asked: out of this session's scope, or out of reach.
    #[default]
    Unasked,
    /// It has not answered yet.
    Asking,
    /// It answers.
    Running,
    /// It does not answer, or has none to ask.
    Stopped {
        /// Why, in one sentence.
        reason: String,
    },
}

/// What the user wants of a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// No tunnel.
    #[default]
    Down,
    /// A tunnel whenever its cluster runs.
    Up,
}

/// What a tunnel is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TunnelState {
    /// Nothing is held.
    #[default]
    Disconnected,
    /// Wanted, and waiting for something outside.
    Waiting {
        /// For what.
        #[serde(flatten)]
        on: WaitingFor,
    },
    /// The services' routes overlap what exists.
    Blocked {
        /// Each overlap.
        conflicts: Vec<Conflict>,
    },
    /// Routes are on their way into the kernel.
    Connecting,
    /// The services are reachable.
    Connected {
        /// Since when.
        since: Timestamp,
    },
    /// Routes and addresses are being withdrawn.
    Disconnecting,
    /// It can't be, until the time named or another [`crate::Command::SetTarget`].
    Failed {
        /// Why.
        #[serde(flatten)]
        cause: FailureCause,
        /// The next try; `None` if it waits for the user.
        retry_at: Option<Timestamp>,
    },
}

/// What a tunnel waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum WaitingFor {
    /// The cluster does not run, or does not answer.
    Cluster {
        /// What it answers, in one sentence.
        reason: String,
    },
    /// The user's consent is needed, and is not being asked for: another [`crate::Command::SetTarget`] asks.
    Consent,
    /// The consent dialog is open.
    Dialog,
    /// minikube's own tunnel for the profile runs.
    Lock {
        /// Its process, where known.
        pid: Option<u32>,
    },
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster { reason } => write!(f, "waiting for the cluster: {reason}"),
            Self::Consent => f.write_str("waiting for your consent: start it again to be asked"),
            Self::Dialog => f.write_str("answer the dialog that asks for your consent"),
            Self::Lock { pid: Some(pid) } => {
                write!(
                    f,
                    "`minikube tunnel` is running in a terminal (process {pid})"
                )
            }
            Self::Lock { pid: None } => f.write_str("`minikube tunnel` is running in a terminal"),
        }
    }
}

/// Why a tunnel can't be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum FailureCause {
    /// The driver's cluster can't be reached by routes.
    Reach {
        /// Why, and what the user can do.
        message: String,
    },
    /// The user, or the machine's policy, did not consent.
    NotAuthorized {
        /// Who said so, and what the user can do.
        message: String,
    },
    /// The helper is not installed or can't be reached.
    HelperMissing {
        /// What to do.
        message: String,
    },
    /// The helper or the kernel refused.
    Helper {
        /// Its words.
        message: String,
    },
    /// Someone keeps removing our routes.
    Fight {
        /// Who is suspected, and what the user can do.
        message: String,
    },
    /// The profile vanished or became unreadable.
    Profile {
        /// What is wrong with it.
        message: String,
    },
}

impl FailureCause {
    /// The sentence to show.
    pub fn message(&self) -> &str {
        match self {
            Self::Reach { message }
            | Self::NotAuthorized { message }
            | Self::HelperMissing { message }
            | Self::Helper { message }
            | Self::Fight { message }
            | Self::Profile { message } => message,
        }
    }
}

/// The privileged helper, as the session sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "helper", rename_all = "snake_case")]
pub enum HelperStatus {
    /// Not needed so far.
    #[default]
    Unasked,
    /// Connected.
    Ready {
        /// Its version.
        version: String,
    },
    /// Not to be had.
    Missing {
        /// Why, and what to do.
        message: String,
    },
}

/// What a clean-up removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct CleanupReport {
    /// Whether nothing was touched.
    pub dry_run: bool,
    /// What was removed, or would be.
    pub removed: Vec<CleanupItem>,
    /// What `minikube tunnel`s left that died and that nobody chose to remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<CleanupItem>,
    /// Routes with our tag where no helper runs that could tell whose they are. Only a dry run leaves it at that: a clean-up
    /// removes those that no living tunnel has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "ts", ts(as = "Vec<crate::ts::Route>"))]
    pub unclaimed: Vec<Route>,
    /// What remains though it is ours, with the reason in one sentence.
    pub failed: Vec<(CleanupItem, String)>,
    /// Profiles whose API server did not answer: addresses of ours may be left there until it does.
    #[cfg_attr(feature = "ts", ts(as = "Vec<String>"))]
    pub unasked: Vec<ProfileName>,
    /// Why the helper could not be asked for routes, in one sentence.
    pub helper: Option<String>,
}

/// Something that a dead tunnel left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
#[serde(tag = "item", rename_all = "snake_case")]
pub enum CleanupItem {
    /// A route of ours without a living owner.
    Route(#[cfg_attr(feature = "ts", ts(as = "crate::ts::Route"))] Route),
    /// An address of ours on a service without a tunnel.
    Address {
        /// Whose service.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// The service.
        service: ServiceKey,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// A route that a `minikube tunnel` left which died.
    MinikubeRoute {
        /// Whose tunnel it was.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// Its process, by the number at that time.
        pid: u32,
        /// The route by all that identifies it to the kernel.
        #[cfg_attr(feature = "ts", ts(as = "crate::ts::TableEntry"))]
        entry: TableEntry,
    },
    /// The addresses that a `minikube tunnel` left on a service.
    MinikubeAddress {
        /// Whose service.
        #[cfg_attr(feature = "ts", ts(as = "String"))]
        profile: ProfileName,
        /// The service.
        service: ServiceKey,
        /// Its `metadata.uid`: one that is made anew under its name is another.
        uid: String,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
}

impl CleanupItem {
    /// The profile that it is of, where that is known.
    pub fn profile(&self) -> Option<&ProfileName> {
        match self {
            Self::Route(_) => None,
            Self::Address { profile, .. }
            | Self::MinikubeRoute { profile, .. }
            | Self::MinikubeAddress { profile, .. } => Some(profile),
        }
    }
}

impl fmt::Display for CleanupItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(route) => write!(f, "route {route}"),
            Self::Address {
                profile,
                service,
                addresses,
            } => {
                let list: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                write!(
                    f,
                    "address {} of service {service} in {profile}",
                    list.join(", ")
                )
            }
            Self::MinikubeRoute {
                profile,
                pid,
                entry,
            } => {
                write!(f, "route {}", entry.destination)?;
                if let Some(gateway) = entry.gateway {
                    write!(f, " via {gateway}")?;
                }
                if let Some(device) = &entry.device {
                    write!(f, " dev {device}")?;
                }
                write!(
                    f,
                    " that the `minikube tunnel` of {profile} (process {pid}) left"
                )
            }
            Self::MinikubeAddress {
                profile,
                service,
                addresses,
                ..
            } => {
                let list: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                write!(
                    f,
                    "address {} of service {service} in {profile} that a `minikube tunnel` left",
                    list.join(", ")
                )
            }
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "ts", derive(ts_rs::TS), ts(export_to = "model.ts"))]
pub struct Activity {
    /// When.
    pub at: Timestamp,
    /// What: one sentence or less.
    pub change: crate::Change,
}

/// A moment: milliseconds since 1970 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(
    feature = "ts",
    derive(ts_rs::TS),
    ts(as = "f64", export_to = "model.ts")
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The present, by the machine's clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}
