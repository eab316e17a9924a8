//! Datasets as OpenZFS file systems, below one dataset of a zpool:
//!
//! ```text
//! tank/ct                      whose pool this is (mayfly:pool)
//! tank/ct/.mayfly              mounted in the daemon's mount namespace: intents, and where templates are built
//! tank/ct/.mayfly/staging/…    datasets and templates that are not finished
//! tank/ct/.mayfly/receiving/…  datasets that are being received; kept for days
//! tank/ct/11327  tank/ct/11327/nix  tank/ct/11327.impermanence-c5a8b7
//! tank/ct/templates/<digest>   each part with the snapshot `base`
//! tank/ct/trash/<grave>        condemned datasets
//! ```
//!
//! **Marks are local user properties** (`marks`). A property that was inherited or received proves nothing.
//!
//! **ZFS mounts nothing**: every dataset has `mountpoint=legacy`, and renames are told not to mount. This driver mounts
//! without a mount point (`mount`); the supervisor of a run mounts in the namespace of the run. Guests see the directory
//! `private` of a dataset, never its top: there a copy is made before it becomes the `private` (`.copying`, `.copied`), and there
//! lies what a conversion took out (`.taken-<op>`, `.dropped-<op>`).
//!
//! **Quotas** are refquotas: what `df` shows inside, and what `du` counts. ZFS counts what a clone shares with its origin;
//! for a temporary root that is added to the refquota and kept in a property of its own, so that it is not charged.
//!
//! **Destroying** is one dataset at a time with its own snapshots, never recursive. The kernel refuses what is mounted
//! anywhere: such a grave waits.

mod bury;
mod command;
mod create;
mod exchange;
mod format;
mod listing;
mod marks;
mod mount;
mod observe;
mod pool;
mod preflight;
mod receive;
mod send;
mod snapshots;
mod staging;
mod stream;
mod template;
mod trees;

pub(crate) use mount::{mount_detached, open_private};
pub use pool::ZfsPool;
