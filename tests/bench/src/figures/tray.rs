//! The tray: its start, its memory, a click, a minute in which nothing happens.

use std::time::Duration;

use minitunnel_e2e::{FakeIcon, FakePanel, Process, Result, SessionBus, Signal, WAIT};
use tokio::time::{Instant, sleep};

use crate::api;
use crate::report::{Figure, Limit, Reading};
use crate::scene::{PROFILE, Scene};
use crate::stats::percentile;

/// Starts, and clicks, in a run.
const TIMES: usize = 20;
/// Services beside the first profile's, of which there are three.
const SERVICES: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);
/// What the last service brought about is over by then; it is not idling.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let figure = |name, unit, most| Figure::new(name, unit, Limit::Fixed(most));
    let mut start = figure("tray: start -> icon registered, p50", "ms", 50.0);
    let mut click = figure("tray: click Start -> menu says connected, p50", "ms", 150.0);
    let mut memory = figure(
        "tray: memory (PSS) idle, 3 profiles, 100 services",
        "MB",
        14.0,
    );
    let mut cpu = figure("tray: 60 s idle: CPU", "s", 0.05);
    let mut wakeups = Figure::new("  wakeups", "", Limit::None);
    let mut scene = Scene::new().await?;
    let mut others = Vec::new();
    for number in 1..=2 {
        others.push(scene.add(number).await?);
    }
    for at in 0..SERVICES {
        api::create(&scene.client, &format!("web-{at}")).await?;
    }
    let session = scene.session_bus().await?;
    for _ in 0..runs {
        let mut starts = Vec::new();
        for _ in 0..TIMES {
            let (tray, _panel, _icon, took) = started(&scene, &session).await?;
            starts.push(took);
            end(tray).await?;
        }
        start.add(reading(&starts));

        let (tray, _panel, icon, _) = started(&scene, &session).await?;
        let profile = format!("{PROFILE} – ");
        let (off, on) = (format!("{PROFILE} – off"), format!("{PROFILE} – connected"));
        let mut clicks = Vec::new();
        for _ in 0..TIMES {
            icon.entry(&off).await?;
            let begun = Instant::now();
            icon.click_in(&profile, "Start").await?;
            icon.entry(&on).await?;
            clicks.push(begun.elapsed());
            icon.click_in(&profile, "Stop").await?;
        }
        click.add(reading(&clicks));
        icon.entry(&off).await?;
        icon.click_in(&profile, "Start").await?;
        icon.entry(&on).await?;
        sleep(SETTLE).await;
        let costs = scene.costs(&tray)?;
        memory.add(Reading::of(costs.pss()?));
        let before = (costs.used()?, costs.wakeups()?);
        sleep(MINUTE).await;
        let after = (costs.used()?, costs.wakeups()?);
        cpu.add(Reading::of(after.0.cpu_since(&before.0)));
        wakeups.add(Reading::of((after.1 - before.1) as f64));
        end(tray).await?;
    }
    Ok(vec![start, click, memory, cpu, wakeups])
}

fn reading(samples: &[Duration]) -> Reading {
    Reading {
        samples: samples.len(),
        ..Reading::of(percentile(samples, 0.5))
    }
}

/// Starts the tray beside a new panel, and tells how long it took to have its icon there.
async fn started(
    scene: &Scene,
    session: &SessionBus,
) -> Result<(Process, FakePanel, FakeIcon, Duration)> {
    let mut panel = FakePanel::start(session).await?;
    let mut held = session.command("sh");
    held.args(["-c", "echo held && read -r _ && exec \"$@\"", "sh"]);
    let mut tray = Process::spawn(held.arg("minitunnel-tray")).await?;
    tray.wait_for_line("held", WAIT).await?;
    let begun = scene.let_go(&mut tray).await?;
    let icon = panel.icon().await?;
    Ok((tray, panel, icon, begun.elapsed()))
}

async fn end(mut tray: Process) -> Result {
    tray.signal(Signal::TERM)?;
    tray.success(WAIT).await
}
