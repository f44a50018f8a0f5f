//! A minikube home in minikube's own formats (`pkg/minikube/config`, `localpath` and `kubeconfig` of kubernetes/minikube).

use std::{fs, io, net::Ipv4Addr, path::Path};

use serde_json::{Value, json};

use crate::pki::{Authority, Identity};

/// What `minikube start --driver docker` knows of a cluster with one node.
#[derive(Clone, Debug)]
pub struct Cluster<'a> {
    /// The profile's name.
    pub profile: &'a str,
    /// The node's address.
    pub node: Ipv4Addr,
    /// The API server's port on it.
    pub port: u16,
    /// Where the cluster IPs come from.
    pub service_cidr: &'a str,
}

/// Writes the home below a person's home: `.minikube`, with this profile the active one, and `.kube/config`.
pub fn write(
    home: &Path,
    cluster: &Cluster<'_>,
    authority: &Authority,
    client: &Identity,
) -> io::Result<()> {
    let minikube = home.join(".minikube");
    let profile = minikube.join("profiles").join(cluster.profile);
    let machine = minikube.join("machines").join(cluster.profile);
    for folder in [
        &profile,
        &machine,
        &minikube.join("config"),
        &home.join(".kube"),
    ] {
        fs::create_dir_all(folder)?;
    }
    fs::write(minikube.join("ca.crt"), authority.certificate())?;
    fs::write(profile.join("client.crt"), &client.certificate)?;
    fs::write(profile.join("client.key"), &client.key)?;
    save(&profile.join("config.json"), &profile_config(cluster))?;
    save(
        &machine.join("config.json"),
        &machine_config(cluster, &minikube),
    )?;
    let active = json!({ "profile": cluster.profile });
    save(&minikube.join("config/config.json"), &active)?;
    fs::write(home.join(".kube/config"), kubeconfig(cluster, &minikube))
}

fn save(path: &Path, value: &Value) -> io::Result<()> {
    fs::write(path, format!("{value:#}"))
}

fn profile_config(cluster: &Cluster<'_>) -> Value {
    json!({
        "Name": cluster.profile, "KeepContext": false, "EmbedCerts": false, "Memory": 3072, "CPUs": 2,
        "DiskSize": 20000, "Driver": "docker", "APIServerPort": cluster.port,
        "KubernetesConfig": {
            "KubernetesVersion": crate::KUBERNETES_VERSION, "ClusterName": cluster.profile,
            "Namespace": "default", "APIServerHAVIP": "", "APIServerName": "minikubeCA",
            "DNSDomain": "cluster.local", "ContainerRuntime": "docker", "NetworkPlugin": "cni",
            "ServiceCIDR": cluster.service_cidr, "LoadBalancerStartIP": "", "LoadBalancerEndIP": "",
            "ExtraOptions": null, "CNI": "",
        },
        "Nodes": [{
            "Name": "", "IP": cluster.node, "Port": cluster.port, "ContainerRuntime": "docker",
            "KubernetesVersion": crate::KUBERNETES_VERSION, "ControlPlane": true, "Worker": true,
        }],
        "Addons": { "default-storageclass": true, "metallb": false, "storage-provisioner": true },
        "ExposedPorts": [], "ListenAddress": "", "Network": "", "Subnet": "", "StaticIP": "",
        "ScheduledStop": null, "MultiNodeRequested": false,
    })
}

fn machine_config(cluster: &Cluster<'_>, minikube: &Path) -> Value {
    json!({
        "ConfigVersion": 3,
        "Driver": {
            "IPAddress": cluster.node, "MachineName": cluster.profile, "SSHUser": "docker", "SSHPort": 22,
            "SSHKeyPath": "", "StorePath": minikube,
        },
        "DriverName": "docker", "HostOptions": {}, "Name": cluster.profile,
    })
}

/// The kubeconfig, with cluster, user and context named as the profile.
fn kubeconfig(cluster: &Cluster<'_>, minikube: &Path) -> String {
    let Cluster {
        profile,
        node,
        port,
        ..
    } = cluster;
    let minikube = minikube.display();
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority: {minikube}/ca.crt
    extensions:
    - extension:
        provider: minikube.sigs.k8s.io
        version: v1.38.1
      name: cluster_info
    server: https://{node}:{port}
  name: {profile}
contexts:
- context:
    cluster: {profile}
    namespace: default
    user: {profile}
  name: {profile}
current-context: {profile}
kind: Config
preferences: {{}}
users:
- name: {profile}
  user:
    client-certificate: {minikube}/profiles/{profile}/client.crt
    client-key: {minikube}/profiles/{profile}/client.key
"
    )
}
