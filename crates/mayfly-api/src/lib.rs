//! What goes over the wire between `mayfly serve` and those who talk to it: the types of requests and answers, the
//! addresses, and a typed client over the node's unix socket.
//!
//! Requests refuse unknown fields; answers may gain fields. Sizes are `*_bytes`, durations and times `*_ms`. This crate
//! must never name the engine or the host: whoever has only this crate can write a client.

mod client;
mod conversion;
mod doctor;
mod error;
mod event;
mod exec;
mod file;
mod fsck;
mod history;
mod network;
mod node;
mod operation;
pub mod paths;
mod persist;
mod template;
mod vps;

/// The description of the API (OpenAPI 3.1): every address of `mayfly serve` and what goes in and out.
pub const OPENAPI: &str = include_str!("../openapi.json");

pub use self::client::{Change, Client, ClientError, Lines, Pulled, Socket};
pub use self::conversion::{ConvertVps, ConvertedView};
pub use self::doctor::DoctorView;
pub use self::error::{ErrorBody, ErrorInfo};
pub use self::event::{EventLine, EventView};
pub use self::exec::{
    ConsoleRequest, ConsoleSays, ExecRequest, ExecSays, ExecStart, STDERR, STDOUT,
};
pub use self::file::{FilePlaced, MODE_HEADER, PasswordSet, PutFile, SetPassword};
pub use self::fsck::{FindingView, FsckView, NotMendedView};
pub use self::history::{HistoryView, RunEventKind, RunEventView};
pub use self::network::NetworkRemoved;
pub use self::node::{NodeView, PoolDatasetView, PoolView, ShareView};
pub use self::operation::{IfBusy, OperationFilter, OperationView, PlanBody, PlanView};
pub use self::persist::{
    ChangePersistence, DeclarationView, OriginView, PersistenceView, ProblemView,
};
pub use self::template::{BuildTemplate, ImportTemplate, PullTemplate, TemplateView};
pub use self::vps::{
    AddMount, BaseView, CreateDataset, CreateVps, DatasetView, FeatureState, FeatureView,
    ImpermanenceView, MountView, ReinstallVps, ReplacedView, RescueVps, RestartVps, RunView,
    SetDataset, SetFeatures, SetImpermanence, SetVps, StopVps, VpsState, VpsView,
};
