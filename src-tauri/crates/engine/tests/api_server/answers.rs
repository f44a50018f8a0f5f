//! The cluster module against the real kube-apiserver: each row of what it is known to answer.

use std::net::IpAddr;

use crate::support::{ApiServer, Watched};
use kube::api::DeleteParams;
use minitunnel_engine::cluster::{AssignError, ClusterEvent, Service};
use minitunnel_model::Owner;
use serde_json::{Value, json};

/// The ingress that we set for a service.
fn vip(service: &Service) -> Value {
    service
        .cluster_ips
        .iter()
        .map(|ip| json!({ "ip": ip, "ipMode": "VIP" }))
        .collect()
}

fn is_ours(service: &Service) -> bool {
    service.owner == Owner::Us
}

#[tokio::test]
async fn a_server_that_is_up_tells_its_networks_and_services() {
    let mut cluster = Watched::start(ApiServer::shared(), "up").await;
    let ClusterEvent::Up { service_cidrs, .. } = cluster.next().await else {
        panic!("the first event is not Up")
    };
    assert_eq!(
        service_cidrs,
        [
            "10.96.0.0/12".parse().unwrap(),
            "fd00:10:96::/112".parse().unwrap()
        ]
    );
}

#[tokio::test]
async fn an_assigned_service_has_its_cluster_ips_of_both_families() {
    let mut cluster = Watched::start(ApiServer::shared(), "assign").await;
    let service = cluster.create("web").await;
    assert_eq!(
        (service.owner.clone(), service.cluster_ips.len()),
        (Owner::Nobody, 2)
    );
    cluster.handle.assign(&service).await.unwrap();
    let told = cluster.service("web", "our address", is_ours).await;
    assert!(told.is_right());
    let ips: Vec<String> = service.cluster_ips.iter().map(IpAddr::to_string).collect();
    assert_eq!(told.ingress, ips);
    assert_eq!(cluster.ingress("web").await, vip(&service));
}

#[tokio::test]
async fn the_same_assignment_again_changes_nothing() {
    let mut cluster = Watched::start(ApiServer::shared(), "again").await;
    let service = cluster.create("web").await;
    cluster.handle.assign(&service).await.unwrap();
    let before = cluster.get("web").await;
    cluster.handle.assign(&service).await.unwrap();
    assert_eq!(cluster.get("web").await, before);
}

#[tokio::test]
async fn a_withdrawn_address_is_gone() {
    let mut cluster = Watched::start(ApiServer::shared(), "withdraw").await;
    let service = cluster.create("web").await;
    cluster.handle.assign(&service).await.unwrap();
    cluster.service("web", "our address", is_ours).await;
    cluster.handle.withdraw(&service).await.unwrap();
    cluster
        .service("web", "no address", |service| {
            service.owner == Owner::Nobody
        })
        .await;
    assert_eq!(cluster.ingress("web").await, Value::Null);
}

#[tokio::test]
async fn an_address_that_another_manager_owns_too_stays_after_ours_is_withdrawn() {
    let mut cluster = Watched::start(ApiServer::shared(), "shared").await;
    let service = cluster.create("web").await;
    cluster.handle.assign(&service).await.unwrap();
    let apply = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "status": { "loadBalancer": { "ingress": vip(&service) } } });
    let apply = kube::api::Patch::Apply(&apply);
    cluster
        .services()
        .patch_status("web", &kube::api::PatchParams::apply("other"), &apply)
        .await
        .unwrap();
    cluster.handle.withdraw(&service).await.unwrap();
    assert_eq!(cluster.ingress("web").await, vip(&service));
    let owner = Owner::Other("other".to_owned());
    cluster
        .service("web", "the other's alone", |service| service.owner == owner)
        .await;
}

