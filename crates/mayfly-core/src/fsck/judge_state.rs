//! The state by itself, and its mirrors.

use super::{Finding, Kind, MarkSeen, MirrorsSeen, NodeSeen, Remedy, Repair, StateSeen};
use super::{find, looked, operator};
use crate::documents::{Lifecycle, OperationState, TemplateDoc, VpsDoc};
use crate::ids::VpsId;
use crate::mirror::{Mirror, MirrorKey};
use crate::names::{PoolPath, TemplatePart};
use crate::observed::PoolSeen;

const RECOVER: &str =
    "stop the daemon; mayfly recover --dry-run says what can be rebuilt from the pool";

pub(super) fn judge(seen: &NodeSeen, found: &mut Vec<Finding>) {
    let state = match &seen.state {
        Ok(state) => state,
        Err(why) => {
            find(
                found,
                Kind::StateUnreadable,
                "state.db",
                why.clone(),
                operator(RECOVER),
            );
            return;
        }
    };
    for why in &state.damage {
        find(
            found,
            Kind::StateDamaged,
            "state.db",
            why.clone(),
            operator(RECOVER),
        );
    }
    let behind = generation(seen, state, found);
    let mirrors = looked(found, &seen.mirrors);
    unusable(state, mirrors, found);
    documents(seen, state, found);
    ids(seen, state, found);
    if let (Some(mirrors), false) = (mirrors, behind) {
        mirrored(seen, state, mirrors, found);
    }
}

/// Whether the state is behind the pool, or may be.
fn generation(seen: &NodeSeen, state: &StateSeen, found: &mut Vec<Finding>) -> bool {
    let Some(generation) = looked(found, &seen.generation) else {
        return true;
    };
    let (generation, revision) = (generation.unwrap_or(0), state.revision);
    if generation > revision {
        find(
            found,
            Kind::StateBehind,
            "state.db",
            format!(
                "it is at revision {revision} and the pool at {generation}: an older copy was put back, or what was \
                 written to it is lost; nothing is changed or destroyed meanwhile"
            ),
            operator(RECOVER),
        );
    } else if generation < revision && !seen.serving {
        // A daemon that serves raises it with the next change.
        let meaning = format!("it is {generation}, and the state is at revision {revision}");
        let repair = Remedy::Repair(Repair::RaiseGeneration);
        find(
            found,
            Kind::GenerationBehind,
            "the pool's generation",
            meaning,
            repair,
        );
    }
    generation > revision
}

fn unusable(state: &StateSeen, mirrors: Option<&MirrorsSeen>, found: &mut Vec<Finding>) {
    for bad in &state.unusable {
        let key = MirrorKey::new(&bad.key);
        let mirror = key
            .as_ref()
            .and_then(|key| mirrors?.get(key)?.as_ref().ok());
        let remedy = match (key.clone(), mirror) {
            // Of the very revision in which it was put: nothing else can have been there.
            (Some(key), Some(mirror)) if mirror.revision == bad.revision && sound(mirror) => {
                Remedy::Repair(Repair::RestoreDocument { key })
            }
            _ => operator(RECOVER),
        };
        let meaning = format!("what it speaks of is disabled: {}", bad.why);
        find(found, Kind::DocumentBad, &bad.key, meaning, remedy);
    }
}

/// Whether a mirror holds a document of the kind of its key.
fn sound(mirror: &Mirror) -> bool {
    let key = mirror.key.as_str();
    if key.starts_with("/vps/") {
        serde_json::from_str::<VpsDoc>(&mirror.document)
            .is_ok_and(|doc| key == format!("/vps/{}", doc.id))
    } else if key.starts_with("/templates/") {
        serde_json::from_str::<TemplateDoc>(&mirror.document)
            .is_ok_and(|doc| key == format!("/templates/{}", doc.name))
    } else {
        false
    }
}

fn documents(seen: &NodeSeen, state: &StateSeen, found: &mut Vec<Finding>) {
    let mut misfit = |object: &str, meaning: String| {
        find(
            found,
            Kind::DocumentMisfit,
            object,
            meaning,
            operator(RECOVER),
        );
    };
    for vps in &state.vpses {
        let doc = &vps.doc;
        if vps.key != format!("/vps/{}", doc.id) {
            misfit(&vps.key, format!("it is the document of VPS {}", doc.id));
        }
        if doc.node != seen.node {
            misfit(&vps.key, format!("it is of the node {}", doc.node));
        }
        for mount in doc
            .mounts
            .iter()
            .filter(|m| doc.dataset(&m.dataset).is_none())
        {
            let name = doc.pool_path(&mount.dataset);
            misfit(
                &vps.key,
                format!("it mounts {name}, which it does not have"),
            );
        }
        let promised: u64 = doc.datasets.iter().map(|d| d.quota_bytes.0).sum();
        if promised > doc.disk_bytes.0 {
            let sum = crate::bytes::Bytes(promised);
            misfit(
                &vps.key,
                format!(
                    "its quotas are {sum} together, more than its disk space of {}",
                    doc.disk_bytes
                ),
            );
        }
        let others = |other: &&super::Put<VpsDoc>| {
            other.key != vps.key && other.doc.hostname == doc.hostname
        };
        if let Some(other) = state.vpses.iter().find(others) {
            misfit(&vps.key, format!("{} has the same host name", other.key));
        }
    }
    for template in state
        .templates
        .iter()
        .filter(|t| t.key != format!("/templates/{}", t.doc.name))
    {
        misfit(
            &template.key,
            format!("it is the document of template {}", template.doc.name),
        );
    }
    for vps in &state.vpses {
        if let Lifecycle::NeedsOperator { why } = &vps.doc.lifecycle {
            let hint = format!(
                "mend the cause, then restart the daemon: mayfly show {}",
                vps.doc.id
            );
            find(
                found,
                Kind::NeedsOperator,
                vps.doc.title(),
                why.clone(),
                operator(hint),
            );
        }
    }
    for op in &state.operations {
        let doc = &op.doc;
        let lane = doc
            .vps
            .map_or(seen.busy.templates, |vps| seen.busy.has(vps));
        if !doc.state.is_over() && !lane {
            let at = if doc.state == OperationState::Queued {
                "waits"
            } else {
                "is half done"
            };
            let meaning = format!(
                "{} {at}, and nobody carries it out: {}",
                doc.request.verb(),
                doc.progress
            );
            let hint = "the next start of the daemon goes on with it: mayfly serve";
            find(
                found,
                Kind::OperationStuck,
                &doc.id,
                meaning,
                operator(hint),
            );
        }
    }
}

