use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::fs::OFlags;

use crate::{
    error::ServeError,
    journal::{Journal, VERSION},
    system::System,
};

/// Where the helper's state is: it lives as long as the routes do, and nobody but root can write there.
pub(crate) const STATE_DIR: &str = "/run/minitunnel";

/// How long another helper may keep the lock: one that is idle ends within 5 s, and takes 2 s for calls in flight. Then
/// there are two, and the second gives up. Its client waits for 10 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// Above any journal of ours (a million routes of some 60 bytes): more is not read.
const LARGEST: u64 = 64 * 1024 * 1024;

/// The state folder, held alone.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    // The lock lives as long as this handle.
    _lock: File,
}

impl StateDir {
    /// Takes the folder for this process alone, after it has made it.
    pub(crate) fn take(path: &Path) -> Result<Self, ServeError> {
        Self::take_within(path, PATIENCE)
    }

    fn take_within(path: &Path, patience: Duration) -> Result<Self, ServeError> {
        let failed = |source| ServeError::State {
            path: path.to_owned(),
            source,
        };
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        if !meta.is_dir() || !is_private(&meta) {
            return Err(ServeError::UnsafeState(path.to_owned()));
        }
        let mut kept = OpenOptions::new();
        let kept = kept.read(true).write(true).create(true);
        let mut lock = open(&path.join("lock"), kept).map_err(failed)?;
        if !lock_within(&lock, patience).map_err(failed)? {
            let process = holder(&lock);
            return Err(ServeError::Busy { process });
        }
        lock.set_len(0).map_err(failed)?;
        write!(lock, "{}", std::process::id()).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Reads the journal of the helper before this one.
    pub(crate) fn load(&self) -> io::Result<Journal> {
        match read(&self.path.join("journal.json")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Journal::default()),
            read => read,
        }
    }

    /// Puts a journal aside that can't be read, and says so.
    pub(crate) fn put_aside(&self, problem: &io::Error) {
        let path = self.path.join("journal.json");
        let aside = self.path.join("journal.unreadable.json");
        let renamed = fs::rename(&path, &aside);
        eprintln!(
            "minitunnel-helper: {} can't be read ({problem}): what it held was removed, and it is kept as {} ({})",
            path.display(),
            aside.display(),
            renamed.map_or_else(|error| error.to_string(), |()| "done".to_owned()),
        );
    }
}

impl System for StateDir {
    /// It need not outlive the machine's end, as no route does.
    fn save(&self, journal: &Journal) -> io::Result<()> {
        let new = self.path.join("journal.json.new");
        let mut replaced = OpenOptions::new();
        let replaced = replaced.write(true).create(true).truncate(true);
        let mut file = open(&new, replaced)?;
        file.write_all(&serde_json::to_vec(journal)?)?;
        file.sync_all()?;
        fs::rename(new, self.path.join("journal.json"))
    }
}

/// Opens a file of the folder's, if it is root's own: no link is followed, and no pipe waited for.
fn open(path: &Path, how: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let how = how.mode(0o600).custom_flags(flags.bits().cast_signed());
    let file = how.open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() && is_private(&meta) {
        Ok(file)
    } else {
        Err(io::Error::other("it is no file of root's alone"))
    }
}

/// Whether nobody else can read or write it.
fn is_private(meta: &Metadata) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0
}

fn read(path: &Path) -> io::Result<Journal> {
    let file = open(path, OpenOptions::new().read(true))?;
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    let journal: Journal = serde_json::from_slice(&text)?;
    if journal.version != VERSION {
        return Err(io::Error::other("it is of another version"));
    }
    Ok(journal)
}

/// Who holds the lock, for a message: a number that can't be read is left out.
fn holder(lock: &File) -> String {
    let mut text = [0; 20];
    let length = lock.read_at(&mut text, 0).unwrap_or_default();
    let process = std::str::from_utf8(&text[..length]).unwrap_or_default();
    let process = process.trim().parse::<u32>();
    process.map_or_else(|_| String::new(), |pid| format!(" (process {pid})"))
}

