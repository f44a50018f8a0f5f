//! The formats of `config.json` (a profile's, a machine's, the home's) and `events.json`.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer};

/// `profiles/<p>/config.json`, the fields that concern us. Absent ones and nulls are defaults, as in Go.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ProfileConfig {
    #[serde(deserialize_with = "nullable")]
    driver: String,
    /// The driver's place before minikube v1.8.
    #[serde(rename = "VMDriver", deserialize_with = "nullable")]
    vm_driver: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) network: String,
    #[serde(rename = "APIServerPort", deserialize_with = "nullable")]
    api_server_port: u16,
    #[serde(deserialize_with = "nullable")]
    pub(super) kubernetes_config: KubernetesConfig,
    #[serde(deserialize_with = "nullable")]
    pub(super) nodes: Vec<NodeConfig>,
    #[serde(deserialize_with = "nullable")]
    pub(super) multi_node_requested: bool,
    #[serde(deserialize_with = "nullable")]
    pub(super) addons: BTreeMap<String, bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct KubernetesConfig {
    #[serde(deserialize_with = "nullable")]
    pub(super) kubernetes_version: String,
    #[serde(rename = "DNSDomain", deserialize_with = "nullable")]
    pub(super) dns_domain: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) container_runtime: String,
    #[serde(rename = "ServiceCIDR", deserialize_with = "nullable")]
    pub(super) service_cidr: String,
    #[serde(rename = "CNI", deserialize_with = "nullable")]
    pub(super) cni: String,
    #[serde(rename = "APIServerHAVIP", deserialize_with = "nullable")]
    pub(super) api_server_ha_vip: String,
    #[serde(rename = "APIServerName", deserialize_with = "nullable")]
    pub(super) api_server_name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) network_plugin: String,
    /// What `CNI` was before minikube v1.13.
    #[serde(rename = "EnableDefaultCNI", deserialize_with = "nullable")]
    pub(super) enable_default_cni: bool,
    /// Of profiles that an old minikube made, which have no `Nodes`.
    #[serde(rename = "NodeIP", deserialize_with = "nullable")]
    pub(super) node_ip: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) node_port: u16,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NodeConfig {
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    #[serde(rename = "IP", deserialize_with = "nullable")]
    pub(super) ip: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) port: u16,
    #[serde(deserialize_with = "nullable")]
    pub(super) control_plane: bool,
}

/// `machines/<m>/config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct MachineConfig {
    #[serde(deserialize_with = "nullable")]
    driver: MachineDriver,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MachineDriver {
    #[serde(rename = "IPAddress", deserialize_with = "nullable")]
    ip_address: String,
}

/// `config/config.json`, which holds every setting of `minikube config set`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    #[serde(deserialize_with = "nullable")]
    pub(super) profile: String,
}

/// minikube's default (`constants.DefaultServiceCIDR`), when the profile has none.
const DEFAULT_SERVICE_CIDR: &str = "10.96.0.0/12";

/// minikube's default (`constants.APIServerPort`).
const DEFAULT_API_SERVER_PORT: u16 = 8443;

impl KubernetesConfig {
    /// Whether Kubernetes runs at all.
    pub(super) fn has_kubernetes(&self) -> bool {
        self.kubernetes_version != "v0.0.0"
    }

    /// The 34 of `v1.34.0`.
    pub(super) fn minor_version(&self) -> Option<u32> {
        self.kubernetes_version
            .strip_prefix("v1.")?
            .split('.')
            .next()?
            .parse()
            .ok()
    }
}

impl ProfileConfig {
    /// The driver, wherever that minikube wrote it; empty where none is named.
    pub(super) fn take_driver(&mut self) -> String {
        let legacy = std::mem::take(&mut self.vm_driver);
        match std::mem::take(&mut self.driver) {
            driver if driver.is_empty() => legacy,
            driver => driver,
        }
    }

    /// The port of the API server on its node.
    pub(super) fn api_server_port(&self, nodes: &[NodeConfig]) -> u16 {
        let first = nodes.first().map_or(0, |node| node.port);
        match (first, self.api_server_port) {
            (0, 0) => DEFAULT_API_SERVER_PORT,
            (0, port) | (port, _) => port,
        }
    }

    /// The service CIDRs, without host bits (`10.97.0.0/12` is `10.96.0.0/12`).
    pub(super) fn service_cidrs(&self) -> Result<Vec<IpNet>, String> {
        let text = match self.kubernetes_config.service_cidr.trim() {
            "" => DEFAULT_SERVICE_CIDR,
            text => text,
        };
        let parse = |one: &str| match one.trim().parse::<IpNet>() {
            Ok(net) => Ok(net.trunc()),
            Err(_) => Err(format!("its ServiceCIDR \"{}\" is no network", shown(one))),
        };
        text.split(',').map(parse).collect()
    }

    pub(super) fn dns_domain(&self) -> String {
        match self.kubernetes_config.dns_domain.as_str() {
            "" => "cluster.local".to_owned(),
            domain => domain.to_owned(),
        }
    }

