//! The live view, in a real terminal.

use minitunnel_e2e::{Result, Scene, Signal, Terminal, WAIT, eventually, run};

use super::{scene, start};

/// A `minitunnel` of Alice's in a terminal of its own, as its foreground.
fn in_terminal(scene: &Scene, arguments: &[&str]) -> Result<Terminal> {
    let mut command = scene.alice("setsid");
    command.args(["--ctty", "--wait", "minitunnel"]);
    Terminal::spawn(command.args(arguments), 24, 80)
}

#[tokio::test]
async fn up_shows_what_is_in_its_terminal_and_gives_it_back() -> Result {
    let (scene, _bus) = scene().await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let address = web.ip().to_string();
    let mut up = in_terminal(&scene, &["up"])?;
    let has_web = |text: &str| {
        let row = text.lines().find(|line| line.contains("default/web"));
        row.is_some_and(|row| row.contains(&address) && row.ends_with(" ms"))
    };
    let text = up.wait_until("the service", WAIT, has_web).await?;
    assert!(
        up.is_second_screen() && text.contains("● minikube  connected"),
        "{text}"
    );
    assert!(
        text.contains("10.96.0.0/12   192.168.49.2  services"),
        "{text}"
    );
    // What is typed is not shown.
    up.type_in("rubbish\n")?;

    // A change comes by itself, in place.
    scene.cluster.expose("later", "LoadBalancer").await?;
    let later = |text: &str| text.contains("default/later") && has_web(text);
    let text = up.wait_until("another service", WAIT, later).await?;
    assert_eq!(text.matches("minitunnel").count(), 1, "{text}");
    assert!(!text.contains("rubbish"), "{text}");

    // Another size is another view.
    up.resize(8, 40)?;
    // A line of the wide view would go on in a row that begins like none of the view's.
    let begins = |row: &str| ["minitunnel", "● ", "  "].map(|begin| row.starts_with(begin));
    let narrow = |text: &str| {
        text.lines().any(|row| row.starts_with("  default/web"))
            && text
                .lines()
                .all(|row| row.is_empty() || begins(row).contains(&true))
    };
    up.wait_until("a narrow view", WAIT, narrow).await?;
    up.resize(24, 80)?;
    up.wait_until("a wide view", WAIT, later).await?;

    up.type_in("\x03")?;
    assert!(up.exit(WAIT).await?.success());
    let text = up
        .wait_until("the end", WAIT, |text| {
            text.contains("minikube: disconnected")
        })
        .await?;
    assert!(up.is_as_before()?, "{text}");
    // What the view has shown is told in lines at its end.
    assert!(text.contains("minikube: service default/web → "), "{text}");
    scene.wait_for_before().await
}

#[tokio::test]
async fn watched_status_is_a_view_in_a_terminal_and_lines_elsewhere() -> Result {
    let (scene, _bus) = scene().await?;
    let mut watch = in_terminal(&scene, &["status", "--watch"])?;
    let down = |text: &str| text.contains("○ minikube  disconnected");
    watch
        .wait_until("a tunnel that is down", WAIT, down)
        .await?;
    run(scene.alice("minitunnel").args(["up", "--detach"])).await?;
    let up = |text: &str| text.contains("● minikube  connected");
    watch.wait_until("a tunnel that is up", WAIT, up).await?;
    // Without colours where nobody wants them; drawn once a change, with nothing cleared before.
    assert!(!watch.bytes().windows(4).any(|bytes| bytes == b"\x1b[2J"));
    watch.type_in("\x03")?;
    assert!(watch.exit(WAIT).await?.success());
    assert!(watch.is_as_before()?);

    let mut command = scene.alice("env");
    command.args([
        "TERM=dumb",
        "setsid",
        "--ctty",
        "--wait",
        "minitunnel",
        "status",
        "--watch",
    ]);
    let mut dumb = Terminal::spawn(&mut command, 24, 80)?;
    let lines = |text: &str| text.contains("minikube (docker)  connected");
    dumb.wait_until("lines", WAIT, lines).await?;
    assert!(!dumb.bytes().contains(&0x1b), "{}", dumb.text());
    dumb.type_in("\x03")?;
    dumb.exit(WAIT).await?;

    let mut plain = start(&scene, &["status", "--watch"]).await?;
    plain
        .wait_for_line("minikube (docker)  connected", WAIT)
        .await?;
    plain.signal(Signal::INT)?;
    plain.exit(WAIT).await?;
    run(scene.alice("minitunnel").arg("down")).await?;
    scene.wait_for_before().await
}

