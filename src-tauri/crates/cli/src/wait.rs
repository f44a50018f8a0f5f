//! `up --wait`: until services answer through the tunnel.

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::Duration,
};

use minitunnel_engine::engine::Ended;
use minitunnel_model::{
    LoadBalancer, Owner, ProfileName, Reach, ServiceKey, Snapshot, TunnelState,
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    exit::{Exit, Failure, hopeless},
    out::{complain, say},
    printer::Printer,
};

/// How long one try to connect takes at most: a SYN that is lost is sent again after 1 s.
const TRY: Duration = Duration::from_secs(2);
/// Between two tries: nothing announces that a server has begun to answer.
const PAUSE: Duration = Duration::from_millis(100);

/// The services that a command waits for.
#[derive(Debug)]
pub(crate) struct Wait {
    profile: ProfileName,
    /// In the order in which they are waited for.
    services: Vec<ServiceKey>,
    limit: Duration,
    pub(crate) deadline: Instant,
    /// How the latest try to connect failed.
    refused: Option<String>,
}

/// How far a service is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// It can't answer yet, and why.
    Pending(String),
    /// It answers there, if it answers.
    At(SocketAddr),
    /// It has an address, and no port that tells whether it answers.
    Unconnected(IpAddr),
    /// Somebody has brought its tunnel down.
    Down,
    /// Its tunnel does not come back by itself: how that ends a command, and why.
    Lost(Exit, String),
}

/// How waiting for services ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Each of them answers.
    Answered,
    /// Somebody has brought their tunnel down.
    Down,
    /// Their tunnel does not come back by itself.
    Lost(Exit),
}

impl Wait {
    /// `None` if there is nothing to wait for.
    pub(crate) fn new(
        profiles: &[ProfileName],
        services: Vec<ServiceKey>,
        limit: Duration,
    ) -> Result<Option<Self>, Failure> {
        if services.is_empty() {
            return Ok(None);
        }
        let [profile] = profiles else {
            return Err(Failure {
                exit: Exit::Usage,
                message: "--wait is for services of one profile: run one `minitunnel up` for each"
                    .into(),
            });
        };
        Ok(Some(Self {
            profile: profile.clone(),
            services,
            limit,
            deadline: Instant::now() + limit,
            refused: None,
        }))
    }

    /// Waits until each service answers, or can't any more.
    pub(crate) async fn until_answered(&mut self, printer: &mut Printer) -> Result<Waited, Ended> {
        while let Some(service) = self.services.first().cloned() {
            let profile = &self.profile;
            match progress(&printer.seen, profile, &service) {
                Progress::Pending(_) => printer.next().await?,
                Progress::Down => {
                    complain!(
                        "{profile}: its tunnel was brought down before service {service} answered"
                    );
                    return Ok(Waited::Down);
                }
                Progress::Lost(exit, _) => {
                    complain!(
                        "{}",
                        self.in_vain(&printer.seen, "before its tunnel failed")
                    );
                    return Ok(Waited::Lost(exit));
                }
                Progress::Unconnected(address) => {
                    say!(
                        "{profile}: service {service} has the address {address}; it has no TCP port, so whether it \
                         answers was not tried"
                    );
                    self.services.remove(0);
                }
                Progress::At(address) => {
                    if connects(printer, profile, &service, address, &mut self.refused).await? {
                        say!("{profile}: service {service} answers at {address}");
                        self.services.remove(0);
                    }
                    self.refused = None;
                }
            }
        }
        Ok(Waited::Answered)
    }

