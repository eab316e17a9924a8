//! Conversion of a persistent VPS into an impermanent one (SPEC C2).
//!
//! ```text
//!  make the dataset │ halt the run │ copy │ take out │ record │ start │ wait until it is as well as before
//!  VPS runs on      │          where one of these fails, all of it is put back, and it runs as before
//!
//!  afterwards:  destroy what was taken out │ record
//! ```
//!
//! | what the VPS is | gets a dataset with | roots from then on |
//! |---|---|---|
//! | NixOS-shaped: a system profile in /nix | the contents of /nix, mounted there | empty |
//! | anything else | its whole system but what is declared to stay: its own base | clones of that base |
//!
//! The root dataset is the storage of either: it is mounted at `/persistent`, and what was at a path before is below it.

use std::collections::BTreeSet;

use serde_json::json;

use super::convert_reasons::Reasons;
use super::mounts::mount_order;
use super::parts::{bury_data, check_quota, create_dataset, end_run, record, record_ended};
use super::platform::{PROFILE_INIT, path};
use super::promises::promised_with_plans;
use super::start::{record_over, start_steps};
use super::{Plan, PlanContext, PlannedStep, Step};
use crate::bytes::Bytes;
use crate::documents::{Base, ConvertWant, Converted, Dataset, Impermanence, Mount, Track, VpsDoc};
use crate::error::{Code, LookFailed, Refusal};
use crate::ids::RunId;
use crate::names::{DatasetName, GuestPath, PoolPath};
use crate::observed::{DatasetSeen, InitSeen, Mark, MarkSeen, Observed, Role};
use crate::persist::plan::ACCOUNT_FILES;
use crate::persist::presets::Preset;

use crate::ports::{NewDataset, Origin};
use crate::space::{self, shown};
use crate::template::{LayoutMount, RootKind};
use crate::trees::{TakeTo, TakenOut, TreeCopy};

/// How long the guest may take to halt, in milliseconds.
pub(super) const HALT_MS: u64 = 60_000;
/// How long a guest may take until it is as well as it was, in milliseconds.
pub const AWAIT_HEALTH_MS: u64 = 300_000;
/// A store gets this at least, where there is room.
const NIX_QUOTA: Bytes = Bytes::gib(20);
/// What stays of a VPS with a base of its own, besides what the preset `base` has.
const KEPT: [&str; 3] = ["/home", "/root", "/srv"];
/// What no base has: it belongs to the kernel, or to one boot.
pub(super) const OF_ONE_BOOT: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

/// Where the system of a NixOS-shaped VPS is found.
pub fn system_profile() -> GuestPath {
    path(PROFILE_INIT)
}

/// Makes it impermanent, with everything that takes; refused with all reasons at once.
pub fn plan_convert(
    doc: &VpsDoc,
    seen: &Observed,
    want: &ConvertWant,
    run: &RunId,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    if doc.impermanence.is_some() {
        return Err(Refusal::new(
            Code::Invalid,
            format!("VPS {} is impermanent already", doc.title()),
            format!("see `mayfly feature list {}`", doc.id),
        ));
    }
    let kind = kind_of(seen, want)?;
    let mut reasons = Reasons::default();
    reasons.of_the_run(doc, seen);
    reasons.of_the_wish(doc, want, kind);
    let made = match kind {
        RootKind::Empty => Made::store(doc, seen, want, ctx, &mut reasons),
        RootKind::Template => Some(Made::base(doc, seen, want, ctx)),
    };
    if let Some(made) = &made {
        reasons.unless(space::check_pool(
            seen.pool.capacity,
            promised_with_plans(seen),
            made.more(doc),
        ));
    }
    reasons.told(doc)?;
    let before = match &seen.health {
        Some(Ok(health)) => health.failed.clone(),
        _ => return Err(LookFailed::new("the guest's health", "it was not looked at").into()),
    };

    let stopped = record_ended(doc);
    let new = converted(&stopped, want, kind, made.as_ref(), ctx);
    let mut steps = Vec::new();
    steps.extend(made.iter().flat_map(|made| made.steps(doc, ctx)));
    steps.push(end_run(doc, HALT_MS, false));
    steps.push(record_over(&stopped));
    if let Some(copy) = made.as_ref().map(|made| &made.copy) {
        let copy = Step::CopyTree { copy: copy.clone() };
        steps.push(copy.final_because("it goes with the dataset that it was made for"));
    }
    if let Some(what) = new.taken_out() {
        let to = |to| Step::TakeOut {
            what: what.clone(),
            to,
        };
        steps.push(to(TakeTo::Aside).undone_by(to(TakeTo::Back)));
    }
    steps.push(record(
        &stopped,
        new.clone(),
        "converted: impermanence is on",
    ));
    let ahead = as_made(seen, made.as_ref());
    let start = start_steps(&new, &ahead, run, ctx)?;
    steps.extend(awaiting_health(start, before));
    Ok(Plan { steps })
}

