//! Mounts of a VPS.

use std::process::ExitCode;

use clap::Subcommand;
use mayfly_api::{AddMount, Change, MountView, VpsView};
use mayfly_core::names::{DatasetName, GuestPath};
use mayfly_core::plan::RESCUE_ROOT;

use super::change::ChangeArgs;
use super::table::table;
use super::words::{DatasetRef, parse_vps};
use super::{Context, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum MountVerb {
    /// Show a dataset at a path of its VPS
    #[command(
        after_help = "Examples:\n  mayfly mount add web/srv /srv --read-only\n  mayfly mount add web /persistent      the root dataset"
    )]
    Add {
        /// VPS and name, such as 11327/nix; 11327 alone is the root dataset
        dataset: DatasetRef,
        /// Where
        path: GuestPath,
        /// Keep the guest's root from writing
        #[arg(long)]
        read_only: bool,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// The mounts of a VPS
    List {
        /// Id or host name
        #[arg(value_parser = parse_vps)]
        vps: String,
    },
    /// Show a dataset no more; its data stays
    Remove {
        /// Id or host name
        #[arg(value_parser = parse_vps)]
        vps: String,
        /// Where
        path: GuestPath,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

pub(super) async fn run(context: &Context, verb: MountVerb) -> Result<ExitCode, Failure> {
    match verb {
        MountVerb::Add {
            dataset: DatasetRef { vps, name },
            path,
            read_only,
            change,
        } => {
            let done = format!("mount {path} is added");
            let tells = change.waits() && !context.screen.json;
            let added = (name.clone(), path.clone());
            let body = AddMount {
                dataset: name,
                path,
                read_only,
            };
            let done = change
                .carry_out(context, &Change::add_mount(&vps, &body), |_| done)
                .await?;
            if tells {
                tell_in_rescue(context, &vps, &added).await?;
            }
            Ok(done)
        }
        MountVerb::List { vps } => {
            context
                .screen
                .show(&context.client.mounts(&vps).await?, |all| {
                    render_list(&vps, all)
                })?;
            Ok(ExitCode::SUCCESS)
        }
        MountVerb::Remove { vps, path, change } => {
            let tells = change.waits() && !context.screen.json;
            let done = change
                .carry_out(context, &Change::remove_mount(&vps, &path), |_| {
                    format!("mount {path} is removed")
                })
                .await?;
            if tells && context.client.vps(&vps).await?.run.is_some() {
                let line = "  what the guest has open there stays open until it is closed\n";
                context.screen.print(line)?;
            }
            Ok(done)
        }
    }
}

/// Says where a new mount is in a rescue system, which has some elsewhere and some not at all.
pub(super) async fn tell_in_rescue(
    context: &Context,
    vps: &str,
    added: &(DatasetName, GuestPath),
) -> Result<(), Failure> {
    match in_rescue(&context.client.vps(vps).await?, added) {
        Some(line) => context.screen.print(&format!("  {line}\n")),
        None => Ok(()),
    }
}

fn in_rescue(vps: &VpsView, (dataset, path): &(DatasetName, GuestPath)) -> Option<String> {
    let rescue = vps.run.as_ref()?.rescue.as_ref()?;
    let name = match dataset.is_root() {
        true => vps.id.to_string(),
        false => format!("{}/{dataset}", vps.id),
    };
    let aside = format!("{RESCUE_ROOT}{path}");
    let mut mounts = rescue.mounts.iter();
    let here = mounts.find(|m| {
        m.dataset == *dataset && !dataset.is_root() && (m.path == *path || m.path.as_str() == aside)
    });
    Some(match here {
        Some(mount) if mount.path == *path => {
            format!("in this rescue system {name} is at {path}")
        }
        Some(mount) => format!(
            "in this rescue system {name} is at {}: at {path} it would hide the system",
            mount.path
        ),
        None => format!("{name} is at {path} from the next start on, not in this rescue system"),
    })
}

fn render_list(vps: &str, all: &[MountView]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|m| {
            let dataset = if m.dataset.is_root() {
                vps.to_owned()
            } else {
                format!("{vps}/{}", m.dataset)
            };
            vec![
                m.path.to_string(),
                dataset,
                if m.read_only {
                    "read-only"
                } else {
                    "read-write"
                }
                .to_owned(),
            ]
        })
        .collect();
    table(&["path", "dataset", "access"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_named_as_they_are_typed() {
        let mount = |dataset: &str, path: &str, read_only| MountView {
            dataset: dataset.parse().unwrap(),
            path: path.parse().unwrap(),
            read_only,
        };
        assert_eq!(
            render_list(
                "web1",
                &[mount("", "/persistent", false), mount("nix", "/nix", true)]
            ),
            "\
PATH         DATASET   ACCESS
/persistent  web1      read-write
/nix         web1/nix  read-only
"
        );
    }
}
