use std::collections::BTreeSet;

use minitunnel_contract::{Obstacle, Overlap};
use minitunnel_model::Conflict;
use minitunnel_routing::{Entry, Holder, explain_detour, explain_entry, explain_held};

/// Defines the error and its D-Bus names at one place. Each name is that of a `minitunnel_contract::Refusal`.
macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident,)*) => {
        /// What the helper answers instead of what was asked; each is a sentence for the user.
        #[derive(Clone, Debug, PartialEq, thiserror::Error)]
        pub enum HelperError {
            $($(#[$doc])* #[error("{0}")] $variant(String),)*
            /// Routes that were asked for overlap existing ones; nothing was changed.
            #[error("{message}")]
            Conflict {
                /// The first overlap in one sentence, and how many more there are.
                message: String,
                /// Every overlap.
                conflicts: Vec<Conflict>,
            },
            /// The helper ended or the connection closed while it was asked: what it held is gone or going.
            #[error("minitunnel's helper ended while it was asked")]
            Gone(#[source] zbus::Error),
            /// The helper did not answer within its deadline.
            #[error("minitunnel's helper did not answer within {0} s")]
            NoAnswer(u64),
            /// D-Bus refused.
            #[error("the message bus refused a call to minitunnel's helper: {0}")]
            ZBus(#[source] zbus::Error),
        }

        impl HelperError {
            fn named(name: &str, message: String) -> Option<Self> {
                match name.strip_prefix(PREFIX)? {
                    $(stringify!($variant) => Some(Self::$variant(message)),)*
                    _ => None,
                }
            }
        }
    };
}

const PREFIX: &str = "io.github.minitunnel.Helper1.Error.";

errors! {
    /// The user or the machine's policy did not allow it, or nobody could be asked.
    NotAuthorized,
    /// The user closed the dialog, or the call was withdrawn while it was open.
    Dismissed,
    /// A profile name, route or option that is never accepted.
    InvalidRoute,
    /// A gateway is not on a network of this machine, or is this machine.
    GatewayUnreachable,
    /// Another client holds the profile's lease, or there is none of the caller's.
    LeaseHeld,
    /// More routes, leases or calls than one may have.
    LimitExceeded,
    /// A step failed and everything is as before.
    RolledBack,
    /// A step failed, and so did undoing it: the lease has ended.
    RollbackIncomplete,
    /// The journal can't be written, so nothing was changed.
    JournalFailed,
    /// The kernel refused.
    Kernel,
    /// The caller speaks another version of the interface.
    Incompatible,
}

impl HelperError {
    /// The overlaps that the helper found, in the words of a user.
    fn conflict(message: String, overlaps: Vec<Overlap>) -> Self {
        // Whose device an entry is on, the table tells; where it can't be read, less is said.
        let mut table = minitunnel_routing::table().unwrap_or_default();
        // It may have 100,000 entries, and each overlap is looked for in it.
        let told: BTreeSet<_> = overlaps.iter().map(|one| one.other.destination).collect();
        let is_told = |entry: &Entry| told.contains(&entry.destination);
        table.entries.retain(is_told);
        let explained = overlaps.into_iter().map(|overlap| {
            let Overlap {
                ours,
                other,
                obstacle,
            } = overlap;
            let held = |holder: Holder| explain_held(&table, ours, &other, &holder);
            match obstacle {
                Obstacle::Entry => explain_entry(&table, ours, &other),
                Obstacle::Profile(profile) => held(Holder::Profile(profile)),
                Obstacle::OtherUser => held(Holder::OtherUser),
                Obstacle::Detour => explain_detour(&table, ours, &other),
            }
        });
        let conflicts: Vec<Conflict> = explained.collect();
        let message = match conflicts.as_slice() {
            [] => message,
            [one] => one.effect.clone(),
            [first, more @ ..] => format!("{} ({} more)", first.effect, more.len()),
        };
        Self::Conflict { message, conflicts }
    }
}

impl From<zbus::Error> for HelperError {
    fn from(error: zbus::Error) -> Self {
        match &error {
            zbus::Error::MethodError(name, message, reply) => {
                if name.strip_prefix(PREFIX) == Some("Conflict")
                    && let Ok((message, json)) = reply.body().deserialize::<(String, String)>()
                    && let Ok(overlaps) = serde_json::from_str(&json)
                {
                    return Self::conflict(message, overlaps);
                }
                let message = message.clone().unwrap_or_default();
                Self::named(name.as_str(), message).unwrap_or(Self::ZBus(error))
            }
            zbus::Error::InputOutput(_) => Self::Gone(error),
            zbus::Error::FDO(fdo)
                if matches!(
                    **fdo,
                    zbus::fdo::Error::NoReply(_) | zbus::fdo::Error::Disconnected(_)
                ) =>
            {
                Self::Gone(error)
            }
            _ => Self::ZBus(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use minitunnel_contract::Refusal;
    use minitunnel_model::{ConflictKind, Route};
    use zbus::{DBusError, Message};

    use super::*;

    /// What a client makes of `refusal` after it went over the wire.
    fn received(refusal: &Refusal) -> HelperError {
        let call = Message::method_call(crate::OBJECT_PATH, "Apply")
            .build(&())
            .unwrap();
        let reply = refusal.create_reply(&call.header()).unwrap();
        HelperError::from(zbus::Error::from(reply))
    }

    #[test]
    fn every_refusal_arrives_as_itself() {
        macro_rules! arrive {
            ($($name:ident),*) => {
                $(assert_eq!(
                    received(&Refusal::$name("a sentence".to_owned())),
                    HelperError::$name("a sentence".to_owned())
                );)*
            };
        }
        arrive!(
            NotAuthorized,
            Dismissed,
            InvalidRoute,
            GatewayUnreachable,
            LeaseHeld,
            LimitExceeded,
            RolledBack,
            RollbackIncomplete,
            JournalFailed,
            Kernel,
            Incompatible
        );
    }

    #[test]
    fn a_conflict_arrives_with_every_route_and_is_explained() {
        let ours = Route {
            destination: "10.96.0.0/12".parse().unwrap(),
            gateway: "192.168.49.2".parse().unwrap(),
        };
        let overlap = |destination: &str, obstacle| Overlap {
            ours,
            other: Entry {
                destination: destination.parse().unwrap(),
                gateway: Some("192.168.58.2".parse().unwrap()),
                table: 254,
                protocol: 99,
                ..Entry::default()
            },
            obstacle,
        };
        let overlaps = [
            overlap("10.96.0.0/12", Obstacle::OtherUser),
            overlap("10.97.0.0/16", Obstacle::Profile("other".parse().unwrap())),
            overlap("10.0.0.0/8", Obstacle::Entry),
            overlap("10.96.0.1/32", Obstacle::Detour),
        ];
        let json = serde_json::to_string(&overlaps).unwrap();
        let refusal = Refusal::Conflict("they overlap".to_owned(), json);
        let HelperError::Conflict { message, conflicts } = received(&refusal) else {
            panic!("no conflict");
        };
        let kinds: Vec<ConflictKind> = conflicts.iter().map(|conflict| conflict.kind).collect();
        use ConflictKind::{CoveredBy, OtherProfile, Policy};
        assert_eq!(kinds, [OtherProfile, OtherProfile, CoveredBy, Policy]);
        assert_eq!(conflicts[1].profile, Some("other".parse().unwrap()));
        assert_eq!(
            message,
            "another user's minitunnel already has 10.96.0.0/12 via 192.168.58.2, which overlaps 10.96.0.0/12 via \
             192.168.49.2: an address can lead to one cluster only (3 more)"
        );
    }

    #[test]
    fn an_unknown_error_keeps_its_source() {
        let call = Message::method_call(crate::OBJECT_PATH, "Apply")
            .build(&())
            .unwrap();
        let reply = Message::error(&call.header(), "org.example.Odd")
            .build(&"odd")
            .unwrap();
        let error = HelperError::from(zbus::Error::from(reply));
        assert!(matches!(&error, HelperError::ZBus(_)), "{error:?}");
        assert!(error.source().is_some());
    }

    #[test]
    fn no_reply_means_that_the_helper_is_gone() {
        let error = zbus::Error::from(zbus::fdo::Error::NoReply("died".to_owned()));
        assert!(matches!(HelperError::from(error), HelperError::Gone(_)));
    }
}
