//! Reading files that may be anything.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// More than any file of minikube's has: a config.json is some 3 KiB, an events.json some 100 KiB.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// A file that can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("there is no {}", .0.display())]
    Missing(PathBuf),
    #[error("{} is no regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("{} is larger than {MAX_FILE} bytes, which no such file is", .0.display())]
    TooLarge(PathBuf),
    #[error("{} can't be read: {error}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

/// Reads a regular file of at most [`MAX_FILE`] bytes, and never waits for anything else (a FIFO, a device).
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    let failed = |error: io::Error| match error.kind() {
        // A file where a folder should be: the path names nothing either.
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            ReadError::Missing(path.to_owned())
        }
        _ => ReadError::Io {
            path: path.to_owned(),
            error,
        },
    };
    let file = open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile(path.to_owned()));
    }
    if metadata.len() > MAX_FILE {
        return Err(ReadError::TooLarge(path.to_owned()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    // It may grow meanwhile, and files of /proc have no length.
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ReadError::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    // Without O_NONBLOCK, opening a FIFO waits for its writer.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in [dir.path(), &fifo, &link] {
            assert!(
                matches!(read(path), Err(ReadError::NotAFile(_))),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn a_huge_file_is_refused_and_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(read(&path), Err(ReadError::TooLarge(_))));
        // A file of exactly the limit is still read.
        File::create(&path).unwrap().set_len(MAX_FILE).unwrap();
        assert_eq!(read(&path).unwrap().len() as u64, MAX_FILE);
    }

    #[test]
    fn a_missing_file_and_a_file_in_place_of_its_folder_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(
            read(&dir.path().join("none")),
            Err(ReadError::Missing(_))
        ));
        assert!(matches!(
            read(&file.join("below")),
            Err(ReadError::Missing(_))
        ));
    }
}
