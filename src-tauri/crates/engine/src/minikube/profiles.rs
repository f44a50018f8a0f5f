//! Reading all profiles of a minikube home.

use std::{fs, io, net::IpAddr, path::Path};

use minitunnel_model::{BrokenProfile, Node, Profile, ProfileName, Timestamp, shown};
use serde::de::DeserializeOwned;

use super::{
    Cni, Credentials, Home, ProfileFiles, Profiles,
    config::{MachineConfig, NodeConfig, ProfileConfig, Settings, ends_cluster},
    file::{self, ReadError},
    kubeconfig::Kubeconfig,
    reach::{self, Facts},
    tunnels::tunnels,
};

/// How long a `minikube stop` that left no end in `events.json` is believed to be under way: one takes a minute or two,
/// and one that was killed must not keep its tunnel down for ever.
const LONGEST_STOP: std::time::Duration = std::time::Duration::from_secs(180);

/// Reads every profile; what is wrong with one is said in its place and costs no other.
pub fn read_profiles(home: &Home) -> Profiles {
    let mut profiles = Profiles {
        minikube_tunnels: tunnels(home),
        ..Profiles::default()
    };
    let entries = match fs::read_dir(home.profiles()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return profiles,
        Err(error) => {
            let problem = format!(
                "the folder {} can't be read: {error}",
                home.profiles().display()
            );
            profiles.broken.push(BrokenProfile {
                name: "profiles".to_owned(),
                problem,
            });
            profiles.unreadable = true;
            return profiles;
        }
    };
    let kubeconfig = read_kubeconfig(home);
    for entry in entries.filter_map(Result::ok) {
        if !entry.path().is_dir() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let read = name
            .parse::<ProfileName>()
            .map_err(|error| error.to_string())
            .and_then(|name| {
                let mut files = read_profile(home, &name, &kubeconfig)?;
                let tunnels = profiles.minikube_tunnels.remove(&name);
                files.minikube_tunnels = tunnels.unwrap_or_default();
                Ok((name, files))
            });
        match read {
            Ok((name, files)) => {
                profiles.readable.insert(name, files);
            }
            Err(problem) => profiles.broken.push(BrokenProfile { name, problem }),
        }
    }
    profiles.broken.sort_by(|a, b| a.name.cmp(&b.name));
    profiles
}

/// The profile that minikube's commands are about when none is named: `minikube profile`'s setting, else `minikube`.
///
/// The one named need not exist; a setting that can't be read counts as none.
pub fn active_profile(home: &Home) -> Option<ProfileName> {
    let path = home.path.join("config/config.json");
    let set = read_json::<Settings>(&path)
        .map(|settings| settings.profile)
        .unwrap_or_default();
    let name = if set.is_empty() {
        "minikube".to_owned()
    } else {
        set
    };
    name.parse().ok()
}

fn read_profile(
    home: &Home,
    name: &ProfileName,
    kubeconfig: &Result<Kubeconfig, NoCredentials>,
) -> Result<ProfileFiles, String> {
    let dir = home.profiles().join(name.as_str());
    let mut config: ProfileConfig = read_json(&dir.join("config.json"))?;
    let driver = config.take_driver();
    if driver.is_empty() {
        return Err(format!(
            "{} names no driver, as those of minikube before v1.6: `minikube delete -p {name}` and `minikube start -p {name}` make it anew",
            dir.join("config.json").display()
        ));
    }
    let multi_node = config.multi_node_requested;
    let node_configs = config.take_nodes();
    let cni = Cni::choose(
        &config.kubernetes_config,
        &driver,
        node_configs.len().max(if multi_node { 2 } else { 1 }),
    );
    let nodes = read_nodes(home, name, &driver, &node_configs)?;
    let kubernetes = config.kubernetes_config.has_kubernetes();

    let endpoint = kubeconfig
        .as_ref()
        .ok()
        .and_then(|file| file.cluster(name.as_str())?.server.clone());
    let mut addresses: Vec<IpAddr> = nodes
        .iter()
        .flat_map(|node| node.ips.iter().copied())
        .collect();
    addresses.extend(config.kubernetes_config.api_server_ha_vip.parse::<IpAddr>());
    let reach = reach::reach(
        &home.host,
        &Facts {
            name,
            kubernetes,
            driver: &driver,
            network: &config.network,
            server: endpoint.as_deref(),
            addresses: &addresses,
            alias: &config.kubernetes_config.api_server_name,
            port: config.api_server_port(&node_configs),
        },
    );
    let credentials = if kubernetes {
        credentials(home, &dir, name, kubeconfig)
    } else {
        Err(NoCredentials::Lasting(format!("{name} runs no Kubernetes")))
    };
    let (credentials, problem, momentary) = match credentials {
        Ok(credentials) => (Some(credentials), None, false),
        Err(NoCredentials::Lasting(problem)) => (None, Some(problem), false),
        Err(NoCredentials::Momentary(problem)) => (None, Some(problem), true),
    };
    Ok(ProfileFiles {
        profile: Profile {
            name: name.clone(),
            service_cidrs: config.service_cidrs()?,
            dns_domain: config.dns_domain(),
            driver,
            nodes,
            endpoint,
            reach,
        },
        credentials,
        problem,
        momentary,
        kubernetes,
        metallb: config.addons.get("metallb").copied().unwrap_or_default(),
        cni,
        stopping_until: stopping_until(&dir),
        minikube_tunnels: Vec::new(),
    })
}

