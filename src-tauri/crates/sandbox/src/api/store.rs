//! The objects, their versions and the history that watches read.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::Refusal;

/// How many changes a watch can look back at; older versions are answered with 410.
const HISTORY: usize = 1000;

/// A kind of object that the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `v1/services`, with namespaces.
    Service,
    /// `v1/nodes`.
    Node,
    /// `networking.k8s.io/v1/servicecidrs`.
    ServiceCidr,
}

impl Kind {
    /// `apiVersion` and `kind` of an object.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Service => ("v1", "Service"),
            Self::Node => ("v1", "Node"),
            Self::ServiceCidr => ("networking.k8s.io/v1", "ServiceCIDR"),
        }
    }
}

/// Which object: its kind, its namespace (empty where the kind has none) and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// What happened to an object, in the words of the watch protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Added,
    /// It is another.
    Modified,
    /// It is gone.
    Deleted,
}

/// A change of one object.
#[derive(Clone, Debug)]
pub struct Event {
    /// The version that the change made.
    pub version: u64,
    /// What happened.
    pub action: Action,
    /// To which object.
    pub key: Key,
    /// The object after the change; the last one where it was deleted.
    pub object: Arc<Value>,
}

/// All objects of the cluster.
#[derive(Debug)]
pub struct Store {
    state: Mutex<State>,
    version: watch::Sender<u64>,
    history: usize,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// How many objects were ever created: the next uid.
    created: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    events: VecDeque<Event>,
}

impl Default for Store {
    fn default() -> Self {
        Self::with_history(HISTORY)
    }
}

impl Store {
    /// An empty store whose watches can look back at so many changes.
    pub fn with_history(history: usize) -> Self {
        Self {
            state: Mutex::default(),
            version: watch::Sender::new(0),
            history,
        }
    }

    /// The objects of a kind in a namespace (all of them where it is `None`), and the version that they have together.
    pub fn list(&self, kind: Kind, namespace: Option<&str>) -> (u64, Vec<Arc<Value>>) {
        let state = self.state();
        let objects = state
            .objects
            .iter()
            .filter(|(key, _)| {
                key.kind == kind && namespace.is_none_or(|name| name == key.namespace)
            })
            .map(|(_, object)| object.clone())
            .collect();
        (state.version, objects)
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.state().objects.get(key).cloned()
    }

    /// Creates an object: gives it a uid, a time and a version, and a service a cluster IP.
    pub fn create(
        &self,
        kind: Kind,
        namespace: &str,
        object: Value,
    ) -> Result<Arc<Value>, Refusal> {
        let mut object = object;
        let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else {
            return Err(Refusal::invalid("metadata.name: Required value"));
        };
        let key = Key {
            kind,
            namespace: namespace.to_owned(),
            name,
        };
        let mut state = self.state();
        if state.objects.contains_key(&key) {
            return Err(Refusal::exists(&key.name));
        }
        state.created += 1;
        let (api_version, kind_name) = kind.names();
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind_name);
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", state.created));
        object["metadata"]["creationTimestamp"] = json!(super::now());
        if kind == Kind::Service {
            complete_service(&mut object, &state)?;
        }
        Ok(self.commit(state, Action::Added, key, object))
    }

    /// Replaces an object by what `change` makes of it; `None` leaves it, and its version, as they are.
    pub fn update(
        &self,
        key: &Key,
        change: impl FnOnce(&Value) -> Result<Option<Value>, Refusal>,
    ) -> Result<Arc<Value>, Refusal> {
        let state = self.state();
        let Some(old) = state.objects.get(key).cloned() else {
            return Err(Refusal::not_found(&key.name));
        };
        match change(&old)? {
            Some(new) => Ok(self.commit(state, Action::Modified, key.clone(), new)),
            None => Ok(old),
        }
    }

    /// Deletes an object and gives its last state.
    pub fn delete(&self, key: &Key) -> Result<Arc<Value>, Refusal> {
        let mut state = self.state();
        let Some(old) = state.objects.remove(key) else {
            return Err(Refusal::not_found(&key.name));
        };
        let last = Value::clone(&old);
        Ok(self.commit(state, Action::Deleted, key.clone(), last))
    }

    /// The changes after `version`, oldest first; `None` where the history does not reach back so far.
    pub fn since(&self, version: u64) -> Option<Vec<Event>> {
        let state = self.state();
        // Every version stands for one event, so what is missing is a matter of counting.
        let forgotten = state.version - state.events.len() as u64;
        (version >= forgotten).then(|| {
            let known = usize::try_from(version - forgotten).unwrap_or(usize::MAX);
            state.events.iter().skip(known).cloned().collect()
        })
    }

    /// Tells of every new version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn commit(
        &self,
        mut state: MutexGuard<'_, State>,
        action: Action,
        key: Key,
        mut object: Value,
    ) -> Arc<Value> {
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let object = Arc::new(object);
        if action != Action::Deleted {
            state.objects.insert(key.clone(), object.clone());
        }
        state.events.push_back(Event {
            version,
            action,
            key,
            object: object.clone(),
        });
        if state.events.len() > self.history {
            state.events.pop_front();
        }
        drop(state);
        self.version.send_replace(version);
        object
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing between lock and unlock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the real server defaults in a service: a type, a free cluster IP, protocols, an empty status.
fn complete_service(service: &mut Value, state: &State) -> Result<(), Refusal> {
    let spec = &mut service["spec"];
    if spec["type"].is_null() {
        spec["type"] = json!("ClusterIP");
    }
    if spec["type"] != "ExternalName" {
        let Some(ports) = spec["ports"]
            .as_array_mut()
            .filter(|ports| !ports.is_empty())
        else {
            return Err(Refusal::invalid("spec.ports: Required value"));
        };
        for port in ports {
            if port["protocol"].is_null() {
                port["protocol"] = json!("TCP");
            }
        }
        if spec["clusterIP"].is_null() {
            // 10.96.100.0 and up: clear of the cluster's own 10.96.0.1 and .10. The octet count suffices for a sandbox.
            let number = 100 * 256 + state.created;
            spec["clusterIP"] = json!(format!("10.96.{}.{}", number / 256 % 256, number % 256));
        }
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
    }
    service["status"] = json!({ "loadBalancer": {} });
    Ok(())
}
