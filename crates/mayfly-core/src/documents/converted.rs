//! What a conversion made of a VPS, and what it was before.

use serde::{Deserialize, Serialize};

use super::{Base, Impermanence, Mount, VpsDoc};
use crate::bytes::Bytes;
use crate::ids::OperationId;
use crate::names::{GuestPath, PoolPath, TemplateName};
use crate::template::Manifest;
use crate::trees::TakenOut;

/// A conversion that can be taken back by a revert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converted {
    /// The conversion.
    pub by: OperationId,
    /// When it was asked for, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// The template before.
    pub template: TemplateName,
    /// The base before.
    pub base: Base,
    /// The manifest before.
    pub manifest: Manifest,
    /// The storage before.
    pub storage: Option<GuestPath>,
    /// The mounts before.
    pub mounts: Vec<Mount>,
    /// What lies beside the root dataset's tree since its contents were copied elsewhere, until it is destroyed.
    pub taken_out: Option<TakenOut>,
}

/// What is asked of a conversion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertWant {
    /// What the feature is to be. Its root kind is a wish; none leaves it to what the VPS is.
    pub on: Impermanence,
    /// Whether the root kind was asked for.
    pub kind_is_asked: bool,
    /// Where the root dataset is shown from then on.
    pub storage: GuestPath,
    /// The quota of the dataset that gets the Nix store; none where a fitting one is to be chosen.
    pub nix_quota: Option<Bytes>,
    /// Directories that stay, besides what is declared anyway.
    pub keep: Vec<GuestPath>,
}

impl VpsDoc {
    /// Whether this is known to lie aside: contents that a reinstall replaced, or the VPS's own base.
    pub fn knows_aside(&self, name: &PoolPath) -> bool {
        self.knows_replaced(name) || self.base.own.as_ref() == Some(name)
    }

    /// What a conversion took out of the root dataset's tree and is still to be destroyed.
    pub fn taken_out(&self) -> Option<&TakenOut> {
        self.converted.as_ref()?.taken_out.as_ref()
    }

    /// What each of its roots is cloned from.
    pub fn base_path(&self) -> PoolPath {
        let of_template = || crate::plan::base_path(&self.base.template);
        self.base.own.clone().unwrap_or_else(of_template)
    }
}