/// An interactive shell of Alice's that continues what it brings to the foreground.
async fn shell(scene: &Scene) -> Result<Terminal> {
    let mut command = scene.alice("setsid");
    command.args(["--ctty", "--wait", "env", "PS1=ready$ ", "dash", "-i"]);
    let mut shell = Terminal::spawn(&mut command, 24, 80)?;
    let ready = |text: &str| text.contains("ready$");
    shell.wait_until("a prompt", WAIT, ready).await?;
    Ok(shell)
}

#[tokio::test]
async fn view_gives_way_to_a_shell_and_comes_back() -> Result {
    let (scene, _bus) = scene().await?;
    let mut shell = shell(&scene).await?;
    let view = |text: &str| text.contains("● minikube  connected");
    let prompts = |count: usize| move |text: &str| text.matches("ready$").count() == count;
    shell.type_in("minitunnel up\n")?;
    shell.wait_until("the view", WAIT, view).await?;
    shell.type_in("\x1a")?;
    let text = shell.wait_until("a prompt", WAIT, prompts(2)).await?;
    assert!(shell.is_as_before()? && text.contains("Stopped"), "{text}");
    // To the background, where it is no view, and back.
    shell.type_in("bg\n")?;
    let text = shell.wait_until("a prompt", WAIT, prompts(3)).await?;
    assert!(shell.is_as_before()?, "{text}");
    shell.type_in("fg\n")?;
    shell.wait_until("the view again", WAIT, view).await?;
    assert!(shell.is_second_screen());

    // Ctrl-\ is as good an end as Ctrl-C.
    shell.type_in("\x1c")?;
    let ended =
        |text: &str| text.contains("minikube: disconnected") && text.trim_end().ends_with("ready$");
    let text = shell.wait_until("the end", WAIT, ended).await?;
    assert!(shell.is_as_before()? && !text.contains("core"), "{text}");
    scene.wait_for_before().await
}

#[tokio::test]
async fn up_can_be_stopped_while_it_ends() -> Result {
    let (scene, _bus) = scene().await?;
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let mut shell = shell(&scene).await?;
    shell.type_in("minitunnel up\n")?;
    let address = web.ip().to_string();
    let service = |text: &str| text.contains("default/web") && text.contains(&address);
    shell.wait_until("the service", WAIT, service).await?;
    // The address can't be withdrawn, for which an end has some patience.
    scene.cluster.pause_api_server()?;
    shell.type_in("\x03")?;
    let ending = |text: &str| text.contains("minikube: disconnecting");
    shell
        .wait_until("the end's beginning", WAIT, ending)
        .await?;
    shell.type_in("\x1a")?;
    let stopped = |text: &str| text.contains("Stopped");
    shell.wait_until("the shell", WAIT, stopped).await?;
    shell.type_in("fg\n")?;
    let keeps = format!("minikube: service default/web keeps {}", web.ip());
    shell
        .wait_until("what remains", WAIT, |text| text.contains(&keeps))
        .await?;
    scene.cluster.resume_api_server()
}

#[tokio::test]
async fn ctrl_c_ends_a_watch_that_still_looks() -> Result {
    let (scene, _bus) = scene().await?;
    // It looks as long as the API server may answer.
    scene.cluster.pause_api_server()?;
    let mut watch = in_terminal(&scene, &["status", "--watch"])?;
    let caught = "grep -q '^SigCgt:.*[4567cdef]...$' /proc/$(pgrep -x minitunnel)/status";
    eventually(WAIT, "signals are caught", async || {
        scene.lab.sh(caught).await
    })
    .await?;
    watch.type_in("\x03")?;
    assert!(watch.exit(WAIT).await?.success());
    // It ended before it had anything to show.
    assert!(!watch.text().contains("minikube"), "{}", watch.text());
    scene.cluster.resume_api_server()
}
