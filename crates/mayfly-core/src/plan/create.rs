//! Create: from what was typed and a manifest to a document, and from that to steps.

use super::mounts::mount_order;
use super::parts::{check_quota, create_dataset, record};
use super::platform::put_platform_files;
use super::promises::promised_with_plans;
use super::start::{check_boots, start_steps};
use super::{Plan, PlanContext, Step};
use crate::bytes::Bytes;
use crate::change::VpsChange;
use crate::documents::{
    Autostart, Base, Dataset, Desired, Impermanence, Lifecycle, Mount, NewVps, OnCrash, SCHEMA,
    TemplateDoc, Track, VpsDoc,
};
use crate::error::{Code, Refusal};
use crate::features::{Features, check_features};
use crate::ids::{Incarnation, NodeId, RunId, VpsId};
use crate::names::{DatasetName, Hostname, PoolPath, TemplatePart};
use crate::network::{NodeNetwork, SshKeys, free_network};
use crate::observed::{DatasetSeen, MarkSeen, Observed};
use crate::ports::{Origin, TreePlan};
use crate::run::{IdRange, Limits};
use crate::space;

/// What a person asked for, checked word by word.
#[derive(Clone, Debug)]
pub struct CreateInput {
    /// Its number; none for the lowest free one.
    pub id: Option<VpsId>,
    /// Its host name; none for `vps<id>`.
    pub hostname: Option<Hostname>,
    /// Disk space; none for the default.
    pub disk: Option<Bytes>,
    /// Memory.
    pub memory: Option<Bytes>,
    /// CPUs, in hundredths.
    pub cpu_percent: Option<u32>,
    /// Whether impermanence is on whatever the template says.
    pub impermanence: bool,
    /// The features that are on.
    pub features: Features,
    /// Who may log in as root.
    pub ssh_keys: Option<SshKeys>,
}

/// What a VPS gets where nothing was said.
pub struct NewVpsDefaults;

impl NewVpsDefaults {
    /// Disk space.
    pub const DISK: Bytes = Bytes::gib(120);
    /// Memory.
    pub const MEMORY: Bytes = Bytes::gib(2);
    /// One temporary root.
    pub const ROOT_QUOTA: Bytes = Bytes::gib(10);
    /// Processes and threads.
    pub const PROCESSES: u32 = 8192;
    /// The lowest host id that VPSes are mapped to.
    pub const FIRST_HOST_ID: u32 = 1 << 20;
    /// Host ids stay below this: some programs take ids for signed numbers.
    pub const LAST_HOST_ID: u32 = 1 << 31;
}

/// A range of host ids that overlaps none of `taken` (VPSes of this node, and other users' entries of `/etc/subuid` and
/// `/etc/subgid`). The search begins at a place drawn from the node's id, so that nodes which share a machine do not
/// share ids, and with them the kernel's per-user budgets; they cannot see each other's records.
pub fn free_range(taken: &[IdRange], node: &NodeId) -> Option<IdRange> {
    let first_slot = NewVpsDefaults::FIRST_HOST_ID / IdRange::SIZE;
    let slots = NewVpsDefaults::LAST_HOST_ID / IdRange::SIZE - first_slot;
    let drawn = u32::from_str_radix(&node.as_str()[..8], 16).ok()?;
    (0..slots)
        .map(|n| IdRange {
            first: (first_slot + (drawn % slots + n) % slots) * IdRange::SIZE,
            count: IdRange::SIZE,
        })
        .find(|range| !taken.iter().any(|t| t.overlaps(range)))
}

