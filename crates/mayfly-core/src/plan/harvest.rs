//! Taking back what changed of the copies in a temporary root, before the root is given up (SPEC P4).
//!
//! ```text
//!  root made ──> unharvested (in its mark) ──run is over, harvested──> nothing is left in it ──> buried
//!                     └── no proof, no burial; only whoever destroys the VPS or insists gives it up ──┘
//! ```

use serde::{Deserialize, Serialize};

use super::{PlannedStep, Step};
use crate::documents::VpsDoc;
use crate::error::{Code, Refusal};
use crate::ids::{Incarnation, RunId, VpsId};
use crate::names::{GuestPath, PoolPath};
use crate::observed::{MarkSeen, Observed};
use crate::ports::HarvestOrder;
use crate::run::{IdRange, MountSource};

use super::mounts::{Shown, mount_order, run_mounts, shown_datasets};

/// A root to be harvested, with datasets by their names in the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HarvestPlan {
    /// The VPS.
    pub vps: VpsId,
    /// Which VPS of that number.
    pub incarnation: Incarnation,
    /// The run whose root it is.
    pub run: RunId,
    /// The root.
    pub root: PoolPath,
    /// Datasets at paths and whether they are read-only, parents before children.
    pub mounts: Vec<Shown>,
    /// Host ids.
    pub ids: IdRange,
    /// Where declared paths really live.
    pub storage: GuestPath,
}

impl HarvestPlan {
    /// The runtime's instruction. `source` says where a dataset's contents are.
    pub fn to_order(&self, source: impl Fn(&PoolPath) -> MountSource) -> HarvestOrder {
        HarvestOrder {
            vps: self.vps,
            run: self.run.clone(),
            root: source(&self.root),
            mounts: run_mounts(&self.mounts, &source),
            ids: self.ids,
            storage: self.storage.clone(),
        }
    }
}

/// Whether copies can be taken back into the storage of this VPS: it has one, on a dataset that is mounted writable.
pub(super) fn has_storage(doc: &VpsDoc) -> bool {
    let Some(storage) = &doc.storage else {
        return false;
    };
    let holding = mount_order(&doc.mounts)
        .into_iter()
        .rfind(|mount| storage.below(&mount.path).is_some());
    holding.is_some_and(|mount| !mount.read_only)
}

/// Harvests a temporary root of this VPS; none where there is no way to.
pub(super) fn harvest(doc: &VpsDoc, root: &PoolPath) -> Option<Step> {
    let (_, run) = root.named_temporary_root()?;
    let storage = doc.storage.clone().filter(|_| has_storage(doc))?;
    Some(Step::Harvest {
        harvest: Box::new(HarvestPlan {
            vps: doc.id,
            incarnation: doc.incarnation.clone(),
            run,
            root: root.clone(),
            mounts: shown_datasets(doc),
            ids: doc.ids,
            storage,
        }),
    })
}

/// Whether copies in this root are still to be taken back, by its mark as seen.
pub(super) fn is_owed(seen: &Observed, root: &PoolPath) -> bool {
    let mark = seen.pool.datasets.get(root).map(|dataset| &dataset.mark);
    matches!(mark, Some(MarkSeen::Local(mark)) if mark.unharvested)
}

/// What must be done with the last root before a new run may begin: its copies are older than those of any later root,
/// so that afterwards they could not be taken back any more. `doc` has no run.
pub(super) fn before_a_start(
    doc: &VpsDoc,
    seen: &Observed,
) -> Result<Option<PlannedStep>, Refusal> {
    let Some(root) = doc.last_root.as_ref().filter(|root| is_owed(seen, root)) else {
        return Ok(None);
    };
    let step = harvest(doc, root).ok_or_else(|| no_way(doc, root))?;
    Ok(Some(step.final_because("what was taken back stays")))
}

/// The refusal where the storage is gone that copies are to be taken back into.
pub(super) fn no_way(doc: &VpsDoc, root: &PoolPath) -> Refusal {
    let storage = doc.storage.as_ref();
    let storage = storage.map_or_else(|| "it has none".to_owned(), |path| format!("at {path}"));
    Refusal::new(
        Code::HarvestFailed,
        format!(
            "VPS {}: copies of declared files in its last root {root} were not taken back yet, and its storage \
             ({storage}) is not mounted any more, or only for reading",
            doc.title()
        ),
        format!(
            "mount it again (mayfly mount add {0} …), or give them up: mayfly stop {0} --discard --force",
            doc.id
        ),
    )
}
