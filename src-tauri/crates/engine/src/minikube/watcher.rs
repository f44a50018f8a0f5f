//! Tells when any file of minikube's may have changed.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout_at},
};

use super::{Home, Profiles, read_profiles, tunnels::Ends};

/// minikube saves by remove and rename: a change has ended when nothing more happened for this long.
const QUIET: Duration = Duration::from_millis(100);
/// A file that is written to without end is looked at this often.
const LONGEST: Duration = Duration::from_millis(500);

/// Links are followed this far: what is linked in a circle is no file.
const LINKS: usize = 8;

/// When a folder that can't be read is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Watches the minikube home and the kubeconfig; both may vanish and come back.
///
/// Folders are watched one by one, as the home also has caches and disks of many gigabytes that concern nobody. For one
/// that does not exist, the nearest folder above it is watched.
pub struct Watcher {
    /// The folders that hold what is read.
    folders: Box<dyn Fn() -> Vec<PathBuf> + Send>,
    watcher: RecommendedWatcher,
    /// What is watched, and which folder it was then: one that was made anew under its name needs a new watch.
    watched: BTreeMap<PathBuf, Identity>,
    shared: Arc<Shared>,
}

/// Sends the profiles as they are, and again whenever they are others, until the receiver is gone.
///
/// # Errors
///
/// If files can't be watched.
pub fn forward<T: Send + 'static>(
    home: Home,
    receiver: mpsc::Sender<T>,
    wrap: impl Fn(Profiles) -> T + Send + 'static,
) -> Result<(), WatchError> {
    let mut watcher = Watcher::new(&home)?;
    tokio::spawn(async move {
        let mut sent = None;
        let mut ends = Ends::default();
        loop {
            let profiles = read_profiles(&home);
            let tunnels = profiles.readable.values();
            let tunnels = tunnels.map(|files| &files.minikube_tunnels);
            let tunnels = tunnels.chain(profiles.minikube_tunnels.values()).flatten();
            let running = tunnels.filter(|tunnel| tunnel.running);
            ends.follow(running.map(|tunnel| tunnel.pid).collect());
            let unreadable = profiles.unreadable;
            if sent.as_ref() != Some(&profiles) {
                sent = Some(profiles.clone());
                if receiver.send(wrap(profiles)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = watcher.changed() => {}
                // What could not be read, for want of descriptors or of rights, gives no sign when it can be.
                () = sleep(AGAIN), if unreadable => {}
                () = ends.next() => {}
                () = receiver.closed() => return,
            }
        }
    });
    Ok(())
}

/// Files can't be watched.
#[derive(Debug, thiserror::Error)]
#[error(
    "changes of minikube's files can't be watched; if the system's inotify limits are reached, raise fs.inotify.max_user_instances"
)]
pub struct WatchError(#[from] notify::Error);

/// The files of a folder that are read. Beside them may be a machine's disk, which is written to without end.
const READ: [&str; 6] = [
    "ca.crt",
    "client.crt",
    "client.key",
    "config.json",
    "events.json",
    "tunnels.json",
];

/// Whether what is read of minikube's changes with a path: a profile or machine that comes or goes, or a file.
fn is_read(home: &Home, path: &Path) -> bool {
    let profiles_or_machines = [home.profiles(), home.machines()];
    path == home.kubeconfig
        || profiles_or_machines
            .iter()
            .any(|folder| path.parent() == Some(folder))
        || path.starts_with(&home.path) && READ.iter().any(|name| path.ends_with(name))
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watched = &self.watched;
        f.debug_struct("Watcher")
            .field("watched", watched)
            .finish_non_exhaustive()
    }
}

/// Whether something that is read changes with a path inside of a watched folder.
type IsRead = Box<dyn Fn(&Path) -> bool + Send + Sync>;

struct Shared {
    is_read: IsRead,
    changed: Notify,
    /// The folders whose changes count, existing or not.
    wanted: RwLock<Vec<PathBuf>>,
    /// Removed since the last look: an inode's number alone does not tell the folder that took its place.
    removed: Mutex<Vec<PathBuf>>,
}

impl Watcher {
    /// Begins to watch what is minikube's.
    pub fn new(home: &Home) -> Result<Self, WatchError> {
        let (home, of) = (home.clone(), home.clone());
        Self::over(move || folders(&home), move |path| is_read(&of, path))
    }

    /// Begins to watch a file, existing or not, and the one that it is a link to. Of a folder that is a link, it is the folder
    /// behind it that is watched, and not the link.
    pub(crate) fn of_file(path: PathBuf) -> Result<Self, WatchError> {
        let of = path.clone();
        let folders = move || {
            let files = with_linked(&path);
            let folders = files.iter().filter_map(|file| file.parent());
            folders.map(Path::to_owned).collect()
        };
        Self::over(folders, move |changed| {
            with_linked(&of).iter().any(|file| file == changed)
        })
    }

