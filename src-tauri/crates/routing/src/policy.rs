//! Which tables the policy rules ask for the traffic of a wanted route, and in which order.

use ipnet::IpNet;
use minitunnel_kernel::{Entry, MAIN_TABLE};
use minitunnel_model::Route;

use crate::{Action, Rule, Selector, Table, span::overlap};

/// The rules, as seen by the traffic that a wanted route is for.
#[derive(Clone, Debug)]
pub(crate) struct Policy<'a> {
    /// Those that matter, in order, up to where they matter.
    steps: Vec<Step<'a>>,
}

#[derive(Clone, Copy, Debug)]
struct Step<'a> {
    rule: &'a Rule,
    matches: Matches,
    /// Ordinary traffic has not been through main yet.
    before_main: bool,
}

/// How a lookup comes to an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached<'a> {
    /// By this rule.
    pub(crate) rule: &'a Rule,
    /// It answers ordinary traffic before our route can.
    pub(crate) before_main: bool,
    /// Only special packets come here.
    pub(crate) special: bool,
}

/// How much of the wanted traffic a rule is for.
///
/// Ordinary traffic is what a program of this machine sends without further ado: unmarked, bound to no device, from the
/// source address that the kernel picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Matches {
    /// Nothing.
    Never,
    /// No ordinary traffic.
    Special,
    /// Some ordinary traffic.
    Partly,
    /// All ordinary traffic.
    Always,
}

impl<'a> Policy<'a> {
    pub(crate) fn of(table: &'a Table, route: &Route) -> Self {
        let ipv6 = matches!(route.destination, IpNet::V6(_));
        // The kernel picks the source by our route, and for TCP looks up again with it (`ip_route_connect`).
        let sources: Vec<IpNet> = table
            .addresses
            .iter()
            .filter(|address| address.net.contains(&route.gateway))
            .map(|address| IpNet::from(address.net.addr()))
            .collect();
        let mut before_main = true;
        let mut steps = Vec::new();
        for rule in table.rules.iter().filter(|rule| rule.ipv6 == ipv6) {
            let matches = matches(rule, &route.destination, &sources);
            if matches == Matches::Never {
                continue;
            }
            steps.push(Step {
                rule,
                matches,
                before_main: before_main && matches >= Matches::Partly,
            });
            // Our route answers here, unless the rule ignores answers as narrow as it.
            if matches == Matches::Always
                && rule.action == Action::Lookup(MAIN_TABLE)
                && !suppresses(rule, &route.destination)
            {
                before_main = false;
            }
        }
        Self { steps }
    }

    /// The way by which a lookup comes to an entry; one that is before main if there is one.
    pub(crate) fn reaches(&self, entry: &Entry) -> Option<Reached<'a>> {
        let mut ways = self
            .steps
            .iter()
            .filter(|step| step.rule.action == Action::Lookup(entry.table))
            .filter(|step| !suppresses(step.rule, &entry.destination))
            .map(|step| Reached {
                rule: step.rule,
                before_main: step.before_main && entry.table != MAIN_TABLE,
                special: step.matches == Matches::Special,
            });
        let first = ways.next()?;
        if first.before_main || !first.special {
            return Some(first);
        }
        Some(ways.find(|way| !way.special).unwrap_or(first))
    }

    /// The rule that drops ordinary traffic before it comes to main.
    pub(crate) fn dropped_by(&self) -> Option<&'a Rule> {
        self.steps
            .iter()
            .find(|step| step.before_main && step.rule.action == Action::Drop)
            .map(|step| step.rule)
    }
}

fn suppresses(rule: &Rule, net: &IpNet) -> bool {
    rule.suppress
        .is_some_and(|length| net.prefix_len() <= length)
}

fn matches(rule: &Rule, wanted: &IpNet, sources: &[IpNet]) -> Matches {
    let all = rule
        .selectors
        .iter()
        .map(|selector| match selector {
            Selector::To(net) if net.contains(wanted) => Matches::Always,
            Selector::To(net) if overlap(net, wanted) => Matches::Partly,
            Selector::To(_) => Matches::Never,
            Selector::From(net) if net.prefix_len() == 0 => Matches::Always,
            Selector::From(net) if sources.iter().any(|source| net.contains(source)) => {
                Matches::Partly
            }
            Selector::From(_) | Selector::Special => Matches::Special,
            // Ordinary traffic has mark 0.
            Selector::Mark { value, mask } if value & mask == 0 => Matches::Always,
            Selector::Mark { .. } => Matches::Special,
            Selector::MadeHere => Matches::Always,
            Selector::Some => Matches::Partly,
        })
        .min()
        .unwrap_or(Matches::Always);
    if !rule.inverted {
        return all;
    }
    match all {
        Matches::Never | Matches::Special => Matches::Always,
        Matches::Partly => Matches::Partly,
        Matches::Always => Matches::Special,
    }
}
