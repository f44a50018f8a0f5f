//! The files that minikube keeps in a person's home, in its own formats (`pkg/minikube/config`, `localpath`, `kubeconfig`
//! and `out/register` of kubernetes/minikube).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cluster::KUBERNETES_VERSION;
use crate::{Cluster, NODE_PORT, Place, Result};

/// A `.minikube` folder and the kubeconfig beside it, owned by one of the lab's people.
#[derive(Debug)]
pub struct MinikubeHome {
    /// The person's home.
    home: PathBuf,
    uid: u32,
    /// Profile → server, of what the kubeconfig holds.
    servers: BTreeMap<String, String>,
}

impl MinikubeHome {
    /// Makes an empty minikube home for a person: `alice`, `bob`, or `root`.
    pub fn create(lab: &Place, user: &str) -> Result<Self> {
        let place = if user == "root" {
            lab.clone()
        } else {
            lab.user(user)
        };
        let home = Self {
            home: place.home(),
            uid: place.uid(),
            servers: BTreeMap::new(),
        };
        for folder in [
            ".minikube",
            ".minikube/config",
            ".minikube/machines",
            ".minikube/profiles",
            ".kube",
        ] {
            home.folder(&home.home.join(folder))?;
        }
        home.write(&home.path().join("config/config.json"), b"{}")?;
        Ok(home)
    }

    /// The `.minikube` folder.
    pub fn path(&self) -> PathBuf {
        self.home.join(".minikube")
    }