#[tokio::test]
async fn a_foreign_address_is_a_conflict_that_names_its_manager_and_stays() {
    let mut cluster = Watched::start(ApiServer::shared(), "foreign").await;
    let service = cluster.create("web").await;
    cluster
        .set_ingress("web", "metallb", json!([{ "ip": "192.0.2.7" }]))
        .await;
    let foreign = Owner::Other("metallb".to_owned());
    cluster
        .service("web", "metallb's address", |service| {
            service.owner == foreign
        })
        .await;
    let refused = cluster.handle.assign(&service).await;
    assert_eq!(
        refused,
        Err(AssignError::Conflict {
            manager: "metallb".to_owned()
        })
    );
    assert_eq!(cluster.ingress("web").await[0]["ip"], "192.0.2.7");
    // Withdrawing what is not ours takes nothing away.
    cluster.handle.withdraw(&service).await.unwrap();
    assert_eq!(cluster.ingress("web").await[0]["ip"], "192.0.2.7");
}

#[tokio::test]
async fn a_writer_that_replaces_our_address_takes_it_over() {
    let mut cluster = Watched::start(ApiServer::shared(), "replaced").await;
    let service = cluster.create("web").await;
    cluster.handle.assign(&service).await.unwrap();
    cluster
        .set_ingress("web", "other", json!([{ "hostname": "lb.example" }]))
        .await;
    let other = Owner::Other("other".to_owned());
    let told = cluster
        .service("web", "the other's address", |service| {
            service.owner == other
        })
        .await;
    assert_eq!(told.ingress, ["lb.example"]);
    assert_eq!(
        cluster.handle.assign(&service).await,
        Err(AssignError::Conflict {
            manager: "other".to_owned()
        })
    );
}

