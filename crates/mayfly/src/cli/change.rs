//! Asking for a change: its plan, or the change itself with its progress until it is over.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use mayfly_api::{Change, IfBusy, OperationView, PlanBody};
use mayfly_core::documents::OperationState;
use mayfly_core::error::Code;

use super::screen::escape;
use super::{Context, Failure};

/// How often someone who watches is told how it goes.
const LOOK: Duration = Duration::from_millis(250);
/// How long one request waits where nobody watches.
const WAIT: Duration = Duration::from_secs(30);

/// What every change takes.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct ChangeArgs {
    /// Tell what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until it is done
    #[arg(long, conflicts_with = "dry_run")]
    no_wait: bool,
    /// Where another change is under way: wait for its end, or refuse this one
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Busy::Wait, hide_default_value = true)]
    if_busy: Busy,
}

/// What happens where another change is under way.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Busy {
    #[default]
    Wait,
    Refuse,
}

/// What a change that destroys data takes.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct ConfirmArgs {
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

impl ChangeArgs {
    /// Carries it out as far as was asked for. `done` is what is said when it is done, in a line or in several.
    pub(super) async fn carry_out(
        self,
        context: &Context,
        change: &Change,
        done: impl FnOnce(&OperationView) -> String,
    ) -> Result<ExitCode, Failure> {
        if self.dry_run {
            let plan = context.client.plan(change).await?;
            context.screen.show(&plan, render_plan)?;
            return Ok(ExitCode::SUCCESS);
        }
        let if_busy = match self.if_busy {
            Busy::Wait => IfBusy::Wait,
            Busy::Refuse => IfBusy::Refuse,
        };
        let operation = context.client.submit_when(change, if_busy).await?;
        if self.no_wait {
            context.screen.show(&operation, |op| {
                format!(
                    "operation {}\n  next: mayfly operation watch {}\n",
                    op.id, op.id
                )
            })?;
            return Ok(ExitCode::SUCCESS);
        }
        let operation = watch(context, operation).await?;
        context.screen.show(&operation, |op| {
            let lines = done(op);
            lines
                .lines()
                .map(|line| format!("{}\n", escape(line)))
                .collect()
        })?;
        Ok(ExitCode::SUCCESS)
    }

    /// Whether the change is carried out and waited for.
    pub(super) fn waits(self) -> bool {
        !self.dry_run && !self.no_wait
    }

    /// Whether [`ChangeArgs::agree`] will ask.
    pub(super) fn asks(self, sure: ConfirmArgs) -> bool {
        !self.dry_run && !sure.yes
    }

    /// Asks whether what is said may be. Nothing is asked for a plan.
    pub(super) fn agree(self, sure: ConfirmArgs, what: &str) -> Result<(), Failure> {
        if !self.asks(sure) {
            return Ok(());
        }
        let refused = |why: &str, hint: &str| {
            Err(Failure::refused(
                Code::Invalid,
                format!("nothing was done: {why}"),
                hint,
            ))
        };
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return refused(
                &format!("{what}, and there is no terminal to ask at"),
                "say it with --yes",
            );
        }
        match answer(&format!("{}. Go on? [y/N] ", escape(what)))?.as_str() {
            "y" | "yes" => Ok(()),
            _ => refused("the answer was no", "try again"),
        }
    }

    /// Asks twice whether data may be destroyed. Nothing is asked for a plan.
    pub(super) fn confirm(self, sure: ConfirmArgs, what: &str, name: &str) -> Result<(), Failure> {
        if self.dry_run || sure.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Failure::refused(
                Code::Invalid,
                format!("{what} would be destroyed, and there is no terminal to ask at"),
                "say it with --yes",
            ));
        }
        let refused = |why: &str| {
            let message = format!("{what} was not destroyed: {why}");
            Err(Failure::refused(Code::Invalid, message, "try again"))
        };
        // Asked twice, and the second question cannot be answered by habit.
        let first = format!("Destroy {} and all its data? [y/N] ", escape(what));
        if !matches!(answer(&first)?.as_str(), "y" | "yes") {
            return refused("the answer was no");
        }
        if answer(&format!(
            "There is no way back. Type {} to go on: ",
            escape(name)
        ))? != name
        {
            return refused("another name was typed");
        }
        Ok(())
    }
}

fn answer(question: &str) -> io::Result<String> {
    write!(io::stderr(), "{question}")?;
    let mut typed = String::new();
    io::stdin().read_line(&mut typed)?;
    Ok(typed.trim().to_owned())
}

