//! A cluster of real parts: etcd, kube-apiserver and kube-proxy in a node's namespace, and a pod behind it.

mod kubernetes;
mod network;
mod worker;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::Client;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::pki::{self, Authority, Identity, service_account_keys};
use crate::{Lab, Place, Process, Result, eventually, run};

pub use kubernetes::{Exposed, ingress};
pub use worker::Worker;

/// The API server's port on the node, minikube's default.
pub const NODE_PORT: u16 = 8443;
/// The version that `tests/testbed` builds.
pub(crate) const KUBERNETES_VERSION: &str = "v1.37.2";
/// The port of the pod's web server.
pub const POD_PORT: u16 = 8080;

/// The real programs need 2.3 to 4 s on two cores; many clusters side by side need more.
const START: Duration = Duration::from_secs(60);

/// How kube-proxy programs the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// nftables.
    Nftables,
    /// iptables, minikube's default.
    Iptables,
    /// No kube-proxy: for tests of the API server alone.
    None,
}

/// What kind of cluster, by default a plain `minikube start`'s.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The profile's name, also the name of the node and of its network namespace.
    pub profile: String,
    /// The third octet of the node's network: 49 is 192.168.49.0/24, minikube's first; its next is 58.
    pub subnet: u8,
    /// The service CIDRs, one or one of each family.
    pub service_cidrs: Vec<String>,
    /// Whether node and pod have IPv6 addresses (fd00:SUBNET::2, fd00:10:244::2) and IPv6 pod CIDRs too.
    pub dual_stack: bool,
    /// How kube-proxy programs the node.
    pub proxy: ProxyMode,
    /// Whether the API server writes down each request of the profile's user, see [`Cluster::requests`].
    pub audit: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            profile: "minikube".to_owned(),
            subnet: 49,
            service_cidrs: vec!["10.96.0.0/12".to_owned()],
            dual_stack: false,
            proxy: ProxyMode::Nftables,
            audit: false,
        }
    }
}

impl ClusterOptions {
    /// The second of two profiles, in minikube's next network, with the same CIDRs as a default one.
    pub fn second(profile: &str) -> Self {
        Self {
            profile: profile.to_owned(),
            subnet: 58,
            ..Self::default()
        }
    }

    /// A default cluster with both families.
    pub fn dual_stack() -> Self {
        Self {
            service_cidrs: vec!["10.96.0.0/12".to_owned(), "fd00:10:96::/112".to_owned()],
            dual_stack: true,
            ..Self::default()
        }
    }
}

/// A running cluster. Its network: bridge `br-SUBNET` on the host (192.168.SUBNET.1), as docker makes one, and the node
/// behind it (192.168.SUBNET.2), and behind that the pod (10.244.0.2).
pub struct Cluster {
    options: ClusterOptions,
    lab: Place,
    node_ip: Ipv4Addr,
    dir: PathBuf,
    assets: PathBuf,
    pub(crate) authority: Arc<Authority>,
    pub(crate) client_identity: Identity,
    client: Client,
    etcd: Process,
    api_server: Option<Process>,
    proxy: Option<Process>,
    web: Process,
}

impl Cluster {
    /// Starts a cluster and waits until its API server is ready and its node and pod exist.
    pub async fn start(lab: &Lab, options: ClusterOptions) -> Result<Self> {
        let assets = built_assets().await?;
        let node_ip = Ipv4Addr::new(192, 168, options.subnet, 2);
        let dir = lab.dir().join("clusters").join(&options.profile);
        fs::create_dir_all(&dir)?;
        network::create(lab, &options).await?;
        network::connect(lab, &options, node_ip).await?;

        let node = lab.netns(&options.profile);
        let authority = lab.authority();
        let client_identity = authority.client()?;
        let (signing, verifying) = service_account_keys()?;
        fs::write(dir.join("ca.crt"), &authority.certificate)?;
        fs::write(dir.join("sa.key"), signing)?;
        fs::write(dir.join("sa.pub"), verifying)?;
        let etcd = start_etcd(&node, &assets, &dir).await?;
        let pod = lab.netns(&network::pod_namespace(&options));
        let everywhere = format!("[::]:{POD_PORT}");
        let web = Process::spawn(pod.command("minitunnel-lab").args(["web", &everywhere])).await?;
        web.wait_for_line("listening", crate::WAIT).await?;

        let client = kubernetes::client(&kubeconfig(
            &options.profile,
            node_ip,
            &authority,
            &client_identity,
        ))
        .await?;
        let mut cluster = Self {
            options,
            lab: Place::clone(lab),
            node_ip,
            dir,
            assets,
            authority,
            client_identity,
            client,
            etcd,
            api_server: None,
            proxy: None,
            web,
        };
        cluster.start_node().await?;
        Ok(cluster)
    }

