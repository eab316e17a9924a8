//! Ending what is alive of a VPS in any form, also when its supervisor or its run directory is gone.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_core::ids::{NodeId, RunId, VpsId};
use mayfly_core::names::PoolPath;
use mayfly_core::run::{RunEnd, RunPhase};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::apparmor;
use super::cgroups::Groups;
use super::evidence::{self, Evidence, LookError};
use super::paths::{RunDir, container_name, parse_run_name, run_name};
use super::state::{self, Liveness, read_state, replace};
use crate::storage::KernelIdentity;
use crate::sys::process::signal;

/// How long nothing but what may not be killed is waited for: it may be about to end by itself.
const PATIENCE: Duration = Duration::from_secs(2);
/// The first pause between two looks, and the longest: each reads every mount table of the host.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// The runs of one node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Which node.
    pub node: NodeId,
    /// The directory of run directories: `<vps>.<run>`.
    pub runs: PathBuf,
    /// Where datasets of the pool appear in mount tables. None: mounts are not looked at.
    pub pool: Option<KernelIdentity>,
}

/// What a sweep did. All empty: there was nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Everything that was found alive, and is not any more.
    pub ended: BTreeSet<Evidence>,
    /// Runs whose state said something else than ended.
    pub closed: BTreeSet<RunId>,
}

