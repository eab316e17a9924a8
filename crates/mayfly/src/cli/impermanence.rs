//! `mayfly impermanence`: a persistent VPS made impermanent in one operation, and back.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use mayfly_api::{Change, ConvertVps, OperationView};
use mayfly_core::bytes::Bytes;
use mayfly_core::names::GuestPath;

use super::change::ChangeArgs;
use super::feature::Kind;
use super::words::parse_vps;
use super::{Context, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum ImpermanenceVerb {
    /// Make a persistent VPS impermanent, with all that takes; where anything fails, it is as before
    Convert(ConvertArgs),
    /// Make a VPS that was converted persistent again, with the same data
    Revert(RevertArgs),
}

const CONVERT: &str = "\
The root dataset becomes the storage, at /persistent: nothing that is in the VPS is deleted.
A NixOS gets a dataset for /nix, which the store moves into, and starts from an empty root.
Of any other system the present state becomes the base that each start clones. Of that stay the
users and groups, /home, /root, /srv, /var/log, /var/lib/systemd, SSH host keys, machine-id, and
what --keep names; see `mayfly persist list` afterwards.

The VPS is restarted and has to be as well as before: no queued jobs, no failed unit that had not
failed before. Programs wait meanwhile: copying takes as long as it takes.

Examples:
  mayfly impermanence convert web --dry-run
  mayfly impermanence convert web --keep /var/lib/postgresql --keep /var/www";

#[derive(Debug, Args)]
#[command(after_help = CONVERT)]
pub(crate) struct ConvertArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// A directory that stays, besides what stays anyway
    #[arg(long, value_name = "PATH")]
    keep: Vec<GuestPath>,
    /// Where the root dataset is from then on [default: its storage, else /persistent]
    #[arg(long, value_name = "PATH")]
    persistent: Option<GuestPath>,
    /// The quota of the dataset for /nix [default: 20G, or twice what the VPS holds]
    #[arg(long, value_name = "SIZE")]
    nix_quota: Option<Bytes>,
    /// What one temporary root may hold [default: 10G]
    #[arg(long, value_name = "SIZE")]
    root_quota: Option<Bytes>,
    /// What temporary roots are made from [default: by what is in the VPS]
    #[arg(long, value_name = "KIND")]
    root_kind: Option<Kind>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RevertArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn run(context: &Context, verb: ImpermanenceVerb) -> Result<ExitCode, Failure> {
    match verb {
        ImpermanenceVerb::Convert(args) => {
            let body = ConvertVps {
                root_quota_bytes: args.root_quota,
                root_kind: args.root_kind.map(Into::into),
                storage: args.persistent,
                nix_quota_bytes: args.nix_quota,
                keep: args.keep,
            };
            let change = Change::convert(&args.vps, &body);
            let done = |op: &OperationView| {
                let mut lines = format!(
                    "VPS {0} is converted: each start gives it a new root; to go back: mayfly impermanence revert {0}",
                    args.vps
                );
                for note in &op.notes {
                    lines.push_str(&format!("\n  {note}"));
                }
                lines
            };
            args.change.carry_out(context, &change, done).await
        }
        ImpermanenceVerb::Revert(args) => {
            let done = format!("VPS {} has a persistent root again", args.vps);
            let change = Change::revert(&args.vps);
            args.change.carry_out(context, &change, |_| done).await
        }
    }
}
