//! The scenes, played by process 1 of the demo's namespaces, which is also the host beside the cluster.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::{
        fd::AsFd,
        unix::{fs::FileTypeExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    mount::{MountFlags, mount},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    Demo, Ends, INSIDE,
    cluster::{Assigned, Node, within},
    desktop::Desktop,
    find_keeper,
    screen::Screen,
    traces::{difference, files},
    tunnel::{Command, Tunnel, close_window, parents},
};
use crate::{
    Error,
    ip::routes,
    node::{NODE, PROFILE, SERVICE_CIDR},
};

/// How long an HTTP request may take: it goes over a veth.
const REQUEST: Duration = Duration::from_secs(3);
/// Where the demo's person lives, on a file system of the demo's own.
pub(super) const HOME: &str = "/run/demo";
/// Such a person's runtime folder.
const RUNTIME: &str = "/run/user/0";

/// Where a tunnel could leave a file: all that is the demo's own.
const EVERYWHERE: &[&str] = &["/run"];
/// The same with a desktop, whose programs keep files elsewhere.
const BESIDE_A_DESKTOP: &[&str] = &[
    "/run/minitunnel",
    "/run/user/0/minitunnel",
    "/run/demo/.minikube",
];

/// The host: folders and environment of the demo's person.
pub(super) struct Place;

impl Place {
    /// Gives `/run` a file system of its own, which ends with the mount namespace, and with it every file.
    fn make() -> Result<Self, Error> {
        mount(
            "tmpfs",
            "/run",
            "tmpfs",
            MountFlags::empty(),
            Some(c"mode=755"),
        )
        .map_err(|error| Error::Mount(error.into()))?;
        for folder in [HOME, RUNTIME] {
            let made = fs::create_dir_all(folder);
            made.map_err(|source| Error::File {
                path: folder.into(),
                source,
            })?;
        }
        private(Path::new(RUNTIME))?;
        private(Path::new(HOME))?;
        Ok(Self)
    }

    /// The environment of everything that runs here. No bus and no other cluster is in it.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let path = env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let mut environment = vec![
            ("HOME", HOME.to_owned()),
            ("XDG_RUNTIME_DIR", RUNTIME.to_owned()),
            ("PATH", path),
            ("NO_COLOR", "1".to_owned()),
        ];
        for name in ["LANG", "TERM", "RUST_BACKTRACE"] {
            environment.extend(env::var(name).map(|value| (name, value)));
        }
        environment
    }
}

/// What a tunnel could leave on the host.
struct Before {
    routes: BTreeSet<String>,
    processes: BTreeSet<i32>,
    files: BTreeSet<PathBuf>,
}

/// Plays the scenes; `true` if all went as they should.
pub(super) async fn run(options: &Demo) -> Result<bool, Error> {
    let screen = Screen::new(options.color);
    screen.print(INSIDE);
    let mut ends = Ends::listen()?;
    let mut interrupts = super::listen(tokio::signal::unix::SignalKind::interrupt())?;
    let stop = async {
        tokio::select! {
            _ = interrupts.recv() => {}
            () = ends.recv() => {}
        }
    };
    tokio::pin!(stop);
    let mut stage = tokio::select! {
        stage = Stage::set(screen, options) => stage?,
        () = &mut stop => return Err(Error::Interrupted),
    };
    if options.shell {
        stage.shell().await?;
        stage.interrupted().await
    } else if options.tray {
        screen.dim(
            "minitunnel is in your panel: click its icon. Quit there, or Ctrl-C here, ends it.",
        );
        tokio::select! {
            () = &mut stop => stage.interrupted().await,
            good = stage.quit() => good,
        }
    } else if options.keep {
        screen.dim("Ctrl-C ends the tunnel and the cluster.");
        tokio::select! {
            () = &mut stop => {}
            error = stage.listen() => return Err(error),
        }
        stage.interrupted().await
    } else {
        tokio::select! {
            good = stage.killed() => good,
            () = &mut stop => Err(Error::Interrupted),
        }
    }
}

/// The cluster and the tunnel, both up.
struct Stage {
    screen: Screen,
    place: Place,
    program: PathBuf,
    node: Node,
    tunnel: Tunnel,
    folders: &'static [&'static str],
    before: Before,
    assigned: Assigned,
    good: bool,
}

