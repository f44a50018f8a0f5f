//! Servers in trouble: what the tunnel is told, that it comes back by itself, and how often the server is asked meanwhile.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::support::{ApiServer, Broken, On, Trouble, Watched};
use minitunnel_engine::cluster::{AssignError, ClusterEvent, Service, ServiceChange};
use minitunnel_model::Owner;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

/// How long each trouble lasts: enough for a hot loop to show.
const LASTS: Duration = Duration::from_secs(8);
/// A try asks for the version, three lists, and two watches, and its failure for `/readyz`; each once more where a connection
/// broke.
const REQUESTS_A_TRY: usize = 14;
/// A list has no more pages than these.
const PAGES: usize = 100;

/// So many tries fit, by the pauses that the README promises: 0.2 s at first, doubling up to 5 s.
fn tries(mut within: Duration) -> usize {
    let mut tries = 1;
    let mut pause = Duration::from_millis(200);
    while let Some(left) = within.checked_sub(pause) {
        (within, tries) = (left, tries + 1);
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    tries
}

#[test]
fn the_promised_pauses_allow_so_many_tries() {
    assert_eq!(tries(Duration::from_millis(100)), 1);
    // At 0, 0.2, 0.6, 1.4, 3, and 6.2 s; the next would be at 11.2 s.
    assert_eq!(tries(Duration::from_secs(8)), 6);
    assert_eq!(tries(Duration::from_secs(12)), 7);
}

const UNAVAILABLE: Trouble = Trouble::Answer(
    503,
    None,
    r#"{"kind":"Status","code":503,"message":"apiserver is shutting down"}"#,
);
const FAILING: Trouble = Trouble::Answer(500, None, "etcdserver: leader changed");
const EXPIRED: Trouble = Trouble::Answer(
    410,
    None,
    r#"{"kind":"Status","code":410,"message":"too old resource version"}"#,
);
const CONFLICT: Trouble = Trouble::Answer(
    409,
    None,
    r#"{"kind":"Status","code":409,"message":"the object has been modified"}"#,
);
const UNAUTHORIZED: Trouble = Trouble::Answer(
    401,
    None,
    r#"{"kind":"Status","code":401,"message":"Unauthorized"}"#,
);
/// As the server itself says it, in plain text.
const TOO_MANY: Trouble = Trouble::Answer(
    429,
    Some("3"),
    "Too many requests, please try again later.\n",
);
const A_MINUTE: Trouble = Trouble::Answer(429, Some("60"), "");
const HTML: Trouble = Trouble::Answer(200, None, "<html>Welcome to the hotel's network</html>");
const NO_OBJECTS: Trouble = Trouble::Answer(200, None, r#"{"kind":"Table","rows":[1,2]}"#);
const HALF_A_LINE: Trouble = Trouble::Half(r#"{"type":"ADDED","object":{"kind":"Servi"#);
const EXPIRED_LINE: Trouble = Trouble::Answer(
    200,
    None,
    concat!(
        r#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}"#,
        "\n"
    ),
);
const SLOW: Trouble = Trouble::Slow(Duration::from_millis(20));

/// Troubles in which nothing is known of the cluster, and a word of what is said of each.
const OUTAGES: [(On, Trouble, &str); 29] = [
    (On::All, Trouble::Mute, "does not answer"),
    (
        On::All,
        Trouble::NoTls(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        "don't fit together",
    ),
    (
        On::All,
        Trouble::NoTls(b""),
        "the connection to the API server",
    ),
    (
        On::All,
        Trouble::NoHttp(b"\0\xff\x1b[2J rubbish\r\n\r\n"),
        "the connection to the API server",
    ),
    (On::All, Trouble::Cut, "the connection to the API server"),
    (On::All, Trouble::Hang, "does not answer"),
    (On::All, Trouble::NoBody, "does not answer"),
    (On::All, UNAVAILABLE, "is starting"),
    (On::All, FAILING, "is starting"),
    (On::All, TOO_MANY, "429 Too Many Requests"),
    (On::All, HTML, "is not the API server of p"),
    (On::All, Trouble::Endless, "is not the API server of p"),
    (On::Lists, EXPIRED, "too old resource version"),
    (On::Lists, FAILING, "500 Internal Server Error"),
    (On::Lists, HTML, "is not the API server of p"),
    (On::Lists, NO_OBJECTS, "is not the API server of p"),
    (
        On::Lists,
        Trouble::Half(r#"{"kind":"ServiceList","metad"#),
        "the connection to the API server",
    ),
    (On::Lists, SLOW, "does not answer"),
    (On::Lists, Trouble::Circle, "is not the API server of p"),
    (
        On::Lists,
        Trouble::Forgotten,
        "continue parameter is too old",
    ),
    (
        On::Watches,
        Trouble::Cut,
        "the connection to the API server",
    ),
    (On::Watches, Trouble::Hang, "does not answer"),
    (On::Watches, UNAVAILABLE, "apiserver is shutting down"),
    (On::Watches, TOO_MANY, "429 Too Many Requests"),
    (On::Watches, HTML, "ends each watch at once"),
    (On::Watches, HALF_A_LINE, "ends each watch at once"),
    (
        On::Watches,
        EXPIRED_LINE,
        "ends each watch at once (too old resource version",
    ),
    (
        On::Watches,
        Trouble::Answer(200, None, ""),
        "ends each watch at once",
    ),
    (
        On::Watches,
        Trouble::Endless,
        "ends each watch at once (a line without an end)",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_outage_is_told_in_a_sentence_costs_few_requests_and_ends_by_itself() {
    let mut all = JoinSet::new();
    let begin = |(number, outage)| {
        let task = all.spawn(outage_is_survived(number, outage));
        (task.id(), outage)
    };
    let cases: HashMap<_, _> = OUTAGES.into_iter().enumerate().map(begin).collect();
    let mut failed = Vec::new();
    while let Some(done) = all.join_next().await {
        // It has printed its own words.
        failed.extend(done.err().map(|error| cases[&error.id()]));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

async fn outage_is_survived(number: usize, (on, trouble, word): (On, Trouble, &str)) {
    let case = format!("{on:?} {trouble:?}");
    let (proxy, mut cluster) = through_proxy(&format!("outage-{number}")).await;
    let service = cluster.create("before").await;

    proxy.begin(on, trouble, usize::MAX);
    if on == On::Lists {
        // A watch that is taken up where it was asks for no list.
        let credentials = proxy.credentials(ApiServer::shared());
        cluster = Watched::follow(credentials, cluster.client, &cluster.namespace);
    }
    if trouble == Trouble::NoBody {
        // That is what a watch looks like when nothing happens. A link event has the server asked.
        cluster.handle.wake();
    }
    let until = Instant::now() + LASTS;
    let reason = cluster.down().await;
    assert!(reason.contains(word), "{case}: {reason}");
    assert!(
        reason.contains('p') && !reason.contains(['\x1b', '\n']),
        "{case}: {reason:?}"
    );
    // Whether it is up is settled: no view flickers.
    while let Ok(event) = timeout_at(until, cluster.events.recv()).await {
        let still_down = matches!(event, Some(ClusterEvent::Down { .. }));
        assert!(still_down, "{case}: {event:?}");
    }
    let (connections, requests) = proxy.asked();
    let pages = if trouble == Trouble::Circle {
        2 * PAGES
    } else {
        0
    };
    let most = tries(LASTS) * (REQUESTS_A_TRY + pages);
    assert!(
        connections.max(requests) <= most,
        "{case}: {connections} connections, {requests} requests"
    );
    assert!(connections >= 2, "{case}: it was not asked again");

    proxy.end();
    let services = cluster.up().await;
    let found = services.iter().any(|told| told.uid == service.uid);
    assert!(found, "{case}: {services:?}");
    let after = cluster.create("after").await;
    cluster.handle.assign(&after).await.unwrap();
    cluster.service("after", "our address", is_ours).await;
}

/// Troubles of a change that do not concern the watch, and what is said of each.
const CHANGES: [(Trouble, Verdict); 12] = [
    (CONFLICT, Verdict::Changed),
    (UNAUTHORIZED, Verdict::Unanswered),
    (TOO_MANY, Verdict::Unanswered),
    (FAILING, Verdict::Unanswered),
    (UNAVAILABLE, Verdict::Unanswered),
    (HTML, Verdict::Unanswered),
    (SLOW, Verdict::Unanswered),
    (Trouble::Cut, Verdict::Unanswered),
    (Trouble::Hang, Verdict::Unanswered),
    (Trouble::NoBody, Verdict::Unanswered),
    (Trouble::Half("{\"kind\":\"Serv"), Verdict::Unanswered),
    (Trouble::Endless, Verdict::Unanswered),
];

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The object is another one meanwhile, of which the watch tells.
    Changed,
    /// Worth another try.
    Unanswered,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_in_trouble_has_an_end_leaves_the_cluster_up_and_succeeds_later() {
    let mut all = JoinSet::new();
    for (number, change) in CHANGES.into_iter().enumerate() {
        all.spawn(change_is_survived(number, change));
    }
    all.join_all().await;
}

async fn change_is_survived(number: usize, (trouble, verdict): (Trouble, Verdict)) {
    let (proxy, mut cluster) = through_proxy(&format!("change-{number}")).await;
    let service = cluster.create("web").await;
    proxy.begin(On::Patches, trouble, usize::MAX);
    let began = Instant::now();
    let result = cluster.handle.assign(&service).await;
    let told = match &result {
        Err(AssignError::Gone) => Some(Verdict::Changed),
        Err(AssignError::Unreachable(_) | AssignError::Later { .. }) => Some(Verdict::Unanswered),
        _ => None,
    };
    assert_eq!(told, Some(verdict), "{trouble:?}: {result:?}");
    // The deadline of a call is 5 s; the rest is for a loaded machine.
    assert!(began.elapsed() < Duration::from_secs(8), "{trouble:?}");
    // Two watches that were cut and are begun again, the change and perhaps once more, and a look whether the server lives.
    let (_, requests) = proxy.asked();
    assert!(requests <= 6, "{trouble:?}: {requests}");

    proxy.end();
    if let Err(AssignError::Later { rest, .. }) = result {
        tokio::time::sleep(rest).await;
    }
    cluster.handle.assign(&service).await.unwrap();
    let key = cluster.key("web");
    let seen = |event| match event {
        ClusterEvent::Down { reason } => panic!("{trouble:?}: {reason}"),
        ClusterEvent::Services(ServiceChange::Applied(told)) => {
            (told.key == key && is_ours(&told)).then_some(())
        }
        _ => None,
    };
    cluster.find("our address", seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_to_be_left_alone_is() {
    let (proxy, mut cluster) = through_proxy("alone").await;
    proxy.begin(On::All, TOO_MANY, usize::MAX);
    let until = Instant::now() + LASTS;
    let reason = cluster.down().await;
    assert!(reason.contains("429 Too Many Requests"), "{reason}");
    while timeout_at(until, cluster.events.recv()).await.is_ok() {}
    let (_, requests) = proxy.asked();
    // Two watches and `/readyz` at 0 s; at 3 s and 6 s the version, three lists and `/readyz`. By the promised pauses it would
    // be 25.
    assert!(requests <= 3 + 2 * 5, "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_watched_while_it_is_left_alone_is_down_and_no_link_cuts_its_rest_short()
 {
    let (proxy, mut cluster) = through_proxy("unwatched").await;
    proxy.begin(On::Watches, A_MINUTE, usize::MAX);
    let began = Instant::now();
    let reason = cluster.down().await;
    assert!(reason.contains("429 Too Many Requests"), "{reason}");
    assert!(began.elapsed() < Duration::from_secs(8), "{began:?}");
    let (_, before) = proxy.asked();
    let until = Instant::now() + Duration::from_secs(2);
    cluster.handle.wake();
    let event = timeout_at(until, cluster.events.recv()).await;
    assert!(event.is_err(), "{event:?}");
    assert_eq!(proxy.asked().1, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_change_of_a_server_that_wants_to_be_left_alone_stands_for_all() {
    let (proxy, mut cluster) = through_proxy("all-changes").await;
    let service = cluster.create("web").await;
    proxy.begin(On::Patches, A_MINUTE, usize::MAX);
    let changes = (0..100).map(|_| cluster.handle.assign(&service));
    for result in futures::future::join_all(changes).await {
        let Err(AssignError::Later { message, rest }) = result else {
            panic!("{result:?}");
        };
        assert!(message.contains("429 Too Many Requests"), "{message}");
        assert!(rest > Duration::from_secs(50), "{rest:?}");
    }
    let later = cluster.handle.withdraw(&service).await;
    assert!(matches!(later, Err(AssignError::Later { .. })), "{later:?}");
    let until = Instant::now() + Duration::from_secs(1);
    while timeout_at(until, cluster.events.recv()).await.is_ok() {}
    // Two watches that were cut, and the changes that are on their way at a time; nobody asks whether it lives.
    let (_, requests) = proxy.asked();
    assert!(requests <= 2 + 8, "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_without_an_answer_do_not_hurry_the_tries_of_a_server_that_is_down() {
    let (proxy, mut cluster) = through_proxy("no-hurry").await;
    let service = cluster.create("web").await;
    proxy.begin(On::All, Trouble::Hang, usize::MAX);
    let changes = (0..4).map(|_| cluster.handle.assign(&service));
    for result in futures::future::join_all(changes).await {
        assert!(
            matches!(result, Err(AssignError::Unreachable(_))),
            "{result:?}"
        );
    }
    cluster.down().await;
    // From now on each try has its answer at once.
    proxy.begin(On::All, UNAVAILABLE, usize::MAX);
    let until = Instant::now() + LASTS;
    while timeout_at(until, cluster.events.recv()).await.is_ok() {}
    // The version, three lists, and `/readyz`, of which each may have to be sent twice only once.
    let (_, requests) = proxy.asked();
    assert!(requests <= tries(LASTS) * 5 + 5, "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_which_the_server_forgot_the_rest_is_begun_anew() {
    let server = ApiServer::shared();
    let proxy = Broken::start(server).await;
    let mut direct = Watched::start(server, "forgotten").await;
    let service = direct.create("web").await;
    // The first page, and what is asked for after it.
    proxy.begin(On::Lists, Trouble::Forgotten, 2);
    let mut cluster = Watched::follow(
        proxy.credentials(server),
        direct.client.clone(),
        "forgotten",
    );
    let ClusterEvent::Up { services, .. } = cluster.next().await else {
        panic!("it was no good");
    };
    let found = services.iter().filter(|told| told.uid == service.uid);
    assert_eq!(found.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_comes_byte_by_byte_is_understood() {
    let (proxy, mut cluster) = through_proxy("bytes").await;
    proxy.begin(
        On::Watches,
        Trouble::Slow(Duration::from_micros(100)),
        usize::MAX,
    );
    let service = cluster.create("web").await;
    cluster.handle.assign(&service).await.unwrap();
    cluster.service("web", "our address", is_ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_certificate_that_ends_is_told_once_and_its_renewal_ends_the_trouble() {
    let (proxy, mut cluster) = through_proxy("server-certificate").await;
    proxy.renew(SystemTime::now() - Duration::from_secs(60));
    proxy.begin(On::All, Trouble::Cut, 0);
    let until = Instant::now() + LASTS;
    let reason = cluster.down().await;
    assert!(
        reason.contains("certificate has expired")
            && reason.contains("`minikube start -p p` renews"),
        "{reason}"
    );
    // Tries go on; nothing that is new is told.
    let event = timeout_at(until, cluster.events.recv()).await;
    assert!(event.is_err(), "{event:?}");
    let (connections, _) = proxy.asked();
    assert!(
        (2..=tries(LASTS) * REQUESTS_A_TRY).contains(&connections),
        "{connections}"
    );
    proxy.renew(SystemTime::now() + LASTS * 100);
    cluster.up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_ends_is_told_at_the_next_change_and_a_renewed_one_is_taken() {
    let server = ApiServer::shared();
    let mut direct = Watched::start(server, "client-certificate").await;
    let service = direct.create("web").await;
    // Beside all other tests, it has to be up before.
    let lives = Duration::from_secs(20);
    let ends = Instant::now() + lives;
    let short = server.credentials_until(SystemTime::now() + lives);
    let mut cluster = Watched::follow(short, direct.client.clone(), "client-certificate");
    cluster.up().await;
    // Its seconds are whole, and the last of them counts.
    tokio::time::sleep_until(ends + Duration::from_secs(1)).await;
    let refused = cluster.handle.assign(&service).await;
    assert!(
        matches!(refused, Err(AssignError::Unreachable(_))),
        "{refused:?}"
    );
    let reason = cluster.down().await;
    assert!(
        reason.contains("refuses the profile's certificate")
            && reason.contains("`minikube start -p p` renews"),
        "{reason}"
    );
    let mut renewed = Watched::follow(
        server.credentials(),
        direct.client.clone(),
        "client-certificate",
    );
    renewed.up().await;
    renewed.handle.assign(&service).await.unwrap();
}

fn is_ours(service: &Service) -> bool {
    service.owner == Owner::Us
}

/// A cluster in a namespace of its own, followed through a proxy, with its watch begun.
async fn through_proxy(namespace: &str) -> (Broken, Watched) {
    let server = ApiServer::shared();
    let proxy = Broken::start(server).await;
    let direct = Watched::start(server, namespace).await;
    let mut cluster = Watched::follow(proxy.credentials(server), direct.client, namespace);
    cluster.up().await;
    cluster.create("first").await;
    (proxy, cluster)
}
