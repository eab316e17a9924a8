//! The network of a node.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What became of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkRemoved {
    /// Whether there was one.
    pub removed: bool,
}
