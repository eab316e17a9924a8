//! The cgroups of runs: made, found, emptied, removed; on cgroup v1, v2 and both at once.
//!
//! `mayfly-<node>/<vps>.<run>` exists in every hierarchy, below the place where LXC starts counting (the cgroup of
//! the host's process 1). What is in there belongs to that run. A file that vanished while it was read means that
//! its owner is gone; any other failure means that nobody could look, which is an error.

mod tree;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_core::ids::{NodeId, RunId, VpsId};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::evidence::LookError;
use super::paths::{node_cgroup, parse_run_name, run_name};
use super::proc_text::read_text;
use crate::sys::process::signal;

/// How long to wait between two looks at cgroups that are being emptied.
const PAUSE: Duration = Duration::from_millis(2);

/// One hierarchy, where it is mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The directory below which runs have their cgroups.
    pub base: PathBuf,
    /// The controllers of a v1 hierarchy; none for v2.
    pub v1: Option<Vec<String>>,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.v1
            .as_ref()
            .is_some_and(|all| all.iter().any(|one| one == controller))
    }

    /// Whether service managers find the processes of a service by this hierarchy.
    fn tracks_services(&self) -> bool {
        self.v1.is_none() || self.has("name=systemd")
    }
}

/// The hierarchies of this host.
pub fn observe_hierarchies() -> Result<Vec<Hierarchy>, LookError> {
    let mounts = LookError::read("/proc/self/mountinfo")?;
    let init = LookError::read("/proc/1/cgroup")?;
    let found = parse_hierarchies(&mounts, &init);
    if found.is_empty() {
        return Err(LookError::unreadable(
            "/proc/self/mountinfo",
            "no cgroup hierarchy is mounted",
        ));
    }
    Ok(found)
}

/// The hierarchies in `mountinfo`, each once, with the cgroup of process 1 added as LXC does.
fn parse_hierarchies(mountinfo: &str, init_cgroups: &str) -> Vec<Hierarchy> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (&[_, _, device, root, at, ..], &[kind, _, options, ..]) = (&left[..], &right[..])
        else {
            continue;
        };
        let v1 = match kind {
            "cgroup" => Some(controllers_of(options)),
            "cgroup2" => None,
            _ => continue,
        };
        if !seen.insert(device) {
            continue;
        }
        let home = init_home(init_cgroups, v1.as_deref());
        let below = home.strip_prefix(root).unwrap_or(home).trim_matches('/');
        found.push(Hierarchy {
            base: Path::new(at).join(below),
            v1,
        });
    }
    found
}

fn controllers_of(options: &str) -> Vec<String> {
    let flags = ["rw", "ro", "xattr", "noprefix", "clone_children", "none"];
    options
        .split(',')
        .filter(|o| !flags.contains(o) && !o.starts_with("release_agent="))
        .map(str::to_owned)
        .collect()
}

/// The cgroup of process 1 in one hierarchy, without the `init.scope` that systemd puts itself into.
fn init_home<'a>(init_cgroups: &'a str, v1: Option<&[String]>) -> &'a str {
    for line in init_cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let same = match v1 {
            None => names.is_empty(),
            Some(controllers) => names
                .split(',')
                .any(|name| controllers.iter().any(|c| c == name)),
        };
        if same {
            return path.strip_suffix("/init.scope").unwrap_or(path);
        }
    }
    "/"
}

/// The cgroups of one run, or of every run of one VPS, or of all runs of a node.
#[derive(Clone, Debug)]
pub struct Groups {
    tops: Vec<(Hierarchy, PathBuf)>,
}

impl Groups {
    /// Makes the cgroups of a run, so that LXC finds their parents and nobody removes those under it.
    pub fn create(node: &NodeId, vps: VpsId, run: &RunId) -> io::Result<Self> {
        let mut tops = Vec::new();
        for hierarchy in observe_hierarchies().map_err(io::Error::other)? {
            let parent = hierarchy.base.join(node_cgroup(node));
            let top = parent.join(run_name(vps, run));
            // The parent may be removed by the end of the node's last other run, between the two calls.
            for attempt in 0.. {
                let made = make_cgroup(&hierarchy, &parent)
                    .and_then(|()| make_cgroup(&hierarchy, &top))
                    .and_then(|()| bound_descendants(&hierarchy, &top));
                match made {
                    Err(e) if gone(&e) && attempt < 100 => {}
                    Err(e) => {
                        return Err(io::Error::new(
                            e.kind(),
                            format!("cannot make {}: {e}", top.display()),
                        ));
                    }
                    Ok(()) => break,
                }
            }
            tops.push((hierarchy, top));
        }
        Ok(Self { tops })
    }