fn read_nodes(
    home: &Home,
    profile: &ProfileName,
    driver: &str,
    configs: &[NodeConfig],
) -> Result<Vec<Node>, String> {
    let mut nodes = Vec::with_capacity(configs.len());
    for (index, config) in configs.iter().enumerate() {
        // `config.MachineName` of minikube: the first node bears the profile's name.
        let name = match config.name.as_str() {
            _ if index == 0 => profile.to_string(),
            node => format!("{profile}-{node}"),
        };
        let virtual_machine = !matches!(driver, "docker" | "podman" | "none");
        let newer = if virtual_machine {
            machine_address(home, &name)
        } else {
            None
        };
        let ip = newer.map_or_else(|| config.address(), |ip| Ok(Some(ip)))?;
        nodes.push(Node {
            name,
            ips: ip.into_iter().collect(),
            control_plane: config.control_plane,
            ready: None,
            pod_cidrs: Vec::new(),
        });
    }
    Ok(nodes)
}

/// A virtual machine's address after its last start; a file that can't be read knows nothing newer.
fn machine_address(home: &Home, machine: &str) -> Option<IpAddr> {
    // The name comes from a file and becomes part of a path.
    let machine: ProfileName = machine.parse().ok()?;
    let path = home.machines().join(machine.as_str()).join("config.json");
    read_json::<MachineConfig>(&path).ok()?.address()
}

/// Why there are no credentials, in one sentence.
#[derive(Clone)]
enum NoCredentials {
    /// minikube has taken them away: it does so when it stops or deletes the cluster.
    Lasting(String),
    /// They are there, and can't be read at this moment.
    Momentary(String),
}

fn read_kubeconfig(home: &Home) -> Result<Kubeconfig, NoCredentials> {
    let path = home.kubeconfig.display();
    let bytes = file::read(&home.kubeconfig).map_err(|error| {
        let problem = format!("{error}; `minikube update-context` makes it anew");
        match error {
            ReadError::Missing(_) => NoCredentials::Lasting(problem),
            _ => NoCredentials::Momentary(problem),
        }
    })?;
    Kubeconfig::parse(&bytes).map_err(|error| {
        NoCredentials::Momentary(format!("{path} is no kubeconfig: {}", shown(&error)))
    })
}

/// The server is the kubeconfig's; the certificates are the profile's files, or else embedded in the kubeconfig.
fn credentials(
    home: &Home,
    dir: &Path,
    name: &ProfileName,
    kubeconfig: &Result<Kubeconfig, NoCredentials>,
) -> Result<Credentials, NoCredentials> {
    let kubeconfig = kubeconfig.as_ref().map_err(Clone::clone)?;
    let cluster = kubeconfig.cluster(name.as_str());
    let Some((cluster, server)) =
        cluster.and_then(|cluster| Some((cluster, cluster.server.clone()?)))
    else {
        return Err(NoCredentials::Lasting(format!(
            "{} has no server for the cluster {name}: start it with `minikube start -p {name}`",
            home.kubeconfig.display()
        )));
    };
    let user = kubeconfig.user(name.as_str());
    // minikube's authority is one for all profiles, in the home itself.
    let ca = file::read(&dir.join("ca.crt")).or_else(|error| match error {
        ReadError::Missing(_) => file::read(&home.path.join("ca.crt")),
        error => Err(error),
    });
    let or_embedded =
        |file: Result<Vec<u8>, ReadError>, embedded: Option<Vec<u8>>| match (file, embedded) {
            (Ok(bytes), _) if !bytes.trim_ascii().is_empty() => Ok(bytes),
            (_, Some(bytes)) => Ok(bytes),
            (Ok(_), None) => Err(NoCredentials::Momentary(format!(
                "a certificate file in {} is empty: `minikube start -p {name}` makes it anew",
                dir.display()
            ))),
            (Err(error), None) => Err(NoCredentials::Momentary(format!(
                "{error}: `minikube start -p {name}` makes it anew"
            ))),
        };
    Ok(Credentials {
        server,
        ca: or_embedded(ca, cluster.ca())?,
        cert: or_embedded(
            file::read(&dir.join("client.crt")),
            user.and_then(|user| user.cert()),
        )?,
        key: or_embedded(
            file::read(&dir.join("client.key")),
            user.and_then(|user| user.key()),
        )?,
    })
}

fn stopping_until(dir: &Path) -> Option<Timestamp> {
    let path = dir.join("events.json");
    if !ends_cluster(&file::read(&path).ok()?) {
        return None;
    }
    let (modified, now) = (fs::metadata(&path).ok()?.modified().ok()?, Timestamp::now());
    // A file of the future is as good as new.
    let until = now.min(modified.into()) + LONGEST_STOP;
    (until > now).then_some(until)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = file::read(path).map_err(|error| error.to_string())?;
    if bytes.trim_ascii().is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let problem = match error.classify() {
            serde_json::error::Category::Eof => "ends in the middle",
            serde_json::error::Category::Data => "is not as minikube writes it",
            _ => "is no JSON",
        };
        format!("{} {problem}: {}", path.display(), shown(&error))
    })
}
