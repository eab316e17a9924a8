//! The keys under which documents are kept.

use mayfly_core::documents::VpsDoc;
use mayfly_core::ids::{OperationId, VpsId};
use mayfly_core::names::TemplateName;

pub(crate) const VPSES: &str = "/vps/";
/// Only in the pool: the node's own document is a file.
pub(crate) const NODE: &str = "/node";
pub(crate) const TEMPLATES: &str = "/templates/";
/// Which boot of the host a daemon has seen.
pub(crate) const BOOT: &str = "/node/boot";
/// What a rebuilt state does not know and must not clear away.
pub(crate) const SPARED: &str = "/spared";
pub(crate) const OPERATIONS: &str = "/operations/";
/// What happened to runs: a document for each thing.
pub(crate) const HISTORY: &str = "/history/";

pub(crate) fn vps(id: VpsId) -> String {
    format!("{VPSES}{id}")
}

/// The VPS that a key is of.
pub(crate) fn vps_of(key: &str) -> Option<VpsId> {
    key.strip_prefix(VPSES)?.parse().ok()
}

pub(crate) fn template(name: &TemplateName) -> String {
    format!("{TEMPLATES}{name}")
}

pub(crate) fn operation(id: &OperationId) -> String {
    format!("{OPERATIONS}{id}")
}

/// What is remembered of any VPS of that number.
pub(crate) fn history(id: VpsId) -> String {
    format!("{HISTORY}{id}/")
}

/// What is remembered of this VPS: never what its predecessor of the same number left.
pub(crate) fn history_of(doc: &VpsDoc) -> String {
    format!("{}{}/", history(doc.id), doc.incarnation)
}
