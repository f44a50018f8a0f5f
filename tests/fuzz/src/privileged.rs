//! What the privileged helper reads, and what is read from it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Display,
};

use minitunnel_helper_api::{Lease, WireLease, from_wire, to_wire};
use minitunnel_model::Route;
use zbus::wire::{
    BE, LE,
    serialized::{Context, Data},
};

use crate::{
    asked::{Asked, Number},
    journal::{Journal, Record},
    rules::{broken_rule, is_name, is_sentence},
    validate,
};

/// The helper's journal: what can be read is written as the same, and tells of nothing that a lease could not be.
pub fn journal(data: &[u8]) -> bool {
    let Ok(journal) = serde_json::from_slice::<Journal>(data) else {
        return false;
    };
    let text = serde_json::to_vec(&journal).expect("a journal can be written");
    let back: Journal = serde_json::from_slice(&text).expect("a written journal can be read");
    assert_eq!(back, journal);
    assert_eq!(serde_json::to_vec(&back).ok(), Some(text));
    for record in &journal.records {
        assert!(is_name(record.profile.as_str()));
        assert!(record.routes.is_subset(&journal.possible(|_| true)));
        let found = journal.record(&record.client.owner, &record.profile);
        assert!(found.is_some());
    }
    // Putting one without routes takes out what was found.
    let mut emptied = Journal {
        applying: None,
        ..journal.clone()
    };
    for record in &journal.records {
        emptied.put(Record {
            routes: BTreeSet::new(),
            ..record.clone()
        });
    }
    assert_eq!(emptied.records, []);
    assert_eq!(emptied.next_end(), None);
    assert!(emptied.possible(|_| true).is_empty());
    true
}

/// The body of a message: the byte order as in its header (`l` or `B`), then the arguments of `Apply`, or the answer to
/// `List`.
///
/// Only what keeps the rules gets through to the kernel, and every refusal can be shown.
pub fn messages(data: &[u8]) -> bool {
    let Some((order, body)) = data.split_first() else {
        return false;
    };
    let order = if *order == b'B' { BE } else { LE };
    let body = Data::new(body, Context::new(order, 0));
    let mut accepted = false;
    if let Ok((asked, _)) = body.deserialize::<(&str, Asked<'_>, HashMap<&str, Number>)>() {
        let (profile, routes, options) = asked;
        let profile = shown(validate::profile(profile));
        if let Some(profile) = &profile {
            assert!(is_name(profile.as_str()));
        }
        let guard = shown(validate::options(&options));
        if let Some(Some(guard)) = guard {
            assert!((1..=3_600).contains(&guard.as_secs()));
        }
        accepted = set(&routes.0) && profile.is_some() && guard.is_some();
    }
    if let Ok((leases, _)) = body.deserialize::<Vec<WireLease>>() {
        for wire in leases {
            accepted |= shown(Lease::try_from(wire)).is_some();
        }
    }
    accepted
}

/// Routes as a caller of the helper may spell them, one a line: destination and gateway.
pub fn routes(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let pairs: Vec<_> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .collect();
    set(&pairs)
}

/// Whether the helper would make these routes.
fn set(asked: &[(&str, &str)]) -> bool {
    let Some(routes) = shown(validate::routes(asked)) else {
        return false;
    };
    let routes: Vec<Route> = routes.into_iter().collect();
    assert_eq!(broken_rule(&routes), None);
    assert!(routes.len() <= asked.len());
    assert_eq!(from_wire(&to_wire(&routes)), Ok(routes));
    true
}

/// What there is; a refusal must be a sentence.
fn shown<T, E: Display>(answer: Result<T, E>) -> Option<T> {
    answer
        .inspect_err(|error| {
            let error = error.to_string();
            assert!(is_sentence(&error), "{error:?}");
        })
        .ok()
}
