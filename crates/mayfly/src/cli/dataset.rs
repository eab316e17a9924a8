//! Datasets of a VPS.

use std::process::ExitCode;

use clap::Subcommand;
use mayfly_api::{Change, CreateDataset, DatasetView, SetDataset};
use mayfly_core::bytes::Bytes;
use mayfly_core::ids::VpsId;
use mayfly_core::names::GuestPath;

use super::change::{ChangeArgs, ConfirmArgs};
use super::mount::tell_in_rescue;
use super::table::{or_dash, table};
use super::words::{DatasetRef, parse_setting, parse_subdataset, parse_vps};
use super::{Context, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum DatasetVerb {
    /// Make a dataset
    #[command(after_help = "Example:\n  mayfly dataset create web/srv --quota 5G --mount /srv")]
    Create {
        /// VPS and name, such as 11327/nix
        #[arg(value_parser = parse_subdataset)]
        dataset: DatasetRef,
        /// What it may hold, taken from the VPS's disk space
        #[arg(long, value_name = "SIZE")]
        quota: Bytes,
        /// Mount it there at once
        #[arg(long, value_name = "PATH")]
        mount: Option<GuestPath>,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// The datasets of a VPS and what they hold
    List {
        /// Id or host name
        #[arg(value_parser = parse_vps)]
        vps: String,
    },
    /// Change a dataset's quota
    Set {
        /// VPS and name, such as 11327/nix; 11327 alone is the root dataset
        dataset: DatasetRef,
        /// Its new quota
        #[arg(value_name = "quota=SIZE", value_parser = parse_quota)]
        quota: Bytes,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Destroy a dataset with its data
    Destroy {
        /// VPS and name, such as 11327/nix
        #[arg(value_parser = parse_subdataset)]
        dataset: DatasetRef,
        /// Remove its mounts with it
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        sure: ConfirmArgs,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

fn parse_quota(text: &str) -> Result<Bytes, String> {
    parse_setting(text, "quota")
}

pub(super) async fn run(context: &Context, verb: DatasetVerb) -> Result<ExitCode, Failure> {
    match verb {
        DatasetVerb::Create {
            dataset: DatasetRef { vps, name },
            quota,
            mount,
            change,
        } => {
            let done = match &mount {
                None => format!("dataset {vps}/{name} is made"),
                Some(path) => format!("dataset {vps}/{name} is made and mounted at {path}"),
            };
            let tells = change.waits() && !context.screen.json;
            let added = mount.clone().filter(|_| tells).map(|at| (name.clone(), at));
            let body = CreateDataset {
                name,
                quota_bytes: quota,
                mount,
            };
            let done = change
                .carry_out(context, &Change::create_dataset(&vps, &body), |_| done)
                .await?;
            if let Some(added) = added {
                tell_in_rescue(context, &vps, &added).await?;
            }
            Ok(done)
        }
        DatasetVerb::List { vps } => {
            let id = context.client.vps(&vps).await?.id;
            context
                .screen
                .show(&context.client.datasets(&vps).await?, |all| {
                    render_list(id, all)
                })?;
            Ok(ExitCode::SUCCESS)
        }
        DatasetVerb::Set {
            dataset,
            quota,
            change,
        } => {
            let body = SetDataset { quota_bytes: quota };
            let asked = Change::set_dataset(&dataset.vps, &dataset.name, &body);
            change
                .carry_out(context, &asked, |_| {
                    format!("dataset {} has quota {quota}", typed(&dataset))
                })
                .await
        }
        DatasetVerb::Destroy {
            dataset,
            force,
            sure,
            change,
        } => {
            let shown = typed(&dataset);
            change.confirm(sure, &format!("dataset {shown}, with all data,"), &shown)?;
            let asked = Change::destroy_dataset(&dataset.vps, &dataset.name, force);
            change
                .carry_out(context, &asked, |_| format!("dataset {shown} is destroyed"))
                .await
        }
    }
}

fn typed(dataset: &DatasetRef) -> String {
    if dataset.name.is_root() {
        dataset.vps.clone()
    } else {
        format!("{}/{}", dataset.vps, dataset.name)
    }
}

/// Datasets as a table, named as they are typed.
pub(super) fn render_list(vps: VpsId, all: &[DatasetView]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|d| {
            let mounted: Vec<_> = d.mounted_at.iter().map(ToString::to_string).collect();
            vec![
                typed(&DatasetRef {
                    vps: vps.to_string(),
                    name: d.name.clone(),
                }),
                d.quota_bytes.to_string(),
                or_dash(d.used_bytes),
                or_dash((!mounted.is_empty()).then(|| mounted.join(", "))),
            ]
        })
        .collect();
    table(&["dataset", "quota", "used", "mounted at"], &rows)
}
