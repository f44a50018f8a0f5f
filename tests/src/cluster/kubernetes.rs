//! What the cluster holds, through its API.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Cluster, POD_PORT, network};
use crate::{Result, WAIT};

/// The field manager of the harness.
const MANAGER: &str = "minitunnel-e2e";

/// A service that the pod answers.
#[derive(Debug, Clone)]
pub struct Exposed {
    /// The service's name, in namespace `default`.
    pub name: String,
    /// Its cluster IPs, the first family first; none for a service that has none.
    pub cluster_ips: Vec<IpAddr>,
}

impl Exposed {
    /// The first cluster IP.
    ///
    /// # Panics
    ///
    /// Panics for a service without one.
    pub fn ip(&self) -> IpAddr {
        self.cluster_ips[0]
    }

    /// The URL of the first cluster IP.
    pub fn url(&self) -> String {
        url(self.ip())
    }

    /// The URLs of all cluster IPs.
    pub fn urls(&self) -> impl Iterator<Item = String> {
        self.cluster_ips.iter().copied().map(url)
    }

    /// All cluster IPs, as a status names them.
    pub fn addresses(&self) -> Vec<String> {
        self.cluster_ips.iter().map(IpAddr::to_string).collect()
    }
}

impl Cluster {
    /// The services of namespace `default`.
    pub fn services(&self) -> Api<Service> {
        Api::default_namespaced(self.client())
    }

    /// The URLs of the pod's web server, of both families where it has both.
    pub fn pod_urls(&self) -> Result<Vec<String>> {
        let of = |ip: String| Ok(url_with_port(ip.parse()?, POD_PORT));
        network::pod_ips(self.options())
            .into_iter()
            .map(of)
            .collect()
    }

    /// Makes a service of a type (`LoadBalancer`, `ClusterIP`, …) with port 80, which the pod answers.
    pub async fn expose(&self, name: &str, service_type: &str) -> Result<Exposed> {
        self.expose_as(name, json!({ "type": service_type })).await
    }

