//! The pool against the documents.

use std::collections::BTreeSet;

use super::{Finding, Kind, MarkSeen, NodeSeen, Remedy, Repair, Role, StateSeen};
use super::{find, looked, operator, trusted};
use crate::documents::VpsDoc;
use crate::names::{PoolPath, TemplatePart};
use crate::observed::{DatasetSeen, Mark, PoolSeen};
use crate::plan::{Busy, Step, sort_leftovers};
use crate::proof::Condemned;

const LOOK_AT_IT: &str = "look at it; if it is yours, move it out of the pool or remove it by hand";

pub(super) fn judge(seen: &NodeSeen, found: &mut Vec<Finding>) {
    if let Some(staged) = looked(found, &seen.staging) {
        for name in staged {
            let meaning = "an operation that was cut off left it in the staging area";
            find(
                found,
                Kind::Staged,
                name,
                meaning,
                Remedy::Repair(Repair::ClearStaging { name: name.clone() }),
            );
        }
    }
    let Some(pool) = looked(found, &seen.pool) else {
        return;
    };
    for (name, dataset) in &pool.datasets {
        if name.is_grave() {
            grave(seen, name, dataset, found);
        } else {
            marked(seen, name, dataset, found);
        }
    }
    if let Some(state) = trusted(seen) {
        let busy = busy(seen, state);
        left(seen, state, &busy, pool, found);
        for vps in state.vpses.iter().filter(|vps| !busy.has(vps.doc.id)) {
            has_its_datasets(&vps.doc, pool, found);
            has_its_roots(&vps.doc, pool, found);
        }
        for template in &state.templates {
            let base = PoolPath::template(&template.doc.digest, &TemplatePart::Base);
            if !pool.datasets.contains_key(&base) && !busy.templates && !busy.all {
                find(
                    found,
                    Kind::TemplateMissing,
                    &template.doc.name,
                    format!(
                        "its dataset {base} is not in the pool, so nothing can be made from it"
                    ),
                    operator(format!(
                        "build it again: mayfly template remove {0}; mayfly template build {0}",
                        template.doc.name
                    )),
                );
            }
        }
    }
}

/// Whose work is going on, and what documents that cannot be used may speak of.
fn busy(seen: &NodeSeen, state: &StateSeen) -> Busy {
    let mut busy = seen.busy.clone();
    for one in &state.unusable {
        busy.templates = true;
        match one.key.strip_prefix("/vps/").map(str::parse) {
            Some(Ok(id)) => drop(busy.vpses.insert(id)),
            Some(Err(_)) => busy.all = true,
            None => busy.all |= one.key.starts_with("/operations/"),
        }
    }
    busy
}

fn grave(seen: &NodeSeen, name: &PoolPath, dataset: &DatasetSeen, found: &mut Vec<Finding>) {
    if name.as_str().matches('/').count() > 1 {
        return;
    }
    match Condemned::prove(name, &dataset.mark, &seen.node) {
        Err(refusal) => find(
            found,
            Kind::GraveForeign,
            name,
            refusal.message,
            operator(LOOK_AT_IT),
        ),
        // The reaper's own, which comes to it; who holds it is told with the mounts.
        Ok(_) if seen.serving => {}
        Ok(_) if trusted(seen).is_none() => {}
        Ok(_) => find(
            found,
            Kind::GraveWaits,
            name,
            "it was given up and is not destroyed yet",
            Remedy::Repair(Repair::Reap {
                grave: name.clone(),
            }),
        ),
    }
}

/// Whether a mark is of this node and fits.
fn marked(seen: &NodeSeen, name: &PoolPath, dataset: &DatasetSeen, found: &mut Vec<Finding>) {
    let mut tell = |code, meaning: String| find(found, code, name, meaning, operator(LOOK_AT_IT));
    match &dataset.mark {
        MarkSeen::Unset if name.as_str().contains("/private/") => {
            tell(
                Kind::Nested,
                "it lies inside what a guest sees; no snapshot and no conversion is made over it"
                    .into(),
            );
        }
        MarkSeen::Unset => tell(
            Kind::Unmarked,
            "nothing says whose it is; it is left alone".into(),
        ),
        MarkSeen::NotLocal => tell(
            Kind::MarkNotLocal,
            "its mark came with the data and proves nothing".into(),
        ),
        MarkSeen::Unreadable(why) => tell(
            Kind::MarkUnreadable,
            format!("its mark cannot be read: {why}"),
        ),
        MarkSeen::Local(mark) if mark.node != seen.node => {
            tell(
                Kind::Foreign,
                format!("its mark names the node {}", mark.node),
            );
        }
        MarkSeen::Local(mark) => {
            if let Some(why) = misfit(name, mark) {
                tell(Kind::MarkMisfit, why);
            }
        }
    }
}

fn misfit(name: &PoolPath, mark: &Mark) -> Option<String> {
    if mark.made_as != *name {
        return Some(format!("its mark was made for {}", mark.made_as));
    }
    if mark.condemned_by.is_some() {
        return Some("it is condemned and was not moved to the graveyard".into());
    }
    match mark.role {
        Role::Temporary if mark.run.is_none() => Some("its mark names no run".into()),
        Role::Temporary | Role::Persistent | Role::Replaced | Role::Base
            if mark.owner.is_none() =>
        {
            Some("its mark names no VPS".into())
        }
        _ => None,
    }
}