    /// Gives the profile's user a new certificate, as `minikube start` does where the old one has expired.
    pub fn renew_client(&mut self) -> Result {
        self.client_identity = self.authority.client()?;
        Ok(())
    }

    /// The options that it was started with.
    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// The profile's name.
    pub fn profile(&self) -> &str {
        &self.options.profile
    }

    /// The node's address in the host's network: the gateway of all routes.
    pub fn node_ip(&self) -> Ipv4Addr {
        self.node_ip
    }

    /// The node's IPv6 address, where it has one.
    pub fn node_ip6(&self) -> Option<Ipv6Addr> {
        self.options
            .dual_stack
            .then(|| network::node_ip6(&self.options))
    }

    /// The pod's address, served by the node.
    pub fn pod_ip(&self) -> Ipv4Addr {
        network::POD_IP
    }

    /// The node's place, for commands in its namespace.
    pub fn node(&self) -> Place {
        self.lab.netns(&self.options.profile)
    }

    /// The device on the host through which the node is reached.
    pub fn bridge(&self) -> String {
        network::bridge(&self.options)
    }

    /// A client of the API server, an administrator's, for as long as the node keeps its address.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The URL of the API server.
    pub fn server(&self) -> String {
        format!("https://{}:{NODE_PORT}", self.node_ip)
    }

    /// Stops it as `minikube stop` does: API server and kube-proxy end, and the node's link goes. The bridge stays.
    pub async fn stop(&mut self) -> Result {
        for mut process in [self.proxy.take(), self.api_server.take()]
            .into_iter()
            .flatten()
        {
            process.kill().await?;
        }
        self.unplug().await
    }

    /// Starts it again with all that it had, as `minikube start` does, on the same or another address of its network.
    pub async fn start_again(&mut self, node_ip: Option<Ipv4Addr>) -> Result {
        ensure!(
            self.api_server.is_none(),
            "stop the cluster before it is started again"
        );
        self.node_ip = node_ip.unwrap_or(self.node_ip);
        self.plug_in().await?;
        self.client = kubernetes::client(&self.kubeconfig()).await?;
        self.start_node().await
    }

    /// Gives the node the common address of several control planes, as kube-vip gives it to the leading one; the URL of the
    /// API server there.
    pub async fn take_common_address(&self) -> Result<String> {
        let ip = network::common_ip(&self.options);
        let node = self.profile();
        self.lab
            .sh(&format!("ip -n {node} address add {ip}/32 dev eth0"))
            .await?;
        Ok(format!("https://{ip}:{NODE_PORT}"))
    }

    /// That address, which nobody has of itself.
    pub(crate) fn common_address(&self) -> Ipv4Addr {
        network::common_ip(&self.options)
    }

    /// Takes the node's link away; its programs run on.
    pub async fn unplug(&self) -> Result {
        network::disconnect(&self.lab, &self.options).await
    }

    /// Gives the node a link again.
    pub async fn plug_in(&self) -> Result {
        network::connect(&self.lab, &self.options, self.node_ip).await
    }

    /// Lets the API server hang: connections stay, and are accepted, and nothing is answered.
    pub fn pause_api_server(&self) -> Result {
        self.api_server()?.signal(Signal::STOP)
    }

