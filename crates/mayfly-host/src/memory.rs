//! The memory that the daemon takes for itself.

use crate::sys::process::set_most_arenas;

/// As many as requests and lanes, which allocate little and seldom, need to keep out of each other's way.
const ARENAS: i32 = 2;

/// Lets all threads of this process allocate from the same few arenas.
///
/// By default glibc gives a thread an arena of its own where the others are busy, up to eight for each processor, and each keeps what
/// was freed in it. A daemon with a few threads for each VPS would hold megabytes in them. Call it before other threads exist;
/// with another C library it does nothing.
pub fn share_arenas() {
    set_most_arenas(ARENAS);
}
