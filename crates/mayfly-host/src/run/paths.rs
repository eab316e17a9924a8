//! Where the files of a run are, and what its container is called.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mayfly_core::ids::{NodeId, RunId, VpsId};

/// The directory that LXC is told its containers live in. Nothing is written there: every file that LXC needs is
/// named one by one. It has to exist, and the guest's root must be allowed to pass through it.
pub const LXC_PATH: &str = "/run";

/// The directory of one run, and every name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir(PathBuf);

macro_rules! files {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])*
        pub fn $name(&self) -> PathBuf {
            self.0.join($file)
        })*
    };
}

impl RunDir {
    /// The directory itself must be made by the caller, mode 0711, before the supervisor starts.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    files! {
        /// What the supervisor is told.
        spec = "run.json";
        /// What the supervisor tells.
        state = "state.json";
        /// Held by the supervisor from its first instruction on.
        lock = "lock";
        /// What the supervisor prints when it cannot even write its state.
        supervisor_log = "supervisor.log";
        /// One JSON request and answer per line.
        control_socket = "control.sock";
        /// The console: replay, then live, both ways.
        console_socket = "console.sock";
        /// The FIFO that the guest helper reports through.
        report = "report";
        /// The boot report that the guest helper hands to the guest.
        boot_report = "boot.json";
        /// What the guest helper is told of declarations.
        persistence = "persistence.json";
        /// LXC's configuration.
        lxc_config = "lxc.conf";
        /// LXC's log.
        lxc_log = "lxc.log";
        /// The seccomp policy.
        seccomp = "seccomp";
        /// The hook that ends lxc-start where it would reboot in place.
        post_stop = "post-stop";
        /// All of lxc-start's PATH.
        programs = "programs";
        /// Mount points that exist in the supervisor's mount namespace only.
        mounts = "mnt";
    }

    /// Where the root is mounted.
    pub fn root(&self) -> PathBuf {
        self.mounts().join("root")
    }

    /// Where the dataset of the given position in the spec is mounted.
    pub fn dataset(&self, index: usize) -> PathBuf {
        self.mounts().join(index.to_string())
    }

    /// Where a file for `/dev/.mayfly` is bound.
    pub fn handover(&self, name: &str) -> PathBuf {
        self.mounts().join(name)
    }

    /// Where the devices of features are made.
    pub fn devices(&self) -> PathBuf {
        self.mounts().join("devices")
    }

    /// Why LXC could not work with this directory, if it could not: every directory on the way must let the guest's
    /// root pass, and LXC's configuration cannot quote.
    pub fn unusable(&self) -> Option<String> {
        let Some(text) = self.0.to_str() else {
            return Some(format!("{} is not UTF-8", self.0.display()));
        };
        if !text.starts_with('/')
            || text
                .chars()
                .any(|c| c.is_whitespace() || c.is_control() || "\\'\"$`#".contains(c))
        {
            return Some(format!(
                "{} must be absolute, without spaces, quotes or backslashes",
                text.escape_debug()
            ));
        }
        for directory in self.0.ancestors() {
            match directory.metadata() {
                Ok(seen) if seen.mode() & 0o001 == 0 => {
                    return Some(format!(
                        "{} must have mode 0711 or more: others may not pass",
                        directory.display()
                    ));
                }
                Ok(_) => {}
                Err(e) => return Some(format!("cannot look at {}: {e}", directory.display())),
            }
        }
        None
    }
}

/// The name of a run in paths: `11327.c5a8b7`.
pub fn run_name(vps: VpsId, run: &RunId) -> String {
    format!("{vps}.{run}")
}

/// The VPS and run that a name made by [`run_name`] speaks of.
pub fn parse_run_name(name: &str) -> Option<(VpsId, RunId)> {
    let (vps, run) = name.split_once('.')?;
    Some((vps.parse().ok()?, run.parse().ok()?))
}

/// The container's name. LXC's command socket is an abstract one with this name in it, so it says node and VPS.
pub fn container_name(node: &NodeId, vps: VpsId) -> String {
    format!("mayfly-{node}-{vps}")
}

/// The cgroup, below the base of each hierarchy, that holds all runs of a node.
pub fn node_cgroup(node: &NodeId) -> String {
    format!("mayfly-{node}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_names_read_back() {
        let vps = 11327.try_into().unwrap();
        let run: RunId = "c5a8b7".parse().unwrap();
        assert_eq!(parse_run_name(&run_name(vps, &run)), Some((vps, run)));
        for other in ["11327", "11327.", "11327.c5a8b7.x", "x.c5a8b7", "lxc.pivot"] {
            assert_eq!(parse_run_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_directory_that_others_cannot_pass_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(RunDir::new(dir.path()).unusable().unwrap().contains("0711"));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(RunDir::new(dir.path()).unusable(), None);
        assert!(RunDir::new("/run/a b").unusable().is_some());
        assert!(RunDir::new("run").unusable().is_some());
    }
}
