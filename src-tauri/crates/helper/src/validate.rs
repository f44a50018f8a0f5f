//! What the helper refuses before it looks at any table, whatever the caller checked: pure functions.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use ipnet::IpNet;
use minitunnel_base::{InvalidProfileName, ProfileName, Route, validate};
use minitunnel_contract::{OPTION_CONFIRM_WITHIN, ROUTES_PER_LEASE, Refusal, from_wire, shown};

use crate::asked::Number;

/// Leases of one user.
pub(crate) const LEASES_PER_USER: usize = 32;
/// Routes of one user.
pub(crate) const ROUTES_PER_USER: usize = 4_096;
/// The longest time that a set may wait for its confirmation: an hour.
pub(crate) const LONGEST_GUARD: u32 = 3_600;

/// Reads a profile's name.
pub(crate) fn profile(name: &str) -> Result<ProfileName, Refusal> {
    let name: Result<_, InvalidProfileName> = name.parse();
    name.map_err(|invalid| Refusal::InvalidRoute(invalid.to_string()))
}

/// Reads a set of routes: each one that minitunnel may make, and none inside another.
pub(crate) fn routes(wire: &[(&str, &str)]) -> Result<BTreeSet<Route>, Refusal> {
    if wire.len() > ROUTES_PER_LEASE {
        return Err(Refusal::LimitExceeded(format!(
            "{} routes are more than the {ROUTES_PER_LEASE} that one profile may have",
            wire.len()
        )));
    }
    let read = wire.iter().map(|(destination, gateway)| {
        let route = from_wire(destination, gateway)?;
        validate(&route).map_err(|invalid| invalid.to_string())?;
        Ok(route)
    });
    let routes: Result<BTreeSet<Route>, String> = read.collect();
    let routes = routes.map_err(Refusal::InvalidRoute)?;
    // In the order of networks, what lies inside another follows it.
    let nets: Vec<IpNet> = routes.iter().map(|route| route.destination).collect();
    if let Some(pair) = nets.windows(2).find(|pair| pair[0].contains(&pair[1])) {
        let (outer, inner) = (pair[0], pair[1]);
        return Err(Refusal::InvalidRoute(format!(
            "{inner} lies inside {outer}: ask for one of them"
        )));
    }
    Ok(routes)
}

/// Reads the options of `Apply`: how long the set may wait for its confirmation.
pub(crate) fn options(options: &HashMap<&str, Number>) -> Result<Option<Duration>, Refusal> {
    let mut trial = None;
    for (name, Number(value)) in options {
        // An option that is not known may be a condition: what it asks for can't be left out in silence.
        if *name != OPTION_CONFIRM_WITHIN {
            return Err(Refusal::Incompatible(format!(
                "this helper does not know the option \"{}\": install the same version of both",
                shown(name)
            )));
        }
        let seconds = value.filter(|seconds| (1..=LONGEST_GUARD).contains(seconds));
        let Some(seconds) = seconds else {
            return Err(Refusal::InvalidRoute(format!(
                "{OPTION_CONFIRM_WITHIN} must be 1 to {LONGEST_GUARD} seconds"
            )));
        };
        trial = Some(Duration::from_secs(seconds.into()));
    }
    Ok(trial)
}

#[cfg(test)]
mod tests {
    use minitunnel_contract::WireRoute;
    use proptest::prelude::*;
    use zbus::{Message, Variant};

    use super::*;
    use crate::asked::Asked;

    fn wire(routes: &[(&str, &str)]) -> Vec<WireRoute> {
        routes
            .iter()
            .map(|(destination, gateway)| ((*destination).to_owned(), (*gateway).to_owned()))
            .collect()
    }

    /// `count` host routes.
    fn many(count: usize) -> Vec<WireRoute> {
        (0..count)
            .map(|n| {
                (
                    format!("10.{}.{}.{}/32", n / 65_536, n / 256 % 256, n % 256),
                    "192.168.49.2".to_owned(),
                )
            })
            .collect()
    }

    /// Reads what came over the wire.
    fn routes(wire: &[WireRoute]) -> Result<BTreeSet<Route>, Refusal> {
        let wire: Vec<(&str, &str)> = wire.iter().map(|(to, by)| (&**to, &**by)).collect();
        super::routes(&wire)
    }

    #[test]
    fn a_set_is_sorted_and_without_repetition() {
        let set = routes(&wire(&[
            ("10.244.0.0/16", "192.168.49.2"),
            ("10.96.0.0/12", "192.168.49.2"),
            ("10.96.0.0/12", "192.168.49.2"),
        ]))
        .unwrap();
        let list: Vec<String> = set.iter().map(ToString::to_string).collect();
        assert_eq!(
            list,
            [
                "10.96.0.0/12 via 192.168.49.2",
                "10.244.0.0/16 via 192.168.49.2"
            ]
        );
    }

