//! Events: what changed, in the order in which it changed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ErrorBody, OperationView, RunEventView, TemplateView, VpsView};

/// One change of one document, or what it meant for a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventView {
    /// Ask for what came `since` this.
    pub revision: u64,
    /// `vps`, `template`, `operation`, `run`, or the first word of another key.
    pub kind: String,
    /// Its id or name.
    pub name: String,
    /// Whether it is gone.
    pub removed: bool,
    /// The VPS as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vps: Option<Box<VpsView>>,
    /// The template as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Box<TemplateView>>,
    /// The operation as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Box<OperationView>>,
    /// That this run began, or that it is over, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Box<RunEventView>>,
}

/// A line of `/v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EventLine {
    /// What changed.
    Event(Box<EventView>),
    /// Why this is the last line.
    Last(ErrorBody),
}
