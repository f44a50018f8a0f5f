//! A node as the API server knows it.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use minitunnel_model::Node;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    api::{Object, Told},
    pods::{PodRange, PodSource},
};

/// The few fields that are read.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct NodeObject {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    resource_version: String,
    labels: BTreeMap<String, IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Vec<Address>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
struct Address {
    r#type: String,
    address: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Object for NodeObject {
    const PATH: &'static str = "/api/v1/nodes";

    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl From<NodeObject> for Node {
    fn from(object: NodeObject) -> Self {
        let NodeObject {
            metadata,
            spec,
            status,
        } = object;
        let internal = status
            .addresses
            .iter()
            .filter(|address| address.r#type == "InternalIP");
        let ips: Vec<IpAddr> = internal
            .filter_map(|address| address.address.parse().ok())
            .collect();
        let pod_cidrs = spec
            .pod_cidrs
            .iter()
            .filter_map(|net| net.parse::<IpNet>().ok());
        // A node that has not said so yet is not ready.
        let ready = status
            .conditions
            .iter()
            .any(|condition| condition.r#type == "Ready" && condition.status == "True");
        Self {
            name: metadata.name,
            ips,
            // kubeadm's labels, the second of clusters before 1.24.
            control_plane: [
                "node-role.kubernetes.io/control-plane",
                "node-role.kubernetes.io/master",
            ]
            .iter()
            .any(|label| metadata.labels.contains_key(*label)),
            ready: Some(ready),
            pod_cidrs: pod_cidrs.map(|net| net.trunc()).collect(),
        }
    }
}

/// The nodes, by name, and the networks of their pods where those are kept elsewhere.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<String, Node>,
    source: PodSource,
    /// By the object that tells.
    ranges: BTreeMap<String, PodRange>,
}

impl Nodes {
    pub(super) fn new(source: PodSource) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }

    /// Takes news of nodes in; whether that changed anything that is kept (kubelets renew their node's status for nothing).
    pub(super) fn take(&mut self, told: Told<NodeObject>) -> bool {
        match told.map(Node::from) {
            Told::Applied { object: node, .. } => self
                .nodes
                .insert(node.name.clone(), node.clone())
                .is_none_or(|before| before != node),
            Told::Deleted(node) => self.nodes.remove(&node.name).is_some(),
            Told::Reset(nodes) => {
                let named = nodes.into_iter().map(|node| (node.name.clone(), node));
                self.nodes = named.collect();
                true
            }
            Told::Bookmark => false,
        }
    }

    /// Takes news of the pods' networks in; whether that changed any.
    pub(super) fn take_ranges(&mut self, told: Told<PodRange>) -> bool {
        match told {
            Told::Applied { object: range, .. } => self
                .ranges
                .insert(range.object.clone(), range.clone())
                .is_none_or(|before| before != range),
            Told::Deleted(range) => self.ranges.remove(&range.object).is_some(),
            Told::Reset(ranges) => {
                let named = ranges
                    .into_iter()
                    .map(|range| (range.object.clone(), range));
                let now = named.collect();
                std::mem::replace(&mut self.ranges, now) != self.ranges
            }
            Told::Bookmark => false,
        }
    }

    /// All, the control plane first.
    pub(super) fn list(&self) -> Vec<Node> {
        let mut nodes = self.nodes.clone();
        if self.source != PodSource::Nodes {
            // Whatever Kubernetes would give them, the pod network goes by its own.
            nodes.values_mut().for_each(|node| node.pod_cidrs.clear());
            for range in self.ranges.values() {
                if let Some(node) = nodes.get_mut(&range.node) {
                    node.pod_cidrs.extend(&range.cidrs);
                }
            }
            for node in nodes.values_mut() {
                node.pod_cidrs.sort_unstable();
            }
        }
        let (first, rest): (Vec<_>, Vec<_>) =
            nodes.into_values().partition(|node| node.control_plane);
        first.into_iter().chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, control_plane: bool, ready: &str) -> NodeObject {
        let labels = if control_plane {
            json!({ "node-role.kubernetes.io/control-plane": "" })
        } else {
            json!({})
        };
        serde_json::from_value(json!({
            "metadata": { "name": name, "resourceVersion": "3", "labels": labels },
            "spec": { "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "rubbish"] },
            "status": {
                "addresses": [{ "type": "Hostname", "address": name }, { "type": "InternalIP", "address": "192.168.49.3" }],
                "conditions": [{ "type": "MemoryPressure", "status": "False" }, { "type": "Ready", "status": ready }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_node_has_its_internal_addresses_and_pod_networks() {
        let node = Node::from(object("a", true, "True"));
        assert_eq!(node.ips, ["192.168.49.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(node.pod_cidrs, ["10.244.1.0/24".parse().unwrap()]);
        assert!(node.control_plane && node.ready == Some(true));
        assert_eq!(Node::from(object("a", false, "Unknown")).ready, Some(false));
    }

    fn applied<K>(object: K) -> Told<K> {
        Told::Applied {
            object,
            is_new: false,
        }
    }

    #[test]
    fn the_control_plane_comes_first_and_repetitions_change_nothing() {
        let mut nodes = Nodes::default();
        assert!(nodes.take(applied(object("a", false, "True"))));
        assert!(nodes.take(applied(object("z", true, "True"))));
        assert!(!nodes.take(applied(object("z", true, "True"))));
        assert_eq!(
            nodes
                .list()
                .iter()
                .map(|node| node.name.as_str())
                .collect::<Vec<_>>(),
            ["z", "a"]
        );
        assert!(nodes.take(applied(object("z", true, "False"))));
        let gone = || Told::Deleted(object("z", true, "True"));
        assert!(nodes.take(gone()) && !nodes.take(gone()));
    }

    #[test]
    fn networks_of_their_own_objects_are_their_nodes_instead_of_those_of_the_spec() {
        let range = |name: &str, node: &str, cidr: &str| PodRange {
            object: name.to_owned(),
            node: node.to_owned(),
            cidrs: vec![cidr.parse().unwrap()],
        };
        let both = vec![object("a", true, "True"), object("b", false, "True")];
        let mut nodes = Nodes::new(PodSource::Calico);
        nodes.take(Told::Reset(both));
        let cidrs = |nodes: &Nodes| -> Vec<Vec<String>> {
            let texts = |node: Node| node.pod_cidrs.iter().map(ToString::to_string).collect();
            nodes.list().into_iter().map(texts).collect()
        };
        assert_eq!(cidrs(&nodes), [[""; 0], []]);
        let [low, high] = ["10.244.7.0/26", "10.244.7.64/26"];
        let ranges = vec![
            range("1", "a", low),
            range("2", "a", high),
            range("3", "b", "10.244.9.0/26"),
            range("4", "nobody", "10.244.10.0/26"),
        ];
        assert!(nodes.take_ranges(Told::Reset(ranges.clone())));
        assert!(!nodes.take_ranges(Told::Reset(ranges.clone())));
        assert_eq!(cidrs(&nodes), [vec![low, high], vec!["10.244.9.0/26"]]);
        assert!(nodes.take_ranges(Told::Deleted(ranges[0].clone())));
        assert_eq!(cidrs(&nodes), [[high], ["10.244.9.0/26"]]);
        // The block goes over to the other node.
        assert!(nodes.take_ranges(applied(range("2", "b", high))));
        assert_eq!(cidrs(&nodes)[0], [""; 0]);
    }
}
