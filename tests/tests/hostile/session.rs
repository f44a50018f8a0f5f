//! On the session's side: its socket, which is the user's alone, but any program of the user's may write to it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use minitunnel_e2e::{Process, Result, Scene, Signal, WAIT, eventually, run};

/// The files that a session keeps in Alice's runtime folder, as this process reaches them.
fn session_files(scene: &Scene) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![scene.lab.outside_path("/run/user/4001")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files.sort();
    Ok(files)
}

fn session_socket(scene: &Scene) -> Result<PathBuf> {
    let sockets = session_files(scene)?
        .into_iter()
        .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket()));
    sockets
        .into_iter()
        .next()
        .context("no session has a socket")
}

/// Says something to the session and to the end of the connection reads what it has to say.
fn say(scene: &Scene, words: &[u8]) -> Result<String> {
    let mut view = UnixStream::connect(session_socket(scene)?)?;
    view.set_read_timeout(Some(WAIT))?;
    view.set_write_timeout(Some(WAIT))?;
    // It may hang up while it is being told.
    let _ = view.write_all(words);
    let _ = view.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    // A reset, where it has not read everything.
    let _ = view.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn still_connected(scene: &Scene, when: &str) -> Result {
    let state =
        scene.snapshot().await.with_context(|| when.to_owned())?["profiles"][0]["tunnel"]["state"]
            .clone();
    assert_eq!(state, "connected", "{when}");
    Ok(())
}

async fn connected(scene: &Scene) -> Result<Process> {
    let up = scene.sudo_up(&["minikube"]).await?;
    up.wait_for_count("minikube: connected", 1, WAIT).await?;
    Ok(up)
}

#[tokio::test]
async fn rubbish_is_refused_by_a_sentence_and_views_are_served_on() -> Result {
    let scene = Scene::api_only().await?;
    let mut up = connected(&scene).await?;
    let held = scene.lab.routes().await?;
    // What a view that means well says first is what the session says first.
    let hello = say(&scene, b"")?
        .lines()
        .next()
        .context("the session says nothing")?
        .to_owned()
        + "\n";
    let after_hello = |words: &str| (hello.clone() + words).into_bytes();
    let long = "[".repeat(8 << 20);
    let other = hello.replacen("\"protocol\":", "\"protocol\":9", 1);
    ensure!(other != hello, "no protocol in {hello}");
    for (what, words, refused) in [
        ("no JSON", b"GET / HTTP/1.1\r\n\r\n".to_vec(), true),
        ("zeros", vec![0; 4_096], true),
        ("bytes that are no text", vec![0xff, 0xfe, b'\n'], true),
        ("JSON of another kind", b"[1, 2, 3]\n".to_vec(), true),
        ("another protocol", other.into_bytes(), true),
        ("8 MB without an end", long.clone().into_bytes(), true),
        (
            "half a line",
            hello.as_bytes()[..hello.len() / 2].to_vec(),
            true,
        ),
        ("nothing", Vec::new(), false),
        (
            "no command",
            after_hello("{\"command\":\"reboot\"}\n"),
            true,
        ),
        ("a command of another kind", after_hello("7\n"), true),
        ("a command of 8 MB", after_hello(&long), true),
        ("half a command", after_hello("{\"comm"), true),
        ("a control character", after_hello("\u{1b}[2J\n"), true),
    ] {
        let answer = say(&scene, &words)?;
        let last = answer.lines().last().unwrap_or_default();
        ensure!(
            last.len() < 2_000 || last.contains("snapshot"),
            "{what}: {} bytes",
            last.len()
        );
        // The first line is its own Hello; a connection that it closes with our words unread may lose the second.
        let lost = words.len() > 1 << 20 && answer.lines().count() < 2;
        assert!(
            !refused || lost || last.contains("refused"),
            "{what}: {answer}"
        );
        assert!(!answer.contains('\u{1b}'), "{what}: {answer}");
        still_connected(&scene, what).await?;
    }
    assert_eq!(scene.lab.routes().await?, held);
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(scene.lab.routes().await?, scene.before);
    Ok(())
}

#[tokio::test]
async fn thousand_views_that_say_nothing_keep_no_session_from_its_work() -> Result {
    let scene = Scene::api_only().await?;
    let mut up = connected(&scene).await?;
    let socket = session_socket(&scene)?;
    let mut crowd = Vec::new();
    // A connection that the kernel can't let wait any more is refused at once, until the session has taken some.
    eventually(WAIT, "a thousand views", async || {
        while crowd.len() < 1_000 {
            crowd.push(tokio::net::UnixStream::connect(&socket).await?);
        }
        Ok(())
    })
    .await?;
    // The tunnel is served with the crowd there, and views when it is gone.
    let web = scene.cluster.expose("web", "LoadBalancer").await?;
    let line = format!("minikube: service default/web → {}", web.ip());
    up.wait_for_count(&line, 1, WAIT).await?;
    drop(crowd);
    eventually(WAIT, "a view after the crowd", async || {
        still_connected(&scene, "after the crowd").await
    })
    .await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    assert_eq!(scene.lab.routes().await?, scene.before);
    Ok(())
}

#[tokio::test]
async fn link_in_the_place_of_the_sessions_files_is_not_followed() -> Result {
    let scene = Scene::api_only().await?;
    let mut up = connected(&scene).await?;
    // A log is for its user to have elsewhere.
    let mut names = session_files(&scene)?;
    names.retain(|name| name.extension().is_none_or(|extension| extension != "log"));
    up.signal(Signal::INT)?;
    up.success(WAIT).await?;
    names.extend(names.clone().iter().map(|name| name.with_extension("new")));
    ensure!(names.len() >= 4, "{names:?}");
    let alice = scene.lab.user("alice");
    for name in names {
        let inside = PathBuf::from("/run/user/4001")
            .join(name.strip_prefix(scene.lab.outside_path("/run/user/4001"))?);
        let _ = fs::remove_file(&name);
        alice
            .sh("rm -f $HOME/precious; echo precious >$HOME/precious; chmod 644 $HOME/precious")
            .await?;
        symlink(alice.home().join("precious"), &name)?;
        let mut up = scene.sudo_up(&["minikube"]).await?;
        // It works, or it ends and says which file is in its way.
        if let Err(error) = up.wait_for_count("minikube: connected", 1, WAIT).await {
            let named = inside.display().to_string();
            ensure!(format!("{error:#}").contains(&named), "{named}: {error:#}");
        } else {
            up.signal(Signal::INT)?;
        }
        up.exit(WAIT).await?;
        let precious = run(alice.command("sh").args(["-c", "cat $HOME/precious"])).await?;
        assert_eq!(precious, "precious\n", "{} was followed", inside.display());
        assert_eq!(scene.lab.routes().await?, scene.before);
        let _ = fs::remove_file(&name);
    }
    let mut up = connected(&scene).await?;
    up.signal(Signal::INT)?;
    up.success(WAIT).await
}
