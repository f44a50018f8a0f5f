use std::net::IpAddr;

use ipnet::IpNet;

use crate::Route;

/// The broadest IPv6 destination: a site's whole network (RFC 4193, section 3.1).
const BROADEST_IPV6: u8 = 48;

/// Why a route is none that minitunnel ever makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The destination has bits beyond its prefix.
    #[error("{0} is no network: its first address is {first}", first = .0.trunc())]
    HostBits(IpNet),
    /// The destination is not inside private or unique-local space.
    #[error(
        "{0} is outside the private networks (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7)"
    )]
    NotPrivate(IpNet),
    /// An IPv6 destination that is broader than a site.
    #[error("{0} is too broad: an IPv6 destination is /48 to /128")]
    TooBroad(IpNet),
    /// Destination and gateway are of two families.
    #[error("the gateway {} is of another address family than {}", .0.gateway, .0.destination)]
    Families(Route),
    /// The gateway is no address of another machine on a network.
    #[error("{0} is no gateway: it is not a unicast address of a network")]
    NotUnicast(IpAddr),
}

/// Refuses every route that is none of minitunnel's business, whatever the tables say.
///
/// The destination is a network inside private or unique-local space (so never the default, loopback, link-local,
/// multicast), /8 to /32 or /48 to /128; the gateway is a unicast address of the same family.
///
/// # Errors
///
/// The first rule that it breaks.
pub fn validate(route: &Route) -> Result<(), Invalid> {
    let (net, gateway) = (route.destination, route.gateway);
    let unicast = match gateway {
        // 0.0.0.0/8 and 240.0.0.0/4 are no machine's (RFC 6890).
        IpAddr::V4(ip) => {
            (1..240).contains(&ip.octets()[0])
                && !(ip.is_loopback() || ip.is_link_local() || ip.is_multicast())
        }
        // A link-local gateway says nothing without its device.
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.to_ipv4_mapped().is_some())
        }
    };
    if net != net.trunc() {
        Err(Invalid::HostBits(net))
    } else if !is_private(net.network()) || !is_private(net.broadcast()) {
        Err(Invalid::NotPrivate(net))
    } else if net.addr().is_ipv6() && net.prefix_len() < BROADEST_IPV6 {
        Err(Invalid::TooBroad(net))
    } else if net.addr().is_ipv4() != gateway.is_ipv4() {
        Err(Invalid::Families(*route))
    } else if !unicast {
        Err(Invalid::NotUnicast(gateway))
    } else {
        Ok(())
    }
}

/// Whether it is of a private network (RFC 1918), or of a unique-local one (RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, gateway: &str) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        }
    }

    #[test]
    fn private_and_unique_local_networks_are_accepted() {
        for destination in [
            "10.0.0.0/8",
            "10.96.0.0/12",
            "172.16.0.0/12",
            "172.31.255.255/32",
            "192.168.0.0/16",
        ] {
            assert_eq!(validate(&route(destination, "192.168.49.2")), Ok(()));
        }
        for destination in ["fd00:10:96::/48", "fd00:10:96::/112", "fc00::1/128"] {
            assert_eq!(validate(&route(destination, "fd00:49::2")), Ok(()));
        }
    }

    #[test]
    fn everything_outside_them_is_refused() {
        for destination in [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "8.0.0.0/6",
            "8.8.8.8/32",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.0.0.0/8",
            "172.16.0.0/11",
            "192.168.0.0/15",
            "224.0.0.0/8",
        ] {
            let wanted = route(destination, "192.168.49.2");
            let net = wanted.destination;
            let expected = if net == net.trunc() {
                Invalid::NotPrivate(net)
            } else {
                Invalid::HostBits(net)
            };
            assert_eq!(validate(&wanted), Err(expected), "{destination}");
        }
        for destination in ["::/0", "::1/128", "2001:db8::/48", "fe80::/64", "ff00::/8"] {
            let wanted = route(destination, "fd00:49::2");
            assert_eq!(
                validate(&wanted),
                Err(Invalid::NotPrivate(wanted.destination)),
                "{destination}"
            );
        }
    }

    #[test]
    fn an_ipv6_destination_is_no_broader_than_a_site() {
        let wanted = route("fd00::/47", "fd00:49::2");
        assert_eq!(
            validate(&wanted),
            Err(Invalid::TooBroad(wanted.destination))
        );
    }

    #[test]
    fn host_bits_are_refused() {
        let wanted = route("10.97.0.0/12", "192.168.49.2");
        assert_eq!(
            validate(&wanted),
            Err(Invalid::HostBits(wanted.destination))
        );
        assert_eq!(
            validate(&wanted).unwrap_err().to_string(),
            "10.97.0.0/12 is no network: its first address is 10.96.0.0/12"
        );
    }

    #[test]
    fn a_gateway_of_the_other_family_is_refused() {
        for wanted in [
            route("10.96.0.0/12", "fd00:49::2"),
            route("fd00:10:96::/112", "192.168.49.2"),
        ] {
            assert_eq!(validate(&wanted), Err(Invalid::Families(wanted)));
        }
    }

    #[test]
    fn a_gateway_that_is_no_machine_is_refused() {
        for gateway in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            let wanted = route("10.96.0.0/12", gateway);
            assert_eq!(
                validate(&wanted),
                Err(Invalid::NotUnicast(wanted.gateway)),
                "{gateway}"
            );
        }
        for gateway in ["::", "::1", "fe80::1", "ff02::1", "::ffff:192.168.49.2"] {
            let wanted = route("fd00:10:96::/112", gateway);
            assert_eq!(
                validate(&wanted),
                Err(Invalid::NotUnicast(wanted.gateway)),
                "{gateway}"
            );
        }
    }
}
