//! Mounts of a run that goes on: what is shown at once, and what only the next start shows.
//!
//! The document is what counts: a run that ends meanwhile, or one that was undone half-way, is followed by a start that shows
//! what is recorded. A step here only brings the living run to where that start would be.

use super::mounts::{Shown, mount_order};
use super::parts::running;
use super::rescue::{RESCUE_ROOT, place_one};
use super::{PlanContext, PlannedStep, Step};
use crate::documents::{CurrentRun, Mount, VpsDoc};
use crate::error::{Code, Refusal};
use crate::names::GuestPath;
use crate::observed::Observed;

/// A mount as the run that goes on has it, or is to have it.
pub(super) struct Live {
    run: CurrentRun,
    /// Where it is there.
    at: Mount,
    /// Whether it is elsewhere than at its usual path, because it would hide a rescue system.
    moved: bool,
}

impl Live {
    /// What the living run is to show of a mount that `doc` gets; nothing where it is stopped, or where only the next start
    /// shows it.
    pub(super) fn to_add(
        doc: &VpsDoc,
        seen: &Observed,
        mount: &Mount,
        ctx: &PlanContext,
    ) -> Result<Option<Self>, Refusal> {
        refuse_remains(doc, seen)?;
        let Some(run) = doc.run.clone().filter(|_| running(doc, seen)) else {
            return Ok(None);
        };
        let (at, moved) = match &run.rescue {
            // A rescue system has it at one place and nowhere else.
            Some(_) if mount.dataset.is_root() => return Ok(None),
            Some(rescue) => {
                let template = ctx.templates.iter().find(|t| t.name == rescue.template);
                place_one(doc, template, rescue.root_at.as_ref(), mount)?
            }
            None => (mount.clone(), false),
        };
        check_storage(doc, &run, &at.path)?;
        let shown = shown(doc, &run);
        if let Some(other) = shown.iter().find(|m| m.path.below(&at.path).is_some()) {
            return Err(covers(doc, &at.path, &other.path, "would hide it"));
        }
        Ok(Some(Self { run, at, moved }))
    }

    /// What the living run is to hide of a mount that `doc` loses.
    pub(super) fn to_remove(
        doc: &VpsDoc,
        seen: &Observed,
        mount: &Mount,
    ) -> Result<Option<Self>, Refusal> {
        refuse_remains(doc, seen)?;
        let Some(run) = doc.run.clone().filter(|_| running(doc, seen)) else {
            return Ok(None);
        };
        let at = match &run.rescue {
            None => Some(mount.clone()),
            Some(rescue) => {
                let aside = format!("{RESCUE_ROOT}{}", mount.path);
                let mut all = rescue.mounts.iter().filter(|m| {
                    m.dataset == mount.dataset
                        && !m.dataset.is_root()
                        && (m.path == mount.path || m.path.as_str() == aside)
                });
                all.next().cloned()
            }
        };
        let Some(at) = at else {
            return Ok(None);
        };
        check_storage(doc, &run, &at.path)?;
        let shown = shown(doc, &run);
        let inside = |m: &&Mount| m.path != at.path && m.path.below(&at.path).is_some();
        if let Some(other) = shown.iter().find(inside) {
            return Err(covers(doc, &at.path, &other.path, "would go with it"));
        }
        let moved = at.path != mount.path;
        Ok(Some(Self { run, at, moved }))
    }

    /// Shows it; the undo hides it.
    pub(super) fn show(&self, doc: &VpsDoc) -> PlannedStep {
        self.show_step(doc).undone_by(self.hide_step(doc))
    }

    /// Hides it; the undo shows it again.
    pub(super) fn hide(&self, doc: &VpsDoc) -> PlannedStep {
        self.hide_step(doc).undone_by(self.show_step(doc))
    }

    fn show_step(&self, doc: &VpsDoc) -> Step {
        Step::ShowMount {
            vps: doc.id,
            run: self.run.run.clone(),
            mount: self.mount(doc),
        }
    }

    fn hide_step(&self, doc: &VpsDoc) -> Step {
        Step::HideMount {
            vps: doc.id,
            run: self.run.run.clone(),
            mount: self.mount(doc),
        }
    }

    fn mount(&self, doc: &VpsDoc) -> Shown {
        let Mount {
            dataset,
            path,
            read_only,
        } = self.at.clone();
        (doc.pool_path(&dataset), path, read_only)
    }

    /// Has a document say what its rescue system shows once this is shown.
    pub(super) fn note_shown(&self, doc: &mut VpsDoc, usual: &GuestPath) {
        if let Some(rescue) = doc.run.as_mut().and_then(|run| run.rescue.as_mut()) {
            rescue.mounts.push(self.at.clone());
            rescue.mounts = mount_order(&rescue.mounts);
            if self.moved {
                rescue.moved.push(usual.clone());
            }
        }
    }

    /// The same once it is hidden.
    pub(super) fn note_hidden(&self, doc: &mut VpsDoc, usual: &GuestPath) {
        if let Some(rescue) = doc.run.as_mut().and_then(|run| run.rescue.as_mut()) {
            rescue.mounts.retain(|m| *m != self.at);
            if self.moved {
                rescue.moved.retain(|path| path != usual);
            }
        }
    }
}

/// What lives without a record of its run cannot be reached, nor is it known what it shows.
pub(super) fn refuse_remains(doc: &VpsDoc, seen: &Observed) -> Result<(), Refusal> {
    if doc.run.is_some() || !seen.is_alive() {
        return Ok(());
    }
    Err(Refusal::new(
        Code::VpsRunning,
        format!(
            "something of VPS {} is alive, and no run of it is recorded",
            doc.title()
        ),
        format!("end it: mayfly stop {}", doc.id),
    ))
}

/// What the run that goes on shows.
fn shown<'a>(doc: &'a VpsDoc, run: &'a CurrentRun) -> &'a [Mount] {
    run.rescue
        .as_ref()
        .map_or(&doc.mounts, |rescue| &rescue.mounts)
}

/// What was placed in a temporary root is taken back by a record in its storage, found by where the mounts of the run are.
fn check_storage(doc: &VpsDoc, run: &CurrentRun, at: &GuestPath) -> Result<(), Refusal> {
    let placed = run.rescue.is_none() && run.root.named_temporary_root().is_some();
    let Some(storage) = doc.storage.as_ref().filter(|_| placed) else {
        return Ok(());
    };
    if at.below(storage).is_none() && storage.below(at).is_none() {
        return Ok(());
    }
    Err(Refusal::new(
        Code::VpsRunning,
        format!(
            "VPS {} is running, and what it declared to stay is kept at {storage}: the mount at {at} cannot change now",
            doc.title()
        ),
        format!("stop it first: mayfly stop {}", doc.id),
    ))
}

fn covers(doc: &VpsDoc, at: &GuestPath, other: &GuestPath, why: &str) -> Refusal {
    Refusal::new(
        Code::MountPointRefused,
        format!(
            "VPS {} is running with a mount at {other}, and the one at {at} {why}",
            doc.title()
        ),
        format!(
            "remove that first: mayfly mount remove {} {other}; or stop the VPS",
            doc.id
        ),
    )
}
