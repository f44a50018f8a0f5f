//! A desktop without a screen: a session bus, a panel that reads an icon's menu, and a server of notifications.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;
use tokio::sync::watch;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedVariant, Variant, interface};

use crate::{Place, Process, Result, WAIT, eventually};

/// The name of a panel that takes icons (StatusNotifierItem specification).
const WATCHER: &str = "org.kde.StatusNotifierWatcher";
const NOTIFICATIONS: &str = "org.freedesktop.Notifications";

/// The distribution's session bus, for this process too, which is root's.
const CONFIGURATION: &str = r#"<busconfig>
  <include>/usr/share/dbus-1/session.conf</include>
  <policy context="mandatory"><allow user="*"/></policy>
</busconfig>"#;

/// A person's session bus.
#[derive(Debug)]
pub struct SessionBus {
    place: Place,
    daemon: Process,
    address: String,
}

impl SessionBus {
    /// Starts dbus-daemon as that place's user.
    pub async fn start(place: &Place) -> Result<Self> {
        let socket = place.home().join("session-bus");
        // One that was killed leaves it.
        let _ = std::fs::remove_file(&socket);
        let address = format!("unix:path={}", socket.display());
        let configuration = place.home().join("session-bus.conf");
        std::fs::write(&configuration, CONFIGURATION)?;
        let mut daemon = place.command("dbus-daemon");
        daemon.arg(format!("--config-file={}", configuration.display()));
        daemon.args(["--nofork", "--nopidfile", "--print-address"]);
        let daemon = Process::spawn(daemon.arg(format!("--address={address}"))).await?;
        daemon.wait_for_line("unix:path=", WAIT).await?;
        Ok(Self {
            place: place.clone(),
            daemon,
            address,
        })
    }

    /// A command of that user's with this bus.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.place.command(program);
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        command
    }

    /// A connection to it.
    pub async fn connect(&self) -> Result<Connection> {
        let builder = zbus::connection::Builder::address(self.address.as_str());
        let connecting = tokio::time::timeout(WAIT, builder.build()).await;
        connecting
            .context("no handshake in time")?
            .with_context(|| self.daemon.report("refuses a connection"))
    }

    /// Ends the bus, as a logout does.
    pub async fn end(&mut self) -> Result {
        self.daemon.kill().await
    }
}

/// A panel: it takes icons as long as it lives.
#[derive(Debug)]
pub struct FakePanel {
    bus: Connection,
    items: watch::Receiver<Vec<String>>,
}

struct Watcher {
    items: watch::Sender<Vec<String>>,
}

#[interface(name = "org.kde.StatusNotifierWatcher")]
impl Watcher {
    fn register_status_notifier_item(&self, service: String) {
        self.items.send_modify(|items| items.push(service));
    }

    fn register_status_notifier_host(&self, _service: &str) {}

    #[zbus(property)]
    fn is_status_notifier_host_registered(&self) -> bool {
        true
    }

    #[zbus(property)]
    fn protocol_version(&self) -> i32 {
        0
    }

    #[zbus(property)]
    fn registered_status_notifier_items(&self) -> Vec<String> {
        self.items.borrow().clone()
    }
}

/// An entry of a menu as a panel reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MenuEntry {
    id: i32,
    /// The text; empty for a separator.
    pub label: String,
    /// Whether it can be clicked.
    pub enabled: bool,
    /// Whether it is checked, if it can be.
    pub checked: Option<bool>,
    /// What is below it.
    pub entries: Vec<MenuEntry>,
}

impl MenuEntry {
    /// All entries below it, at any depth.
    pub fn all(&self) -> Vec<&MenuEntry> {
        let below = self.entries.iter().flat_map(MenuEntry::all);
        self.entries.iter().chain(below).collect()
    }

    /// The labels of all entries.
    pub fn labels(&self) -> Vec<String> {
        let all = self.all().into_iter();
        all.map(|entry| entry.label.clone()).collect()
    }

    /// The entry with that label, else the first whose label begins so.
    pub fn find(&self, label: &str) -> Option<&MenuEntry> {
        let all = self.all();
        let exact = all.iter().find(|entry| entry.label == label);
        let found = exact.or_else(|| all.iter().find(|entry| entry.label.starts_with(label)));
        found.copied()
    }
}

impl FakePanel {
    /// Puts a panel on the bus.
    pub async fn start(session: &SessionBus) -> Result<Self> {
        let (items, registered) = watch::channel(Vec::new());
        let bus = session.connect().await?;
        let watcher = Watcher { items };
        bus.object_server()
            .at("/StatusNotifierWatcher", watcher)
            .await?;
        bus.request_name(WATCHER).await?;
        Ok(Self {
            bus,
            items: registered,
        })
    }

    /// Waits for an icon, and gives it.
    pub async fn icon(&mut self) -> Result<FakeIcon> {
        self.next_icon(0).await
    }

