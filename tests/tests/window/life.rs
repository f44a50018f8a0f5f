//! Processes that die: the window's, and the session's.

use std::time::Duration;

use minitunnel_e2e::{Process, Result, Scene, WAIT, eventually};

use crate::Desk;

/// What a quit may take, and a click to get there.
const QUIT: Duration = Duration::from_secs(6);
/// The documented exit code.
const ADDRESSES_REMAIN: Option<i32> = Some(8);

#[tokio::test]
async fn the_tunnel_does_not_notice_that_the_window_is_killed() -> Result {
    let desk = Desk::new(Scene::api_only().await?).await?;
    let web = desk.scene.cluster.expose("web", "LoadBalancer").await?;
    let session = desk.session().await?;
    let window = desk.window().await?;
    window.click("Start").await?;
    window.state("Connected").await?;
    assert_eq!(
        desk.scene.cluster.wait_for_addresses("web").await?,
        web.addresses()
    );
    let routes = desk.scene.lab.routes().await?;

    desk.kill(window.pid().await?).await?;
    // Another view finds all as it was.
    eventually(WAIT, "the window's end", async || {
        anyhow::ensure!(window.pid().await.is_err());
        Ok(())
    })
    .await?;
    assert_eq!(desk.scene.lab.routes().await?, routes);
    let status = desk.scene.service_status().await?;
    assert_eq!(
        status,
        serde_json::json!(["connected", "us", web.addresses()])
    );
    assert_eq!(
        session.count("panicked"),
        0,
        "{}",
        session.report("panicked")
    );
    window.ended().await?;
    let again = desk.window().await?;
    again.state("Connected").await?;
    again.close().await?;
    desk.minitunnel("down").await?;
    desk.scene.wait_for_before().await
}

#[tokio::test]
async fn a_session_that_dies_is_said_to_and_shown_again_when_it_is_back() -> Result {
    let desk = Desk::new(Scene::api_only().await?).await?;
    let window = desk.window().await?;
    window.heading("minitunnel is not running").await?;
    let mut session = desk.session().await?;
    window.heading("minikube").await?;
    window.click("Start").await?;
    window.state("Connected").await?;
    session.kill().await?;
    window.heading("minitunnel is not running").await?;
    desk.scene.wait_for_before().await?;

    // The button starts one that is nobody's child.
    window.click("Start minitunnel").await?;
    window.heading("minikube").await?;
    window.close().await?;
    desk.minitunnel("down").await.map(drop)
}

/// Clicks Quit beside a tunnel that is up, where the API server hangs.
async fn quit_in_vain(desk: &Desk) -> Result {
    let window = desk.window().await?;
    window.state("Connected").await?;
    desk.scene.cluster.wait_for_addresses("web").await?;
    desk.scene.cluster.pause_api_server()?;
    window.click("Quit").await
}

/// Alice's desktop, with a service.
async fn with_service() -> Result<Desk> {
    let desk = Desk::new(Scene::api_only().await?).await?;
    desk.scene.cluster.expose("web", "LoadBalancer").await?;
    Ok(desk)
}

#[tokio::test]
async fn quit_ends_the_tray_in_time_where_the_api_server_hangs() -> Result {
    let desk = with_service().await?;
    let mut session = desk.session().await?;
    desk.minitunnel("up --detach").await?;
    quit_in_vain(&desk).await?;
    session.exit(QUIT).await?;
    desk.scene.wait_for_before().await?;
    desk.scene.cluster.resume_api_server()
}

#[tokio::test]
async fn quit_ends_a_session_in_the_background_in_time_where_the_api_server_hangs() -> Result {
    let desk = with_service().await?;
    desk.minitunnel("up --detach").await?;
    quit_in_vain(&desk).await?;
    eventually(QUIT, "the end of the session", async || {
        let sessions = desk
            .scene
            .lab
            .sh("pgrep --full '^[^ ]*minitunnel session$'");
        anyhow::ensure!(sessions.await.is_err());
        Ok(())
    })
    .await?;
    desk.scene.wait_for_before().await?;
    desk.scene.cluster.resume_api_server()
}

#[tokio::test]
async fn quit_ends_an_up_in_time_which_names_the_address_that_remains() -> Result {
    let desk = with_service().await?;
    let mut up = Process::spawn(desk.scene.alice("minitunnel").arg("up")).await?;
    quit_in_vain(&desk).await?;
    let status = up.exit(QUIT).await?;
    assert_eq!(status.code(), ADDRESSES_REMAIN, "{}", up.report("ended"));
    let told = up.count("service default/web keeps ");
    assert_eq!(told, 1, "{}", up.report("ended"));
    desk.scene.wait_for_before().await?;
    desk.scene.cluster.resume_api_server()
}
