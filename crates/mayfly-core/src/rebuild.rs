//! What a lost, damaged or outdated state is rebuilt as: from mirrors, from what can be read of the old state, and from the
//! marks in the pool. Pure; equal inputs give equal answers.
//!
//! Of each document the newer one counts, by the revision that it was put in. A document is taken unless it is certain that
//! its data is not there. What the pool has and no document speaks of is spared, not cleared away. Nothing is destroyed.

use std::collections::{BTreeMap, BTreeSet};

use crate::bytes::Bytes;
use crate::documents::{CurrentRun, Dataset, Desired, Lifecycle, TemplateDoc, VpsDoc};
use crate::fsck::{NodeSeen, Put, StateSeen};
use crate::ids::{Incarnation, VpsId};
use crate::names::{DatasetName, PoolPath, TemplatePart};
use crate::observed::{Evidence, Mark, MarkSeen, PoolSeen, Role};
use crate::plan::{Busy, Step, sort_leftovers};

/// A rebuilt state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// The revision that it must be above: of the pool, of the old state, of every mirror.
    pub above: u64,
    /// VPSes.
    pub vpses: Vec<VpsDoc>,
    /// Templates.
    pub templates: Vec<TemplateDoc>,
    /// What the pool has, and these documents do not speak of.
    pub spared: BTreeSet<PoolPath>,
    /// What could not be known, and what was put right by what was seen.
    pub notes: Vec<String>,
}

/// Why nothing was rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRebuilt {
    /// The state is whole, and as new as the pool.
    #[error("the state is whole, and as new as the pool")]
    NothingToDo,
    /// Something could not be looked at.
    #[error(transparent)]
    Look(#[from] crate::error::LookFailed),
}

/// Whether a state needs no rebuilding.
fn is_whole(seen: &NodeSeen, generation: u64) -> bool {
    seen.state.as_ref().is_ok_and(|state| {
        state.damage.is_empty() && state.unusable.is_empty() && state.revision >= generation
    })
}

/// What the state is rebuilt as. `now_unix_ms` is for what began at a time that nobody knows.
pub fn rebuild(seen: &NodeSeen, boot_id: &str, now_unix_ms: u64) -> Result<Rebuilt, NotRebuilt> {
    let mut notes = Vec::new();
    // One that cannot be read is one of the reasons to be here: it is replaced with the first change.
    let generation = match &seen.generation {
        Ok(generation) => generation.unwrap_or(0),
        Err(failed) => {
            notes.push(format!("{failed}; it begins anew above all that is known"));
            0
        }
    };
    if seen.generation.is_ok() && is_whole(seen, generation) {
        return Err(NotRebuilt::NothingToDo);
    }
    let pool = seen.pool.as_ref().map_err(Clone::clone)?;
    let signs = seen.signs.as_ref().map_err(Clone::clone)?;
    let nothing = StateSeen::default();
    let old = match &seen.state {
        Ok(state) => state,
        Err(why) => {
            notes.push(format!("of the old state nothing can be read: {why}"));
            &nothing
        }
    };
    let found = candidates(seen, old, &mut notes)?;
    let above = found.newest.max(generation).max(old.revision);
    let mut vpses = Vec::new();
    for (id, doc) in found.vpses {
        let alive = match signs.get(&id) {
            None => &[][..],
            Some(Ok(signs)) => signs,
            Some(Err(failed)) => return Err(failed.clone().into()),
        };
        if let Some(mut doc) = taken(seen, pool, doc, &mut notes) {
            adopt_datasets(seen, pool, &mut doc, &mut notes);
            adopt_run(
                seen,
                pool,
                &mut doc,
                alive,
                (boot_id, now_unix_ms),
                &mut notes,
            );
            vpses.push(doc);
        }
    }
    for id in signs
        .keys()
        .filter(|id| !vpses.iter().any(|v| v.id == **id))
    {
        notes.push(format!(
            "VPS {id}: there are signs of its runs, and no document to rebuild it from"
        ));
    }
    let templates = templates(pool, found.templates, &mut notes);
    let spared = spared(seen, pool, &vpses, &templates, &mut notes);
    tell_unknown_data(seen, pool, &vpses, &mut notes);
    let unfinished = old.operations.iter().filter(|op| !op.doc.state.is_over());
    for op in unfinished {
        let whose = op
            .doc
            .vps
            .map_or("of a template".to_owned(), |vps| format!("of VPS {vps}"));
        let verb = op.doc.request.verb();
        notes.push(format!(
            "operation {} ({verb} {whose}) was not over; ask for it again where it is wanted",
            op.doc.id
        ));
    }
    notes.push(
        "past operations are not rebuilt; whether a VPS ought to run is as its mirror last said"
            .into(),
    );
    Ok(Rebuilt {
        above,
        vpses,
        templates,
        spared,
        notes,
    })
}

