//! The window of a lab's person, driven through WebDriver on a display of its own.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::time::{error::Elapsed, timeout};

use crate::{Lab, Place, Process, Result, WAIT, eventually, run};

/// The display's number: each lab has its own sockets.
const DISPLAY: &str = ":7";
/// The driver's address: each lab has its own network.
const DRIVER: &str = "127.0.0.1:4444";

/// A virtual display in a lab, without a window manager.
#[derive(Debug)]
pub struct Display {
    lab: Place,
    program: std::path::PathBuf,
    _server: Process,
}

/// How the window is opened.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Whether the desktop is dark.
    pub dark: bool,
    /// The window's size.
    pub size: (u32, u32),
}

impl Default for Look {
    fn default() -> Self {
        Self {
            dark: false,
            size: (1060, 760),
        }
    }
}

/// An open window. It is closed, with its driver, when dropped.
#[derive(Debug)]
pub struct Window {
    place: Place,
    page: Client,
    driver: Process,
}

impl Display {
    /// Starts it.
    pub async fn start(lab: &Lab) -> Result<Self> {
        // The folder of the displays' sockets is the machine's, as all of /tmp.
        lab.sh("mkdir -p /tmp/.X11-unix && mount -t tmpfs -o mode=1777 tmpfs /tmp/.X11-unix")
            .await?;
        let mut server = lab.command("Xvfb");
        server.args([DISPLAY, "-ac", "-nolock", "-nolisten", "tcp", "-noreset"]);
        server.args(["-screen", "0", "1920x1200x24", "-displayfd", "1"]);
        let server = Process::spawn(&mut server).await?;
        server.wait_for_line(&DISPLAY[1..], WAIT).await?;
        Ok(Self {
            lab: Place::clone(lab),
            program: lab.program("minitunnel-window")?,
            _server: server,
        })
    }

    /// Its name, as programs have it in their environment.
    pub fn name(&self) -> &'static str {
        DISPLAY
    }

    /// Opens the window of a person, by default root's.
    pub async fn open(&self, user: Option<&str>, look: Look) -> Result<Window> {
        let place = match user {
            Some(user) => self.lab.user(user),
            None => self.lab.clone(),
        };
        let (driver, page) = match self.drive(&place, look).await {
            // Now and then the driver never answers (WebKitGTK 2.50): another one does.
            Err(error) if error.is::<Elapsed>() => {
                let end = "pkill -KILL --full '^[^ ]*minitunnel-window' || true";
                self.lab.sh(end).await?;
                self.drive(&place, look).await?
            }
            opened => opened?,
        };
        let (width, height) = look.size;
        within(page.set_window_size(width, height)).await?;
        Ok(Window {
            place,
            page,
            driver,
        })
    }

    /// A driver, and the window that it has opened.
    async fn drive(&self, place: &Place, look: Look) -> Result<(Process, Client)> {
        let mut driver = place.command("WebKitWebDriver");
        let (host, port) = DRIVER.split_once(':').context("an address has a port")?;
        driver
            .args([format!("--host={host}"), format!("--port={port}")])
            .env("DISPLAY", DISPLAY)
            .env("TAURI_AUTOMATION", "true")
            .env("TAURI_WEBVIEW_AUTOMATION", "true")
            .env(
                "GTK_THEME",
                if look.dark { "Adwaita:dark" } else { "Adwaita" },
            )
            // Without a graphics card.
            .env("WEBKIT_DISABLE_DMABUF_RENDERER", "1")
            .env("NO_AT_BRIDGE", "1");
        let driver = Process::spawn(&mut driver).await?;
        eventually(WAIT, "the driver of the window", async || {
            let _ = tokio::net::TcpStream::connect(DRIVER).await?;
            Ok(())
        })
        .await?;
        let options = json!({ "binary": self.program, "args": [] });
        let capabilities = [("webkitgtk:browserOptions".to_owned(), options)];
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities.into_iter().collect());
        let address = format!("http://{DRIVER}");
        let opened = timeout(WAIT, builder.connect(&address)).await?;
        let page = opened.with_context(|| driver.report("does not open the window"))?;
        Ok((driver, page))
    }
}

