//! `report`: what a bug report needs, and nothing that is nobody else's business.

mod redact;

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use minitunnel_engine::log::put_away;
use minitunnel_helper_api::{Client, Lease, find_helper};
use minitunnel_model::Snapshot;
use minitunnel_routing::{LOCAL_TABLE, Router};
use rustix::fs::OFlags;
use serde_json::{Value, json};

use crate::{
    context::Context,
    exit::{Exit, Failure},
    out::{printable, say},
};
use redact::Redaction;

/// Lines of the log and of the routing table that a report has at most, the last ones.
const MOST_LINES: usize = 400;
/// Of each file: more than any that minikube or a session writes.
const MOST_BYTES: u64 = 1024 * 1024;

/// What `report` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to write it; a file that is there is not overwritten.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "minitunnel-report.md"
    )]
    output: PathBuf,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let context = Context::new()?;
    let snapshot = context.look(None).await?.handle.snapshot();
    let sections = [
        ("Versions and surroundings", surroundings()),
        ("Helper", helper().await),
        ("Snapshot", serde_json::to_string_pretty(&*snapshot)?),
        (
            "Configuration",
            configuration(&context.home.path, &snapshot),
        ),
        ("Routes and rules", routes().await),
        ("Log of the session", log(&context.runtime.log())),
    ];
    let redaction = Redaction::of_this_user();
    let mut report = String::from("# minitunnel report\n");
    for (title, text) in sections {
        section(&mut report, title, &redaction.redact(&text));
    }
    let path = &arguments.output;
    write_new(path, &report)?;
    say!(
        "{} is written: look through it before you give it to anybody",
        path.display()
    );
    Ok(Exit::Done)
}

/// Writes a file that was not there, for this user alone.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let name = path.display();
    let mut file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let message = format!("{name} is there already: name another file with --output");
            let exit = Exit::Failed;
            return Err(Failure { exit, message }.into());
        }
        file => file.with_context(|| format!("{name} can't be written"))?,
    };
    file.write_all(text.as_bytes())
        .with_context(|| format!("{name} can't be written"))
}

/// Adds a text that is redacted already: the redaction has to see it as it is, and not escaped.
fn section(report: &mut String, title: &str, text: &str) {
    // Longer than any fence that a hostile text may have to close it.
    let fence = "`".repeat(8);
    let lines: Vec<String> = text.lines().map(printable).collect();
    let text = lines.join("\n").replace(&fence, "'");
    let _ = write!(report, "\n## {title}\n\n{fence}\n{text}\n{fence}\n");
}

fn surroundings() -> String {
    let system = rustix::system::uname();
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let distribution = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("unknown");
    let variable = |name| env::var(name).unwrap_or_else(|_| "-".into());
    let is = |path: &str| {
        if Path::new(path).exists() {
            "there"
        } else {
            "missing"
        }
    };
    let this = env::current_exe().unwrap_or_default();
    let helper = match find_helper(&this) {
        Ok(path) => path.display().to_string(),
        Err(error) => error.to_string(),
    };
    let lines = [
        ("minitunnel", env!("CARGO_PKG_VERSION").into()),
        ("session protocol", minitunnel_model::PROTOCOL.to_string()),
        (
            "helper protocol",
            minitunnel_helper_api::PROTOCOL.to_string(),
        ),
        ("helper program", helper),
        ("kernel", system.release().to_string_lossy().into_owned()),
        ("machine", system.machine().to_string_lossy().into_owned()),
        ("distribution", distribution.trim_matches('"').into()),
        ("desktop", variable("XDG_CURRENT_DESKTOP")),
        ("session type", variable("XDG_SESSION_TYPE")),
        ("system bus", is("/run/dbus/system_bus_socket").into()),
        ("systemd", is("/run/systemd/system").into()),
        (
            "polkit's policy",
            is("/usr/share/polkit-1/actions/io.github.minitunnel.policy").into(),
        ),
        (
            "bus service",
            is("/usr/share/dbus-1/system-services/io.github.minitunnel.Helper.service").into(),
        ),
    ];
    let line = |(name, value): (&str, String)| format!("{name:<17} {value}");
    lines.map(line).join("\n")
}

async fn helper() -> String {
    let client = match Client::running().await {
        Ok(Some(client)) => client,
        Ok(None) => return "no helper runs".into(),
        Err(error) => return format!("no helper can be asked: {error}"),
    };
    let mut text = format!("version {}\n", client.version());
    match client.list().await {
        Ok(leases) => leases.iter().for_each(|lease: &Lease| {
            let _ = writeln!(text, "{lease:?}");
        }),
        Err(error) => text.push_str(&error.to_string()),
    }
    text
}

/// Of each profile's `config.json` what decides a tunnel: what is not named here is not read out.
fn configuration(home: &Path, snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for status in &snapshot.profiles {
        let name = &status.profile.name;
        let path = home
            .join("profiles")
            .join(name.as_str())
            .join("config.json");
        let read = read_some(&path).ok();
        let config: Option<Value> = read.and_then(|text| serde_json::from_slice(&text).ok());
        let shown = config.as_ref().map(reduced);
        let _ = match shown {
            Some(shown) => writeln!(text, "{name}: {shown:#}"),
            None => writeln!(text, "{name}: it can't be read"),
        };
    }
    text
}

