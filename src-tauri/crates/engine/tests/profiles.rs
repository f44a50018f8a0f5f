//! Profiles as minikube writes them, and as accidents leave them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helper fails the test"
)]

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use minitunnel_engine::minikube::{
    Cni, Home, Host, ProfileFiles, Profiles, active_profile, read_profiles,
};
use minitunnel_model::{ProfileName, Reach};
use proptest::prelude::*;

fn fixtures() -> Home {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    Home {
        path: path.join("minikube"),
        kubeconfig: path.join("kubeconfig"),
        host: Host::default(),
    }
}

/// A copy of the fixtures, to be damaged.
fn copied() -> (tempfile::TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let from = fixtures();
    copy(&from.path, &dir.path().join("minikube"));
    let kubeconfig = dir.path().join("kubeconfig");
    fs::copy(from.kubeconfig, &kubeconfig).unwrap();
    let home = Home {
        path: dir.path().join("minikube"),
        kubeconfig,
        host: Host::default(),
    };
    (dir, home)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn name(text: &str) -> ProfileName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn fixture(profile: &str) -> ProfileFiles {
    let mut profiles = read_profiles(&fixtures());
    assert_eq!(profiles.broken, []);
    profiles.readable.remove(&name(profile)).unwrap()
}

fn config_of(home: &Home, profile: &str) -> PathBuf {
    home.path.join("profiles").join(profile).join("config.json")
}

fn problem(profiles: &Profiles, profile: &str) -> String {
    let broken = profiles.broken.iter().find(|broken| broken.name == profile);
    broken
        .unwrap_or_else(|| panic!("{profile} is not broken: {profiles:?}"))
        .problem
        .clone()
}

#[test]
fn a_default_profile_is_read_whole() {
    let files = fixture("minikube");
    let profile = &files.profile;
    assert_eq!(
        (profile.driver.as_str(), profile.dns_domain.as_str()),
        ("docker", "cluster.local")
    );
    // Written as 10.97.0.0/12, which is the same network.
    assert_eq!(profile.service_cidrs, ["10.96.0.0/12".parse().unwrap()]);
    assert_eq!(profile.reach, Reach::Routed);
    assert_eq!(
        profile.endpoint.as_deref(),
        Some("https://192.168.49.2:8443")
    );
    assert_eq!(profile.nodes.len(), 1);
    let node = &profile.nodes[0];
    assert_eq!(
        (node.name.as_str(), node.control_plane, node.ready),
        ("minikube", true, None)
    );
    assert_eq!(node.ips, [ip("192.168.49.2")]);
    let credentials = files.credentials.unwrap();
    assert_eq!(credentials.server, "https://192.168.49.2:8443");
    assert_eq!(credentials.ca, b"certificate of the authority\n");
    assert_eq!(credentials.cert, b"certificate of minikube\n");
    assert_eq!(credentials.key, b"key of minikube\n");
    assert!(files.kubernetes && files.metallb && files.stopping_until.is_none());
    assert_eq!((files.cni, files.problem), (Cni::Bridge, None));
}

#[test]
fn a_profile_of_several_nodes_has_minikubes_names_for_them() {
    let files = fixture("multi");
    let names: Vec<&str> = files
        .profile
        .nodes
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    assert_eq!(names, ["multi", "multi-m02", "multi-m03"]);
    assert_eq!(files.profile.nodes[1].ips, [ip("192.168.58.3")]);
    // It was never started.
    assert_eq!(files.profile.nodes[2].ips, [] as [IpAddr; 0]);
    // The server is the virtual address of the control planes.
    assert_eq!(files.profile.reach, Reach::Routed);
    assert_eq!(
        (files.cni, files.profile.dns_domain.as_str()),
        (Cni::Kindnet, "multi.local")
    );
}

#[test]
fn a_profile_of_an_old_minikube_has_its_one_node() {
    let files = fixture("old");
    assert_eq!(files.profile.nodes.len(), 1);
    assert_eq!(files.profile.nodes[0].ips, [ip("192.168.67.2")]);
    assert!(files.profile.nodes[0].control_plane);
    let Reach::Forwarded { reason } = &files.profile.reach else {
        panic!("{:?}", files.profile.reach)
    };
    assert!(
        reason.contains("127.0.0.1") && reason.contains("minikube tunnel -p old"),
        "{reason}"
    );
}

#[test]
fn a_profile_of_minikube_1_6_has_its_driver_and_its_pods_before_any_pod_network() {
    let files = fixture("legacy");
    assert_eq!(files.profile.driver, "kvm2");
    assert_eq!(files.profile.nodes[0].ips, [ip("192.168.39.9")]);
    assert_eq!(files.profile.reach, Reach::Routed);
    let Cni::Other { reason } = &files.cni else {
        panic!("{:?}", files.cni)
    };
    assert!(reason.contains("before 1.24"), "{reason}");
    // One before that named its driver in a part that is gone.
    let (_dir, home) = copied();
    let older = br#"{"MachineConfig": {"VMDriver": "kvm2"}, "KubernetesConfig": {"NodeIP": "192.168.39.9"}}"#;
    fs::write(config_of(&home, "legacy"), older).unwrap();
    let problem = problem(&read_profiles(&home), "legacy");
    assert!(
        problem.contains("before v1.6") && problem.contains("minikube delete -p legacy"),
        "{problem}"
    );
}

#[test]
fn a_profile_without_kubernetes_says_so() {
    let files = fixture("bare");
    assert!(!files.kubernetes && files.credentials.is_none());
    let Reach::Unsupported { reason } = &files.profile.reach else {
        panic!("{:?}", files.profile.reach)
    };
    assert!(reason.contains("--no-kubernetes"), "{reason}");
}

#[test]
fn a_virtual_machines_own_file_has_its_newer_address() {
    let files = fixture("vm");
    assert_eq!(files.profile.nodes[0].ips, [ip("192.168.39.42")]);
    assert_eq!(
        (files.profile.reach, files.cni, files.metallb),
        (Reach::Routed, Cni::Flannel, false)
    );
    // Without it, the profile's stands.
    let (_dir, home) = copied();
    fs::write(
        home.path.join("machines/vm/config.json"),
        r#"{"Driver": 7}"#,
    )
    .unwrap();
    let files = &read_profiles(&home).readable[&name("vm")];
    assert_eq!(files.profile.nodes[0].ips, [ip("192.168.39.7")]);
}

#[test]
fn embedded_certificates_are_taken_where_there_are_no_files() {
    let files = fixture("embedded");
    let credentials = files.credentials.unwrap();
    assert_eq!(credentials.cert, b"embedded certificate");
    assert_eq!(credentials.key, b"embedded key");
    // minikube's own authority is a file of the home.
    assert_eq!(credentials.ca, b"certificate of the authority\n");
    assert_eq!(files.profile.reach, Reach::Local);
    assert_eq!(files.cni, Cni::Calico);

    let (_dir, home) = copied();
    fs::remove_file(home.path.join("ca.crt")).unwrap();
    let files = &read_profiles(&home).readable[&name("embedded")];
    assert_eq!(
        files.credentials.as_ref().unwrap().ca,
        b"embedded authority"
    );
}

#[test]
fn the_active_profile_is_the_setting_else_minikube() {
    assert_eq!(active_profile(&fixtures()), Some(name("multi")));
    let (_dir, home) = copied();
    for (text, expected) in [
        ("{}", Some(name("minikube"))),
        ("rubbish", Some(name("minikube"))),
        (r#"{"profile": "../x"}"#, None),
    ] {
        fs::write(home.path.join("config/config.json"), text).unwrap();
        assert_eq!(active_profile(&home), expected, "{text}");
    }
    fs::remove_dir_all(home.path.join("config")).unwrap();
    assert_eq!(active_profile(&home), Some(name("minikube")));
}

#[test]
fn the_registry_of_minikubes_tunnels_is_read_with_the_profile_that_it_is_about() {
    let profiles = read_profiles(&fixtures()).readable;
    let [tunnel] = profiles[&name("minikube")].minikube_tunnels.as_slice() else {
        panic!("{:?}", profiles[&name("minikube")].minikube_tunnels)
    };
    let route = "10.96.0.0/12 via 192.168.49.2";
    assert_eq!(
        (tunnel.route.to_string().as_str(), tunnel.pid),
        (route, 4242)
    );
    assert!(profiles[&name("multi")].minikube_tunnels.is_empty());
}

#[test]
fn a_stop_under_way_is_seen_until_it_is_old() {
    let (_dir, home) = copied();
    let events = home.path.join("profiles/minikube/events.json");
    let stop = r#"{"data":{"name":"Stopping"},"type":"io.k8s.sigs.minikube.step"}"#;
    fs::write(&events, stop).unwrap();
    let stopping = || read_profiles(&home).readable[&name("minikube")].stopping_until;
    let until = stopping().unwrap();
    let now = minitunnel_model::Timestamp::now();
    let minutes = |count: u64| std::time::Duration::from_secs(60 * count);
    assert!(
        until > now + minutes(2) && until <= now + minutes(3),
        "{until:?}"
    );
    let file = fs::File::options().write(true).open(&events).unwrap();
    let hour = std::time::Duration::from_secs(3600);
    file.set_modified(std::time::SystemTime::now() - hour)
        .unwrap();
    assert_eq!(stopping(), None);
}

#[test]
fn a_half_written_kubeconfig_is_one_of_the_moment_and_a_missing_entry_is_not() {
    let (_dir, home) = copied();
    let momentary = || {
        let files = read_profiles(&home)
            .readable
            .remove(&name("minikube"))
            .unwrap();
        assert_eq!(files.credentials.is_none(), files.problem.is_some());
        files.problem.map(|_| files.momentary)
    };
    assert_eq!(momentary(), None);
    let whole = fs::read(&home.kubeconfig).unwrap();
    for (text, expected) in [
        (&b"clusters: [{"[..], Some(true)),
        (b"clusters: []", Some(false)),
        (&whole, None),
    ] {
        fs::write(&home.kubeconfig, text).unwrap();
        assert_eq!(momentary(), expected, "{}", String::from_utf8_lossy(text));
    }
    let key = home.path.join("profiles/minikube/client.key");
    fs::write(&key, "").unwrap();
    assert_eq!(momentary(), Some(true));
    fs::remove_file(&home.kubeconfig).unwrap();
    assert_eq!(momentary(), Some(false));
}

#[test]
fn a_folder_that_is_none_says_that_nothing_is_known() {
    let (_dir, home) = copied();
    fs::remove_dir_all(home.path.join("profiles")).unwrap();
    assert!(!read_profiles(&home).unreadable);
    fs::write(home.path.join("profiles"), "").unwrap();
    let profiles = read_profiles(&home);
    assert!(
        profiles.unreadable && profiles.broken.len() == 1,
        "{profiles:?}"
    );
}

#[test]
fn a_damaged_profile_says_what_is_wrong_and_the_others_work() {
    let whole = read_profiles(&fixtures());
    let valid = fs::read(config_of(&fixtures(), "minikube")).unwrap();
    let half = valid[..valid.len() / 2].to_vec();
    for (what, bytes, word) in [
        ("empty", Vec::new(), "is empty"),
        ("blank", b" \n".to_vec(), "is empty"),
        ("truncated", half, "ends in the middle"),
        ("no JSON", b"driver: docker".to_vec(), "is no JSON"),
        ("no text", vec![0xff; 100], "is no JSON"),
        ("a number", b"7".to_vec(), "not as minikube writes it"),
        (
            "wrong types",
            br#"{"Driver": {"a": 1}}"#.to_vec(),
            "not as minikube writes it",
        ),
        (
            "wrong nodes",
            br#"{"Driver": "docker", "Nodes": "x"}"#.to_vec(),
            "not as minikube writes it",
        ),
        ("no driver", b"{}".to_vec(), "names no driver"),
        (
            "bad IP",
            br#"{"Driver": "docker", "Nodes": [{"IP": "x"}]}"#.to_vec(),
            "is no address",
        ),
        (
            "bad CIDR",
            br#"{"Driver": "docker", "KubernetesConfig": {"ServiceCIDR": "10.96.0.0/99"}}"#
                .to_vec(),
            "is no network",
        ),
        ("deep", br#"{"X":"#.repeat(100_000), "ends in the middle"),
    ] {
        let (_dir, home) = copied();
        fs::write(config_of(&home, "minikube"), bytes).unwrap();
        let profiles = read_profiles(&home);
        let problem = problem(&profiles, "minikube");
        assert!(problem.contains(word), "{what}: {problem}");
        let mut others = whole.clone();
        others.readable.remove(&name("minikube"));
        assert_eq!(profiles.readable, others.readable, "{what}");
    }
}

#[test]
fn what_is_no_file_of_sane_size_is_refused_at_once() {
    let (_dir, home) = copied();
    let path = config_of(&home, "minikube");
    fs::remove_file(&path).unwrap();
    assert!(problem(&read_profiles(&home), "minikube").contains("there is no"));

    fs::create_dir(&path).unwrap();
    assert!(problem(&read_profiles(&home), "minikube").contains("no regular file"));
    fs::remove_dir(&path).unwrap();

    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(problem(&read_profiles(&home), "minikube").contains("larger than"));
    fs::remove_file(&path).unwrap();

    #[cfg(unix)]
    {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(problem(&read_profiles(&home), "minikube").contains("no regular file"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(problem(&read_profiles(&home), "minikube").contains("no regular file"));
    }
}

#[test]
fn a_folder_with_a_name_that_minikube_would_refuse_is_told() {
    let (_dir, home) = copied();
    fs::create_dir(home.path.join("profiles/-x y")).unwrap();
    fs::write(home.path.join("profiles/a file"), "").unwrap();
    let profiles = read_profiles(&home);
    assert!(problem(&profiles, "-x y").contains("is not a minikube profile name"));
    // A file among the profiles is none.
    assert_eq!(profiles.broken.len(), 1);
}

#[test]
fn missing_credentials_say_what_to_do() {
    for (what, damage, word) in [
        (
            "no kubeconfig",
            (|home| fs::remove_file(&home.kubeconfig).unwrap()) as fn(&Home),
            "minikube update-context",
        ),
        (
            "no entry",
            |home| fs::write(&home.kubeconfig, "clusters: []").unwrap(),
            "minikube start -p minikube",
        ),
        (
            "an empty kubeconfig",
            |home| fs::write(&home.kubeconfig, "").unwrap(),
            "minikube start -p minikube",
        ),
        (
            "a broken kubeconfig",
            |home| fs::write(&home.kubeconfig, "clusters: {").unwrap(),
            "is no kubeconfig",
        ),
        (
            "a wrong kubeconfig",
            |home| fs::write(&home.kubeconfig, "clusters: 7").unwrap(),
            "is no kubeconfig",
        ),
        (
            "no key",
            |home| fs::remove_file(home.path.join("profiles/minikube/client.key")).unwrap(),
            "client.key: `minikube start -p minikube`",
        ),
        (
            "an empty certificate",
            |home| fs::write(home.path.join("profiles/minikube/client.crt"), "").unwrap(),
            "is empty",
        ),
    ] {
        let (_dir, home) = copied();
        damage(&home);
        let profiles = read_profiles(&home);
        let files = &profiles.readable[&name("minikube")];
        assert!(files.credentials.is_none(), "{what}");
        let problem = files.problem.as_deref().unwrap();
        assert!(problem.contains(word), "{what}: {problem}");
        // What the profile's own files say stands.
        assert_eq!(files.profile.nodes[0].ips, [ip("192.168.49.2")], "{what}");
    }
}

#[test]
fn a_private_key_is_in_no_debug_output() {
    let text = format!("{:?}", read_profiles(&fixtures()));
    let bytes = format!("{:?}", b"key of minikube\n");
    assert!(!text.contains("key of minikube") && !text.contains(&bytes[1..bytes.len() - 1]));
}

#[test]
fn no_home_has_no_profiles() {
    let home = Home {
        path: "/nonexistent/.minikube".into(),
        kubeconfig: "/nonexistent/config".into(),
        host: Host::default(),
    };
    assert_eq!(read_profiles(&home), Profiles::default());
}

/// The files that are read, as paths below the copy.
const FILES: [&str; 9] = [
    "minikube/profiles/minikube/config.json",
    "minikube/profiles/minikube/events.json",
    "minikube/profiles/minikube/client.crt",
    "minikube/profiles/multi/config.json",
    "minikube/profiles/vm/config.json",
    "minikube/machines/vm/config.json",
    "minikube/config/config.json",
    "minikube/tunnels.json",
    "kubeconfig",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a file has become, reading goes on, and a profile that it does not belong to is as it was.
    #[test]
    fn rubbish_never_panics(
        file in 0..FILES.len(),
        rubbish in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        keep_rest in any::<bool>(),
    ) {
        let (dir, home) = copied();
        let path = dir.path().join(FILES[file]);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        let rest = if keep_rest { bytes.split_off(at) } else { bytes.truncate(at); Vec::new() };
        bytes.extend(rubbish);
        bytes.extend(rest);
        fs::write(&path, bytes).unwrap();

        let profiles = read_profiles(&home);
        active_profile(&home);
        if FILES[file] != "kubeconfig" {
            prop_assert_eq!(&profiles.readable[&name("old")], &fixture("old"));
        }
        prop_assert_eq!(profiles.readable.len() + profiles.broken.len(), 7);
    }
}
