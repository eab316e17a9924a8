//! VPSes: what there is, and their life.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use mayfly_api::{Change, CreateVps, RestartVps, StopVps, VpsState, VpsView};
use mayfly_core::bytes::Bytes;
use mayfly_core::documents::{Desired, Track};
use mayfly_core::features::{Feature, listed};
use mayfly_core::ids::{Digest, VpsId};
use mayfly_core::names::{Hostname, PoolPath, TemplateName};
use mayfly_core::network::SshKeys;
use mayfly_core::run::shown_cpus;

use super::change::{ChangeArgs, ConfirmArgs};
use super::table::{facts, moment, now_unix_ms, or_dash, since, table};
use super::template::root_kind;
use super::words::{parse_cpus, parse_duration, parse_vps};
use super::{Context, Failure};

const EXAMPLES: &str = "\
Examples:
  mayfly create web --template debian-12-impermanence --disk 10G --start
  mayfly create web --template debian-12 --dry-run      what would be done";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CreateArgs {
    /// Its host name [default: vps and its id]
    name: Option<Hostname>,
    /// What it is made from
    #[arg(long, short, value_name = "TEMPLATE")]
    template: TemplateName,
    /// Its id [default: the lowest free one]
    #[arg(long, value_name = "N")]
    id: Option<VpsId>,
    /// Disk space that its datasets share [default: 120G]
    #[arg(long, value_name = "SIZE")]
    disk: Option<Bytes>,
    /// Memory [default: 2G]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// CPUs, such as 2 or 1.5 [default: all]
    #[arg(long, value_name = "N", value_parser = parse_cpus)]
    cpus: Option<u32>,
    /// Switch impermanence on whatever the template says
    #[arg(long)]
    impermanence: bool,
    /// Features to switch on: nesting, tun, fuse, kvm, ppp
    #[arg(long, value_name = "FEATURE,…", value_delimiter = ',')]
    feature: Vec<Feature>,
    /// Public keys that may log in as root, as in authorized_keys
    #[arg(long, value_name = "FILE", value_parser = super::ssh::read_keys)]
    ssh_key: Option<SshKeys>,
    /// Start it
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// Kill it at once
    #[arg(long)]
    force: bool,
    /// How long it may take to halt before it is killed
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    /// Give up its last root at once; with --force also where copies of declared files could not be taken back from it
    #[arg(long)]
    discard: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// Kill it at once
    #[arg(long)]
    force: bool,
    /// How long it may take to halt before it is killed
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DestroyArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// Wait until its space is free
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    sure: ConfirmArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn create(context: &Context, args: CreateArgs) -> Result<ExitCode, Failure> {
    let body = CreateVps {
        template: args.template,
        hostname: args.name.clone(),
        id: args.id,
        disk_bytes: args.disk,
        memory_bytes: args.memory,
        cpu_percent: args.cpus,
        impermanence: args.impermanence,
        features: args.feature.iter().copied().collect(),
        ssh_keys: args.ssh_key.clone(),
        start: args.start,
    };
    let done = if args.start {
        "is made and runs"
    } else {
        "is made"
    };
    args.change
        .carry_out(context, &Change::create(&body), |op| match &args.name {
            Some(name) => format!("VPS {} ({name}) {done}", or_dash(op.vps)),
            None => format!("VPS {} {done}", or_dash(op.vps)),
        })
        .await
}

pub(super) async fn start(context: &Context, args: StartArgs) -> Result<ExitCode, Failure> {
    args.change
        .carry_out(context, &Change::start(&args.vps), |_| {
            format!("VPS {} runs", args.vps)
        })
        .await
}

pub(super) async fn stop(context: &Context, args: StopArgs) -> Result<ExitCode, Failure> {
    let body = StopVps {
        timeout_ms: millis(args.timeout),
        force: args.force,
        discard: args.discard,
    };
    let change = Change::stop(&args.vps, &body);
    args.change
        .carry_out(context, &change, |_| format!("VPS {} is stopped", args.vps))
        .await
}

pub(super) async fn restart(context: &Context, args: RestartArgs) -> Result<ExitCode, Failure> {
    let body = RestartVps {
        timeout_ms: millis(args.timeout),
        force: args.force,
    };
    let change = Change::restart(&args.vps, &body);
    args.change
        .carry_out(context, &change, |_| format!("VPS {} runs again", args.vps))
        .await
}

pub(super) async fn destroy(context: &Context, args: DestroyArgs) -> Result<ExitCode, Failure> {
    // Looked up first, so that the question speaks of what is there, and a typing error is no question at all.
    let vps = context.client.vps(&args.vps).await?;
    let others = match vps.datasets.len().saturating_sub(1) {
        0 => String::new(),
        1 => " and its subdataset".to_owned(),
        n => format!(" and its {n} subdatasets"),
    };
    let what = format!("VPS {} ({}){others}, with all data,", vps.id, vps.hostname);
    args.change
        .confirm(args.sure, &what, vps.hostname.as_str())?;
    let change = Change::destroy(&vps.id.to_string(), args.now);
    args.change
        .carry_out(context, &change, |_| {
            format!("VPS {} ({}) is destroyed", vps.id, vps.hostname)
        })
        .await
}