impl Stage {
    /// Brings the cluster and the tunnel up, and makes a service that answers.
    async fn set(screen: Screen, options: &Demo) -> Result<Self, Error> {
        let start = Instant::now();
        let program = env::current_exe().map_err(Error::SelfPath)?;
        let helper = find_keeper(&program)?;
        // Found before `/run` is another one.
        let desktop = options.tray.then(Desktop::find).transpose()?;
        let place = Place::make()?;
        let command = match desktop {
            None => Command {
                words: [
                    program.as_os_str(),
                    "up".as_ref(),
                    "-p".as_ref(),
                    PROFILE.as_ref(),
                ]
                .map(Into::into)
                .into(),
                environment: Vec::new(),
                shown: format!("minitunnel up -p {PROFILE}"),
            },
            Some(desktop) => desktop.command(&program)?,
        };
        let mut node = Node::start(&program, &place).await?;
        let detail = format!("node {NODE}, cluster IPs {SERVICE_CIDR}");
        screen.good("cluster up", &detail, Some(start.elapsed()));
        let folders = if options.tray {
            BESIDE_A_DESKTOP
        } else {
            EVERYWHERE
        };
        let before = Before::look(folders).await?;

        let start = Instant::now();
        let mut tunnel = Tunnel::start(&helper, &command, &place)?;
        screen.dim(&format!("minitunnel-keep -- {}", command.shown));
        within("the tunnel", async {
            loop {
                let line = tunnel.line().await?;
                screen.quote(&line);
                if line.split_whitespace().any(|word| word == "connected") {
                    return Ok(());
                }
            }
        })
        .await?;
        let took = start.elapsed();
        let now = routes().await?.into_iter().collect();
        let new = difference("route", &before.routes, &now).len();
        screen.good(
            "tunnel up",
            &format!("routes in the kernel: {new}"),
            Some(took),
        );

        let assigned = node.create("hello", 80).await?;
        // The tunnel tells of it too, a moment after the cluster shows it.
        let told = async {
            while let Ok(line) = tunnel.line().await {
                screen.quote(&line);
                if line.contains(&assigned.service) {
                    break;
                }
            }
        };
        drop(timeout(Duration::from_secs(1), told).await);
        let detail = format!("{} → {}", assigned.service, assigned.address);
        screen.good("service has an address", &detail, Some(assigned.took));
        let mut stage = Self {
            screen,
            place,
            program,
            node,
            tunnel,
            folders,
            before,
            assigned,
            good: true,
        };
        let url = stage.url();
        match get(stage.assigned.address).await {
            Ok(text) => screen.good(&format!("GET {url}"), &format!("200 “{text}”"), None),
            Err(error) => stage.bad(&format!("GET {url}"), &error.to_string()),
        }
        Ok(stage)
    }

    /// The tunnel dies without a word.
    async fn killed(&mut self) -> Result<bool, Error> {
        let (pid, processes, took) = self.tunnel.kill(&self.program).await?;
        for line in self.tunnel.said() {
            self.screen.quote(&line);
        }
        let detail =
            format!("minitunnel up (process {pid}); all {processes} processes of the tunnel ended");
        self.screen.good("kill -9", &detail, Some(took));
        self.unreachable().await;
        self.nothing_left().await
    }

    /// The tunnel ends in good order.
    async fn interrupted(&mut self) -> Result<bool, Error> {
        let start = Instant::now();
        let status = self.tunnel.interrupt().await?;
        self.over(status, Some(start.elapsed())).await
    }

    /// The user quits it.
    async fn quit(&mut self) -> Result<bool, Error> {
        match self.listen().await {
            Error::TunnelGone(status) => self.over(status, None).await,
            error => Err(error),
        }
    }

    async fn over(&mut self, status: ExitStatus, took: Option<Duration>) -> Result<bool, Error> {
        for line in self.tunnel.said() {
            self.screen.quote(&line);
        }
        self.ended(status, took);
        close_window().await?;
        self.node.withdrawn(&self.assigned.service).await?;
        self.screen
            .good("address withdrawn", &self.assigned.service.clone(), None);
        self.unreachable().await;
        self.nothing_left().await
    }

    fn ended(&mut self, status: ExitStatus, took: Option<Duration>) {
        if status.success() {
            self.screen.good("tunnel ended", "in good order", took);
        } else {
            self.bad("tunnel ended", &status.to_string());
        }
    }

    /// Shows what the tunnel prints until it ends by itself, which it should not.
    async fn listen(&mut self) -> Error {
        loop {
            match self.tunnel.line().await {
                Ok(line) => self.screen.quote(&line),
                Err(error) => return error,
            }
        }
    }