/// Makes the document of a new VPS. Refuses whatever could be refused later.
pub fn resolve_new_vps(
    input: &CreateInput,
    template: &TemplateDoc,
    others: &[VpsDoc],
    reserved: &[IdRange],
    (node, network): (&NodeId, Option<&NodeNetwork>),
    incarnation: Incarnation,
) -> Result<NewVps, Refusal> {
    let id = choose_id(input.id, others)?;
    let hostname = match &input.hostname {
        Some(name) => name.clone(),
        None => format!("vps{id}")
            .parse()
            .expect("vps and a number are a host name"),
    };
    if let Some(other) = others.iter().find(|o| o.hostname == hostname) {
        return Err(Refusal::new(
            Code::VpsNameTaken,
            format!("host name {hostname} is that of VPS {}", other.title()),
            "choose another name",
        ));
    }
    let mut taken: Vec<IdRange> = others.iter().map(|o| o.ids).collect();
    taken.extend_from_slice(reserved);
    let ids = free_range(&taken, node).ok_or_else(|| {
        Refusal::new(
            Code::HostUnsuitable,
            "no range of 262144 host ids is free",
            "destroy a VPS that is not needed",
        )
    })?;
    let network = match network {
        None => None,
        Some(network) => {
            Some(free_network(node, network, id, others).ok_or_else(|| no_address(network))?)
        }
    };
    super::set::check_limits(&VpsChange {
        memory_bytes: input.memory,
        cpu_percent: Some(input.cpu_percent),
        ..VpsChange::default()
    })?;
    let manifest = &template.manifest;
    let layout = &manifest.layout;
    let disk_bytes = input.disk.unwrap_or(NewVpsDefaults::DISK);
    let impermanence = (input.impermanence || layout.impermanence).then_some(Impermanence {
        root_quota_bytes: NewVpsDefaults::ROOT_QUOTA,
        root_kind: manifest.root_kind,
    });
    let mut doc = VpsDoc {
        schema: SCHEMA,
        id,
        hostname,
        incarnation,
        node: node.clone(),
        template: template.name.clone(),
        base: Base {
            template: template.digest.clone(),
            track: Track::default(),
            own: None,
        },
        manifest: manifest.clone(),
        storage: layout.storage.clone(),
        disk_bytes,
        datasets: Vec::new(),
        mounts: Vec::new(),
        impermanence,
        features: input.features.clone(),
        limits: Limits {
            memory_bytes: Some(input.memory.unwrap_or(NewVpsDefaults::MEMORY)),
            swap_bytes: Bytes(0),
            cpu_percent: input.cpu_percent,
            processes: Some(NewVpsDefaults::PROCESSES),
        },
        ids,
        network,
        ssh_keys: input.ssh_keys.clone(),
        lifecycle: Lifecycle::Creating,
        desired: Desired::Stopped,
        on_crash: OnCrash::default(),
        autostart: Autostart::default(),
        crashes: Vec::new(),
        run: None,
        last_root: None,
        last_root_base: None,
        replaced: Vec::new(),
        converted: None,
    };
    lay_out(&mut doc)?;
    let filled = doc
        .datasets
        .iter()
        .map(|d| d.name.clone())
        .filter(|name| doc.mounts.iter().any(|m| m.dataset == *name))
        .collect();
    Ok(NewVps { doc, filled })
}

fn no_address(network: &NodeNetwork) -> Refusal {
    Refusal::new(
        Code::NetworkFull,
        format!("every address of {} is a VPS's", network.subnet),
        "destroy a VPS that is not needed",
    )
}

/// Datasets and mounts of the manifest's layout; the root dataset takes the disk space that the others leave.
fn lay_out(doc: &mut VpsDoc) -> Result<(), Refusal> {
    let layout = doc.manifest.layout.clone();
    let subdatasets: Vec<Dataset> = layout
        .datasets
        .iter()
        .map(|d| Dataset {
            name: d.name.clone(),
            quota_bytes: d.quota.of(doc.disk_bytes),
        })
        .collect();
    let taken = space::total(&subdatasets);
    let left = doc.disk_bytes.saturating_sub(taken);
    let least = |quota: Bytes| check_quota(quota).is_ok();
    if doc.disk_bytes < Bytes::mib(64)
        || !least(left)
        || !subdatasets.iter().all(|d| least(d.quota_bytes))
    {
        return Err(Refusal::new(
            Code::DiskSpace,
            format!(
                "disk space of {} is too little: the template's datasets take {taken}, and the root dataset needs some",
                doc.disk_bytes
            ),
            format!(
                "ask for more: --disk {}",
                taken.saturating_add(Bytes::gib(10))
            ),
        ));
    }
    let root = Dataset {
        name: DatasetName::root(),
        quota_bytes: left,
    };
    doc.datasets.push(root);
    doc.datasets.extend(subdatasets);
    for mount in &layout.mounts {
        let mount = Mount {
            dataset: mount.dataset.clone(),
            path: mount.path.clone(),
            read_only: mount.read_only,
        };
        super::mounts::check_mount(doc, &mount)?;
        doc.mounts.push(mount);
    }
    doc.mounts = mount_order(&doc.mounts);
    Ok(())
}