#[derive(Default)]
struct Candidates {
    vpses: BTreeMap<VpsId, VpsDoc>,
    templates: BTreeMap<String, TemplateDoc>,
    newest: u64,
}

/// Of each document the newer one.
fn candidates(
    seen: &NodeSeen,
    old: &StateSeen,
    notes: &mut Vec<String>,
) -> Result<Candidates, NotRebuilt> {
    let mut found = Candidates::default();
    let mut revisions: BTreeMap<String, u64> = BTreeMap::new();
    for Put { key, revision, doc } in &old.vpses {
        if *key == format!("/vps/{}", doc.id) {
            revisions.insert(key.clone(), *revision);
            found.vpses.insert(doc.id, doc.clone());
        }
    }
    for Put { key, revision, doc } in &old.templates {
        revisions.insert(key.clone(), *revision);
        found.templates.insert(doc.name.to_string(), doc.clone());
    }
    for (key, mirror) in seen.mirrors.as_ref().map_err(Clone::clone)? {
        let mirror = match mirror {
            Ok(mirror) => mirror,
            Err(why) => {
                notes.push(format!("the mirror of {key} cannot be used: {why}"));
                continue;
            }
        };
        found.newest = found.newest.max(mirror.revision);
        if revisions
            .get(key.as_str())
            .is_some_and(|of| *of >= mirror.revision)
        {
            continue;
        }
        if key.as_str().starts_with("/vps/") {
            match serde_json::from_str::<VpsDoc>(&mirror.document) {
                Ok(doc) if key.as_str() == format!("/vps/{}", doc.id) => {
                    found.vpses.insert(doc.id, doc);
                }
                Ok(doc) => notes.push(format!("the mirror of {key} speaks of VPS {}", doc.id)),
                Err(why) => notes.push(format!("the mirror of {key} cannot be used: {why}")),
            }
        } else if key.as_str().starts_with("/templates/") {
            match serde_json::from_str::<TemplateDoc>(&mirror.document) {
                Ok(doc) => drop(found.templates.insert(doc.name.to_string(), doc)),
                Err(why) => notes.push(format!("the mirror of {key} cannot be used: {why}")),
            }
        }
    }
    Ok(found)
}

/// The mark of a dataset, where it is one of this node.
fn own<'a>(seen: &NodeSeen, pool: &'a PoolSeen, name: &PoolPath) -> Option<&'a Mark> {
    match &pool.datasets.get(name)?.mark {
        MarkSeen::Local(mark) if mark.node == seen.node => Some(mark),
        _ => None,
    }
}

fn is_of(mark: &Mark, vps: VpsId, life: &Incarnation) -> bool {
    mark.owner
        .as_ref()
        .is_some_and(|(id, of)| *id == vps && of == life)
}

