//! Setting and releasing a service's address, by server-side apply on its status.

use std::{net::IpAddr, time::Duration};

use kube::core::Status;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    api::{Api, CallError},
    service::{FIELD_MANAGER, Service, ServiceObject},
};
use minitunnel_model::{Owner, ServiceKey};

/// JSON is YAML, and is what the server takes for an apply.
const APPLY: &str = "application/apply-patch+yaml";
const JSON_PATCH: &str = "application/json-patch+json";

/// Why an address was not set, or not released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// Another field manager owns the ingress, with another value.
    #[error("{manager} has set the service's address")]
    Conflict {
        /// Its name.
        manager: String,
    },
    /// The service is gone, or was made anew under its name; the watch tells.
    #[error("the service is gone")]
    Gone,
    /// The API server refused.
    #[error("the API server refused the address: {message}")]
    Refused {
        /// Its words.
        message: String,
    },
    /// No answer that counts: whether the address was set, the watch tells.
    #[error("the API server did not answer: {0}")]
    Unreachable(String),
    /// The API server wants to be left alone.
    #[error("the API server has too much to do: {message}")]
    Later {
        /// Its words.
        message: String,
        /// For how long.
        rest: Duration,
    },
}

/// A change of a service's status, ready to be sent.
pub(super) struct Change {
    key: ServiceKey,
    uid: String,
    /// What the ingress is to be; none gives up what we set.
    addresses: Vec<IpAddr>,
}

impl Change {
    /// Sets the ingress to the cluster IPs.
    pub(super) fn assign(service: &Service) -> Self {
        Self {
            addresses: service.cluster_ips.clone(),
            ..Self::release(service)
        }
    }

    /// Gives up what we set; it goes, unless somebody else has set the same.
    pub(super) fn release(service: &Service) -> Self {
        Self {
            key: service.key.clone(),
            uid: service.uid.clone(),
            addresses: Vec::new(),
        }
    }

    pub(super) async fn send(self, api: &Api) -> Result<(), CallError> {
        let path = format!("{}?fieldManager={FIELD_MANAGER}", status_path(&self.key));
        let body = self.body(api.knows_ip_mode()).to_string().into_bytes();
        api.patch(&path, APPLY, body).await
    }

    fn body(&self, with_mode: bool) -> Value {
        let ingress = self.addresses.iter().map(|ip| ingress(ip, with_mode));
        let status = match ingress.collect::<Vec<Value>>() {
            none if none.is_empty() => json!({}),
            ingress => json!({ "loadBalancer": { "ingress": ingress } }),
        };
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            // With the uid, a service that was made anew under the name is refused instead of changed.
            "metadata": { "namespace": self.key.namespace, "name": self.key.name, "uid": self.uid },
            "status": status,
        })
    }
}

/// Removes the ingress that an ended `minikube tunnel` left, if it still is what was shown and nothing else.
pub(super) async fn remove_left_by_minikube(
    api: &Api,
    key: &ServiceKey,
    uid: &str,
    shown: &[IpAddr],
) -> Result<(), AssignError> {
    let path = format!("/api/v1/namespaces/{}/services/{}", key.namespace, key.name);
    let now: Value = api.get(&path).await?;
    let object = ServiceObject::deserialize(&now)
        .map_err(|error| AssignError::Unreachable(error.to_string()))?;
    let service = Service::from(object);
    if !service.is_minikubes() {
        return match service.owner {
            Owner::Nobody => Err(AssignError::Gone),
            Owner::Other(manager) => Err(AssignError::Conflict { manager }),
            Owner::Us => Err(AssignError::Conflict {
                manager: FIELD_MANAGER.to_owned(),
            }),
        };
    }
    if service.uid != uid {
        return Err(AssignError::Refused {
            message: "the service was made anew since it was shown".to_owned(),
        });
    }
    let now_there = service.ingress.iter().map(|text| text.parse().ok());
    if !now_there.eq(shown.iter().copied().map(Some)) {
        return Err(AssignError::Refused {
            message: "the service has other addresses than were shown".to_owned(),
        });
    }
    // The tests make it a refusal if anything changed since it was looked at.
    let patch = json!([
        { "op": "test", "path": "/metadata/uid", "value": service.uid },
        { "op": "test", "path": "/status/loadBalancer/ingress", "value": now["status"]["loadBalancer"]["ingress"] },
        { "op": "remove", "path": "/status/loadBalancer/ingress" },
    ]);
    let path = format!("{}?fieldManager={FIELD_MANAGER}", status_path(key));
    let patched = api.patch(&path, JSON_PATCH, patch.to_string().into_bytes());
    match patched.await {
        // It is there still, but for an object that changed under the server's own hands.
        Err(CallError::Status(status)) if status.code == 409 => Err(AssignError::Refused {
            message: "the service changed at this moment: try again".to_owned(),
        }),
        patched => Ok(patched?),
    }
}

