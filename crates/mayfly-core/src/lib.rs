//! The vocabulary of Mayfly and every decision that it takes.
//!
//! This crate owns the nouns (ids, names, documents), what was seen on a host ([`observed`]), the planner
//! ([`plan`]) that turns a wish and an observation into an ordered list of complete steps, the proofs without
//! which nothing is destroyed ([`proof`]), and the signatures of the ports that act ([`ports`]).
//!
//! It must never do I/O, read a clock or draw a random number: time and fresh ids come in as arguments.

pub mod bytes;
pub mod change;
#[cfg(feature = "fake")]
pub mod conformance;
pub mod doctor;
pub mod documents;
pub mod error;
#[cfg(feature = "fake")]
pub mod fake;
pub mod features;
pub mod files;
pub mod fsck;
pub mod health;
pub mod history;
pub mod ids;
pub mod mirror;
pub mod names;
pub mod network;
pub mod observed;
pub mod persist;
pub mod plan;
pub mod ports;
pub mod proof;
pub mod rebuild;
pub mod recipe;
pub mod remote;
pub mod run;
pub mod scaffold;
#[cfg(feature = "schema")]
mod schema;
pub mod snapshots;
pub mod space;
pub mod template;
pub mod trees;
