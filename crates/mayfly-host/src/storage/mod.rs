//! Datasets: the drivers behind [`mayfly_core::ports::Storage`], and what they have in common.

pub mod btrfs;
pub mod zfs;

mod claims;
mod contained;
mod copy;
mod identity;
mod mirrors;
mod names;
mod open;
mod probe;
mod records;
mod refusals;
mod removal;
mod taken;
mod template;
mod tree;

pub(crate) use contained::{open_below, open_regular};
pub use identity::{KernelIdentity, Shown};
pub use open::{OpenPool, format_pool, open_pool};
pub use template::{TemplatePool, TemplateStaging};
