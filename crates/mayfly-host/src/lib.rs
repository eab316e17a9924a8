//! mayfly-host

pub mod budgets;
pub mod subids;
pub mod clock;
pub mod crash;
pub mod namespace;
pub mod runner;
pub mod storage;
// One life of a container: supervisor, evidence that it is over.
pub mod run;
mod sys;
pub mod template;
