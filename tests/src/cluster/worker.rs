//! A further node of a cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Cluster, POD_PORT, network};
use crate::{Process, Result, WAIT};

/// A node that joined: a namespace on the cluster's bridge with a kube-proxy of its own, and a pod behind it.
pub struct Worker {
    /// The node's name, as minikube gives it: `minikube-m02`.
    pub name: String,
    /// Its address, 192.168.SUBNET.3 for the second node.
    pub ip: Ipv4Addr,
    /// Its IPv6 address, fd00:SUBNET::3 for the second node, where the cluster has both families.
    pub ip6: Option<Ipv6Addr>,
    /// Its pod's address, 10.244.1.2 for the second node.
    pub pod_ip: Ipv4Addr,
    /// Its pod's IPv6 address, fd00:10:244:1::2 for the second node, where the cluster has both families.
    pub pod_ip6: Option<Ipv6Addr>,
    pub(super) number: u8,
    /// They end with it.
    _programs: Vec<Process>,
}

impl Worker {
    /// The URL of its pod's web server.
    pub fn pod_url(&self) -> String {
        format!("http://{}:{POD_PORT}/", self.pod_ip)
    }

    /// The URLs of its pod's web server, one for each family.
    pub fn pod_urls(&self) -> Vec<String> {
        let ips = [
            Some(IpAddr::from(self.pod_ip)),
            self.pod_ip6.map(IpAddr::from),
        ];
        let url = |ip| format!("http://{}/", SocketAddr::new(ip, POD_PORT));
        ips.into_iter().flatten().map(url).collect()
    }

    /// The pods that Kubernetes gave it.
    pub fn pod_cidr(&self) -> String {
        format!("10.244.{}.0/24", self.number - 1)
    }

    /// The pods that Kubernetes gave it, of both families where the cluster has both.
    pub fn pod_cidrs(&self) -> Vec<String> {
        let mut cidrs = vec![self.pod_cidr()];
        let ipv6 = format!("fd00:10:244:{:x}::/64", self.number - 1);
        cidrs.extend(self.pod_ip6.map(|_| ipv6));
        cidrs
    }

    fn ips(&self) -> Vec<IpAddr> {
        let ipv6 = self.ip6.map(IpAddr::from);
        [Some(self.ip.into()), ipv6].into_iter().flatten().collect()
    }

    pub(super) fn pod_gateways(&self) -> [IpAddr; 2] {
        let third = self.number - 1;
        let ipv6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, third.into(), 0, 0, 0, 1);
        [Ipv4Addr::new(10, 244, third, 1).into(), ipv6.into()]
    }
}

impl Cluster {
    /// Adds the node of that number, from 2 to 9.
    pub async fn join(&self, number: u8) -> Result<Worker> {
        let options = &self.options;
        let both = options.dual_stack;
        let pod_ip6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, (number - 1).into(), 0, 0, 0, 2);
        let mut worker = Worker {
            name: format!("{}-m{number:02}", self.profile()),
            ip: Ipv4Addr::new(192, 168, options.subnet, number + 1),
            ip6: both.then(|| network::ip6(options, number + 1)),
            pod_ip: Ipv4Addr::new(10, 244, number - 1, 2),
            pod_ip6: both.then_some(pod_ip6),
            number,
            _programs: Vec::new(),
        };
        network::add_worker(&self.lab, options, &worker).await?;
        self.route_pods(&worker).await?;
        let pod = self.lab.netns(&format!("{}-pod", worker.name));
        let everywhere = format!("[::]:{POD_PORT}");
        let mut web = pod.command("minitunnel-lab");
        let web = Process::spawn(web.args(["web", &everywhere])).await?;
        web.wait_for_line("listening", WAIT).await?;
        self.put_worker(&worker).await?;
        let proxy = self
            .start_proxy(&self.lab.netns(&worker.name), &worker.name)
            .await?;
        worker._programs = [Some(web), proxy].into_iter().flatten().collect();
        Ok(worker)
    }

    /// Takes a further node's link away, as when its machine ends; its object stays, as Kubernetes leaves it.
    pub async fn unplug_worker(&self, worker: &Worker) -> Result {
        network::unplug(&self.lab, &self.options, worker).await
    }

    /// Gives a further node another address in its network, and tells the API server.
    pub async fn move_worker(&self, worker: &mut Worker, ip: Ipv4Addr) -> Result {
        self.unplug_worker(worker).await?;
        worker.ip = ip;
        network::plug_in(&self.lab, &self.options, worker).await?;
        self.route_pods(worker).await?;
        self.put_worker(worker).await
    }

    /// The ways between the node's pods and the first node's, as kindnet makes them.
    async fn route_pods(&self, worker: &Worker) -> Result {
        let first = [
            Some(IpAddr::from(self.node_ip)),
            self.node_ip6().map(IpAddr::from),
        ];
        let firsts = network::pod_cidrs(&self.options);
        for (cidr, through) in firsts.iter().zip(first.into_iter().flatten()) {
            network::route_pods(&self.lab, &worker.name, cidr, through).await?;
        }
        for (cidr, through) in worker.pod_cidrs().iter().zip(worker.ips()) {
            network::route_pods(&self.lab, self.profile(), cidr, through).await?;
        }
        Ok(())
    }

    async fn put_worker(&self, worker: &Worker) -> Result {
        let ips: Vec<String> = worker.ips().iter().map(IpAddr::to_string).collect();
        let cidrs = worker.pod_cidrs();
        let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
        self.put(&worker.name, &ips, &cidrs).await
    }
}
