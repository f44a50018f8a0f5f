//! Where programs and addresses are.

use std::{
    env,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use minitunnel_model::{ProfileName, ServiceKey, Snapshot};

/// The program of that name on the `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

/// The program of that name beside this one, else on the `PATH`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let beside = env::current_exe()
        .ok()
        .map(|this| this.with_file_name(name));
    beside
        .filter(|file| is_program(file))
        .or_else(|| on_path(name))
}

fn is_program(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The page of a service's port, if the snapshot has it: nothing else is opened, whatever the page asks for.
pub(crate) fn url(
    snapshot: &Snapshot,
    profile: &ProfileName,
    service: &ServiceKey,
    port: u16,
) -> Option<String> {
    let services = &snapshot.profile(profile)?.load_balancers;
    let service = services.iter().find(|found| found.key == *service)?;
    service.ports.iter().find(|found| found.port == port)?;
    // As by convention: a port says nothing of what is spoken behind it.
    let scheme = if matches!(port, 443 | 8443) {
        "https"
    } else {
        "http"
    };
    // An ingress may also be a host name; it is a foreign controller's, and not ours to call.
    let address: std::net::IpAddr = service.ingress.iter().find_map(|text| text.parse().ok())?;
    Some(format!(
        "{scheme}://{}/",
        std::net::SocketAddr::new(address, port)
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use minitunnel_model::{
        LoadBalancer, Owner, Profile, ProfileStatus, Reach, ServicePort, TargetState, TunnelState,
    };

    use super::*;

    fn snapshot(ingress: &str) -> Snapshot {
        let service = LoadBalancer {
            key: key("web"),
            ports: [443, 8080]
                .map(|port| ServicePort {
                    port,
                    protocol: "TCP".into(),
                })
                .to_vec(),
            cluster_ips: Vec::new(),
            ingress: vec![ingress.into()],
            owner: Owner::Us,
            pending: None,
            assigned_in: None,
        };
        let status = ProfileStatus {
            profile: Profile {
                name: name("shop"),
                driver: "docker".into(),
                nodes: Vec::new(),
                service_cidrs: Vec::new(),
                dns_domain: "cluster.local".into(),
                endpoint: None,
                reach: Reach::Routed,
            },
            target: TargetState::Up,
            tunnel: TunnelState::Connecting,
            cluster: Default::default(),
            groups: Vec::new(),
            load_balancers: vec![Arc::new(service)],
            left: Vec::new(),
            minikube_tunnels: Vec::new(),
        };
        Snapshot {
            profiles: vec![status],
            ..Snapshot::default()
        }
    }

    fn name(name: &str) -> ProfileName {
        name.parse().unwrap()
    }

    fn key(name: &str) -> ServiceKey {
        ServiceKey {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_port_of_a_service_is_a_page() {
        let url = |ingress, port| url(&snapshot(ingress), &name("shop"), &key("web"), port);
        assert_eq!(url("10.96.0.7", 443).unwrap(), "https://10.96.0.7:443/");
        assert_eq!(url("10.96.0.7", 8080).unwrap(), "http://10.96.0.7:8080/");
        assert_eq!(url("fd00::7", 8080).unwrap(), "http://[fd00::7]:8080/");
    }

    #[test]
    fn what_the_session_does_not_show_is_not_opened() {
        let seen = snapshot("10.96.0.7");
        assert_eq!(url(&seen, &name("shop"), &key("web"), 22), None);
        assert_eq!(url(&seen, &name("shop"), &key("other"), 443), None);
        assert_eq!(url(&seen, &name("other"), &key("web"), 443), None);
        let named = snapshot("evil.example/?x=");
        assert_eq!(url(&named, &name("shop"), &key("web"), 443), None);
    }
}