/// A start that is waited for until it is as well as the run before was. What the old run left is given up only then.
pub(super) fn awaiting_health(
    mut start: Vec<PlannedStep>,
    before: BTreeSet<String>,
) -> Vec<PlannedStep> {
    let awaited = start
        .iter()
        .enumerate()
        .find_map(|(at, planned)| match &planned.step {
            Step::AwaitInit { vps, run, .. } => Some((at, *vps, run.clone())),
            _ => None,
        });
    if let Some((at, vps, run)) = awaited {
        let wait = Step::AwaitHealth {
            vps,
            run,
            before,
            deadline_ms: AWAIT_HEALTH_MS,
        };
        start.insert(at + 1, wait.final_because("waiting changes nothing"));
    }
    start
}

/// Destroys what a conversion took out of the root dataset, once that conversion is done.
pub fn plan_convert_rest(doc: &VpsDoc) -> Plan {
    let mut new = doc.clone();
    let taken = new.converted.as_mut().and_then(|one| one.taken_out.take());
    let steps = taken.map(|what| {
        let gone = format!(
            "{} of {} was copied, and is gone there",
            what.path, what.dataset
        );
        [give_up(what), record(doc, new, gone)]
    });
    Plan {
        steps: steps.into_iter().flatten().collect(),
    }
}

pub(super) fn give_up(what: TakenOut) -> PlannedStep {
    let to = TakeTo::Nothing;
    Step::TakeOut { what, to }.final_because("it was copied, and what was made of it runs")
}

/// What it is: as asked, or by what is in it.
fn kind_of(seen: &Observed, want: &ConvertWant) -> Result<RootKind, Refusal> {
    match &seen.init {
        _ if want.kind_is_asked => Ok(want.on.root_kind),
        Some(InitSeen::Found) => Ok(RootKind::Empty),
        Some(InitSeen::Missing { .. } | InitSeen::NotExecutable { .. }) => Ok(RootKind::Template),
        None => Err(LookFailed::new("the system of the VPS", "it was not looked for").into()),
    }
}

pub(super) fn storage_mount(want: &ConvertWant) -> Mount {
    Mount {
        dataset: DatasetName::root(),
        path: want.storage.clone(),
        read_only: false,
    }
}

/// A dataset that the conversion makes, and what it gets.
struct Made {
    new: NewDataset,
    copy: TreeCopy,
    /// What it may come to hold.
    may_take: Bytes,
    /// The same in the document, of one that is the VPS's to use, and the root dataset's quota beside it.
    listed: Option<(Dataset, Bytes)>,
}

impl Made {
    /// A dataset for the Nix store; none where it has one already.
    fn store(
        doc: &VpsDoc,
        seen: &Observed,
        want: &ConvertWant,
        ctx: &PlanContext,
        reasons: &mut Reasons,
    ) -> Option<Self> {
        if !matches!(seen.init, Some(InitSeen::Found)) {
            reasons.add(
                format!("it has no system at {PROFILE_INIT}, and an empty root boots that"),
                "deploy one first, or leave --root-kind out",
            );
        }
        let at = path("/nix");
        if doc.mounts.iter().any(|m| m.path == at) {
            if want.nix_quota.is_some() {
                reasons.add(
                    "/nix is a dataset of its own already",
                    "leave --nix-quota out",
                );
            }
            return None;
        }
        let name: DatasetName = "nix".parse().expect("it is a valid name");
        if doc.dataset(&name).is_some() {
            reasons.add(
                format!("its dataset {} is not mounted at /nix", shown(doc, &name)),
                format!(
                    "mayfly mount add {} /nix, with the store in it; or destroy it",
                    shown(doc, &name)
                ),
            );
            return None;
        }
        if seen.pool.datasets.contains_key(&doc.pool_path(&name)) {
            reasons.add(
                format!(
                    "dataset {} is in the pool and not its own",
                    doc.pool_path(&name)
                ),
                "move that dataset out of the pool",
            );
            return None;
        }
        let (quota, root) = store_quota(doc, seen, want)
            .map_err(|why| reasons.unless(Err(why)))
            .ok()?;
        let dataset = Dataset {
            name: name.clone(),
            quota_bytes: quota,
        };
        let make = create_dataset(doc, &dataset, Origin::Empty, ctx);
        let Step::CreateDataset { new } = make.step else {
            return None;
        };
        let copy = TreeCopy {
            owner: (doc.id, doc.incarnation.clone()),
            from: doc.pool_path(&DatasetName::root()),
            below: at,
            to: new.name.clone(),
            without: Vec::new(),
        };
        Some(Self {
            new,
            copy,
            may_take: quota,
            listed: Some((dataset, root)),
        })
    }

