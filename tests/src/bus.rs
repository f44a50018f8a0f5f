//! The lab's system bus and polkit, the distribution's own, with our installed files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::{Agent, Lab, Place, Process, Result, WAIT, run};

/// The folders that packages put such files into, which the lab sees with ours added.
const BUS_POLICIES: &str = "/usr/share/dbus-1/system.d";
const BUS_SERVICES: &str = "/usr/share/dbus-1/system-services";
const POLKIT_ACTIONS: &str = "/usr/share/polkit-1/actions";
const POLKIT_RULES: &str = "/etc/polkit-1/rules.d";

/// What the product installs, in this repository.
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../installers/linux");
/// A polkit rule for [`SystemBus::start`] under which nobody is asked about tunnels. To remove what is another program's, the user
/// always is.
pub const ALLOW: &str = "polkit.addRule(function(action, subject) {
    if (action.id == 'io.github.minitunnel.apply') return polkit.Result.YES;
});";
/// The program that our service file activates, wherever it is installed.
const HELPER: &str = "minitunnel-helper";

/// dbus-daemon and polkitd, running in a lab at the usual addresses. The helper is activated by the bus on demand.
#[derive(Debug)]
pub struct SystemBus {
    lab: Place,
    daemon: Process,
    polkit: Process,
    address: String,
}

impl SystemBus {
    /// Starts both, with the D-Bus policy, activation and polkit files of `installers/linux`, and the built helper.
    ///
    /// `rules` is the text of a polkit rules file (JavaScript) and may be empty: then the defaults of our actions stand,
    /// which ask an administrator, here root.
    pub async fn start(lab: &Lab, rules: &str) -> Result<Self> {
        lab.program(HELPER)?;
        Self::start_with(lab, rules, Path::new(INSTALLED)).await
    }

    /// The same with the files of another folder.
    pub async fn start_with(lab: &Lab, rules: &str, installed: &Path) -> Result<Self> {
        let overlay = Overlay { lab };
        let files = InstalledFiles::find(installed, &lab.dir().join("bin").join(HELPER))?;
        overlay.mount(BUS_POLICIES, &files.policies).await?;
        overlay.mount(BUS_SERVICES, &files.services).await?;
        overlay.mount(POLKIT_ACTIONS, &files.actions).await?;
        // The administrators are root alone, whatever groups the machine's rules name.
        let administrators = "polkit.addAdminRule(function() { return [\"unix-user:0\"]; });\n";
        let rules = [
            ("00-lab.rules".to_owned(), administrators.to_owned()),
            ("01-test.rules".to_owned(), rules.to_owned()),
        ];
        overlay.mount(POLKIT_RULES, &rules).await?;

        let mut daemon = lab.command("dbus-daemon");
        let daemon =
            Process::spawn(daemon.args(["--system", "--nofork", "--nopidfile", "--print-address"]))
                .await?;
        daemon.wait_for_line("unix:path=", WAIT).await?;
        let polkit = Process::spawn(&mut lab.command("/usr/lib/polkit-1/polkitd")).await?;
        let socket = lab.outside_path("/run/dbus/system_bus_socket");
        let bus = Self {
            lab: Place::clone(lab),
            daemon,
            polkit,
            address: format!("unix:path={}", socket.display()),
        };
        bus.wait_for_polkit().await?;
        Ok(bus)
    }

    /// The bus's address for a connection of the test's own, which is root's.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts an agent that answers polkit's dialogs: `approve`, `deny`, `dismiss` or `hold`.
    pub async fn agent(&self, answer: &str) -> Result<Agent> {
        Agent::start(&self.lab, answer).await
    }

    /// The bus's process: its messages tell of activations.
    pub fn daemon(&self) -> &Process {
        &self.daemon
    }

    /// polkit's process.
    pub fn polkit(&self) -> &Process {
        &self.polkit
    }

    /// The process id, as the lab sees it, of the owner of a bus name; `None` if nobody owns it. Activates nothing.
    pub async fn owner(&self, name: &str) -> Result<Option<u32>> {
        let bus = self.connect().await?;
        let names = zbus::fdo::DBusProxy::new(&bus).await?;
        match names.get_connection_unix_process_id(name.try_into()?).await {
            Ok(pid) => Ok(Some(pid)),
            Err(zbus::fdo::Error::NameHasNoOwner(_)) => Ok(None),
            Err(error) => {
                Err(error).with_context(|| self.daemon.report("does not say who owns a name"))
            }
        }
    }