    /// Makes such a service with a spec of your own, such as a `loadBalancerClass`; port 80 is added.
    pub async fn expose_as(&self, name: &str, mut spec: Value) -> Result<Exposed> {
        spec["ports"] = json!([{ "port": 80, "targetPort": POD_PORT, "protocol": "TCP" }]);
        if self.options().dual_stack && spec["type"] != "ExternalName" {
            spec["ipFamilyPolicy"] = json!("PreferDualStack");
        }
        let service: Service = typed(json!({ "metadata": { "name": name }, "spec": spec }))?;
        let service = bounded(
            &format!("create service {name}"),
            self.services().create(&PostParams::default(), &service),
        )
        .await?;
        let slices: Api<EndpointSlice> = Api::default_namespaced(self.client());
        let apply = PatchParams::apply(MANAGER).force();
        for ip in network::pod_ips(self.options()) {
            let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
            let slice_name = format!("{name}-{}", family.to_lowercase());
            let slice = Patch::Apply(json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": { "name": slice_name, "labels": { "kubernetes.io/service-name": name } },
                "addressType": family,
                "ports": [{ "port": POD_PORT, "protocol": "TCP" }],
                "endpoints": [{ "addresses": [ip], "conditions": { "ready": true } }],
            }));
            // Applied, as a service that is made anew under its name finds the slices that it had.
            bounded(
                "apply an EndpointSlice",
                slices.patch(&slice_name, &apply, &slice),
            )
            .await?;
        }
        exposed(&service)
    }

    /// Changes a service's spec by a merge patch.
    pub async fn change(&self, name: &str, spec: Value) -> Result<Exposed> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let service = bounded(
            &format!("patch service {name}"),
            self.services().patch(name, &PatchParams::default(), &patch),
        )
        .await?;
        exposed(&service)
    }

    /// Sets `status.loadBalancer` as another controller would: a plain merge patch of that field manager.
    pub async fn set_load_balancer(
        &self,
        name: &str,
        manager: &str,
        load_balancer: Value,
    ) -> Result {
        let params = PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "status": { "loadBalancer": load_balancer } }));
        bounded(
            &format!("patch the status of service {name}"),
            self.services().patch_status(name, &params, &patch),
        )
        .await
        .map(drop)
    }

    /// Deletes a service.
    pub async fn delete(&self, name: &str) -> Result {
        bounded(
            &format!("delete service {name}"),
            self.services().delete(name, &DeleteParams::default()),
        )
        .await
        .map(drop)
    }

    /// A service's addresses in `status.loadBalancer.ingress` as they are now.
    pub async fn addresses(&self, name: &str) -> Result<Vec<String>> {
        let service = bounded(&format!("get service {name}"), self.services().get(name)).await?;
        Ok(ingress(&service))
    }

    /// Watches a service until a condition holds (`None`: there is no such service); `what` is what it should do, as in
    /// "have an address".
    pub async fn wait_for_service(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        condition: impl Fn(Option<&Service>) -> bool,
    ) -> Result<Option<Service>> {
        let reached = timeout(
            within,
            await_condition(self.services(), name, |service: Option<&Service>| {
                condition(service)
            }),
        );
        if let Ok(service) = reached.await {
            return Ok(service?);
        }
        let now = self.services().get_opt(name).await?;
        anyhow::bail!(
            "waited {within:?} for service {name} to {what}; it is now: {}",
            serde_json::to_string_pretty(&now)?
        )
    }

    /// Watches a service until it has addresses, and gives them.
    pub async fn wait_for_addresses(&self, name: &str) -> Result<Vec<String>> {
        let has_one =
            |service: Option<&Service>| service.is_some_and(|service| !ingress(service).is_empty());
        let service = self
            .wait_for_service(name, "have an address", WAIT, has_one)
            .await?;
        Ok(service.as_ref().map(ingress).unwrap_or_default())
    }

    /// Watches a service until it has no address, or is gone.
    pub async fn wait_for_no_address(&self, name: &str) -> Result {
        let has_none =
            |service: Option<&Service>| service.is_none_or(|service| ingress(service).is_empty());
        self.wait_for_service(name, "lose its addresses", WAIT, has_none)
            .await
            .map(drop)
    }

    /// Makes or changes a further node's object, without a machine behind it.
    pub async fn put_bare_node(&self, name: &str, ip: &str, pod_cidr: &str) -> Result {
        self.put(name, &[ip.to_owned()], &[pod_cidr]).await
    }

    /// Sets a node's `Ready` condition.
    pub async fn set_ready(&self, name: &str, ready: bool) -> Result {
        let status = if ready { "True" } else { "False" };
        let patch = Patch::Merge(json!({
            "status": { "conditions": [{ "type": "Ready", "status": status }] },
        }));
        let nodes: Api<Node> = Api::all(self.client());
        bounded(
            "patch a node's status",
            nodes.patch_status(name, &PatchParams::default(), &patch),
        )
        .await
        .map(drop)
    }

    /// Labels a node as one that runs the control plane, as kubeadm does.
    pub async fn label_control_plane(&self, name: &str) -> Result {
        let patch = Patch::Merge(json!({
            "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "" } },
        }));
        let nodes: Api<Node> = Api::all(self.client());
        bounded(
            "label a node",
            nodes.patch(name, &PatchParams::default(), &patch),
        )
        .await
        .map(drop)
    }

    /// Makes any object by its JSON, at the path where its kind is listed; for kinds that tests seldom need.
    pub async fn create_at(&self, path: &str, object: &Value) -> Result {
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(object)?)?;
        let client = self.client();
        bounded(
            &format!("create an object at {path}"),
            client.request::<Value>(request),
        )
        .await
        .map(drop)
    }

    /// Deletes what is at a path.
    pub async fn delete_at(&self, path: &str) -> Result {
        let request = http::Request::delete(path).body(Vec::new())?;
        let client = self.client();
        bounded(&format!("delete {path}"), client.request::<Value>(request))
            .await
            .map(drop)
    }

    /// The field managers of a service's `status.loadBalancer`.
    pub async fn address_managers(&self, name: &str) -> Result<Vec<String>> {
        let service = bounded(&format!("get service {name}"), self.services().get(name)).await?;
        let managed = service.metadata.managed_fields.unwrap_or_default();
        let of_status = managed.into_iter().filter(|entry| {
            let fields = entry.fields_v1.as_ref();
            fields.is_some_and(|fields| !fields.0["f:status"]["f:loadBalancer"].is_null())
        });
        Ok(of_status.filter_map(|entry| entry.manager).collect())
    }

    /// Deletes a node's object.
    pub async fn remove_node(&self, name: &str) -> Result {
        let nodes: Api<Node> = Api::all(self.client());
        bounded(
            "delete a node",
            nodes.delete(name, &DeleteParams::default()),
        )
        .await
        .map(drop)
    }

    /// Whether a service would get its addresses: a new API server is ready some moments before it has read its ranges.
    pub(super) async fn try_service(&self) -> Result {
        let families = if self.options().dual_stack {
            "RequireDualStack"
        } else {
            "SingleStack"
        };
        let service: Service = typed(json!({
            "metadata": { "name": "try" },
            "spec": { "ipFamilyPolicy": families, "ports": [{ "port": 80 }] },
        }))?;
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        bounded(
            "try to create a service",
            self.services().create(&dry_run, &service),
        )
        .await
        .map(drop)
    }

    /// Makes, or after a new start brings up to date, the object of the cluster's own node.
    pub(super) async fn put_node(&self) -> Result {
        let mut ips = vec![self.node_ip().to_string()];
        ips.extend(self.node_ip6().map(|ip| ip.to_string()));
        self.put(self.profile(), &ips, &network::pod_cidrs(self.options()))
            .await
    }

    pub(super) async fn put(&self, name: &str, ips: &[String], pod_cidrs: &[&str]) -> Result {
        let nodes: Api<Node> = Api::all(self.client());
        let apply = PatchParams::apply(MANAGER).force();
        let node = Patch::Apply(json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": name },
            "spec": { "podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs },
        }));
        bounded("apply a node", nodes.patch(name, &apply, &node)).await?;
        let addresses: Vec<_> = ips
            .iter()
            .map(|ip| json!({ "type": "InternalIP", "address": ip }))
            .collect();
        let conditions = json!([{ "type": "Ready", "status": "True" }]);
        // No apply: it knows addresses by their type, and refuses the second family.
        let status =
            Patch::Merge(json!({ "status": { "addresses": addresses, "conditions": conditions } }));
        let params = PatchParams::default();
        bounded(
            "patch a node's status",
            nodes.patch_status(name, &params, &status),
        )
        .await
        .map(drop)
    }
}

