//! Quotas that are promised by several plans at the same time.
//!
//! A plan that makes the pool promise more is made and journalled under a lock, and counts what the plans under way are
//! about to promise: two that would be over the limit together cannot both pass it.

use std::sync::{MutexGuard, PoisonError};

use mayfly_core::bytes::Bytes;
use mayfly_core::documents::{OperationDoc, OperationState, Request};
use mayfly_core::error::Refusal;
use mayfly_core::observed::PoolSeen;

use crate::engine::Engine;
use crate::keys;

impl Engine {
    /// To be held from the making of a plan until its journal.
    pub(crate) fn promises_stay(&self, request: &Request) -> Option<MutexGuard<'_, ()>> {
        // The lock guards nothing that a panic could have spoiled.
        let promises = &self.inner.promises;
        let lock = || promises.lock().unwrap_or_else(PoisonError::into_inner);
        request.may_promise_space().then(lock)
    }

    /// What plans under way are about to promise on top of what is in the pool.
    pub(crate) fn pending_promises(
        &self,
        request: &Request,
        pool: &PoolSeen,
    ) -> Result<Bytes, Refusal> {
        if !request.may_promise_space() {
            return Ok(Bytes(0));
        }
        let under_way = |op: &OperationDoc| op.state == OperationState::Running;
        let all: Vec<OperationDoc> = self.all_or_none(keys::OPERATIONS)?;
        let plans = all.into_iter().filter(under_way).filter_map(|op| op.plan);
        Ok(plans
            .map(|plan| plan.pending_promises(pool))
            .fold(Bytes(0), Bytes::saturating_add))
    }
}
