//! What of a VPS is to be another, as `mayfly set` asks for it: absent is unchanged, and all of it is changed or nothing.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::bytes::Bytes;
use crate::documents::{Autostart, AutostartWhen, OnCrash, Track, VpsDoc};
use crate::names::TemplateName;
use crate::run::{Limits, shown_cpus};

/// What is to be another. What is not given stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VpsChange {
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
    /// Disk space that its datasets share; never below their quotas together.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(nullable = false))]
    pub disk_bytes: Option<Bytes>,
    /// What happens after a crash.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(nullable = false))]
    pub on_crash: Option<OnCrash>,
    /// Whether it is started when the host has booted.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(nullable = false))]
    pub autostart: Option<SetAutostart>,
    /// The template that its roots are cloned from, from the next start on: what that template is now.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(nullable = false))]
    pub base: Option<TemplateName>,
    /// Whether each start takes what that template is then.
    #[serde(
        default,
        deserialize_with = "given",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(nullable = false))]
    pub track: Option<Track>,
}

/// Whether a VPS is started when the host has booted, as it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetAutostart {
    /// Which VPSes are started.
    pub when: AutostartWhen,
    /// Higher ones come first; not given it stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i16>,
}

/// A field that is there: `null` is a value of it, or none that it can have, and never the same as its absence.
pub(crate) fn given<'de, D, T>(field: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(field).map(Some)
}

impl VpsChange {
    /// The limits as they are after it.
    pub fn limits(&self, limits: &Limits) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes.or(limits.memory_bytes),
            swap_bytes: self.swap_bytes.unwrap_or(limits.swap_bytes),
            cpu_percent: self.cpu_percent.unwrap_or(limits.cpu_percent),
            processes: self.processes.or(limits.processes),
        }
    }

    /// The document as it is after it, but for its base: that depends on the templates that there are.
    pub fn of(&self, doc: &VpsDoc) -> VpsDoc {
        let mut new = doc.clone();
        new.limits = self.limits(&doc.limits);
        new.disk_bytes = self.disk_bytes.unwrap_or(doc.disk_bytes);
        new.on_crash = self.on_crash.unwrap_or(doc.on_crash);
        if let Some(wish) = self.autostart {
            new.autostart = Autostart {
                when: wish.when,
                priority: wish.priority.unwrap_or(doc.autostart.priority),
            };
        }
        new
    }
}

impl fmt::Display for VpsChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.memory_bytes.map(|bytes| format!("memory {bytes}")),
            self.swap_bytes.map(|bytes| format!("swap {bytes}")),
            self.cpu_percent.map(|percent| match percent {
                None => "all CPUs".to_owned(),
                Some(100) => "1 CPU".to_owned(),
                Some(percent) => format!("{} CPUs", shown_cpus(percent)),
            }),
            self.processes.map(|n| format!("{n} processes")),
            self.disk_bytes.map(|bytes| format!("disk space {bytes}")),
            self.on_crash.map(|what| format!("on crash {what}")),
            self.autostart.map(|wish| match wish.priority {
                None => format!("autostart {}", wish.when),
                Some(priority) => format!("autostart {} with priority {priority}", wish.when),
            }),
            self.base.as_ref().map(|name| format!("base {name}")),
            self.track.map(|track| match track {
                Track::Pinned => "pinned".to_owned(),
                Track::Latest => "follows its template".to_owned(),
            }),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays_and_null_takes_a_limit_away() {
        let limits = Limits {
            memory_bytes: Some(Bytes::gib(2)),
            swap_bytes: Bytes(0),
            cpu_percent: Some(150),
            processes: Some(8192),
        };
        let change = |text: &str| serde_json::from_str::<VpsChange>(text).unwrap();
        assert_eq!(change("{}").limits(&limits), limits);
        let free = change(r#"{"cpu_percent":null,"swap_bytes":1073741824}"#);
        let after = free.limits(&limits);
        assert_eq!(
            (after.memory_bytes, after.cpu_percent, after.processes),
            (limits.memory_bytes, None, limits.processes)
        );
        assert_eq!(free.to_string(), "swap 1G, all CPUs");
        // What the journal holds is read back as it was.
        let written = serde_json::to_string(&free).unwrap();
        assert_eq!(change(&written), free);
        assert_eq!(
            after.to_string(),
            "memory 2G, swap 1G, all CPUs, 8192 processes"
        );
        for bad in [
            r#"{"ram_bytes":1}"#,
            r#"{"disk_bytes":null}"#,
            r#"{"autostart":null}"#,
            r#"{"autostart":{"when":"never"}}"#,
            r#"{"memory_bytes":null}"#,
            r#"{"swap_bytes":null}"#,
        ] {
            assert!(serde_json::from_str::<VpsChange>(bad).is_err(), "{bad}");
        }
    }
}