/// The document, unless it is certain that its data is not there.
fn taken(
    seen: &NodeSeen,
    pool: &PoolSeen,
    mut doc: VpsDoc,
    notes: &mut Vec<String>,
) -> Option<VpsDoc> {
    let title = doc.title();
    let root = doc.pool_path(&DatasetName::root());
    let Some(there) = pool.datasets.get(&root) else {
        notes.push(format!(
            "VPS {title} is not taken: its root dataset {root} is not in the pool"
        ));
        return None;
    };
    match &there.mark {
        MarkSeen::Local(mark)
            if mark.node == seen.node && is_of(mark, doc.id, &doc.incarnation) => {}
        MarkSeen::Unreadable(why) => {
            notes.push(format!(
                "VPS {title}: the mark of {root} cannot be read: {why}"
            ));
        }
        _ => {
            notes.push(format!(
                "VPS {title} is not taken: the dataset {root} is not that of this VPS"
            ));
            return None;
        }
    }
    let before = match &doc.lifecycle {
        Lifecycle::Ready => None,
        Lifecycle::Creating => {
            Some("it was being made; destroy it and make it anew where it is not whole".to_owned())
        }
        Lifecycle::Destroying => Some("it was being destroyed; ask for that again".to_owned()),
        Lifecycle::NeedsOperator { why } => Some(format!("it waited for an operator: {why}")),
    };
    if let Some(why) = before {
        notes.push(format!("VPS {title}: {why}"));
        doc.lifecycle = Lifecycle::Ready;
    }
    Some(doc)
}

/// Datasets that the pool has and the document does not name, and quotas that were changed since.
fn adopt_datasets(seen: &NodeSeen, pool: &PoolSeen, doc: &mut VpsDoc, notes: &mut Vec<String>) {
    let title = doc.title();
    let prefix = format!("{}/", doc.id);
    for (name, dataset) in &pool.datasets {
        let Some(mark) = own(seen, pool, name) else {
            continue;
        };
        if mark.role != Role::Persistent
            || !is_of(mark, doc.id, &doc.incarnation)
            || mark.made_as != *name
            || mark.condemned_by.is_some()
        {
            continue;
        }
        let inner = name.as_str().strip_prefix(&prefix).unwrap_or("");
        let Ok(inner) = DatasetName::try_from(inner.to_owned()) else {
            continue;
        };
        let quota = dataset.quota.unwrap_or(Bytes(0));
        match doc.datasets.iter_mut().find(|d| d.name == inner) {
            Some(known) if dataset.quota.is_none_or(|quota| known.quota_bytes == quota) => {}
            Some(known) => {
                notes.push(format!(
                    "VPS {title}: the quota of {name} is {quota}, as the pool has it, not {}",
                    known.quota_bytes
                ));
                known.quota_bytes = quota;
            }
            None => {
                notes.push(format!("VPS {title}: it gets the dataset {name} back; where it was mounted is not known"));
                doc.datasets.push(Dataset {
                    name: inner,
                    quota_bytes: quota,
                });
            }
        }
    }
    for dataset in &doc.datasets {
        let name = doc.pool_path(&dataset.name);
        if !pool.datasets.contains_key(&name) {
            notes.push(format!(
                "VPS {title}: its dataset {name} is not in the pool"
            ));
        }
    }
    let promised = Bytes(doc.datasets.iter().map(|d| d.quota_bytes.0).sum());
    if promised > doc.disk_bytes {
        notes.push(format!(
            "VPS {title}: its disk space is {promised}, what its datasets have, not {}",
            doc.disk_bytes
        ));
        doc.disk_bytes = promised;
    }
}

