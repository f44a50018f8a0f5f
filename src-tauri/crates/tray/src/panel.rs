//! The desktop's panel: the icon and its menu by `tray-icon`, on a thread of its own.
//!
//! A panel that hangs makes every call of `tray-icon` wait; the engine, and with it every tunnel, is on another thread.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use tokio::sync::mpsc::UnboundedSender;
use tray_icon::{
    MouseButton, TrayIcon, TrayIconBuilder, TrayIconEvent,
    menu::{
        CheckMenuItem, IsMenuItem, Menu as PanelMenu, MenuEvent, MenuItem, PredefinedMenuItem,
        Submenu,
    },
};

use crate::{
    app::Event,
    icon,
    menu::{Action, Item, Menu, Mood},
};

/// How the panel knows the icon.
const ID: &str = "io.github.minitunnel";

/// All that the panel shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) menu: Menu,
    pub(crate) mood: Mood,
    pub(crate) tooltip: String,
}

/// The way to the panel's thread.
pub(crate) struct Panel {
    order: Sender<Order>,
}

enum Order {
    Show(Shown),
    /// The same once more: a click has changed what the panel shows by itself, or there is another panel.
    Again,
}

impl Panel {
    /// Starts the thread; clicks come as events.
    pub(crate) fn start(events: UnboundedSender<Event>) -> Self {
        let (order, orders) = channel();
        let (clicks, left) = (order.clone(), events.clone());
        MenuEvent::set_event_handler(Some(move |event: MenuEvent| {
            let _ = events.send(Event::Clicked(event.id.0));
            // A check item has turned by itself.
            let _ = clicks.send(Order::Again);
        }));
        TrayIconEvent::set_event_handler(Some(move |event| {
            if let TrayIconEvent::Click {
                button: MouseButton::Left,
                ..
            } = event
            {
                let _ = left.send(Event::LeftClick);
            }
        }));
        thread::spawn(move || run(&orders));
        Self { order }
    }

    /// Shows this from now on.
    pub(crate) fn show(&self, shown: Shown) {
        let _ = self.order.send(Order::Show(shown));
    }

    /// Shows the same once more.
    pub(crate) fn again(&self) {
        let _ = self.order.send(Order::Again);
    }
}

/// Shows the latest of what is ordered, until nobody orders any more.
fn run(orders: &Receiver<Order>) {
    let mut shown: Option<Shown> = None;
    let mut icon: Option<TrayIcon> = None;
    while let Ok(order) = orders.recv() {
        let mut wanted = shown.clone();
        let mut again = false;
        for order in std::iter::once(order).chain(orders.try_iter()) {
            match order {
                Order::Show(shown) => wanted = Some(shown),
                Order::Again => again = true,
            }
        }
        let Some(now) = wanted else { continue };
        if !again && shown.as_ref() == Some(&now) {
            continue;
        }
        match &icon {
            None => match make(&now) {
                Ok(made) => icon = Some(made),
                // The watch of the panel tells when it is worth another try.
                Err(error) => tracing::warn!(%error, "the panel takes no icon"),
            },
            Some(icon) => update(icon, &now, shown.as_ref().filter(|_| !again)),
        }
        shown = Some(now);
    }
}

fn make(shown: &Shown) -> Result<TrayIcon, tray_icon::Error> {
    let mut builder = TrayIconBuilder::new()
        .with_id(ID)
        .with_title("minitunnel")
        .with_tooltip(&shown.tooltip)
        .with_menu(Box::new(built(&shown.menu)));
    if let Some(icon) = icon::tray(shown.mood) {
        builder = builder.with_icon(icon);
    }
    builder.build()
}

fn update(icon: &TrayIcon, shown: &Shown, old: Option<&Shown>) {
    let is_new = |same: fn(&Shown, &Shown) -> bool| old.is_none_or(|old| !same(old, shown));
    if is_new(|a, b| a.menu == b.menu) {
        icon.set_menu(Some(Box::new(built(&shown.menu))));
    }
    let changed = [
        is_new(|a, b| a.mood == b.mood).then(|| icon.set_icon(icon::tray(shown.mood))),
        is_new(|a, b| a.tooltip == b.tooltip).then(|| icon.set_tooltip(Some(&shown.tooltip))),
    ];
    for error in changed.into_iter().flatten().filter_map(Result::err) {
        tracing::warn!(%error, "the panel's icon can't be changed");
    }
}

/// The identity of an action in menus: the same for the same, so that a click on a menu that has changed meanwhile still
/// means what was read there.
pub(crate) fn id(action: &Action) -> String {
    format!("{action:?}")
}

/// The actions of a menu by their identity.
pub(crate) fn actions(menu: &Menu) -> BTreeMap<String, Action> {
    let mut all = BTreeMap::new();
    collect(&menu.0, &mut all);
    all
}

fn collect(items: &[Item], all: &mut BTreeMap<String, Action>) {
    for item in items {
        match item {
            Item::Click(_, action) | Item::Check { action, .. } => {
                all.insert(id(action), action.clone());
            }
            Item::Submenu { items, .. } => collect(items, all),
            Item::Text(_) | Item::Separator => {}
        }
    }
}

fn built(menu: &Menu) -> PanelMenu {
    let built = PanelMenu::new();
    for item in &menu.0 {
        // It fails for menus of other systems alone.
        let _ = built.append(&*entry(item));
    }
    built
}

fn entry(item: &Item) -> Box<dyn IsMenuItem> {
    match item {
        Item::Text(text) => Box::new(MenuItem::new(literal(text), false, None)),
        Item::Click(label, action) => {
            Box::new(MenuItem::with_id(id(action), literal(label), true, None))
        }
        Item::Check { label, on, action } => Box::new(CheckMenuItem::with_id(
            id(action),
            literal(label),
            true,
            *on,
            None,
        )),
        Item::Submenu { label, mood, items } => {
            let submenu = Submenu::new(literal(label), true);
            submenu.set_icon(icon::dot(*mood));
            for item in items {
                let _ = submenu.append(&*entry(item));
            }
            Box::new(submenu)
        }
        Item::Separator => Box::new(PredefinedMenuItem::separator()),
    }
}

/// A label in which no character stands for a key.
fn literal(label: &str) -> String {
    label.replace('&', "&&")
}
