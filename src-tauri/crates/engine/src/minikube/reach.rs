//! How this machine reaches a profile's nodes (`pkg/minikube/driver`, `NeedsPortForward`).

use std::{net::IpAddr, path::Path};

use minitunnel_model::{ProfileName, Reach};

use super::{Environment, file};

/// What decides it on this machine's side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The operating system keeps docker and podman in a virtual machine (macOS, Windows), or is in one itself (WSL):
    /// its name.
    pub foreign_daemon: Option<&'static str>,
    /// `DOCKER_HOST`, where it names another machine, without a user.
    pub docker_host: Option<String>,
    /// `CONTAINER_HOST`, where it names another machine, without a user.
    pub container_host: Option<String>,
}

impl Host {
    /// Looks at this machine; services lack the variables that minikube tells WSL by, so the kernel's release tells it.
    pub fn detect(environment: &Environment) -> Self {
        let release = file::read(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
        Self::from_parts(
            std::env::consts::OS,
            &String::from_utf8_lossy(&release),
            environment,
        )
    }

    fn from_parts(os: &str, kernel_release: &str, environment: &Environment) -> Self {
        let foreign_daemon = match os {
            "macos" => Some("macOS"),
            "windows" => Some("Windows"),
            _ if kernel_release.to_ascii_lowercase().contains("microsoft") => Some("WSL"),
            _ => None,
        };
        let remote = |value: &Option<std::ffi::OsString>| {
            let value = value.as_ref()?.to_string_lossy();
            (!value.is_empty() && !value.starts_with("unix:") && !value.starts_with("npipe:"))
                .then(|| without_user(&value))
        };
        Self {
            foreign_daemon,
            docker_host: remote(&environment.docker_host),
            container_host: remote(&environment.container_host),
        }
    }
}

/// What a profile's files say that decides it.
pub(super) struct Facts<'a> {
    pub(super) name: &'a ProfileName,
    pub(super) kubernetes: bool,
    pub(super) driver: &'a str,
    pub(super) network: &'a str,
    pub(super) server: Option<&'a str>,
    /// The nodes' addresses, and the virtual one of a highly available control plane.
    pub(super) addresses: &'a [IpAddr],
    /// The name that the user gave the API server (`--apiserver-name`); it stands in the place of any address.
    pub(super) alias: &'a str,
    /// The API server's port on its node: a forwarded one is another.
    pub(super) port: u16,
}

/// Decides it.
pub(super) fn reach(host: &Host, facts: &Facts<'_>) -> Reach {
    let name = facts.name;
    if !facts.kubernetes {
        return unsupported(format!(
            "{name} runs no Kubernetes (it was started with --no-kubernetes), so it has no services to reach"
        ));
    }
    match facts.driver {
        "none" => Reach::Local,
        "docker" => container(
            host,
            facts,
            "docker",
            "DOCKER_HOST",
            host.docker_host.as_deref(),
        ),
        "podman" => container(
            host,
            facts,
            "podman",
            "CONTAINER_HOST",
            host.container_host.as_deref(),
        ),
        // Its other network, socket_vmnet, gives the node an address of its own.
        "qemu" | "qemu2" if facts.network != "socket_vmnet" => unsupported(format!(
            "{name} uses QEMU's builtin network, which nothing outside can reach; make it anew with another driver, such as \
             `minikube start -p {name} --driver=kvm2`"
        )),
        _ => Reach::Routed,
    }
}

fn container(
    host: &Host,
    facts: &Facts<'_>,
    driver: &str,
    variable: &str,
    remote: Option<&str>,
) -> Reach {
    let name = facts.name;
    let server = facts.server.and_then(host_of);
    let at_node = |host: &str| host.parse().is_ok_and(|ip| facts.addresses.contains(&ip));
    let at_alias = |host: &str| {
        let port = facts.server.and_then(port_of);
        !facts.alias.is_empty() && host == facts.alias && port == Some(facts.port)
    };
    let direct = server.is_some_and(|host| at_node(host) || at_alias(host));
    let why = if let Some(system) = host.foreign_daemon {
        format!("on {system}, {driver} keeps its containers in a virtual machine of its own")
    } else if direct {
        return Reach::Routed;
    } else if let Some(remote) = remote {
        format!(
            "{driver}'s daemon is on another machine ({variable}={})",
            remote.escape_debug()
        )
    } else if let Some(server) = server {
        format!(
            "its API server is at {}, behind a local port, as rootless {driver} and Docker Desktop have it",
            server.escape_debug()
        )
    } else {
        // A stopped cluster has no server in the kubeconfig; it is asked again when it runs.
        return Reach::Routed;
    };
    let reason = format!(
        "{name} can't be reached by routes: {why}; use `minikube tunnel -p {name}`, or a driver whose nodes have addresses of \
         their own (rootful docker on Linux, kvm2)"
    );
    Reach::Forwarded { reason }
}

fn unsupported(reason: String) -> Reach {
    Reach::Unsupported { reason }
}

/// A URL without its user and password: certificates are what a cluster knows us by, and what is not kept is not shown.
/// All goes up to the last `@`, since a password that nobody has encoded may have any character.
pub(super) fn without_user(url: &str) -> String {
    let Some((before, host)) = url.rsplit_once('@') else {
        return url.to_owned();
    };
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    match before.split_once("://") {
        Some((scheme, _)) if scheme.chars().all(is_scheme) => format!("{scheme}://{host}"),
        _ => host.to_owned(),
    }
}

/// The host and port of a URL such as `https://[fd00::2]:8443`, as they stand there.
fn authority_of(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    rest.split(['/', '?', '#']).next()
}

fn port_of(url: &str) -> Option<u16> {
    authority_of(url)?.rsplit_once(':')?.1.parse().ok()
}

