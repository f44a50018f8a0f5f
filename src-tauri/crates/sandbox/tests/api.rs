//! The API server, asked by a real Kubernetes client.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows no helpers of tests"
)]

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client, Config, Error,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher,
};
use minitunnel_sandbox::{
    api::{self, Kind, Store},
    pki::{Authority, Identity},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};

const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A server on a free port of loopback; dropped, it ends.
struct Server {
    store: Arc<Store>,
    authority: Authority,
    url: String,
    _task: JoinSet<std::io::Error>,
}

impl Server {
    async fn start(store: Store) -> Self {
        let authority = Authority::new().unwrap();
        let tls = api::tls(&authority, &authority.server(&[LOCALHOST]).unwrap()).unwrap();
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let store = Arc::new(store);
        let mut task = JoinSet::new();
        task.spawn(api::serve(listener, tls, store.clone()));
        Self {
            store,
            authority,
            url,
            _task: task,
        }
    }

    async fn client(&self) -> Client {
        self.client_as(Some(self.authority.client().unwrap())).await
    }

    /// A client as a kubeconfig with inline data describes it.
    async fn client_as(&self, identity: Option<Identity>) -> Client {
        let user = match identity {
            Some(identity) => json!({
                "client-certificate-data": base64(&identity.certificate),
                "client-key-data": base64(&identity.key),
            }),
            None => json!({}),
        };
        let ca = base64(self.authority.certificate());
        let config: Kubeconfig = serde_json::from_value(json!({
            "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
            "clusters": [{ "name": "c", "cluster": { "server": self.url, "certificate-authority-data": ca } }],
            "users": [{ "name": "u", "user": user }],
        }))
        .unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(config, &options).await;
        Client::try_from(config.unwrap()).unwrap()
    }
}

fn base64(text: &str) -> String {
    // k8s-openapi writes bytes as base64.
    match serde_json::to_value(k8s_openapi::ByteString(text.into())).unwrap() {
        Value::String(text) => text,
        other => panic!("{other}"),
    }
}

fn service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
    }))
    .unwrap()
}

fn addresses(ips: &[&str]) -> Patch<Value> {
    let list: Vec<Value> = ips
        .iter()
        .map(|ip| json!({ "ip": ip, "ipMode": "VIP" }))
        .collect();
    Patch::Apply(json!({
        "apiVersion": "v1", "kind": "Service", "status": { "loadBalancer": { "ingress": list } },
    }))
}

fn release() -> Patch<Value> {
    Patch::Apply(json!({ "apiVersion": "v1", "kind": "Service", "status": {} }))
}

fn manager(name: &str) -> PatchParams {
    PatchParams {
        field_manager: Some(name.to_owned()),
        ..PatchParams::default()
    }
}

fn ingress(service: &Service) -> Vec<String> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let list = status.and_then(|status| status.ingress.as_ref());
    list.into_iter()
        .flatten()
        .filter_map(|entry| entry.ip.clone())
        .collect()
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> u16 {
    match result {
        Err(Error::Api(status)) => status.code,
        other => panic!("no answer of the API server: {other:?}"),
    }
}

async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    timeout(Duration::from_secs(10), stream.next())
        .await
        .expect("an event within 10 s")
        .expect("the stream goes on")
}

#[tokio::test]
async fn a_reflector_sees_what_is_there_and_then_each_change() {
    let server = Server::start(Store::default()).await;
    let services: Api<Service> = Api::default_namespaced(server.client().await);
    services
        .create(&PostParams::default(), &service("before"))
        .await
        .unwrap();
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let everywhere: Api<Service> = Api::all(server.client().await);
        let mut events = pin!(watcher(everywhere, config).map_ok(|event| match event {
            watcher::Event::Init => "init".to_owned(),
            watcher::Event::InitDone => "done".to_owned(),
            watcher::Event::InitApply(s) => format!("there {}", s.metadata.name.unwrap()),
            watcher::Event::Apply(s) =>
                format!("{} {:?}", s.metadata.name.clone().unwrap(), ingress(&s)),
            watcher::Event::Delete(s) => format!("gone {}", s.metadata.name.unwrap()),
        }));
        let mut seen = Vec::new();
        while seen.last().map(String::as_str) != Some("done") {
            seen.push(next(&mut events).await.unwrap());
        }
        assert_eq!(seen, ["init", "there before", "done"]);
        services
            .create(&PostParams::default(), &service("new"))
            .await
            .unwrap();
        assert_eq!(next(&mut events).await.unwrap(), "new []");
        services
            .patch_status("new", &manager("minitunnel"), &addresses(&["10.96.100.7"]))
            .await
            .unwrap();
        assert_eq!(next(&mut events).await.unwrap(), "new [\"10.96.100.7\"]");
        services
            .delete("new", &DeleteParams::default())
            .await
            .unwrap();
        assert_eq!(next(&mut events).await.unwrap(), "gone new");
    }
}

