//! The small summary of a service that is kept, and what it is read from.

use std::net::IpAddr;

use minitunnel_model::{Owner, ServiceKey, ServicePort};
use serde::{Deserialize, de::IgnoredAny};

use super::api::Object;

/// Our field manager in `metadata.managedFields`.
pub const FIELD_MANAGER: &str = "minitunnel";

/// The `spec.loadBalancerClass` that asks for us by name.
pub const LOAD_BALANCER_CLASS: &str = "minitunnel.github.io/minitunnel";

/// minikube's own field manager.
const MINIKUBE: &str = "minikube";

/// A service, as far as it concerns us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub key: ServiceKey,
    /// `metadata.uid`: a service that was made anew under its name has another.
    pub uid: String,
    /// Whether it is of `type: LoadBalancer`.
    pub is_load_balancer: bool,
    /// `spec.loadBalancerClass`, unless it is none or ours.
    pub class: Option<String>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.clusterIPs`; empty for one that has none.
    pub cluster_ips: Vec<IpAddr>,
    /// The addresses and host names in `status.loadBalancer.ingress`.
    pub ingress: Vec<String>,
    /// Who set them, by the field managers of `status.loadBalancer`; we, where we are among several.
    pub owner: Owner,
    /// Whether the ingress equals the cluster IPs and only manager `minikube` owns it: an ended `minikube tunnel` left it.
    pub left_by_minikube: bool,
}

impl Service {
    /// Whether its ingress is what we would set: its cluster IPs, in their order.
    pub fn is_right(&self) -> bool {
        !self.cluster_ips.is_empty()
            && self.ingress.len() == self.cluster_ips.len()
            && self
                .ingress
                .iter()
                .zip(&self.cluster_ips)
                .all(|(text, ip)| text.parse() == Ok(*ip))
    }

    /// Whether its ingress is what a `minikube tunnel` sets, the first of its cluster IPs, or all of them, and nobody but
    /// manager `minikube` owns it.
    pub fn is_minikubes(&self) -> bool {
        let first = self.cluster_ips.iter().take(1);
        let ingress = self.ingress.iter().map(|text| text.parse().ok());
        is_minikube(&self.owner) && (self.is_right() || ingress.eq(first.copied().map(Some)))
    }

    /// Whether it is to be kept: it wants an address, or still has ours.
    pub(super) fn concerns_us(&self) -> bool {
        self.is_load_balancer || self.owner == Owner::Us
    }
}

/// A service as the API server sends it: the few fields that are read, so that the many others cost no memory.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServiceObject {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: ServiceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    managed_fields: Vec<ManagedFields>,
}

/// `metadata.managedFields[]`: who set which fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ManagedFields {
    manager: String,
    #[serde(rename = "fieldsV1")]
    fields: Fields,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(rename = "f:status")]
    status: StatusFields,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct StatusFields {
    #[serde(rename = "f:loadBalancer")]
    load_balancer: LoadBalancerFields,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancerFields {
    #[serde(rename = "f:ingress")]
    ingress: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    r#type: String,
    load_balancer_class: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Deserialize)]
struct Port {
    port: u16,
    #[serde(default = "tcp")]
    protocol: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: LoadBalancerStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancerStatus {
    ingress: Vec<Ingress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Ingress {
    ip: Option<String>,
    hostname: Option<String>,
}

fn tcp() -> String {
    "TCP".to_owned()
}

impl Object for ServiceObject {
    const PATH: &'static str = "/api/v1/services";

    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl ServiceObject {
    /// Its cluster IPs; none for a headless service.
    pub(super) fn cluster_ips(&self) -> impl Iterator<Item = IpAddr> {
        let ips = self.spec.cluster_ips.iter();
        ips.filter_map(|ip| ip.parse().ok())
    }

    pub(super) fn into_key(self) -> ServiceKey {
        ServiceKey {
            namespace: self.metadata.namespace,
            name: self.metadata.name,
        }
    }
}

impl From<ServiceObject> for Service {
    fn from(object: ServiceObject) -> Self {
        let cluster_ips: Vec<IpAddr> = object.cluster_ips().collect();
        let ServiceObject {
            metadata,
            spec,
            status,
        } = object;
        let ingress: Vec<String> = status
            .load_balancer
            .ingress
            .into_iter()
            .filter_map(|entry| entry.ip.or(entry.hostname))
            .collect();
        let owner = owner(&ingress, &metadata.managed_fields);
        let ports = spec.ports.into_iter().map(|port| ServicePort {
            port: port.port,
            protocol: port.protocol,
        });
        let mut service = Self {
            key: ServiceKey {
                namespace: metadata.namespace,
                name: metadata.name,
            },
            uid: metadata.uid,
            is_load_balancer: spec.r#type == "LoadBalancer",
            class: spec
                .load_balancer_class
                .filter(|class| class != LOAD_BALANCER_CLASS),
            ports: ports.collect(),
            cluster_ips,
            ingress,
            owner,
            left_by_minikube: false,
        };
        service.left_by_minikube = is_minikube(&service.owner) && service.is_right();
        service
    }
}

fn is_minikube(owner: &Owner) -> bool {
    matches!(owner, Owner::Other(manager) if manager == MINIKUBE)
}

fn owner(ingress: &[String], managed: &[ManagedFields]) -> Owner {
    if ingress.is_empty() {
        return Owner::Nobody;
    }
    let managers = || {
        managed
            .iter()
            .filter(|entry| entry.fields.status.load_balancer.ingress.is_some())
            .map(|entry| &entry.manager)
    };
    if managers().any(|manager| manager == FIELD_MANAGER) {
        return Owner::Us;
    }
    // Whoever else owns it too, minikube's leftovers are not for us to take over.
    let foreign = managers()
        .find(|manager| *manager != MINIKUBE)
        .or_else(|| managers().next());
    Owner::Other(foreign.map_or_else(|| "an unknown controller".to_owned(), Clone::clone))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(status_managers: &[&str], ingress: serde_json::Value) -> Service {
        let managed: Vec<_> = status_managers
            .iter()
            .map(|manager| {
                json!({ "manager": manager, "operation": "Update", "subresource": "status", "fieldsType": "FieldsV1",
                    "fieldsV1": { "f:status": { "f:loadBalancer": { "f:ingress": {} } } } })
            })
            .collect();
        let object: ServiceObject = serde_json::from_value(json!({
            "kind": "Service",
            "metadata": { "name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "7", "managedFields": managed },
            "spec": { "type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
                "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP", "nodePort": 30053 }] },
            "status": { "loadBalancer": { "ingress": ingress } },
        }))
        .unwrap();
        object.into()
    }

    #[test]
    fn the_summary_has_what_views_show() {
        let service = service(&[], json!([]));
        assert_eq!(service.key.to_string(), "shop/web");
        assert_eq!(
            service
                .ports
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["80", "53/UDP"]
        );
        assert_eq!(
            service.cluster_ips,
            [
                "10.96.0.7".parse::<IpAddr>().unwrap(),
                "fd00::7".parse().unwrap()
            ]
        );
        assert_eq!(service.owner, Owner::Nobody);
        assert!(service.is_load_balancer && !service.is_right());
    }

    #[test]
    fn an_ingress_belongs_to_us_where_we_are_among_its_managers() {
        let both = json!([{ "ip": "10.96.0.7", "ipMode": "VIP" }, { "ip": "fd00::7" }]);
        let ours = service(&["minikube", "minitunnel"], both.clone());
        assert_eq!(ours.owner, Owner::Us);
        assert!(ours.is_right() && !ours.left_by_minikube);
        let other = service(&["minikube", "metallb"], both.clone());
        assert_eq!(other.owner, Owner::Other("metallb".to_owned()));
        assert!(!other.left_by_minikube);
        assert!(service(&["minikube"], both.clone()).left_by_minikube);
        assert!(matches!(service(&[], both).owner, Owner::Other(_)));
    }

    #[test]
    fn what_minikube_left_with_another_value_is_not_adopted() {
        for value in [
            json!([{ "ip": "10.96.0.8" }]),
            json!([{ "hostname": "10.96.0.7.example" }]),
        ] {
            let service = service(&["minikube"], value);
            assert!(!service.left_by_minikube && !service.is_minikubes());
        }
    }

    #[test]
    fn what_minikube_left_of_one_family_is_not_adopted_and_can_be_cleaned_up() {
        let first = json!([{ "ip": "10.96.0.7" }]);
        let left = service(&["minikube"], first.clone());
        assert!(!left.left_by_minikube && left.is_minikubes());
        assert!(!service(&["minikube", "metallb"], first.clone()).is_minikubes());
        assert!(!service(&["minikube", "minitunnel"], first).is_minikubes());
        let second = json!([{ "ip": "fd00::7" }]);
        assert!(!service(&["minikube"], second).is_minikubes());
        assert!(!service(&["minikube"], json!([])).is_minikubes());
    }

    #[test]
    fn a_manager_of_other_status_fields_owns_no_ingress() {
        let object: ServiceObject = serde_json::from_value(json!({
            "metadata": { "name": "a", "managedFields": [
                { "manager": "minitunnel", "fieldsV1": { "f:status": { "f:conditions": {} } } },
                { "manager": "kubectl", "fieldsV1": { "f:spec": { "f:ports": {} } } },
                { "manager": "cloud", "fieldsV1": { "f:status": { "f:loadBalancer": { "f:ingress": {} } } } },
            ] },
            "status": { "loadBalancer": { "ingress": [{ "hostname": "lb.example" }] } },
        }))
        .unwrap();
        assert_eq!(
            Service::from(object).owner,
            Owner::Other("cloud".to_owned())
        );
    }

    #[test]
    fn only_a_foreign_class_is_kept_and_headless_has_no_address() {
        let with = |class: &str| -> Service {
            let object: ServiceObject = serde_json::from_value(json!({
                "metadata": {}, "spec": { "loadBalancerClass": class, "clusterIPs": ["None"] },
            }))
            .unwrap();
            object.into()
        };
        assert_eq!(
            with("example.com/lb").class.as_deref(),
            Some("example.com/lb")
        );
        assert_eq!(with(LOAD_BALANCER_CLASS).class, None);
        assert!(with("x").cluster_ips.is_empty());
        assert!(!with("x").is_right());
    }
}
