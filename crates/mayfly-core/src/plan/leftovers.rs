//! What lies in the pool that no document speaks of, sorted by what may be done about it.

use std::collections::BTreeSet;

use super::Step;
use super::bases::{base_path, is_part_of, needs_of};
use super::harvest::harvest;
use crate::documents::{TemplateDoc, VpsDoc};
use crate::ids::{NodeId, OperationId, VpsId};
use crate::names::PoolPath;
use crate::observed::{Mark, MarkSeen, PoolSeen, Role};

/// Leftovers of crashes, and things that nobody proved to be ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Burials of temporary roots and templates of ours that nothing needs. The executor proves each again.
    pub burials: Vec<Step>,
    /// Graves that may be destroyed.
    pub graves: Vec<PoolPath>,
    /// What is left alone, and why.
    pub reports: Vec<String>,
    /// What may be a leftover, and is not judged as long as its VPS, or a template, is being worked at.
    pub passed_over: Vec<PoolPath>,
}

/// Whose work is going on: what they make is their business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// VPSes with an operation.
    pub vpses: BTreeSet<VpsId>,
    /// Whether a template is being built or removed.
    pub templates: bool,
    /// Whether it is not known whose work is going on, so that it may be anybody's.
    pub all: bool,
}

impl Busy {
    /// Whether work of this VPS may be going on.
    pub fn has(&self, vps: VpsId) -> bool {
        self.all || self.vpses.contains(&vps)
    }
}

/// Sorts the pool's datasets. What `busy` lanes may have made is passed over; what is `spared` is told of and left.
pub fn sort_leftovers(
    pool: &PoolSeen,
    vpses: &[VpsDoc],
    templates: &[TemplateDoc],
    busy: &Busy,
    spared: &BTreeSet<PoolPath>,
    node: &NodeId,
    operation: &OperationId,
) -> Leftovers {
    let mut out = Leftovers::default();
    for (name, dataset) in &pool.datasets {
        if spared.contains(name) {
            out.reports.push(format!(
                "{name}: no document of the rebuilt state speaks of it; left alone until `mayfly fsck --repair`"
            ));
            continue;
        }
        if name.is_grave() {
            grave(name, &dataset.mark, node, &mut out);
            continue;
        }
        match &dataset.mark {
            MarkSeen::Unset => out
                .reports
                .push(format!("{name}: it has no mark; left alone")),
            MarkSeen::NotLocal => out
                .reports
                .push(format!("{name}: its mark came with the data; left alone")),
            MarkSeen::Unreadable(why) => {
                out.reports.push(format!(
                    "{name}: its mark cannot be read ({why}); left alone"
                ));
            }
            MarkSeen::Local(mark) if mark.node != *node => {
                out.reports.push(format!(
                    "{name}: its mark names node {}; left alone",
                    mark.node
                ));
            }
            MarkSeen::Local(mark) => ours(
                name, mark, pool, vpses, templates, busy, operation, &mut out,
            ),
        }
    }
    out
}

fn goes_with_its_root(name: &PoolPath, pool: &PoolSeen) -> bool {
    let mut above = pool.datasets.keys().filter(|one| name.is_below(one));
    above.any(|one| one.named_root_of_a_run().is_some())
}

fn grave(name: &PoolPath, seen: &MarkSeen, node: &NodeId, out: &mut Leftovers) {
    // What lies below a grave goes with it, children first.
    if name.as_str().matches('/').count() > 1 {
        return;
    }
    match crate::proof::Condemned::prove(name, seen, node) {
        Ok(_) => out.graves.push(name.clone()),
        Err(refusal) => out.reports.push(refusal.message),
    }
}

#[expect(clippy::too_many_arguments, reason = "all that is known goes in")]
fn ours(
    name: &PoolPath,
    mark: &Mark,
    pool: &PoolSeen,
    vpses: &[VpsDoc],
    templates: &[TemplateDoc],
    busy: &Busy,
    operation: &OperationId,
    out: &mut Leftovers,
) {
    let grave = |what: &str| PoolPath::grave(&format!("{}.{operation}", what.replace('/', ":")));
    if mark.made_as != *name {
        out.reports.push(format!(
            "{name}: its mark was made for {}; left alone",
            mark.made_as
        ));
        return;
    }
    match (&mark.role, &mark.owner) {
        (Role::Template, _) if busy.templates || busy.all => out.passed_over.push(name.clone()),
        (Role::Template, _) => {
            let known = templates
                .iter()
                .any(|t| is_part_of(name, &base_path(&t.digest)));
            // A template in the making is recorded by its own operation; only whole ones at the top are buried.
            if !known
                && name.as_str().matches('/').count() == 1
                && needs_of(name, vpses, pool).is_empty()
            {
                out.burials.push(Step::BuryTemplate {
                    dataset: name.clone(),
                    grave: grave(name.as_str()),
                });
            }
        }
        (Role::Temporary, Some(_)) if mark.run.is_none() => {
            out.reports
                .push(format!("{name}: its mark names no run; left alone"));
        }
        (Role::Temporary, Some((id, life))) => {
            match vpses.iter().find(|v| v.id == *id && v.incarnation == *life) {
                _ if busy.has(*id) => out.passed_over.push(name.clone()),
                None => out.reports.push(format!(
                    "{name}: VPS {id} of incarnation {life} is not known here; left alone"
                )),
                // It goes with the root that it lies in.
                Some(_) if goes_with_its_root(name, pool) => {}
                Some(doc) => {
                    let current = doc.run.as_ref().is_some_and(|r| r.root == *name);
                    if !current && doc.last_root.as_ref() != Some(name) {
                        if mark.unharvested {
                            // Records of roots that are older than the present one are gone: nothing old is taken.
                            match harvest(doc, name) {
                                Some(step) => out.burials.push(step),
                                None => {
                                    out.reports.push(format!(
                                        "{name}: copies in it were not taken back, and the storage of VPS {id} is not mounted; left alone"
                                    ));
                                    return;
                                }
                            }
                        }
                        out.burials.push(Step::BuryRoot {
                            give_up: false,
                            vps: *id,
                            incarnation: life.clone(),
                            root: name.clone(),
                            grave: grave(name.as_str()),
                        });
                    }
                }
            }
        }
        (Role::Temporary, None) => out
            .reports
            .push(format!("{name}: its mark names no VPS; left alone")),
        (Role::Replaced | Role::Base, Some((id, life))) => {
            match vpses.iter().find(|v| v.id == *id && v.incarnation == *life) {
                _ if busy.has(*id) => out.passed_over.push(name.clone()),
                None => out.reports.push(format!(
                    "{name}: VPS {id} of incarnation {life} is not known here; left alone"
                )),
                Some(doc) if doc.knows_aside(name) => {}
                // Put aside, and given up: an undo, a revert, or the days that it was kept, came before its burial.
                Some(_) => out.burials.push(Step::BuryData {
                    vps: *id,
                    incarnation: life.clone(),
                    dataset: name.clone(),
                    grave: grave(name.as_str()),
                }),
            }
        }
        (Role::Replaced | Role::Base, None) => out
            .reports
            .push(format!("{name}: its mark names no VPS; left alone")),
        (Role::Persistent, owner) => {
            let known = vpses.iter().any(|v| {
                *owner == Some((v.id, v.incarnation.clone()))
                    && v.datasets.iter().any(|d| v.pool_path(&d.name) == *name)
            });
            let working = owner.as_ref().is_some_and(|(id, _)| busy.has(*id));
            if !known && !working {
                out.reports.push(format!(
                    "{name}: persistent data that no VPS of this node has; left alone"
                ));
            }
        }
    }
}
