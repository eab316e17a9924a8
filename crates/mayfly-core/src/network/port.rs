//! What the engine asks of a host's network.

use super::{NetworkPlan, NetworkTrace};
use crate::ports::{HostResult, Outcome};

/// The network of a node on its host. Every call is idempotent and can be cut off anywhere: the next one finishes it.
pub trait Network: Send + Sync {
    /// Makes the host as the plan says: what is missing or was changed by somebody is put right, what is right is left
    /// alone. Rules are replaced in one transaction, so that nothing passes meanwhile that may not. Something of the same
    /// name that is not this node's is a refusal. An error says what is missing, and the cure.
    fn apply(&self, plan: &NetworkPlan) -> HostResult<Outcome>;

    /// Removes all of it that is proven to be this node's: bridge, rules, server, its files.
    fn remove(&self, of: &NetworkTrace) -> HostResult<Outcome>;
}