#[tokio::test]
async fn what_an_ended_minikube_tunnel_left_is_adopted_and_can_be_removed() {
    let mut cluster = Watched::start(ApiServer::shared(), "adopt").await;
    // As `minikube tunnel` does it: the one cluster IP, by a plain patch.
    let service = cluster
        .create_with("web", json!({ "ipFamilyPolicy": "SingleStack" }))
        .await;
    cluster
        .set_ingress("web", "minikube", json!([{ "ip": service.cluster_ips[0] }]))
        .await;
    let left = cluster
        .service("web", "minikube's leftover", |service| {
            service.left_by_minikube
        })
        .await;
    assert_eq!(left.owner, Owner::Other("minikube".to_owned()));

    cluster.handle.assign(&left).await.unwrap();
    let ours = cluster.service("web", "our address", is_ours).await;
    assert!(ours.is_right());
    // Not ours alone: it takes the clean-up to remove it.
    let refused = cluster
        .handle
        .remove_left_by_minikube(&ours.key, &ours.uid, &ours.cluster_ips)
        .await;
    assert_eq!(
        refused,
        Err(AssignError::Conflict {
            manager: "minitunnel".to_owned()
        })
    );
    cluster.handle.withdraw(&ours).await.unwrap();
    let left = cluster
        .service("web", "minikube's again", |service| {
            service.left_by_minikube
        })
        .await;
    // Of what was shown to the user, nothing is there any more: this one took its place.
    let shown = vec!["10.96.0.99".parse().unwrap()];
    for (uid, shown) in [(&left.uid, &shown), (&"u-1".to_owned(), &left.cluster_ips)] {
        let refused = cluster
            .handle
            .remove_left_by_minikube(&left.key, uid, shown)
            .await;
        assert!(
            matches!(refused, Err(AssignError::Refused { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(
        cluster.ingress("web").await[0]["ip"],
        json!(left.cluster_ips[0])
    );
    cluster
        .handle
        .remove_left_by_minikube(&left.key, &left.uid, &left.cluster_ips)
        .await
        .unwrap();
    cluster
        .service("web", "no address", |service| {
            service.owner == Owner::Nobody
        })
        .await;
}

#[tokio::test]
async fn an_address_of_minikubes_that_is_no_cluster_ip_is_not_removed() {
    let mut cluster = Watched::start(ApiServer::shared(), "left").await;
    let service = cluster.create("web").await;
    cluster
        .set_ingress("web", "minikube", json!([{ "ip": "192.0.2.9" }]))
        .await;
    let shown = ["192.0.2.9".parse().unwrap()];
    let refused = cluster
        .handle
        .remove_left_by_minikube(&service.key, &service.uid, &shown)
        .await;
    assert_eq!(
        refused,
        Err(AssignError::Conflict {
            manager: "minikube".to_owned()
        })
    );
    assert_eq!(cluster.ingress("web").await[0]["ip"], "192.0.2.9");
}

#[tokio::test]
async fn a_service_that_is_no_load_balancer_any_more_concerns_us_no_longer() {
    for (namespace, spec) in [
        ("to-clusterip", json!({ "type": "ClusterIP" })),
        (
            "to-externalname",
            json!({ "type": "ExternalName", "externalName": "a.example", "clusterIPs": null, "clusterIP": null }),
        ),
    ] {
        let mut cluster = Watched::start(ApiServer::shared(), namespace).await;
        let service = cluster.create("web").await;
        cluster.handle.assign(&service).await.unwrap();
        cluster.change("web", spec).await;
        cluster.deleted("web").await;
        assert_eq!(cluster.ingress("web").await, Value::Null);
    }
}

#[tokio::test]
async fn a_cluster_ip_that_changes_by_way_of_external_name_is_told_and_assigned() {
    let mut cluster = Watched::start(ApiServer::shared(), "newip").await;
    let service = cluster.create("web").await;
    cluster.handle.assign(&service).await.unwrap();
    let external = json!({ "type": "ExternalName", "externalName": "a.example", "clusterIPs": null, "clusterIP": null });
    cluster.change("web", external).await;
    cluster.deleted("web").await;
    // Its old address is free: somebody else takes it, so that it comes back with another.
    let taker = json!({ "clusterIP": service.cluster_ips[0], "ipFamilyPolicy": "SingleStack" });
    cluster.create_with("taker", taker).await;
    cluster
        .change(
            "web",
            json!({ "type": "LoadBalancer", "externalName": null }),
        )
        .await;
    let back = cluster
        .service("web", "its return", |service| service.is_load_balancer)
        .await;
    assert_eq!(back.uid, service.uid);
    assert_ne!(back.cluster_ips[0], service.cluster_ips[0]);
    cluster.handle.assign(&back).await.unwrap();
    assert_eq!(cluster.ingress("web").await, vip(&back));
}

#[tokio::test]
async fn a_deleted_service_is_gone_and_is_not_made_again() {
    let mut cluster = Watched::start(ApiServer::shared(), "deleted").await;
    let service = cluster.create("web").await;
    cluster
        .services()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    cluster.deleted("web").await;
    assert_eq!(
        cluster.handle.assign(&service).await,
        Err(AssignError::Gone)
    );
    assert_eq!(
        cluster.handle.withdraw(&service).await,
        Err(AssignError::Gone)
    );
    assert_eq!(cluster.services().get_opt("web").await.unwrap(), None);
}

#[tokio::test]
async fn a_service_made_anew_under_its_name_is_another_one() {
    let mut cluster = Watched::start(ApiServer::shared(), "anew").await;
    let old = cluster.create("web").await;
    cluster.handle.assign(&old).await.unwrap();
    cluster
        .services()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    let new = cluster.create("web").await;
    assert_ne!(new.uid, old.uid);
    assert_eq!(cluster.handle.assign(&old).await, Err(AssignError::Gone));
    assert_eq!(cluster.handle.withdraw(&old).await, Err(AssignError::Gone));
    assert_eq!(cluster.ingress("web").await, Value::Null);
}

#[tokio::test]
async fn a_foreign_class_is_told_and_ours_is_as_none() {
    let mut cluster = Watched::start(ApiServer::shared(), "class").await;
    let foreign = cluster
        .create_with("foreign", json!({ "loadBalancerClass": "example.com/lb" }))
        .await;
    assert_eq!(foreign.class.as_deref(), Some("example.com/lb"));
    let ours = cluster
        .create_with(
            "ours",
            json!({ "loadBalancerClass": minitunnel_engine::cluster::LOAD_BALANCER_CLASS }),
        )
        .await;
    assert_eq!(ours.class, None);
}

#[tokio::test]
async fn services_of_other_types_are_not_told() {
    let mut cluster = Watched::start(ApiServer::shared(), "types").await;
    let service = json!({ "metadata": { "name": "plain" }, "spec": { "ports": [{ "port": 80 }] } });
    let service = serde_json::from_value(service).unwrap();
    cluster
        .services()
        .create(&kube::api::PostParams::default(), &service)
        .await
        .unwrap();
    let made = cluster.create("web").await;
    assert!(made.is_load_balancer);
    // Had the plain one been told, it would have come first.
    let plain = cluster.key("plain");
    cluster
        .change("plain", json!({ "type": "LoadBalancer" }))
        .await;
    let told = cluster.service("plain", "its new type", |_| true).await;
    assert!(told.key == plain && told.is_load_balancer);
}

#[tokio::test]
async fn a_range_that_is_added_is_told_with_the_first_service_in_it() {
    // A server of its own: its ranges are everybody's.
    let server = ApiServer::start(&[]);
    let mut cluster = Watched::start(&server, "ranges").await;
    cluster.up().await;
    let ranges: kube::Api<k8s_openapi::api::networking::v1::ServiceCIDR> =
        kube::Api::all(cluster.client.clone());
    let range = json!({ "metadata": { "name": "more" }, "spec": { "cidrs": ["10.200.0.0/24"] } });
    let range = serde_json::from_value(range).unwrap();
    ranges
        .create(&kube::api::PostParams::default(), &range)
        .await
        .unwrap();
    // The range is not ready at once, and an address outside of all ranges is refused.
    let service = serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "clusterIP": "10.200.0.7", "ports": [{ "port": 80 }] },
    }))
    .unwrap();
    let create = async {
        let params = kube::api::PostParams::default();
        while cluster.services().create(&params, &service).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::support::WAIT, create)
        .await
        .expect("the range was never ready");
    let told = cluster
        .find("the new range", |event| match event {
            ClusterEvent::ServiceCidrs(cidrs) => Some(cidrs),
            _ => None,
        })
        .await;
    assert!(told.contains(&"10.200.0.0/24".parse().unwrap()), "{told:?}");
}

#[tokio::test]
async fn nodes_are_told_with_their_addresses_and_pods() {
    let mut cluster = Watched::start(ApiServer::shared(), "nodes").await;
    cluster.up().await;
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(cluster.client.clone());
    let params = kube::api::PatchParams::apply("test").force();
    let mut node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" },
        "spec": { "podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"] } });
    nodes
        .patch("n1", &params, &kube::api::Patch::Apply(&node))
        .await
        .unwrap();
    node.as_object_mut().unwrap().remove("spec");
    node["status"] = json!({ "addresses": [{ "type": "InternalIP", "address": "192.168.49.2" }],
        "conditions": [{ "type": "Ready", "status": "True" }] });
    nodes
        .patch_status("n1", &params, &kube::api::Patch::Apply(&node))
        .await
        .unwrap();
    let told = cluster
        .find("the ready node", |event| match event {
            ClusterEvent::Nodes(nodes) => nodes.into_iter().find(|node| node.ready == Some(true)),
            _ => None,
        })
        .await;
    assert_eq!(told.name, "n1");
    assert_eq!(told.ips, ["192.168.49.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(told.pod_cidrs, ["10.244.0.0/24".parse().unwrap()]);
}

#[tokio::test]
async fn more_services_than_a_page_holds_are_all_told_at_once() {
    let mut first = Watched::start(ApiServer::shared(), "many").await;
    let make = |index: usize| {
        let services = first.services();
        async move {
            let service = json!({ "metadata": { "name": format!("s{index}") },
                "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] } });
            let service = serde_json::from_value(service).unwrap();
            services
                .create(&kube::api::PostParams::default(), &service)
                .await
                .unwrap();
        }
    };
    futures::StreamExt::for_each_concurrent(futures::stream::iter(0..520), 8, make).await;
    first.service("s519", "the last one", |_| true).await;
    let mut cluster = Watched::start(ApiServer::shared(), "many").await;
    let all = cluster.up().await;
    assert_eq!(
        all.iter()
            .filter(|service| service.key.namespace == "many")
            .count(),
        520
    );
}
