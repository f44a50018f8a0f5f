//! The tray as a panel, a user and a notification server see it: the real program on a real session bus, with a real API
//! server and polkit.

mod clicks;
mod demo;
mod life;
mod notices;

use std::ops::Deref;

use anyhow::ensure;
use minitunnel_e2e::{
    ALLOW, Exposed, FakeIcon, FakePanel, MenuEntry, Process, Result, Scene, SessionBus, SystemBus,
    WAIT, eventually,
};

/// Alice's desktop, beside a cluster with one LoadBalancer service.
struct Desk {
    session: SessionBus,
    _bus: SystemBus,
    scene: Scene,
    web: Exposed,
}

impl Desk {
    async fn new() -> Result<Self> {
        let scene = Scene::api_only().await?;
        Self::in_scene(scene).await
    }

    async fn in_scene(scene: Scene) -> Result<Self> {
        let bus = SystemBus::start(&scene.lab, ALLOW).await?;
        let session = SessionBus::start(&scene.lab.user("alice")).await?;
        let web = scene.cluster.expose("web", "LoadBalancer").await?;
        Ok(Self {
            session,
            _bus: bus,
            scene,
            web,
        })
    }

    /// Starts Alice's tray.
    async fn tray(&self) -> Result<Process> {
        Process::spawn(self.session.command("minitunnel-tray").arg("-v")).await
    }

    /// Starts it with a panel, and waits for its icon.
    async fn shown(&self) -> Result<(Process, FakePanel, FakeIcon)> {
        let mut panel = FakePanel::start(&self.session).await?;
        let tray = self.tray().await?;
        let icon = panel.icon().await?;
        Ok((tray, panel, icon))
    }

    /// The entry with which the service's address is copied.
    fn address(&self) -> String {
        format!("default/web  {}:80", self.web.ip())
    }

    /// Waits for the kernel's table to have the route, or not.
    async fn wait_for_route(&self, there: bool) -> Result {
        eventually(WAIT, "the kernel's table", async || {
            let routes = self.lab.routes().await?;
            let has = routes.iter().any(|route| route.contains("10.96.0.0/12"));
            ensure!(has == there, "{routes:#?}");
            Ok(())
        })
        .await
    }

    /// The tunnel is up, and the menu says so.
    async fn is_up(&self, icon: &FakeIcon) -> Result<MenuEntry> {
        self.wait_for_route(true).await?;
        icon.entry("minikube – connected").await?;
        icon.entry(&self.address()).await?;
        self.cluster.wait_for_addresses("web").await?;
        let menu = icon.entry("minikube – connected").await?;
        ensure!(
            menu.find("10.96.0.0/12 via 192.168.49.2 (services)")
                .is_some(),
            "{:#?}",
            menu.labels()
        );
        Ok(menu)
    }

    /// Nothing of it is left, and the menu says so.
    async fn is_down(&self, icon: &FakeIcon) -> Result {
        self.wait_for_before().await?;
        ensure!(self.cluster.addresses("web").await? == [""; 0]);
        icon.entry("minikube – off").await?;
        icon.entry("default/web: the tunnel is not up").await?;
        Ok(())
    }
}

impl Deref for Desk {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}
