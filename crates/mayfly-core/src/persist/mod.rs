//! What stays: paths of a VPS that survive a new root although what holds them does not.
//!
//! A declaration names a path below `/` and a *storage*, a directory on another dataset where the real thing lies under
//! the same path. The vocabulary is that of NixOS' `environment.persistence`; `tier`, `presets`, `method = "copy"` and
//! the switches are Mayfly's own (docs/persistence.md has both side by side).
//!
//! ```text
//! TOML, JSON ── read ── Source ─┐
//! the manifest's      ── Source ─┴ unite ── Wanted ── plan ── steps ── (mayfly-guest: apply) ── report
//! ```
//!
//! All of it is pure, and all input but the manifest's is a guest's: it is read within [`limits`], what makes no sense is
//! a [`declare::Problem`] and not an error, and no input makes it panic or take long.

pub mod accounts;
pub mod change;
pub mod declare;
#[cfg(feature = "edit")]
pub mod edit;
pub mod history;
pub mod limits;
pub mod list;
pub mod mode;
pub mod own;
pub mod path;
pub mod people;
pub mod plan;
pub mod presets;
pub mod read;
pub mod record;
pub mod report;
pub mod spec;
pub mod unite;
