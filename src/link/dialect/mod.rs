//! The messages, generated from `uhr.xml` when the crate is built.
//!
//! # Why
//! Only the messages that the link reads or writes, as numbers and without MAVLink's enums: a value that is not known here arrives and can be answered,
//! where an enum would drop the whole packet. The stock dialects have 300 messages and take minutes to build.

#[allow(missing_docs, non_camel_case_types, unexpected_cfgs, unused_mut, clippy::all, clippy::pedantic, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub use generated::uhr::*;
