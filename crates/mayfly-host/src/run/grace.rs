//! The wait that the kernel has for whoever moves a process to another cgroup, had ahead of time.
//!
//! To move a process stops every fork and exit on the host for a moment. The kernel keeps that cheap for those who fork, so
//! the first move waits for a grace period (8 to 13 ms on an idle host), and moves that follow soon after do not wait. Two
//! of them lie on the way to a guest's init: the supervisor's and lxc-start's. So a move that changes nothing, of the daemon
//! to where it is, begins beside what comes before them: the look, the snapshot, the spawned supervisor.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Begins the wait; one at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Grace(Arc<AtomicBool>);

impl Grace {
    /// A process is about to be moved. Returns at once. What fails here costs nobody more than the wait itself.
    pub(super) fn begin(&self) {
        if self.0.swap(true, Ordering::SeqCst) {
            return;
        }
        let own = self.clone();
        let begun = std::thread::Builder::new()
            .name("grace".into())
            .stack_size(128 << 10)
            .spawn(move || {
                if let Err(error) = move_nowhere() {
                    tracing::debug!(%error, "the wait of a cgroup move was not begun ahead");
                }
                own.0.store(false, Ordering::SeqCst);
            });
        if begun.is_err() {
            self.0.store(false, Ordering::SeqCst);
        }
    }
}

fn move_nowhere() -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let own = own_cgroup(&mounts, &groups)
        .ok_or_else(|| io::Error::other("the daemon's own cgroup is not shown here"))?;
    fs::write(own.join("cgroup.procs"), "0")
}

/// Where this process is in the hierarchy of version 2, where there is one, or else in that of the service manager.
fn own_cgroup(mountinfo: &str, groups: &str) -> Option<PathBuf> {
    let in_hierarchy = |names: &str| {
        groups.lines().find_map(|line| {
            let (of, path) = line.split_once(':')?.1.split_once(':')?;
            (of == names).then_some(path)
        })
    };
    let mounted = |is: &dyn Fn(&str, &str) -> bool| {
        mountinfo.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(3);
            let (root, at) = (left.next()?, left.next()?);
            let mut right = right.split(' ');
            let (kind, options) = (right.next()?, right.nth(1)?);
            is(kind, options).then_some((root, at))
        })
    };
    let named = |options: &str| options.split(',').any(|one| one == "name=systemd");
    let (path, (root, at)) = match mounted(&|kind, _| kind == "cgroup2") {
        Some(found) => (in_hierarchy("")?, found),
        None => (
            in_hierarchy("name=systemd")?,
            mounted(&|kind, options| kind == "cgroup" && named(options))?,
        ),
    };
    // A mount may show a part of the hierarchy only.
    let below = path.strip_prefix(root.trim_end_matches('/'))?;
    let is_below = below.is_empty() || below.starts_with('/');
    is_below.then(|| Path::new(at).join(below.trim_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
";
    const UNIFIED: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const GROUPS: &str = "4:memory:/m\n1:name=systemd:/system.slice/a\n0::/system.slice/b\n";

    #[test]
    fn the_own_cgroup_is_found_in_one_hierarchy() {
        let found = |mounts: &str| own_cgroup(mounts, GROUPS);
        assert_eq!(
            found(&format!("{HYBRID}{UNIFIED}")),
            Some("/sys/fs/cgroup/unified/system.slice/b".into())
        );
        assert_eq!(
            found(HYBRID),
            Some("/sys/fs/cgroup/systemd/system.slice/a".into())
        );
        assert_eq!(found(""), None);
    }

    #[test]
    fn a_mount_of_another_part_shows_nothing() {
        let part = |root: &str| format!("41 31 0:38 {root} /cg rw - cgroup2 cgroup2 rw\n");
        let found = |root: &str| own_cgroup(&part(root), GROUPS);
        assert_eq!(found("/system.slice"), Some("/cg/b".into()));
        assert_eq!(found("/system.slice/b"), Some("/cg/".into()));
        assert_eq!(found("/user.slice"), None);
        assert_eq!(found("/system.slice/bb"), None);
        assert_eq!(found("/system.slice/"), Some("/cg/b".into()));
    }
}