    /// A base of its own, made of its whole system but what stays.
    fn base(doc: &VpsDoc, seen: &Observed, want: &ConvertWant, ctx: &PlanContext) -> Self {
        let root = doc.pool_path(&DatasetName::root());
        let name = PoolPath::own_base(doc.id, &ctx.operation);
        let mark = Mark {
            node: ctx.node.clone(),
            owner: Some((doc.id, doc.incarnation.clone())),
            role: Role::Base,
            run: None,
            made_as: name.clone(),
            condemned_by: None,
            unharvested: false,
            contents: None,
        };
        // What the root dataset shares with its template may count against nobody's quota, and is copied as well.
        let of_template = ctx.templates.iter().find(|t| t.digest == doc.base.template);
        let shared = of_template.map_or(Bytes(0), |template| template.size_bytes);
        let used = seen.pool.datasets.get(&root).and_then(|d| d.used);
        let may_take = used.unwrap_or_default().saturating_add(shared);
        // A guest's files may be compressed, and their copies are not: what that comes to is bounded.
        let room = Bytes(may_take.0 / 4).saturating_add(Bytes::mib(64));
        let may_take = may_take.saturating_add(room);
        let new = NewDataset {
            name: name.clone(),
            mark,
            quota: Some(may_take),
            origin: Origin::Empty,
        };
        let declared = Preset::Base.settings();
        let mut without: Vec<GuestPath> = OF_ONE_BOOT.map(path).to_vec();
        without.push(want.storage.clone());
        without.extend(kept(want));
        without.extend(declared.directories.iter().map(|d| path(&d.directory)));
        // A base that has them would be in the way of what is declared.
        without.extend(declared.files.iter().map(|f| path(&f.file)));
        without.sort();
        without.dedup();
        let copy = TreeCopy {
            owner: (doc.id, doc.incarnation.clone()),
            from: root,
            below: GuestPath::top(),
            to: name,
            without,
        };
        Self {
            new,
            copy,
            may_take,
            listed: None,
        }
    }

    /// What it makes the pool promise on top.
    fn more(&self, doc: &VpsDoc) -> Bytes {
        let given_up = self.listed.as_ref().map_or(Bytes(0), |(_, root)| {
            let had = doc.dataset(&DatasetName::root());
            had.map_or(Bytes(0), |d| d.quota_bytes.saturating_sub(*root))
        });
        self.may_take.saturating_sub(given_up)
    }

    fn steps(&self, doc: &VpsDoc, ctx: &PlanContext) -> Vec<PlannedStep> {
        let mut steps = Vec::new();
        let root = doc.pool_path(&DatasetName::root());
        let had = doc.dataset(&DatasetName::root()).map(|d| d.quota_bytes);
        let quota = self.listed.as_ref().map(|(_, quota)| *quota);
        if let (Some(quota), Some(had), true) = (quota, had, quota != had) {
            let set = |quota_bytes| Step::SetQuota {
                dataset: root.clone(),
                quota_bytes,
            };
            steps.push(set(quota).undone_by(set(had)));
        }
        let new = self.new.clone();
        let bury = bury_data(doc, &self.new.name, ctx);
        steps.push(Step::CreateDataset { new }.undone_by(bury));
        steps
    }
}

/// The quota of a dataset for the store, and that of the root dataset beside it.
fn store_quota(
    doc: &VpsDoc,
    seen: &Observed,
    want: &ConvertWant,
) -> Result<(Bytes, Bytes), Refusal> {
    let root = doc.pool_path(&DatasetName::root());
    let used = seen.pool.datasets.get(&root).and_then(|d| d.used);
    let used = used
        .ok_or_else(|| LookFailed::new(format!("what {root} holds"), "the pool does not tell"))?;
    let had = doc
        .dataset(&DatasetName::root())
        .map_or(Bytes(0), |d| d.quota_bytes);
    // Until the store was copied, the root dataset holds it as well.
    let most = space::unassigned(doc)
        .saturating_add(had)
        .saturating_sub(used);
    let quota = match want.nix_quota {
        Some(quota) => quota,
        None => NIX_QUOTA.max(used.saturating_add(used)).min(most),
    };
    check_quota(quota)?;
    let too_small = want.nix_quota.is_none() && quota < used;
    if quota > most || too_small {
        return Err(Refusal::new(
            Code::DiskSpace,
            format!(
                "a dataset for the store may need {}, and {most} of its disk space of {} can be had for it: {used} are in the root dataset",
                if too_small { used } else { quota },
                doc.disk_bytes
            ),
            format!(
                "give it more (mayfly set {} disk=SIZE), delete data, or say what the store needs: --nix-quota SIZE",
                doc.id
            ),
        ));
    }
    let rest = space::unassigned(doc)
        .saturating_add(had)
        .saturating_sub(quota);
    Ok((quota, had.min(rest)))
}

