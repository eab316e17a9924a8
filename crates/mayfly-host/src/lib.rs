//! mayfly-host

pub mod runner;
// One life of a container: supervisor, evidence that it is over.
pub mod run;
mod sys;
