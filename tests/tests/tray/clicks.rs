//! What clicks do, and what the menu shows of it.

use std::time::Duration;

use minitunnel_e2e::{ClusterOptions, Process, Result, Scene, Signal, WAIT, eventually};

use crate::Desk;

#[tokio::test]
async fn start_and_stop_in_the_menu_bring_the_tunnel_up_and_down() -> Result {
    let desk = Desk::in_scene(Scene::new(ClusterOptions::default()).await?).await?;
    let page = desk.web.url();
    desk.cluster.served(&page).await?;
    let (mut tray, _panel, icon) = desk.shown().await?;
    icon.entry("minikube – off").await?;
    // An address that nothing routes to never answers: time enough for one that does.
    let soon = Duration::from_millis(700);
    assert!(desk.lab.http_get(&page, soon).await.is_err());
    icon.click("Start").await?;
    desk.is_up(&icon).await?;
    assert_eq!(icon.tooltip().await?, "minikube: connected");
    assert_eq!(desk.lab.http_get(&page, WAIT).await?, 200);
    icon.click("Stop").await?;
    desk.is_down(&icon).await?;
    assert!(desk.lab.http_get(&page, soon).await.is_err());
    icon.click("Start").await?;
    desk.is_up(&icon).await?;
    icon.click("Quit").await?;
    tray.success(WAIT).await?;
    desk.wait_for_before().await?;
    assert_eq!(desk.cluster.addresses("web").await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_left_click_turns_the_tunnel_and_a_signal_ends_it() -> Result {
    let desk = Desk::new().await?;
    let (mut tray, _panel, icon) = desk.shown().await?;
    icon.entry("minikube – off").await?;
    icon.left_click().await?;
    desk.is_up(&icon).await?;
    icon.left_click().await?;
    desk.is_down(&icon).await?;
    icon.left_click().await?;
    desk.is_up(&icon).await?;
    tray.signal(Signal::TERM)?;
    tray.success(WAIT).await?;
    desk.wait_for_before().await
}

#[tokio::test]
async fn the_command_drives_the_trays_session_and_the_menu_follows() -> Result {
    let desk = Desk::new().await?;
    let (mut tray, _panel, icon) = desk.shown().await?;
    icon.entry("minikube – off").await?;
    let mut up = desk.alice("minitunnel");
    let mut up = Process::spawn(up.args(["up", "--detach"])).await?;
    up.success(WAIT).await?;
    desk.is_up(&icon).await?;
    minitunnel_e2e::run(desk.alice("minitunnel").arg("down")).await?;
    desk.is_down(&icon).await?;

    let mut up = Process::spawn(desk.alice("minitunnel").arg("up")).await?;
    desk.is_up(&icon).await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    desk.is_down(&icon).await?;
    tray.signal(Signal::INT)?;
    tray.success(WAIT).await
}

#[tokio::test]
async fn check_items_are_settings_in_the_users_file() -> Result {
    let desk = Desk::new().await?;
    let (_tray, _panel, icon) = desk.shown().await?;
    let checked = async |label: &str| anyhow::Ok(icon.entry(label).await?.checked);
    assert_eq!(checked("Start at login").await?, Some(false));
    let config = desk.lab.user("alice").home().join(".config");
    let entry = config.join("autostart/io.github.minitunnel.desktop");
    icon.click("Start at login").await?;
    // The panel's own check turns with the click; the entry is what the session writes last.
    eventually(WAIT, "the entry for the login", async || {
        anyhow::ensure!(entry.exists());
        Ok(())
    })
    .await?;
    icon.menu_with("the check", |menu| {
        let entry = menu.find("Start at login");
        entry.is_some_and(|entry| entry.checked == Some(true))
    })
    .await?;
    let file = config.join("minitunnel/settings.toml");
    let text = std::fs::read_to_string(&file)?;
    assert!(text.contains("\nstart_at_login = true\n"), "{text}");
    let started = std::fs::read_to_string(&entry)?;
    let program = desk.lab.program("minitunnel-tray")?;
    let exec = format!("\nExec={} --login\n", program.display());
    assert!(started.contains(&exec), "{started}");

    // What the desktop's own settings make of the entry is not undone by another setting.
    let hidden = started + "Hidden=true\n";
    std::fs::write(&entry, &hidden)?;
    icon.click("Start tunnels with their cluster").await?;
    icon.menu_with("the other check", |menu| {
        let entry = menu.find("Start tunnels with their cluster");
        entry.is_some_and(|entry| entry.checked == Some(true))
    })
    .await?;
    eventually(WAIT, "the other setting in the file", async || {
        let text = std::fs::read_to_string(&file)?;
        anyhow::ensure!(text.contains("\nstart_with_cluster = true\n"), "{text}");
        Ok(())
    })
    .await?;
    assert_eq!(std::fs::read_to_string(&entry)?, hidden);

    // The same file by hand.
    std::fs::write(
        &file,
        text.replace("start_at_login = true", "start_at_login = false"),
    )?;
    icon.menu_with("no check", |menu| {
        let entry = menu.find("Start at login");
        entry.is_some_and(|entry| entry.checked == Some(false))
    })
    .await?;
    eventually(WAIT, "no entry for the login", async || {
        anyhow::ensure!(!entry.exists());
        Ok(())
    })
    .await?;
    std::fs::write(&file, "start_at_login = 1\n")?;
    icon.entry("`start_at_login` in ").await?;
    Ok(())
}

#[tokio::test]
async fn a_tunnel_starts_with_its_cluster_where_the_user_says_so() -> Result {
    let desk = Desk::new().await?;
    let (_tray, _panel, icon) = desk.shown().await?;
    icon.entry("minikube – off").await?;
    icon.click("Start tunnels with their cluster").await?;
    desk.is_up(&icon).await?;
    // What the user has stopped stays so, whatever else happens.
    icon.click("Stop").await?;
    desk.is_down(&icon).await?;
    desk.cluster.expose("later", "LoadBalancer").await?;
    icon.entry("default/later: the tunnel is not up").await?;
    desk.is_down(&icon).await
}
