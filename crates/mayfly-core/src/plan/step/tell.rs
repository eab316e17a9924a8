//! Steps in words, for `--dry-run` and the log.

use std::fmt;

use super::Step;
use crate::features::listed;
use crate::names::PoolPath;
use crate::ports::TreePlan;
use crate::trees::{TakeTo, TreeCopy};

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndRun {
                vps,
                run: Some(run),
                halt_ms: Some(ms),
            } => {
                write!(
                    f,
                    "halt run {run} of {vps}, kill it after {} s, prove that it is over",
                    ms / 1000
                )
            }
            Self::EndRun { vps, .. } => write!(
                f,
                "end whatever of {vps} is alive and prove that it is over"
            ),
            Self::CreateDataset { new } => {
                write!(f, "make dataset {}", new.name)?;
                if let crate::ports::Origin::Clone(from) = &new.origin {
                    write!(f, " as a clone of {from}")?;
                }
                if let Some(quota) = new.quota {
                    write!(f, ", quota {quota}")?;
                }
                Ok(())
            }
            Self::SetQuota {
                dataset,
                quota_bytes,
            } => write!(f, "set the quota of {dataset} to {quota_bytes}"),
            Self::PrepareTree { dataset, tree } => write_tree(f, dataset, tree),
            Self::Record { vps, what, .. } => write!(f, "record of {vps}: {what}"),
            Self::SetLimits { vps, run, limits } => {
                write!(f, "limit run {run} of {vps} to {limits}")
            }
            Self::ShowMount {
                vps,
                run,
                mount: (dataset, path, read_only),
            } => write!(
                f,
                "show {dataset} at {path}{} in run {run} of {vps}",
                if *read_only { " (read-only)" } else { "" }
            ),
            Self::HideMount {
                vps,
                run,
                mount: (dataset, path, _),
            } => write!(f, "hide {dataset} at {path} in run {run} of {vps}"),
            Self::Launch { launch } => {
                write!(
                    f,
                    "start the supervisor of run {} of {} with {} at /",
                    launch.run, launch.vps, launch.root
                )?;
                for (dataset, path, read_only) in &launch.mounts {
                    write!(
                        f,
                        ", {dataset} at {path}{}",
                        if *read_only { " (read-only)" } else { "" }
                    )?;
                }
                if !launch.features.is_empty() {
                    write!(f, ", with {}", listed(&launch.features))?;
                }
                if let Some(network) = &launch.network {
                    write!(f, ", plugged into {}", network.bridge)?;
                }
                Ok(())
            }
            Self::AwaitInit {
                vps,
                run,
                deadline_ms,
            } => {
                write!(
                    f,
                    "wait {} s at most for the init of run {run} of {vps}",
                    deadline_ms / 1000
                )
            }
            Self::Harvest { harvest } => write!(
                f,
                "take back changed copies of {} into {} of {}",
                harvest.root, harvest.storage, harvest.vps
            ),
            Self::BuryRoot {
                root,
                grave,
                give_up,
                ..
            } => {
                write!(f, "move temporary root {root} to {grave}")?;
                f.write_str(if *give_up { ", whatever it holds" } else { "" })
            }
            Self::BuryData { dataset, grave, .. } => {
                write!(f, "move dataset {dataset} to {grave}, to be destroyed")
            }
            Self::Exchange {
                dataset,
                aside,
                contents,
                used_bytes,
                ..
            } => {
                write!(f, "let {dataset} and {aside} change places")?;
                match contents {
                    Some(by) => write!(f, ": it gets the contents of reinstall {by}")?,
                    None => write!(f, ": it gets its first contents")?,
                }
                write!(f, ", {used_bytes} are put aside")
            }
            Self::CopyTree { copy } => write_copy(f, copy),
            Self::TakeOut { what, to } => {
                let (path, dataset) = (&what.path, &what.dataset);
                match to {
                    TakeTo::Aside => write!(f, "take {path} out of the tree of {dataset}"),
                    TakeTo::Back => write!(f, "put {path} back into the tree of {dataset}"),
                    TakeTo::Nothing => write!(
                        f,
                        "destroy what was {path} of {dataset} until it was copied"
                    ),
                }
            }
            Self::AwaitHealth {
                vps,
                run,
                before,
                deadline_ms,
            } => {
                write!(
                    f,
                    "wait {} s at most until nothing is queued in run {run} of {vps} and nothing failed",
                    deadline_ms / 1000
                )?;
                match before.is_empty() {
                    true => Ok(()),
                    false => {
                        let before: Vec<&str> = before.iter().map(String::as_str).collect();
                        write!(f, " but what had before: {}", before.join(", "))
                    }
                }
            }
            Self::BuryTemplate { dataset, grave } => {
                write!(f, "move template {dataset} to {grave}")
            }
            Self::ForgetRuns { vps, .. } => write!(f, "remove the records of ended runs of {vps}"),
            Self::Reap { graves } => write!(f, "destroy what lies in {} graves", graves.len()),
            Self::BuildTemplate { recipe, name, .. } => {
                write!(f, "build template {name} from recipe {recipe}")
            }
            Self::ImportTemplate { source, name } => {
                write!(
                    f,
                    "import template {name} from {}",
                    source.archive.escape_debug()
                )?;
                if let Some(metadata) = &source.metadata {
                    write!(f, " with {}", metadata.escape_debug())?;
                }
                Ok(())
            }
            Self::PullTemplate { source, name } => {
                write!(
                    f,
                    "pull template {name}: {} from {}",
                    source.image, source.remote
                )
            }
            Self::RecordTemplate { name, doc: Some(_) } => write!(f, "record template {name}"),
            Self::RecordTemplate { name, doc: None } => {
                write!(f, "remove the record of template {name}")
            }
        }
    }
}

fn write_copy(f: &mut fmt::Formatter<'_>, copy: &TreeCopy) -> fmt::Result {
    match copy.below.is_top() {
        true => write!(f, "copy all of {} into {}", copy.from, copy.to)?,
        false => write!(f, "copy {} of {} into {}", copy.below, copy.from, copy.to)?,
    }
    for (number, path) in copy.without.iter().enumerate() {
        let word = if number == 0 { " without" } else { "," };
        write!(f, "{word} {path}")?;
    }
    Ok(())
}

fn write_tree(f: &mut fmt::Formatter<'_>, dataset: &PoolPath, tree: &TreePlan) -> fmt::Result {
    write!(f, "in {dataset}:")?;
    for path in &tree.directories {
        write!(f, " {path}/")?;
    }
    for (path, to) in &tree.links {
        write!(f, " {path}->{to}")?;
    }
    for (path, _) in &tree.files {
        write!(f, " {path}")?;
    }
    for edit in &tree.edits {
        write!(f, " {} ({})", edit.path, edit.what.escape_debug())?;
    }
    Ok(())
}
