//! Start and restart: a new root, everything mounted, one supervisor.

use serde_json::json;

use super::harvest::{before_a_start, harvest, has_storage};
use super::mounts::{Shown, mount_points, shown_datasets};
use super::parts::{bury_root, end_run, old_roots, record, record_ended, running};
use super::platform::{
    PROFILE_INIT, init_link, key_file, path, platform_files, put_keys, put_platform_files, skeleton,
};
use super::{LaunchPlan, Plan, PlanContext, PlannedStep, Step};
use crate::documents::{CurrentRun, Desired, Impermanence, VpsDoc};
use crate::error::{Code, Refusal};
use crate::features::check_features;
use crate::ids::{Digest, RunId};
use crate::names::{DatasetName, GuestPath, PoolPath};
use crate::network::RunNetwork;
use crate::observed::{InitSeen, Mark, Observed, Role};
use crate::persist::path::TreePath;
use crate::persist::spec::Spec;
use crate::ports::{NewDataset, Origin};
use crate::template::RootKind;

/// How long the guest's init may take to be reached.
pub const AWAIT_INIT_MS: u64 = 30_000;

/// What must be done to start `doc` as `run`.
///
/// The root of the last run is given up only when the new init lives: a start that fails leaves it where it was.
pub fn plan_start(
    doc: &VpsDoc,
    seen: &Observed,
    run: &RunId,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    if running(doc, seen) {
        return Err(Refusal::new(
            Code::VpsRunning,
            format!("VPS {} is running", doc.title()),
            format!("to give it a new root: mayfly restart {}", doc.id),
        ));
    }
    let stopped = record_ended(doc);
    let mut steps = vec![end_remains(doc)];
    if stopped != *doc {
        steps.push(record_over(&stopped));
    }
    steps.extend(before_a_start(&stopped, seen)?);
    steps.extend(start_steps(&stopped, seen, run, ctx)?);
    Ok(Plan { steps })
}

/// Stops it where it runs, then starts it as `run`.
pub fn plan_restart(
    doc: &VpsDoc,
    seen: &Observed,
    run: &RunId,
    timeout_ms: u64,
    force: bool,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    let stopped = record_ended(doc);
    let start = start_steps(&stopped, seen, run, ctx)?;
    let mut steps = vec![end_run(doc, timeout_ms, force)];
    if stopped != *doc {
        steps.push(record_over(&stopped));
    }
    steps.extend(before_a_start(&stopped, seen)?);
    steps.extend(start);
    Ok(Plan { steps })
}

pub(super) fn end_remains(doc: &VpsDoc) -> PlannedStep {
    Step::EndRun {
        vps: doc.id,
        run: None,
        halt_ms: None,
    }
    .final_because("what was left of a run that is over is of no use")
}

pub(super) fn record_over(stopped: &VpsDoc) -> PlannedStep {
    Step::Record {
        vps: stopped.id,
        what: "the run is over".into(),
        doc: Some(Box::new(stopped.clone())),
    }
    .final_because("the run is over, whatever comes next")
}

/// The steps from "nothing of it is alive" to "its init lives". `doc` has no run.
pub(super) fn start_steps(
    doc: &VpsDoc,
    seen: &Observed,
    run: &RunId,
    ctx: &PlanContext,
) -> Result<Vec<PlannedStep>, Refusal> {
    let data = doc.pool_path(&DatasetName::root());
    for dataset in &doc.datasets {
        let name = doc.pool_path(&dataset.name);
        if !seen.pool.datasets.contains_key(&name) {
            return Err(Refusal::new(
                Code::DatasetNotFound,
                format!("VPS {}: its dataset {name} is not in the pool", doc.title()),
                "see what is there: mayfly pool show",
            ));
        }
    }
    check_features(doc, &doc.features, seen)?;
    let mut steps = Vec::new();
    let root = match &doc.impermanence {
        None => data,
        Some(on) => {
            check_boots(doc, on, seen)?;
            let root = PoolPath::temporary_root(doc.id, run);
            check_absent(doc, &root, seen)?;
            steps.push(create_root(doc, on, &root, run, ctx));
            root
        }
    };
    steps.extend(tree_steps(doc, &root));

    let of_template = doc.clones_its_base() && doc.base.own.is_none();
    let base = of_template.then(|| doc.base.template.clone());
    let begun = with_run(doc, &root, run, base, ctx);
    steps.push(record(
        doc,
        begun.clone(),
        format!("run {run} with {root} at /"),
    ));

    steps.extend(launch_steps(launch_plan(doc, &root, run, ctx)));
    if begun.last_root.is_some() {
        let mut settled = begun.clone();
        settled.last_root = None;
        settled.last_root_base = None;
        steps.push(
            Step::Record {
                vps: doc.id,
                what: "the last root is given up".into(),
                doc: Some(Box::new(settled)),
            }
            .final_because("the new root lives"),
        );
    }
    steps.extend(
        old_roots(doc, seen, &root, false, ctx)
            .into_iter()
            .map(Step::as_housekeeping),
    );
    steps.push(
        Step::ForgetRuns {
            vps: doc.id,
            keep: Some(run.clone()),
            console: false,
        }
        .as_housekeeping(),
    );
    Ok(steps)
}

