//! `mayfly rescue`.

use std::process::ExitCode;

use clap::Args;
use mayfly_api::{Change, RescueVps, VpsView};
use mayfly_core::names::{GuestPath, TemplateName};
use mayfly_core::plan::RESCUE_ROOT;

use super::Context;
use super::change::ChangeArgs;
use super::failure::Failure;
use super::words::parse_vps;

#[derive(Debug, Args)]
pub(crate) struct RescueArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// The template whose system boots
    #[arg(long, value_name = "NAME")]
    template: TemplateName,
    /// Where its root dataset is in that system
    #[arg(long, value_name = "PATH", default_value = RESCUE_ROOT, conflicts_with = "no_root")]
    root_at: GuestPath,
    /// Leave its root dataset out
    #[arg(long)]
    no_root: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn rescue(context: &Context, args: RescueArgs) -> Result<ExitCode, Failure> {
    let body = RescueVps {
        template: args.template,
        root_at: (!args.no_root).then_some(args.root_at),
    };
    let change = Change::rescue(&args.vps, &body);
    let tells = args.change.waits() && !context.screen.json;
    let done = args
        .change
        .carry_out(context, &change, |_| {
            format!(
                "VPS {} runs a rescue system; leave it with a restart or a stop",
                args.vps
            )
        })
        .await?;
    if tells {
        let lines = where_it_is(&context.client.vps(&args.vps).await?);
        let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
        context.screen.print(&lines)?;
    }
    Ok(done)
}

/// Where the datasets are in the rescue system, and why some are not where they usually are.
pub(super) fn where_it_is(vps: &VpsView) -> Vec<String> {
    let Some(rescue) = vps.run.as_ref().and_then(|run| run.rescue.as_ref()) else {
        return Vec::new();
    };
    let name = |mount: &mayfly_core::documents::Mount| match mount.dataset.is_root() {
        true => vps.id.to_string(),
        false => format!("{}/{}", vps.id, mount.dataset),
    };
    let mut lines: Vec<_> = rescue
        .mounts
        .iter()
        .map(|mount| format!("{} is at {}", name(mount), mount.path))
        .collect();
    let moved = rescue.moved.iter();
    lines.extend(moved.map(|path| {
        format!("what is usually at {path} would hide the rescue system there, so it is below {RESCUE_ROOT}")
    }));
    lines
}
