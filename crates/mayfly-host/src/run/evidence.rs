//! Is anything of a VPS alive? Nothing in the kernel or in LXC refuses to delete the root of a running guest, or to
//! start a second init on it: this is what is asked before.
//!
//! Three looks: the members of the VPS's cgroups, the supervisors named in the run directories, and the mounts in
//! every mount namespace that any thread lives in. "Could not look" is [`LookError`], never an empty answer.
//!
//! Who has a dataset of the VPS mounted is alive ([`Evidence::Mount`]) unless it is certain that it can be none of the
//! guest's: guests cannot leave their user namespaces, so a process in the daemon's own, which is neither a supervisor nor
//! one of LXC's programs, merely holds a copy of a mount namespace ([`Evidence::Held`]). It keeps what it holds from being
//! destroyed, and nothing else. Such copies are of the guest's namespace: those of the supervisor's lose their mounts when
//! the records of the run are removed, because the kernel takes a mount off whose mount point is removed elsewhere.
//!
//! What the kernel shows nowhere cannot be found here: a mount namespace without a process, which lives by an open file
//! or a bind mount of `/proc/PID/ns/mnt`, and a file that is open on a mount which was taken off. No guest lives in
//! either. ZFS refuses to destroy such a dataset; btrfs does not, and who comes back to it finds it empty.

mod mounts;
mod spaces;

use std::cell::OnceCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mayfly_core::ids::{NodeId, RunId, VpsId};
use mayfly_core::names::PoolPath;
use mayfly_core::run::IdRange;

use self::mounts::{Mounts, Question, Seen};
use super::cgroups::Groups;
use super::paths::RunDir;
use super::proc_text::read_text;
use super::state::{self, Liveness};
use crate::storage::KernelIdentity;

/// A look that failed: neither "alive" nor "nothing there".
#[derive(Debug, thiserror::Error)]
#[error("cannot look at {}: {why}", at.display())]
pub struct LookError {
    /// What was looked at.
    pub at: PathBuf,
    /// What the kernel said.
    pub why: String,
}

impl LookError {
    pub(crate) fn at(path: &Path, error: &io::Error) -> Self {
        Self {
            at: path.to_owned(),
            why: error.to_string(),
        }
    }

    pub(crate) fn unreadable(path: &str, why: &str) -> Self {
        Self {
            at: path.into(),
            why: why.to_owned(),
        }
    }

    pub(crate) fn read(path: &str) -> Result<String, Self> {
        read_text(path).map_err(|e| Self::at(Path::new(path), &e))
    }

    /// The names in a directory; none where the directory does not exist.
    pub(crate) fn list(dir: &Path) -> Result<Vec<String>, Self> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
                return Ok(Vec::new());
            }
            Err(e) => return Err(Self::at(dir, &e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => names.extend(entry.file_name().into_string().ok()),
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => break,
                Err(e) => return Err(Self::at(dir, &e)),
            }
        }
        Ok(names)
    }
}

/// One thing that is alive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// A supervisor that a run directory names.
    Supervisor {
        /// Its process id.
        pid: i32,
        /// Its run.
        run: RunId,
    },
    /// A member of a cgroup of one of the VPS's runs.
    Process {
        /// Its process id.
        pid: i32,
        /// Its run.
        run: RunId,
    },
    /// A mount namespace that shows a dataset of the VPS, with a process that may be the guest's or the run's.
    Mount {
        /// That process.
        pid: i32,
        /// Where it is mounted there.
        at: String,
        /// The dataset, by its present name in the pool.
        dataset: String,
    },
    /// A process of the host that has a dataset of the VPS mounted. It is a sign of nothing but itself.
    Held {
        /// Its process id.
        pid: i32,
        /// The dataset, by its present name in the pool.
        dataset: String,
        /// What it runs.
        command: String,
    },
}

impl Evidence {
    /// The process that the evidence is about.
    pub fn pid(&self) -> i32 {
        match self {
            Self::Supervisor { pid, .. }
            | Self::Process { pid, .. }
            | Self::Mount { pid, .. }
            | Self::Held { pid, .. } => *pid,
        }
    }

    /// Whether something of the VPS is alive.
    pub fn is_alive(&self) -> bool {
        !matches!(self, Self::Held { .. })
    }
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Supervisor { pid, run } => write!(f, "process {pid} supervises run {run}"),
            Self::Process { pid, run } => write!(f, "process {pid} is in a cgroup of run {run}"),
            Self::Mount { pid, at, dataset } => {
                write!(
                    f,
                    "process {pid} sees {} mounted at {}",
                    dataset.escape_debug(),
                    at.escape_debug()
                )
            }
            Self::Held {
                pid,
                dataset,
                command,
            } => {
                write!(
                    f,
                    "process {pid} of the host (`{}`) holds {}",
                    command.escape_debug(),
                    dataset.escape_debug()
                )
            }
        }
    }
}

impl From<Seen> for Evidence {
    fn from(seen: Seen) -> Self {
        let Seen {
            pid, dataset, at, ..
        } = seen;
        match seen.holder {
            None => Self::Mount { pid, at, dataset },
            Some(command) => Self::Held {
                pid,
                dataset,
                command,
            },
        }
    }
}

