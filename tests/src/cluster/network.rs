//! The cluster's network: host, bridge, node, pod.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ClusterOptions, Worker};
use crate::{Place, Result};

/// The pod's addresses, in the node's `spec.podCIDRs` and minikube's 10.244.0.0/16.
pub(super) const POD_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const POD_IP6: &str = "fd00:10:244::2";
const POD_GATEWAY6: &str = "fd00:10:244::1";

/// The node's part of the pod ranges.
pub(super) fn pod_cidrs(options: &ClusterOptions) -> Vec<&'static str> {
    one_or_both(options, "10.244.0.0/24", "fd00:10:244::/64")
}

/// The cluster's pod ranges.
pub(super) fn pod_ranges(options: &ClusterOptions) -> Vec<&'static str> {
    one_or_both(options, "10.244.0.0/16", "fd00:10:244::/56")
}

/// The pod's addresses.
pub(super) fn pod_ips(options: &ClusterOptions) -> Vec<String> {
    let mut ips = vec![POD_IP.to_string()];
    ips.extend(options.dual_stack.then(|| POD_IP6.to_owned()));
    ips
}

/// The node's IPv6 address: the subnet's number stands there as decimal digits, as in 192.168.49.2.
pub(super) fn node_ip6(options: &ClusterOptions) -> Ipv6Addr {
    ip6(options, 2)
}

/// The common address of several control planes, the last of the nodes' network, as minikube chooses it.
pub(super) fn common_ip(options: &ClusterOptions) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, options.subnet, 254)
}

/// An IPv6 address in the nodes' network.
pub(super) fn ip6(options: &ClusterOptions, last: u8) -> Ipv6Addr {
    let subnet = hex_that_reads_as_decimal(options.subnet);
    Ipv6Addr::new(0xfd00, subnet, 0, 0, 0, 0, 0, last.into())
}

/// The bridge on the host.
pub(super) fn bridge(options: &ClusterOptions) -> String {
    format!("br-{}", options.subnet)
}

/// The network namespace of the pod.
pub(super) fn pod_namespace(options: &ClusterOptions) -> String {
    format!("{}-pod", options.profile)
}

/// Makes the namespaces, the bridge, and the pod with its link to the node.
pub(super) async fn create(lab: &Place, options: &ClusterOptions) -> Result {
    let (bridge, node, pod, subnet) = (
        bridge(options),
        &options.profile,
        pod_namespace(options),
        options.subnet,
    );
    // The same quiet as in the lab's own namespace, see `init.sh`.
    let mut script = format!(
        "for ns in {node} {pod}; do
             ip netns add $ns
             nsenter --net=/run/netns/$ns sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
             ip -n $ns link set lo up
         done
         ip link add {bridge} type bridge forward_delay 0 mcast_snooping 0
         ip address add 192.168.{subnet}.1/24 dev {bridge}
         ip link set {bridge} up
         ip -n {node} link add pod0 type veth peer name eth0 netns {pod}
         ip -n {node} address add {POD_GATEWAY}/24 dev pod0
         ip -n {node} link set pod0 up
         ip -n {pod} address add {POD_IP}/24 dev eth0
         ip -n {pod} link set eth0 up
         ip -n {pod} route add default via {POD_GATEWAY}\n"
    );
    if options.dual_stack {
        let host = host_ip6(options);
        script += &format!(
            "ip address add {host}/64 dev {bridge} nodad
             ip -n {node} address add {POD_GATEWAY6}/64 dev pod0 nodad
             ip -n {pod} address add {POD_IP6}/64 dev eth0 nodad
             ip -n {pod} route add default via {POD_GATEWAY6}\n"
        );
    }
    lab.sh(&script).await.map(drop)
}