    /// A shell on the host, at the terminal; its standard output is the terminal that standard error is.
    async fn shell(&mut self) -> Result<(), Error> {
        let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
        self.screen.dim(&format!(
            "Try `curl {}`; `exit` ends the tunnel and the cluster.",
            self.url()
        ));
        let terminal = io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::Pipe)?;
        let status = tokio::process::Command::new(&shell)
            .env_remove("NO_COLOR")
            .envs(self.place.environment())
            .current_dir(HOME)
            .stdout(Stdio::from(terminal))
            .status()
            .await;
        status.map(drop).map_err(|source| Error::Start {
            program: shell.into(),
            source,
        })
    }

    async fn unreachable(&mut self) {
        let title = format!("GET {}", self.url());
        match get(self.assigned.address).await {
            Err(error) => self
                .screen
                .good(&title, &format!("fails: {}", error.kind()), None),
            Ok(text) => self.bad(&title, &format!("still answers “{text}”")),
        }
    }

    async fn nothing_left(&mut self) -> Result<bool, Error> {
        let after = Before::look(self.folders).await?;
        let left = difference("route", &self.before.routes, &after.routes);
        let names = parents().map_err(Error::Processes)?;
        let processes = after
            .processes
            .difference(&self.before.processes)
            .map(|pid| {
                let name = names.get(pid).map_or("", |stat| stat.name.as_str());
                format!("process {pid} ({name})")
            });
        let files = after.files.difference(&self.before.files);
        let files = files.map(|path| format!("file {}", path.display()));
        let left: Vec<String> = left.into_iter().chain(processes).chain(files).collect();
        if left.is_empty() {
            let detail = format!(
                "the {} routes of before, no process, no lease",
                after.routes.len()
            );
            self.screen.good("nothing is left", &detail, None);
        }
        for trace in left {
            self.bad("left behind", &trace);
        }
        Ok(self.good)
    }

    fn bad(&mut self, title: &str, detail: &str) {
        self.screen.bad(title, detail);
        self.good = false;
    }

    fn url(&self) -> String {
        match self.assigned.address.port() {
            80 => format!("http://{}/", self.assigned.address.ip()),
            _ => format!("http://{}/", self.assigned.address),
        }
    }
}

impl Before {
    async fn look(folders: &[&str]) -> Result<Self, Error> {
        Ok(Self {
            routes: routes().await?.into_iter().collect(),
            processes: parents().map_err(Error::Processes)?.into_keys().collect(),
            files: folders
                .iter()
                .flat_map(|folder| files(Path::new(folder)))
                .filter(|path| !holds_nothing(path))
                .collect(),
        })
    }
}

/// Whether a path is only a place that the next start uses again: a folder, a lock that nobody holds, a socket that nobody
/// serves, the helper's journal without a single entry, or the log that `minitunnel report` reads. (`/run` forgets them at
/// the next boot.)
fn holds_nothing(path: &Path) -> bool {
    let Ok(metadata) = path.symlink_metadata() else {
        return true;
    };
    if metadata.file_type().is_socket() {
        return UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    }
    let empty_journal = || {
        let journal: Option<Value> = fs::read(path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        journal.is_some_and(|journal| {
            ["records", "grants"]
                .iter()
                .all(|list| journal[list].as_array().is_some_and(Vec::is_empty))
        })
    };
    let free_lock = || {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        (name == "lock" || name.ends_with(".lock") || name == ".tunnel_lock")
            && fs::File::open(path)
                .is_ok_and(|file| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok())
    };
    metadata.is_dir()
        || free_lock()
        || path.ends_with("minitunnel/journal.json") && empty_journal()
        || path.ends_with("minitunnel/session.log")
}

/// The text that an HTTP server answers with status 200.
async fn get(address: SocketAddr) -> io::Result<String> {
    let answer = timeout(REQUEST, async {
        let mut stream = TcpStream::connect(address).await?;
        let host: IpAddr = address.ip();
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    })
    .await
    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 3 s"))??;
    match answer.split_once("\r\n\r\n") {
        Some((head, text)) if head.starts_with("HTTP/1.1 200") => Ok(text.trim().to_owned()),
        _ => Err(io::Error::other(
            answer.lines().next().unwrap_or_default().to_owned(),
        )),
    }
}

fn private(folder: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let set = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    set.map_err(|source| Error::File {
        path: folder.to_owned(),
        source,
    })
}
