//! What of the kernel a VPS may use beside what every guest may: features that are on or off, beside impermanence.
//!
//! A feature is a device that the guest finds in its `/dev`, or (`nesting`) two mounts. The host says what it has
//! ([`FeatureSeen`]); whether that is enough is judged here. `docs/isolation.md` says what each opens to a guest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::change::{VpsChange, given};
use crate::documents::{Impermanence, VpsDoc};
use crate::error::{Code, LookFailed, Refusal};
use crate::observed::Observed;

/// A feature that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Containers in the guest whose root is a user of their own: proc and sysfs can be mounted in a user namespace
    /// below the guest's.
    Nesting,
    /// Network cards made by programs, as VPNs do: `/dev/net/tun`.
    Tun,
    /// File systems made by programs: `/dev/fuse`.
    Fuse,
    /// Virtual machines: `/dev/kvm`.
    Kvm,
    /// Point-to-point connections: `/dev/ppp`.
    Ppp,
}

/// The features that are on.
pub type Features = BTreeSet<Feature>;

/// Features to be switched on or off; one that is not named stays as it is.
pub type Switches = BTreeMap<Feature, bool>;

/// A character device that comes with a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its path below `/dev`, on the host and in the guest.
    pub name: &'static str,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// The mode that it has in a guest, where it belongs to root: as udev gives it on a machine of its own.
    pub mode: u32,
    /// The kernel's module that drives it.
    pub module: &'static str,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 5] = [Self::Nesting, Self::Tun, Self::Fuse, Self::Kvm, Self::Ppp];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nesting => "nesting",
            Self::Tun => "tun",
            Self::Fuse => "fuse",
            Self::Kvm => "kvm",
            Self::Ppp => "ppp",
        }
    }

    /// The device that comes with it.
    pub fn device(self) -> Option<Device> {
        let device = |name, (major, minor), mode, module| {
            Some(Device {
                name,
                major,
                minor,
                mode,
                module,
            })
        };
        match self {
            Self::Nesting => None,
            Self::Tun => device("net/tun", (10, 200), 0o666, "tun"),
            Self::Fuse => device("fuse", (10, 229), 0o666, "fuse"),
            Self::Kvm => device("kvm", (10, 232), 0o666, "kvm_intel or kvm_amd"),
            Self::Ppp => device("ppp", (108, 0), 0o600, "ppp_generic"),
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Feature {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|one| one.name() == text);
        found.ok_or_else(|| {
            let text = text.escape_debug();
            format!("there is no feature `{text}`; there are {all}")
        })
    }
}

/// What a look at the host's side of a feature found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeatureSeen {
    /// All that it needs.
    Usable,
    /// Its device is not there.
    NoDevice,
    /// What bears the name of its device is something else.
    AnotherDevice {
        /// What it is.
        what: String,
    },
    /// Its device is there, and nothing in the kernel drives it.
    NoDriver,
    /// A setting of the host forbids it.
    Forbidden {
        /// The setting and its value.
        setting: String,
    },
}

impl FeatureSeen {
    /// Why the host cannot give the feature, and what would change that; nothing where it can.
    pub fn lack(&self, feature: Feature) -> Option<(String, String)> {
        let device = feature.device();
        let name = device.map_or("", |device| device.name);
        let load = device.map_or_else(String::new, |device| {
            format!(
                "load the host's module {}, if its kernel has it",
                device.module
            )
        });
        match self {
            Self::Usable => None,
            Self::NoDevice => Some((format!("the host has no /dev/{name}"), load)),
            Self::NoDriver => {
                let why = format!("nothing in the host's kernel drives /dev/{name}");
                Some((why, load))
            }
            Self::AnotherDevice { what } => Some((
                format!("/dev/{name} of the host is {}", what.escape_debug()),
                "have the host make its device anew".to_owned(),
            )),
            Self::Forbidden { setting } => Some((
                format!("{setting} forbids it on this host"),
                "change that setting of the host".to_owned(),
            )),
        }
    }
}

/// What is to be another of features and limits, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeaturesChange {
    /// What impermanence is to be, where that is to change; none within switches it off. Before there were other features it
    /// was called `want`.
    #[serde(
        default,
        alias = "want",
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub impermanence: Option<Option<Impermanence>>,
    /// The other features.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub switches: Switches,
    /// What it may take of the host.
    #[serde(default, skip_serializing_if = "LimitsChange::is_nothing")]
    pub limits: LimitsChange,
}

/// Limits that are to be others. What is not given stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LimitsChange {
    /// Memory; it always has a limit.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(nullable = false))]
    pub memory_bytes: Option<Bytes>,
    /// Swap on top of the memory.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(nullable = false))]
    pub swap_bytes: Option<Bytes>,
    /// CPU time in hundredths of a CPU; `null` takes the limit away.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    pub cpu_percent: Option<Option<u32>>,
    /// Processes and threads; they always have a limit.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(nullable = false))]
    pub processes: Option<u32>,
}

