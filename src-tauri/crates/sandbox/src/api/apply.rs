//! Field ownership of `status.loadBalancer.ingress`: server-side apply as Kubernetes 1.37 answers it, for this one field.
//!
//! The list is atomic: a manager owns the whole of it or nothing. See "Server-Side Apply" in the Kubernetes reference.

use serde_json::{Value, json};

use super::Refusal;

/// Where a managedFields entry says that it owns the list.
const OWNS_INGRESS: &str = "/fieldsV1/f:status/f:loadBalancer/f:ingress";
const INGRESS: &str = "/status/loadBalancer/ingress";

/// Applies `patch` to the status as `manager`; `None` where it changes nothing.
pub(super) fn apply(
    service: &Value,
    manager: &str,
    force: bool,
    patch: &Value,
) -> Result<Option<Value>, Refusal> {
    check_identity(service, patch)?;
    let wanted = ingress(patch);
    let present = ingress(service);
    let owners = owners(service);
    let (ours, others): (Vec<&Value>, Vec<&Value>) = owners
        .iter()
        .copied()
        .partition(|entry| entry["manager"] == manager && entry["operation"] == "Apply");
    let mut new = service.clone();
    match wanted {
        // Compared as it was sent, before defaults: an address without `ipMode` differs from one with it.
        Some(wanted) if present != Some(wanted) => {
            let merged = with_ip_mode(wanted);
            // The applier itself may send again what it sent without the default.
            if present == Some(&merged) && others.is_empty() && !ours.is_empty() {
                return Ok(None);
            }
            if !force && let Some(other) = others.first() {
                let owner = other["manager"].as_str().unwrap_or("unknown");
                return Err(Refusal::conflict(format!(
                    "Apply failed with 1 conflict: conflict with \"{owner}\" with subresource \"status\": .status.loadBalancer.ingress"
                )));
            }
            new["status"]["loadBalancer"]["ingress"] = merged;
            disown(&mut new, |_| true);
            own(&mut new, manager, "Apply");
        }
        Some(_) if ours.is_empty() => own(&mut new, manager, "Apply"),
        Some(_) => return Ok(None),
        None if ours.is_empty() => return Ok(None),
        None => {
            if others.is_empty() {
                new["status"]["loadBalancer"] = json!({});
            }
            disown(&mut new, |entry| {
                entry["manager"] == manager && entry["operation"] == "Apply"
            });
        }
    }
    Ok(Some(new))
}

/// Merges a plain patch of the status: it takes the list from whoever owned it; `None` where it changes nothing.
pub(super) fn merge(
    service: &Value,
    manager: &str,
    patch: &Value,
) -> Result<Option<Value>, Refusal> {
    check_identity(service, patch)?;
    let mentioned = patch.pointer("/status/loadBalancer").is_some();
    let wanted = ingress(patch).map(with_ip_mode);
    if !mentioned || wanted.as_ref() == ingress(service) {
        return Ok(None);
    }
    let mut new = service.clone();
    disown(&mut new, |_| true);
    match wanted {
        Some(list) => {
            new["status"]["loadBalancer"]["ingress"] = list;
            own(&mut new, manager, "Update");
        }
        None => new["status"]["loadBalancer"] = json!({}),
    }
    Ok(Some(new))
}

/// Refuses a patch that names another object's uid, or a version that is not the present one.
fn check_identity(service: &Value, patch: &Value) -> Result<(), Refusal> {
    let differs = |field: &str| {
        patch["metadata"][field]
            .as_str()
            .is_some_and(|value| service["metadata"][field] != value)
    };
    if differs("uid") {
        return Err(Refusal::invalid(
            "metadata.uid: Invalid value: field is immutable",
        ));
    }
    if differs("resourceVersion") {
        return Err(Refusal::conflict(
            "the object has been modified; please apply your changes to the latest version and try again",
        ));
    }
    Ok(())
}