    #[test]
    fn a_route_that_is_never_made_is_refused() {
        for pair in [
            ("0.0.0.0/0", "192.168.49.2"),
            ("10.96.0.1/12", "192.168.49.2"),
            ("8.8.8.0/24", "192.168.49.2"),
            ("10.96.0.0/12", "fd00::2"),
            ("10.96.0.0", "192.168.49.2"),
            ("10.96.0.0/12", ""),
            ("10.96.0.0/12; reboot", "192.168.49.2"),
        ] {
            let answer = routes(&wire(&[pair]));
            assert!(matches!(answer, Err(Refusal::InvalidRoute(_))), "{pair:?}");
        }
    }

    #[test]
    fn a_set_that_overlaps_itself_is_refused() {
        for second in ["10.96.0.0/16", "10.111.255.255/32", "10.96.0.0/12"] {
            let answer = routes(&wire(&[
                ("10.96.0.0/12", "192.168.49.2"),
                (second, "192.168.49.3"),
            ]));
            assert!(matches!(answer, Err(Refusal::InvalidRoute(_))), "{second}");
        }
    }

    #[test]
    fn a_lease_has_at_most_1024_routes() {
        assert_eq!(routes(&many(1_024)).unwrap().len(), 1_024);
        assert!(matches!(
            routes(&many(1_025)),
            Err(Refusal::LimitExceeded(_))
        ));
    }

    /// What arrives of options that were sent.
    fn sent(name: &str, value: Variant<'_>) -> Result<Option<Duration>, Refusal> {
        let call = Message::method_call("/", "Apply");
        let call = call.build(&HashMap::from([(name, value)])).unwrap();
        let body = call.body();
        options(&body.deserialize().unwrap())
    }

    #[test]
    fn a_guard_is_read_and_bounded() {
        let with = |value: Variant<'_>| sent("confirm_within", value);
        assert_eq!(options(&HashMap::new()).unwrap(), None);
        let half_a_minute = Some(Duration::from_secs(30));
        assert_eq!(with(Variant::from(30u32)).unwrap(), half_a_minute);
        for odd in [
            Variant::from(0u32),
            Variant::from(3_601u32),
            Variant::from(-1i32),
            Variant::from("30"),
        ] {
            assert!(matches!(with(odd), Err(Refusal::InvalidRoute(_))));
        }
    }

    #[test]
    fn an_unknown_option_is_refused() {
        let answer = sent("force", Variant::from(true));
        assert!(matches!(answer, Err(Refusal::Incompatible(_))));
    }

    #[test]
    fn what_is_far_above_the_limits_is_not_read_to_its_end() {
        let read = |count| {
            let routes: Vec<(&str, &str)> = vec![("10.96.0.0/12", "192.168.49.2"); count];
            let call = Message::method_call("/", "Apply");
            let call = call.build(&(routes,)).unwrap();
            let body = call.body();
            let asked = body.deserialize::<(Asked<'_>,)>();
            asked.map(|(routes,)| routes.0.len())
        };
        assert_eq!(read(3).unwrap(), 3);
        assert_eq!(read(16_384).unwrap(), 16_384);
        assert!(read(16_385).is_err());
    }

    proptest! {
        #[test]
        fn no_text_gets_through_that_is_not_a_private_network(destination in ".{0,60}", gateway in ".{0,60}") {
            if let Ok(set) = routes(&[(destination, gateway)]) {
                for route in set {
                    prop_assert_eq!(validate(&route), Ok(()));
                }
            }
        }

        #[test]
        fn no_two_routes_of_an_accepted_set_overlap(nets in prop::collection::vec((any::<[u8; 2]>(), 8u8..=32), 1..6)) {
            let list: Vec<WireRoute> = nets
                .iter()
                .map(|([a, b], length)| {
                    let net = format!("10.{}.{}.0/{length}", a % 4, b % 4).parse::<IpNet>().unwrap().trunc();
                    (net.to_string(), "192.168.49.2".to_owned())
                })
                .collect();
            if let Ok(set) = routes(&list) {
                let set: Vec<IpNet> = set.iter().map(|route| route.destination).collect();
                for (i, a) in set.iter().enumerate() {
                    for b in &set[i + 1..] {
                        prop_assert!(!a.contains(b) && !b.contains(a), "{a} {b}");
                    }
                }
            }
        }
    }
}
