//! A cluster that is followed, and what it tells.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service as KubeService;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use minitunnel_engine::cluster::{ClusterEvent, Handle, PodSource, Service, ServiceChange, watch};
use minitunnel_engine::minikube::Credentials;
use minitunnel_model::ServiceKey;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::ApiServer;

/// Only a broken product reaches it.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// A followed cluster, and a namespace of its own in it.
pub(crate) struct Watched {
    pub(crate) handle: Handle,
    pub(crate) events: mpsc::Receiver<ClusterEvent>,
    pub(crate) namespace: String,
    pub(crate) client: Client,
}

impl Watched {
    /// Follows a server from a state where the namespace exists; the events begin with `Up`.
    pub(crate) async fn start(server: &ApiServer, namespace: &str) -> Self {
        let client = server.client().await;
        let object =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
        namespaces
            .patch(
                namespace,
                &PatchParams::apply("test"),
                &Patch::Apply(&object),
            )
            .await
            .unwrap();
        Self::follow(server.credentials(), client, namespace)
    }

    pub(crate) fn follow(credentials: Credentials, client: Client, namespace: &str) -> Self {
        Self::follow_with(PodSource::Nodes, credentials, client, namespace)
    }

    /// Follows a server whose pod network keeps objects of its own.
    pub(crate) fn follow_with(
        pods: PodSource,
        credentials: Credentials,
        client: Client,
        namespace: &str,
    ) -> Self {
        let (sender, events) = mpsc::channel(16);
        let handle = watch("p".parse().unwrap(), &credentials, pods, sender, |event| {
            event
        });
        Self {
            handle,
            events,
            namespace: namespace.to_owned(),
            client,
        }
    }

    pub(crate) async fn next(&mut self) -> ClusterEvent {
        let next = tokio::time::timeout(WAIT, self.events.recv()).await;
        next.expect("no event").expect("the watch has ended")
    }

    /// The first event that the function makes something of.
    pub(crate) async fn find<T>(
        &mut self,
        what: &str,
        mut find: impl FnMut(ClusterEvent) -> Option<T>,
    ) -> T {
        let mut seen = Vec::new();
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the watch has ended");
                seen.push(format!("{event:?}"));
                if let Some(found) = find(event) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(WAIT, search).await;
        found.unwrap_or_else(|_| panic!("{what} was not told, but:\n{}", seen.join("\n")))
    }

    /// Waits until a service is told as the condition says.
    pub(crate) async fn service(
        &mut self,
        name: &str,
        what: &str,
        condition: impl Fn(&Service) -> bool,
    ) -> Service {
        let key = self.key(name);
        self.find(&format!("{key}: {what}"), |event| {
            let told = match event {
                ClusterEvent::Services(ServiceChange::Applied(service)) => vec![service],
                ClusterEvent::Services(ServiceChange::Reset(services))
                | ClusterEvent::Up { services, .. } => services,
                _ => Vec::new(),
            };
            told.into_iter()
                .find(|service| service.key == key && condition(service))
        })
        .await
    }

    /// Waits until a service is told to be gone, or none of ours any more.
    pub(crate) async fn deleted(&mut self, name: &str) {
        let wanted = ClusterEvent::Services(ServiceChange::Deleted(self.key(name)));
        self.find(&format!("the end of {name}"), |event| {
            (event == wanted).then_some(())
        })
        .await;
    }

    /// The next event that concerns the namespace.
    pub(crate) async fn next_of_ours(&mut self) -> ClusterEvent {
        let namespace = self.namespace.clone();
        self.find("an event of ours", |event| match &event {
            ClusterEvent::Services(ServiceChange::Applied(service))
                if service.key.namespace != namespace =>
            {
                None
            }
            ClusterEvent::Services(ServiceChange::Deleted(key)) if key.namespace != namespace => {
                None
            }
            ClusterEvent::Nodes(_) => None,
            _ => Some(event),
        })
        .await
    }

    pub(crate) async fn down(&mut self) -> String {
        self.find("Down", |event| match event {
            ClusterEvent::Down { reason } => Some(reason),
            _ => None,
        })
        .await
    }

    /// Waits until the server is up; its services.
    pub(crate) async fn up(&mut self) -> Vec<Service> {
        self.find("Up", |event| match event {
            ClusterEvent::Up { services, .. } => Some(services),
            _ => None,
        })
        .await
    }

    pub(crate) fn key(&self, name: &str) -> ServiceKey {
        ServiceKey {
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        }
    }

    pub(crate) fn services(&self) -> Api<KubeService> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes a dual-stack service of type LoadBalancer, and waits until it is told.
    pub(crate) async fn create(&mut self, name: &str) -> Service {
        self.create_with(name, json!({})).await
    }

    /// Makes one with further fields in its spec.
    pub(crate) async fn create_with(&mut self, name: &str, more: Value) -> Service {
        let mut spec = json!({
            "type": "LoadBalancer",
            "ports": [{ "port": 80 }],
            "ipFamilyPolicy": "PreferDualStack",
        });
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let service = json!({ "metadata": { "name": name }, "spec": spec });
        let service = serde_json::from_value(service).unwrap();
        let made = self
            .services()
            .create(&PostParams::default(), &service)
            .await
            .unwrap();
        let uid = made.metadata.uid.unwrap();
        self.service(name, "its creation", |service| service.uid == uid)
            .await
    }

    /// What the server has now, as plain JSON.
    pub(crate) async fn get(&self, name: &str) -> Value {
        serde_json::to_value(self.services().get(name).await.unwrap()).unwrap()
    }

    /// The ingress that the server has now.
    pub(crate) async fn ingress(&self, name: &str) -> Value {
        self.get(name).await["status"]["loadBalancer"]["ingress"].clone()
    }

    /// Sets the ingress as another controller would: a plain merge patch of that field manager.
    pub(crate) async fn set_ingress(&self, name: &str, manager: &str, ingress: Value) {
        let params = PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "status": { "loadBalancer": { "ingress": ingress } } }));
        self.services()
            .patch_status(name, &params, &patch)
            .await
            .unwrap();
    }

    /// Changes the spec by a merge patch.
    pub(crate) async fn change(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.services()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
}