    /// Its nodes; the one of an old profile, which has no list of them.
    pub(super) fn take_nodes(&mut self) -> Vec<NodeConfig> {
        let nodes = std::mem::take(&mut self.nodes);
        if nodes.is_empty() && !self.kubernetes_config.node_ip.is_empty() {
            let ip = std::mem::take(&mut self.kubernetes_config.node_ip);
            return vec![NodeConfig {
                name: String::new(),
                ip,
                port: self.kubernetes_config.node_port,
                control_plane: true,
            }];
        }
        nodes
    }
}

impl NodeConfig {
    /// Its address; a node that was never started has none.
    pub(super) fn address(&self) -> Result<Option<IpAddr>, String> {
        match self.ip.trim() {
            "" => Ok(None),
            text => match text.parse() {
                Ok(ip) => Ok(Some(ip)),
                Err(_) => Err(format!(
                    "the IP \"{}\" of its node {:?} is no address",
                    shown(text),
                    shown(&self.name)
                )),
            },
        }
    }
}

impl MachineConfig {
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.driver.ip_address.trim().parse().ok()
    }
}

/// Whether the last step in an `events.json` (one cloudevent a line) is one that ends the cluster.
pub(super) fn ends_cluster(events: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        kind: String,
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(default)]
        name: String,
    }
    // The last line may be half written.
    let steps = events.split(|byte| *byte == b'\n').rev();
    let mut steps = steps.filter_map(|line| serde_json::from_slice::<Event>(line).ok());
    // Steps of minikube's register (`pkg/minikube/out/register`).
    steps
        .find(|event| event.kind == "io.k8s.sigs.minikube.step")
        .is_some_and(|event| {
            matches!(
                event.data.name.as_str(),
                "Stopping" | "PowerOff" | "Deleting"
            )
        })
}

/// One entry of `tunnels.json`, as Go's encoder writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TunnelEntry {
    pub(super) route: TunnelRoute,
    pub(super) machine_name: String,
    pub(super) pid: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TunnelRoute {
    pub(super) gateway: IpAddr,
    #[serde(rename = "DestCIDR")]
    pub(super) destination: GoNet,
}

/// Go's `net.IPNet`: the mask is bytes, and so base64.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GoNet {
    #[serde(rename = "IP")]
    ip: IpAddr,
    mask: String,
}

impl GoNet {
    /// The network; minikube's are IPv4.
    pub(super) fn network(&self) -> Option<IpNet> {
        use base64::Engine as _;

        let IpAddr::V4(ip) = self.ip else { return None };
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&self.mask)
            .ok()?;
        let mask: [u8; 4] = bytes.try_into().ok()?;
        Some(IpNet::V4(Ipv4Net::with_netmask(ip, mask.into()).ok()?))
    }
}

/// A hostile text may be of any length.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str) -> String {
        format!(
            r#"{{"data":{{"currentstep":"0","message":"m","name":"{name}","totalsteps":"2"}},"datacontenttype":"application/json","id":"1","source":"https://minikube.sigs.k8s.io/","specversion":"1.0","type":"io.k8s.sigs.minikube.step"}}"#
        )
    }

    #[test]
    fn a_stop_announces_itself_until_it_is_done() {
        let error = r#"{"data":{"exitcode":"1"},"type":"io.k8s.sigs.minikube.error"}"#;
        for (lines, stopping) in [
            (vec![], false),
            (vec![step("Initial Minikube Setup"), step("Done")], false),
            (vec![step("Stopping")], true),
            (
                vec![step("Stopping"), step("PowerOff"), error.to_owned()],
                true,
            ),
            (vec![step("Deleting"), step("St")[..40].to_owned()], true),
            (vec![step("Stopping"), step("Done")], false),
        ] {
            assert_eq!(
                ends_cluster(lines.join("\n").as_bytes()),
                stopping,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn a_service_cidr_loses_its_host_bits() {
        let mut config = ProfileConfig::default();
        assert_eq!(
            config.service_cidrs().unwrap(),
            ["10.96.0.0/12".parse().unwrap()]
        );
        config.kubernetes_config.service_cidr = "10.97.0.0/12, fd00:10:96::1/112".to_owned();
        let expected: [IpNet; 2] = [
            "10.96.0.0/12".parse().unwrap(),
            "fd00:10:96::/112".parse().unwrap(),
        ];
        assert_eq!(config.service_cidrs().unwrap(), expected);
    }

    #[test]
    fn gos_mask_is_base64() {
        let net: GoNet = serde_json::from_str(r#"{"IP":"10.96.0.0","Mask":"//AAAA=="}"#).unwrap();
        assert_eq!(net.network(), Some("10.96.0.0/12".parse().unwrap()));
        let net: GoNet = serde_json::from_str(r#"{"IP":"10.96.0.0","Mask":"/w=="}"#).unwrap();
        assert_eq!(net.network(), None);
    }
}
