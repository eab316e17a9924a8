//! Whether a pool on this host can be used, and what to do where it cannot.

use std::fmt;

use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::ids::NodeId;
use mayfly_core::ports::{HostError, HostResult};

use super::command::{Failure, GetFailed, Trouble, Zfs};
use super::listing::{Row, Source};
use super::marks::{POOL, PoolRecord};
use crate::runner::{RunEnd, Runner};

/// The version of OpenZFS, without its patch level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32);

impl Version {
    /// The first whose commands can answer in JSON.
    pub(super) const WITH_JSON: Self = Self(2, 3);
    /// The first that Mayfly works with: idmapped mounts of datasets.
    const OLDEST: Self = Self(2, 2);

    /// Reads `2.3.9-1`, `zfs-2.3.9-1`, `zfs-kmod-2.4.0-rc3`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("zfs-").unwrap_or(text);
        let text = text.strip_prefix("kmod-").unwrap_or(text);
        let (major, rest) = text.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Whether a pool with a fault that it survives is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// A new pool has to be whole.
    Whole,
    /// VPSes that are there go on with a disk missing; the log says so.
    Usable,
}

/// What the host must have done before Mayfly can use ZFS.
const FEATURES: [(&str, &str); 2] = [
    (
        "async_destroy",
        "destroying a root would stop everything else",
    ),
    ("extensible_dataset", "transfers could not be resumed"),
];

fn unsuitable(message: impl Into<String>, hint: impl Into<String>) -> HostError {
    HostError::Refused(Refusal::new(Code::HostUnsuitable, message, hint))
}

fn unavailable(message: impl Into<String>, hint: impl Into<String>) -> HostError {
    HostError::Refused(Refusal::new(Code::PoolUnavailable, message, hint))
}

/// The zpool that a dataset lies in.
pub(super) fn zpool_of(dataset: &str) -> &str {
    dataset.split('/').next().unwrap_or(dataset)
}

/// Refuses names that no pool of Mayfly's can have.
pub(super) fn check_name(dataset: &str) -> HostResult<()> {
    let bad = |why: &str| {
        HostError::Refused(Refusal::new(
            Code::Invalid,
            format!("`{}` cannot be a pool: {why}", dataset.escape_debug()),
            "give Mayfly a dataset of its own, such as zfs:tank/ct",
        ))
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    for part in dataset.split('/') {
        if part.is_empty() || part.starts_with('-') || matches!(part, "." | "..") {
            return Err(bad("that is not the name of a dataset"));
        }
        if !part.bytes().all(plain) {
            return Err(bad("only letters, digits, -, _, . and : are allowed"));
        }
    }
    if !dataset.contains('/') {
        return Err(bad("it is a whole zpool"));
    }
    // ZFS allows 255; below lie VPSes, their datasets and the staging area.
    if dataset.len() > 48 {
        return Err(bad("it may have 48 characters at most"));
    }
    Ok(())
}

/// Finds OpenZFS and looks whether it, and the zpool of `dataset`, can be used.
pub(super) fn check_host(runner: &Runner, dataset: &str, health: Health) -> HostResult<Zfs> {
    check_name(dataset)?;
    let zfs = Zfs::find(runner).map_err(|missing| {
        unsuitable(
            format!("OpenZFS is not installed: {missing}"),
            "on Debian, with the component contrib: apt install zfsutils-linux zfs-dkms",
        )
    })?;
    let version = check_version(&zfs)?;
    let zfs = zfs.speaking(version);
    check_zpool(&zfs, zpool_of(dataset), health)?;
    Ok(zfs)
}

fn check_version(zfs: &Zfs) -> HostResult<Version> {
    const MODULE: &str = "/sys/module/zfs/version";
    let module = match std::fs::read_to_string(MODULE) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(unsuitable(
                "the kernel module of OpenZFS is not loaded",
                "modprobe zfs; where that finds none: apt install zfs-dkms and the headers of this kernel",
            ));
        }
        Err(error) => return Err(LookFailed::new(MODULE, error).into()),
    };
    // The first line is of the commands, the second of the module.
    let said = zfs
        .run(["version"])
        .map_err(|failure| failure.of_look("the version of OpenZFS"))?;
    let commands = said.text().lines().next().and_then(Version::parse);
    let (Some(module), Some(commands)) = (Version::parse(&module), commands) else {
        return Err(LookFailed::new("the version of OpenZFS", "it is no version").into());
    };
    judge_version(module, commands)
}

fn judge_version(module: Version, commands: Version) -> HostResult<Version> {
    let older = module.min(commands);
    if older < Version::OLDEST {
        return Err(unsuitable(
            format!(
                "OpenZFS {older} is too old: it cannot map the ids of guests; {} is needed",
                Version::OLDEST
            ),
            "use Debian 13, or on Debian 12: apt install -t bookworm-backports zfs-dkms zfsutils-linux; then reboot",
        ));
    }
    Ok(commands)
}

fn check_zpool(zfs: &Zfs, zpool: &str, health: Health) -> HostResult<()> {
    let features = FEATURES.map(|(name, _)| format!("feature@{name}"));
    let properties = format!("health,readonly,{}", features.join(","));
    let said = zfs
        .run_zpool([
            "get",
            "-H",
            "-p",
            "-o",
            "property,value",
            &properties,
            zpool,
        ])
        .map_err(|failure| no_zpool(zpool, failure))?;
    judge_zpool(zpool, &said.text(), health)
}