    /// Why it has waited in vain, in one sentence.
    pub(crate) fn in_vain(&self, snapshot: &Snapshot, end: &str) -> String {
        let profile = &self.profile;
        let Some(service) = self.services.first() else {
            return format!("{profile}: {end}");
        };
        let why = match progress(snapshot, profile, service) {
            Progress::Pending(why) | Progress::Lost(_, why) => why,
            Progress::Down => "its tunnel is down".into(),
            Progress::Unconnected(address) => format!("its address is {address}"),
            Progress::At(address) => match &self.refused {
                Some(error) => format!("nothing answers at {address} ({error}): do its pods run?"),
                None => format!("nothing answers at {address} so far"),
            },
        };
        format!("{profile}: service {service} did not answer {end}: {why}")
    }

    /// The end that in-vain sentences name for a deadline that has passed.
    pub(crate) fn too_late(&self) -> String {
        format!("within {} s", self.limit.as_secs())
    }
}

/// Tries to connect until it works, or until something else is to be done; whether it worked.
async fn connects(
    printer: &mut Printer,
    profile: &ProfileName,
    service: &ServiceKey,
    address: SocketAddr,
    refused: &mut Option<String>,
) -> Result<bool, Ended> {
    let mut connected = pin!(connect(address, refused));
    loop {
        tokio::select! {
            () = &mut connected => return Ok(true),
            changed = printer.next() => {
                changed?;
                if progress(&printer.seen, profile, service) != Progress::At(address) {
                    return Ok(false);
                }
            }
        }
    }
}

/// Returns when somebody accepts a connection.
async fn connect(address: SocketAddr, refused: &mut Option<String>) {
    loop {
        *refused = Some(match timeout(TRY, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", TRY.as_secs()),
        });
        sleep(PAUSE).await;
    }
}

fn progress(snapshot: &Snapshot, profile: &ProfileName, service: &ServiceKey) -> Progress {
    if !snapshot.wants(profile) {
        return Progress::Down;
    }
    let Some(status) = snapshot.profile(profile) else {
        return Progress::Pending("its profile is gone".into());
    };
    if let Some(exit) = hopeless(status) {
        return Progress::Lost(exit, status.tunnel.to_string());
    }
    if !matches!(status.tunnel, TunnelState::Connected { .. }) {
        return Progress::Pending(status.tunnel.to_string());
    }
    let found = status.load_balancers.iter().find(|lb| lb.key == *service);
    let Some(found) = found else {
        return Progress::Pending("there is no LoadBalancer service of that name".into());
    };
    let Some(address) = found.ingress.iter().find_map(|text| text.parse().ok()) else {
        let why = found.pending.as_ref();
        return Progress::Pending(why.map_or("it has no address".into(), ToString::to_string));
    };
    let routed = status.groups.iter().filter(|group| group.is_held());
    let mut routed = routed.flat_map(|group| &group.routes);
    // An address by somebody else is reached in that one's way.
    let ours = found.owner == Owner::Us && status.profile.reach != Reach::Local;
    if ours && !routed.any(|route| route.destination.contains(&address)) {
        return Progress::Pending(format!(
            "no route of the tunnel leads to its address {address}"
        ));
    }
    match first_tcp_port(found) {
        Some(port) => Progress::At(SocketAddr::new(address, port)),
        None => Progress::Unconnected(address),
    }
}

fn first_tcp_port(service: &LoadBalancer) -> Option<u16> {
    let first = service.ports.iter().find(|port| port.protocol == "TCP")?;
    Some(first.port)
}

/// Reads `NAMESPACE/SERVICE`.
pub(crate) fn parse_service(text: &str) -> Result<ServiceKey, String> {
    match text.split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_label(name) => Ok(ServiceKey {
            namespace: namespace.into(),
            name: name.into(),
        }),
        _ => Err("write it as NAMESPACE/SERVICE, such as default/web".into()),
    }
}

/// A name as Kubernetes has it for both: RFC 1123 labels, of 63 characters at most.
fn is_label(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_outer = |c: Option<char>| c.is_some_and(|c| c != '-');
    text.len() <= 63
        && text.chars().all(is_inner)
        && is_outer(text.chars().next())
        && is_outer(text.chars().next_back())
}

#[cfg(test)]
mod tests;
