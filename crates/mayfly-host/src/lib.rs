//! The host side of the ports of `mayfly-core`: pools on ZFS and btrfs, containers by LXC, networks, templates.
//!
//! Each port's methods are steps that are told exactly what to do. This crate must never decide what a VPS gets, nor walk a
//! guest's tree by path from the host.
//!
//! ```text
//!  storage   pools, their datasets and marks, what lies in guests' trees      (zfs | btrfs, behind one port)
//!  run       one life of a container: supervisor, signs of life, evidence that it is over
//!  template  recipes, archives and servers into trees
//!  network   bridge, addresses, nftables, dnsmasq
//!  runner    every tool of the host that any of them starts
//!  sys       every system call that is unsafe
//! ```

pub mod budgets;
pub mod clock;
pub mod crash;
pub mod memory;
pub mod namespace;
pub mod network;
pub mod run;
pub mod runner;
pub mod storage;
pub mod subids;
mod sys;
pub mod template;
