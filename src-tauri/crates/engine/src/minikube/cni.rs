//! Which node serves which pods.

use ipnet::{IpNet, Ipv4Net};
use minitunnel_model::Node;
use std::net::Ipv4Addr;

use super::config::KubernetesConfig;
use crate::cluster::PodSource;

/// The pod network of a profile (`pkg/minikube/cni`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cni {
    /// minikube's bridge: its one node serves all of 10.244.0.0/16.
    Bridge,
    /// Each node serves its `spec.podCIDRs`.
    Kindnet,
    /// Each node serves its `spec.podCIDRs`.
    Flannel,
    /// Each node serves the blocks that Calico has bound to it.
    Calico,
    /// Each node serves what its CiliumNode says.
    Cilium,
    /// One whose pods can't be routed.
    Other {
        /// Why, in one sentence.
        reason: String,
    },
}

/// Fixed in the template of minikube's bridge, whatever kubeadm is told.
const BRIDGE_PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);

impl Cni {
    /// The pod CIDRs that a node serves, as the API server tells them; an error is the reason why there are none.
    pub fn pod_cidrs(&self, node: &Node) -> Result<Vec<IpNet>, String> {
        let name = &node.name;
        let untold = match self {
            Self::Bridge => return Ok(vec![IpNet::V4(BRIDGE_PODS)]),
            Self::Other { reason } => return Err(reason.clone()),
            Self::Kindnet | Self::Flannel => {
                format!("the API server has not told which pods {name} serves")
            }
            Self::Calico => format!("Calico has bound no block of pod addresses to {name} yet"),
            Self::Cilium => format!("Cilium has given {name} no pod addresses yet"),
        };
        match node.pod_cidrs.as_slice() {
            [] => Err(untold),
            cidrs => Ok(cidrs.to_vec()),
        }
    }

    /// Where the API server says which pods a node serves.
    pub fn pod_source(&self) -> PodSource {
        match self {
            Self::Calico => PodSource::Calico,
            Self::Cilium => PodSource::Cilium,
            Self::Bridge | Self::Kindnet | Self::Flannel | Self::Other { .. } => PodSource::Nodes,
        }
    }

    /// Which one minikube uses, by the profile's settings.
    pub(super) fn choose(config: &KubernetesConfig, driver: &str, nodes: usize) -> Self {
        let plugin = config.network_plugin.as_str();
        match config.cni.as_str() {
            _ if !config.has_kubernetes() => {
                other("the profile runs no Kubernetes, and so no pods")
            }
            _ if !matches!(plugin, "" | "cni") => other(&format!(
                "the profile's network plugin is {}, of which minitunnel knows no pod network; use their services",
                plugin.escape_debug()
            )),
            "" | "auto" => Self::automatic(config, driver, nodes),
            "bridge" => Self::Bridge,
            "kindnet" | "true" => Self::Kindnet,
            "flannel" => Self::Flannel,
            "calico" => Self::Calico,
            "cilium" => Self::Cilium,
            "false" => other(
                "the profile was started with --cni=false, so it has no pod network that minitunnel knows of",
            ),
            _ => other(
                "the profile's pod network is from a manifest of your own, so which node serves which pods is unknown; use their services",
            ),
        }
    }

    /// `chooseDefault` of minikube.
    fn automatic(config: &KubernetesConfig, driver: &str, nodes: usize) -> Self {
        let docker_runtime = matches!(config.container_runtime.as_str(), "" | "docker");
        let container_driver = matches!(driver, "docker" | "podman");
        if config.enable_default_cni {
            return Self::Bridge;
        }
        if nodes > 1 || (!docker_runtime && container_driver) {
            return Self::Kindnet;
        }
        // dockershim, which 1.24 removed, gave pods docker's own network on the node.
        let dockershim = config.minor_version().is_some_and(|minor| minor < 24);
        if docker_runtime && dockershim {
            return other(
                "Kubernetes before 1.24 gives pods docker's own addresses (172.17.0.0/16), which this machine's docker has too; use their services",
            );
        }
        Self::Bridge
    }
}