/// Waits for the lock in a thread of its own, as flock(2) itself has no time-out. `false`: someone else keeps it.
fn lock_within(lock: &File, limit: Duration) -> io::Result<bool> {
    match lock.try_lock() {
        Ok(()) => return Ok(true),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let other = holder(lock);
    eprintln!(
        "minitunnel-helper: another minitunnel helper{other} is at work: waiting for its end"
    );
    let (done, wait) = mpsc::channel();
    let same = lock.try_clone()?;
    // Where the time is over the process ends, and the thread with it.
    thread::spawn(move || done.send(same.lock()));
    match wait.recv_timeout(limit) {
        Ok(locked) => locked.map(|()| true),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, time::UNIX_EPOCH};

    use minitunnel_base::Route;
    use proptest::prelude::*;

    use super::*;
    use crate::journal::{Client, Guard, Owner, Record};

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        (root, path)
    }

    fn example() -> Journal {
        let routes: BTreeSet<Route> = [Route {
            destination: "10.96.0.0/12".parse().unwrap(),
            gateway: "192.168.49.2".parse().unwrap(),
        }]
        .into();
        let owner = Owner::Bus {
            bus: "0123".to_owned(),
            name: ":1.42".to_owned(),
        };
        let record = Record {
            client: Client {
                owner: owner.clone(),
                uid: 1000,
                pid: 42,
                started: 99,
            },
            profile: "minikube".parse().unwrap(),
            generation: 7,
            since: UNIX_EPOCH,
            routes: routes.clone(),
            guard: Some(Guard {
                before: routes.clone(),
                until: UNIX_EPOCH,
            }),
        };
        Journal {
            generation: 7,
            records: vec![record.clone()],
            applying: Some(record),
            grants: [owner].into(),
            ..Journal::default()
        }
    }

    #[test]
    fn the_next_helper_reads_what_this_one_wrote() {
        let (_root, path) = folder();
        let dir = StateDir::take(&path).unwrap();
        assert_eq!(dir.load().unwrap(), Journal::default());
        dir.save(&example()).unwrap();
        drop(dir);
        let next = StateDir::take(&path).unwrap();
        assert_eq!(next.load().unwrap(), example());
    }

    #[test]
    fn the_folder_and_the_journal_are_roots_alone() {
        let (_root, path) = folder();
        let dir = StateDir::take(&path).unwrap();
        dir.save(&example()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("journal.json")), 0o600);
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let (_root, path) = folder();
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            StateDir::take(&path),
            Err(ServeError::UnsafeState(_))
        ));
    }

    #[test]
    fn a_link_in_the_folders_place_is_refused() {
        let (root, path) = folder();
        let elsewhere = root.path().join("elsewhere");
        DirBuilder::new().mode(0o700).create(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(matches!(
            StateDir::take(&path),
            Err(ServeError::UnsafeState(_))
        ));
    }

    #[test]
    fn a_second_helper_gives_up_and_names_the_first() {
        let (_root, path) = folder();
        let first = StateDir::take(&path).unwrap();
        let error = StateDir::take_within(&path, Duration::ZERO)
            .unwrap_err()
            .to_string();
        let named = format!("(process {})", std::process::id());
        assert!(error.contains(&named), "{error}");
        drop(first);
    }

    #[test]
    fn a_second_helper_waits_for_an_ending_one() {
        let (_root, path) = folder();
        let first = StateDir::take(&path).unwrap();
        let second = thread::spawn({
            let path = path.clone();
            move || StateDir::take(&path).is_ok()
        });
        drop(first);
        assert!(second.join().unwrap());
    }

    #[test]
    fn an_unreadable_journal_is_put_aside() {
        for text in [
            "",
            "{",
            "[]",
            "{\"version\":1,\"generation\":0,\"records\":[],\"applying\":null,\"grants\":[]}",
        ] {
            let (_root, path) = folder();
            let dir = StateDir::take(&path).unwrap();
            fs::write(path.join("journal.json"), text).unwrap();
            let problem = dir.load().unwrap_err();
            let kept = fs::read_to_string(path.join("journal.json")).unwrap();
            assert_eq!(kept, text, "its routes are not removed yet");
            dir.put_aside(&problem);
            assert_eq!(
                fs::read_to_string(path.join("journal.unreadable.json")).unwrap(),
                text
            );
        }
    }

    proptest! {
        #[test]
        fn no_journal_however_damaged_stops_the_helper(at in 0usize..400, byte: u8) {
            let (_root, path) = folder();
            let dir = StateDir::take(&path).unwrap();
            let mut text = serde_json::to_vec(&example()).unwrap();
            let at = at % text.len();
            text[at] = byte;
            fs::write(path.join("journal.json"), text).unwrap();
            let _ = dir.load();
        }
    }
}