fn choose_id(wanted: Option<VpsId>, others: &[VpsDoc]) -> Result<VpsId, Refusal> {
    let taken = |id: VpsId| others.iter().find(|o| o.id == id);
    match wanted {
        Some(id) => match taken(id) {
            None => Ok(id),
            Some(other) => Err(Refusal::new(
                Code::VpsIdTaken,
                format!("id {id} is that of VPS {}", other.title()),
                "choose another id, or leave --id out",
            )),
        },
        None => (VpsId::FIRST..=VpsId::LAST)
            .filter_map(|n| VpsId::try_from(n).ok())
            .find(|id| taken(*id).is_none())
            .ok_or_else(|| {
                Refusal::new(
                    Code::VpsIdTaken,
                    "every id is taken",
                    "destroy a VPS that is not needed",
                )
            }),
    }
}

/// Makes the datasets, and starts it where that was asked for.
pub fn plan_create(
    new: &NewVps,
    start: Option<&RunId>,
    seen: &Observed,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    let doc = &new.doc;
    space::check_pool(
        seen.pool.capacity,
        promised_with_plans(seen),
        doc.disk_bytes,
    )?;
    if let Some(name) = seen.pool.datasets.keys().find(|name| {
        let root = doc.pool_path(&DatasetName::root());
        **name == root || name.is_below(&root)
    }) {
        return Err(Refusal::new(
            Code::NotOurs,
            format!("dataset {name} is in the pool already, and no VPS of this node owns it"),
            "choose another --id, or move that dataset out of the pool",
        ));
    }
    let mut after = seen.clone();
    for dataset in &doc.datasets {
        let seen = DatasetSeen {
            mark: MarkSeen::Unset,
            quota: None,
            used: None,
            snapshots: Vec::new(),
            origin: None,
        };
        after
            .pool
            .datasets
            .insert(doc.pool_path(&dataset.name), seen);
    }
    // What an empty root finds in /nix is the template's; the boot itself will tell.
    after.init = Some(crate::observed::InitSeen::Found);
    if let Some(on) = &doc.impermanence {
        check_boots(doc, on, &after)?;
    }
    check_features(doc, &doc.features, seen)?;
    let insert = Step::Record {
        vps: doc.id,
        what: "it is being made".into(),
        doc: Some(Box::new(doc.clone())),
    };
    let remove = Step::Record {
        vps: doc.id,
        what: "it is not made".into(),
        doc: None,
    };
    let mut steps = vec![insert.undone_by(remove)];
    for dataset in &doc.datasets {
        steps.push(create_dataset(
            doc,
            dataset,
            origin(new, &dataset.name, seen)?,
            ctx,
        ));
    }
    if doc.impermanence.is_none() {
        let mut tree = TreePlan::default();
        put_platform_files(doc, &mut tree);
        if !tree.files.is_empty() {
            let dataset = doc.pool_path(&DatasetName::root());
            steps.push(
                Step::PrepareTree { dataset, tree }.final_because("it goes with the dataset"),
            );
        }
    }
    let mut ready = doc.clone();
    ready.lifecycle = Lifecycle::Ready;
    steps.push(record(doc, ready.clone(), "it is there"));
    if let Some(run) = start {
        steps.extend(start_steps(&ready, &after, run, ctx)?);
    }
    Ok(Plan { steps })
}

fn origin(new: &NewVps, name: &DatasetName, seen: &Observed) -> Result<Origin, Refusal> {
    let doc = &new.doc;
    let digest = &doc.base.template;
    // A root dataset that is `/` is a copy of the base; any other dataset starts with what the template has at its
    // mount point, or empty where the template has nothing there.
    let part = if name.is_root() && doc.impermanence.is_none() {
        TemplatePart::Base
    } else {
        TemplatePart::Dataset(name.clone())
    };
    let from = PoolPath::template(digest, &part);
    match (seen.pool.datasets.contains_key(&from), &part) {
        (true, _) => Ok(Origin::Clone(from)),
        (false, TemplatePart::Dataset(_)) => Ok(Origin::Empty),
        (false, TemplatePart::Base) => Err(Refusal::new(
            Code::TemplateNotFound,
            format!(
                "template {} is recorded, and its dataset {from} is not in the pool",
                doc.template
            ),
            format!(
                "build it again: mayfly template remove {0} && mayfly template build {0}",
                doc.template
            ),
        )),
    }
}
