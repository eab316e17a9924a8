//! What is wrong with a node.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingView {
    /// What kind of thing; stable.
    pub code: String,
    /// What it concerns.
    pub object: String,
    /// What it means.
    pub meaning: String,
    /// What `--repair` does about it; none where an operator has to do something.
    pub repair: Option<String>,
    /// What an operator has to do; none where `--repair` does it.
    pub operator: Option<String>,
}

/// A finding that could not be mended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotMendedView {
    /// The finding.
    pub finding: FindingView,
    /// Why it was not mended.
    pub why: String,
}

/// What a look over the node found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FsckView {
    /// What is wrong, after what was mended.
    pub findings: Vec<FindingView>,
    /// What was wrong and was mended.
    pub mended: Vec<FindingView>,
    /// What should have been mended and was not.
    pub not_mended: Vec<NotMendedView>,
}