    fn over(
        wanted: impl Fn() -> Vec<PathBuf> + Send + 'static,
        is_read: impl Fn(&Path) -> bool + Send + Sync + 'static,
    ) -> Result<Self, WatchError> {
        let shared = Arc::new(Shared {
            is_read: Box::new(is_read),
            changed: Notify::default(),
            wanted: RwLock::default(),
            removed: Mutex::default(),
        });
        let events = shared.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| events.concerns(&event)) {
                events.changed.notify_one();
            }
        })?;
        let mut this = Self {
            folders: Box::new(wanted),
            watcher,
            watched: BTreeMap::new(),
            shared,
        };
        this.follow();
        Ok(this)
    }

    /// Waits for the next change, and for the end of the burst that it belongs to.
    ///
    /// What is read after it returns is at least as new as that change; nothing is missed between two calls.
    pub async fn changed(&mut self) {
        // A call that was dropped in the middle of a burst has not looked for new folders.
        if !self.follow() {
            self.shared.changed.notified().await;
        }
        let latest = Instant::now() + LONGEST;
        while timeout_at(
            latest.min(Instant::now() + QUIET),
            self.shared.changed.notified(),
        )
        .await
        .is_ok()
        {}
        self.follow();
    }

    /// Watches what exists now, until nothing new turned up while doing so; whether anything had.
    fn follow(&mut self) -> bool {
        let mut any = false;
        loop {
            // Taken out first: the thread that tells of events waits for this lock, and `unwatch` for that thread.
            let removed = std::mem::take(
                &mut *self
                    .shared
                    .removed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            for path in removed {
                if self.watched.remove(&path).is_some() {
                    let _ = self.watcher.unwatch(&path);
                }
            }
            let wanted = (self.folders)();
            let now: BTreeMap<PathBuf, Identity> =
                wanted.iter().filter_map(|folder| nearest(folder)).collect();
            self.shared
                .wanted
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .clone_from(&wanted);
            if now == self.watched {
                return any;
            }
            any = true;
            for (path, identity) in &self.watched {
                if now.get(path) != Some(identity) {
                    // It is gone, and its watch with it, or it is needed no more.
                    let _ = self.watcher.unwatch(path);
                }
            }
            for (path, identity) in &now {
                if self.watched.get(path) != Some(identity)
                    && let Err(error) = self.watcher.watch(path, RecursiveMode::NonRecursive)
                {
                    // One that is gone again: the folder above it tells, or the next round does.
                    if path.exists() {
                        tracing::error!(
                            path = %path.display(), %error,
                            "its changes can't be seen: if the limit of inotify is reached, raise fs.inotify.max_user_watches"
                        );
                    }
                }
            }
            self.watched = now;
        }
    }
}

impl Shared {
    fn concerns(&self, event: &notify::Event) -> bool {
        let read_only = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
        if read_only {
            return false;
        }
        if matches!(event.kind, EventKind::Remove(_)) {
            self.removed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(&event.paths);
        }
        let wanted = self.wanted.read().unwrap_or_else(PoisonError::into_inner);
        // An overrun names no path.
        event.paths.is_empty()
            || event.paths.iter().any(|path| {
                let on_the_way = wanted.iter().any(|folder| folder.starts_with(path));
                on_the_way || (self.is_read)(path)
            })
    }
}

/// The file and those that it is a link to, there or not, each in one spelling: a folder that is watched in two is watched
/// by neither when one is given up.
fn with_linked(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![in_real_folder(path)];
    while let Some(file) = files.last()
        && files.len() < LINKS
        && let Ok(next) = fs::read_link(file)
    {
        // An absolute one takes the folder's place.
        files.push(in_real_folder(&file.with_file_name(next)));
    }
    files
}

fn in_real_folder(path: &Path) -> PathBuf {
    let mut above = path.ancestors().skip(1);
    let real = above.find_map(|folder| {
        let rest = path.strip_prefix(folder).ok()?;
        Some(fs::canonicalize(folder).ok()?.join(rest))
    });
    real.unwrap_or_else(|| path.to_owned())
}

/// The folders that hold what is read.
fn folders(home: &Home) -> Vec<PathBuf> {
    let mut folders = vec![
        home.path.clone(),
        home.path.join("config"),
        home.profiles(),
        home.machines(),
    ];
    folders.extend(home.kubeconfig.parent().map(Path::to_owned));
    for parent in [home.profiles(), home.machines()] {
        let entries = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        folders.extend(
            entries
                .map(|entry| entry.path())
                .filter(|path| path.is_dir()),
        );
    }
    folders.sort();
    folders.dedup();
    folders
}