/// The run that is alive, and the root that is kept.
fn adopt_run(
    seen: &NodeSeen,
    pool: &PoolSeen,
    doc: &mut VpsDoc,
    signs: &[Evidence],
    (boot_id, now_unix_ms): (&str, u64),
    notes: &mut Vec<String>,
) {
    let title = doc.title();
    let roots: Vec<(&PoolPath, &Mark)> = pool
        .datasets
        .keys()
        .filter(|name| !name.is_grave())
        .filter_map(|name| Some((name, own(seen, pool, name)?)))
        .filter(|(name, mark)| {
            // What lies in a root goes with it.
            name.named_root_of_a_run().is_some()
                && mark.role == Role::Temporary
                && mark.made_as == **name
                && is_of(mark, doc.id, &doc.incarnation)
        })
        .collect();
    let alive: BTreeSet<_> = signs
        .iter()
        .filter_map(|sign| match sign {
            Evidence::Supervisor { run, .. } => Some(run),
            _ => None,
        })
        .collect();
    let known = doc.run.as_ref().is_some_and(|run| alive.contains(&run.run));
    match alive.iter().next() {
        Some(run) if !known => {
            let of_run = roots
                .iter()
                .find(|(_, mark)| mark.run.as_ref() == Some(*run));
            let root = match of_run {
                Some((name, _)) => (*name).clone(),
                None => doc.pool_path(&DatasetName::root()),
            };
            notes.push(format!(
                "VPS {title}: it runs as {run} on {root}, which its document did not know"
            ));
            doc.run = Some(CurrentRun {
                run: (*run).clone(),
                root,
                base: None,
                boot_id: boot_id.to_owned(),
                started_unix_ms: now_unix_ms,
                rescue: None,
            });
            doc.desired = Desired::Running;
        }
        Some(_) => {}
        None if signs.iter().any(Evidence::is_alive) => {
            notes.push(format!("VPS {title}: something of it is alive and nobody supervises it; the daemon will end it"));
        }
        None => {}
    }
    let at = doc.run.as_ref().map(|run| run.root.clone());
    if let Some(root) = doc.last_root.take() {
        if roots.iter().any(|(name, _)| **name == root) && at.as_ref() != Some(&root) {
            doc.last_root = Some(root);
        } else {
            doc.last_root_base = None;
        }
    }
    let mut others = roots.iter().filter(|(name, _)| Some(*name) != at.as_ref());
    if let (None, None, Some((only, _)), None) = (&doc.last_root, &at, others.next(), others.next())
    {
        notes.push(format!(
            "VPS {title}: its last root is {only}, the only one that there is"
        ));
        doc.last_root = Some((*only).clone());
    }
}

fn templates(
    pool: &PoolSeen,
    found: BTreeMap<String, TemplateDoc>,
    notes: &mut Vec<String>,
) -> Vec<TemplateDoc> {
    let mut templates = Vec::new();
    for (name, doc) in found {
        let base = PoolPath::template(&doc.digest, &TemplatePart::Base);
        if pool.datasets.contains_key(&base) {
            templates.push(doc);
        } else {
            notes.push(format!(
                "template {name} is not taken: its dataset {base} is not in the pool"
            ));
        }
    }
    templates
}

/// What the reaper would clear away, given these documents: none of it is.
fn spared(
    seen: &NodeSeen,
    pool: &PoolSeen,
    vpses: &[VpsDoc],
    templates: &[TemplateDoc],
    notes: &mut Vec<String>,
) -> BTreeSet<PoolPath> {
    let nothing = BTreeSet::new();
    let (busy, node, operation) = (Busy::default(), &seen.node, &seen.operation);
    let left = sort_leftovers(pool, vpses, templates, &busy, &nothing, node, operation);
    let buried = left.burials.into_iter().filter_map(|step| match step {
        Step::BuryRoot { root, .. } => Some(root),
        Step::BuryTemplate { dataset, .. } | Step::BuryData { dataset, .. } => Some(dataset),
        _ => None,
    });
    let spared: BTreeSet<PoolPath> = buried.chain(left.graves).collect();
    for name in &spared {
        notes.push(format!(
            "{name} is kept until you let go of it: mayfly fsck --repair"
        ));
    }
    spared
}

/// Persistent data that no rebuilt document has.
fn tell_unknown_data(seen: &NodeSeen, pool: &PoolSeen, vpses: &[VpsDoc], notes: &mut Vec<String>) {
    let mut told = BTreeSet::new();
    for name in pool.datasets.keys().filter(|name| !name.is_grave()) {
        let Some((id, life)) = own(seen, pool, name).and_then(|mark| mark.owner.as_ref()) else {
            continue;
        };
        let known = vpses.iter().any(|v| v.id == *id && v.incarnation == *life);
        if !known && told.insert((*id, life.clone())) {
            notes.push(format!(
                "VPS {id} (incarnation {life}) has datasets in the pool and neither mirror nor document: it is not rebuilt, and its data stays"
            ));
        }
    }
}