/// Why a sweep is not complete: the VPS is not proven to be over.
#[derive(Debug, thiserror::Error)]
pub enum SweepTrouble {
    /// Nobody could look.
    #[error(transparent)]
    Blind(#[from] LookError),
    /// It is alive still.
    #[error("{0}")]
    Alive(Evidence),
    /// A cgroup, or a file of a run, could not be put in order.
    #[error("cannot tidy up {}", at.display())]
    Untidy {
        /// What.
        at: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

impl Node {
    /// The directory of a run.
    pub fn run_dir(&self, vps: VpsId, run: &RunId) -> RunDir {
        RunDir::new(self.runs.join(run_name(vps, run)))
    }

    /// What is alive of a VPS, and who holds its datasets. Nothing alive means: proven to be over.
    pub fn observe_evidence(&self, vps: VpsId) -> Result<Vec<Evidence>, LookError> {
        evidence::observe_evidence(&self.node, vps, &self.runs, self.pool.as_ref())
    }

    /// Who has any of these datasets mounted, or something below them.
    pub fn observe_holders(
        &self,
        datasets: &[PoolPath],
    ) -> Result<Vec<(PoolPath, Evidence)>, LookError> {
        match &self.pool {
            None => Ok(Vec::new()),
            Some(pool) => evidence::observe_holders(&self.runs, pool, datasets),
        }
    }

    /// Every run that has left anything, alive or not: in cgroups and run directories.
    pub fn observe_runs(&self) -> Result<BTreeSet<(VpsId, RunId)>, LookError> {
        let (_, mut runs) = Groups::observe(&self.node, None)?;
        runs.extend(
            LookError::list(&self.runs)?
                .iter()
                .filter_map(|name| parse_run_name(name)),
        );
        Ok(runs)
    }

    /// Kills what is alive of a VPS, waits for its death, removes its cgroups, and closes the records of its runs.
    /// `Ok` is a proof that nothing is alive; after an error it may be repeated. Finding nothing is fine.
    pub fn sweep(&self, vps: VpsId, within: Duration) -> Result<SweepReport, Vec<SweepTrouble>> {
        let mut report = SweepReport::default();
        let alive = self
            .end_all(vps, within, &mut report)
            .map_err(|e| vec![e.into()])?;
        let mut troubles: Vec<_> = alive.into_iter().map(SweepTrouble::Alive).collect();
        match Groups::observe(&self.node, Some(vps)) {
            Ok((groups, _)) => {
                let stayed = groups.remove(Duration::from_secs(5)).into_iter();
                troubles.extend(stayed.map(|(at, cause)| SweepTrouble::Untidy { at, cause }));
            }
            Err(e) => troubles.push(e.into()),
        }
        if troubles.is_empty() {
            let left = apparmor::forget(&container_name(&self.node, vps)).into_iter();
            troubles.extend(left.map(|(at, cause)| SweepTrouble::Untidy { at, cause }));
            self.close_records(vps, &mut report, &mut troubles);
        }
        if troubles.is_empty() {
            Ok(report)
        } else {
            Err(troubles)
        }
    }

    /// Kills until nothing is found, or nothing that may be killed, or the time is up; gives back what is alive then.
    fn end_all(
        &self,
        vps: VpsId,
        within: Duration,
        report: &mut SweepReport,
    ) -> Result<Vec<Evidence>, LookError> {
        let end = Instant::now() + within;
        let own = i32::try_from(std::process::id()).ok();
        let (mut pause, mut idle_since) = (PAUSES.0, None);
        loop {
            let mut alive = self.observe_evidence(vps)?;
            // Who of the host holds a dataset is nobody's to end, and not waited for.
            alive.retain(Evidence::is_alive);
            if alive.is_empty() || Instant::now() >= end {
                return Ok(alive);
            }
            if alive.iter().any(|one| may_be_killed(one, own)) {
                idle_since = None;
            } else if idle_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                return Ok(alive);
            }
            report.ended.extend(alive.iter().cloned());
            // Supervisors first: they would end their run in their own way meanwhile.
            for (run, live) in evidence::observe_supervisors(&self.runs, vps)? {
                if let Liveness::Alive(pid) = live {
                    let dir = self.run_dir(vps, &run);
                    kill_if(pid, || {
                        state::observe_supervisor(dir.path()).is_ok_and(|now| now == live)
                    });
                }
            }
            let (groups, _) = Groups::observe(&self.node, Some(vps))?;
            groups.kill(own, end.saturating_duration_since(Instant::now()))?;
            for one in &alive {
                if matches!(one, Evidence::Mount { .. }) && may_be_killed(one, own) {
                    kill_if(one.pid(), || {
                        self.observe_evidence(vps)
                            .is_ok_and(|now| now.contains(one))
                    });
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// A supervisor that was killed could not write how its run ended.
    fn close_records(
        &self,
        vps: VpsId,
        report: &mut SweepReport,
        troubles: &mut Vec<SweepTrouble>,
    ) {
        let names = match LookError::list(&self.runs) {
            Ok(names) => names,
            Err(e) => return troubles.push(e.into()),
        };
        for (_, run) in names
            .iter()
            .filter_map(|name| parse_run_name(name))
            .filter(|(of, _)| *of == vps)
        {
            let dir = self.run_dir(vps, &run);
            let Ok(mut state) = read_state(&dir) else {
                continue;
            };
            if state.phase == RunPhase::Ended {
                continue;
            }
            state.phase = RunPhase::Ended;
            state.end = Some(RunEnd::Crashed {
                detail: "the supervisor died; what it left was swept".into(),
            });
            let written = serde_json::to_vec_pretty(&state).map_err(io::Error::from);
            match written.and_then(|text| replace(&dir.state(), &text)) {
                Ok(()) => drop(report.closed.insert(run)),
                Err(cause) => troubles.push(SweepTrouble::Untidy {
                    at: dir.state(),
                    cause,
                }),
            }
            for path in [dir.control_socket(), dir.console_socket(), dir.report()] {
                remove_if_there(&path, troubles);
            }
        }
    }
}

/// Members of a run's cgroups, and its supervisor. A process that may be the guest's and whose own `/` is the VPS's belongs
/// to it too, wherever its cgroup is; one that has such a mount elsewhere may be somebody else's, and is reported.
fn may_be_killed(one: &Evidence, own: Option<i32>) -> bool {
    match one {
        Evidence::Supervisor { .. } | Evidence::Process { .. } => true,
        Evidence::Mount { pid, at, .. } => at == "/" && Some(*pid) != own,
        Evidence::Held { .. } => false,
    }
}

fn remove_if_there(path: &Path, troubles: &mut Vec<SweepTrouble>) {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            troubles.push(SweepTrouble::Untidy {
                at: path.to_owned(),
                cause,
            });
        }
        _ => {}
    }
}

/// Kills a process if `still` holds after a descriptor of it was taken: its id may belong to another by now.
fn kill_if(pid: i32, still: impl FnOnce() -> bool) {
    let Some(Ok(pidfd)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        return;
    };
    if still() {
        let _ = signal(pidfd.as_fd(), libc::SIGKILL);
    }
}
