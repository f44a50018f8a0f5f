//! What the desktop is asked to notify of.

use anyhow::Context as _;
use minitunnel_e2e::{FakeNotifications, FakePanel, Process, Result, WAIT, eventually};

use crate::Desk;

#[tokio::test]
async fn the_desktop_is_told_once_of_what_happens_to_a_tunnel_and_its_buttons_work() -> Result {
    let desk = Desk::new().await?;
    let notifications = FakeNotifications::start(&desk.session).await?;
    let mut panel = FakePanel::start(&desk.session).await?;
    let _tray: Process = desk.tray().await?;
    let icon = panel.icon().await?;
    icon.entry("default/web: the tunnel is not up").await?;
    // A service that comes while the tunnel is down.
    desk.cluster.expose("api", "LoadBalancer").await?;
    let waits = notifications
        .wait_for("minikube: a service waits for its tunnel", 0)
        .await?;
    assert_eq!(waits.body, "default/api");
    assert_eq!(waits.buttons, ["Start", "Open"]);
    // Who has just shown it may not hear of a click yet.
    eventually(WAIT, "the button's effect", async || {
        notifications.click(&waits, "Start").await?;
        let menu = icon.menu().await?;
        anyhow::ensure!(menu.find("minikube – off").is_none());
        Ok(())
    })
    .await?;
    desk.is_up(&icon).await?;

    // The link to the node goes, and comes back.
    desk.lab.sh("ip link set br-49 down").await?;
    let lost = notifications.wait_for("minikube: tunnel lost", 0).await?;
    assert_eq!(lost.buttons, ["Open"]);
    desk.lab.sh("ip link set br-49 up").await?;
    let back = notifications.wait_for("minikube: tunnel is up", 0).await?;
    // One takes the place of the other.
    assert_eq!(back.id, lost.id);
    desk.is_up(&icon).await?;

    icon.click("Stop").await?;
    icon.entry("minikube – off").await?;
    desk.lab
        .sh("ip route add 10.100.0.0/16 via 192.168.49.7")
        .await?;
    icon.click("Start").await?;
    icon.entry("minikube – conflict").await?;
    icon.entry("Conflict: 10.96.0.0/12 with ").await?;
    // What is over within a moment is not told of.
    let conflict = eventually(WAIT, "the conflict's notice", async || {
        let titles = notifications.titles();
        let found = titles
            .iter()
            .find(|title| title.starts_with("minikube: conflict with "));
        found.cloned().with_context(|| format!("{titles:?}"))
    })
    .await?;
    desk.lab.sh("ip route del 10.100.0.0/16").await?;
    icon.entry("minikube – connected").await?;
    notifications.wait_for("minikube: tunnel is up", 3).await?;
    assert_eq!(
        notifications.titles(),
        [
            "minikube: a service waits for its tunnel",
            "minikube: tunnel lost",
            "minikube: tunnel is up",
            &conflict,
            "minikube: tunnel is up",
        ]
    );
    Ok(())
}
