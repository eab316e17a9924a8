//! The keys under which documents are kept.

use mayfly_core::ids::{OperationId, VpsId};
use mayfly_core::names::TemplateName;

pub(crate) const VPSES: &str = "/vps/";
pub(crate) const TEMPLATES: &str = "/templates/";
/// Which boot of the host a daemon has seen.
pub(crate) const BOOT: &str = "/node/boot";
pub(crate) const OPERATIONS: &str = "/operations/";

pub(crate) fn vps(id: VpsId) -> String {
    format!("{VPSES}{id}")
}

pub(crate) fn template(name: &TemplateName) -> String {
    format!("{TEMPLATES}{name}")
}

pub(crate) fn operation(id: &OperationId) -> String {
    format!("{OPERATIONS}{id}")
}
