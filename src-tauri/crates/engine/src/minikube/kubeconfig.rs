//! The kubeconfig: a cluster's `server`, and embedded certificates; nothing in it is ever run.

use base64::Engine as _;
use serde::{Deserialize, Deserializer};

use super::reach::without_user;

/// The parts that are read. An exec plugin, a token or a proxy is not among them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Kubeconfig {
    clusters: Option<Vec<NamedCluster>>,
    users: Option<Vec<NamedUser>>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: Option<ClusterEntry>,
}

/// `clusters[].cluster`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct ClusterEntry {
    /// The API server's URL, without a user.
    #[serde(deserialize_with = "server")]
    pub(super) server: Option<String>,
    certificate_authority_data: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: Option<UserEntry>,
}

/// `users[].user`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct UserEntry {
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl std::fmt::Debug for UserEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserEntry").finish_non_exhaustive()
    }
}

impl Kubeconfig {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_yaml_ng::Error> {
        // An empty file is null.
        Ok(serde_yaml_ng::from_slice::<Option<Self>>(bytes)?.unwrap_or_default())
    }

    pub(super) fn cluster(&self, name: &str) -> Option<&ClusterEntry> {
        let found = self
            .clusters
            .iter()
            .flatten()
            .find(|cluster| cluster.name == name)?;
        found.cluster.as_ref()
    }

    pub(super) fn user(&self, name: &str) -> Option<&UserEntry> {
        self.users
            .iter()
            .flatten()
            .find(|user| user.name == name)?
            .user
            .as_ref()
    }
}

impl ClusterEntry {
    pub(super) fn ca(&self) -> Option<Vec<u8>> {
        decode(self.certificate_authority_data.as_deref())
    }
}

impl UserEntry {
    pub(super) fn cert(&self) -> Option<Vec<u8>> {
        decode(self.client_certificate_data.as_deref())
    }

    pub(super) fn key(&self) -> Option<Vec<u8>> {
        decode(self.client_key_data.as_deref())
    }
}

fn server<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let url = Option::<String>::deserialize(deserializer)?;
    Ok(url.as_deref().map(without_user))
}

fn decode(text: Option<&str>) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD
        .decode(text?.trim())
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_user_and_password_are_not_read() {
        for (server, read) in [
            (
                "https://admin:hunter2@jumphost:6443",
                Some("https://jumphost:6443"),
            ),
            (
                "https://192.168.49.2:8443",
                Some("https://192.168.49.2:8443"),
            ),
            ("null", None),
        ] {
            let text = format!("clusters: [{{ name: p, cluster: {{ server: '{server}' }} }}]");
            let text = text.replace("'null'", "null");
            let file = Kubeconfig::parse(text.as_bytes()).unwrap();
            assert_eq!(file.cluster("p").unwrap().server.as_deref(), read, "{text}");
        }
    }
}
