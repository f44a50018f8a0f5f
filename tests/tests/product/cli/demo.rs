//! `minitunnel demo`, as whoever tries the product first runs it.

use minitunnel_e2e::{Lab, Process, Result, WAIT};

#[tokio::test]
async fn demo_plays_all_its_scenes_and_leaves_nothing() -> Result {
    let lab = Lab::new()?;
    let mut demo = Process::spawn(lab.command("minitunnel").arg("demo")).await?;
    let status = demo.exit(WAIT).await?;
    let said = demo.report("ended");
    assert!(status.success(), "{said}");
    for scene in [
        "✓ cluster up",
        "✓ tunnel up",
        "✓ service has an address",
        "200 “Hello from default/hello",
        "✓ kill -9",
        "✓ nothing is left",
        "✓ the machine is clean",
    ] {
        assert_eq!(demo.count(scene), 1, "{scene}: {said}");
    }
    assert_eq!(demo.count("✗"), 0, "{said}");
    Ok(())
}
