//! The folder of a lab, and those that killed runs left.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Once;

use tempfile::TempDir;

use crate::Result;

/// How the folders of labs begin.
const PREFIX: &str = "lab-";
/// Locked for as long as the lab's run lives, however that ends.
const LOCK: &str = "lock";

/// A lab's folder: it is removed when dropped, and by the next run where this one was killed.
#[derive(Debug)]
pub(super) struct Folder {
    dir: TempDir,
    /// Given up after the folder is gone.
    _lock: File,
}

impl Folder {
    pub(super) fn new() -> Result<Self> {
        static REMOVED: Once = Once::new();
        REMOVED.call_once(|| remove_left(&std::env::temp_dir()));
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o755))
            .tempdir()?;
        // It gets its name when it is locked: a lock file that nobody holds is a dead run's.
        let unnamed = dir.path().join("lock.new");
        let lock = File::create(&unnamed)?;
        lock.lock()?;
        fs::rename(unnamed, dir.path().join(LOCK))?;
        Ok(Self { dir, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes the folders of labs whose runs are provably dead; what can't be removed is told of, and costs no test.
pub(super) fn remove_left(parent: &Path) {
    let folders = fs::read_dir(parent).into_iter().flatten().flatten();
    for folder in folders.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let Ok(lock) = File::open(folder.path().join(LOCK)) else {
            continue;
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => continue,
        }
        match fs::remove_dir_all(folder.path()) {
            // Another run may remove the same.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                eprintln!("{} of a dead run stays: {error}", folder.path().display());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_of_a_dead_run_goes_and_that_of_a_living_one_stays() -> Result {
        let parent = tempfile::tempdir()?;
        let make = |name: &str| -> Result<File> {
            fs::create_dir_all(parent.path().join(name).join("home/alice"))?;
            Ok(File::create(parent.path().join(name).join(LOCK))?)
        };
        let living = make("lab-living")?;
        living.lock()?;
        drop(make("lab-dead")?);
        drop(make("other")?);
        // A run that is about to lock it.
        fs::create_dir(parent.path().join("lab-new"))?;

        remove_left(parent.path());
        let mut left: Vec<_> = fs::read_dir(parent.path())?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<_>>()?;
        left.sort();
        assert_eq!(left, ["lab-living", "lab-new", "other"]);
        Ok(())
    }
}