/// The ingress list; an empty one is none.
fn ingress(object: &Value) -> Option<&Value> {
    object
        .pointer(INGRESS)
        .filter(|list| list.as_array().is_some_and(|list| !list.is_empty()))
}

fn owners(service: &Value) -> Vec<&Value> {
    service["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry.pointer(OWNS_INGRESS).is_some())
        .collect()
}

fn disown(service: &mut Value, whose: impl Fn(&Value) -> bool) {
    if let Some(entries) = service["metadata"]["managedFields"].as_array_mut() {
        entries.retain(|entry| entry.pointer(OWNS_INGRESS).is_none() || !whose(entry));
    }
}

fn own(service: &mut Value, manager: &str, operation: &str) {
    let entry = json!({
        "manager": manager, "operation": operation, "apiVersion": "v1", "subresource": "status",
        "time": super::now(), "fieldsType": "FieldsV1",
        "fieldsV1": { "f:status": { "f:loadBalancer": { "f:ingress": {} } } },
    });
    match service["metadata"]["managedFields"].as_array_mut() {
        Some(entries) => entries.push(entry),
        None => service["metadata"]["managedFields"] = json!([entry]),
    }
}

/// The server's default: an address without a mode is a virtual one.
fn with_ip_mode(list: &Value) -> Value {
    let mut list = list.clone();
    for entry in list.as_array_mut().into_iter().flatten() {
        if entry.get("ip").is_some() && entry.get("ipMode").is_none() {
            entry["ipMode"] = json!("VIP");
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({ "metadata": { "name": "web", "uid": "u1", "resourceVersion": "7" }, "status": { "loadBalancer": {} } })
    }

    fn address(entry: Value) -> Value {
        json!({ "status": { "loadBalancer": { "ingress": [entry] } } })
    }

    #[test]
    fn an_address_left_by_a_plain_patch_is_shared_with_the_mode_and_refused_without() {
        let left = merge(
            &service(),
            "minikube",
            &address(json!({ "ip": "10.96.0.9" })),
        )
        .unwrap()
        .unwrap();
        assert_eq!(
            left["status"]["loadBalancer"]["ingress"],
            json!([{ "ip": "10.96.0.9", "ipMode": "VIP" }])
        );
        let without = apply(
            &left,
            "minitunnel",
            false,
            &address(json!({ "ip": "10.96.0.9" })),
        );
        assert_eq!(without.unwrap_err().code, 409);
        let with = address(json!({ "ip": "10.96.0.9", "ipMode": "VIP" }));
        let shared = apply(&left, "minitunnel", false, &with).unwrap().unwrap();
        assert_eq!(owners(&shared).len(), 2);
        let released = apply(&shared, "minitunnel", false, &json!({ "status": {} }))
            .unwrap()
            .unwrap();
        assert_eq!(released["status"], left["status"]);
        assert_eq!(owners(&released).len(), 1);
    }

    #[test]
    fn a_plain_patch_takes_the_list_from_its_owner() {
        let ours = apply(
            &service(),
            "minitunnel",
            false,
            &address(json!({ "ip": "10.96.0.9" })),
        )
        .unwrap()
        .unwrap();
        let taken = merge(&ours, "other", &address(json!({ "hostname": "example" })))
            .unwrap()
            .unwrap();
        assert_eq!(owners(&taken)[0]["manager"], "other");
        assert_eq!(owners(&taken).len(), 1);
        assert_eq!(
            apply(&taken, "minitunnel", false, &json!({ "status": {} })).unwrap(),
            None
        );
    }

    #[test]
    fn a_patch_for_the_service_that_had_this_name_before_is_refused() {
        let patch = json!({ "metadata": { "uid": "u0" }, "status": {} });
        assert_eq!(
            apply(&service(), "minitunnel", true, &patch)
                .unwrap_err()
                .code,
            422
        );
        let patch = json!({ "metadata": { "resourceVersion": "6" }, "status": {} });
        assert_eq!(
            apply(&service(), "minitunnel", true, &patch)
                .unwrap_err()
                .code,
            409
        );
    }
}
