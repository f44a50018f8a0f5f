use std::fs;

use super::*;

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("minitunnel/settings.toml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn no_file_is_all_defaults() {
    assert_eq!(read(Path::new("/nowhere/settings.toml")), Read::default());
}

#[test]
fn a_bad_value_is_named_and_the_others_hold() {
    let (_folder, path) = file(
        "start_with_cluster = true\nstart_at_login = \"yes\"\nnotificatons = false\nminikube_home = \"relative\"\nkubeconfig = \"/k\"\n[table]\n",
    );
    let read = read(&path);
    let expected = Settings {
        start_with_cluster: true,
        kubeconfig: Some("/k".into()),
        ..Settings::default()
    };
    assert_eq!(read.settings, expected);
    let at = path.display();
    assert_eq!(
        read.problems,
        [
            format!(
                "`start_at_login` in {at} is \"yes\", and can only be true or false: false holds"
            ),
            format!("`notificatons` in {at} is no setting of minitunnel's: remove it"),
            format!(
                "`minikube_home` in {at} is \"relative\", and can only be a path in quotes that begins with /: the environment's holds"
            ),
            format!("`table` in {at} is no setting of minitunnel's: remove it"),
        ]
    );
}

#[test]
fn a_file_that_is_no_toml_is_said_in_one_sentence_and_never_overwritten() {
    let text = "start_at_login = true\nnotifications = = \n";
    let (_folder, path) = file(text);
    let found = read(&path);
    assert_eq!(found.settings, Settings::default());
    let [problem] = found.problems.as_slice() else {
        panic!("{found:?}")
    };
    let begins = format!("{} is no TOML in line 2 (", path.display());
    assert!(
        problem.starts_with(&begins) && !problem.contains('\n'),
        "{problem}"
    );
    let error = write(&path, &Settings::default()).unwrap_err();
    assert!(error.to_string().contains(problem.as_str()), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn what_is_written_is_read_again_and_comments_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/minitunnel/settings.toml");
    let settings = Settings {
        start_at_login: true,
        minikube_home: Some("/m".into()),
        ..Settings::default()
    };
    write(&path, &settings).unwrap();
    let expected = Read {
        settings,
        problems: Vec::new(),
    };
    assert_eq!(read(&path), expected);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("# The settings of minitunnel."), "{text}");

    fs::write(
        &path,
        "# mine\nnotifications = false # quiet\nunknown = 1\nminikube_home = \"there\"\n",
    )
    .unwrap();
    write(&path, &Settings::default()).unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "# mine\nnotifications = true # quiet\nunknown = 1\nminikube_home = \"there\"\n",
        "what is as it was, or can't be understood, stays"
    );
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_file_that_is_a_link_stays_one() {
    let (folder, path) = file("notifications = false\n");
    let link = folder.path().join("link.toml");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    write(&link, &Settings::default()).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(read(&path), Read::default());
}

#[test]
fn the_file_is_where_the_desktop_keeps_configuration() {
    let of = |pairs: &'static [(&str, &str)]| {
        path(move |name| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        })
    };
    let home = ("HOME", "/home/u");
    assert_eq!(of(&[]), None);
    for (pairs, expected) in [
        (&[home][..], "/home/u/.config/minitunnel/settings.toml"),
        (
            &[home, ("XDG_CONFIG_HOME", "")],
            "/home/u/.config/minitunnel/settings.toml",
        ),
        (
            &[home, ("XDG_CONFIG_HOME", "/c")],
            "/c/minitunnel/settings.toml",
        ),
    ] {
        let found = path(|name| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        });
        assert_eq!(found.as_deref(), Some(Path::new(expected)));
    }
}

#[tokio::test]
async fn a_change_of_the_file_behind_links_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let [path, middle, file] = ["here/settings.toml", "there/link", "elsewhere/mine.toml"]
        .map(|name| folder.path().join(name));
    for path in [&path, &middle, &file] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
    }
    std::os::unix::fs::symlink("../there/link", &path).unwrap();
    std::os::unix::fs::symlink(&file, &middle).unwrap();
    let (told, mut seen) = mpsc::channel(1);
    forward(path.clone(), told).unwrap();
    // One that is there only now, changes, goes and comes back.
    for text in ["notifications = false", "", "start_with_cluster = true"] {
        fs::remove_file(&file).ok();
        fs::write(&file, text).unwrap();
        let expected = read(&file);
        let limit = std::time::Duration::from_secs(10);
        tokio::time::timeout(limit, async {
            while seen.recv().await.unwrap() != expected {}
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_change_by_hand_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("minitunnel/settings.toml");
    let (told, mut seen) = mpsc::channel(1);
    forward(path.clone(), told).unwrap();
    let settings = Settings {
        notifications: false,
        ..Settings::default()
    };
    write(&path, &settings).unwrap();
    let limit = std::time::Duration::from_secs(10);
    let read = tokio::time::timeout(limit, seen.recv()).await.unwrap();
    assert_eq!(read.unwrap().settings, settings);
}