/// Waits until an operation is over and tells each step. One that failed is a failure.
pub(super) async fn watch(
    context: &Context,
    operation: OperationView,
) -> Result<OperationView, Failure> {
    let operation = until_over(context, operation).await?;
    match (operation.state, operation.error) {
        (OperationState::Done, error) => Ok(OperationView { error, ..operation }),
        (_, Some(info)) => Err(info.into()),
        (_, None) => Err(Failure::mistake("the operation failed and did not say why")),
    }
}

/// Waits until an operation is over, however it ends, and tells each step.
pub(super) async fn until_over(
    context: &Context,
    operation: OperationView,
) -> Result<OperationView, Failure> {
    let mut operation = operation;
    let mut progress = Progress::default();
    loop {
        for line in progress.news(&operation) {
            context.screen.tell(&line);
        }
        if operation.state.is_over() {
            return Ok(operation);
        }
        let wait = if context.screen.is_watched() {
            LOOK
        } else {
            WAIT
        };
        operation = context
            .client
            .operation(operation.id.as_str(), wait)
            .await?;
    }
}

/// What was told of an operation.
#[derive(Debug, Default)]
struct Progress {
    steps: usize,
    last: String,
}

impl Progress {
    /// Lines that were not told yet: one a step that is done, and what a long step says meanwhile.
    fn news(&mut self, operation: &OperationView) -> Vec<String> {
        let mut lines = Vec::new();
        let all = operation.lines.len();
        for (index, line) in operation
            .lines
            .iter()
            .enumerate()
            .take(operation.steps_done)
            .skip(self.steps)
        {
            lines.push(format!("[{}/{all}] {line}", index + 1));
        }
        self.steps = self.steps.max(operation.steps_done);
        let progress = &operation.progress;
        let is_step = operation.lines.contains(progress);
        if !progress.is_empty() && !is_step && *progress != self.last && !operation.state.is_over()
        {
            lines.push(format!("  {progress}"));
            self.last.clone_from(progress);
        }
        lines
    }
}

/// A plan to read.
fn render_plan(body: &PlanBody) -> String {
    let lines = &body.plan.lines;
    if lines.is_empty() {
        return "nothing to do\n".to_owned();
    }
    let width = lines.len().to_string().len();
    lines
        .iter()
        .enumerate()
        .map(|(index, line)| format!("{:>width$}. {}\n", index + 1, escape(line)))
        .collect()
}

#[cfg(test)]
mod tests {
    use mayfly_api::PlanView;

    use super::*;

    fn operation(state: &str, done: usize, progress: &str) -> OperationView {
        serde_json::from_value(serde_json::json!({
            "id": "0".repeat(20), "vps": 100, "verb": "start", "by": "uid 0", "state": state,
            "created_unix_ms": 1, "ended_unix_ms": null, "lines": ["make it", "start it"],
            "steps_done": done, "progress": progress, "error": null
        }))
        .unwrap()
    }

    #[test]
    fn each_step_is_told_once_and_long_ones_speak() {
        let mut progress = Progress::default();
        assert_eq!(
            progress.news(&operation("queued", 0, "waiting for its turn")),
            ["  waiting for its turn"]
        );
        assert_eq!(
            progress.news(&operation("queued", 0, "waiting for its turn")),
            [""; 0]
        );
        assert_eq!(
            progress.news(&operation("running", 1, "start it")),
            ["[1/2] make it"]
        );
        assert_eq!(
            progress.news(&operation("running", 1, "3 of 9 packages")),
            ["  3 of 9 packages"]
        );
        assert_eq!(
            progress.news(&operation("done", 2, "done")),
            ["[2/2] start it"]
        );
        assert_eq!(progress.news(&operation("done", 2, "done")), [""; 0]);
    }

    #[test]
    fn a_plan_is_a_numbered_list() {
        let plan = |lines: &[&str]| PlanBody {
            plan: PlanView {
                lines: lines.iter().map(ToString::to_string).collect(),
                steps: vec![],
            },
        };
        assert_eq!(render_plan(&plan(&[])), "nothing to do\n");
        assert_eq!(
            render_plan(&plan(&["make it", "start\x1b it"])),
            "1. make it\n2. start\\u{1b} it\n"
        );
    }

    #[test]
    fn without_a_terminal_only_yes_destroys() {
        let args = ChangeArgs::default();
        assert!(
            args.confirm(ConfirmArgs { yes: true }, "VPS 100", "web1")
                .is_ok()
        );
        assert!(
            ChangeArgs {
                dry_run: true,
                ..ChangeArgs::default()
            }
            .confirm(ConfirmArgs::default(), "VPS 100", "web1")
            .is_ok()
        );
        if !io::stdin().is_terminal() {
            let refused = args.confirm(ConfirmArgs::default(), "VPS 100", "web1");
            assert!(
                matches!(refused, Err(Failure::Error(info)) if info.hint == "say it with --yes")
            );
        }
    }
}
