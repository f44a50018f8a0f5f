//! minikube's files.

use std::{
    cell::LazyCell,
    fs,
    path::{Path, PathBuf},
};

use minitunnel_engine::minikube::{
    Home, Host, ProfileFiles, Profiles, active_profile, read_profiles,
};
use minitunnel_model::{Profile, ProfileName};
use serde_json::Value;
use tempfile::TempDir;

use crate::rules::{is_name, is_sentence};

/// The files of an archive, and what they are in a home of one profile `p` with two nodes.
const FILES: [&str; 11] = [
    "kubeconfig",
    "minikube/ca.crt",
    "minikube/config/config.json",
    "minikube/machines/p/config.json",
    "minikube/machines/p-m02/config.json",
    "minikube/profiles/p/ca.crt",
    "minikube/profiles/p/client.crt",
    "minikube/profiles/p/client.key",
    "minikube/profiles/p/config.json",
    "minikube/profiles/p/events.json",
    "minikube/tunnels.json",
];
const TUNNELS: &str = FILES[10];

thread_local! {
    static FOLDER: LazyCell<Folder> = LazyCell::new(Folder::new);
}

/// A folder that holds a minikube home and a kubeconfig.
struct Folder {
    root: TempDir,
    home: Home,
}

impl Folder {
    fn new() -> Self {
        // In memory, where there is such a place: it is written anew for every input.
        let root = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .expect("a folder for the files");
        let home = Home {
            path: root.path().join("minikube"),
            kubeconfig: root.path().join("kubeconfig"),
            host: Host::default(),
        };
        let folder = Self { root, home };
        for file in FILES {
            let parent = folder.path(file);
            let parent = parent.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(parent).expect("a folder for the files");
        }
        folder
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    /// Makes these all the files that there are.
    fn fill(&self, archive: &[(&str, &[u8])]) {
        for file in FILES {
            let path = self.path(file);
            match archive.iter().rfind(|(name, _)| *name == file) {
                Some((_, text)) => fs::write(path, text).expect("a file can be written"),
                None => drop(fs::remove_file(path)),
            }
        }
    }
}

/// The files of a home with the profile `p`: `-- minikube/profiles/p/config.json --`, its text, the next one's name, and so
/// on. Others than its files are none.
///
/// However they are, the profile is there, or there is a sentence that says what is wrong; and it can be shown.
pub fn config(data: &[u8]) -> bool {
    FOLDER.with(|folder| {
        folder.fill(&unpack(data));
        let profiles = read_profiles(&folder.home);
        assert!(!profiles.unreadable);
        if let Some(name) = active_profile(&folder.home) {
            assert!(is_name(name.as_str()), "{name:?}");
        }
        let Profiles {
            readable, broken, ..
        } = profiles;
        for profile in &broken {
            assert_eq!(profile.name, "p");
            assert!(is_sentence(&profile.problem), "{:?}", profile.problem);
        }
        assert_eq!(readable.len() + broken.len(), 1);
        for (name, files) in &readable {
            check(name, files);
        }
        !readable.is_empty()
    })
}

fn check(name: &ProfileName, files: &ProfileFiles) {
    let profile = &files.profile;
    assert_eq!((name.as_str(), &profile.name), ("p", name));
    assert_ne!(profile.driver, "");
    for net in &profile.service_cidrs {
        assert_eq!(net.addr(), net.network(), "a network has no host bits");
    }
    // Names of nodes are the profile's with a suffix.
    assert!(profile.nodes.iter().all(|node| node.name.starts_with('p')));
    match (&files.credentials, &files.problem) {
        (Some(credentials), None) => {
            assert_eq!(Some(&credentials.server), profile.endpoint.as_ref());
            for part in [&credentials.ca, &credentials.cert, &credentials.key] {
                assert!(!part.is_empty());
            }
        }
        (None, Some(problem)) => assert!(is_sentence(problem), "{problem:?}"),
        both => panic!("credentials and a problem: {both:?}"),
    }
    // As it goes over the session's socket.
    let text = serde_json::to_vec(profile).expect("a profile is shown as JSON");
    let back: Profile = serde_json::from_slice(&text).expect("a shown profile can be read");
    assert_eq!(back, *profile);
}

/// The `tunnels.json` of a home with the profile `p`: nothing is read out of it that is not there.
pub fn registry(data: &[u8]) -> bool {
    FOLDER.with(|folder| {
        let config = br#"{"Driver":"docker"}"#;
        folder.fill(&[("minikube/profiles/p/config.json", config), (TUNNELS, data)]);
        let profiles = read_profiles(&folder.home).readable;
        let read: Vec<_> = profiles
            .values()
            .flat_map(|files| &files.minikube_tunnels)
            .collect();
        let entries = serde_json::from_slice(data).unwrap_or(Value::Null);
        let of_p = |entry: &&Value| {
            let name = entry.get("MachineName").or_else(|| entry.get(1));
            name == Some(&"p".into())
        };
        let entries: Vec<_> = entries
            .as_array()
            .into_iter()
            .flatten()
            .filter(of_p)
            .collect();
        assert_eq!(profiles.len(), 1);
        assert!(read.len() <= entries.len());
        for tunnel in &read {
            let net = tunnel.route.destination;
            assert_eq!(net.addr(), net.network(), "a network has no host bits");
            assert!(
                entries.iter().any(|entry| {
                    let pid = entry.get("Pid").or_else(|| entry.get(2));
                    pid == Some(&tunnel.pid.into())
                }),
                "{tunnel:?}"
            );
        }
        !read.is_empty()
    })
}

/// Reads an archive (in the manner of Go's txtar): what follows the line `-- NAME --` is the file NAME.
fn unpack(data: &[u8]) -> Vec<(&str, &[u8])> {
    let mut files: Vec<(&str, &[u8])> = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let end = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at(end);
        match head(line) {
            Some(name) => files.push((name, &after[..0])),
            None => {
                if let Some((_, text)) = files.last_mut() {
                    // The lines of a file follow each other in the archive.
                    let from = data.len() - rest.len() - text.len();
                    *text = &data[from..from + text.len() + line.len()];
                }
            }
        }
        rest = after;
    }
    files
}

fn head(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    line.strip_prefix("-- ")?.strip_suffix(" --")
}
