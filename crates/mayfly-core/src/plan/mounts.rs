//! Mounts: their order, their mount points, adding and removing them.

use std::collections::BTreeMap;

use super::live::Live;
use super::parts::{no_such_dataset, record};
use super::{Plan, PlanContext};
use crate::documents::{Mount, VpsDoc};
use crate::error::{Code, Refusal};
use crate::names::{GuestPath, PoolPath};
use crate::observed::Observed;
use crate::ports::TreePlan;
use crate::run::{MountSource, RunMount};
use crate::space::shown;

/// The mounts, parents before children.
pub fn mount_order(mounts: &[Mount]) -> Vec<Mount> {
    let mut sorted = mounts.to_vec();
    sorted.sort_by(|a, b| a.path.as_str().split('/').cmp(b.path.as_str().split('/')));
    sorted
}

/// A dataset at a path, and whether it is read-only.
pub type Shown = (PoolPath, GuestPath, bool);

/// What is shown where, parents before children.
pub(super) fn shown_datasets(doc: &VpsDoc) -> Vec<Shown> {
    let mounts = mount_order(&doc.mounts).into_iter();
    mounts
        .map(|m| (doc.pool_path(&m.dataset), m.path, m.read_only))
        .collect()
}

/// The same for a runtime. `source` says where a dataset's contents are.
pub(super) fn run_mounts(
    shown: &[Shown],
    source: impl Fn(&PoolPath) -> MountSource,
) -> Vec<RunMount> {
    shown.iter().map(|one| run_mount(one, &source)).collect()
}

/// The same of one.
pub fn run_mount(
    (dataset, target, read_only): &Shown,
    source: impl Fn(&PoolPath) -> MountSource,
) -> RunMount {
    RunMount {
        source: source(dataset),
        target: target.clone(),
        read_only: *read_only,
    }
}

/// The directories that must be in each dataset's tree so that all mounts find their mount points.
pub(super) fn mount_points(doc: &VpsDoc, root: &PoolPath) -> BTreeMap<PoolPath, TreePlan> {
    let mut trees: BTreeMap<PoolPath, TreePlan> = BTreeMap::new();
    let mounts = mount_order(&doc.mounts);
    for mount in &mounts {
        // The tree that the mount point lies in: that of the deepest mount above it.
        let above = mounts
            .iter()
            .filter(|m| m.path != mount.path && mount.path.below(&m.path).is_some())
            .max_by_key(|m| m.path.as_str().len());
        let (tree, inside) = match above {
            Some(m) => (
                doc.pool_path(&m.dataset),
                mount.path.below(&m.path).unwrap_or_default(),
            ),
            None => (root.clone(), mount.path.relative()),
        };
        let plan = trees.entry(tree).or_default();
        let mut path = String::new();
        for part in inside.split('/') {
            path = format!("{path}/{part}");
            let path: GuestPath = path.parse().expect("a part of a valid path is valid");
            if !plan.directories.contains(&path) {
                plan.directories.push(path);
            }
        }
    }
    trees
}

/// Refuses a mount that could not be in place before the guest's first process.
pub(super) fn check_mount(doc: &VpsDoc, mount: &Mount) -> Result<(), Refusal> {
    if doc.dataset(&mount.dataset).is_none() {
        return Err(no_such_dataset(doc, &mount.dataset));
    }
    if doc.mounts.iter().any(|m| m.path == mount.path) {
        return Err(Refusal::new(
            Code::MountExists,
            format!(
                "VPS {}: something is mounted at {} already",
                doc.title(),
                mount.path
            ),
            format!("see `mayfly mount list {}`", doc.id),
        ));
    }
    // The kernel's and the init's own file systems would hide the dataset or be hidden by it.
    for taken in ["/dev", "/proc", "/sys", "/run"] {
        let taken: GuestPath = super::platform::path(taken);
        if mount.path.is_top() || mount.path.below(&taken).is_some() {
            return Err(Refusal::new(
                Code::MountPointRefused,
                format!(
                    "VPS {}: nothing can be mounted at {}",
                    doc.title(),
                    mount.path
                ),
                "choose another path; /, /dev, /proc, /sys and /run belong to the system",
            ));
        }
    }
    // A mount point is a directory; where the platform puts a file, the next start would fail.
    let files = super::platform::platform_files(doc)
        .into_iter()
        .map(|(path, _)| path);
    if let Some(file) = files
        .chain([doc.manifest.init.clone()])
        .find(|file| mount.path.below(file).is_some())
    {
        return Err(Refusal::new(
            Code::MountPointRefused,
            format!(
                "VPS {}: nothing can be mounted at {}, {file} is a file",
                doc.title(),
                mount.path
            ),
            "choose another path",
        ));
    }
    Ok(())
}

/// Shows a dataset at a path, at once and from every start on.
pub fn plan_mount_add(
    doc: &VpsDoc,
    seen: &Observed,
    mount: &Mount,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    check_mount(doc, mount)?;
    let live = Live::to_add(doc, seen, mount, ctx)?;
    let mut new = doc.clone();
    new.mounts.push(mount.clone());
    new.mounts = mount_order(&new.mounts);
    if let Some(live) = &live {
        live.note_shown(&mut new, &mount.path);
    }
    let what = format!(
        "{} is mounted at {}",
        shown(doc, &mount.dataset),
        mount.path
    );
    // What cannot be shown is refused before anything is recorded.
    let mut steps: Vec<_> = live.iter().map(|live| live.show(doc)).collect();
    steps.push(record(doc, new, what));
    Ok(Plan { steps })
}

/// Shows it there no more, at once and from every start on.
pub fn plan_mount_remove(doc: &VpsDoc, seen: &Observed, path: &GuestPath) -> Result<Plan, Refusal> {
    let Some(mount) = doc.mounts.iter().find(|m| m.path == *path) else {
        return Err(Refusal::new(
            Code::MountNotFound,
            format!("VPS {}: nothing is mounted at {path}", doc.title()),
            format!("see `mayfly mount list {}`", doc.id),
        ));
    };
    let live = Live::to_remove(doc, seen, mount)?;
    let mut new = doc.clone();
    new.mounts.retain(|m| m.path != *path);
    if let Some(live) = &live {
        live.note_hidden(&mut new, path);
    }
    let mut steps: Vec<_> = live.iter().map(|live| live.hide(doc)).collect();
    steps.push(record(doc, new, format!("nothing is mounted at {path}")));
    Ok(Plan { steps })
}
