//! How a guest is: what its own systemd says of its units, asked by its own `systemctl`.
//!
//! Both are the guest's, so that the answer is no more than the guest's word about itself; what it may take of time and memory is
//! bounded.

use std::time::Duration;

use mayfly_core::error::LookFailed;
use mayfly_core::health::Health;
use mayfly_core::ids::{RunId, VpsId};
use mayfly_core::ports::Runtime as _;
use mayfly_core::run::RunPhase;

use super::attach::{GUEST_PATH, attach_command};
use super::runtime::LxcRuntime;
use crate::runner::{Command, RunEnd, RunFailure, Runner};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// So often is it asked where the program that asks dies of itself, and how long after each time.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// How long it may be.
const LIMIT: usize = 256 << 10;

/// What both questions have in common.
const PLAIN: [&str; 4] = ["--no-legend", "--plain", "--no-pager", "--full"];

impl LxcRuntime {
    pub(super) fn ask_health(&self, vps: VpsId, run: &RunId) -> Result<Health, LookFailed> {
        let what = || format!("the health of VPS {vps}");
        let state = self.state(vps, run)?;
        if state.is_none_or(|state| state.phase != RunPhase::Running) {
            return Err(LookFailed::new(what(), "its run is over, or has not begun"));
        }
        let ask = |question: &[&str]| {
            let argv: Vec<&str> = ["systemctl"]
                .iter()
                .chain(question)
                .chain(&PLAIN)
                .copied()
                .collect();
            let path = format!("PATH={GUEST_PATH}");
            let environment = [path.as_str(), "LC_ALL=C", "SYSTEMD_COLORS=0"];
            let attach = attach_command(self.node(), vps, &environment, &argv)
                .map_err(|error| LookFailed::new(what(), error))?;
            let command = Command::of_our_own(&attach.program)
                .args(attach.args)
                .deadline(DEADLINE)
                .output_limit(LIMIT);
            let runner = Runner::default();
            let mut answer = runner.run(&command);
            for _ in 1..TRIES {
                // lxc-attach copies itself into memory first, and dies where the kernel has not let go of the copy yet.
                let died = |failure: &RunFailure| matches!(failure.end, RunEnd::Signal(_));
                if !answer.as_ref().is_err_and(died) {
                    break;
                }
                std::thread::sleep(PAUSE);
                answer = runner.run(&command);
            }
            answer
                .map(|output| output.text())
                .map_err(|failure| LookFailed::new(what(), failure))
        };
        let failed = ask(&["list-units", "--failed"])?;
        let jobs = ask(&["list-jobs"])?;
        Ok(Health::read(&failed, &jobs))
    }
}
