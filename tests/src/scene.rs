//! What most tests begin with: a lab, a cluster in it, and a profile of Alice's for it.

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    Cluster, ClusterOptions, Lab, MinikubeHome, Process, ProxyMode, Result, WAIT, eventually, run,
};

/// A lab with a cluster, whose profile is in Alice's minikube home, and the tables as they were without a tunnel.
pub struct Scene {
    /// The lab.
    pub lab: Lab,
    /// The cluster.
    pub cluster: Cluster,
    /// Alice's minikube home.
    pub home: MinikubeHome,
    /// Every route of every table and both families, before any tunnel.
    pub before: Vec<String>,
}

impl Scene {
    /// Starts the cluster in a new lab.
    pub async fn new(options: ClusterOptions) -> Result<Self> {
        let lab = Lab::new()?;
        let cluster = Cluster::start(&lab, options).await?;
        let mut home = MinikubeHome::create(&lab, "alice")?;
        home.add(&cluster)?;
        let before = lab.routes().await?;
        Ok(Self {
            lab,
            cluster,
            home,
            before,
        })
    }

    /// The same with an API server alone: for tests that ask no address.
    pub async fn api_only() -> Result<Self> {
        Self::new(api_only(ClusterOptions::default())).await
    }

    /// Adds a cluster of another profile, an API server alone, to the lab and to Alice's home.
    pub async fn add(&mut self, options: ClusterOptions) -> Result<Cluster> {
        let cluster = self.add_for_nobody(options).await?;
        self.home.add(&cluster)?;
        Ok(cluster)
    }

    /// Adds such a cluster to the lab alone.
    pub async fn add_for_nobody(&mut self, options: ClusterOptions) -> Result<Cluster> {
        let cluster = Cluster::start(&self.lab, api_only(options)).await?;
        self.before = self.lab.routes().await?;
        Ok(cluster)
    }

    /// Starts Alice's `sudo minitunnel up` for these profiles.
    pub async fn sudo_up(&self, profiles: &[&str]) -> Result<Process> {
        let mut command = self.lab.sudo("alice", "minitunnel");
        command.arg("up");
        for profile in profiles {
            command.args(["-p", profile]);
        }
        Process::spawn(&mut command).await
    }

    /// A command of Alice's.
    pub fn alice(&self, program: &str) -> Command {
        self.lab.user("alice").command(program)
    }

    /// Waits for the tables to be as they were before, entry by entry.
    pub async fn wait_for_before(&self) -> Result {
        eventually(WAIT, "the tables of before", async || {
            self.is_as_before(|_| true).await
        })
        .await
    }

    /// That the tables are as they were before, but for what the kernel gives every link by itself: one that was made anew has
    /// another address.
    pub async fn is_as_before_on_new_links(&self) -> Result {
        let own = [r#""dst":"fe80::"#, r#""dst":"ff00::/8""#];
        self.is_as_before(|route| !own.iter().any(|words| route.contains(words)))
            .await
    }

    async fn is_as_before(&self, matters: impl Fn(&str) -> bool) -> Result {
        let now = self.lab.routes().await?;
        let now: Vec<_> = now.iter().filter(|route| matters(route)).collect();
        let before: Vec<_> = self.before.iter().filter(|route| matters(route)).collect();
        ensure!(now == before, "{now:#?}\ninstead of\n{before:#?}");
        Ok(())
    }

    /// Waits until the route to a destination leads to that gateway, or is not there.
    pub async fn wait_for_route(&self, destination: &str, gateway: Option<&str>) -> Result {
        let wanted = gateway.map(|gateway| format!(r#""gateway":"{gateway}""#));
        let what = format!("{destination} via {gateway:?}");
        eventually(WAIT, &what, async || {
            let routes = self.lab.routes().await?;
            let of_it = |route: &&String| route.contains(&format!(r#""dst":"{destination}""#));
            let found = routes.iter().find(of_it);
            let as_wanted = match (&found, &wanted) {
                (Some(route), Some(gateway)) => route.contains(gateway),
                (None, None) => true,
                _ => false,
            };
            ensure!(as_wanted, "{found:?}");
            Ok(())
        })
        .await
    }

    /// Lets a profile say which pod network its cluster has.
    pub fn choose_cni(&self, profile: &str, cni: &str) -> Result {
        let mut config = self.home.config(profile)?;
        config["KubernetesConfig"]["CNI"] = cni.into();
        self.home.save_config(profile, &config)
    }

    /// What `minitunnel status --json` prints for Alice.
    pub async fn snapshot(&self) -> Result<Value> {
        let text = run(self.alice("minitunnel").args(["status", "--json"])).await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// What Alice sees of the first profile's first service: the tunnel's state, the service's owner, its addresses.
    pub async fn service_status(&self) -> Result<Value> {
        let snapshot = self.snapshot().await?;
        let profile = &snapshot["profiles"][0];
        let service = &profile["load_balancers"][0];
        Ok(json!([
            profile["tunnel"]["state"],
            service["owner"]["owner"],
            service["ingress"],
        ]))
    }
}

fn api_only(options: ClusterOptions) -> ClusterOptions {
    let proxy = ProxyMode::None;
    ClusterOptions { proxy, ..options }
}
