//! Taking back copies that were placed in a root, by a helper that sees that root, the VPS's datasets and nothing else.
//!
//! What is looked at was a guest's, and what is written is a guest's as well: so the helper, which is the guest's own, works
//! with the guest's ids, in a process that has no host around it. If a guest makes it do something else, it can do to
//! itself what it could do anyway.
//!
//! ```text
//! daemon (dead root) ─┐ Order on stdin                 namespaces, tmpfs as /, pivot_root, the guest's ids
//!                     ├── spawn ──> mayfly harvest ──────────────────── exec ──> mayfly-guest harvest
//! supervisor (living) ┘ <──────────────────────── Report, a sealed memory file ─────────┘
//! ```
//!
//! Whoever starts it waits on its pidfd, the supervisor among its other events; it dies with that one, and when it has taken
//! too long.

pub(super) mod child;
mod confined;
pub(super) mod dead;
pub(super) mod order;
pub(super) mod report;

pub use self::confined::harvest;
