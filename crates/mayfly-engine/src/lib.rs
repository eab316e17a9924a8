//! The engine: it keeps the documents, gives every VPS one worker, carries plans out step by step with a journal,
//! finishes or undoes after a crash, reconciles what ought to run with what runs, and empties the graveyard.
//!
//! It must never decide what a plan contains (that is `mayfly-core`'s), nor touch the host but through the ports.
//!
//! ```text
//!  submit ──> operation document ──> lane of the VPS ──> plan ──> executor ──> ports
//!                  (store)            (one thread)      (core)   (journal)
//!  monitor ── end of a run ──> submit(run ended)      reaper ── graves, leftovers ──> ports
//! ```

mod autostart;
mod background;
mod convert;
mod deps;
mod doctor;
mod doing;
mod engine;
mod executor;
mod fsck;
mod harvest;
mod held;
mod history;
mod intent;
mod keys;
mod lanes;
mod mirrors;
mod network;
mod perform;
mod persist;
mod promises;
mod reaper;
mod rebuild;
mod recover;
mod replaced;
pub mod store;
mod submit;
mod templates;

pub use self::deps::{CrashHook, Deps, KeepNode, no_crash};
pub use self::doctor::Diagnosis;
pub use self::engine::{Engine, PoolReport};
pub use self::fsck::FsckReport;
pub use self::held::refuse_older;
pub use self::history::History;
pub use self::intent::{ConvertIntent, FeaturesWish, IfBusy, ImpermanenceWish, Intent};
pub use self::persist::Persistence;
pub use self::rebuild::write_rebuilt;
pub use self::recover::Recovered;