/// Directories that stay of a VPS with a base of its own, each once and none in another.
pub(super) fn kept(want: &ConvertWant) -> Vec<GuestPath> {
    let mut all: Vec<GuestPath> = KEPT.map(path).to_vec();
    all.extend(want.keep.iter().cloned());
    all.sort();
    all.dedup();
    let outer = all.clone();
    let inner = |one: &GuestPath| {
        outer
            .iter()
            .any(|other| other != one && one.below(other).is_some())
    };
    all.retain(|one| !inner(one));
    all
}

fn converted(
    stopped: &VpsDoc,
    want: &ConvertWant,
    kind: RootKind,
    made: Option<&Made>,
    ctx: &PlanContext,
) -> VpsDoc {
    let mut new = stopped.clone();
    let listed = made.and_then(|made| made.listed.as_ref());
    let taken_out = made
        .filter(|made| made.listed.is_some())
        .map(|made| TakenOut {
            owner: made.copy.owner.clone(),
            dataset: made.copy.from.clone(),
            path: made.copy.below.clone(),
            by: ctx.operation.clone(),
        });
    new.converted = Some(Box::new(Converted {
        by: ctx.operation.clone(),
        at_unix_ms: ctx.now_unix_ms,
        template: stopped.template.clone(),
        base: stopped.base.clone(),
        manifest: stopped.manifest.clone(),
        storage: stopped.storage.clone(),
        mounts: stopped.mounts.clone(),
        taken_out,
    }));
    if let Some((dataset, root)) = listed {
        for one in new.datasets.iter_mut().filter(|d| d.name.is_root()) {
            one.quota_bytes = *root;
        }
        new.datasets.push(dataset.clone());
        new.mounts.push(Mount {
            dataset: dataset.name.clone(),
            path: path("/nix"),
            read_only: false,
        });
    }
    if !new.mounts.iter().any(|m| m.path == want.storage) {
        new.mounts.push(storage_mount(want));
    }
    new.mounts = mount_order(&new.mounts);
    new.storage = Some(want.storage.clone());
    new.impermanence = Some(Impermanence {
        root_kind: kind,
        ..want.on.clone()
    });
    new.manifest.root_kind = kind;
    if kind == RootKind::Template {
        new.base = Base {
            template: stopped.base.template.clone(),
            track: Track::Pinned,
            own: made.map(|made| made.new.name.clone()),
        };
    }
    declare(&mut new, want, kind);
    new
}

/// What stays: by the manifest, which the guest's own file may add to and switch off.
fn declare(new: &mut VpsDoc, want: &ConvertWant, kind: RootKind) {
    let layout = &mut new.manifest.layout;
    layout.impermanence = true;
    layout.storage = Some(want.storage.clone());
    if !layout.mounts.iter().any(|m| m.path == want.storage) {
        layout.mounts.push(LayoutMount {
            dataset: DatasetName::root(),
            path: want.storage.clone(),
            read_only: false,
        });
    }
    let (presets, directories, files) = match kind {
        // A NixOS declares what it keeps in its own configuration.
        RootKind::Empty if want.keep.is_empty() => return,
        RootKind::Empty => (json!([]), json!(want.keep), json!([])),
        RootKind::Template => {
            let account = |file: &&str| json!({ "file": file, "method": "copy" });
            let files: Vec<_> = ACCOUNT_FILES.iter().map(account).collect();
            (
                json!([Preset::Base.name()]),
                json!(kept(want)),
                json!(files),
            )
        }
    };
    let declared = json!({ "presets": presets, "directories": directories, "files": files });
    layout
        .persistence
        .insert(want.storage.to_string(), declared);
}

/// The pool as it will be when the dataset was made.
fn as_made(seen: &Observed, made: Option<&Made>) -> Observed {
    let mut ahead = seen.clone();
    ahead.pool.datasets.extend(made.map(|made| {
        let dataset = DatasetSeen {
            mark: MarkSeen::Local(made.new.mark.clone()),
            quota: made.new.quota,
            used: None,
            snapshots: Vec::new(),
            origin: None,
        };
        (made.new.name.clone(), dataset)
    }));
    ahead
}