    /// The kubeconfig, `~/.kube/config`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.home.join(".kube/config")
    }

    /// The folder of a profile.
    pub fn profile(&self, profile: &str) -> PathBuf {
        self.path().join("profiles").join(profile)
    }

    /// Writes all that `minikube start --driver docker` leaves for a cluster. Again after it got another address.
    pub fn add(&mut self, cluster: &Cluster) -> Result {
        let profile = cluster.profile();
        let ip = cluster.node_ip();
        self.folder(&self.profile(profile))?;
        let client = &cluster.client_identity;
        self.write(
            &self.path().join("ca.crt"),
            cluster.authority.certificate.as_bytes(),
        )?;
        self.write(
            &self.profile(profile).join("client.crt"),
            client.certificate.as_bytes(),
        )?;
        self.write(
            &self.profile(profile).join("client.key"),
            client.key.as_bytes(),
        )?;
        self.save_config(profile, &config(cluster)?)?;
        self.save_machine(profile, ip)?;
        self.servers.insert(profile.to_owned(), cluster.server());
        self.save_kubeconfig(profile)
    }

    /// Lets the kubeconfig name another server for a profile.
    pub fn serve(&mut self, profile: &str, server: &str) -> Result {
        self.servers.insert(profile.to_owned(), server.to_owned());
        self.save_kubeconfig(profile)
    }

    /// Takes a profile's files away, as `minikube delete` does.
    pub fn delete(&mut self, profile: &str) -> Result {
        fs::remove_dir_all(self.profile(profile))?;
        fs::remove_dir_all(self.path().join("machines").join(profile))?;
        self.servers.remove(profile);
        self.save_kubeconfig("")
    }

    /// A profile's `config.json`.
    pub fn config(&self, profile: &str) -> Result<Value> {
        let path = self.profile(profile).join("config.json");
        let text = fs::read(&path).with_context(|| format!("no {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Saves a profile's `config.json` as minikube does: remove, then rename, so that it is absent for a moment.
    pub fn save_config(&self, profile: &str, config: &Value) -> Result {
        let path = self.profile(profile).join("config.json");
        let new = self.profile(profile).join("config.json.tmp");
        self.write(&new, &serde_json::to_vec_pretty(config)?)?;
        if path.exists() {
            fs::remove_file(&path)?;
        }
        Ok(fs::rename(new, path)?)
    }

    /// Writes `machines/<profile>/config.json` with the machine's address.
    pub fn save_machine(&self, profile: &str, ip: Ipv4Addr) -> Result {
        let folder = self.path().join("machines").join(profile);
        self.folder(&folder)?;
        let machine = json!({
            "ConfigVersion": 3,
            "Driver": {
                "IPAddress": ip, "MachineName": profile, "SSHUser": "docker", "SSHPort": 22,
                "SSHKeyPath": folder.join("id_rsa"), "StorePath": self.path(),
                "SwarmMaster": false, "SwarmHost": "", "SwarmDiscovery": "",
            },
            "DriverName": "docker",
            "HostOptions": { "Driver": "", "Memory": 0, "Disk": 0, "EngineOptions": {}, "AuthOptions": {} },
            "Name": profile,
        });
        self.write(
            &folder.join("config.json"),
            &serde_json::to_vec_pretty(&machine)?,
        )
    }

    /// Makes a profile the active one: `minikube profile NAME`.
    pub fn activate(&self, profile: &str) -> Result {
        let config = json!({ "profile": profile });
        self.write(
            &self.path().join("config/config.json"),
            &serde_json::to_vec_pretty(&config)?,
        )
    }

    /// Appends a step to `events.json`, such as `Stopping` or `Pausing`; `Done` ends each command.
    pub fn event(&self, profile: &str, step: &str) -> Result {
        let event = json!({
            "specversion": "1.0",
            "id": "9b2a0d10-6e4c-4f3f-8f51-3a7c1fd3a001",
            "source": "https://minikube.sigs.k8s.io/",
            "type": "io.k8s.sigs.minikube.step",
            "datacontenttype": "application/json",
            "data": {
                "currentstep": if step == "Done" { "1" } else { "0" },
                "message": format!("{step} node \"{profile}\"  ...\n"),
                "name": step,
                "totalsteps": "1",
            },
        });
        let path = self.profile(profile).join("events.json");
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(file, "{event}")?;
        Ok(chown(&path, Some(self.uid), Some(self.uid))?)
    }

    /// Writes any file of the person's, such as a broken fixture, in an existing folder.
    pub fn write(&self, path: &Path, content: &[u8]) -> Result {
        fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(chown(path, Some(self.uid), Some(self.uid))?)
    }

    /// Makes a folder of the person's.
    pub fn folder(&self, path: &Path) -> Result {
        fs::create_dir_all(path)?;
        Ok(chown(path, Some(self.uid), Some(self.uid))?)
    }

    fn save_kubeconfig(&self, current: &str) -> Result {
        let section = |entry: &dyn Fn(&String, &String) -> String| -> String {
            self.servers
                .iter()
                .map(|(profile, server)| entry(profile, server))
                .collect()
        };
        let extension = |name: &str| {
            format!(
                "    extensions:
    - extension:
        last-update: Mon, 02 Nov 2026 10:00:00 UTC
        provider: minikube.sigs.k8s.io
        version: v1.38.1
      name: {name}\n"
            )
        };
        let ca = self.path().join("ca.crt");
        let clusters = section(&|profile, server| {
            format!(
                "- cluster:
    certificate-authority: {}
{}    server: {server}
  name: {profile}\n",
                ca.display(),
                extension("cluster_info"),
            )
        });
        let contexts = section(&|profile, _| {
            format!(
                "- context:
    cluster: {profile}
{}    namespace: default
    user: {profile}
  name: {profile}\n",
                extension("context_info"),
            )
        });
        let users = section(&|profile, _| {
            let folder = self.profile(profile);
            format!(
                "- name: {profile}
  user:
    client-certificate: {}
    client-key: {}\n",
                folder.join("client.crt").display(),
                folder.join("client.key").display(),
            )
        });
        let kubeconfig = format!(
            "apiVersion: v1\nclusters:\n{clusters}contexts:\n{contexts}current-context: \"{current}\"\nkind: Config\n\
             preferences: {{}}\nusers:\n{users}"
        );
        self.write(&self.kubeconfig(), kubeconfig.as_bytes())
    }
}

/// `profiles/<p>/config.json` of minikube v1.38: what the docker driver leaves at its defaults, and this cluster's values.
fn config(cluster: &Cluster) -> Result<Value> {
    let mut config: Value = serde_json::from_str(include_str!("minikube/profile.json"))?;
    let profile = cluster.profile();
    config["Name"] = json!(profile);
    config["APIServerPort"] = json!(NODE_PORT);
    let kubernetes = &mut config["KubernetesConfig"];
    kubernetes["KubernetesVersion"] = json!(KUBERNETES_VERSION);
    kubernetes["ClusterName"] = json!(profile);
    kubernetes["ServiceCIDR"] = json!(cluster.options().service_cidrs[0]);
    let node = &mut config["Nodes"][0];
    node["IP"] = json!(cluster.node_ip());
    node["Port"] = json!(NODE_PORT);
    node["KubernetesVersion"] = json!(KUBERNETES_VERSION);
    Ok(config)
}
