//! A stand-in for the tunnel's programs: it sets one route and the addresses, and can be told to leave something.

use std::{
    env, fs,
    process::{Command, ExitCode},
};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::watcher::{self, Event, watcher},
};
use serde_json::json;
use tokio::{
    runtime::{Builder, Runtime},
    signal::ctrl_c,
};

/// `minitunnel-keep -- COMMAND…`.
pub(crate) fn keep() -> ExitCode {
    let fault = env::current_exe().unwrap().with_file_name("fault");
    let fault = fs::read_to_string(fault).unwrap();
    let arguments: Vec<String> = env::args().skip(1).collect();
    assert_eq!(arguments[0], "--");
    route("add");
    let status = runtime().block_on(async {
        let mut child = tokio::process::Command::new(&arguments[1])
            .args(&arguments[2..])
            .spawn()
            .unwrap();
        loop {
            tokio::select! {
                // The command hears it too, and ends.
                _ = ctrl_c() => {}
                status = child.wait() => break status.unwrap(),
            }
        }
    });
    match fault.as_str() {
        "route" => return ExitCode::FAILURE,
        "file" => fs::write("/run/user/0/left", "something").unwrap(),
        _ => {}
    }
    route("del");
    if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn route(action: &str) {
    let arguments = [
        "route",
        action,
        "10.96.0.0/12",
        "via",
        "192.168.49.2",
        "proto",
        "109",
    ];
    assert!(
        Command::new("ip")
            .args(arguments)
            .status()
            .unwrap()
            .success()
    );
}

/// `minitunnel up`: each LoadBalancer service gets its cluster IP.
pub(crate) fn up() -> ExitCode {
    runtime().block_on(async {
        let client = Client::try_default().await.unwrap();
        let everywhere: Api<Service> = Api::all(client.clone());
        let mut events = Box::pin(watcher(everywhere, watcher::Config::default()));
        let mut assigned = Vec::new();
        loop {
            let event = tokio::select! {
                event = events.try_next() => event.unwrap().unwrap(),
                _ = ctrl_c() => break,
            };
            match event {
                Event::InitDone => println!("demo: connected"),
                Event::Apply(service) => {
                    let spec = service.spec.unwrap();
                    let name = service.metadata.name.unwrap();
                    if spec.type_.as_deref() == Some("LoadBalancer") && !assigned.contains(&name) {
                        let address = json!([{ "ip": spec.cluster_ip, "ipMode": "VIP" }]);
                        apply(
                            &client,
                            &name,
                            json!({ "loadBalancer": { "ingress": address } }),
                        )
                        .await;
                        println!("demo: service default/{name}");
                        assigned.push(name);
                    }
                }
                _ => {}
            }
        }
        for name in assigned {
            apply(&client, &name, json!({})).await;
        }
    });
    ExitCode::SUCCESS
}

async fn apply(client: &Client, name: &str, status: serde_json::Value) {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let patch = Patch::Apply(json!({ "apiVersion": "v1", "kind": "Service", "status": status }));
    services
        .patch_status(name, &PatchParams::apply("minitunnel"), &patch)
        .await
        .unwrap();
}
