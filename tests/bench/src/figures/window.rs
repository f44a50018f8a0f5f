//! The window: its first content, 500 services that change at once, what it costs beside the session and after it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{
    FakeIcon, FakePanel, MenuEntry, Process, Result, Signal, WAIT, Window, eventually,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::thousand::{by_four, create};
use crate::api;
use crate::report::{Figure, Limit, Reading};
use crate::scene::{PROFILE, Scene};
use crate::stats::percentile;
use crate::watch::Services;

const SERVICES: usize = 500;
/// Windows that are opened in a run.
const TIMES: usize = 5;
/// Services that the menu lists.
const LISTED: usize = 15;
/// What a window drew at first is over by then.
const SETTLE: Duration = Duration::from_secs(2);

/// When the page's first content was drawn, in milliseconds since 1970 (Paint Timing); null before that.
const FIRST_CONTENT: &str =
    "const [paint] = performance.getEntriesByName('first-contentful-paint');
    return paint ? performance.timeOrigin + paint.startTime : null;";
/// Draws frames until every row in sight has that port; when that was, and how long the longest frame took (milliseconds).
const ALL_WITH_PORT: &str = "const [port, done] = arguments;
    let longest = 0, before = performance.now();
    const look = now => {
        longest = Math.max(longest, now - before);
        before = now;
        const cells = [...document.querySelectorAll('tbody th + td + td')].map(cell => cell.innerText.trim());
        if (cells.length && cells.every(text => text === port)) done([Date.now(), longest]);
        else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);";

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let figure = |name, unit, most| Figure::new(name, unit, Limit::Fixed(most));
    let told = |name, unit| Figure::new(name, unit, Limit::None);
    let mut open = figure("window: started -> first content drawn, p50", "ms", 400.0);
    let name = "500 services changing at once: last seen by a watcher -> window's table right";
    let mut table = figure(name, "ms", 500.0);
    let mut menu = figure("  -> tray's menu right", "ms", 500.0);
    let mut frame = told("  longest frame of the window meanwhile", "ms");
    let mut memory = told("window: memory (PSS) of its processes, 500 services", "MB");
    let name = "tray: memory (PSS) after a window was opened and closed, whole tree, 100 services";
    let mut after = figure(name, "MB", 14.0);
    let scene = Scene::new().await?;
    let display = scene.display().await?;
    let session = scene.session_bus().await?;
    let mut services = Services::start(&scene.client).await?;
    let mut port = 80;
    for _ in 0..runs {
        create(&scene, 0..100).await?;
        let mut panel = FakePanel::start(&session).await?;
        let mut tray = session.command("minitunnel-tray");
        let mut tray = Process::spawn(tray.env("DISPLAY", display.name())).await?;
        let icon = panel.icon().await?;
        icon.click("Start").await?;
        icon.entry(&format!("{PROFILE} – connected")).await?;
        services.all_assigned(100).await?;
        after.add(Reading::of(opened_and_closed(&scene, &tray, &icon).await?));

        create(&scene, 100..SERVICES).await?;
        services.all_assigned(SERVICES).await?;
        let mut opened = Vec::new();
        for _ in 0..TIMES {
            let window = scene.window(&display).await?;
            opened.push(first_content(&scene, &window).await?);
            window.close().await?;
        }
        open.add(Reading {
            samples: TIMES,
            ..Reading::of(percentile(&opened, 0.5))
        });

        let window = scene.window(&display).await?;
        window
            .heading(&format!("LoadBalancer services ({SERVICES})"))
            .await?;
        port += 1;
        let change = change(&scene, &mut services, &window, &icon, port).await?;
        table.add(Reading::of(change.table));
        menu.add(Reading::of(change.menu));
        frame.add(Reading::of(change.frame));
        sleep(SETTLE).await;
        let costs = scene.proc(window.pid().await?);
        memory.add(Reading::of(costs.tree_pss()?));
        window.close().await?;
        tray.signal(Signal::TERM)?;
        tray.success(WAIT).await?;
        api::delete_all(&scene.client).await?;
        services.none().await?;
    }
    Ok(vec![open, table, menu, frame, memory, after])
}

/// From the start of its process, which is known to 10 ms, to the first content that its page has drawn.
async fn first_content(scene: &Scene, window: &Window) -> Result<Duration> {
    let drawn = eventually(WAIT, "the window's first content", async || {
        let drawn = window.page().execute(FIRST_CONTENT, Vec::new()).await?;
        drawn.as_f64().context("nothing is drawn yet")
    })
    .await?;
    let started = scene.proc(window.pid().await?).started()?;
    let drawn = UNIX_EPOCH + Duration::from_secs_f64(drawn / 1e3);
    Ok(drawn.duration_since(started)?)
}

/// What a change of all services took, in milliseconds.
struct Change {
    table: f64,
    menu: f64,
    frame: f64,
}

/// Changes the port of all services, and waits for the window and the menu to show it.
async fn change(
    scene: &Scene,
    services: &mut Services,
    window: &Window,
    icon: &FakeIcon,
    port: u16,
) -> Result<Change> {
    let table = async {
        let told = window
            .page()
            .execute_async(ALL_WITH_PORT, vec![json!(port.to_string())])
            .await?;
        let number = |at: usize| {
            told.get(at)
                .and_then(Value::as_f64)
                .context("an odd answer")
        };
        Result::Ok((
            UNIX_EPOCH + Duration::from_secs_f64(number(0)? / 1e3),
            number(1)?,
        ))
    };
    let menu = async {
        let end = format!(":{port}");
        let listed = |menu: &MenuEntry| {
            menu.labels()
                .iter()
                .filter(|label| label.ends_with(&end))
                .count()
        };
        icon.menu_with("the new ports", |menu| listed(menu) == LISTED)
            .await?;
        Result::Ok(Instant::now())
    };
    let changes = async {
        by_four(scene, 0..SERVICES, async |client, name| {
            api::set_port(client, name, port).await
        })
        .await?;
        let last = services.all_with_port(SERVICES, port).await?;
        Result::Ok((last, SystemTime::now() - last.elapsed()))
    };
    let ((table, frame), menu, (last, last_by_clock)) = tokio::try_join!(table, menu, changes)?;
    let millis = |took: Duration| took.as_secs_f64() * 1e3;
    Ok(Change {
        // What was right before the watcher was told is right at once.
        table: millis(table.duration_since(last_by_clock).unwrap_or_default()),
        menu: millis(menu.saturating_duration_since(last)),
        frame,
    })
}

/// The memory of a tray and of all its processes, after the window that it had opened is gone.
async fn opened_and_closed(scene: &Scene, tray: &Process, icon: &FakeIcon) -> Result<f64> {
    let costs = scene.costs(tray)?;
    icon.click("Open window").await?;
    let page = eventually(WAIT, "the page of the tray's window", async || {
        let mut tree = costs.tree()?.into_iter();
        tree.find(|each| {
            each.name()
                .is_ok_and(|name| name.starts_with("WebKitWebProc"))
        })
        .context("there is none")
    })
    .await?;
    page.at_rest().await?;
    scene.end_window().await?;
    eventually(WAIT, "the window's end", async || {
        ensure!(costs.tree()?.len() == 1);
        Ok(())
    })
    .await?;
    sleep(SETTLE).await;
    costs.tree_pss()
}
