//! Destroy: the run ends, everything goes to the graveyard, the record goes last.

use super::parts::{bury_data, old_roots};
use super::reinstall_kept::bury_asides;
use super::{Plan, PlanContext, Step};
use crate::documents::{Desired, Lifecycle, VpsDoc};
use crate::error::{Code, LookFailed, Refusal};
use crate::names::{DatasetName, PoolPath};
use crate::observed::{MarkSeen, Observed, Role};

const NO_WAY_BACK: &str = "a destroy goes on until it is done";

/// Destroys the VPS. Refused while anything lies below its datasets that this incarnation did not make.
pub fn plan_destroy(
    doc: &VpsDoc,
    seen: &Observed,
    now: bool,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    let root = doc.pool_path(&DatasetName::root());
    // No dataset of the pool has the empty name, so none is spared.
    let none = PoolPath::grave("");
    let mut burials = old_roots(doc, seen, &none, true, ctx);
    let in_temporary_root = |name: &PoolPath| {
        burials
            .iter()
            .any(|step| matches!(step, Step::BuryRoot { root, .. } if name.is_below(root)))
    };
    for (name, dataset) in &seen.pool.datasets {
        let in_root_of_a_run = in_temporary_root(name);
        let within = *name == root || name.is_below(&root) || in_root_of_a_run;
        let named_root = name
            .named_root_of_a_run()
            .is_some_and(|(id, _)| id == doc.id)
            || name.named_aside() == Some(doc.id);
        if let (true, MarkSeen::Unreadable(why)) = (within || named_root, &dataset.mark) {
            // Once the record is gone, nobody could prove any more whose it is.
            return Err(LookFailed::new(format!("the mark of {name}"), why).into());
        }
        if !within {
            continue;
        }
        // A rescue system has parts of its own below its root; nothing else that lies in one is made by a VPS.
        let role = match in_root_of_a_run {
            true => Role::Temporary,
            false => Role::Persistent,
        };
        let ours = match &dataset.mark {
            MarkSeen::Local(m) => {
                m.node == ctx.node
                    && m.owner == Some((doc.id, doc.incarnation.clone()))
                    && m.role == role
                    && m.made_as == *name
            }
            _ => false,
        };
        if !ours {
            return Err(Refusal::new(
                Code::NotOurs,
                format!(
                    "VPS {} is not destroyed: dataset {name} bears no mark of it",
                    doc.title()
                ),
                "move that dataset out of the VPS's, then destroy again",
            ));
        }
    }
    let mut going = doc.clone();
    going.lifecycle = Lifecycle::Destroying;
    going.desired = Desired::Stopped;
    let record = |what: &str, doc: Option<Box<VpsDoc>>, vps| {
        Step::Record {
            vps,
            what: what.into(),
            doc,
        }
        .final_because(NO_WAY_BACK)
    };
    let mut steps = vec![
        record("it is being destroyed", Some(Box::new(going)), doc.id),
        Step::EndRun {
            vps: doc.id,
            run: None,
            halt_ms: None,
        }
        .final_because(NO_WAY_BACK),
    ];
    let mut graves = Vec::new();
    burials.extend(bury_asides(doc, seen, ctx));
    if seen.pool.datasets.contains_key(&root) {
        burials.push(bury_data(doc, &root, ctx));
    }
    for step in burials {
        if let Step::BuryRoot { grave, .. } | Step::BuryData { grave, .. } = &step {
            graves.push(grave.clone());
        }
        steps.push(step.final_because(NO_WAY_BACK));
    }
    steps.push(
        Step::ForgetRuns {
            vps: doc.id,
            keep: None,
            console: true,
        }
        .final_because(NO_WAY_BACK),
    );
    steps.push(record("it is gone", None, doc.id));
    if now && !graves.is_empty() {
        steps.push(Step::Reap { graves }.final_because(NO_WAY_BACK));
    }
    Ok(Plan { steps })
}