/// A root is made anew, never found: what bears its name already is another run's, or someone else's.
pub(super) fn check_absent(doc: &VpsDoc, root: &PoolPath, seen: &Observed) -> Result<(), Refusal> {
    if !seen.pool.datasets.contains_key(root) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::DatasetExists,
        format!("VPS {}: dataset {root} is in the pool already", doc.title()),
        "try again: each try draws another name",
    ))
}

/// The VPS with a run that begins now.
pub(super) fn with_run(
    doc: &VpsDoc,
    root: &PoolPath,
    run: &RunId,
    base: Option<Digest>,
    ctx: &PlanContext,
) -> VpsDoc {
    let mut begun = doc.clone();
    begun.desired = Desired::Running;
    begun.run = Some(CurrentRun {
        run: run.clone(),
        root: root.clone(),
        base,
        boot_id: ctx.boot_id.clone(),
        started_unix_ms: ctx.now_unix_ms,
        rescue: None,
    });
    begun
}

/// From the supervisor to an init that lives.
pub(super) fn launch_steps(launch: LaunchPlan) -> [PlannedStep; 2] {
    let (vps, run) = (launch.vps, launch.run.clone());
    let end = Step::EndRun {
        vps,
        run: None,
        halt_ms: None,
    };
    let launch = Box::new(launch);
    let wait = Step::AwaitInit {
        vps,
        run,
        deadline_ms: AWAIT_INIT_MS,
    };
    [
        Step::Launch { launch }.undone_by(end),
        wait.final_because("waiting changes nothing"),
    ]
}

pub(super) fn create_root(
    doc: &VpsDoc,
    on: &Impermanence,
    root: &PoolPath,
    run: &RunId,
    ctx: &PlanContext,
) -> PlannedStep {
    let origin = match on.root_kind {
        RootKind::Empty => Origin::Empty,
        RootKind::Template => Origin::Clone(doc.base_path()),
    };
    let mark = Mark {
        node: ctx.node.clone(),
        owner: Some((doc.id, doc.incarnation.clone())),
        role: Role::Temporary,
        run: Some(run.clone()),
        made_as: root.clone(),
        condemned_by: None,
        unharvested: has_storage(doc),
        contents: None,
    };
    let new = NewDataset {
        name: root.clone(),
        mark,
        quota: Some(on.root_quota_bytes),
        origin,
    };
    // Whatever came to live in it was harvested by then: that is the undo of the next step.
    Step::CreateDataset { new }.undone_by(bury_root(doc, root, true, ctx))
}

pub(super) fn tree_steps(doc: &VpsDoc, root: &PoolPath) -> Vec<PlannedStep> {
    let mut trees = mount_points(doc, root);
    if let Some(on) = &doc.impermanence {
        let tree = trees.entry(root.clone()).or_default();
        match on.root_kind {
            RootKind::Empty => {
                let mut directories = skeleton();
                directories.extend(
                    tree.directories
                        .drain(..)
                        .filter(|d| !skeleton().contains(d)),
                );
                tree.directories = directories;
                put_keys(doc, tree);
                tree.links.push(init_link());
            }
            RootKind::Template => put_platform_files(doc, tree),
        }
    }
    // The root first: the others are looked into through no path of it, so the order is only for the reader.
    let mut steps: Vec<_> = trees.into_iter().collect();
    steps.sort_by_key(|(name, _)| name != root);
    let why = "mount points and platform files stay; the next start needs them as well";
    steps
        .into_iter()
        .map(|(dataset, tree)| {
            // A guest that a dead daemon had started may have lived in the root for long before the start is put back.
            let lived_in = (dataset == *root).then(|| harvest(doc, root)).flatten();
            let step = Step::PrepareTree { dataset, tree };
            match lived_in {
                Some(harvest) => step.undone_by(harvest),
                None => step.final_because(why),
            }
        })
        .collect()
}

