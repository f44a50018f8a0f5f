//! Panels that come and go, other sessions, second instances, sudden ends.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use minitunnel_e2e::{FakePanel, Process, Result, Signal, WAIT, built_program, eventually};

use crate::Desk;

#[tokio::test]
async fn a_panel_that_comes_late_or_is_restarted_gets_the_icon() -> Result {
    let desk = Desk::new().await?;
    let tray = desk.tray().await?;
    tray.wait_for_line("this desktop shows no icons", WAIT)
        .await?;
    for round in 0..2 {
        let mut panel = FakePanel::start(&desk.session).await?;
        let icon = panel.icon().await?;
        icon.entry("minikube – ").await?;
        icon.click(if round == 0 { "Start" } else { "Stop" })
            .await?;
        if round == 0 {
            desk.is_up(&icon).await?;
        } else {
            desk.is_down(&icon).await?;
        }
        panel.end().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_tray_leaves_no_route_and_the_next_one_cleans_up() -> Result {
    let desk = Desk::new().await?;
    let (mut tray, panel, icon) = desk.shown().await?;
    icon.click("Start").await?;
    desk.is_up(&icon).await?;
    tray.kill().await?;
    desk.wait_for_before().await?;
    panel.end().await?;

    let (_tray, _panel, icon) = desk.shown().await?;
    icon.click("Clean up").await?;
    desk.cluster.wait_for_no_address("web").await?;
    desk.is_down(&icon).await
}

#[tokio::test]
async fn a_session_of_a_terminal_is_shown_and_followed_by_the_trays_own() -> Result {
    let desk = Desk::new().await?;
    let mut up = Process::spawn(desk.alice("minitunnel").arg("up")).await?;
    up.wait_for_line("minikube: connected", WAIT).await?;
    let (mut tray, _panel, icon) = desk.shown().await?;
    desk.is_up(&icon).await?;
    icon.entry("The tunnels are those of a terminal").await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    desk.is_down(&icon).await?;
    icon.menu_with("a session of its own", |menu| {
        menu.find("The tunnels are those of a terminal").is_none()
    })
    .await?;
    icon.click("Start").await?;
    desk.is_up(&icon).await?;
    tray.signal(Signal::TERM)?;
    tray.success(WAIT).await?;
    desk.wait_for_before().await
}

/// A tray beside a window that only says that it was started, and the file of what that says.
async fn silent_window(desk: &Desk) -> Result<(String, PathBuf)> {
    let folder = desk.lab.user("alice").home().join("programs");
    std::fs::create_dir(&folder)?;
    let tray = folder.join("minitunnel-tray");
    std::fs::copy(built_program("minitunnel-tray")?, &tray)?;
    let opened = folder.join("opened");
    let window = folder.join("minitunnel-window");
    let script = format!("#!/bin/sh\necho $PPID $* >>{}\n", opened.display());
    std::fs::write(&window, script)?;
    desk.lab
        .sh(&format!(
            "chmod 755 {0}/minitunnel-window; chown -R alice {0}",
            folder.display()
        ))
        .await?;
    Ok((tray.display().to_string(), opened))
}

/// What the windows that were started have said.
async fn said(opened: &Path) -> Result<String> {
    eventually(WAIT, "the window", async || {
        let said = std::fs::read_to_string(opened)?;
        ensure!(said.ends_with('\n'), "it has said {said:?} so far");
        Ok(said.trim().to_owned())
    })
    .await
}

#[tokio::test]
async fn without_a_panel_the_window_opens_and_says_so() -> Result {
    let desk = Desk::new().await?;
    let (tray, opened) = silent_window(&desk).await?;
    let mut tray = desk.session.command(&tray);
    // The screen is the window's to find.
    let tray = Process::spawn(tray.arg("-v").env("DISPLAY", ":7")).await?;
    let said = said(&opened).await?;
    let expected = format!("{} --no-panel", tray.lab_pid()?);
    assert_eq!(said, expected);
    Ok(())
}

#[tokio::test]
async fn a_second_tray_has_the_first_one_open_its_window_and_ends() -> Result {
    let desk = Desk::new().await?;
    let (tray, opened) = silent_window(&desk).await?;
    let mut panel = FakePanel::start(&desk.session).await?;
    let first = Process::spawn(desk.session.command(&tray).arg("-v")).await?;
    let icon = panel.icon().await?;
    icon.entry("minikube – off").await?;
    let mut second = Process::spawn(&mut desk.session.command("minitunnel-tray")).await?;
    second.success(WAIT).await?;
    let parent = first.lab_pid()?.to_string();
    assert_eq!(said(&opened).await?, parent);
    // At login it opens none.
    let mut third = desk.session.command("minitunnel-tray");
    let mut third = Process::spawn(third.arg("--login")).await?;
    third.success(WAIT).await?;
    // Whatever it had opened would be told of before what the next one has opened.
    let mut fourth = Process::spawn(&mut desk.session.command("minitunnel-tray")).await?;
    fourth.success(WAIT).await?;
    eventually(WAIT, "a second window", async || {
        let said = std::fs::read_to_string(&opened)?;
        ensure!(said.lines().count() > 1, "it has said {said:?} so far");
        Ok(())
    })
    .await?;
    let expected = format!("{parent}\n{parent}");
    let told: Vec<_> = std::fs::read_to_string(&opened)?
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    assert_eq!(told.join("\n"), expected);
    icon.entry("minikube – off").await?;
    Ok(())
}

#[tokio::test]
async fn the_end_of_the_desktops_session_ends_the_tunnel() -> Result {
    let mut desk = Desk::new().await?;
    let (mut tray, _panel, icon) = desk.shown().await?;
    icon.click("Start").await?;
    desk.is_up(&icon).await?;
    desk.session.end().await?;
    tray.success(WAIT).await?;
    desk.wait_for_before().await?;
    assert_eq!(desk.cluster.addresses("web").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn after_an_upgrade_under_it_the_tray_offers_to_restart_with_its_tunnels() -> Result {
    let desk = Desk::new().await?;
    let folder = desk.lab.user("alice").home().join("programs");
    std::fs::create_dir(&folder)?;
    let mine = folder.join("minitunnel-tray");
    std::fs::copy(built_program("minitunnel-tray")?, &mine)?;
    desk.lab
        .sh(&format!("chown -R alice {}", folder.display()))
        .await?;
    let mut panel = FakePanel::start(&desk.session).await?;
    let tray = Process::spawn(desk.session.command(&mine.to_string_lossy()).arg("-v")).await?;
    let icon = panel.icon().await?;
    icon.click("Start").await?;
    desk.is_up(&icon).await?;
    assert!(icon.menu().await?.find("Restart").is_none());
    let new = folder.join("new");
    std::fs::copy(&mine, &new)?;
    std::fs::rename(&new, &mine)?;
    icon.click("Restart to finish the update").await?;
    // The same process, and another icon.
    tray.wait_for_count("session 0.1.0 begins on", 2, WAIT)
        .await?;
    drop(icon);
    let icon = panel.next_icon(1).await?;
    desk.is_up(&icon).await?;
    assert!(icon.menu().await?.find("Restart").is_none());
    tray.signal(Signal::TERM)?;
    Ok(())
}
