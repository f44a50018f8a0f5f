//! The user's settings: one file, read tolerantly, watched, and written so that its comments stay.

mod autostart;
mod write;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use minitunnel_model::Settings;
use tokio::sync::mpsc;
use toml_edit::{DocumentMut, Item};

use crate::{
    minikube::{self, ReadError, WatchError, Watcher},
    shown::shown,
};

pub use autostart::set_autostart;
pub use write::{WriteError, write};

/// What a file of settings says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The settings, with the default in the place of each bad value.
    pub settings: Settings,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// The user's own folder for configuration (XDG Base Directory Specification), if the user has a home folder.
pub fn config_folder(lookup: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| {
        let path = PathBuf::from(lookup(name)?);
        path.is_absolute().then_some(path)
    };
    folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))
}

/// The path of the file.
pub fn path(lookup: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    Some(config_folder(lookup)?.join("minitunnel/settings.toml"))
}

/// Reads the file; none is all defaults.
pub fn read(path: &Path) -> Read {
    let bytes = match minikube::read(path) {
        Ok(bytes) => bytes,
        Err(ReadError::Missing(_)) => return Read::default(),
        Err(error) => return nothing(format!("{error}: the default settings hold")),
    };
    let text = String::from_utf8_lossy(&bytes);
    match text.parse::<DocumentMut>() {
        Ok(document) => understand(&document, path),
        Err(error) => {
            let place = path.display();
            let line = error
                .span()
                .map(|span| 1 + text[..span.start].matches('\n').count());
            let line = line
                .map(|line| format!(" in line {line}"))
                .unwrap_or_default();
            let what = error
                .message()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            let what = shown(&what);
            nothing(format!(
                "{place} is no TOML{line} ({what}): mend it; until then the default settings hold"
            ))
        }
    }
}

fn nothing(problem: String) -> Read {
    Read {
        settings: Settings::default(),
        problems: vec![problem],
    }
}

fn understand(document: &DocumentMut, path: &Path) -> Read {
    let mut read = Read::default();
    let Read { settings, problems } = &mut read;
    for (key, item) in document.iter() {
        let wrong = match key {
            "start_with_cluster" => flag(item, &mut settings.start_with_cluster),
            "start_at_login" => flag(item, &mut settings.start_at_login),
            "notifications" => flag(item, &mut settings.notifications),
            "minikube_home" => absolute(item, &mut settings.minikube_home),
            "kubeconfig" => absolute(item, &mut settings.kubeconfig),
            _ => Some("is no setting of minitunnel's: remove it".to_owned()),
        };
        problems
            .extend(wrong.map(|wrong| format!("`{}` in {} {wrong}", shown(&key), path.display())));
    }
    read
}

/// Takes the value, or says what is wrong with it.
fn flag(item: &Item, into: &mut bool) -> Option<String> {
    match item.as_bool() {
        Some(value) => {
            *into = value;
            None
        }
        None => Some(format!(
            "is {}, and can only be true or false: {into} holds",
            value(item)
        )),
    }
}

/// Takes the path, or says what is wrong with it.
fn absolute(item: &Item, into: &mut Option<PathBuf>) -> Option<String> {
    match item.as_str().map(PathBuf::from) {
        Some(path) if path.is_absolute() => {
            *into = Some(path);
            None
        }
        _ => Some(format!(
            "is {}, and can only be a path in quotes that begins with /: the environment's holds",
            value(item)
        )),
    }
}

fn value(item: &Item) -> String {
    match item.as_value() {
        Some(value) => shown(&value.to_string().trim()),
        None => "a table".into(),
    }
}

/// Sends what the file says whenever it may have changed, until the receiver is gone.
///
/// # Errors
///
/// If files can't be watched.
pub(crate) fn forward(path: PathBuf, receiver: mpsc::Sender<Read>) -> Result<(), WatchError> {
    let mut watcher = Watcher::of_file(path.clone())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = watcher.changed() => {}
                () = receiver.closed() => return,
            }
            // Also what is the same as before: the session may have written something else meanwhile.
            if receiver.send(read(&path)).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests;