    /// Whether anybody owns a bus name, a process of the lab or not. Activates nothing.
    pub async fn has_owner(&self, name: &str) -> Result<bool> {
        let bus = self.connect().await?;
        let names = zbus::fdo::DBusProxy::new(&bus).await?;
        Ok(names.name_has_owner(name.try_into()?).await?)
    }

    /// A connection to the bus, as root.
    pub async fn connect(&self) -> Result<zbus::Connection> {
        zbus::connection::Builder::address(self.address.as_str())
            .build()
            .await
            .with_context(|| self.daemon.report("refuses a connection"))
    }

    /// polkitd takes its name after 35 ms or so; nothing else says that it is ready.
    async fn wait_for_polkit(&self) -> Result {
        let bus = self.connect().await?;
        let names = zbus::fdo::DBusProxy::new(&bus).await?;
        crate::eventually(WAIT, "polkit on the lab's bus", async || {
            let owned = names
                .name_has_owner("org.freedesktop.PolicyKit1".try_into()?)
                .await?;
            ensure!(owned, self.polkit.report("has not taken its name"));
            Ok(())
        })
        .await
    }
}

/// Folders of the system with files added, for one lab.
struct Overlay<'a> {
    lab: &'a Lab,
}

impl Overlay<'_> {
    async fn mount(&self, folder: &str, added: &[(String, String)]) -> Result {
        let copy = self.lab.dir().join("overlay").join(&folder[1..]);
        fs::create_dir_all(&copy)?;
        let entries = fs::read_dir(folder).with_context(|| {
            format!("no {folder} here: are the packages dbus and polkitd installed?")
        })?;
        for entry in entries {
            let entry = entry?;
            // An installed minitunnel would answer instead of the built one.
            if entry.file_type()?.is_file()
                && !entry.file_name().to_string_lossy().contains("minitunnel")
            {
                fs::copy(entry.path(), copy.join(entry.file_name()))?;
            }
        }
        for (name, text) in added {
            fs::write(copy.join(name), text)?;
            fs::set_permissions(copy.join(name), fs::Permissions::from_mode(0o644))?;
        }
        // polkitd and dbus-daemon read them as users of their own.
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        run(self
            .lab
            .command("mount")
            .arg("--bind")
            .args([&copy, Path::new(folder)]))
        .await?;
        Ok(())
    }
}

/// The product's own files by kind: name and text.
#[derive(Debug, Default)]
struct InstalledFiles {
    policies: Vec<(String, String)>,
    services: Vec<(String, String)>,
    actions: Vec<(String, String)>,
}

impl InstalledFiles {
    fn find(folder: &Path, helper: &Path) -> Result<Self> {
        let mut found = Self::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder)
                .with_context(|| format!("cannot read {}", folder.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.sort_in(&path, helper)?;
                }
            }
        }
        ensure!(
            [&found.policies, &found.services, &found.actions]
                .iter()
                .all(|files| files.len() == 1),
            "{} must hold one D-Bus policy, one D-Bus service and one polkit action file: {found:?}",
            folder.display()
        );
        Ok(found)
    }

    fn sort_in(&mut self, path: &PathBuf, helper: &Path) -> Result {
        let extension = path.extension().unwrap_or_default();
        if !["conf", "service", "policy"]
            .iter()
            .any(|known| extension == *known)
        {
            return Ok(());
        }
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(path)?;
        if extension == "conf" && text.contains("<busconfig") {
            self.policies.push((name, text));
        } else if extension == "service" && text.contains("[D-BUS Service]") {
            self.services.push((name, with_helper(&text, helper)));
        } else if extension == "policy" {
            self.actions.push((name, text));
        }
        Ok(())
    }
}

/// The D-Bus service file with the built helper in place of the installed one.
fn with_helper(service: &str, helper: &Path) -> String {
    service
        .lines()
        .map(|line| {
            match line
                .strip_prefix("Exec=")
                .and_then(|command| command.split_once(HELPER))
            {
                Some((_, arguments)) => format!("Exec={}{arguments}\n", helper.display()),
                None => format!("{line}\n"),
            }
        })
        .collect()
}
