//! Is anything of a VPS alive? Nothing in the kernel or in LXC refuses to delete the root of a running guest, or to
//! start a second init on it: this is what is asked before.
//!
//! Three looks: the members of the VPS's cgroups, the supervisors named in the run directories, and the mounts in
//! every mount namespace that any process lives in. "Could not look" is [`LookError`], never an empty answer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mayfly_core::ids::{NodeId, RunId, VpsId};

use super::cgroups::Groups;
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
        fs::read_to_string(path).map_err(|e| Self::at(Path::new(path), &e))
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
    /// A mount namespace that shows a dataset of the VPS.
    Mount {
        /// A process in that namespace.
        pid: i32,
        /// Where it is mounted there.
        at: String,
        /// Which directory of the pool.
        root: String,
    },
}

impl Evidence {
    /// The process that the evidence is about.
    pub fn pid(&self) -> i32 {
        match self {
            Self::Supervisor { pid, .. } | Self::Process { pid, .. } | Self::Mount { pid, .. } => {
                *pid
            }
        }
    }
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Supervisor { pid, run } => write!(f, "process {pid} supervises run {run}"),
            Self::Process { pid, run } => write!(f, "process {pid} is in a cgroup of run {run}"),
            Self::Mount { pid, at, root } => {
                write!(
                    f,
                    "process {pid} sees {} mounted at {}",
                    root.escape_debug(),
                    at.escape_debug()
                )
            }
        }
    }
}

/// Everything that is alive of one VPS. Empty means: proven to be over. Mounts in the caller's own
/// mount namespace do not count: it knows them.
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
        found.extend(observe_mounts(vps, pool)?);
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

/// The mount namespaces, other than the caller's own, that show a dataset of the VPS.
fn observe_mounts(vps: VpsId, pool: &KernelIdentity) -> Result<Vec<Evidence>, LookError> {
    let own = fs::read_link("/proc/self/ns/mnt")
        .map_err(|e| LookError::at(Path::new("/proc/self/ns/mnt"), &e))?;
    let own_first = first_mount_id(&LookError::read("/proc/self/mountinfo")?).map(str::to_owned);
    // One process of each namespace. It may end between the two looks, so all of them are kept.
    let mut namespaces: BTreeMap<PathBuf, Vec<i32>> = BTreeMap::new();
    for name in LookError::list(Path::new("/proc"))? {
        let Ok(pid) = name.parse::<i32>() else {
            continue;
        };
        let link = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
        match fs::read_link(&link) {
            Ok(namespace) if namespace != own => namespaces.entry(namespace).or_default().push(pid),
            Ok(_) => {}
            Err(e) if process_gone(&e) => {}
            // A process with more capabilities than this one hides the link, but not its mounts.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                namespaces.entry(link).or_default().push(pid)
            }
            Err(e) => return Err(LookError::at(&link, &e)),
        }
    }
    let mut found = Vec::new();
    for pids in namespaces.values() {
        for &pid in pids {
            let file = PathBuf::from(format!("/proc/{pid}/mountinfo"));
            match fs::read(&file) {
                // A process that is ending has no mount namespace any more, and shows an empty list.
                Ok(text) if text.is_empty() => {}
                Ok(text) => {
                    let text = String::from_utf8_lossy(&text);
                    // Mount ids are unique on the host: the same first mount is the same namespace.
                    if first_mount_id(&text) == own_first.as_deref() {
                        break;
                    }
                    let shown = parse_mounts(&text, vps, pool);
                    found.extend(shown.map(|(at, root)| Evidence::Mount { pid, at, root }));
                    break;
                }
                Err(e) if process_gone(&e) => {}
                Err(e) => return Err(LookError::at(&file, &e)),
            }
        }
    }
    Ok(found)
}

fn first_mount_id(mountinfo: &str) -> Option<&str> {
    mountinfo.split(' ').next().filter(|id| !id.is_empty())
}

/// A process that ended, or is a zombie: what it had is gone.
fn process_gone(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::EINVAL)
    )
}

/// Where datasets of `vps` are mounted, and which.
fn parse_mounts<'a>(
    mountinfo: &'a str,
    vps: VpsId,
    pool: &'a KernelIdentity,
) -> impl Iterator<Item = (String, String)> + 'a {
    let number = vps.to_string();
    mountinfo.lines().filter_map(move |line| {
        let shown = pool.shown_in(line)?;
        let rest = shown.what.strip_prefix(&number)?;
        // 11327, 11327/nix and 11327.impermanence-c5a8b7, but not 113270.
        let ours = rest.is_empty() || rest.starts_with(['/', '.']);
        ours.then(|| (shown.at.to_owned(), shown.what.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_vps_are_told_from_those_of_its_neighbours() {
        let pool = KernelIdentity::FileSystem {
            device: "0:39".into(),
            root: "/".into(),
        };
        let text = "\
88 64 0:39 /11327.impermanence-c5a8b7/private / rw shared:1 - btrfs /dev/loop0 rw
89 88 0:39 /11327/nix/private /nix rw - btrfs /dev/loop0 rw
90 88 0:39 /113270/private /x rw - btrfs /dev/loop0 rw
91 88 0:40 /11327/private /y rw - btrfs /dev/loop1 rw
92 88 0:39 / /pool rw - btrfs /dev/loop0 rw
";
        let seen: Vec<_> = parse_mounts(text, 11327.try_into().unwrap(), &pool)
            .map(|(at, _)| at)
            .collect();
        assert_eq!(seen, ["/", "/nix"]);
        let deeper = KernelIdentity::FileSystem {
            device: "0:39".into(),
            root: "/tank".into(),
        };
        let text = "88 64 0:39 /tank/11327/private / rw - btrfs x rw\n";
        assert_eq!(
            parse_mounts(text, 11327.try_into().unwrap(), &deeper).count(),
            1
        );
    }
}