fn status_path(key: &ServiceKey) -> String {
    format!(
        "/api/v1/namespaces/{}/services/{}/status",
        key.namespace, key.name
    )
}

fn ingress(ip: &IpAddr, with_mode: bool) -> Value {
    if !with_mode {
        return json!({ "ip": ip });
    }
    // A node does not serve a loopback address: `Proxy` tells kube-proxy to let it be. The mode is always said where it is
    // known, as the server takes an apply without it for another value than its own default (seen with 1.37).
    json!({ "ip": ip, "ipMode": if ip.is_loopback() { "Proxy" } else { "VIP" } })
}

impl From<CallError> for AssignError {
    fn from(error: CallError) -> Self {
        let rest = error.rest();
        match error {
            CallError::Status(status) if !rest.is_zero() => Self::Later {
                message: status.message,
                rest,
            },
            CallError::Status(status) => refusal(&status),
            error => Self::Unreachable(error.to_string()),
        }
    }
}

fn refusal(status: &Status) -> AssignError {
    let causes = status
        .details
        .as_ref()
        .map(|details| details.causes.as_slice())
        .unwrap_or_default();
    match status.code {
        404 => AssignError::Gone,
        409 => match causes
            .iter()
            .find(|cause| cause.reason == "FieldManagerConflict")
        {
            Some(conflict) => AssignError::Conflict {
                manager: manager(&conflict.message),
            },
            // The uid of a service that is no more, or an object that changed under the server's own hands.
            None => AssignError::Gone,
        },
        // The server takes an apply for a creation where there is no such service, and the new one's uid for a change.
        422 if causes
            .iter()
            .any(|cause| matches!(cause.field.as_str(), "metadata.uid" | "spec.ports")) =>
        {
            AssignError::Gone
        }
        // Our certificate may have ended since the watch began, and be renewed.
        401 | 429 | 500.. => AssignError::Unreachable(status.message.clone()),
        _ => AssignError::Refused {
            message: status.message.clone(),
        },
    }
}

/// The manager's name in `conflict with "other" with subresource "status" using v1`.
fn manager(message: &str) -> String {
    message
        .split('"')
        .nth(1)
        .unwrap_or("another controller")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_says_whether_the_node_serves_the_address() {
        let of = |ip: &str| ingress(&ip.parse().unwrap(), true);
        assert_eq!(
            of("10.96.0.7"),
            json!({ "ip": "10.96.0.7", "ipMode": "VIP" })
        );
        assert_eq!(of("fd00::7"), json!({ "ip": "fd00::7", "ipMode": "VIP" }));
        assert_eq!(
            of("127.0.0.1"),
            json!({ "ip": "127.0.0.1", "ipMode": "Proxy" })
        );
    }

    #[test]
    fn an_old_server_is_told_no_mode() {
        let address = ingress(&"10.96.0.7".parse().unwrap(), false);
        assert_eq!(address, json!({ "ip": "10.96.0.7" }));
    }

    #[test]
    fn an_overloaded_server_is_asked_again_and_a_refusal_is_final() {
        let refused = |code| {
            refusal(&Status {
                code,
                message: "m".to_owned(),
                ..Status::default()
            })
        };
        for code in [401, 429, 500, 503, 504] {
            assert_eq!(refused(code), AssignError::Unreachable("m".to_owned()));
        }
        for code in [400, 403, 422] {
            assert_eq!(
                refused(code),
                AssignError::Refused {
                    message: "m".to_owned()
                }
            );
        }
    }
}