/// The URL of port 80 of an address.
fn url(ip: IpAddr) -> String {
    url_with_port(ip, 80)
}

fn url_with_port(ip: IpAddr, port: u16) -> String {
    format!("http://{}/", SocketAddr::new(ip, port))
}

/// A client made from a kubeconfig.
pub(super) async fn client(kubeconfig: &Value) -> Result<Client> {
    let kubeconfig: Kubeconfig = typed(kubeconfig.clone())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Whether the API server serves, and has made the namespace that tests use.
pub(super) async fn ready(client: &Client) -> Result {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    // A start takes seconds, so one that is accepted but not answered is asked again.
    let answer = timeout(Duration::from_secs(2), namespaces.get_opt("default"))
        .await
        .context("no answer")?;
    ensure!(answer?.is_some(), "there is no namespace `default` yet");
    Ok(())
}

/// Standard base64 (RFC 4648), as Kubernetes writes bytes in JSON.
pub(super) fn base64(text: &str) -> Value {
    json!(ByteString(text.as_bytes().to_vec()))
}

fn exposed(service: &Service) -> Result<Exposed> {
    let spec = service.spec.clone().unwrap_or_default();
    let ips = spec.cluster_ips.unwrap_or_default();
    let cluster_ips = ips
        .iter()
        .filter(|ip| *ip != "None")
        .map(|ip| Ok(ip.parse()?))
        .collect::<Result<_>>()?;
    Ok(Exposed {
        name: service.metadata.name.clone().unwrap_or_default(),
        cluster_ips,
    })
}

/// The addresses in a service's `status.loadBalancer.ingress`.
pub fn ingress(service: &Service) -> Vec<String> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref());
    ingress
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ip.clone().or_else(|| entry.hostname.clone()))
        .collect()
}

async fn bounded<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T> {
    let answer = timeout(WAIT, call)
        .await
        .with_context(|| format!("{what}: no answer within {WAIT:?}"))?;
    answer.with_context(|| what.to_owned())
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}
