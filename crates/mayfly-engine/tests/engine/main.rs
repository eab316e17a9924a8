//! The engine on the fake host.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod autostart;
mod bases;
mod cancel;
mod clock;
mod crash;
mod doctor;
mod features;
mod fsck;
mod held;
mod history;
mod journal;
mod lasting;
mod leaked;
mod missed;
mod network;
mod persist;
mod promises;
mod reinstall;
mod scenarios;
mod world;
