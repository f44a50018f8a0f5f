//! The conflict check on a machine with 100,000 routes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use minitunnel_e2e::{Lab, Process, Result, WAIT};
use minitunnel_model::{ProfileName, Route};
use minitunnel_routing::{Router, Wanted, conflicts};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::report::{Figure, Limit, Reading};
use crate::stats::percentile;

const ROUTES: usize = 100_000;
/// Checks in a run, each beside a dump.
const CHECKS: usize = 20;

pub(super) async fn measure(runs: usize) -> Result<Vec<Figure>> {
    let figure = |name, limit| Figure::new(name, "ms", limit);
    let mut check = figure(
        "conflict check against 100,000 routes, to the dump, p50",
        Limit::Times(1.3),
    );
    let mut raw = figure("  to the kernel's dump, not even parsed", Limit::None);
    let _lab = crowded().await?;
    let router = Router::open()?;
    let profile: ProfileName = "minikube".parse()?;
    let wanted = ["10.96.0.0/12", "10.244.0.0/16"].map(|destination| -> Result<Route> {
        Ok(Route {
            destination: destination.parse()?,
            gateway: "192.168.49.2".parse()?,
        })
    });
    let wanted = wanted.into_iter().collect::<Result<Vec<_>>>()?;
    for _ in 0..runs {
        let (mut ours, mut dump, mut unparsed) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..CHECKS {
            let begun = Instant::now();
            let table = router.dump().await?;
            let wanted = Wanted {
                profile: &profile,
                group: None,
                routes: &wanted,
            };
            let found = conflicts(&table, wanted, &[]);
            ours.push(begun.elapsed());
            ensure!(
                found.is_empty(),
                "a conflict where there is none: {found:?}"
            );
            drop(table);

            let begun = Instant::now();
            let table = router.dump().await?;
            dump.push(begun.elapsed());
            ensure!(
                table.entries.len() > ROUTES,
                "the table is not the machine's"
            );
            drop(table);

            unparsed.push(kernel_dump()?);
        }
        let ours = percentile(&ours, 0.5);
        for (figure, bare) in [(&mut check, dump), (&mut raw, unparsed)] {
            figure.add(Reading {
                ours,
                bare: percentile(&bare, 0.5),
                samples: bare.len(),
            });
        }
    }
    Ok(vec![check, raw])
}

/// A lab with a machine of very many routes, none of which is in the way.
async fn crowded() -> Result<Lab> {
    let lab = Lab::new()?;
    lab.sh("ip link add br-49 type bridge
         ip address add 192.168.49.1/24 dev br-49
         ip link set br-49 up")
        .await?;
    // /30s from 11.0.0.0 on.
    let routes = (0..ROUTES as u32).map(|index| {
        let network = std::net::Ipv4Addr::from((11 << 24) + index * 4);
        format!("route add {network}/30 via 192.168.49.2 dev br-49 onlink\n")
    });
    let file = lab.dir().join("routes");
    std::fs::write(&file, routes.collect::<String>())?;
    let mut ip = lab.command("ip");
    Process::spawn(ip.arg("-batch").arg(&file))
        .await?
        .success(3 * WAIT)
        .await?;
    Ok(lab)
}

/// Reads the kernel's dump of both families and looks at nothing but where messages end, and gives the time it took.
fn kernel_dump() -> Result<Duration> {
    let begun = Instant::now();
    let mut routes = 0;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut route = RouteMessage::default();
        route.header.address_family = family;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(route));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        routes += count(&socket)?;
    }
    ensure!(routes > ROUTES, "only {routes} routes");
    Ok(begun.elapsed())
}

/// Counts the messages of a dump to its end.
fn count(socket: &Socket) -> Result<usize> {
    /// `NLMSG_DONE` and the length of a header (netlink(7)).
    const DONE: u16 = 3;
    const HEADER: usize = 16;
    // The kernel fills at most 32 KiB at a time.
    let mut buffer = Vec::with_capacity(1 << 15);
    let mut messages = 0;
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = buffer.as_slice();
        while let Some((header, _)) = rest.split_at_checked(HEADER) {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            if u16::from_ne_bytes([header[4], header[5]]) == DONE {
                return Ok(messages);
            }
            messages += 1;
            // Each begins at a multiple of four.
            let next = (length as usize).max(HEADER).next_multiple_of(4);
            rest = &rest[next.min(rest.len())..];
        }
    }
}