fn reduced(config: &Value) -> Value {
    let kubernetes = &config["KubernetesConfig"];
    let of = |value: &Value, names: &[&str]| -> Value {
        let named = names
            .iter()
            .map(|name| ((*name).to_owned(), value[*name].clone()));
        Value::Object(named.collect())
    };
    let nodes = config["Nodes"].as_array().into_iter().flatten();
    let nodes: Vec<Value> = nodes
        .map(|node| of(node, &["Name", "IP", "Port", "ControlPlane", "Worker"]))
        .collect();
    let addons = config["Addons"].as_object().into_iter().flatten();
    let addons: Vec<&String> = addons
        .filter_map(|(name, on)| (on == &json!(true)).then_some(name))
        .collect();
    json!({
        "Driver": config["Driver"],
        "Kubernetes": of(kubernetes, &[
            "KubernetesVersion", "ServiceCIDR", "ContainerRuntime", "CNI", "NetworkPlugin", "DNSDomain",
        ]),
        "Nodes": nodes,
        "Addons": addons,
    })
}

async fn routes() -> String {
    let dump = match Router::open() {
        Ok(router) => router.dump().await,
        Err(error) => Err(error),
    };
    let table = match dump {
        Ok(table) => table,
        Err(error) => return error.to_string(),
    };
    let entries = table.entries.iter().map(|entry| table.describe(entry));
    let entries = entries.filter(|entry| entry.table != LOCAL_TABLE);
    let lines = entries.map(|entry| {
        let gateway = entry
            .gateway
            .map_or("-".into(), |gateway| gateway.to_string());
        format!(
            "{} via {gateway} dev {} metric {} table {} {:?}",
            entry.destination,
            entry.device.as_deref().unwrap_or("-"),
            entry.metric,
            entry.table,
            entry.origin
        )
    });
    let rules = table.rules.iter().map(|rule| format!("{rule:?}"));
    last(lines.chain(rules).collect())
}

fn log(path: &Path) -> String {
    let read = |path: &Path| read_some(path).unwrap_or_default();
    let text = [read(&put_away(path)), read(path)].concat();
    let text = String::from_utf8_lossy(&text);
    if text.is_empty() {
        return "no session has written one".into();
    }
    last(text.lines().map(str::to_owned).collect())
}

/// Reads at most [`MOST_BYTES`], and never waits for anything but a file (a FIFO, a device).
fn read_some(path: &Path) -> io::Result<Vec<u8>> {
    // Without O_NONBLOCK, opening a FIFO waits for its writer.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = File::options();
    let flags = options.read(true).custom_flags(flags.bits().cast_signed());
    let file = flags.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn last(mut lines: Vec<String>) -> String {
    lines
        .split_off(lines.len().saturating_sub(MOST_LINES))
        .join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_report_is_the_users_alone_and_overwrites_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.md");
        write_new(&path, "first").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let said = write_new(&path, "second").unwrap_err().to_string();
        assert!(
            said.ends_with("is there already: name another file with --output"),
            "{said}"
        );
        let link = folder.path().join("link.md");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).unwrap();
        assert!(write_new(&link, "third").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    }

    #[test]
    fn a_configuration_is_reduced_to_what_is_named() {
        let config = json!({
            "Driver": "docker", "DockerEnv": ["CANARY"], "SSHKey": "CANARY", "Addons": { "metallb": true, "x": false },
            "KubernetesConfig": { "ServiceCIDR": "10.96.0.0/12", "ExtraOptions": [{ "Value": "CANARY" }] },
            "Nodes": [{ "Name": "", "IP": "192.168.49.2", "Secret": "CANARY" }],
        });
        let shown = reduced(&config).to_string();
        assert!(!shown.contains("CANARY"), "{shown}");
        for kept in ["docker", "10.96.0.0/12", "192.168.49.2", "[\"metallb\"]"] {
            assert!(shown.contains(kept), "{kept} in {shown}");
        }
    }

    #[test]
    fn of_a_file_no_more_is_read_than_any_has_and_of_a_fifo_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (huge, fifo) = (folder.path().join("huge"), folder.path().join("fifo"));
        let length = 1 << 40;
        File::create(&huge).unwrap().set_len(length).unwrap();
        assert_eq!(read_some(&huge).unwrap().len() as u64, MOST_BYTES);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, 0o600.into(), 0).unwrap();
        for path in [&fifo, folder.path(), Path::new("/dev/zero")] {
            assert!(read_some(path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_text_that_closes_its_fence_stays_within_it() {
        let mut report = String::new();
        section(&mut report, "x", "a\n````````\n# forged");
        assert_eq!(report.matches("````````").count(), 2, "{report}");
    }
}
