//! What a name and a set of routes must be, written once more and without the product's own reading of it.

use std::net::IpAddr;

use minitunnel_model::Route;

/// Whether that is a name of minikube's alphabet, which can stand in a path and on a line.
pub(crate) fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=63).contains(&bytes.len()) && bytes[0].is_ascii_alphanumeric() && bytes.iter().all(inner)
}

/// Whether that can be shown to a person: no control characters but the ends of lines, and not without end.
pub(crate) fn is_sentence(text: &str) -> bool {
    // A page of text.
    (1..=4_096).contains(&text.len()) && !text.contains(|c: char| c.is_control() && c != '\n')
}

/// Says which rule of the design's a set of routes breaks that the helper would make.
pub(crate) fn broken_rule(routes: &[Route]) -> Option<String> {
    if routes.len() > 1_024 {
        return Some(format!("{} routes", routes.len()));
    }
    let mut ranges = Vec::new();
    for route in routes {
        let (net, length) = (route.destination.addr(), route.destination.prefix_len());
        let width = if net.is_ipv4() { 32 } else { 128 };
        let first = number(net);
        let host = width - u32::from(length);
        let mask = 1_u128.checked_shl(host).unwrap_or_default().wrapping_sub(1);
        let last = first | mask;
        let inside = |from: &str, to: &str| {
            let end = |text: &str| text.parse().ok().map(number);
            end(from) <= Some(first) && Some(last) <= end(to)
        };
        let private = if net.is_ipv4() {
            inside("10.0.0.0", "10.255.255.255")
                || inside("172.16.0.0", "172.31.255.255")
                || inside("192.168.0.0", "192.168.255.255")
        } else {
            inside("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
        };
        let wide = if net.is_ipv4() { 8 } else { 48 };
        if first & mask != 0 || !private || length < wide {
            return Some(format!("the destination of {route}"));
        }
        if net.is_ipv4() != route.gateway.is_ipv4() || !is_machine(route.gateway) {
            return Some(format!("the gateway of {route}"));
        }
        ranges.push((net.is_ipv4(), first, last));
    }
    ranges.sort_unstable();
    let overlap = |pair: &&[(bool, u128, u128)]| pair[0].0 == pair[1].0 && pair[0].2 >= pair[1].1;
    ranges
        .windows(2)
        .find(overlap)
        .map(|pair| format!("an overlap: {pair:?}"))
}

/// Whether a machine on a network can have that address.
fn is_machine(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            a != 0 && a != 127 && a < 224 && (a, b) != (169, 254)
        }
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            // ::, ::1, fe80::/10, ff00::/8, ::ffff:0:0/96.
            ip.to_bits() > 1
                && first & 0xffc0 != 0xfe80
                && first < 0xff00
                && ip.to_bits() >> 32 != 0xffff
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}
