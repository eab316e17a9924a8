//! Conversions.

use mayfly_core::bytes::Bytes;
use mayfly_core::documents::Converted;
use mayfly_core::ids::OperationId;
use mayfly_core::names::GuestPath;
use mayfly_core::template::RootKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The conversion that made a VPS impermanent, where one did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConvertedView {
    /// The conversion.
    pub operation: OperationId,
    /// When it was asked for, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// A directory of the root dataset that was copied elsewhere and is still to be destroyed.
    pub rest: Option<GuestPath>,
}

impl From<Converted> for ConvertedView {
    fn from(one: Converted) -> Self {
        Self {
            operation: one.by,
            at_unix_ms: one.at_unix_ms,
            rest: one.taken_out.map(|taken| taken.path),
        }
    }
}

/// `POST /v1/vps/{v}/conversion`. What is not given is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConvertVps {
    /// What one temporary root may hold.
    pub root_quota_bytes: Option<Bytes>,
    /// What roots are made from; else by what is in the VPS.
    pub root_kind: Option<RootKind>,
    /// Where the root dataset is from then on; else where its storage is, else `/persistent`.
    pub storage: Option<GuestPath>,
    /// The quota of the dataset that gets the Nix store.
    pub nix_quota_bytes: Option<Bytes>,
    /// Directories that stay, besides what is declared anyway.
    #[schema(max_items = 256)]
    pub keep: Vec<GuestPath>,
}