pub(super) async fn list(context: &Context) -> Result<ExitCode, Failure> {
    context
        .screen
        .show(&context.client.vpses().await?, |all| render_list(all))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn show(context: &Context, vps: &str) -> Result<ExitCode, Failure> {
    context
        .screen
        .show(&context.client.vps(vps).await?, |vps| {
            render_one(vps, now_unix_ms())
        })?;
    Ok(ExitCode::SUCCESS)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn render_list(all: &[VpsView]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|v| {
            vec![
                v.id.to_string(),
                v.hostname.to_string(),
                v.state.as_str().to_owned(),
                or_dash(v.network.as_ref().map(|own| own.ipv4)),
                v.template.to_string(),
                or_dash(v.run.as_ref().map(|run| run.root.to_string())),
                v.disk_bytes.to_string(),
                or_dash(v.limits.memory_bytes),
            ]
        })
        .collect();
    table(
        &[
            "id", "name", "state", "address", "template", "root", "disk", "memory",
        ],
        &rows,
    )
}

fn render_one(v: &VpsView, now_unix_ms: u64) -> String {
    let mut rows = vec![
        ("id", v.id.to_string()),
        ("name", v.hostname.to_string()),
        ("state", state(v, now_unix_ms)),
    ];
    if let Some(why) = &v.why {
        rows.push(("why", why.clone()));
    }
    rows.push(("template", v.template.to_string()));
    rows.push(("base", base(v)));
    rows.push(("impermanence", impermanence(v)));
    if !v.features.is_empty() {
        rows.push(("features", listed(&v.features)));
    }
    if let Some(storage) = &v.storage {
        rows.push(("storage", storage.to_string()));
    }
    if let Some(run) = &v.run {
        let mut told = format!("{}, since {}", run.id, moment(run.started_unix_ms));
        if let Some(us) = run.launch_us {
            told.push_str(&format!(", launched in {:.1} ms", us as f64 / 1000.0));
        }
        if let Some(pid) = run.init_pid {
            told.push_str(&format!(", init is process {pid}"));
        }
        rows.push(("run", told));
        rows.push(("root", cloned(&run.root, run.base.as_ref())));
        let rescue = super::rescue::where_it_is(v).into_iter();
        rows.extend(rescue.map(|line| ("rescue", line)));
    }
    // Where nothing of it is meant to be temporary, nothing is missing either.
    if let Some(told) = v.persistence.as_ref().filter(|_| v.impermanence.is_some()) {
        rows.push(("declared", super::persist::summary(told)));
        rows.extend(told.troubles.iter().map(|t| ("trouble", t.clone())));
    }
    if let Some(root) = &v.last_root {
        let root = cloned(root, v.last_root_base.as_ref());
        rows.push(("last root", format!("{root}, kept until the next start")));
    }
    rows.extend(super::reinstall::kept(v).map(|line| ("kept", line)));
    if let Some(own) = &v.network {
        rows.push(("address", format!("{} and {}", own.ipv4, own.ipv6)));
        rows.extend(own.ports.iter().map(|port| ("port", port.to_string())));
    }
    rows.push((
        "disk space",
        format!("{}, {} unassigned", v.disk_bytes, v.disk_unassigned_bytes),
    ));
    rows.push((
        "memory",
        v.limits
            .memory_bytes
            .map_or_else(|| "no limit".to_owned(), |m| m.to_string()),
    ));
    rows.push((
        "swap",
        match v.limits.swap_bytes {
            Bytes(0) => "none".to_owned(),
            some => some.to_string(),
        },
    ));
    rows.push((
        "cpus",
        v.limits
            .cpu_percent
            .map_or_else(|| "no limit".to_owned(), shown_cpus),
    ));
    rows.push((
        "processes",
        v.limits
            .processes
            .map_or_else(|| "no limit".to_owned(), |n| n.to_string()),
    ));
    rows.push(("on crash", v.on_crash.to_string()));
    rows.push((
        "autostart",
        match v.autostart.priority {
            0 => v.autostart.when.to_string(),
            priority => format!("{}, priority {priority}", v.autostart.when),
        },
    ));
    rows.push((
        "host ids",
        format!(
            "{} to {}",
            v.ids.first,
            u64::from(v.ids.first) + u64::from(v.ids.count) - 1
        ),
    ));
    rows.extend(v.notes.iter().map(|note| ("note", note.clone())));
    let mut text = facts(&rows);
    text.push('\n');
    text.push_str(&super::dataset::render_list(v.id, &v.datasets));
    text
}

fn state(v: &VpsView, now_unix_ms: u64) -> String {
    let mut text = v.state.as_str().to_owned();
    if let (VpsState::Running, Some(run)) = (v.state, &v.run) {
        text.push_str(&format!(" for {}", since(run.started_unix_ms, now_unix_ms)));
    }
    if v.state == VpsState::Stopped && v.desired == Desired::Running {
        text.push_str(", though it ought to run");
    }
    text
}

fn base(v: &VpsView) -> String {
    let track = match v.base.track {
        Track::Pinned => "pinned",
        Track::Latest => "each start takes the latest",
    };
    if let Some(own) = &v.base.own {
        return format!("{own}, its own system as it was when it was converted");
    }
    format!("{} ({}), {track}", v.template, v.base.template.short())
}

fn cloned(root: &PoolPath, base: Option<&Digest>) -> String {
    base.map_or_else(
        || root.to_string(),
        |base| format!("{root}, a clone of {}", base.short()),
    )
}

fn impermanence(v: &VpsView) -> String {
    match &v.impermanence {
        None => "off".to_owned(),
        Some(on) => format!(
            "on, root quota {}, root kind {}",
            on.root_quota_bytes,
            root_kind(on.root_kind)
        ),
    }
}

#[cfg(test)]
mod tests;
