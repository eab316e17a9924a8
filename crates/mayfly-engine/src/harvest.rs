//! Taking back changed copies of declared files from a root, with its mark as witness of what is done.

use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::ids::OperationId;
use mayfly_core::observed::MarkSeen;
use mayfly_core::plan::{HarvestPlan, Step};
use mayfly_core::ports::{HostError, Outcome};

use crate::engine::Engine;

impl Engine {
    /// A root that is gone, or that nothing is owed of, is done. So is one of somebody else: whoever buries it is refused.
    pub(crate) fn harvest(&self, plan: &HarvestPlan, op: &OperationId) -> Result<Outcome, Refusal> {
        let deps = self.deps();
        let Some(seen) = deps.storage.look(&plan.root)? else {
            return Ok(Outcome::Unchanged);
        };
        match &seen.mark {
            MarkSeen::Local(mark) if mark.unharvested => {}
            MarkSeen::Unreadable(why) => {
                return Err(LookFailed::new(format!("the mark of {}", plan.root), why).into());
            }
            _ => return Ok(Outcome::Unchanged),
        }
        let order = plan.to_order(|name| deps.storage.mount_source(name));
        let taken = deps
            .runtime
            .harvest(&order)
            .map_err(|error| explained(plan, error));
        match &taken {
            Ok(taken) if taken.count == 0 && taken.refused.is_empty() => {}
            Ok(taken) => {
                let (files, refused) = (&taken.files, &taken.refused);
                tracing::info!(vps = %plan.vps, run = %plan.run, ?files, ?refused, "copies were taken back");
            }
            Err(why) => {
                tracing::warn!(vps = %plan.vps, run = %plan.run, %why, "copies were not taken back")
            }
        }
        let told = self.remember_copies(plan.vps, &plan.run, op, taken.as_ref());
        if let Err(why) = told {
            tracing::warn!(vps = %plan.vps, %why, "what was taken back could not be remembered");
        }
        taken?;
        Ok(deps.storage.mark_harvested(&plan.root)?)
    }

    /// What comes before the burial of a root that nobody needs, where something is owed of it.
    pub(crate) fn harvest_leftover(&self, burial: &Step, id: &OperationId) -> Result<(), Refusal> {
        let Step::BuryRoot { root, .. } = burial else {
            return Ok(());
        };
        let (_, leftovers) = self.leftovers(id)?;
        for step in leftovers.burials {
            match step {
                Step::Harvest { harvest } if harvest.root == *root => {
                    _ = self.harvest(&harvest, id)?
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn explained(plan: &HarvestPlan, error: HostError) -> Refusal {
    match error {
        HostError::Failed { why, .. } => Refusal::new(
            Code::HarvestFailed,
            format!(
                "copies of declared files in {} could not be taken back: {why}",
                plan.root
            ),
            format!(
                "where its storage is full, give it more room: mayfly dataset set {0} quota=…; to give the copies up: \
                 mayfly stop {0} --discard --force",
                plan.vps
            ),
        ),
        other => other.into(),
    }
}