    /// Waits for the one that is registered after so many others.
    pub async fn next_icon(&mut self, after: usize) -> Result<FakeIcon> {
        let wait = self.items.wait_for(|items| items.len() > after);
        let items = tokio::time::timeout(WAIT, wait).await;
        let items = items.context("no icon was registered in time")??;
        let service = items.get(after).context("there is one")?.clone();
        drop(items);
        Ok(FakeIcon {
            bus: self.bus.clone(),
            service,
        })
    }

    /// Ends the panel, as its crash does.
    pub async fn end(self) -> Result {
        Ok(self.bus.close().await?)
    }
}

/// An icon in a panel.
#[derive(Debug)]
pub struct FakeIcon {
    bus: Connection,
    service: String,
}

impl FakeIcon {
    /// Reads the menu.
    pub async fn menu(&self) -> Result<MenuEntry> {
        let names: Vec<&str> = Vec::new();
        let answer = self
            .call(
                "/MenuBar",
                "com.canonical.dbusmenu",
                "GetLayout",
                &(0, -1, names),
            )
            .await?;
        type Node = (i32, HashMap<String, OwnedVariant>, Vec<OwnedVariant>);
        let (_, (id, properties, children)): (u32, Node) = answer.body().deserialize()?;
        let properties = properties
            .iter()
            .map(|(key, value)| (key.as_str(), &**value));
        entry(
            id,
            properties.collect(),
            children.iter().map(|child| &**child),
        )
    }

    /// Waits until the menu fulfils a condition, and gives it.
    pub async fn menu_with(
        &self,
        what: &str,
        condition: impl Fn(&MenuEntry) -> bool,
    ) -> Result<MenuEntry> {
        eventually(WAIT, what, async || {
            let menu = self.menu().await?;
            ensure!(condition(&menu), "the menu is {:#?}", menu.labels());
            Ok(menu)
        })
        .await
    }

    /// Waits until an entry's label begins so.
    pub async fn entry(&self, label: &str) -> Result<MenuEntry> {
        let menu = self
            .menu_with(label, |menu| menu.find(label).is_some())
            .await?;
        Ok(menu.find(label).context("it was there")?.clone())
    }

    /// Clicks the entry with that label, when it is there.
    pub async fn click(&self, label: &str) -> Result {
        self.click_in("", label).await
    }

    /// Clicks an entry of the submenu whose label begins so.
    pub async fn click_in(&self, submenu: &str, label: &str) -> Result {
        eventually(WAIT, label, async || {
            let menu = self.menu().await?;
            let menu = match submenu {
                "" => menu,
                submenu => menu
                    .find(submenu)
                    .with_context(|| format!("no {submenu}"))?
                    .clone(),
            };
            // The check items come before the entries of the profiles.
            let entry = menu.all().into_iter().rfind(|entry| entry.label == label);
            let entry = entry.with_context(|| format!("{:#?}", menu.labels()))?;
            ensure!(entry.enabled, "{label} can't be clicked");
            // The menu may be another one by now, with other numbers: then the click is refused.
            let event = (entry.id, "clicked", Variant::from(0_i32), 0_u32);
            self.call("/MenuBar", "com.canonical.dbusmenu", "Event", &event)
                .await
        })
        .await?;
        Ok(())
    }

    /// Clicks the icon itself with the first button.
    pub async fn left_click(&self) -> Result {
        self.call(
            "/StatusNotifierItem",
            "org.kde.StatusNotifierItem",
            "Activate",
            &(0, 0),
        )
        .await?;
        Ok(())
    }

    /// What is told where the pointer rests on it.
    pub async fn tooltip(&self) -> Result<String> {
        let of = ("org.kde.StatusNotifierItem", "ToolTip");
        let answer = self
            .call(
                "/StatusNotifierItem",
                "org.freedesktop.DBus.Properties",
                "Get",
                &of,
            )
            .await?;
        let value: OwnedVariant = answer.body().deserialize()?;
        let Variant::Structure(tip) = &*value else {
            bail!("the tooltip is {value:?}")
        };
        match tip.fields().last() {
            Some(Variant::Str(text)) => Ok(text.to_string()),
            other => bail!("the tooltip's text is {other:?}"),
        }
    }

    async fn call<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<zbus::Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let call = self.bus.call_method(
            Some(self.service.as_str()),
            path,
            Some(interface),
            method,
            body,
        );
        let answer = tokio::time::timeout(WAIT, call).await;
        Ok(answer.with_context(|| format!("{method} was not answered"))??)
    }
}