/// What no document speaks of.
fn left(
    seen: &NodeSeen,
    state: &StateSeen,
    busy: &Busy,
    pool: &PoolSeen,
    found: &mut Vec<Finding>,
) {
    let vpses: Vec<VpsDoc> = state.vpses.iter().map(|vps| vps.doc.clone()).collect();
    let templates: Vec<_> = state.templates.iter().map(|one| one.doc.clone()).collect();
    let leftovers = sort_leftovers(
        pool,
        &vpses,
        &templates,
        busy,
        &state.spared,
        &seen.node,
        &seen.operation,
    );
    for name in state
        .spared
        .iter()
        .filter(|name| pool.datasets.contains_key(*name))
    {
        find(
            found,
            Kind::Spared,
            name,
            "the state was rebuilt and no document of it speaks of this; it is kept until you let go of it",
            Remedy::Repair(Repair::LetGo {
                dataset: name.clone(),
            }),
        );
    }
    for step in leftovers.burials {
        let (code, name, meaning) = match &step {
            Step::BuryRoot { root, .. } => (Kind::RootLeft, root, "its VPS has done with it"),
            Step::BuryTemplate { dataset, .. } => (
                Kind::TemplateLeft,
                dataset,
                "no template and no VPS needs it",
            ),
            Step::BuryData { dataset, .. } => {
                (Kind::ReplacedLeft, dataset, "its VPS has done with it")
            }
            _ => continue,
        };
        let repair = Remedy::Repair(Repair::Bury { step: step.clone() });
        find(found, code, name, meaning, repair);
    }
    for (name, mark) in own(seen, pool) {
        let Some((id, life)) = &mark.owner else {
            continue;
        };
        let owner = vpses.iter().find(|v| v.id == *id && v.incarnation == *life);
        if busy.has(*id) || state.spared.contains(name) {
            continue;
        }
        let known = owner.is_some_and(|v| v.datasets.iter().any(|d| v.pool_path(&d.name) == *name));
        match mark.role {
            Role::Persistent if !known => find(
                found,
                Kind::DataUnknown,
                name,
                format!(
                    "it is data of VPS {id} (incarnation {life}), and no document speaks of it"
                ),
                operator(
                    "it is never destroyed by itself; if a document was lost: mayfly recover --dry-run",
                ),
            ),
            Role::Replaced | Role::Base if owner.is_none() => find(
                found,
                Kind::DataUnknown,
                name,
                format!(
                    "it was contents of VPS {id} (incarnation {life}), of which there is no document"
                ),
                operator("it is left alone; if a document was lost: mayfly recover --dry-run"),
            ),
            Role::Temporary if owner.is_none() => find(
                found,
                Kind::RootUnknown,
                name,
                format!(
                    "it is a root of VPS {id} (incarnation {life}), of which there is no document"
                ),
                operator("it is left alone; if a document was lost: mayfly recover --dry-run"),
            ),
            _ => {}
        }
    }
}

/// Datasets with a mark of this node that fits.
fn own<'a>(
    seen: &'a NodeSeen,
    pool: &'a PoolSeen,
) -> impl Iterator<Item = (&'a PoolPath, &'a Mark)> {
    pool.datasets
        .iter()
        .filter_map(|(name, dataset)| match &dataset.mark {
            MarkSeen::Local(mark) if mark.node == seen.node && misfit(name, mark).is_none() => {
                Some((name, mark))
            }
            _ => None,
        })
}

fn has_its_datasets(vps: &VpsDoc, pool: &PoolSeen, found: &mut Vec<Finding>) {
    for dataset in &vps.datasets {
        let name = vps.pool_path(&dataset.name);
        match pool.datasets.get(&name) {
            None => find(
                found,
                Kind::DatasetMissing,
                &name,
                format!("VPS {} has it, and it is not in the pool", vps.title()),
                operator(
                    "put it back from a backup, or remove it from the VPS: mayfly dataset destroy",
                ),
            ),
            Some(there) => quota(&name, dataset.quota_bytes, there, found),
        }
    }
    if let (Some(feature), Some(run)) = (&vps.impermanence, &vps.run) {
        // A root that was made before the feature was changed has the quota of its birth.
        if let Some(there) = pool.datasets.get(&run.root) {
            if there.quota.is_none() {
                quota(&run.root, feature.root_quota_bytes, there, found);
            }
        }
    }
}

fn quota(
    name: &PoolPath,
    want: crate::bytes::Bytes,
    there: &DatasetSeen,
    found: &mut Vec<Finding>,
) {
    if there.quota == Some(want) {
        return;
    }
    let has = there
        .quota
        .map_or("none".to_owned(), |quota| quota.to_string());
    let step = Step::SetQuota {
        dataset: name.clone(),
        quota_bytes: want,
    };
    find(
        found,
        Kind::QuotaDiffers,
        name,
        format!("its quota is {has} and should be {want}"),
        Remedy::Repair(Repair::SetQuota { step }),
    );
}

fn has_its_roots(vps: &VpsDoc, pool: &PoolSeen, found: &mut Vec<Finding>) {
    let roots: BTreeSet<&PoolPath> = vps.run.iter().map(|run| &run.root).collect();
    for root in roots {
        if !pool.datasets.contains_key(root) {
            find(
                found,
                Kind::RootMissing,
                root,
                format!("VPS {} runs on it, and it is not in the pool", vps.title()),
                operator(format!("start it anew: mayfly restart {} --force", vps.id)),
            );
        }
    }
    if let Some(root) = &vps.last_root {
        if !pool.datasets.contains_key(root) {
            find(
                found,
                Kind::RootMissing,
                root,
                format!(
                    "it is the last root of VPS {}, and it is not in the pool",
                    vps.title()
                ),
                Remedy::Repair(Repair::ForgetLastRoot {
                    vps: vps.id,
                    root: root.clone(),
                }),
            );
        }
    }
}
