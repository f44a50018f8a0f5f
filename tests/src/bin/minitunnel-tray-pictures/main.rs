//! Pictures of the tray on a real panel (Xfce's), dark and light: for people to look at, and for the README.
//!
//! `minitunnel-tray-pictures FOLDER` makes them, as root: three clusters of a lab, each with an API server, and Alice's
//! desktop on a screen of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{
    ALLOW, ClusterOptions, Process, Result, Scene, SessionBus, SystemBus, WAIT, eventually, run,
};
use tokio::process::Command;

/// Menus and notices are drawn some frames after they are asked for, and nothing tells when.
const DRAWN: Duration = Duration::from_millis(1_200);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.context("the folder for the pictures is missing")?;
    std::fs::create_dir_all(&folder)?;
    let folder = std::fs::canonicalize(folder)?;
    let mut scene = Scene::api_only().await?;
    scene.cluster.expose("web", "LoadBalancer").await?;
    scene.cluster.expose("dashboard", "LoadBalancer").await?;
    let class =
        serde_json::json!({ "type": "LoadBalancer", "loadBalancerClass": "example.com/lb" });
    scene.cluster.expose_as("classed", class).await?;
    let staging = ClusterOptions {
        service_cidrs: vec!["10.112.0.0/12".to_owned()],
        ..ClusterOptions::second("staging")
    };
    let staging = scene.add(staging).await?;
    staging.expose("shop", "LoadBalancer").await?;
    let _bus = SystemBus::start(&scene.lab, ALLOW).await?;
    for theme in ["light", "dark"] {
        let screen = Screen::start(&scene, theme, &folder).await?;
        screen.pictures(&scene).await?;
    }
    Ok(())
}

/// Alice's desktop.
struct Screen {
    session: SessionBus,
    display: String,
    theme: &'static str,
    folder: PathBuf,
    _parts: Vec<Process>,
}

impl Screen {
    async fn start(scene: &Scene, theme: &'static str, folder: &Path) -> Result<Self> {
        let alice = scene.lab.user("alice");
        let mut server = alice.command("Xvfb");
        server.args([
            "-displayfd",
            "1",
            "-screen",
            "0",
            "1000x620x24",
            "-nolisten",
            "tcp",
        ]);
        let server = Process::spawn(&mut server).await?;
        let number = eventually(WAIT, "the screen's number", async || {
            Ok(server.stdout().trim().parse::<u32>()?)
        })
        .await?;
        let session = SessionBus::start(&alice).await?;
        let mut screen = Self {
            session,
            display: format!(":{number}"),
            theme,
            folder: folder.to_owned(),
            _parts: vec![server],
        };
        let gtk = alice.home().join(".config/gtk-3.0");
        std::fs::create_dir_all(&gtk)?;
        let dark = u8::from(theme == "dark");
        let settings = format!(
            "[Settings]\ngtk-application-prefer-dark-theme={dark}\ngtk-menu-images=1\ngtk-font-name=DejaVu Sans 10\n"
        );
        std::fs::write(gtk.join("settings.ini"), settings)?;
        let panels = alice
            .home()
            .join(".config/xfce4/xfconf/xfce-perchannel-xml");
        std::fs::create_dir_all(&panels)?;
        std::fs::write(panels.join("xfce4-panel.xml"), include_str!("panel.xml"))?;
        let home = alice.home();
        scene
            .lab
            .sh(&format!("chown -R alice {}/.config", home.display()))
            .await?;
        let back = if theme == "dark" {
            "#2b3440"
        } else {
            "#b9c6d3"
        };
        let mut background = screen.command("xsetroot");
        run(background.args(["-solid", back])).await?;
        for (program, arguments) in [
            ("openbox", vec![]),
            ("dunst", vec![]),
            ("xfce4-panel", vec!["--disable-wm-check"]),
            ("minitunnel-tray", vec!["-v"]),
        ] {
            let part = Process::spawn(screen.command(program).args(arguments)).await?;
            screen._parts.push(part);
        }
        Ok(screen)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.session.command(program);
        command.env("DISPLAY", &self.display);
        command
    }

    async fn pictures(&self, scene: &Scene) -> Result {
        eventually(WAIT, "the icon in the panel", async || {
            let bus = self.session.connect().await?;
            let names = zbus::fdo::DBusProxy::new(&bus).await?.list_names().await?;
            let icon = names
                .iter()
                .any(|name| name.as_str().starts_with("org.kde.StatusNotifierItem-"));
            let panel = names
                .iter()
                .any(|name| name.as_str() == "org.kde.StatusNotifierWatcher");
            ensure!(icon && panel, "{names:?}");
            Ok(())
        })
        .await?;
        self.menu("off", 1).await?;
        run(scene
            .alice("minitunnel")
            .args(["up", "--detach", "-p", "minikube"]))
        .await?;
        scene.cluster.wait_for_addresses("web").await?;
        self.menu("connected", 1).await?;
        // A VPN's route lies in the range of the other cluster.
        scene
            .lab
            .sh("ip route add 10.113.0.0/16 via 192.168.49.7")
            .await?;
        let mut up = Process::spawn(
            scene
                .alice("minitunnel")
                .args(["up", "--detach", "-p", "staging"]),
        )
        .await?;
        up.exit(WAIT).await?;
        self.menu("conflict", 2).await?;
        scene.lab.sh("ip route del 10.113.0.0/16").await?;
        run(scene.alice("minitunnel").arg("down")).await?;
        Ok(())
    }

    /// Opens the icon's menu and the submenu of that number in it, and takes a picture.
    async fn menu(&self, name: &str, nth: usize) -> Result {
        // The icon is the only thing on the panel, at its right end.
        self.xdo("mousemove 985 12 click 3").await?;
        tokio::time::sleep(DRAWN).await;
        self.xdo(&format!("{}key Right", "key Down ".repeat(nth)))
            .await?;
        tokio::time::sleep(DRAWN).await;
        let file = self.folder.join(format!("tray-{name}-{}.png", self.theme));
        let mut import = Command::new("import");
        import
            .env("DISPLAY", &self.display)
            .args(["-window", "root"])
            .arg(&file);
        run(&mut import).await?;
        println!("{}", file.display());
        self.xdo("key Escape key Escape").await
    }

    async fn xdo(&self, words: &str) -> Result {
        run(self.command("xdotool").args(words.split(' '))).await?;
        Ok(())
    }
}
