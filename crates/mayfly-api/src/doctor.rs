//! What a VPS should be asked about before its next start.

use mayfly_core::doctor::Finding;
use mayfly_core::ids::VpsId;
use mayfly_core::names::Hostname;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a look over a VPS found. Nothing was changed, and nothing evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoctorView {
    /// The number of the VPS.
    pub id: VpsId,
    /// Its host name.
    pub hostname: Hostname,
    /// Whether its root is temporary.
    pub impermanent: bool,
    /// The directory that the configuration of a NixOS was found in, as the guest names it.
    pub configuration: Option<String>,
    /// Its files that were read, below that directory.
    pub files: Vec<String>,
    /// What was found; what matters most comes first.
    pub findings: Vec<Finding>,
}
