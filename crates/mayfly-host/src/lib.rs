//! mayfly-host

pub mod budgets;
pub mod clock;
pub mod crash;
pub mod namespace;
pub mod network;
pub mod runner;
pub mod storage;
pub mod subids;
// One life of a container: supervisor, evidence that it is over.
pub mod run;
mod sys;
pub mod template;