    /// What exists now of the runs of a node.
    pub fn observe(
        node: &NodeId,
        vps: Option<VpsId>,
    ) -> Result<(Self, BTreeSet<(VpsId, RunId)>), LookError> {
        let mut tops = Vec::new();
        let mut runs = BTreeSet::new();
        for hierarchy in observe_hierarchies()? {
            let parent = hierarchy.base.join(node_cgroup(node));
            for name in LookError::list(&parent)? {
                let Some((of, run)) = parse_run_name(&name) else {
                    continue;
                };
                if vps.is_none_or(|wanted| wanted == of) {
                    tops.push((hierarchy.clone(), parent.join(&name)));
                    runs.insert((of, run));
                }
            }
        }
        Ok((Self { tops }, runs))
    }

    /// The processes in these cgroups, those of sub-cgroups included.
    pub fn members(&self) -> Result<BTreeSet<i32>, LookError> {
        let mut pids = BTreeSet::new();
        for (_, top) in &self.tops {
            tree::for_each(top, |cgroup| {
                let listed = tree::read(cgroup, "cgroup.procs")?.unwrap_or_default();
                pids.extend(parse_pids(&listed));
                Ok(())
            })?;
        }
        Ok(pids)
    }

    /// The processes in these cgroups, each with its run.
    pub fn members_by_run(&self) -> Result<BTreeSet<(i32, RunId)>, LookError> {
        let mut members = BTreeSet::new();
        for (hierarchy, top) in &self.tops {
            let name = top
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(parse_run_name);
            let (_, run) = name.expect("every top is named for its run");
            let one = Self {
                tops: vec![(hierarchy.clone(), top.clone())],
            };
            members.extend(one.members()?.into_iter().map(|pid| (pid, run.clone())));
        }
        Ok(members)
    }

    /// The processes of one named part of the runs: `payload`, `supervisor`.
    pub fn members_of(&self, part: &str) -> Result<BTreeSet<i32>, LookError> {
        let tops = self
            .tops
            .iter()
            .map(|(hierarchy, top)| (hierarchy.clone(), top.join(part)))
            .collect();
        Self { tops }.members()
    }

