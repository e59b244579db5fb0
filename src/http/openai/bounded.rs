//! Parts of a request that hold a bounded part of what comes.
//!
//! # Why
//! A body of tens of megabytes may be one long list of nothing: parsed into values it takes ten times its size.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Sampling has no place in greedy decoding, and the rest asks for nothing: taken, and named in the answer.
const IGNORED: [&str; 14] = [
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "store",
    "metadata",
    "service_tier",
    "reasoning_effort",
    "verbosity",
    "parallel_tool_calls",
    "logit_bias",
];

/// What a request may name: read by [`Chat`](super::Chat).
const KNOWN: [&str; 12] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "n",
    "budget",
    "encode_tiles",
    "deadline_ms",
    "priority",
];

/// At most as many items.
const MOST: usize = 64;

/// A short list.
#[derive(Debug)]
pub struct Few<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Few<T> {
    pub fn gather<A: SeqAccess<'de>>(mut items: A) -> Result<Self, A::Error> {
        let mut few = Vec::new();
        while let Some(item) = items.next_element()? {
            if few.len() == MOST {
                return Err(A::Error::invalid_length(MOST + 1, &"at most 64 of them"));
            }
            few.push(item);
        }
        Ok(Self(few))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Items<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = Few<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Few<T>, A::Error> {
                Few::gather(items)
            }
        }
        from.deserialize_seq(Items(std::marker::PhantomData))
    }
}

/// The fields that a question doesn't need: those that are let pass, and the first that asks for what the daemon can't do.
#[derive(Debug, Default)]
pub struct Others {
    pub ignored: Vec<String>,
    pub unknown: Option<String>,
}

impl<'de> Deserialize<'de> for Others {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Others;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Others, A::Error> {
                let mut others = Others::default();
                while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
                    if KNOWN.contains(&&*name) {
                        fields.next_value::<IgnoredAny>()?;
                    } else if let Asks(true) = fields.next_value()? {
                        if !IGNORED.contains(&&*name) {
                            others.unknown.get_or_insert_with(|| name.chars().take(40).collect());
                        } else if !others.ignored.iter().any(|known| *known == name) {
                            others.ignored.push(name.into_owned());
                        }
                    }
                }
                Ok(others)
            }
        }
        from.deserialize_map(Fields)
    }
}

/// Whether a value asks for anything: clients send nulls, falses and empty lists for what they don't want.
struct Asks(bool);

impl<'de> Deserialize<'de> for Asks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Asks;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Asks, E> {
                Ok(Asks(false))
            }
            fn visit_bool<E>(self, asked: bool) -> Result<Asks, E> {
                Ok(Asks(asked))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Asks, E> {
                Ok(Asks(true))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Asks, E> {
                Ok(Asks(true))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Asks, E> {
                Ok(Asks(true))
            }
            fn visit_str<E>(self, text: &str) -> Result<Asks, E> {
                Ok(Asks(!["none", "auto"].contains(&text)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Asks, A::Error> {
                let mut some = false;
                while items.next_element::<IgnoredAny>()?.is_some() {
                    some = true;
                }
                Ok(Asks(some))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Asks, A::Error> {
                // `{"type": "text"}` is the usual kind of an answer.
                let (mut some, mut usual) = (false, false);
                while let Some(name) = fields.next_key::<Cow<'_, str>>()? {
                    some = true;
                    if name == "type" {
                        usual = fields.next_value::<Word>()?.0;
                    } else {
                        fields.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Asks(some && !usual))
            }
        }
        from.deserialize_any(Any)
    }
}

/// Whether a value is the word `text`.
struct Word(bool);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = Cow::<'_, str>::deserialize(from)?;
        Ok(Self(word == "text"))
    }
}
