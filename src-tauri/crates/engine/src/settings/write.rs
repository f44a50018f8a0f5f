use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use minitunnel_model::Settings;
use toml_edit::{DocumentMut, Item, Value};

use super::{read, understand};
use crate::minikube;

/// The file as it is first written.
const TEMPLATE: &str = include_str!("settings.toml");

/// Why the settings can't be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// What is there is not to be lost.
    #[error("the settings are not saved: {0}")]
    Unreadable(String),
    /// The file or its folder can't be written.
    #[error("the settings can't be saved to {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// Writes what differs from the file, and leaves comments and everything else in it as they are.
///
/// # Errors
///
/// If the file can't be written, or can't be read and would be lost.
pub fn write(path: &Path, settings: &Settings) -> Result<(), WriteError> {
    let failed = |error| WriteError::Io {
        path: path.to_owned(),
        error,
    };
    let text = match minikube::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| {
            let path = path.display();
            WriteError::Unreadable(format!("{path} is no text in UTF-8: mend it"))
        })?,
        Err(minikube::ReadError::Missing(_)) => TEMPLATE.to_owned(),
        Err(error) => return Err(WriteError::Unreadable(error.to_string())),
    };
    let Ok(mut document) = text.parse::<DocumentMut>() else {
        let problems = read(path).problems;
        return Err(WriteError::Unreadable(problems.join("; ")));
    };
    let old = understand(&document, path).settings;
    for (key, old, new) in [
        (
            "start_with_cluster",
            old.start_with_cluster,
            settings.start_with_cluster,
        ),
        (
            "start_at_login",
            old.start_at_login,
            settings.start_at_login,
        ),
        ("notifications", old.notifications, settings.notifications),
    ] {
        if old != new {
            set(&mut document, key, Some(new.into()));
        }
    }
    for (key, old, new) in [
        ("minikube_home", &old.minikube_home, &settings.minikube_home),
        ("kubeconfig", &old.kubeconfig, &settings.kubeconfig),
    ] {
        if old != new {
            let text = new.as_ref().map(|path| path.to_string_lossy().into_owned());
            set(&mut document, key, text.map(Value::from));
        }
    }
    save(path, &document.to_string()).map_err(failed)
}

fn set(document: &mut DocumentMut, key: &str, value: Option<Value>) {
    let Some(mut value) = value else {
        document.remove(key);
        return;
    };
    match document.get_mut(key) {
        Some(Item::Value(old)) => {
            // The comment behind it stays.
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        _ => {
            document.insert(key, Item::Value(value));
        }
    }
}

/// Replaces a file at once, so that nobody ever reads half of it. One that is a link stays one.
pub(super) fn save(path: &Path, text: &str) -> io::Result<()> {
    let path = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = fs::File::create(&new)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        // What is left of it helps nobody.
        let _ = fs::remove_file(&new);
    }
    written
}
