//! What is alive on the host against the documents.

use super::{Finding, Kind, NodeSeen, Remedy, Repair, StateSeen};
use super::{find, looked, operator, trusted};
use crate::names::PoolPath;
use crate::observed::Evidence;

pub(super) fn judge(seen: &NodeSeen, found: &mut Vec<Finding>) {
    let signs = looked(found, &seen.signs);
    let records = looked(found, &seen.records);
    let holders = looked(found, &seen.holders);
    let Some(state) = trusted(seen) else {
        return;
    };
    if let Some(signs) = signs {
        for (vps, signs) in signs {
            if let (Some(signs), false) = (looked(found, signs), is_busy(seen, state, *vps)) {
                alive(state, *vps, signs, seen.serving, found);
            }
        }
    }
    if let (Some(records), Some(signs)) = (records, signs) {
        let mut told = None;
        for (vps, _) in records {
            let known = state.vpses.iter().any(|one| one.doc.id == *vps);
            let quiet = signs.get(vps).is_none_or(|signs| {
                signs
                    .as_ref()
                    .is_ok_and(|signs| !signs.iter().any(Evidence::is_alive))
            });
            if known || !quiet || told == Some(*vps) || is_busy(seen, state, *vps) {
                continue;
            }
            told = Some(*vps);
            let meaning = "there are records of its runs, and no document";
            let repair = Remedy::Repair(Repair::ForgetRuns { vps: *vps });
            find(found, Kind::RunLeft, format!("VPS {vps}"), meaning, repair);
        }
    }
    if let Some(holders) = holders {
        held(seen, state, holders, found);
    }
}

fn is_busy(seen: &NodeSeen, state: &StateSeen, vps: crate::ids::VpsId) -> bool {
    let key = format!("/vps/{vps}");
    seen.busy.has(vps) || state.unusable.iter().any(|one| one.key == key)
}

fn alive(
    state: &StateSeen,
    vps: crate::ids::VpsId,
    signs: &[Evidence],
    serving: bool,
    found: &mut Vec<Finding>,
) {
    let sign = signs.iter().find(|sign| sign.is_alive());
    let doc = state
        .vpses
        .iter()
        .find(|one| one.doc.id == vps)
        .map(|one| &one.doc);
    let object = format!("VPS {vps}");
    match (doc, sign) {
        (None, Some(sign)) => find(
            found,
            Kind::RunUnknown,
            object,
            format!("there is no document of it, and {sign}"),
            operator("if its document was lost: mayfly recover --dry-run; else end that process"),
        ),
        (Some(doc), Some(sign)) => {
            let other = |sign: &Evidence| matches!((sign, &doc.run), (Evidence::Supervisor { run, .. }, Some(of)) if *run != of.run);
            let stranger = signs.iter().find(|sign| other(sign));
            if let Some(sign) = stranger.or(doc.run.is_none().then_some(sign)) {
                let meaning = format!("its document knows nothing of it: {sign}");
                let hint = format!("end it: mayfly stop {vps} --force");
                find(found, Kind::RunUnknown, object, meaning, operator(hint));
            }
        }
        (Some(doc), None) if doc.run.is_some() => {
            let hint = if serving {
                format!("settle it: mayfly stop {vps} --force")
            } else {
                "the next start of the daemon settles it: mayfly serve".to_owned()
            };
            find(
                found,
                Kind::RunDead,
                object,
                "it is recorded as running, and nothing of it is alive",
                operator(hint),
            );
        }
        _ => {}
    }
}

fn held(
    seen: &NodeSeen,
    state: &StateSeen,
    holders: &std::collections::BTreeMap<PoolPath, Vec<Evidence>>,
    found: &mut Vec<Finding>,
) {
    for (name, signs) in holders {
        let top = name
            .as_str()
            .split(['/', '.'])
            .next()
            .and_then(|id| id.parse().ok());
        let runs = top.is_some_and(|id| {
            let runs = |one: &super::Put<crate::documents::VpsDoc>| {
                one.doc.id == id && one.doc.run.is_some()
            };
            is_busy(seen, state, id) || state.vpses.iter().any(runs)
        });
        // What a running VPS has mounted is its own, but for a process of the host that holds a copy.
        let sign = signs.iter().find(|sign| match sign {
            Evidence::Held { .. } => true,
            _ => !runs,
        });
        if let Some(sign) = sign {
            let hint = "end that process; what it holds is not destroyed before";
            find(
                found,
                Kind::MountHeld,
                name,
                sign.to_string(),
                operator(hint),
            );
        }
    }
}
