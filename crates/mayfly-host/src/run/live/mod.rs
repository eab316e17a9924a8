//! Showing a dataset in a run that goes on, and hiding it again.
//!
//! Both happen in a short-lived process of its own, `mayfly enter`, with one thread: a namespace that was entered is not left
//! by a thread of the daemon, and whatever a guest does to it (a file system of its own that never answers, a hundred thousand
//! mounts) ends with the deadline.
//!
//! ```text
//! daemon ── Order on stdin ──> mayfly enter
//!    as root of the host:     own mount namespace, the dataset on a tmpfs with the guest's ids, that tmpfs as /
//!    as root of the guest:    a mount namespace of its user namespace (a copy into it locks read-only), the copy in hand
//!    in the guest's own:      the path one component at a time, no symlink, made where it is absent; move_mount
//! daemon <── Answer ──────────┘
//! ```
//!
//! From the second line on it has no right that the guest's root has not, and nothing of the host in sight. Whether there is
//! anything to do is read off the guest's own mount table: the mount point, and the file system and the directory in it.

mod call;
mod enter;
mod guest;
mod order;
mod table;

pub(super) use self::call::{Entered, enter_guest};
pub use self::enter::enter;
pub(super) use self::order::{Act, Order};