impl LimitsChange {
    /// Whether everything stays as it is.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The same as a change of a VPS.
    pub fn as_change(&self) -> VpsChange {
        VpsChange {
            memory_bytes: self.memory_bytes,
            swap_bytes: self.swap_bytes,
            cpu_percent: self.cpu_percent,
            processes: self.processes,
            ..VpsChange::default()
        }
    }
}

impl FeaturesChange {
    /// The features as they are after it.
    pub fn features(&self, before: &Features) -> Features {
        let is_on = |feature: &Feature| match self.switches.get(feature) {
            Some(on) => *on,
            None => before.contains(feature),
        };
        Feature::ALL.into_iter().filter(is_on).collect()
    }

    /// The document as it is after it.
    pub fn of(&self, doc: &VpsDoc) -> VpsDoc {
        let mut new = doc.clone();
        new.features = self.features(&doc.features);
        new.limits = self.limits.as_change().limits(&doc.limits);
        if let Some(impermanence) = &self.impermanence {
            new.impermanence.clone_from(impermanence);
        }
        new
    }

    /// Whether a run that goes on cannot follow it.
    pub fn needs_restart(&self, doc: &VpsDoc) -> bool {
        let new = self.of(doc);
        (&new.features, &new.impermanence) != (&doc.features, &doc.impermanence)
    }
}

impl fmt::Display for FeaturesChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |on| if on { "on" } else { "off" };
        let mut words = Vec::new();
        if let Some(impermanence) = &self.impermanence {
            words.push(format!("impermanence is {}", word(impermanence.is_some())));
        }
        let switches = self.switches.iter();
        words.extend(switches.map(|(feature, on)| format!("{feature} is {}", word(*on))));
        if !self.limits.is_nothing() {
            words.push(self.limits.as_change().to_string());
        }
        f.write_str(&words.join(", "))
    }
}

/// `tun and fuse`, to be read.
pub fn listed(features: &Features) -> String {
    let names: Vec<&str> = features.iter().map(|feature| feature.name()).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Refuses features that the host cannot give to a VPS.
pub fn check_features(doc: &VpsDoc, wanted: &Features, seen: &Observed) -> Result<(), Refusal> {
    for feature in wanted {
        let Some(found) = seen.features.get(feature) else {
            let what = format!("what the host has for {feature}");
            return Err(LookFailed::new(what, "it was not looked for").into());
        };
        if let Some((why, cure)) = found.lack(*feature) {
            return Err(Refusal::new(
                Code::FeatureUnavailable,
                format!("VPS {} cannot have feature {feature}: {why}", doc.title()),
                format!(
                    "{cure}; or go without: mayfly feature set {} {feature}=off",
                    doc.id
                ),
            ));
        }
    }
    Ok(())
}

/// Those of its features that the host can give to a VPS at this moment.
pub fn usable(features: &Features, seen: &Observed) -> Features {
    let is_usable = |feature: &&Feature| seen.features.get(*feature) == Some(&FeatureSeen::Usable);
    features.iter().filter(is_usable).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_called_what_they_are_written_as() {
        for feature in Feature::ALL {
            let written = serde_json::to_value(feature).unwrap();
            assert_eq!(written, feature.name());
            assert_eq!(feature.name().parse::<Feature>().unwrap(), feature);
        }
        assert!(
            "Tun"
                .parse::<Feature>()
                .unwrap_err()
                .contains("nesting, tun")
        );
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = Features::from([Feature::Tun, Feature::Kvm]);
        let change = FeaturesChange {
            switches: Switches::from([(Feature::Fuse, true), (Feature::Kvm, false)]),
            ..FeaturesChange::default()
        };
        let after = change.features(&before);
        assert_eq!(after, Features::from([Feature::Tun, Feature::Fuse]));
        assert_eq!(listed(&after), "tun and fuse");
        assert_eq!(change.to_string(), "fuse is on, kvm is off");
    }

    #[test]
    fn each_lack_says_why_and_what_next() {
        let no_device = FeatureSeen::NoDevice.lack(Feature::Ppp).unwrap();
        assert_eq!(no_device.0, "the host has no /dev/ppp");
        assert!(no_device.1.contains("ppp_generic"));
        let forbidden = FeatureSeen::Forbidden {
            setting: "kernel.unprivileged_userns_clone=0".into(),
        };
        let (why, _) = forbidden.lack(Feature::Nesting).unwrap();
        assert!(why.starts_with("kernel.unprivileged_userns_clone=0"));
        assert_eq!(FeatureSeen::Usable.lack(Feature::Kvm), None);
    }
}
