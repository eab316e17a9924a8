//! The HTTP side of `mayfly serve`: REST over the node's unix socket, event streams, and the websockets of `exec` and
//! `console`. One file per group of addresses.
//!
//! It turns requests into questions and intents for the engine, and answers into the types of `mayfly-api`. It must
//! never decide anything about a VPS, nor touch the host but for the programs that `exec` runs, whose command lines
//! it is given ([`Consoles`]).
//!
//! ```text
//!  accept ──> connection (task) ──> router ──> who is it? ──> handler ──> spawn_blocking ──> engine
//!                                                     │
//!                       websocket: one task reads frames, one writes them, one pumps the program or the console
//! ```

mod console;
mod conversion;
mod datasets;
mod describe;
mod doctor;
mod error;
mod events;
mod exec;
mod extract;
mod features;
mod feed;
mod files;
mod fsck;
mod history;
mod linger;
mod log;
mod mounts;
mod network;
mod node;
mod operations;
mod persist;
mod process;
mod reinstall;
mod router;
mod serve;
mod state;
mod templates;
mod vpses;

pub use self::describe::description;
pub use self::fsck::view as fsck_view;
pub use self::router::router;
pub use self::serve::{Peer, serve};
pub use self::state::{AppState, AttachCommand, Consoles};
