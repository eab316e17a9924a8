//! Templates that are built on this host: from a recipe to a tree, its digest, and its parts.
//!
//! The order is [`build_tree`] (which ends with [`scrub_tree`]), [`digest_tree`], [`split_tree`]. Trees here are fresh and
//! made by us; nothing in them has run yet. [`TemplateWorks`] goes through that order and puts the parts into the pool.

mod alone;
mod bootstrap;
mod digest;
mod fetch;
mod import;
mod mirror;
mod pull;
mod scrub;
mod source;
mod split;
mod works;

pub use bootstrap::{BuildCause, BuildError, build_tree};
pub use digest::{DigestCause, DigestError, digest_tree};
pub use mirror::BadMirror;
pub use pull::forget_downloads;
pub use scrub::{ScrubError, scrub_tree};
pub use source::{LoadCause, LoadError, Script, Source, builtin, builtin_names, load_source};
pub use split::{SplitCause, SplitError, split_tree};
pub use works::TemplateWorks;
