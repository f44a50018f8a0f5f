//! The arguments of `Apply` as callers send them: anybody may, and up to 128 MiB. Nothing is copied, and what is far above
//! any limit is not read to its end.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, SeqAccess, Visitor},
};
use zbus::{Type, wire::Signature};

/// More than any lease may have, so that who asks for some too many still hears of the limit.
const MOST: usize = 16 * minitunnel_contract::ROUTES_PER_LEASE;

/// Routes: destination and gateway.
#[derive(Debug, Type)]
#[zbus(signature = "a(ss)")]
pub(crate) struct Asked<'a>(pub(crate) Vec<(&'a str, &'a str)>);

impl<'de> Deserialize<'de> for Asked<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Few)
    }
}

struct Few;

impl<'de> Visitor<'de> for Few {
    type Value = Asked<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("routes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Asked<'de>, A::Error> {
        let mut routes = Vec::new();
        while let Some(route) = from.next_element()? {
            if routes.len() == MOST {
                return Err(A::Error::custom("these are too many to be read"));
            }
            routes.push(route);
        }
        Ok(Asked(routes))
    }
}

/// An option's value: `None` for what is no number of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Type)]
#[zbus(signature = "v")]
pub(crate) struct Number(pub(crate) Option<u32>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_struct("Variant", &["signature", "value"], Value)
    }
}

struct Value;

impl<'de> Visitor<'de> for Value {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Number, A::Error> {
        let missing = || A::Error::custom("an option without a value");
        match from.next_element()?.ok_or_else(missing)? {
            Signature::U32 => from.next_element().map(Number),
            _ => from
                .next_element::<IgnoredAny>()
                .map(|_skipped| Number(None)),
        }
    }
}
