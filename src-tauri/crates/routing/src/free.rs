use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use minitunnel_kernel::stands_for_default;

use crate::{
    Table,
    span::{Span, Spans},
};

/// Where free networks are looked for. 192.168.0.0/16 is left to homes and to minikube's own Docker networks.
const SPACE_V4: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
];

const SPACE_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 8);

/// minikube's pods, whatever the profile says (`pkg/minikube/cni`): no services there.
const PODS: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);

/// A private network of the same size as `like`, aligned, that overlaps no route of any table, nor minikube's pods; the
/// first one after `like`, else from the beginning of private space.
pub fn free_cidr(table: &Table, like: IpNet) -> Option<IpNet> {
    let taken: Spans = table
        .entries
        .iter()
        .map(|entry| &entry.destination)
        .filter(|net| !stands_for_default(net))
        .chain([&IpNet::V4(PODS), &like])
        .map(Span::of)
        .collect();
    let spaces: Vec<IpNet> = match like {
        IpNet::V4(_) => SPACE_V4.map(IpNet::V4).to_vec(),
        IpNet::V6(_) => vec![IpNet::V6(SPACE_V6)],
    };
    let start = Span::of(&like).first;
    spaces
        .iter()
        .filter(|space| space.contains(&like))
        .find_map(|space| search(&taken, Span::of(space), like, start))
        .or_else(|| {
            spaces.iter().find_map(|space| {
                let space = Span::of(space);
                search(&taken, space, like, space.first)
            })
        })
}

/// The first free one in `space` from `start` on, by leaping over what is taken.
fn search(taken: &Spans, space: Span, like: IpNet, start: u128) -> Option<IpNet> {
    let size = Span::of(&like).last - Span::of(&like).first;
    let mut candidate = network(start, like)?;
    loop {
        let span = Span::of(&candidate);
        if span.first < space.first || span.last > space.last {
            return None;
        }
        let Some(blocking) = taken.blocking(&span) else {
            return Some(candidate);
        };
        // The next multiple of the size after what is in the way.
        let next = (blocking.last.max(span.last) | size).checked_add(1)?;
        candidate = network(next, like)?;
    }
}

/// The network of that size at an address.
fn network(first: u128, like: IpNet) -> Option<IpNet> {
    let net = match like {
        IpNet::V4(like) => {
            let address = Ipv4Addr::from(u32::try_from(first).ok()?);
            IpNet::V4(Ipv4Net::new(address, like.prefix_len()).ok()?)
        }
        IpNet::V6(like) => IpNet::V6(Ipv6Net::new(first.into(), like.prefix_len()).ok()?),
    };
    Some(net.trunc())
}
