//! Settings: the window and the file are about the same, and what is wrong in the file is said.

use minitunnel_e2e::{Result, Scene, WAIT, eventually};

use crate::Desk;

#[tokio::test]
async fn settings_are_saved_in_their_file_and_what_is_wrong_there_is_said() -> Result {
    let desk = Desk::new(Scene::api_only().await?).await?;
    let file = desk
        .scene
        .lab
        .user("alice")
        .home()
        .join(".config/minitunnel/settings.toml");
    let _session = desk.session().await?;
    let window = desk.window().await?;
    window.heading("minikube").await?;
    let start = "//dialog//label[contains(., 'Start with the cluster')]/input";
    window.click("Settings…").await?;
    window.find(start).await?.click().await?;
    window
        .find("//dialog//input[@id='kubeconfig']")
        .await?
        .send_keys("/nowhere/config")
        .await?;
    window.click("Save").await?;
    eventually(WAIT, "the settings' file", async || {
        let text = std::fs::read_to_string(&file)?;
        for line in [
            "start_with_cluster = true",
            "kubeconfig = \"/nowhere/config\"",
        ] {
            anyhow::ensure!(text.lines().any(|each| each == line), "{text}");
        }
        Ok(())
    })
    .await?;
    // What is wanted with the cluster comes up.
    window.state("Connected").await?;
    desk.route(true).await?;

    // Somebody edits the file.
    let broken = std::fs::read_to_string(&file)?
        .replace("notifications = true", "notifications = \"maybe\"");
    desk.scene.home.write(&file, broken.as_bytes())?;
    window.heading("Some settings can't be used").await?;
    window.see("maybe").await?;
    window.click("Settings…").await?;
    let checked = window.find(start).await?;
    anyhow::ensure!(checked.is_selected().await?, "what was saved is not shown");
    window.click("Cancel").await?;
    window.close().await
}
