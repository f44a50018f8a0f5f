//! The demo on a desktop.

use minitunnel_e2e::{FakePanel, Lab, Process, Result, SessionBus, WAIT};

#[tokio::test]
async fn the_demo_is_in_the_panel_until_it_is_quit_there() -> Result {
    let lab = Lab::new()?;
    let session = SessionBus::start(&lab.user("alice")).await?;
    let mut panel = FakePanel::start(&session).await?;
    let mut demo = Process::spawn(session.command("minitunnel").args(["demo", "--tray"])).await?;
    demo.wait_for_line("minitunnel is in your panel", WAIT)
        .await?;
    let icon = panel.icon().await?;
    icon.entry("demo – connected").await?;
    icon.entry("default/hello  ").await?;
    icon.click("Quit").await?;
    let status = demo.exit(WAIT).await?;
    let said = demo.report("ended");
    assert!(status.success(), "{said}");
    for scene in [
        "200 “Hello from default/hello",
        "✓ tunnel ended",
        "✓ address withdrawn",
        "✓ nothing is left",
        "✓ the machine is clean",
    ] {
        assert_eq!(demo.count(scene), 1, "{scene}: {said}");
    }
    assert_eq!(demo.count("✗"), 0, "{said}");
    Ok(())
}