pub(super) fn launch_plan(
    doc: &VpsDoc,
    root: &PoolPath,
    run: &RunId,
    ctx: &PlanContext,
) -> LaunchPlan {
    let mounts = shown_datasets(doc);
    let told = |(dataset, path, read_only): &Shown| json!({ "path": path, "dataset": dataset, "read_only": read_only });
    let shown: Vec<_> = mounts.iter().map(told).collect();
    let (kind, base) = match doc.impermanence.as_ref().map(|on| on.root_kind) {
        None => ("persistent", None),
        Some(RootKind::Empty) => ("empty", None),
        Some(RootKind::Template) => ("template", Some(&doc.base.template)),
    };
    let boot_report = json!({
        "version": 1,
        "vps": doc.id,
        "run": run,
        "root": { "dataset": root, "kind": kind, "base": base, "birth_unix_ms": ctx.now_unix_ms },
        "mounts": shown,
    });
    LaunchPlan {
        node: ctx.node.clone(),
        vps: doc.id,
        incarnation: doc.incarnation.clone(),
        run: run.clone(),
        hostname: doc.hostname.clone(),
        root: root.clone(),
        mounts,
        ids: doc.ids,
        limits: doc.limits.clone(),
        features: doc.features.clone(),
        init: doc.manifest.init.clone(),
        halt_signal: doc.manifest.halt_signal,
        boot_report,
        persistence: Some(persistence(doc, run)),
        network: ctx
            .network
            .as_ref()
            .and_then(|node| RunNetwork::of(&ctx.node, node, doc)),
    }
}

/// What the guest's side is told of declarations. In a persistent root it says that there is nothing to do.
fn persistence(doc: &VpsDoc, run: &RunId) -> Spec {
    // A path that may be mounted may be declared: its rules are the narrower ones.
    let tree_path = |path: &GuestPath| TreePath::parse(path.as_str()).ok();
    let platform = match doc.impermanence.as_ref().map(|on| on.root_kind) {
        Some(RootKind::Template) => platform_files(doc),
        Some(RootKind::Empty) => key_file(doc).into_iter().collect(),
        None => Vec::new(),
    };
    Spec {
        storage: doc.storage.as_ref().and_then(tree_path),
        platform: platform
            .iter()
            .filter_map(|(path, _)| tree_path(path))
            .collect(),
        manifest: serde_json::Value::Object(doc.manifest.layout.persistence.clone()),
        ..Spec::new(run.to_string(), doc.impermanence.is_some())
    }
}

/// Refuses a base that is not in the pool.
pub(super) fn check_there(doc: &VpsDoc, seen: &Observed) -> Result<(), Refusal> {
    let base = doc.base_path();
    if seen.pool.datasets.contains_key(&base) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::TemplateNotFound,
        format!("VPS {}: its base {base} is not in the pool", doc.title()),
        format!(
            "build or import the template again: mayfly template build {} --replace",
            doc.template
        ),
    ))
}

/// Refuses a temporary root that would not boot, with the reason and the cure.
pub(super) fn check_boots(doc: &VpsDoc, on: &Impermanence, seen: &Observed) -> Result<(), Refusal> {
    if on.root_kind == RootKind::Template {
        return check_there(doc, seen);
    }
    let refuse = |why: String, hint: String| {
        let message = format!(
            "VPS {} would not boot from an empty root: {why}",
            doc.title()
        );
        Err(Refusal::new(Code::VpsWouldNotBoot, message, hint))
    };
    if !doc.mounts.iter().any(|m| m.path == path("/nix")) {
        return refuse(
            "nothing is mounted at /nix".into(),
            format!(
                "mayfly dataset create {}/nix --quota 20G --mount /nix, and move the store there",
                doc.id
            ),
        );
    }
    let cure = format!(
        "deploy a system into the dataset at /nix; where the root dataset holds one as well, boot that: mayfly feature \
         set {} impermanence=off",
        doc.id
    );
    match &seen.init {
        Some(InitSeen::Found) => Ok(()),
        Some(InitSeen::Missing { path }) => refuse(
            format!("{PROFILE_INIT} leads to {path}, which is not there"),
            cure,
        ),
        Some(InitSeen::NotExecutable { what }) => refuse(format!("{PROFILE_INIT} is {what}"), cure),
        None => {
            Err(crate::error::LookFailed::new("the system profile", "it was not looked for").into())
        }
    }
}
