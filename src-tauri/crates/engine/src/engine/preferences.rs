//! The user's settings, and what else is the desktop's and no tunnel's.

use std::path::{Path, PathBuf};

use minitunnel_model::{Settings, Snapshot};
use tokio::sync::mpsc;

use super::{Answer, OpenWindow};
use crate::{
    minikube::WatchError,
    settings::{self, Read, set_autostart},
};

/// The tray's program.
const TRAY: &str = "minitunnel-tray";

pub(super) struct Preferences {
    path: Option<PathBuf>,
    read: Read,
    window: Option<OpenWindow>,
}

impl Preferences {
    /// Reads the file, and tells of its changes.
    pub(super) fn new(
        path: Option<PathBuf>,
        window: Option<OpenWindow>,
    ) -> Result<(Self, mpsc::Receiver<Read>), WatchError> {
        let (changed, settled) = mpsc::channel(1);
        // Watched before it is read: no change falls between.
        if let Some(path) = &path {
            settings::forward(path.clone(), changed)?;
        }
        let mut this = Self {
            path,
            read: Read::default(),
            window,
        };
        if let Some(path) = &this.path {
            this.take(settings::read(path));
        }
        Ok((this, settled))
    }

    pub(super) fn show(&self, snapshot: &mut Snapshot) {
        snapshot.settings = self.read.settings.clone();
        snapshot.settings_problems.clone_from(&self.read.problems);
    }

    /// Takes in the file as it is now, by whomever it was changed.
    pub(super) fn take(&mut self, read: Read) {
        if read == self.read {
            return;
        }
        for problem in &read.problems {
            tracing::warn!("{problem}");
        }
        let on = read.settings.start_at_login;
        let before = std::mem::replace(&mut self.read, read);
        if on != before.settings.start_at_login
            && let Err(problem) = self.start_at_login(on)
        {
            tracing::error!("{problem}");
            self.read.problems.push(problem);
        }
    }

    /// Writes the file.
    pub(super) fn configure(&mut self, settings: Settings) -> Answer {
        let Some(path) = self.path.clone() else {
            return Err("there is no home folder to keep settings in: set HOME".into());
        };
        // What can't be done is not written, and what can't be written is not done.
        self.start_at_login(settings.start_at_login)?;
        if let Err(error) = settings::write(&path, &settings) {
            self.start_at_login(self.read.settings.start_at_login)?;
            return Err(error.to_string());
        }
        self.read = settings::read(&path);
        Ok(())
    }

    fn start_at_login(&self, on: bool) -> Answer {
        // <config>/minitunnel/settings.toml
        let config = self
            .path
            .as_deref()
            .and_then(|path| path.ancestors().nth(2));
        let Some(config) = config else {
            return Ok(());
        };
        let this = std::env::current_exe().ok();
        let beside = this.as_deref().map(|this| this.with_file_name(TRAY));
        let tray = beside.as_deref().filter(|beside| beside.is_file());
        set_autostart(config, tray, on).map_err(|error| {
            let folder = config.join("autostart");
            let verb = if on { "made" } else { "removed" };
            format!(
                "the entry that starts the tray at login can't be {verb} in {}: {error}",
                Path::display(&folder)
            )
        })
    }

    pub(super) fn open_window(&self) -> Answer {
        match &self.window {
            Some(OpenWindow(open)) => open(),
            None => Err(
                "this session has no desktop: it is hosted by `minitunnel` in a terminal or in the background; start minitunnel-window by itself"
                    .into(),
            ),
        }
    }
}