/// What the driver answers, but not for ever; it may itself wait for so long.
async fn within<T, E: Into<anyhow::Error>>(
    call: impl Future<Output = std::result::Result<T, E>>,
) -> Result<T> {
    let answer = timeout(2 * WAIT, call).await;
    answer
        .context("the window's driver does not answer")?
        .map_err(Into::into)
}

impl Window {
    /// The page.
    pub fn page(&self) -> &Client {
        &self.page
    }

    /// The window's own process, as the lab sees it.
    pub async fn pid(&self) -> Result<u32> {
        let found = run(self
            .place
            .command("pgrep")
            .args(["--full", "^[^ ]*minitunnel-window"]))
        .await?;
        Ok(found.trim().parse()?)
    }

    /// Waits for an element by XPath.
    pub async fn find(&self, xpath: &str) -> Result<Element> {
        let found = self
            .page
            .wait()
            .at_most(WAIT)
            .every(Duration::from_millis(20));
        match within(found.for_element(Locator::XPath(xpath))).await {
            Ok(element) => Ok(element),
            Err(error) => {
                let seen = self.text().await.unwrap_or_default();
                Err(error).with_context(|| format!("no {xpath} in the window:\n{seen}"))
            }
        }
    }

    /// Clicks the button of that name.
    pub async fn click(&self, name: &str) -> Result {
        let named = format!(
            "//button[@aria-label='{name}' or normalize-space()='{name}' or starts-with(normalize-space(), '{name} ')]"
        );
        within(self.find(&named).await?.click()).await
    }

    /// Chooses a profile in the list.
    pub async fn choose(&self, profile: &str) -> Result {
        let button = self.find(&format!("//nav//button[b='{profile}']")).await?;
        within(button.click()).await?;
        self.heading(profile).await
    }

    /// Waits for a heading.
    pub async fn heading(&self, text: &str) -> Result {
        let xpath = format!(r#"//*[self::h1 or self::h2 or self::h3][normalize-space()="{text}"]"#);
        self.find(&xpath).await.map(drop)
    }

    /// Waits until the page shows a text.
    pub async fn see(&self, text: &str) -> Result {
        eventually(WAIT, &format!("\"{text}\" in the window"), async || {
            let shown = self.text().await?;
            ensure!(shown.contains(text), "it shows:\n{shown}");
            Ok(())
        })
        .await
    }

    /// What the page shows.
    pub async fn text(&self) -> Result<String> {
        let text = self
            .page
            .execute("return document.body.innerText", Vec::new());
        let text = within(text).await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the tunnel's state in the head begins so.
    pub async fn state(&self, state: &str) -> Result {
        let xpath =
            format!("//header//*[@role='status'][starts-with(normalize-space(), '{state}')]");
        self.find(&xpath).await.map(drop)
    }

    /// What axe-core finds wrong in the page as it is drawn, colours included.
    pub async fn violations(&self, axe: &str) -> Result<Vec<String>> {
        within(self.page.execute(axe, Vec::new())).await?;
        let run = "const done = arguments[arguments.length - 1]; axe.run(document).then(found => done(found.violations.flatMap(
            each => each.nodes.map(node => `${each.id}: ${node.html} ${node.failureSummary}`))))";
        let found = within(self.page.execute_async(run, Vec::new())).await?;
        let found: Vec<String> = serde_json::from_value(found)?;
        Ok(found)
    }

    /// Writes a picture of the page, as PNG.
    pub async fn picture(&self, path: &Path) -> Result {
        // Two frames, so that what was asked for is drawn.
        let frames = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))";
        within(self.page.execute_async(frames, Vec::<Value>::new())).await?;
        std::fs::write(path, within(self.page.screenshot()).await?)?;
        Ok(())
    }

    /// Ends its driver, after its own end.
    pub async fn ended(mut self) -> Result {
        self.driver.kill().await
    }

    /// Closes it.
    pub async fn close(mut self) -> Result {
        within(self.page.close()).await?;
        self.driver.kill().await
    }
}