    /// Lets the API server go on.
    pub fn resume_api_server(&self) -> Result {
        self.api_server()?.signal(Signal::CONT)
    }

    /// Kills the API server, with all that it was asked and has not done, and starts another. It may hang.
    pub async fn replace_api_server(&mut self) -> Result {
        let killed = self.api_server.take();
        killed.context("the cluster is stopped")?.kill().await?;
        self.start_api_server().await
    }

    /// The same while the node has no link: no connection is told of its end.
    pub async fn replace_api_server_unseen(&mut self) -> Result {
        let killed = self.api_server.take();
        self.unplug().await?;
        killed.context("the cluster is stopped")?.kill().await?;
        self.plug_in().await?;
        self.start_api_server().await
    }

    /// Every request of the profile's user so far, by whatever program: the verb and the path. Needs
    /// [`ClusterOptions::audit`].
    pub fn requests(&self) -> Result<Vec<String>> {
        let log =
            fs::read_to_string(self.dir.join(AUDIT_LOG)).context("the cluster has no audit log")?;
        let request = |line: &str| -> Result<String> {
            let event: Value = serde_json::from_str(line)?;
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            Ok(text("verb") + " " + &text("requestURI"))
        };
        log.lines().map(request).collect()
    }

    /// The API server's process.
    pub fn api_server(&self) -> Result<&Process> {
        self.api_server.as_ref().context("the cluster is stopped")
    }

    /// kube-proxy's process, where there is one.
    pub fn proxy(&self) -> Option<&Process> {
        self.proxy.as_ref()
    }

    /// etcd's process.
    pub fn etcd(&self) -> &Process {
        &self.etcd
    }

    /// The pod's web server: kill it, and its address answers no more.
    pub fn web(&mut self) -> &mut Process {
        &mut self.web
    }

    /// Waits until kube-proxy serves an address, seen from the node itself.
    pub async fn served(&self, url: &str) -> Result {
        let node = self.node();
        eventually(START, &format!("kube-proxy to serve {url}"), async || {
            let status = node
                .http_get(url, Duration::from_secs(1))
                .await
                .with_context(|| match &self.proxy {
                    Some(proxy) => proxy.report("may have failed"),
                    None => "the cluster has no kube-proxy".to_owned(),
                })?;
            ensure!(status == 200, "status {status}");
            Ok(())
        })
        .await
    }

    /// A kubeconfig in which cluster, user and context have the profile's name and the certificates are inline.
    pub fn kubeconfig(&self) -> Value {
        kubeconfig(
            self.profile(),
            self.node_ip,
            &self.authority,
            &self.client_identity,
        )
    }

    async fn start_node(&mut self) -> Result {
        self.start_api_server().await?;
        self.put_node().await?;
        self.proxy = self.start_proxy(&self.node(), self.profile()).await?;
        Ok(())
    }

    async fn start_api_server(&mut self) -> Result {
        let common = network::common_ip(&self.options);
        let mut addresses: Vec<IpAddr> = vec![
            self.node_ip.into(),
            common.into(),
            Ipv4Addr::LOCALHOST.into(),
        ];
        addresses.extend(self.node_ip6().map(IpAddr::from));
        let identity = self.authority.server(addresses)?;
        fs::write(self.dir.join("apiserver.crt"), identity.certificate)?;
        fs::write(self.dir.join("apiserver.key"), identity.key)?;
        let file = |name: &str| self.dir.join(name).display().to_string();
        let node = self.node();
        let mut command = node.command(&self.assets.join("kube-apiserver").display().to_string());
        command.args([
            format!("--etcd-servers={ETCD}"),
            format!("--secure-port={NODE_PORT}"),
            "--bind-address=0.0.0.0".to_owned(),
            format!("--advertise-address={}", self.node_ip),
            format!(
                "--service-cluster-ip-range={}",
                self.options.service_cidrs.join(",")
            ),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--authorization-mode=RBAC".to_owned(),
            // There are no controllers that would make the accounts.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
        ]);
        if self.options.audit {
            let policy = file("audit-policy.json");
            fs::write(&policy, audit_policy().to_string())?;
            command.args([
                format!("--audit-policy-file={policy}"),
                format!("--audit-log-path={}", file(AUDIT_LOG)),
                // A request is in the file before it is answered.
                "--audit-log-mode=blocking".to_owned(),
            ]);
        }
        let process = Process::spawn(&mut command).await?;
        eventually(START, "the API server to be ready", async || {
            kubernetes::ready(&self.client)
                .await
                .with_context(|| process.report("is not ready"))
        })
        .await?;
        self.api_server = Some(process);
        eventually(
            START,
            "the API server to have its service ranges",
            async || self.try_service().await,
        )
        .await
    }