fn no_zpool(zpool: &str, failure: Failure) -> HostError {
    let said = |text: &str| failure.0.stderr.contains(text);
    if matches!(failure.0.end, RunEnd::Status(_)) && said("no such pool") {
        return unavailable(
            format!("there is no zpool {zpool}"),
            format!("zpool import {zpool}; or make one: see the guide, \"A pool on ZFS\""),
        );
    }
    failure.of_look(&format!("the zpool {zpool}")).into()
}

/// Judges `zpool get -H -p -o property,value`.
fn judge_zpool(zpool: &str, said: &str, health: Health) -> HostResult<()> {
    let value = |name: &str| {
        said.lines()
            .filter_map(|line| line.split_once('\t'))
            .find(|(property, _)| *property == name)
            .map(|(_, value)| value)
            .ok_or_else(|| LookFailed::new(format!("the zpool {zpool}"), format!("no {name}")))
    };
    match (value("health")?, health) {
        ("ONLINE", _) => {}
        ("DEGRADED", Health::Usable) => {
            tracing::warn!(zpool, "the zpool is degraded: see `zpool status`");
        }
        ("DEGRADED", Health::Whole) => {
            return Err(unsuitable(
                format!("the zpool {zpool} is degraded: a disk of it is missing or failing"),
                format!("zpool status {zpool} says which; zpool replace it first"),
            ));
        }
        (state, _) => {
            return Err(unavailable(
                format!("the zpool {zpool} is {state}"),
                format!(
                    "zpool status -v {zpool} says why; when the disks are back: zpool clear {zpool}"
                ),
            ));
        }
    }
    if value("readonly")? == "on" {
        return Err(unavailable(
            format!("the zpool {zpool} was imported read-only"),
            format!("zpool export {zpool} && zpool import {zpool}"),
        ));
    }
    for (feature, without) in FEATURES {
        match value(&format!("feature@{feature}"))? {
            "enabled" | "active" => continue,
            "disabled" => {}
            other => {
                let why = format!("feature {feature} is {other}");
                return Err(LookFailed::new(format!("the zpool {zpool}"), why).into());
            }
        }
        return Err(unsuitable(
            format!("the feature {feature} of the zpool {zpool} is not enabled: {without}"),
            format!("zpool set feature@{feature}=enabled {zpool}, or all: zpool upgrade {zpool}"),
        ));
    }
    Ok(())
}

/// What a pool's dataset says of itself.
pub(super) const OF_THE_POOL: [&str; 5] = ["guid", "type", "readonly", "keystatus", POOL];

/// The pool's own dataset, where it is there and can be used; none where it is certain that it is not there.
pub(super) fn look_at_pool(zfs: &Zfs, dataset: &str) -> HostResult<Option<Row>> {
    let object = format!("the dataset {dataset}");
    let rows = match zfs.get(&[], &OF_THE_POOL, &[dataset]) {
        Ok(rows) => rows,
        // Its zpool was seen just now, so this is no pool that was not imported.
        Err(GetFailed::Command(failure)) if failure.trouble() == Trouble::Absent => {
            return Ok(None);
        }
        Err(failed) => return Err(failed.of_look(&object).into()),
    };
    let Some(row) = rows.into_iter().find(|row| row.name == dataset) else {
        return Err(LookFailed::new(object, "it is not in the answer").into());
    };
    let is = |name: &str, value: &str| row.get(name).is_some_and(|p| p.value == value);
    if !is("type", "filesystem") {
        return Err(unsuitable(
            format!("{dataset} is not a file system"),
            "give Mayfly a dataset of its own, such as zfs:tank/ct",
        ));
    }
    if is("keystatus", "unavailable") {
        return Err(unavailable(
            format!("the key of the encrypted dataset {dataset} is not loaded"),
            format!("zfs load-key -r {dataset}"),
        ));
    }
    if is("readonly", "on") {
        return Err(unavailable(
            format!("the dataset {dataset} is read-only"),
            format!("zfs set readonly=off {dataset}"),
        ));
    }
    Ok(Some(row))
}

/// Whether the pool's dataset is this node's. `Ok(false)`: it is nobody's.
pub(super) fn check_owner(row: &Row, node: &NodeId) -> HostResult<bool> {
    let dataset = &row.name;
    let foreign = |message: String, hint: &str| {
        HostError::Refused(Refusal::new(Code::PoolForeign, message, hint))
    };
    let Some(property) = row.get(POOL) else {
        return Ok(false);
    };
    match property.source {
        Source::Local => {}
        Source::Inherited => {
            return Err(foreign(
                format!("the dataset {dataset} lies inside another pool of Mayfly's"),
                "give each node a dataset of its own, none inside the other",
            ));
        }
        Source::Received | Source::None => {
            return Err(foreign(
                format!("the pool {dataset} is a copy: its mark came with the data"),
                "nothing in it is this node's; use another dataset",
            ));
        }
    }
    let record = PoolRecord::read(property)
        .map_err(|why| LookFailed::new(format!("the record of the pool {dataset}"), why))?;
    if record.node == *node {
        return Ok(true);
    }
    Err(foreign(
        format!(
            "the pool {dataset} belongs to the node {}, this is {node}",
            record.node
        ),
        "use that node's state directory, or give another dataset",
    ))
}

#[cfg(test)]
mod tests;
