//! The signals that end a command in order, and the one that stops it for a while.

use std::sync::Arc;

use anyhow::Context as _;
use rustix::process::{Signal as Number, getpid, kill_process};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::screen::{Screen, Terminal};

/// Ctrl-C, Ctrl-\\, SIGTERM, a closed terminal; and Ctrl-Z where a view has to go before.
pub(crate) struct Signals {
    ends: [Signal; 4],
    /// What Ctrl-Z sends, and the terminal that is given back before this process stops. Once caught it is ours for good.
    stop: Option<(Signal, Arc<Terminal>)>,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("signals can't be caught");
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [interrupt, quit, terminate, hangup] = kinds.map(catch);
        Ok(Self {
            ends: [interrupt?, quit?, terminate?, hangup?],
            stop: None,
        })
    }

    /// Gives a screen's terminal back whenever this process is stopped by it.
    pub(crate) fn guard(&mut self, screen: &Screen) {
        let stop = signal(SignalKind::from_raw(Number::TSTP.as_raw()));
        self.stop = stop.ok().map(|stop| (stop, screen.terminal()));
    }

    /// Waits for one that ends the command.
    pub(crate) async fn next(&mut self) {
        let [interrupt, quit, terminate, hangup] = &mut self.ends;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return,
                _ = quit.recv() => return,
                _ = terminate.recv() => return,
                _ = hangup.recv() => return,
                () = stop(&mut self.stop) => {}
            }
        }
    }
}

/// Waits for Ctrl-Z, and stops this process as it would have without us.
async fn stop(stop: &mut Option<(Signal, Arc<Terminal>)>) {
    let Some((stopped, terminal)) = stop else {
        return std::future::pending().await;
    };
    stopped.recv().await;
    terminal.leave();
    // Ours alone: the shell's job control has told everybody else. It stops here until the shell goes on.
    let _ = kill_process(getpid(), Number::STOP);
}
