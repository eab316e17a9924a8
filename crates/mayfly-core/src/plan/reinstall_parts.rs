//! Which datasets a reinstall replaces, and by what: decided from the scope and the template's layout.
//!
//! | VPS | `os` | `data` |
//! |---|---|---|
//! | persistent | the root dataset | |
//! | roots of kind `template` | what its roots are cloned from, and system datasets | the root dataset and the storage |
//! | roots of kind `empty` | system datasets, such as `/nix` | the root dataset and the storage |
//!
//! A system dataset is one that is mounted where the template has contents of its own, and that holds neither the VPS's root
//! dataset nor its storage.

use super::bases::{base_path, find};
use super::mounts::mount_order;
use crate::bytes::Bytes;
use crate::documents::{Dataset, PutAside, ReinstallScope, Request, TemplateDoc, VpsDoc};
use crate::error::LookFailed;
use crate::names::{DatasetName, GuestPath, PoolPath, TemplatePart};
use crate::observed::PoolSeen;
use crate::ports::{Assembly, Origin};
use crate::template::RootKind;

/// A dataset and what it gets.
pub(super) struct Part<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) from: Origin,
}

pub(super) fn parts_of<'a>(
    doc: &'a VpsDoc,
    template: &TemplateDoc,
    scope: ReinstallScope,
    pool: &PoolSeen,
) -> Vec<Part<'a>> {
    if doc.impermanence.is_none() {
        let root = doc.datasets.iter().filter(|d| d.name.is_root());
        let from = Origin::Clone(base_path(&template.digest));
        return root
            .map(|dataset| Part {
                dataset,
                from: from.clone(),
            })
            .collect();
    }
    let is_data = |name: &DatasetName| name.is_root() || storage_of(doc).as_ref() == Some(name);
    let parts = doc.datasets.iter().map(|dataset| Part {
        dataset,
        from: contents_for(doc, template, &dataset.name, pool),
    });
    parts
        .filter(|part| match is_data(&part.dataset.name) {
            true => scope.has_data(),
            false => scope.has_system() && part.from != Origin::Empty,
        })
        .collect()
}

/// The dataset that declared paths are kept in.
fn storage_of(doc: &VpsDoc) -> Option<DatasetName> {
    let storage = doc.storage.as_ref()?;
    let holding = mount_order(&doc.mounts)
        .into_iter()
        .rfind(|mount| storage.below(&mount.path).is_some());
    holding.map(|mount| mount.dataset)
}

/// What a new VPS of the template would have where this dataset is mounted.
fn contents_for(
    doc: &VpsDoc,
    template: &TemplateDoc,
    name: &DatasetName,
    pool: &PoolSeen,
) -> Origin {
    let paths = doc.mounts.iter().filter(|m| m.dataset == *name);
    let part = paths
        .filter_map(|m| {
            template
                .manifest
                .layout
                .mounts
                .iter()
                .find(|l| l.path == m.path)
        })
        .map(|l| PoolPath::template(&template.digest, &TemplatePart::Dataset(l.dataset.clone())))
        .find(|part| pool.datasets.contains_key(part));
    part.map_or(Origin::Empty, Origin::Clone)
}

/// What a dataset holds. What is destroyed or put aside is told beforehand, so that nobody knows is no answer.
pub(super) fn used_of(
    doc: &VpsDoc,
    name: &DatasetName,
    pool: &PoolSeen,
) -> Result<Bytes, LookFailed> {
    let place = doc.pool_path(name);
    let seen = pool.datasets.get(&place).and_then(|seen| seen.used);
    seen.ok_or_else(|| LookFailed::new(format!("what {place} holds"), "the pool does not tell"))
}

/// What has to be looked up before a reinstall, or its undo, can be decided: the datasets as the guest would see them
/// afterwards, and the path of the init. None where no init is looked for, or the plan is refused anyway.
pub fn reinstall_probe(
    request: &Request,
    doc: &VpsDoc,
    pool: &PoolSeen,
    templates: &[TemplateDoc],
) -> Option<(Assembly, GuestPath)> {
    let kind = doc.impermanence.as_ref().map(|on| on.root_kind);
    if kind == Some(RootKind::Template) {
        return None;
    }
    let (places, init): (Vec<(DatasetName, PoolPath)>, _) = match request {
        Request::Reinstall {
            template, scope, ..
        } => {
            let template = find(template, templates).ok()?;
            let parts = parts_of(doc, template, scope.unwrap_or(ReinstallScope::Os), pool);
            let clones = parts.iter().filter_map(|part| match &part.from {
                Origin::Clone(from) => Some((part.dataset.name.clone(), from.clone())),
                Origin::Empty => None,
            });
            (clones.collect(), &template.manifest.init)
        }
        // What a persistent system was before is not judged: who wants it back gets it back.
        Request::ReinstallUndo { .. } if kind.is_some() => {
            let entry = doc.replaced.last()?;
            let put = |one: &PutAside| (one.dataset.clone(), one.aside.clone());
            (
                entry.datasets.iter().map(put).collect(),
                &entry.manifest.init,
            )
        }
        _ => return None,
    };
    let place = |name: &DatasetName| {
        let other = places.iter().find(|(one, _)| one == name);
        other.map_or_else(|| doc.pool_path(name), |(_, place)| place.clone())
    };
    let root = kind.is_none().then(|| place(&DatasetName::root()));
    let mut all = root.iter().cloned().collect::<Vec<_>>();
    let mounts: Vec<_> = mount_order(&doc.mounts)
        .into_iter()
        .map(|m| (place(&m.dataset), m.path))
        .collect();
    all.extend(mounts.iter().map(|(name, _)| name.clone()));
    // What is not there is for the plan to say.
    let is_there = all.iter().all(|name| pool.datasets.contains_key(name));
    is_there.then(|| (Assembly { root, mounts }, init.clone()))
}
