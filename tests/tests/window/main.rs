//! The window, driven through WebDriver, on real sessions: it starts and stops tunnels, explains what is in the way, cleans
//! up, and no tunnel notices when it dies.

use anyhow::ensure;
use minitunnel_e2e::{
    ALLOW, Display, Look, Process, Result, Scene, SystemBus, WAIT, Window, eventually, run,
};

mod cleanup;
mod life;
mod settings;
mod tunnel;

/// Alice's desktop, with a cluster of hers.
struct Desk {
    display: Display,
    bus: SystemBus,
    scene: Scene,
}

impl Desk {
    async fn new(scene: Scene) -> Result<Self> {
        let bus = SystemBus::start(&scene.lab, ALLOW).await?;
        let display = Display::start(&scene.lab).await?;
        Ok(Self {
            display,
            bus,
            scene,
        })
    }

    /// A session of hers that stays, without an icon.
    async fn session(&self) -> Result<Process> {
        Process::spawn(self.scene.alice("minitunnel-tray").arg("--headless")).await
    }

    async fn window(&self) -> Result<Window> {
        self.display.open(Some("alice"), Look::default()).await
    }

    /// Waits until the kernel has the route to the services, or has it not.
    async fn route(&self, wanted: bool) -> Result {
        eventually(WAIT, "the kernel's route", async || {
            let routes = self.scene.lab.routes().await?;
            let has = routes.iter().any(|route| route.contains("10.96.0.0/12"));
            ensure!(has == wanted, "{routes:#?}");
            Ok(())
        })
        .await
    }

    /// What kills that process of the lab.
    async fn kill(&self, pid: u32) -> Result {
        self.scene
            .lab
            .sh(&format!("kill -KILL {pid}"))
            .await
            .map(drop)
    }

    async fn minitunnel(&self, arguments: &str) -> Result<String> {
        run(self.scene.alice("minitunnel").args(arguments.split(' '))).await
    }
}