/// Makes a further node on the bridge with a pod behind it.
pub(super) async fn add_worker(lab: &Place, options: &ClusterOptions, worker: &Worker) -> Result {
    let name = &worker.name;
    let ([gateway, gateway6], pod_ip) = (worker.pod_gateways(), worker.pod_ip);
    let mut script = format!(
        "for ns in {name} {name}-pod; do
             ip netns add $ns
             nsenter --net=/run/netns/$ns sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
             ip -n $ns link set lo up
         done
         ip -n {name} link add pod0 type veth peer name eth0 netns {name}-pod
         ip -n {name} address add {gateway}/24 dev pod0
         ip -n {name} link set pod0 up
         ip -n {name}-pod address add {pod_ip}/24 dev eth0
         ip -n {name}-pod link set eth0 up
         ip -n {name}-pod route add default via {gateway}\n"
    );
    if let Some(pod_ip6) = worker.pod_ip6 {
        script += &format!(
            "ip -n {name} address add {gateway6}/64 dev pod0 nodad
             ip -n {name}-pod address add {pod_ip6}/64 dev eth0 nodad
             ip -n {name}-pod route add default via {gateway6}\n"
        );
    }
    lab.sh(&script).await?;
    plug_in(lab, options, worker).await
}

/// Gives a further node its link to the bridge and its addresses.
pub(super) async fn plug_in(lab: &Place, options: &ClusterOptions, worker: &Worker) -> Result {
    let (bridge, subnet) = (bridge(options), options.subnet);
    let (name, ip, veth) = (&worker.name, worker.ip, worker_veth(options, worker));
    // As a container engine gives it, the same each time: nobody's neighbour table is wrong then.
    let mac = format!("02:42:c0:a8:{subnet:02x}:{:02x}", worker.number);
    let mut script = format!(
        "ip link add {veth} type veth peer name eth0 address {mac} netns {name}
         ip link set {veth} master {bridge} up
         ip -n {name} address add {ip}/24 dev eth0
         ip -n {name} link set eth0 up
         ip -n {name} route add default via 192.168.{subnet}.1\n"
    );
    if let Some(ip6) = worker.ip6 {
        let host = host_ip6(options);
        script += &format!(
            "ip -n {name} address add {ip6}/64 dev eth0 nodad
             ip -n {name} route add default via {host}\n"
        );
    }
    lab.sh(&script).await.map(drop)
}

/// Takes a further node's link away.
pub(super) async fn unplug(lab: &Place, options: &ClusterOptions, worker: &Worker) -> Result {
    let veth = worker_veth(options, worker);
    lab.sh(&format!("ip link delete {veth}")).await.map(drop)
}

/// Gives one node the way to another one's pods.
pub(super) async fn route_pods(lab: &Place, node: &str, cidr: &str, through: IpAddr) -> Result {
    lab.sh(&format!("ip -n {node} route replace {cidr} via {through}"))
        .await
        .map(drop)
}

fn worker_veth(options: &ClusterOptions, worker: &Worker) -> String {
    format!("veth-{}-{}", options.subnet, worker.number)
}

/// Gives the node a link to the bridge and its address.
pub(super) async fn connect(lab: &Place, options: &ClusterOptions, ip: Ipv4Addr) -> Result {
    let (bridge, veth, node, subnet) = (
        bridge(options),
        veth(options),
        &options.profile,
        options.subnet,
    );
    let mut script = format!(
        "ip link add {veth} type veth peer name eth0 netns {node}
         ip link set {veth} master {bridge} up
         ip -n {node} address add {ip}/24 dev eth0
         ip -n {node} link set eth0 up
         ip -n {node} route add default via 192.168.{subnet}.1\n"
    );
    if options.dual_stack {
        let (ip, host) = (node_ip6(options), host_ip6(options));
        script += &format!(
            "ip -n {node} address add {ip}/64 dev eth0 nodad
             ip -n {node} route add default via {host}\n"
        );
    }
    lab.sh(&script).await.map(drop)
}

/// Takes the node's link away; the bridge stays, without a carrier, as docker's does.
pub(super) async fn disconnect(lab: &Place, options: &ClusterOptions) -> Result {
    lab.sh(&format!("ip link delete {}", veth(options)))
        .await
        .map(drop)
}

fn veth(options: &ClusterOptions) -> String {
    format!("veth-{}", options.subnet)
}

fn host_ip6(options: &ClusterOptions) -> Ipv6Addr {
    ip6(options, 1)
}

fn hex_that_reads_as_decimal(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

fn one_or_both(
    options: &ClusterOptions,
    ipv4: &'static str,
    ipv6: &'static str,
) -> Vec<&'static str> {
    if options.dual_stack {
        vec![ipv4, ipv6]
    } else {
        vec![ipv4]
    }
}