fn ids(seen: &NodeSeen, state: &StateSeen, found: &mut Vec<Finding>) {
    let hint = "one of the two must go: copy its data into a new VPS, then destroy it";
    for (at, vps) in state.vpses.iter().enumerate() {
        for other in &state.vpses[at + 1..] {
            if vps.doc.ids.overlaps(&other.doc.ids) {
                let meaning = format!(
                    "it has host ids of VPS {}: one that breaks out can read the other's files",
                    other.doc.title()
                );
                find(
                    found,
                    Kind::IdsOverlap,
                    vps.doc.title(),
                    meaning,
                    operator(hint),
                );
            }
        }
        if let Some(range) = seen
            .reserved
            .iter()
            .find(|range| range.overlaps(&vps.doc.ids))
        {
            let meaning = format!(
                "its host ids {} and more are another user's (from {})",
                vps.doc.ids.first, range.first
            );
            find(
                found,
                Kind::IdsOverlap,
                vps.doc.title(),
                meaning,
                operator("take them from that user: see /etc/subuid"),
            );
        }
    }
}

fn mirrored(seen: &NodeSeen, state: &StateSeen, mirrors: &MirrorsSeen, found: &mut Vec<Finding>) {
    let vpses = state
        .vpses
        .iter()
        .map(|vps| (&vps.key, vps.revision, Some(vps.doc.id)));
    let templates = state
        .templates
        .iter()
        .map(|one| (&one.key, one.revision, None));
    for (key, revision, vps) in vpses.chain(templates) {
        if vps.map_or(seen.busy.templates, |vps| seen.busy.has(vps)) {
            continue;
        }
        let Some(key) = MirrorKey::new(key) else {
            continue;
        };
        let (code, meaning) = match mirrors.get(&key) {
            Some(Ok(mirror)) if mirror.revision == revision => continue,
            Some(Ok(mirror)) => (
                Kind::MirrorBehind,
                format!(
                    "it is of revision {}, the document of {revision}",
                    mirror.revision
                ),
            ),
            Some(Err(why)) => (Kind::MirrorBad, why.clone()),
            None => (
                Kind::MirrorMissing,
                "a lost document could not be rebuilt".to_owned(),
            ),
        };
        let object = key.clone();
        find(
            found,
            code,
            object,
            meaning,
            Remedy::Repair(Repair::WriteMirror { key }),
        );
    }
    let known = |key: &MirrorKey| {
        let same = |one: &String| one == key.as_str();
        key.as_str() == "/node"
            || state.vpses.iter().any(|one| same(&one.key))
            || state.templates.iter().any(|one| same(&one.key))
            || state.unusable.iter().any(|one| same(&one.key))
    };
    for key in mirrors.keys().filter(|key| !known(key)) {
        let busy = match vps_of(key) {
            Some(id) => seen.busy.has(id),
            None => seen.busy.templates,
        };
        let Ok(pool) = &seen.pool else { continue };
        if busy {
            continue;
        }
        let meaning = "there is no such document";
        let remedy = if is_mirror_of_nothing(key, mirrors.get(key), pool) {
            Remedy::Repair(Repair::RemoveMirror { key: key.clone() })
        } else {
            operator(RECOVER)
        };
        find(found, Kind::MirrorLeft, key, meaning, remedy);
    }
}

fn vps_of(key: &MirrorKey) -> Option<VpsId> {
    key.as_str().strip_prefix("/vps/")?.parse().ok()
}

/// Whether nothing of what a mirror speaks of is in the pool, graves left out. One that cannot be read may speak of
/// anything that its key allows.
pub fn is_mirror_of_nothing(
    key: &MirrorKey,
    mirror: Option<&Result<Mirror, String>>,
    pool: &PoolSeen,
) -> bool {
    let text = mirror.and_then(|mirror| Some(mirror.as_ref().ok()?.document.as_str()));
    if let Some(id) = vps_of(key) {
        let life = text
            .and_then(|text| serde_json::from_str::<VpsDoc>(text).ok())
            .map(|doc| doc.incarnation);
        return !pool
            .datasets
            .iter()
            .any(|(name, dataset)| match &dataset.mark {
                _ if name.is_grave() => false,
                MarkSeen::Local(mark) => mark.owner.as_ref().is_some_and(|(owner, of)| {
                    *owner == id && life.as_ref().is_none_or(|life| life == of)
                }),
                _ => name.as_str().split(['/', '.']).next() == Some(&id.to_string()),
            });
    }
    let digest = text
        .and_then(|text| serde_json::from_str::<TemplateDoc>(text).ok())
        .map(|doc| PoolPath::template(&doc.digest, &TemplatePart::Base));
    match digest {
        Some(base) => !pool.datasets.contains_key(&base),
        None => false,
    }
}
