//! What happens to some profiles: a line for each thing, or a live view in a terminal.

use std::{collections::BTreeSet, sync::Arc};

use minitunnel_engine::engine::{Ended, Handle};
use minitunnel_model::{Change, ProfileName, Snapshot, TunnelState, WaitingFor, changes};

use crate::{
    out::say,
    screen::{Screen, disturbed},
    view::{Frame, view},
};

/// Tells what happens to some profiles.
pub(crate) struct Printer {
    pub(crate) handle: Handle,
    /// What has been told, by lines or by the view.
    pub(crate) seen: Arc<Snapshot>,
    /// What the lines so far have told.
    told: Arc<Snapshot>,
    names: BTreeSet<ProfileName>,
    screen: Option<Screen>,
}

impl Printer {
    pub(crate) fn new(mut handle: Handle, names: &BTreeSet<ProfileName>) -> Self {
        let seen = handle.latest();
        Self {
            told: seen.clone(),
            seen,
            handle,
            names: names.clone(),
            screen: None,
        }
    }

    /// Shows a live view there, once there is more to see than a beginning.
    pub(crate) fn on(self, screen: Option<Screen>) -> Self {
        Self { screen, ..self }
    }

    /// Waits for a change, and tells it.
    pub(crate) async fn next(&mut self) -> Result<(), Ended> {
        loop {
            tokio::select! {
                new = self.handle.changed() => {
                    self.tell(new?);
                    return Ok(());
                }
                () = disturbed(&mut self.screen) => self.tell(self.seen.clone()),
            }
        }
    }

    /// Tells what has changed already.
    pub(crate) fn catch_up(&mut self) {
        let new = self.handle.latest();
        self.tell(new);
    }

    /// Tells what has changed already, and of the tunnels that did not change what they are.
    pub(crate) fn catch_up_with_all(&mut self) {
        let before = self.seen.clone();
        self.catch_up();
        if !Arc::ptr_eq(&self.told, &self.seen) {
            return;
        }
        let now = self.seen.clone();
        for name in &self.names {
            if let (Some(before), Some(now)) = (before.profile(name), now.profile(name))
                && before.tunnel == now.tunnel
                && now.tunnel != TunnelState::Disconnected
            {
                let (profile, tunnel) = (name.clone(), now.tunnel.clone());
                print(&Change::Tunnel { profile, tunnel });
            }
        }
    }

    /// Goes on in lines, which tell first what the view has shown.
    pub(crate) fn end_view(&mut self) {
        self.screen = None;
        self.tell_in_lines();
    }

    fn tell(&mut self, new: Arc<Snapshot>) {
        self.seen = new;
        if !self.draw() {
            self.tell_in_lines();
        }
    }

    /// Shows the view; false if it is no time for one.
    fn draw(&mut self) -> bool {
        let Some(screen) = &mut self.screen else {
            return false;
        };
        let statuses = self.names.iter().filter_map(|name| self.seen.profile(name));
        let tunnels: Vec<_> = statuses.map(|status| &status.tunnel).collect();
        // polkit may ask in this terminal.
        let asking = |tunnel: &&TunnelState| {
            let on = WaitingFor::Dialog;
            *tunnel == &TunnelState::Waiting { on }
        };
        let worth_a_view = |tunnel: &&TunnelState| {
            matches!(
                tunnel,
                TunnelState::Connected { .. } | TunnelState::Waiting { .. }
            )
        };
        let drawn = !tunnels.iter().any(asking)
            && (screen.is_entered() || tunnels.iter().any(worth_a_view))
            && screen.show(|frame| {
                let frame = Frame {
                    only: Some(&self.names),
                    hint: "Ctrl-C brings it down",
                    ..frame
                };
                view(&self.seen, &frame)
            });
        if !drawn {
            screen.leave();
        }
        drawn
    }

    fn tell_in_lines(&mut self) {
        let new = self.seen.clone();
        for change in changes(&self.told, &new) {
            let name = change.profile();
            if !self.names.contains(name) {
                continue;
            }
            print(&change);
            if matches!(change, Change::Gone { .. }) && new.wants(name) {
                say!(
                    "    its tunnel comes up again when the profile does (`minikube start -p {name}`)"
                );
            }
        }
        self.told = new;
    }
}

fn print(change: &Change) {
    say!("{}: {change}", change.profile());
    let conflicts = match change {
        Change::Tunnel {
            tunnel: TunnelState::Blocked { conflicts },
            ..
        } => conflicts.as_slice(),
        Change::Overlapped { conflict, .. } => std::slice::from_ref(conflict),
        _ => &[],
    };
    for way in conflicts.iter().flat_map(|conflict| &conflict.ways_out) {
        say!("    {way}");
    }
}
