use ipnet::IpNet;

/// The first and the last address of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// The families never meet.
    ipv6: bool,
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl Span {
    pub(crate) fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self {
                ipv6: false,
                first: u128::from(u32::from(net.network())),
                last: u128::from(u32::from(net.broadcast())),
            },
            IpNet::V6(net) => Self {
                ipv6: true,
                first: net.network().into(),
                last: net.broadcast().into(),
            },
        }
    }
}

/// Two networks are disjoint, or one is inside the other.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Networks, to be asked often and fast whether one touches any of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans(Vec<Span>);

impl Spans {
    pub(crate) fn touch(&self, span: &Span) -> bool {
        self.blocking(span).is_some()
    }

    /// The first of them that touches it.
    pub(crate) fn blocking(&self, span: &Span) -> Option<&Span> {
        // They are sorted and disjoint, so their last addresses are sorted too.
        let next = self
            .0
            .partition_point(|other| (other.ipv6, other.last) < (span.ipv6, span.first));
        self.0
            .get(next)
            .filter(|other| other.ipv6 == span.ipv6 && other.first <= span.last)
    }
}

impl FromIterator<Span> for Spans {
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut all: Vec<Span> = spans.into_iter().collect();
        all.sort_unstable();
        let mut merged: Vec<Span> = Vec::with_capacity(all.len());
        for span in all {
            match merged.last_mut() {
                Some(last) if last.ipv6 == span.ipv6 && span.first <= last.last => {
                    last.last = last.last.max(span.last);
                }
                _ => merged.push(span),
            }
        }
        Self(merged)
    }
}