    /// A kube-proxy in the place of the node of that name, if the cluster has any.
    async fn start_proxy(&self, node: &Place, name: &str) -> Result<Option<Process>> {
        if self.options.proxy == ProxyMode::None {
            return Ok(None);
        }
        let kubeconfig = self.dir.join("kubeconfig");
        fs::write(&kubeconfig, self.kubeconfig().to_string())?;
        // Changes are applied at once instead of once a second.
        let sync = json!({ "minSyncPeriod": "0s", "syncPeriod": "30s" });
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": if self.options.proxy == ProxyMode::Iptables { "iptables" } else { "nftables" },
            "clientConnection": { "kubeconfig": kubeconfig },
            "clusterCIDR": network::pod_ranges(&self.options).join(","),
            "iptables": sync,
            "nftables": sync,
            // The limits are the machine's, not the lab's.
            "conntrack": {
                "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
            },
        });
        // A kube-proxy ends when its file changes, so each has its own.
        let file = self.dir.join(format!("kube-proxy-{name}.json"));
        fs::write(&file, config.to_string())?;
        let mut command = node.command(&self.assets.join("kube-proxy").display().to_string());
        command
            .arg(format!("--config={}", file.display()))
            .arg(format!("--hostname-override={name}"));
        Ok(Some(Process::spawn(&mut command).await?))
    }
}

/// Ports need no choice: the node's loopback is its own.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

const AUDIT_LOG: &str = "audit.log";

/// One line for each request of the profile's user, written when it comes in.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["ResponseStarted", "ResponseComplete", "Panic"],
        "rules": [{ "level": "Metadata", "users": [pki::CLIENT] }, { "level": "None" }],
    })
}

async fn start_etcd(node: &Place, assets: &Path, dir: &Path) -> Result<Process> {
    let mut command = node.command(&assets.join("etcd").display().to_string());
    command
        .args(["--unsafe-no-fsync", "--log-level=error", "--name=default"])
        .arg(format!("--data-dir={}", dir.join("etcd").display()))
        .args([
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
        ])
        .args([
            format!("--listen-peer-urls={ETCD_PEER}"),
            format!("--initial-advertise-peer-urls={ETCD_PEER}"),
        ])
        .arg(format!("--initial-cluster=default={ETCD_PEER}"));
    Process::spawn(&mut command).await
}

/// The folder of the real programs, which `tests/testbed/build` makes.
async fn built_assets() -> Result<PathBuf> {
    let mut build =
        tokio::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testbed/build"));
    Ok(run(build.arg("--built")).await?.trim_end().into())
}

fn kubeconfig(profile: &str, node_ip: Ipv4Addr, authority: &Authority, client: &Identity) -> Value {
    let base64 = kubernetes::base64;
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": profile, "cluster": {
            "server": format!("https://{node_ip}:{NODE_PORT}"),
            "certificate-authority-data": base64(&authority.certificate),
        }}],
        "users": [{ "name": profile, "user": {
            "client-certificate-data": base64(&client.certificate),
            "client-key-data": base64(&client.key),
        }}],
        "contexts": [{ "name": profile, "context": { "cluster": profile, "user": profile } }],
        "current-context": profile,
    })
}
