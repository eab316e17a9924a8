//! One life of a container: how it is started, watched over, ended, and proven to be over.
//!
//! [`supervise`] is the whole of a process of its own, one for each run, with one thread. [`client`] is how the
//! daemon, which has many, starts and reaches it. Nothing here chooses names, datasets or ids: they are in the
//! [`RunSpec`](mayfly_core::run::RunSpec).
//!
//! ```text
//! mayfly serve ── spawn ──> mayfly supervise RUN_DIR ── fork, PDEATHSIG ──> lxc-start -F ──> guest helper, init
//!      │  control.sock, console.sock   │ mount namespace, user namespace, pty, console ring       │
//!      └─────── state.json <───────────┘ <──────────────── report FIFO ───────────────────────────┘
//! ```
//!
//! Phases: `Starting` until the guest's own init was executed, `Running`, `Ended` when everything of the run is
//! gone. A supervisor that was killed leaves `state.json` in an earlier phase; [`client::Node::sweep`] then ends
//! what is left, and [`evidence`] proves that nothing is.

pub mod apparmor;
pub mod attach;
pub mod cgroups;
pub mod client;
pub mod evidence;
mod features;
mod grace;
pub mod harvest;
mod health;
mod limits;
pub mod live;
pub mod lxc_config;
pub mod paths;
mod proc_text;
mod protocol;
pub mod ring;
pub mod runtime;
pub mod seccomp;
mod show;
mod state;
pub mod supervise;
mod sweep;
