//! Former contents that a reinstall put aside: their age is counted, and those that were kept for their time are given up.

use mayfly_core::documents::{BY_ITSELF, Lifecycle, OperationDoc, Request, VpsDoc};
use mayfly_core::error::Refusal;

use crate::engine::Engine;

impl Engine {
    /// Asks for what is due of each VPS. True where something was asked for.
    pub fn see_to_replaced(&self) -> Result<bool, Refusal> {
        if self.held().is_some() {
            return Ok(false);
        }
        let (boot_id, boot_ms) = (self.deps().clock.boot_id(), self.deps().clock.boot_ms());
        let is_due = |doc: &VpsDoc| {
            let mut all = doc.replaced.iter();
            doc.lifecycle == Lifecycle::Ready && all.any(|one| one.is_due(&boot_id, boot_ms))
        };
        let due: Vec<VpsDoc> = self.vpses()?.into_iter().filter(is_due).collect();
        if due.is_empty() {
            return Ok(false);
        }
        let mut asked = false;
        for doc in due {
            let _accepting = self
                .inner
                .accepting
                .lock()
                .expect("no thread panics with it");
            // What waits in the lane already sees to it when it has its turn.
            let waits = |op: &OperationDoc| {
                let is_one = matches!(op.request, Request::ReplacedAge { .. });
                is_one && op.vps == Some(doc.id) && !op.state.is_over()
            };
            if self.operations()?.iter().any(waits) {
                continue;
            }
            self.accept(Some(doc.id), Request::ReplacedAge { boot_ms }, BY_ITSELF)?;
            asked = true;
        }
        Ok(asked)
    }
}
