//! Programs that end with this process and whose mounts nobody else sees.

use std::time::Duration;

use crate::runner::{Command, Tool, ToolMissing};

/// For mmdebstrap, for each script, and for each archive.
pub(super) const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// The process namespace ends with its first process: a killed build leaves nothing running.
pub(super) const OWN_PROCESSES: [&str; 4] = ["--pid", "--fork", "--kill-child", "--mount-proc"];

/// What it takes to write any tree: owners, modes, device nodes, attributes. Nothing else of root's is left to a program
/// that reads somebody's archive.
const WRITES_TREES: &str =
    "--bounding-set=-all,+chown,+dac_override,+dac_read_search,+fowner,+fsetid,+mknod,+setfcap";

/// Runs such programs.
pub(super) struct Alone {
    setpriv: Tool,
    unshare: Tool,
}

impl Alone {
    /// With the programs of this host.
    pub(super) fn find() -> Result<Self, ToolMissing> {
        Ok(Self {
            setpriv: Tool::find("setpriv")?,
            unshare: Tool::find("unshare")?,
        })
    }

    /// `tool` in a mount namespace of its own, and what else `unshare` is told.
    pub(super) fn command(&self, also: &[&str], tool: &Tool) -> Command {
        self.unshared(also).arg(tool.path()).deadline(DEADLINE)
    }

    /// `tool`, which reads what somebody else made: without a network, other processes, and most of root's powers.
    pub(super) fn confined(&self, tool: &Tool) -> Command {
        let mut also = OWN_PROCESSES.to_vec();
        also.extend(["--net", "--ipc", "--uts"]);
        self.unshared(&also)
            .arg(self.setpriv.path())
            .args(["--no-new-privs", "--inh-caps=-all", WRITES_TREES, "--"])
            .arg(tool.path())
            .deadline(DEADLINE)
    }

    fn unshared(&self, also: &[&str]) -> Command {
        Command::new(&self.setpriv)
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.unshare.path())
            .args(["--mount", "--propagation", "private"])
            .args(also)
            .arg("--")
    }
}
