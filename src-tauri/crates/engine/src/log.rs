//! What happens inside, a line an event: to the standard error as far as -v says, and to the file of a session.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::fs::OFlags;
use tracing_subscriber::{
    EnvFilter, Layer, fmt::layer, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::shown::printable;

/// Says more or less than -v, by target and level: `minitunnel=debug`.
const VARIABLE: &str = "MINITUNNEL_LOG";
/// What a session writes down: its own events, and of others what went wrong.
const SESSION: &str = "error,minitunnel=info";
/// A log that would become longer is put away, and the one that was put away before is gone: 1 MiB at most, some thousand
/// events.
const LONGEST: usize = 512 * 1024;

/// The file of the session that this process hosts. The subscriber is one for the process, and so is this.
static FILE: Mutex<Option<LogFile>> = Mutex::new(None);
/// Whether the terminal shows events.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// Sends events where they belong, from now on.
///
/// # Errors
///
/// If the variable says nothing, which is then ignored: the sentence to complain with.
pub fn start(verbose: u8) -> Result<(), String> {
    let to_stderr = match verbose {
        0 => "error",
        1 => SESSION,
        2 => "warn,minitunnel=debug",
        _ => "info,minitunnel=trace",
    };
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let filter = |default: &str| {
        let chosen = chosen(&wanted).ok().flatten();
        chosen.unwrap_or_else(|| EnvFilter::new(default))
    };
    let asked = verbose > 0 || !wanted.is_empty();
    SHOWN.store(asked && io::stderr().is_terminal(), Ordering::Relaxed);
    let stderr = layer()
        .with_target(false)
        .with_writer(|| OneLine(io::stderr()));
    let session = layer().with_target(false).with_writer(|| OneLine(Session));
    tracing_subscriber::registry()
        .with(stderr.with_filter(filter(to_stderr)))
        .with(session.with_filter(filter(SESSION)))
        .init();
    chosen(&wanted).map(drop)
}

/// What the variable chooses, if it says anything.
fn chosen(value: &str) -> Result<Option<EnvFilter>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    let read = value.parse::<EnvFilter>();
    read.map(Some).map_err(|error| {
        format!(
            "{VARIABLE}={value} is ignored ({error}): set it to a level, or to such as minitunnel=debug"
        )
    })
}

/// Whether the terminal shows events: it is nothing to draw on then.
pub fn is_shown() -> bool {
    SHOWN.load(Ordering::Relaxed)
}

/// Writes the session's events to that file.
pub fn to_file(path: PathBuf) {
    match LogFile::open(path) {
        Ok(file) => *FILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(file),
        // The session goes on without.
        Err(error) => tracing::error!(%error, "the session's log can't be written"),
    }
}

/// The file that a log is put away to.
pub fn put_away(path: &Path) -> PathBuf {
    path.with_extension("log.old")
}

/// A file of bounded size, the user's alone.
struct LogFile {
    path: PathBuf,
    file: File,
    size: usize,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let mut options = File::options();
        options.create(true).append(true).mode(0o600);
        // Where the folder is in /tmp, a link would have us write to any file of the user's.
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let file = options.open(&path)?;
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        Ok(Self { path, file, size })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        // Of an event that is longer than a whole log, its beginning.
        let line = &line[..line.len().min(LONGEST)];
        if self.size.saturating_add(line.len()) > LONGEST {
            std::fs::rename(&self.path, put_away(&self.path))?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(line)?;
        self.size += line.len();
        Ok(())
    }
}

/// Writes to the session's file, if there is one.
struct Session;

impl Write for Session {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
        file.as_mut().map_or(Ok(()), |file| file.write(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event, which the subscriber writes at once, as one line that can be printed.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = printable(text.trim_end()) + "\n";
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_log_is_the_users_alone_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session.log");
        let mut log = LogFile::open(path.clone()).unwrap();
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        // Of no length that fits often without a rest, and longer than a whole log.
        for length in std::iter::repeat_n(1_000, 2_000).chain([LONGEST + 1, 10]) {
            log.write(&vec![b'x'; length]).unwrap();
            for file in [&path, &put_away(&path)] {
                assert!(size(file) <= LONGEST as u64, "{length}: {}", size(file));
            }
        }
        assert_eq!(size(&path), 10);
        assert_eq!(size(&put_away(&path)), LONGEST as u64);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_link_in_the_place_of_a_log_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, precious) = (folder.path().join("session.log"), folder.path().join("x"));
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        assert!(LogFile::open(path).is_err());
        assert_eq!(std::fs::read_to_string(precious).unwrap(), "precious");
    }

    #[test]
    fn a_variable_that_says_nothing_is_complained_of() {
        for (value, filter) in [
            ("", None),
            ("debug", Some("debug")),
            ("minitunnel=debug", Some("minitunnel=debug")),
        ] {
            let chosen = chosen(value).unwrap().map(|filter| filter.to_string());
            assert_eq!(chosen.as_deref(), filter);
        }
        for rubbish in ["minitunnel=rubbish", "a=b=c", "[["] {
            let said = chosen(rubbish).unwrap_err();
            let expected = format!("MINITUNNEL_LOG={rubbish} is ignored (");
            assert!(said.starts_with(&expected), "{said}");
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let mut out = Vec::new();
        OneLine(&mut out).write_all(b"a\nb\x1b[2Jc\xff\n").unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "a\\nb\\u{1b}[2Jc\u{fffd}\n"
        );
    }
}