/// The folder itself, or the nearest above it that exists.
fn nearest(folder: &Path) -> Option<(PathBuf, Identity)> {
    folder.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        Some((path.to_owned(), identity(path).ok()?))
    })
}

#[cfg(unix)]
type Identity = (u64, u64);

#[cfg(not(unix))]
type Identity = Option<std::time::SystemTime>;

#[cfg(unix)]
fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(metadata.created().ok())
}

#[cfg(test)]
mod tests {
    use super::{super::Host, *};

    /// Only a watcher that misses a change reaches it.
    const WAIT: Duration = Duration::from_secs(10);

    async fn expect_change(watcher: &mut Watcher, what: &str) {
        tokio::time::timeout(WAIT, watcher.changed())
            .await
            .unwrap_or_else(|_| panic!("missed: {what}"));
    }

    fn setup() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home {
            path: dir.path().join("u/.minikube"),
            kubeconfig: dir.path().join("u/.kube/config"),
            host: Host::default(),
        };
        (dir, home)
    }

    fn write(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{}").unwrap();
    }

    #[tokio::test]
    async fn a_home_that_appears_vanishes_and_comes_back_is_followed() {
        let (_dir, home) = setup();
        let mut watcher = Watcher::new(&home).unwrap();
        for round in 0..3 {
            write(home.path.join("profiles/p/config.json"));
            expect_change(&mut watcher, &format!("the home's appearance {round}")).await;
            write(home.path.join("profiles/p/events.json"));
            expect_change(&mut watcher, &format!("a profile's file {round}")).await;
            fs::remove_dir_all(home.path.join("profiles")).unwrap();
            expect_change(&mut watcher, &format!("the end of all profiles {round}")).await;
            write(home.path.join("profiles/q/config.json"));
            expect_change(&mut watcher, &format!("another profile {round}")).await;
            write(home.path.join("machines/q/config.json"));
            expect_change(&mut watcher, &format!("its machine {round}")).await;
            fs::remove_dir_all(&home.path).unwrap();
            expect_change(&mut watcher, &format!("the home's end {round}")).await;
        }
    }

    #[tokio::test]
    async fn a_save_by_remove_and_rename_is_one_change() {
        let (_dir, home) = setup();
        let file = home.path.join("profiles/p/config.json");
        write(file.clone());
        let mut watcher = Watcher::new(&home).unwrap();
        write(home.path.join("profiles/p/new"));
        fs::remove_file(&file).unwrap();
        fs::rename(home.path.join("profiles/p/new"), &file).unwrap();
        expect_change(&mut watcher, "the save").await;
        // Reading causes no change, nor does the lock.
        fs::read(&file).unwrap();
        fs::read_dir(home.profiles()).unwrap().for_each(drop);
        write(home.path.join("profiles/p/.tunnel_lock"));
        assert!(
            tokio::time::timeout(3 * QUIET, watcher.changed())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn the_kubeconfig_is_watched_also_where_its_folder_is_made_later() {
        let (_dir, home) = setup();
        let mut watcher = Watcher::new(&home).unwrap();
        write(home.kubeconfig.clone());
        expect_change(&mut watcher, "the kubeconfig's appearance").await;
        fs::write(&home.kubeconfig, "clusters: []").unwrap();
        expect_change(&mut watcher, "the kubeconfig's change").await;
    }

    #[tokio::test]
    async fn what_happens_elsewhere_is_none_of_ours() {
        let (dir, home) = setup();
        let mut watcher = Watcher::new(&home).unwrap();
        write(dir.path().join("other/file"));
        fs::create_dir_all(home.path.join("profiles")).unwrap();
        expect_change(&mut watcher, "the home's appearance").await;
        write(home.path.join("machines/p/config.json"));
        expect_change(&mut watcher, "a machine").await;
        write(home.kubeconfig.with_file_name("cache"));
        expect_change(&mut watcher, "the kubeconfig's folder").await;
        write(dir.path().join("another/file"));
        // A virtual machine's disk, and what others keep beside the kubeconfig.
        write(home.path.join("machines/p/p.rawdisk"));
        write(home.path.join("profiles/p.lock/x"));
        expect_change(&mut watcher, "a folder among the profiles").await;
        write(home.kubeconfig.with_file_name("cache"));
        assert!(
            tokio::time::timeout(3 * QUIET, watcher.changed())
                .await
                .is_err()
        );
    }
}