#[tokio::test]
async fn a_watch_ends_with_a_bookmark_when_its_time_is_over() {
    let server = Server::start(Store::default()).await;
    let services: Api<Service> = Api::all(server.client().await);
    let made = services_in_default(&server)
        .await
        .create(&PostParams::default(), &service("web"))
        .await
        .unwrap();
    let version = made.metadata.resource_version.unwrap();
    let params = WatchParams::default().timeout(1);
    let mut events = services.watch(&params, &version).await.unwrap().boxed();
    let Ok(WatchEvent::Bookmark(bookmark)) = next(&mut events).await else {
        panic!("no bookmark");
    };
    assert_eq!(bookmark.metadata.resource_version, version);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_is_told_to_list_again() {
    let server = Server::start(Store::with_history(2)).await;
    for number in 0..4 {
        let object = json!({ "metadata": { "name": format!("n{number}") } });
        server.store.create(Kind::Node, "", object).unwrap();
    }
    let nodes: Api<Node> = Api::all(server.client().await);
    let mut events = nodes
        .watch(&WatchParams::default(), "1")
        .await
        .unwrap()
        .boxed();
    match next(&mut events).await {
        Ok(WatchEvent::Error(status)) => assert_eq!(status.code, 410),
        other => panic!("{other:?}"),
    }
    let mut events = nodes
        .watch(&WatchParams::default(), "2")
        .await
        .unwrap()
        .boxed();
    assert!(
        matches!(next(&mut events).await, Ok(WatchEvent::Added(node)) if node.metadata.name.as_deref() == Some("n2"))
    );
}

async fn services_in_default(server: &Server) -> Api<Service> {
    Api::default_namespaced(server.client().await)
}

#[tokio::test]
async fn an_address_is_applied_once_and_released_by_its_manager_alone() {
    let server = Server::start(Store::default()).await;
    let services = services_in_default(&server).await;
    services
        .create(&PostParams::default(), &service("web"))
        .await
        .unwrap();
    let apply = async |who: &str, patch: &Patch<Value>| {
        services.patch_status("web", &manager(who), patch).await
    };

    let first = apply("minitunnel", &addresses(&["10.96.100.7"]))
        .await
        .unwrap();
    assert_eq!(ingress(&first), ["10.96.100.7"]);
    let fields = first.metadata.managed_fields.clone().unwrap();
    assert_eq!(fields.len(), 1);
    assert_eq!(fields[0].manager.as_deref(), Some("minitunnel"));
    assert_eq!(fields[0].subresource.as_deref(), Some("status"));
    assert_eq!(
        fields[0].fields_v1.as_ref().unwrap().0,
        json!({ "f:status": { "f:loadBalancer": { "f:ingress": {} } } })
    );

    let again = apply("minitunnel", &addresses(&["10.96.100.7"]))
        .await
        .unwrap();
    assert_eq!(
        again.metadata.resource_version,
        first.metadata.resource_version
    );

    assert_eq!(code(apply("other", &addresses(&["10.0.0.1"])).await), 409);
    apply("other", &release()).await.unwrap();
    assert_eq!(
        ingress(&services.get("web").await.unwrap()),
        ["10.96.100.7"]
    );

    let released = apply("minitunnel", &release()).await.unwrap();
    assert!(ingress(&released).is_empty());
    assert_eq!(released.metadata.managed_fields, Some(vec![]));
}

#[tokio::test]
async fn an_address_of_another_controller_is_refused_with_its_name() {
    let server = Server::start(Store::default()).await;
    let services = services_in_default(&server).await;
    services
        .create(&PostParams::default(), &service("web"))
        .await
        .unwrap();
    let foreign = Patch::Merge(
        json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "172.16.0.9" }] } } }),
    );
    services
        .patch_status("web", &manager("metallb"), &foreign)
        .await
        .unwrap();
    let refused = services
        .patch_status("web", &manager("minitunnel"), &addresses(&["10.96.100.7"]))
        .await;
    match refused {
        Err(Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
            assert!(
                status.message.contains("conflict with \"metallb\""),
                "{}",
                status.message
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ingress(&services.get("web").await.unwrap()), ["172.16.0.9"]);
}

#[tokio::test]
async fn an_apply_to_a_service_that_is_gone_or_made_anew_is_refused() {
    let server = Server::start(Store::default()).await;
    let services = services_in_default(&server).await;
    let old = services
        .create(&PostParams::default(), &service("web"))
        .await
        .unwrap();
    services
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    let ours = manager("minitunnel");
    assert_eq!(
        code(
            services
                .patch_status("web", &ours, &addresses(&["10.96.100.7"]))
                .await
        ),
        422
    );
    services
        .create(&PostParams::default(), &service("web"))
        .await
        .unwrap();
    let stale = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "uid": old.metadata.uid }, "status": {},
    }));
    assert_eq!(code(services.patch_status("web", &ours, &stale).await), 422);
}

#[tokio::test]
async fn nodes_and_service_cidrs_are_listed_and_a_name_is_taken_once() {
    let server = Server::start(Store::default()).await;
    let cidr =
        json!({ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": ["10.96.0.0/12"] } });
    server.store.create(Kind::ServiceCidr, "", cidr).unwrap();
    let client = server.client().await;
    let cidrs: Api<ServiceCIDR> = Api::all(client.clone());
    let list = cidrs.list(&ListParams::default()).await.unwrap();
    let spec = list.items[0].spec.clone().unwrap();
    assert_eq!(spec.cidrs, Some(vec!["10.96.0.0/12".to_owned()]));
    let services = services_in_default(&server).await;
    services
        .create(&PostParams::default(), &service("web"))
        .await
        .unwrap();
    assert_eq!(
        code(
            services
                .create(&PostParams::default(), &service("web"))
                .await
        ),
        409
    );
    assert_eq!(
        client.apiserver_version().await.unwrap().git_version,
        minitunnel_sandbox::KUBERNETES_VERSION
    );
}

#[tokio::test]
async fn a_client_without_a_certificate_or_with_a_foreign_one_is_turned_away() {
    let server = Server::start(Store::default()).await;
    let stranger = Authority::new().unwrap().client().unwrap();
    for identity in [None, Some(stranger)] {
        let services: Api<Service> = Api::all(server.client_as(identity).await);
        let refused = services.list(&ListParams::default()).await;
        assert!(
            !matches!(refused, Ok(_) | Err(Error::Api(_))),
            "{refused:?}"
        );
    }
}
