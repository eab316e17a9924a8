//! `mayfly reinstall`.

use std::process::ExitCode;

use clap::Args;
use mayfly_api::{Change, ReinstallVps, ReplacedView, VpsView};
use mayfly_core::bytes::Bytes;
use mayfly_core::documents::{ReinstallScope, Replaced};
use mayfly_core::error::Code;
use mayfly_core::names::TemplateName;

use super::Context;
use super::change::{ChangeArgs, ConfirmArgs};
use super::failure::Failure;
use super::words::parse_vps;

#[derive(Debug, Args)]
pub(crate) struct ReinstallArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// The template whose contents it gets
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present_any = ["undo", "forget"],
        conflicts_with_all = ["undo", "forget"]
    )]
    template: Option<TemplateName>,
    /// What is replaced; an impermanent VPS needs it said
    #[arg(long, value_enum, conflicts_with_all = ["undo", "forget"])]
    scope: Option<ScopeWord>,
    /// Put back what the last reinstall replaced
    #[arg(long)]
    undo: bool,
    /// Give up all that reinstalls have put aside; there is no undo then
    #[arg(long, conflicts_with = "undo")]
    forget: bool,
    /// With --undo or --forget: also where snapshots go with what is destroyed
    #[arg(long, conflicts_with = "template")]
    force: bool,
    #[command(flatten)]
    sure: ConfirmArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ScopeWord {
    /// The system
    Os,
    /// What is kept beside the system
    Data,
    /// Both
    All,
}

impl From<ScopeWord> for ReinstallScope {
    fn from(word: ScopeWord) -> Self {
        match word {
            ScopeWord::Os => Self::Os,
            ScopeWord::Data => Self::Data,
            ScopeWord::All => Self::All,
        }
    }
}

pub(super) async fn reinstall(context: &Context, args: ReinstallArgs) -> Result<ExitCode, Failure> {
    let vps = context.client.vps(&args.vps).await?;
    let title = format!("VPS {} ({})", vps.id, vps.hostname);
    let id = vps.id.to_string();
    let Some(template) = args.template else {
        return match args.forget {
            true => forget(context, &args, &vps, &title).await,
            false => undo(context, &args, &vps, &title).await,
        };
    };
    let body = ReinstallVps {
        template: template.clone(),
        scope: args.scope.map(ReinstallScope::from),
    };
    let change = Change::reinstall(&id, &body);
    if args.change.asks(args.sure) {
        let used = put_aside(context, &change).await?;
        let what = format!(
            "{title} gets the contents of {template}; {used} that it has now are put aside, for {} days or until the undo",
            days(Replaced::KEPT_MS)
        );
        args.change.agree(args.sure, &what)?;
    }
    let tells = args.change.waits() && !context.screen.json;
    let done = args
        .change
        .carry_out(context, &change, |_| {
            format!(
                "{title} is reinstalled from {template}; to go back: mayfly reinstall {id} --undo"
            )
        })
        .await?;
    if tells {
        let shown = context.client.vps(&id).await?;
        let line = kept(&shown).last().map(|line| format!("  kept: {line}\n"));
        context.screen.print(&line.unwrap_or_default())?;
    }
    Ok(done)
}

async fn undo(
    context: &Context,
    args: &ReinstallArgs,
    vps: &VpsView,
    title: &str,
) -> Result<ExitCode, Failure> {
    let last = last_kept(vps, title)?;
    let change = Change::reinstall_undo(&vps.id.to_string(), &last.operation, args.force);
    if args.change.asks(args.sure) {
        let used = put_aside(context, &change).await?;
        let what = format!(
            "{title} gets back what it had before its last reinstall; {used} that it has now are destroyed"
        );
        args.change.agree(args.sure, &what)?;
    }
    let done = |_: &_| format!("{title} has what it had before");
    args.change.carry_out(context, &change, done).await
}

async fn forget(
    context: &Context,
    args: &ReinstallArgs,
    vps: &VpsView,
    title: &str,
) -> Result<ExitCode, Failure> {
    let last = last_kept(vps, title)?;
    let change = Change::reinstall_forget(&vps.id.to_string(), &last.operation, args.force);
    if args.change.asks(args.sure) {
        // What cannot be is said before anything is asked.
        context.client.plan(&change).await?;
        let all = vps.replaced.iter().map(|one| one.used_bytes);
        let used = all.fold(Bytes(0), Bytes::saturating_add);
        let what = format!(
            "{used} that {title} had before {} reinstalls are destroyed, and there is no undo then",
            vps.replaced.len()
        );
        args.change.agree(args.sure, &what)?;
    }
    let done = |_: &_| format!("{title} keeps nothing of what it had before");
    args.change.carry_out(context, &change, done).await
}

fn last_kept<'a>(vps: &'a VpsView, title: &str) -> Result<&'a ReplacedView, Failure> {
    vps.replaced.last().ok_or_else(|| {
        Failure::refused(
            Code::Invalid,
            format!("{title} was not reinstalled, or what it had is not kept any more"),
            format!("see `mayfly show {}`", vps.id),
        )
    })
}

/// What the plan of a change puts aside.
async fn put_aside(context: &Context, change: &Change) -> Result<Bytes, Failure> {
    let plan = context.client.plan(change).await?.plan;
    let steps = plan.steps.iter().map(|planned| &planned["step"]);
    let used = steps.filter_map(|step| step["used_bytes"].as_u64());
    Ok(used.fold(Bytes(0), |sum, bytes| sum.saturating_add(Bytes(bytes))))
}

fn days(ms: u64) -> u64 {
    ms / Replaced::DAY_MS
}

/// Reinstalls that can be undone, each on a line.
pub(super) fn kept(vps: &VpsView) -> impl Iterator<Item = String> + '_ {
    vps.replaced.iter().map(|one| {
        let at: Vec<_> = one.datasets.iter().map(ToString::to_string).collect();
        let at = match at.is_empty() {
            true => "nothing".to_owned(),
            false => format!("{} at {}", one.used_bytes, at.join(", ")),
        };
        let time = match &one.held_by {
            Some(why) => format!("beyond its days: {why}"),
            None => format!(
                "for {} more days of a running host",
                one.kept_for_ms.div_ceil(Replaced::DAY_MS)
            ),
        };
        format!(
            "what it was of {} (scope {}): {at}, {time}",
            one.template, one.scope
        )
    })
}
