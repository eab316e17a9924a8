//! Manifests: what a template is and what a VPS that is made from it starts with.
//!
//! Only the manifest decides, never a template's name.

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::error::{Code, Refusal};
use crate::names::{DatasetName, GuestPath};

/// What the root of an impermanent VPS is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RootKind {
    /// Nothing but a skeleton; the system lives in a dataset (NixOS).
    Empty,
    /// A clone of the VPS's base (any other distribution).
    Template,
}

/// A quota: bytes, or a share of the VPS's disk space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Quota {
    /// So many bytes.
    Fixed(Bytes),
    /// So many hundredths of the disk space, 1 to 100.
    Percent(u8),
}

impl Quota {
    /// The bytes that this is for a VPS with `disk` bytes of disk space.
    pub fn of(self, disk: Bytes) -> Bytes {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Percent(p) => Bytes((u128::from(disk.0) * u128::from(p) / 100) as u64),
        }
    }
}

impl TryFrom<String> for Quota {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_suffix('%') {
            Some(p) => match p.parse() {
                Ok(p @ 1..=100) => Ok(Self::Percent(p)),
                _ => Err(format!("`{text}` is not a share: write 1% to 100%")),
            },
            None => text
                .parse()
                .map(Self::Fixed)
                .map_err(|e: crate::bytes::NotASize| e.to_string()),
        }
    }
}

impl From<Quota> for String {
    fn from(quota: Quota) -> String {
        match quota {
            Quota::Fixed(bytes) if bytes.0 % (1 << 20) == 0 => bytes.to_string(),
            Quota::Fixed(bytes) => bytes.0.to_string(),
            Quota::Percent(p) => format!("{p}%"),
        }
    }
}

/// A subdataset that a VPS of this template starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LayoutDataset {
    /// Its name below the VPS.
    pub name: DatasetName,
    /// Its quota, taken from the VPS's disk space.
    pub quota: Quota,
}

/// A mount that a VPS of this template starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LayoutMount {
    /// Which dataset; the empty name is the root dataset.
    #[serde(default)]
    pub dataset: DatasetName,
    /// Where in the guest.
    pub path: GuestPath,
    /// Whether guest root is kept from writing.
    #[serde(default)]
    pub read_only: bool,
}

/// Datasets, mounts and features of a new VPS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Subdatasets, parents before children.
    #[serde(default, rename = "dataset")]
    pub datasets: Vec<LayoutDataset>,
    /// Mounts.
    #[serde(default, rename = "mount")]
    pub mounts: Vec<LayoutMount>,
    /// Whether the feature `impermanence` is on from the first start.
    #[serde(default)]
    pub impermanence: bool,
    /// Where declared paths really live: a path inside the guest, such as `/persistent`.
    #[serde(default)]
    pub storage: Option<GuestPath>,
    /// What is declared to stay, as in the VPS's own file: storage to settings ([`crate::persist`]).
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = std::collections::BTreeMap<String, Object>))]
    pub persistence: serde_json::Map<String, serde_json::Value>,
}

/// What a template is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Such as `debian`; decides which files the platform writes.
    pub distribution: String,
    /// Such as `12`.
    pub version: String,
    /// Such as `amd64`, in Debian's words.
    pub architecture: String,
    /// The init to execute.
    #[serde(default = "sbin_init")]
    pub init: GuestPath,
    /// The signal that asks it to shut down; systemd takes 37 (SIGRTMIN+3).
    #[serde(default = "systemd_halt")]
    pub halt_signal: i32,
    /// What a temporary root is made from.
    pub root_kind: RootKind,
    /// What a VPS starts with.
    #[serde(default)]
    pub layout: Layout,
}

fn sbin_init() -> GuestPath {
    "/sbin/init".parse().expect("a constant path is valid")
}

fn systemd_halt() -> i32 {
    37
}

/// Debian's word for an architecture that a kernel, a compiler or somebody else's image names.
pub fn debian_architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" | "i486" | "i586" | "i686" => "i386",
        "arm" | "armv7l" | "armv7" => "armhf",
        "powerpc64" | "ppc64le" => "ppc64el",
        other => other,
    }
}

/// Refuses a system whose programs this host's processor does not run. Both are Debian's words.
pub fn check_architecture(of: &str, host: &str) -> Result<(), Refusal> {
    let runs = of == host
        || matches!(
            (host, of),
            ("amd64", "i386") | ("arm64", "armhf" | "armel") | (_, "all")
        );
    if runs {
        return Ok(());
    }
    Err(Refusal::new(
        Code::TemplateUnfit,
        format!("it is a system for {of}, and this host runs {host}"),
        format!("take one that was made for {host}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_for_another_processor_is_refused_with_both_names() {
        for (of, host) in [
            ("amd64", "amd64"),
            ("i386", "amd64"),
            ("armhf", "arm64"),
            ("all", "riscv64"),
        ] {
            assert_eq!(check_architecture(of, host), Ok(()), "{of} on {host}");
        }
        for (of, host) in [("arm64", "amd64"), ("amd64", "i386"), ("amd64", "arm64")] {
            let refusal = check_architecture(of, host).unwrap_err();
            assert_eq!(refusal.code, Code::TemplateUnfit);
            assert!(refusal.message.contains(of) && refusal.message.contains(host));
        }
        assert_eq!(debian_architecture("x86_64"), "amd64");
        assert_eq!(debian_architecture("riscv64"), "riscv64");
    }
}