    /// Moves this process where it does not belong to the daemon's service any more.
    pub fn adopt_supervisor(&self) -> io::Result<()> {
        for (_, top) in self
            .tops
            .iter()
            .filter(|(hierarchy, _)| hierarchy.tracks_services())
        {
            let own = top.join("supervisor");
            fs::create_dir(&own).or_else(already)?;
            fs::write(own.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Moves this process out, so that the run's cgroups can be removed. One that is out stays where it is.
    pub fn release_supervisor(&self) -> io::Result<()> {
        let own = read_text("/proc/self/cgroup")?;
        if !own.lines().any(|line| self.names(line)) {
            return Ok(());
        }
        for (hierarchy, _) in self
            .tops
            .iter()
            .filter(|(hierarchy, _)| hierarchy.tracks_services())
        {
            fs::write(hierarchy.base.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Whether a line of `/proc/PID/cgroup` names a cgroup of these runs.
    fn names(&self, line: &str) -> bool {
        let path = line.splitn(3, ':').nth(2).unwrap_or("");
        self.tops.iter().any(|(_, top)| names_part_of(path, top))
    }

    /// Kills every member but `spare`, again and again, until none is left. Frozen ones are thawed, because v1 keeps a
    /// frozen process from dying. Gives back who is left when the time is up.
    pub fn kill(&self, spare: Option<i32>, within: Duration) -> Result<BTreeSet<i32>, LookError> {
        let end = Instant::now() + within;
        loop {
            let mut left = self.members()?;
            left.retain(|pid| Some(*pid) != spare);
            if left.is_empty() || Instant::now() >= end {
                return Ok(left);
            }
            self.thaw()?;
            for &pid in &left {
                self.kill_one(pid);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A process id may have been given to another process since it was read, so it is looked up once more after the
    /// descriptor that names one process for ever was taken.
    fn kill_one(&self, pid: i32) {
        let Some(named) = Pid::from_raw(pid) else {
            return;
        };
        let Ok(pidfd) = pidfd_open(named, PidfdFlags::empty()) else {
            return;
        };
        if read_text(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|all| all.lines().any(|line| self.names(line)))
        {
            let _ = signal(std::os::fd::AsFd::as_fd(&pidfd), libc::SIGKILL);
        }
    }

    fn thaw(&self) -> Result<(), LookError> {
        for (hierarchy, top) in &self.tops {
            let (file, word) = if hierarchy.has("freezer") {
                ("freezer.state", "THAWED")
            } else if hierarchy.v1.is_none() {
                ("cgroup.freeze", "0")
            } else {
                continue;
            };
            tree::for_each(top, |cgroup| {
                // Fails on a cgroup that is gone or cannot be frozen; whoever stays alive is reported in the end.
                let _ = tree::write(cgroup, file, word);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Removes the cgroups, and the node's own when it has become empty. Gives back what could not be removed.
    pub fn remove(&self, within: Duration) -> Vec<(PathBuf, io::Error)> {
        let end = Instant::now() + within;
        let mut stayed = Vec::new();
        for (_, top) in &self.tops {
            loop {
                match tree::remove(top) {
                    Ok(()) => break,
                    Err(_) if Instant::now() < end => std::thread::sleep(PAUSE),
                    Err(e) => {
                        stayed.push((top.clone(), e));
                        break;
                    }
                }
            }
            if let Some(parent) = top.parent() {
                let _ = fs::remove_dir(parent);
            }
        }
        stayed
    }
}

/// Whether the cgroup path of a process lies in the directory `top` of some hierarchy.
fn names_part_of(path: &str, top: &Path) -> bool {
    let mut names = top
        .components()
        .rev()
        .map(|c| c.as_os_str().to_string_lossy());
    let (Some(run), Some(node)) = (names.next(), names.next()) else {
        return false;
    };
    let parts: Vec<&str> = path.split('/').collect();
    parts
        .windows(2)
        .any(|pair| pair[0] == node && pair[1] == run)
}

/// What a guest may make of cgroups below its run, where the kernel can be told: on v2. On v1 its memory bounds them.
const MOST_DESCENDANTS: &str = "16384";

fn make_cgroup(hierarchy: &Hierarchy, dir: &Path) -> io::Result<()> {
    fs::create_dir(dir).or_else(already)?;
    if hierarchy.has("cpuset") {
        // A cpuset starts empty and then takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(dir.join(file))?.trim().is_empty() {
                let of_parent = fs::read_to_string(dir.with_file_name(file))?;
                fs::write(dir.join(file), of_parent.trim())?;
            }
        }
        fs::write(dir.join("cgroup.clone_children"), "1")?;
    }
    Ok(())
}

fn bound_descendants(hierarchy: &Hierarchy, dir: &Path) -> io::Result<()> {
    match hierarchy.v1 {
        Some(_) => Ok(()),
        None => fs::write(dir.join("cgroup.max.descendants"), MOST_DESCENDANTS),
    }
}

fn already(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::AlreadyExists {
        Ok(())
    } else {
        Err(e)
    }
}

/// Whether an error of a cgroup file means that the cgroup was removed.
pub(super) fn gone(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn parse_pids(list: &[u8]) -> impl Iterator<Item = i32> {
    list.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
49 31 0:38 / /mnt/again rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn each_hierarchy_is_found_once_with_its_base() {
        let init = "4:memory:/boss\n3:cpu,cpuacct:/\n1:name=systemd:/init.scope\n0::/init.scope\n";
        let found = parse_hierarchies(HYBRID, init);
        let bases: Vec<_> = found
            .iter()
            .map(|h| h.base.to_str().unwrap().trim_end_matches('/'))
            .collect();
        assert_eq!(
            bases,
            [
                "/sys/fs/cgroup/memory/boss",
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/systemd",
                "/sys/fs/cgroup/unified"
            ]
        );
        assert!(
            found[1].has("cpuacct") && found[2].tracks_services() && found[3].tracks_services()
        );
    }

    #[test]
    fn a_unified_host_has_one() {
        let found = parse_hierarchies(
            "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
            "0::/init.scope\n",
        );
        assert_eq!(
            found,
            [Hierarchy {
                base: "/sys/fs/cgroup".into(),
                v1: None
            }]
        );
    }

    #[test]
    fn a_process_is_ours_by_two_components() {
        let top = Path::new("/sys/fs/cgroup/pids/mayfly-ab/100.c5a8b7");
        assert!(names_part_of("/mayfly-ab/100.c5a8b7/payload/x", top));
        assert!(!names_part_of("/mayfly-ab/100.c5a8b8", top));
        assert!(!names_part_of("/other/100.c5a8b7", top));
    }
}
