//! What a cluster that stops, hangs, restarts or forgets is seen as, with the real kube-apiserver.

use std::time::{Duration, Instant};

use crate::support::{ApiServer, Authority, Proxy, Watched};
use minitunnel_engine::cluster::{AssignError, ClusterEvent, ServiceChange};
use minitunnel_engine::minikube::Credentials;
use minitunnel_model::Owner;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_and_starts_again_is_down_and_up_again() {
    let mut server = ApiServer::start(&[]);
    let mut cluster = Watched::start(&server, "restart").await;
    let service = cluster.create("web").await;
    cluster.handle.assign(&service).await.unwrap();
    cluster
        .service("web", "our address", |service| service.owner == Owner::Us)
        .await;

    server.kill();
    let killed = Instant::now();
    let reason = cluster.down().await;
    assert!(
        reason.contains("not running") && reason.contains("`minikube start -p p`"),
        "{reason}"
    );
    // It is seen by the connection's end, not by a later question.
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "{:?}",
        killed.elapsed()
    );
    let unasked = cluster.handle.assign(&service).await;
    assert!(
        matches!(unasked, Err(AssignError::Unreachable(_))),
        "{unasked:?}"
    );

    server.start_server();
    cluster.handle.wake();
    let told = cluster.service("web", "what it was before", |_| true).await;
    assert_eq!((told.uid, told.owner), (service.uid, Owner::Us));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_down_when_it_is_asked_and_up_when_it_goes_on() {
    let server = ApiServer::start(&[]);
    let mut cluster = Watched::start(&server, "hang").await;
    let service = cluster.create("web").await;
    server.pause();
    let paused = Instant::now();
    // A change has a deadline, and its failure has the server asked whether it lives.
    let unanswered = cluster.handle.assign(&service).await;
    assert!(
        matches!(unanswered, Err(AssignError::Unreachable(_))),
        "{unanswered:?}"
    );
    let reason = cluster.down().await;
    assert!(
        reason.contains("does not answer") && reason.contains("minikube unpause -p p"),
        "{reason}"
    );
    // One deadline for the change and one for the question.
    assert!(
        paused.elapsed() < Duration::from_secs(15),
        "{:?}",
        paused.elapsed()
    );
    server.resume();
    cluster.handle.wake();
    let services = cluster.up().await;
    assert!(services.iter().any(|told| told.uid == service.uid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_no_outage_and_what_was_missed_is_told() {
    let server = ApiServer::shared();
    let proxy = Proxy::start(server.port()).await;
    let mut direct = Watched::start(server, "broken").await;
    let mut cluster = Watched::follow(
        through(server.credentials(), proxy.port),
        direct.client.clone(),
        "broken",
    );
    cluster.up().await;
    // Told by the watch, which therefore has begun.
    direct.create("first").await;
    cluster.service("first", "it", |_| true).await;
    proxy.hold();
    direct.create("web").await;
    proxy.cut();
    let told = cluster.next_of_ours().await;
    let ClusterEvent::Services(ServiceChange::Applied(service)) = told else {
        panic!("{told:?}")
    };
    assert_eq!(service.key, direct.key("web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_the_server_forgot_is_listed_anew() {
    // Without its watch cache the server asks etcd, which forgets what was compacted: 410 Gone.
    let server = ApiServer::start(&["--watch-cache=false"]);
    let proxy = Proxy::start(server.port()).await;
    let mut direct = Watched::start(&server, "gone").await;
    let mut cluster = Watched::follow(
        through(server.credentials(), proxy.port),
        direct.client.clone(),
        "gone",
    );
    cluster.up().await;
    // Told by the watch, which therefore has begun.
    direct.create("before").await;
    cluster.service("before", "it", |_| true).await;

    proxy.hold();
    direct
        .services()
        .delete("before", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    let latest = direct.create("after").await;
    let version = direct.get("after").await["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    compact(&server.etcd_url(), &version).await;
    proxy.cut();
    let told = cluster.next_of_ours().await;
    let ClusterEvent::Services(ServiceChange::Reset(all)) = told else {
        panic!("{told:?}")
    };
    let ours: Vec<_> = all
        .iter()
        .filter(|service| service.key.namespace == "gone")
        .collect();
    assert_eq!(ours.len(), 1);
    assert_eq!(
        (&ours[0].key, &ours[0].uid),
        (&direct.key("after"), &latest.uid)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_do_not_fit_are_told_in_a_sentence() {
    let server = ApiServer::shared();
    let client = server.client().await;
    let stranger = Authority::new().certificate.into_bytes();
    for (credentials, word) in [
        (
            Credentials {
                ca: stranger,
                ..server.credentials()
            },
            "don't fit together",
        ),
        (
            Credentials {
                server: "https://127.0.0.1:1".to_owned(),
                ..server.credentials()
            },
            "not running",
        ),
        (
            Credentials {
                server: "http://127.0.0.1:1".to_owned(),
                ..server.credentials()
            },
            "no https URL",
        ),
        (
            Credentials {
                server: "\x1b[2J".to_owned(),
                ..server.credentials()
            },
            "no URL",
        ),
        (
            Credentials {
                key: b"rubbish".to_vec(),
                ..server.credentials()
            },
            "client key",
        ),
        (
            Credentials {
                cert: Vec::new(),
                ..server.credentials()
            },
            "client certificate",
        ),
        (
            Credentials {
                ca: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
                ..server.credentials()
            },
            "CA certificate",
        ),
    ] {
        let mut cluster = Watched::follow(credentials, client.clone(), "none");
        let reason = cluster.down().await;
        assert!(
            reason.contains(word) && reason.contains("minikube start -p p"),
            "{word}: {reason}"
        );
        assert!(!reason.contains('\x1b'));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_that_is_dropped_ends_its_watch() {
    let mut cluster = Watched::start(ApiServer::shared(), "dropped").await;
    cluster.up().await;
    drop(cluster.handle);
    let ended = async { while cluster.events.recv().await.is_some() {} };
    tokio::time::timeout(crate::support::WAIT, ended)
        .await
        .unwrap();
}

fn through(credentials: Credentials, port: u16) -> Credentials {
    Credentials {
        server: format!("https://127.0.0.1:{port}"),
        ..credentials
    }
}

/// Has etcd forget what was before a revision, by its JSON gateway.
async fn compact(etcd: &str, revision: &str) {
    let authority = etcd.strip_prefix("http://").unwrap();
    let body = format!(r#"{{"revision":"{revision}"}}"#);
    let mut stream = tokio::net::TcpStream::connect(authority).await.unwrap();
    let request = format!(
        "POST /v3/kv/compaction HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