/// The host of a URL such as `https://[fd00::2]:8443`.
fn host_of(url: &str) -> Option<&str> {
    let authority = authority_of(url)?;
    match authority.strip_prefix('[') {
        Some(v6) => Some(v6.split_once(']')?.0),
        None => Some(
            authority
                .rsplit_once(':')
                .map_or(authority, |(host, _)| host),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(host: &Host, driver: &str, network: &str, server: Option<&str>) -> Reach {
        let addresses = ["192.168.49.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let name = "p".parse().unwrap();
        let facts = Facts {
            name: &name,
            kubernetes: true,
            driver,
            network,
            server,
            addresses: &addresses,
            alias: "my.cluster",
            port: 8443,
        };
        reach(host, &facts)
    }

    fn plain() -> Host {
        Host::from_parts("linux", "6.1.0-18-amd64\n", &Environment::default())
    }

    fn forwarded_because(reach: Reach, word: &str) {
        let Reach::Forwarded { reason } = reach else {
            panic!("{reach:?} is not forwarded")
        };
        assert!(
            reason.contains(word) && reason.contains("minikube tunnel -p p"),
            "{reason}"
        );
    }

    const NODE: Option<&str> = Some("https://192.168.49.2:8443");
    const LOCAL_PORT: Option<&str> = Some("https://127.0.0.1:32771");

    #[test]
    fn a_node_with_an_address_of_its_own_is_routed() {
        for driver in ["docker", "podman", "kvm2", "virtualbox", "ssh"] {
            assert_eq!(
                decide(&plain(), driver, "", NODE),
                Reach::Routed,
                "{driver}"
            );
        }
        assert_eq!(
            decide(&plain(), "docker", "", Some("https://[fd00::2]:8443")),
            Reach::Routed
        );
        assert_eq!(decide(&plain(), "docker", "", None), Reach::Routed);
    }

    #[test]
    fn containers_behind_a_local_port_are_forwarded() {
        forwarded_because(decide(&plain(), "docker", "", LOCAL_PORT), "127.0.0.1");
        forwarded_because(
            decide(&plain(), "podman", "", Some("https://localhost:1")),
            "localhost",
        );
    }

    #[test]
    fn a_name_of_the_users_for_the_api_server_stands_for_the_node_unless_its_port_is_forwarded() {
        let named = |url| decide(&plain(), "docker", "", Some(url));
        assert_eq!(named("https://my.cluster:8443"), Reach::Routed);
        forwarded_because(named("https://my.cluster:32771"), "my.cluster");
        forwarded_because(named("https://other.cluster:8443"), "other.cluster");
    }

    #[test]
    fn wsl_is_told_by_the_kernels_release() {
        let wsl = Host::from_parts(
            "linux",
            "5.15.167.4-microsoft-standard-WSL2\n",
            &Environment::default(),
        );
        forwarded_because(decide(&wsl, "docker", "", NODE), "WSL");
        assert_eq!(decide(&wsl, "kvm2", "", NODE), Reach::Routed);
    }

    #[test]
    fn macos_and_windows_forward_containers() {
        for (os, word) in [("macos", "macOS"), ("windows", "Windows")] {
            let host = Host::from_parts(os, "", &Environment::default());
            forwarded_because(decide(&host, "docker", "", None), word);
        }
    }

    #[test]
    fn a_remote_daemon_forwards_its_own_drivers_containers() {
        let environment = Environment {
            docker_host: Some("ssh://u@far".into()),
            ..Environment::default()
        };
        let host = Host::from_parts("linux", "6.1.0", &environment);
        forwarded_because(
            decide(&host, "docker", "", Some("https://far:8443")),
            "DOCKER_HOST=ssh://far)",
        );
        forwarded_because(decide(&host, "docker", "", None), "DOCKER_HOST");
        assert_eq!(decide(&host, "podman", "", None), Reach::Routed);
        let local = Environment {
            docker_host: Some("unix:///run/docker.sock".into()),
            ..Environment::default()
        };
        assert_eq!(
            decide(
                &Host::from_parts("linux", "6.1.0", &local),
                "docker",
                "",
                None
            ),
            Reach::Routed
        );
    }

    #[test]
    fn the_user_and_password_of_a_url_are_not_kept() {
        for (url, kept) in [
            ("tcp://bob:hunter2@dockerbox:2376", "tcp://dockerbox:2376"),
            ("ssh://bob@far", "ssh://far"),
            ("bob:hunter2@far:2376", "far:2376"),
            ("https://bob:hun/t@r?2#@far:6443/a", "https://far:6443/a"),
            ("bob:hunter://2@far", "far"),
            ("https://[fd00::2]:8443", "https://[fd00::2]:8443"),
            ("", ""),
        ] {
            assert_eq!(without_user(url), kept, "{url}");
            let environment = Environment {
                docker_host: Some(url.into()),
                container_host: Some(url.into()),
                ..Environment::default()
            };
            let host = Host::from_parts("linux", "6.1.0", &environment);
            let kept = (!kept.is_empty()).then(|| kept.to_owned());
            assert_eq!(
                (host.docker_host, host.container_host),
                (kept.clone(), kept)
            );
        }
    }

    #[test]
    fn this_machine_as_the_node_needs_no_route() {
        assert_eq!(decide(&plain(), "none", "", LOCAL_PORT), Reach::Local);
    }

    #[test]
    fn qemus_builtin_network_is_unsupported() {
        for network in ["", "builtin", "user"] {
            assert!(matches!(
                decide(&plain(), "qemu2", network, LOCAL_PORT),
                Reach::Unsupported { .. }
            ));
        }
        assert_eq!(
            decide(&plain(), "qemu2", "socket_vmnet", NODE),
            Reach::Routed
        );
    }
}
