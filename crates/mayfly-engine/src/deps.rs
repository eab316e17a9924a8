//! What an engine is made of.

use std::sync::Arc;

use mayfly_core::documents::NodeDoc;
use mayfly_core::error::Refusal;
use mayfly_core::network::Network;
use mayfly_core::ports::{Clock, Runtime, Storage, Templates};
use mayfly_core::run::IdRange;

use crate::store::Store;

/// Called with the name of every crash point that the executor passes, so that a test can end the process there.
pub type CrashHook = Arc<dyn Fn(&str) + Send + Sync>;

/// A hook that does nothing.
pub fn no_crash() -> CrashHook {
    Arc::new(|_| {})
}

/// Keeps what the node is where the next daemon finds it.
pub type KeepNode = Arc<dyn Fn(&NodeDoc) -> Result<(), Refusal> + Send + Sync>;

/// The parts.
#[derive(Clone)]
pub struct Deps {
    /// The node that this engine answers for.
    pub node: NodeDoc,
    /// Documents.
    pub store: Arc<dyn Store>,
    /// Datasets.
    pub storage: Arc<dyn Storage>,
    /// Runs.
    pub runtime: Arc<dyn Runtime>,
    /// Templates on their way into the pool.
    pub templates: Arc<dyn Templates>,
    /// The network of the node.
    pub network: Arc<dyn Network>,
    /// For what of the node changes while it serves.
    pub keep_node: KeepNode,
    /// Time and randomness.
    pub clock: Arc<dyn Clock>,
    /// Host ids that belong to others.
    pub reserved: Vec<IdRange>,
    /// For tests.
    pub crash: CrashHook,
}
