//! Rules that every driver has for the names and marks of new datasets.

use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::NodeId;
use mayfly_core::names::PoolPath;
use mayfly_core::observed::Mark;
use mayfly_core::ports::{HostResult, NewDataset};

use super::refusals::not_ours;

/// The directory of a dataset that guests see.
pub(super) const PRIVATE: &str = "private";

/// The name in the staging area of a dataset that is being made. No dataset of a VPS has a colon in its name, and no
/// staged template is named like a number.
pub(super) fn staged_name(name: &PoolPath) -> String {
    name.as_str().replace('/', ":")
}

/// Refuses a dataset that must not be made: under a name that is the platform's own (`reserved`, as the driver has it), or
/// with a mark that does not fit it.
pub(super) fn check_new(new: &NewDataset, node: &NodeId, reserved: bool) -> HostResult<()> {
    let name = &new.name;
    if reserved || name.is_grave() || name.as_str().split('/').any(|part| part == PRIVATE) {
        let message = format!("{name} cannot be the name of a dataset");
        return Err(Refusal::new(Code::Invalid, message, "choose another name").into());
    }
    if new.mark.node != *node || new.mark.made_as != *name || new.mark.condemned_by.is_some() {
        return Err(not_ours(
            name,
            "it was to be made with a mark that does not fit it",
        ));
    }
    Ok(())
}

/// Refuses a dataset that would lie in one of another owner.
pub(super) fn check_parent(parent: &PoolPath, mark: &Mark, new: &NewDataset) -> HostResult<()> {
    if mark.owner != new.mark.owner || mark.condemned_by.is_some() {
        return Err(not_ours(
            parent,
            "its mark names another owner, or an operation condemned it",
        ));
    }
    Ok(())
}

/// Refuses to let one dataset go along with the one above it, where they are not of one owner and kind.
pub(super) fn check_goes_along(above: &Mark, lower: &Mark, name: &str) -> HostResult<()> {
    if lower.owner != above.owner || lower.role != above.role {
        return Err(not_ours(
            name,
            "its mark has another owner or role than the dataset above it",
        ));
    }
    Ok(())
}
