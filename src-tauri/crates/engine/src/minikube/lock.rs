//! minikube's `.tunnel_lock`, held as minikube holds it: whoever has it is the profile's only tunnel.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
};

use minitunnel_model::ProfileName;
use tokio::sync::oneshot;

use super::{Home, STACK};

/// The lock, held until it is dropped (flock; LockFileEx on Windows, as minikube's own).
#[derive(Debug)]
pub struct TunnelLock {
    _file: File,
}

impl TunnelLock {
    /// Takes the lock if nobody has it; `None` if somebody does.
    ///
    /// The file is created where it is absent, but its folder is not: that is an error, [`io::ErrorKind::NotFound`].
    pub fn try_acquire(home: &Home, profile: &ProfileName) -> io::Result<Option<Self>> {
        let path = path(home, profile);
        loop {
            let file = open(&path)?;
            match file.try_lock() {
                Ok(()) if is_still(&file, &path)? => return Ok(Some(Self { _file: file })),
                // Somebody put another file in its place meanwhile, and may lock that.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Waits until the lock is free and takes it; dropping the future stops the waiting.
    ///
    /// A thread of its own sits in the system call, which nothing can interrupt: after a cancelled wait it stays until the
    /// lock is released, takes it, sees that nobody wants it, and gives it back at once.
    pub async fn acquire(home: &Home, profile: &ProfileName) -> io::Result<Self> {
        let path = path(home, profile);
        let (answer, acquired) = oneshot::channel();
        thread::Builder::new()
            .name("tunnel-lock".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let lock = wait(&path, || answer.is_closed());
                // A receiver that is gone drops the lock with the message.
                let _ = answer.send(lock);
            })?;
        acquired.await.unwrap_or_else(|_| {
            Err(io::Error::other(
                "the thread that waited for the tunnel lock ended",
            ))
        })
    }
}

/// The process that holds a profile's tunnel lock, where the system tells (Linux: `/proc/locks`).
pub fn lock_owner(home: &Home, profile: &ProfileName) -> Option<u32> {
    owner(&path(home, profile))
}

fn path(home: &Home, profile: &ProfileName) -> PathBuf {
    home.profiles().join(profile.as_str()).join(".tunnel_lock")
}

fn wait(path: &Path, cancelled: impl Fn() -> bool) -> io::Result<TunnelLock> {
    loop {
        let file = open(path)?;
        file.lock()?;
        // A cancelled wait must not go on to wait for a file that took this one's place.
        if cancelled() || is_still(&file, path)? {
            return Ok(TunnelLock { _file: file });
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // As minikube creates it; a FIFO in its place is opened without waiting.
        options
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    options.open(path)
}

/// Whether the path still names the locked file.
#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;

    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(now) => Ok((now.dev(), now.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Windows lets nobody replace a file that is open.
#[cfg(not(unix))]
fn is_still(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Reads lines such as `1: FLOCK  ADVISORY  WRITE 4242 08:01:1234 0 EOF`: the numbers are pid, device and inode.
#[cfg(target_os = "linux")]
fn owner(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;

    let file = std::fs::metadata(path).ok()?;
    let device = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    let wanted = format!("{:02x}:{:02x}:{}", device.0, device.1, file.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // A process that waits has `->` after the number.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = fields[..] else {
            return None;
        };
        // A lock's owner outside of our process namespace has number 0.
        (file == wanted)
            .then(|| pid.parse().ok().filter(|pid| *pid != 0))
            .flatten()
    })
}

#[cfg(not(target_os = "linux"))]
fn owner(_path: &Path) -> Option<u32> {
    None
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{fs, task::Poll, time::Duration};

    use super::{super::Host, *};

    const WAIT: Duration = Duration::from_secs(10);

    fn home() -> (tempfile::TempDir, Home, ProfileName) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("profiles/p")).unwrap();
        let home = Home {
            path: dir.path().to_owned(),
            kubeconfig: dir.path().join("none"),
            host: Host::default(),
        };
        (dir, home, "p".parse().unwrap())
    }

    #[test]
    fn the_lock_excludes_and_ends_with_its_holder() {
        let (_dir, home, profile) = home();
        let held = TunnelLock::try_acquire(&home, &profile).unwrap().unwrap();
        assert!(TunnelLock::try_acquire(&home, &profile).unwrap().is_none());
        drop(held);
        assert!(TunnelLock::try_acquire(&home, &profile).unwrap().is_some());
    }

    #[test]
    fn a_lock_on_a_file_that_was_replaced_does_not_count() {
        let (_dir, home, profile) = home();
        let file = open(&path(&home, &profile)).unwrap();
        file.try_lock().unwrap();
        fs::remove_file(path(&home, &profile)).unwrap();
        assert!(!is_still(&file, &path(&home, &profile)).unwrap());
        let ours = TunnelLock::try_acquire(&home, &profile).unwrap().unwrap();
        assert!(is_still(&ours._file, &path(&home, &profile)).unwrap());
    }

    #[test]
    fn a_profile_without_a_folder_gets_none() {
        let (dir, home, profile) = home();
        fs::remove_dir_all(dir.path().join("profiles")).unwrap();
        let error = TunnelLock::try_acquire(&home, &profile).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!dir.path().join("profiles").exists());
    }

    #[test]
    fn the_holders_process_is_told() {
        let (_dir, home, profile) = home();
        assert_eq!(lock_owner(&home, &profile), None);
        let _held = TunnelLock::try_acquire(&home, &profile).unwrap().unwrap();
        assert_eq!(lock_owner(&home, &profile), Some(std::process::id()));
    }

    #[tokio::test]
    async fn waiting_ends_when_the_holder_does() {
        let (_dir, home, profile) = home();
        let held = TunnelLock::try_acquire(&home, &profile).unwrap().unwrap();
        let mut waiting = Box::pin(TunnelLock::acquire(&home, &profile));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(held);
        let lock = tokio::time::timeout(WAIT, waiting).await.unwrap().unwrap();
        assert!(TunnelLock::try_acquire(&home, &profile).unwrap().is_none());
        drop(lock);
    }

    #[tokio::test]
    async fn a_cancelled_wait_does_not_keep_the_lock() {
        let (_dir, home, profile) = home();
        let held = TunnelLock::try_acquire(&home, &profile).unwrap().unwrap();
        let mut cancelled = Box::pin(TunnelLock::acquire(&home, &profile));
        assert!(matches!(futures::poll!(&mut cancelled), Poll::Pending));
        drop(cancelled);
        drop(held);
        // The thread may pass through the lock first: a blocking wait gets it after that.
        tokio::time::timeout(WAIT, TunnelLock::acquire(&home, &profile))
            .await
            .unwrap()
            .unwrap();
    }
}
