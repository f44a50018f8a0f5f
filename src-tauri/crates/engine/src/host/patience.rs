use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use minitunnel_model::{LoadBalancer, Owner, ProfileName, ProfileStatus, Snapshot};
use tokio::time::{Instant, sleep_until};

use crate::engine::Handle;

/// How long an end waits for the next route or address to go: for an API server that does not answer.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// What comes of an end, as long as a route or an address of these profiles goes within each `patience`.
pub async fn patiently<T>(
    mut handle: Handle,
    names: &BTreeSet<ProfileName>,
    patience: Duration,
    end: impl Future<Output = T>,
) -> Option<T> {
    let mut end = pin!(end);
    let mut held = held(&handle.latest(), names);
    let mut deadline = Instant::now() + patience;
    loop {
        tokio::select! {
            biased;
            ended = &mut end => return Some(ended),
            Ok(snapshot) = handle.changed() => {
                let before = std::mem::replace(&mut held, self::held(&snapshot, names));
                if held < before {
                    deadline = Instant::now() + patience;
                }
            }
            () = sleep_until(deadline) => return None,
        }
    }
}

/// How many routes and services of these profiles have something of ours.
fn held(snapshot: &Snapshot, names: &BTreeSet<ProfileName>) -> usize {
    let statuses = names.iter().filter_map(|name| snapshot.profile(name));
    let of = |status: &ProfileStatus| {
        let groups = status.groups.iter().filter(|group| group.is_held());
        let routes: usize = groups.map(|group| group.routes.len()).sum();
        routes + status.load_balancers.iter().filter(is_ours).count() + status.left.len()
    };
    statuses.map(of).sum()
}

/// Whether a service has its address from us.
pub fn is_ours(service: &&Arc<LoadBalancer>) -> bool {
    service.owner == Owner::Us
}
