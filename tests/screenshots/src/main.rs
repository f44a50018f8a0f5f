//! Pictures of the window in each state, dark and light, small and large: the real window under a virtual display, as a view
//! of a session that says what the model's examples are. Each is looked over by axe as well.
//!
//! `minitunnel-screenshots FOLDER [NAME]`
//!
//! Writes `NAME-light.png` and `NAME-dark.png` for each screen, or for those whose name has NAME in it.

mod session;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{Display, Lab, Look, Result, Window};
use minitunnel_model::{Snapshot, Timestamp, examples};

const MIDDLE: (u32, u32) = (1060, 760);
const SMALL: (u32, u32) = (640, 480);
const LARGE: (u32, u32) = (1600, 1000);

/// A picture: its name, the window's size, what the session says, and what is clicked before it is taken.
struct Screen {
    name: &'static str,
    size: (u32, u32),
    snapshot: Option<Snapshot>,
    steps: &'static [Step],
}

enum Step {
    Choose(&'static str),
    Click(&'static str),
    /// Scrolls the page by pixels.
    Scroll(u32),
    See(&'static str),
}
use Step::{Choose, Click, Scroll, See};

fn screens() -> Vec<Screen> {
    let now = Timestamp::now();
    let desk = || Some(examples::desk(now));
    let trouble = || Some(examples::trouble(now));
    let crowd = || Some(examples::crowd(now));
    let calm = || {
        let mut snapshot = examples::trouble(now);
        snapshot.settings_problems.clear();
        Some(snapshot)
    };
    let mut screens = Vec::new();
    let mut add = |name, size, snapshot, steps| {
        screens.push(Screen {
            name,
            size,
            snapshot,
            steps,
        });
    };
    add("connected", MIDDLE, desk(), &[Choose("shop")] as &[Step]);
    add("connected-large", LARGE, desk(), &[Choose("shop")]);
    add("connected-small", SMALL, desk(), &[Choose("shop")]);
    add(
        "connected-small-below",
        SMALL,
        desk(),
        &[Choose("shop"), Scroll(430)],
    );
    add("conflict", MIDDLE, desk(), &[Choose("payments")]);
    add("conflict-small", SMALL, desk(), &[Choose("payments")]);
    add("stopped", MIDDLE, desk(), &[Choose("playground")]);
    add("cluster-down", MIDDLE, desk(), &[Choose("minikube")]);
    add("consent", MIDDLE, calm(), &[Choose("consent")]);
    add("dialog", MIDDLE, calm(), &[Choose("dialog")]);
    add("lock", MIDDLE, calm(), &[Choose("lock")]);
    add("connecting", MIDDLE, calm(), &[Choose("connecting")]);
    add("helper-missing", MIDDLE, calm(), &[Choose("helperless")]);
    add("not-authorized", MIDDLE, calm(), &[Choose("refused")]);
    add("fight", MIDDLE, calm(), &[Choose("fight")]);
    add("forwarded", MIDDLE, calm(), &[Choose("laptop")]);
    add("unsupported", MIDDLE, calm(), &[Choose("emulated")]);
    add("local", MIDDLE, calm(), &[Choose("local")]);
    add("leftovers", MIDDLE, calm(), &[Choose("crashed")]);
    add("broken", MIDDLE, trouble(), &[Choose("broken")]);
    add("gone", MIDDLE, calm(), &[Choose("vanished")]);
    add("crowd", MIDDLE, crowd(), &[]);
    add("crowd-small", SMALL, crowd(), &[]);
    add("empty", MIDDLE, Some(examples::empty()), &[]);
    add("empty-small", SMALL, Some(examples::empty()), &[]);
    add("no-session", MIDDLE, None, &[]);
    add(
        "cleanup",
        MIDDLE,
        desk(),
        &[Choose("shop"), Click("Clean up…"), See("Found 3 things")],
    );
    add(
        "cleanup-small",
        SMALL,
        desk(),
        &[Choose("shop"), Click("Clean up…"), See("Found 3 things")],
    );
    add(
        "settings",
        MIDDLE,
        desk(),
        &[Choose("shop"), Click("Settings…"), See("Start at login")],
    );
    add(
        "settings-small",
        SMALL,
        desk(),
        &[Choose("shop"), Click("Settings…"), See("Start at login")],
    );
    screens
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(
        arguments
            .next()
            .context("usage: minitunnel-screenshots FOLDER [NAME]")?,
    );
    let wanted = arguments.next().unwrap_or_default();
    std::fs::create_dir_all(&folder)?;
    let axe =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ui/node_modules/axe-core/axe.min.js");
    let axe = std::fs::read_to_string(&axe)
        .with_context(|| format!("no {}: run `npm ci` in ui", axe.display()))?;

    let lab = Lab::new()?;
    // As on a machine that has minikube: nothing else is asked of it here.
    lab.sh("ln -s /bin/true \"${PATH%%:*}/minikube\"").await?;
    let display = Display::start(&lab).await?;
    let mut found = Vec::new();
    let mut taken = 0;
    for screen in screens() {
        if !screen.name.contains(&wanted) {
            continue;
        }
        for dark in [false, true] {
            let theme = if dark { "dark" } else { "light" };
            let name = format!("{}-{theme}", screen.name);
            let session = match &screen.snapshot {
                Some(snapshot) => {
                    Some(session::start(&lab, snapshot.clone(), examples::cleanup())?)
                }
                None => None,
            };
            let look = Look {
                dark,
                size: screen.size,
            };
            let window = display.open(None, look).await?;
            take(&window, &screen, &folder.join(format!("{name}.png")))
                .await
                .with_context(|| name.clone())?;
            for violation in window.violations(&axe).await? {
                found.push(format!("{name}: {violation}"));
            }
            window.close().await?;
            if let Some(mut session) = session {
                session.shutdown().await;
            }
            taken += 1;
        }
    }
    println!("{taken} pictures in {}", folder.display());
    ensure!(
        found.is_empty(),
        "axe finds {}:\n{}",
        found.len(),
        found.join("\n")
    );
    Ok(())
}

async fn take(window: &Window, screen: &Screen, path: &Path) -> Result {
    window.find("//h1").await?;
    for step in screen.steps {
        match step {
            Choose(profile) => window.choose(profile).await?,
            Click(button) => window.click(button).await?,
            See(text) => window.see(text).await?,
            Scroll(by) => {
                let script = format!("document.querySelector('main').scrollTop = {by}");
                window.page().execute(&script, Vec::new()).await?;
            }
        }
    }
    window.picture(path).await
}
