//! Giving a plan up while it is carried out: up to where that is possible, what cuts the step that is under way short,
//! and how long a step may take.
//!
//! ```text
//!  restart:   halt the run │ record │ make a root │ record │ launch │ wait for init │ record, bury the last root
//!             <──────────────── somebody may cancel, the VPS is stopped then ──────>  too late
//!  destroy:   record │ bury …                          dataset create:  record │ make it
//!             too late from its first step on                           <─────>  too late
//! ```

use std::time::Duration;

use super::{Plan, PlannedStep, Step, Undo};
use crate::documents::Request;
use crate::ids::{RunId, VpsId};

/// Who wants an operation to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Somebody who asked for that very operation not to be.
    Somebody,
    /// Somebody who wants the VPS stopped at once, whatever it is at.
    ForcedStop,
}

/// What has a step that is under way come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It does so by itself, before long.
    Itself,
    /// The end of the run that it waits for.
    KillRun {
        /// The VPS.
        vps: VpsId,
        /// The run.
        run: RunId,
    },
    /// It looks now and then whether it is still wanted.
    Tell,
}

/// What asks the host for one thing, or for a few.
const SHORT: Duration = Duration::from_secs(120);
/// How long killing and sweeping may take on top of what a guest was given.
const KILL: Duration = Duration::from_secs(90);
/// Packages are downloaded and installed in emulated machines too.
const LONG: Duration = Duration::from_secs(2 * 3600);

impl Step {
    /// After so long it should have come to its end, one way or the other. A step that has not is told of, and its VPS
    /// takes no more changes until it has: the host hangs, and whatever was done meanwhile could be undone by it.
    pub fn deadline(&self) -> Duration {
        match self {
            Self::EndRun { halt_ms, .. } => {
                KILL.saturating_add(Duration::from_millis(halt_ms.unwrap_or(0)))
            }
            Self::AwaitInit { deadline_ms, .. } | Self::AwaitHealth { deadline_ms, .. } => {
                KILL.saturating_add(Duration::from_millis(*deadline_ms))
            }
            Self::BuildTemplate { .. }
            | Self::ImportTemplate { .. }
            | Self::PullTemplate { .. }
            | Self::CopyTree { .. } => LONG,
            // What it destroys may be many files.
            Self::TakeOut { .. } => LONG,
            Self::CreateDataset { .. }
            | Self::Harvest { .. }
            | Self::SetQuota { .. }
            | Self::PrepareTree { .. }
            | Self::Record { .. }
            | Self::SetLimits { .. }
            | Self::ShowMount { .. }
            | Self::HideMount { .. }
            | Self::Launch { .. }
            | Self::BuryRoot { .. }
            | Self::BuryData { .. }
            | Self::Exchange { .. }
            | Self::BuryTemplate { .. }
            | Self::ForgetRuns { .. }
            | Self::Reap { .. }
            | Self::RecordTemplate { .. } => SHORT,
        }
    }

    /// What cuts it short.
    pub fn cut(&self, who: Asks) -> Cut {
        match self {
            Self::AwaitInit { vps, run, .. } => Cut::KillRun {
                vps: *vps,
                run: run.clone(),
            },
            // A guest that was asked to halt may go on with that, unless somebody is in a hurry.
            Self::EndRun {
                vps,
                run: Some(run),
                halt_ms: Some(_),
            } if who == Asks::ForcedStop => Cut::KillRun {
                vps: *vps,
                run: run.clone(),
            },
            Self::BuildTemplate { .. }
            | Self::ImportTemplate { .. }
            | Self::PullTemplate { .. }
            | Self::CopyTree { .. }
            | Self::AwaitHealth { .. } => Cut::Tell,
            _ => Cut::Itself,
        }
    }

    /// Whether nothing is lost or changed for good before it has come to its end.
    fn is_waiting(&self) -> bool {
        matches!(
            self,
            Self::AwaitInit { .. }
                | Self::BuildTemplate { .. }
                | Self::ImportTemplate { .. }
                | Self::PullTemplate { .. }
                | Self::CopyTree { .. }
                | Self::AwaitHealth { .. }
        )
    }
}

impl Plan {
    /// Whether it can be given up while its step `at` is under way.
    pub fn gives_way(&self, at: usize, who: Asks) -> bool {
        let last = |is: &dyn Fn(&Step) -> bool| self.steps.iter().rposition(|p| is(&p.step));
        let ends_run = |step: &Step| matches!(step, Step::EndRun { run: Some(_), .. });
        if who == Asks::ForcedStop {
            let last = last(&|step| step.is_waiting() || ends_run(step));
            return last.is_some_and(|last| at <= last);
        }
        match last(&Step::is_waiting) {
            Some(last) => at <= last,
            // The last step of those is over before long, and what it makes of a VPS that runs cannot be buried.
            None => {
                let mut begun = self.steps.iter().take(at + 1);
                at + 1 < self.steps.len() && begun.all(PlannedStep::can_be_undone)
            }
        }
    }

    /// Where the steps may have come to that a journal tells of up to `steps_done`, the one after that included.
    pub fn may_have_reached(&self, steps_done: usize) -> usize {
        let later = self.steps.iter().skip(steps_done);
        let later = later.take_while(|p| p.step.is_journalled_later());
        (steps_done + later.count() + 1).min(self.steps.len())
    }
}

impl PlannedStep {
    fn can_be_undone(&self) -> bool {
        matches!(self.undo, Undo::Step(_))
    }
}

impl Request {
    /// Whether it makes way where the VPS is to be stopped at once: what it wants is not wanted any more.
    pub fn makes_way_for_a_forced_stop(&self) -> bool {
        matches!(
            self,
            Self::Start { .. } | Self::Stop { .. } | Self::Restart { .. } | Self::Rescue { .. }
        )
    }

    /// Whether the VPS is not to run once this was cancelled: who cancels a start does not want another.
    pub fn is_a_start(&self) -> bool {
        matches!(
            self,
            Self::Start { .. } | Self::Restart { .. } | Self::Rescue { .. }
        )
    }

    /// Whether the VPS is not to run when this is done.
    pub fn is_a_rest(&self) -> bool {
        matches!(self, Self::Stop { .. } | Self::Destroy { .. })
    }
}