fn entry<'a>(
    id: i32,
    properties: HashMap<&str, &Variant<'_>>,
    children: impl Iterator<Item = &'a Variant<'a>>,
) -> Result<MenuEntry> {
    let flag = |name| match properties.get(name) {
        Some(Variant::Bool(flag)) => Some(*flag),
        _ => None,
    };
    let label = match properties.get("label") {
        Some(Variant::Str(label)) => label.replace("__", "_"),
        _ => String::new(),
    };
    let checked = match properties.get("toggle-state") {
        Some(Variant::I32(state)) if properties.contains_key("toggle-type") => Some(*state == 1),
        _ => None,
    };
    let mut entries = Vec::new();
    for child in children {
        let child = match child {
            Variant::Variant(inner) => inner,
            child => child,
        };
        let Variant::Structure(child) = child else {
            bail!("a menu's child is {child:?}")
        };
        let [
            Variant::I32(id),
            Variant::Dict(properties),
            Variant::Array(children),
        ] = child.fields()
        else {
            bail!("a menu's child is {child:?}")
        };
        let mut named = HashMap::new();
        for (key, value) in properties.iter() {
            if let Variant::Str(key) = key {
                let value = match value {
                    Variant::Variant(inner) => inner,
                    value => value,
                };
                named.insert(key.as_str(), value);
            }
        }
        entries.push(entry(*id, named, children.inner().iter())?);
    }
    Ok(MenuEntry {
        id,
        label,
        enabled: flag("enabled").unwrap_or(true),
        checked,
        entries,
    })
}

/// A notification as the desktop is asked to show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its number, which a click names.
    pub id: u32,
    /// Its first line.
    pub title: String,
    /// What stands below.
    pub body: String,
    /// The labels of its buttons.
    pub buttons: Vec<String>,
}

/// A server of notifications.
#[derive(Debug)]
pub struct FakeNotifications {
    bus: Connection,
    shown: Arc<Mutex<Vec<Shown>>>,
}

struct Server {
    shown: Arc<Mutex<Vec<Shown>>>,
}

#[interface(name = "org.freedesktop.Notifications")]
impl Server {
    fn get_capabilities(&self) -> Vec<&'static str> {
        vec!["body", "actions"]
    }

    #[expect(clippy::too_many_arguments, reason = "the specification's")]
    fn notify(
        &self,
        _app_name: &str,
        replaces_id: u32,
        _app_icon: &str,
        summary: String,
        body: String,
        actions: Vec<String>,
        _hints: HashMap<String, OwnedVariant>,
        _expire_timeout: i32,
        #[zbus(header)] _header: Header<'_>,
    ) -> u32 {
        let mut shown = lock(&self.shown);
        let id = match replaces_id {
            0 => u32::try_from(shown.len())
                .unwrap_or(u32::MAX)
                .saturating_add(1),
            id => id,
        };
        let mut buttons = Vec::new();
        for pair in actions.chunks(2) {
            if let [key, label] = pair
                && key != "default"
            {
                buttons.push(label.clone());
            }
        }
        shown.push(Shown {
            id,
            title: summary,
            body,
            buttons,
        });
        id
    }

    fn close_notification(&self, _id: u32) {}

    fn get_server_information(&self) -> (&'static str, &'static str, &'static str, &'static str) {
        ("lab", "minitunnel", "1", "1.2")
    }

    #[zbus(signal)]
    async fn action_invoked(emitter: &SignalEmitter<'_>, id: u32, key: &str) -> zbus::Result<()>;
}

impl FakeNotifications {
    /// Puts it on the bus.
    pub async fn start(session: &SessionBus) -> Result<Self> {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let server = Server {
            shown: Arc::clone(&shown),
        };
        let bus = session.connect().await?;
        bus.object_server()
            .at("/org/freedesktop/Notifications", server)
            .await?;
        bus.request_name(NOTIFICATIONS).await?;
        Ok(Self { bus, shown })
    }

    /// All that was asked for so far.
    pub fn shown(&self) -> Vec<Shown> {
        lock(&self.shown).clone()
    }

    /// Their titles.
    pub fn titles(&self) -> Vec<String> {
        let shown = self.shown().into_iter();
        shown.map(|shown| shown.title).collect()
    }

    /// Waits for one with that title, beyond the first so many.
    pub async fn wait_for(&self, title: &str, beyond: usize) -> Result<Shown> {
        eventually(WAIT, title, async || {
            let shown = self.shown();
            let found = shown.iter().skip(beyond).find(|shown| shown.title == title);
            found.cloned().with_context(|| format!("{shown:#?}"))
        })
        .await
    }

    /// Clicks a button of one.
    pub async fn click(&self, shown: &Shown, button: &str) -> Result {
        let at = shown.buttons.iter().position(|label| label == button);
        let at = at.with_context(|| format!("{shown:?} has no {button}"))?;
        let object = self
            .bus
            .object_server()
            .interface::<_, Server>("/org/freedesktop/Notifications")
            .await?;
        Server::action_invoked(object.signal_emitter(), shown.id, &at.to_string()).await?;
        Ok(())
    }
}

fn lock(shown: &Mutex<Vec<Shown>>) -> MutexGuard<'_, Vec<Shown>> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}
