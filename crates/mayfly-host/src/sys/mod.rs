//! The only unsafe code of this crate: system calls that have no safe form elsewhere.
//!
//! Each function here is safe to call; what it relies on is said where the unsafe block is.
#![allow(
    unsafe_code,
    reason = "system calls that neither std nor rustix offers in a safe form"
)]

pub(crate) mod btrfs;
pub(crate) mod loopdev;
pub(crate) mod mount;
pub(crate) mod mount_spaces;
pub(crate) mod ns;
pub(crate) mod process;