fn other(reason: &str) -> Cni {
    Cni::Other {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(pod_cidrs: &[&str]) -> Node {
        Node {
            name: "n".to_owned(),
            ips: Vec::new(),
            control_plane: true,
            ready: None,
            pod_cidrs: pod_cidrs.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    fn config(cni: &str, runtime: &str) -> KubernetesConfig {
        KubernetesConfig {
            kubernetes_version: "v1.34.0".to_owned(),
            container_runtime: runtime.to_owned(),
            cni: cni.to_owned(),
            ..KubernetesConfig::default()
        }
    }

    #[test]
    fn minikubes_choice_follows_runtime_driver_and_nodes() {
        let auto = |runtime, driver, nodes| {
            let [unset, auto] =
                ["", "auto"].map(|cni| Cni::choose(&config(cni, runtime), driver, nodes));
            assert_eq!(unset, auto);
            auto
        };
        assert_eq!(auto("docker", "docker", 1), Cni::Bridge);
        assert_eq!(auto("", "kvm2", 1), Cni::Bridge);
        assert_eq!(auto("docker", "docker", 2), Cni::Kindnet);
        assert_eq!(auto("containerd", "docker", 1), Cni::Kindnet);
        assert_eq!(auto("crio", "podman", 1), Cni::Kindnet);
        assert_eq!(auto("containerd", "kvm2", 1), Cni::Bridge);
        assert_eq!(auto("containerd", "kvm2", 3), Cni::Kindnet);
    }

    #[test]
    fn what_older_profiles_say_counts() {
        let default_cni = KubernetesConfig {
            enable_default_cni: true,
            ..config("", "docker")
        };
        assert_eq!(Cni::choose(&default_cni, "kvm2", 2), Cni::Bridge);
        let plugin = |plugin: &str| KubernetesConfig {
            network_plugin: plugin.to_owned(),
            ..config("", "docker")
        };
        assert_eq!(Cni::choose(&plugin("cni"), "docker", 1), Cni::Bridge);
        let kubenet = Cni::choose(&plugin("kubenet"), "docker", 1);
        let reason = kubenet.pod_cidrs(&node(&["10.244.0.0/24"])).unwrap_err();
        assert!(reason.contains("kubenet"), "{reason}");
        let old = |runtime: &str| KubernetesConfig {
            kubernetes_version: "v1.23.17".to_owned(),
            ..config("", runtime)
        };
        assert_eq!(Cni::choose(&old("containerd"), "docker", 1), Cni::Kindnet);
        let dockershim = Cni::choose(&old("docker"), "docker", 1);
        let reason = dockershim.pod_cidrs(&node(&[])).unwrap_err();
        assert!(reason.contains("172.17.0.0/16"), "{reason}");
    }

    #[test]
    fn the_bridges_node_serves_all_pods_whatever_its_spec_says() {
        assert_eq!(
            Cni::Bridge.pod_cidrs(&node(&["10.0.0.0/24"])).unwrap(),
            ["10.244.0.0/16".parse().unwrap()]
        );
    }

    #[test]
    fn others_serve_what_the_api_server_says_or_say_who_has_not_spoken() {
        for (cni, source, word) in [
            (Cni::Kindnet, PodSource::Nodes, "API server"),
            (Cni::Flannel, PodSource::Nodes, "API server"),
            (Cni::Calico, PodSource::Calico, "Calico"),
            (Cni::Cilium, PodSource::Cilium, "Cilium"),
        ] {
            let nets = ["10.244.1.0/24", "fd00:1::/64"];
            let expected: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
            assert_eq!(cni.pod_cidrs(&node(&nets)).unwrap(), expected);
            assert_eq!(cni.pod_source(), source);
            let reason = cni.pod_cidrs(&node(&[])).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn a_chosen_network_is_that_and_unknown_ones_say_why_their_pods_have_no_route() {
        let chosen = |cni| Cni::choose(&config(cni, "docker"), "docker", 2);
        for (name, cni) in [
            ("bridge", Cni::Bridge),
            ("kindnet", Cni::Kindnet),
            ("true", Cni::Kindnet),
            ("flannel", Cni::Flannel),
            ("calico", Cni::Calico),
            ("cilium", Cni::Cilium),
        ] {
            assert_eq!(chosen(name), cni);
        }
        for (name, word) in [("false", "--cni=false"), ("/my/cni.yaml", "manifest")] {
            let reason = chosen(name).pod_cidrs(&node(&["10.244.0.0/24"]));
            assert!(reason.unwrap_err().contains(word), "{name}");
        }
        let none = KubernetesConfig {
            kubernetes_version: "v0.0.0".to_owned(),
            ..KubernetesConfig::default()
        };
        assert!(
            Cni::choose(&none, "docker", 1)
                .pod_cidrs(&node(&[]))
                .is_err()
        );
    }
}