/// Everything that is alive of one VPS, and who holds its datasets. Nothing alive means: proven to be over. Mounts in the
/// caller's own mount namespace do not count: it knows them.
pub fn observe_evidence(
    node: &NodeId,
    vps: VpsId,
    runs: &Path,
    pool: Option<&KernelIdentity>,
) -> Result<Vec<Evidence>, LookError> {
    let mut found = Vec::new();
    for (run, live) in observe_supervisors(runs, vps)? {
        if let Liveness::Alive(pid) = live {
            found.push(Evidence::Supervisor { pid, run });
        }
    }
    let (groups, _) = Groups::observe(node, Some(vps))?;
    found.extend(
        groups
            .members_by_run()?
            .into_iter()
            .map(|(pid, run)| Evidence::Process { pid, run }),
    );
    if let Some(pool) = pool {
        let owners = Owners::of(runs);
        let question = Question {
            wanted: &|dataset| is_of(dataset, vps),
            owner: &|user| owners.owner(user),
            about: Some(vps),
        };
        let seen = Mounts::of_host(pool).observe(&question)?;
        found.extend(seen.into_iter().map(Evidence::from));
    }
    Ok(found)
}

/// The supervisors of a VPS, as its run directories name them.
pub(crate) fn observe_supervisors(
    runs: &Path,
    vps: VpsId,
) -> Result<Vec<(RunId, Liveness)>, LookError> {
    let mut found = Vec::new();
    for name in LookError::list(runs)? {
        let Some((of, run)) = super::paths::parse_run_name(&name) else {
            continue;
        };
        if of == vps {
            found.push((run, state::observe_supervisor(&runs.join(&name))?));
        }
    }
    Ok(found)
}

/// The host ids of guests, as the directories of their runs tell; read when they are asked for first.
struct Owners<'a> {
    runs: &'a Path,
    ranges: OnceCell<Vec<(VpsId, IdRange)>>,
}

impl<'a> Owners<'a> {
    fn of(runs: &'a Path) -> Self {
        Self {
            runs,
            ranges: OnceCell::new(),
        }
    }

    /// The one VPS that a host id belongs to; none where there is none, or more than one.
    fn owner(&self, user: u32) -> Result<Option<VpsId>, LookError> {
        let ranges = match self.ranges.get() {
            Some(ranges) => ranges,
            None => {
                let ranges = self.read()?;
                self.ranges.get_or_init(|| ranges)
            }
        };
        let mut owners = ranges
            .iter()
            .filter(|(_, ids)| user >= ids.first && user - ids.first < ids.count)
            .map(|(vps, _)| *vps);
        let one = owners.next();
        Ok(one.filter(|one| owners.all(|other| other == *one)))
    }

    fn read(&self) -> Result<Vec<(VpsId, IdRange)>, LookError> {
        let ids = |name: String| {
            let (vps, _) = super::paths::parse_run_name(&name)?;
            // Whose record is lost is not known, and looked at in full.
            let spec = state::read_spec(&RunDir::new(self.runs.join(&name))).ok()?;
            Some((vps, spec.ids))
        };
        Ok(LookError::list(self.runs)?
            .into_iter()
            .filter_map(ids)
            .collect())
    }
}

/// Who has any of these datasets mounted, or something that lies below one: the dataset as it was asked for, and who.
pub fn observe_holders(
    runs: &Path,
    pool: &KernelIdentity,
    datasets: &[PoolPath],
) -> Result<Vec<(PoolPath, Evidence)>, LookError> {
    let asked = |dataset: &str| {
        let seen = PoolPath::from_pool(dataset)?;
        datasets
            .iter()
            .find(|one| seen == **one || seen.is_below(one))
    };
    let owners = Owners::of(runs);
    // No process of a guest lives on what was proven to be given up, so none is an answer in itself.
    let question = Question {
        wanted: &|dataset| asked(dataset).is_some(),
        owner: &|user| owners.owner(user),
        about: None,
    };
    let seen = Mounts::of_host(pool).observe(&question)?;
    Ok(seen
        .into_iter()
        .filter_map(|one| Some((asked(&one.dataset)?.clone(), one.into())))
        .collect())
}

/// Whether a dataset is, or was before its burial, one of the VPS's: `11327`, `11327/nix`, `11327.impermanence-c5a8b7`,
/// `trash/11327:nix.…`, but not `113270`. Names prove nothing, but this is asked to be careful, not to destroy.
/// Graves of the first version have a `+` for the colon.
fn is_of(dataset: &str, vps: VpsId) -> bool {
    dataset
        .strip_prefix("trash/")
        .unwrap_or(dataset)
        .strip_prefix(&vps.to_string())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.', ':', '+']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_of_a_vps_are_told_from_those_of_its_neighbours() {
        let vps = 11327.try_into().unwrap();
        for own in [
            "11327",
            "11327/nix",
            "11327.impermanence-c5a8b7",
            "11327.rescue-c5a8b7",
            "trash/11327.0193f0",
            "trash/11327.impermanence-c5a8b7.0193f0",
            "trash/11327:nix.0193f0",
            "trash/11327+nix.0193f0",
            "trash/11327.0193f0/nix",
        ] {
            assert!(is_of(own, vps), "{own}");
        }
        for other in [
            "",
            "113270",
            "1132/7",
            "trash",
            "trash/113270.0193f0",
            "templates/11327",
            "trash/trash/11327",
        ] {
            assert!(!is_of(other, vps), "{other}");
        }
    }
}
