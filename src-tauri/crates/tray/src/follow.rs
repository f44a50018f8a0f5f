//! Starting tunnels with their clusters.

use std::collections::BTreeSet;

use minitunnel_model::{
    ClusterState, Command, ProfileName, ProfileStatus, Reach, Snapshot, TargetState,
};

/// Which tunnels are the user's own business for now.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    /// Those that were up when last seen.
    up: BTreeSet<ProfileName>,
    /// Those that were brought down since their cluster began.
    declined: BTreeSet<ProfileName>,
}

impl Follower {
    /// What to ask for, so that tunnels come up with their clusters. Nobody is asked for consent.
    ///
    /// One that the user has brought down stays so until its cluster has been stopped: minikube then takes the cluster's
    /// entry out of the kubeconfig.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot) -> Vec<Command> {
        let was_up = std::mem::take(&mut self.up);
        let mut commands = Vec::new();
        let mut known = BTreeSet::new();
        for status in &snapshot.profiles {
            let name = &status.profile.name;
            if status.profile.endpoint.is_some() {
                known.insert(name.clone());
            }
            if status.target == TargetState::Up {
                self.up.insert(name.clone());
                self.declined.remove(name);
                continue;
            }
            if was_up.contains(name) {
                self.declined.insert(name.clone());
            }
            if snapshot.settings.start_with_cluster
                && can_start(status)
                && !self.declined.contains(name)
            {
                let profile = name.clone();
                commands.push(Command::Resume { profile });
            }
        }
        self.declined.retain(|name| known.contains(name));
        commands
    }
}

fn can_start(status: &ProfileStatus) -> bool {
    status.cluster == ClusterState::Running
        && matches!(status.profile.reach, Reach::Routed | Reach::Local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{name, snapshot, status};

    fn resume(profile: &str) -> Command {
        let profile = name(profile);
        Command::Resume { profile }
    }

    fn running(profile: &str, target: TargetState) -> ProfileStatus {
        ProfileStatus {
            cluster: ClusterState::Running,
            ..status(profile, target)
        }
    }

    fn told(profiles: &[ProfileStatus], on: bool) -> Snapshot {
        let mut snapshot = snapshot(profiles);
        snapshot.settings.start_with_cluster = on;
        snapshot
    }

    #[test]
    fn nothing_starts_until_the_user_says_so_and_only_what_runs_and_can_be_reached() {
        let mut follower = Follower::default();
        let stopped = status("stopped", TargetState::Down);
        let mut forwarded = running("forwarded", TargetState::Down);
        forwarded.profile.reach = Reach::Forwarded {
            reason: "ports".into(),
        };
        let profiles = [running("a", TargetState::Down), forwarded, stopped];
        assert_eq!(follower.follow(&told(&profiles, false)), []);
        assert_eq!(follower.follow(&told(&profiles, true)), [resume("a")]);
    }

    #[test]
    fn what_the_user_has_stopped_stays_so_until_its_cluster_was_stopped() {
        let mut follower = Follower::default();
        let up = told(&[running("a", TargetState::Up)], true);
        let down = told(&[running("a", TargetState::Down)], true);
        assert_eq!(follower.follow(&up), []);
        for _ in 0..2 {
            assert_eq!(follower.follow(&down), []);
        }
        // A server that is silent for a while is no cluster that was stopped.
        let mut silent = down.clone();
        silent.profiles[0].cluster = ClusterState::Stopped {
            reason: "it hangs".into(),
        };
        assert_eq!(follower.follow(&silent), []);
        assert_eq!(follower.follow(&down), []);
        let mut stopped = silent;
        stopped.profiles[0].profile.endpoint = None;
        assert_eq!(follower.follow(&stopped), []);
        assert_eq!(follower.follow(&down), [resume("a")]);
    }

    #[test]
    fn a_profile_that_was_deleted_and_made_anew_is_another_one() {
        let mut follower = Follower::default();
        follower.follow(&told(&[running("a", TargetState::Up)], true));
        let down = told(&[running("a", TargetState::Down)], true);
        assert_eq!(follower.follow(&down), []);
        follower.follow(&told(&[], true));
        assert_eq!(follower.follow(&down), [resume("a")]);
    }
}
