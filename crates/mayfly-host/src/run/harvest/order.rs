//! What the confined process is told: JSON on standard input.

use std::io::Read;

use mayfly_core::ids::RunId;
use mayfly_core::names::GuestPath;
use mayfly_core::persist::record::{DIRECTORY, Ending};
use mayfly_core::run::{IdRange, MountSource};
use serde::{Deserialize, Serialize};

/// The version that is written and understood: both are the same program, unless it was replaced meanwhile.
const VERSION: u32 = 1;
/// An order names some datasets; more is none.
const LIMIT: u64 = 16 << 20;

/// One root, and all that is needed to take copies back from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    version: u32,
    /// The root; it is shown read-only.
    pub(crate) root: Source,
    /// The datasets.
    pub(crate) datasets: Vec<Dataset>,
    /// Host ids of the guest.
    pub(crate) ids: IdRange,
    /// Which of the paths has the record.
    pub(crate) storage: GuestPath,
    /// The run whose record it is.
    pub(crate) run: RunId,
    /// How the root stands.
    pub(crate) when: When,
    /// Absolute path of the static helper.
    pub(crate) helper: String,
}

/// One dataset at its path of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dataset {
    pub(crate) source: Source,
    pub(crate) target: GuestPath,
    pub(crate) read_only: bool,
}

/// Where something is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Source {
    /// A directory of this process's mount namespace, with the ids that are on the disk.
    Directory { path: String },
    /// The same, where the ids shown are the guest's already.
    Mapped { path: String },
    /// A dataset that is a file system of its own.
    Zfs { dataset: String },
}

impl From<&MountSource> for Source {
    fn from(source: &MountSource) -> Self {
        match source.clone() {
            MountSource::Directory { path } => Self::Directory { path },
            MountSource::Zfs { dataset } => Self::Zfs { dataset },
        }
    }
}

/// How a root stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum When {
    /// Its run goes on.
    Running,
    /// Its run is over.
    Over(Ending),
}

impl When {
    /// As the helper takes it.
    pub(crate) fn word(self) -> String {
        match self {
            Self::Running => "running".to_owned(),
            Self::Over(Ending::InOrder) => "ended".to_owned(),
            Self::Over(Ending::Crashed { at_unix_ms: at }) => {
                format!("crashed:{}.{:03}", at / 1000, at % 1000)
            }
        }
    }
}

impl Order {
    pub(crate) fn new(
        root: Source,
        datasets: Vec<Dataset>,
        ids: IdRange,
        (storage, run): (GuestPath, RunId),
        when: When,
        helper: String,
    ) -> Self {
        Self {
            version: VERSION,
            root,
            datasets,
            ids,
            storage,
            run,
            when,
            helper,
        }
    }

    pub(super) fn read(from: impl Read) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let mut text = Vec::new();
        let not_understood = |e: serde_json::Error| format!("the order is not understood: {e}");
        from.take(LIMIT)
            .read_to_end(&mut text)
            .map_err(|e| format!("the order cannot be read: {e}"))?;
        let Version { version } = serde_json::from_slice(&text).map_err(not_understood)?;
        if version != VERSION {
            return Err(format!(
                "the order has version {version}, this program understands {VERSION}"
            ));
        }
        serde_json::from_slice(&text).map_err(not_understood)
    }
}

/// Where the record of a run is in the guest. None: such a path is longer than any may be.
pub(crate) fn record_path(storage: &GuestPath, run: &RunId) -> Option<GuestPath> {
    let storage = if storage.is_top() {
        ""
    } else {
        storage.as_str()
    };
    format!("{storage}{DIRECTORY}/{run}.json").parse().ok()
}

/// The innermost of these mounts that has `path`, and the path in it.
pub(crate) fn innermost<'a, 'p, T>(
    mounts: impl IntoIterator<Item = (T, &'a GuestPath)>,
    path: &'p GuestPath,
) -> Option<(T, &'p str)> {
    mounts
        .into_iter()
        .filter_map(|(mount, target)| Some((mount, path.below(target)?)))
        .min_by_key(|(_, below)| below.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order::new(
            Source::Mapped {
                path: "/run/r/mnt/root".into(),
            },
            vec![Dataset {
                source: Source::Zfs {
                    dataset: "tank/ct/11327".into(),
                },
                target: "/persistent".parse().unwrap(),
                read_only: false,
            }],
            IdRange {
                first: 1 << 20,
                count: IdRange::SIZE,
            },
            ("/persistent".parse().unwrap(), "c5a8b7".parse().unwrap()),
            When::Over(Ending::Crashed {
                at_unix_ms: 1_700_000_000_007,
            }),
            "/usr/lib/mayfly/mayfly-guest".into(),
        )
    }

    #[test]
    fn an_order_comes_through_and_another_version_is_refused_by_name() {
        let text = serde_json::to_string(&order()).unwrap();
        assert_eq!(Order::read(text.as_bytes()), Ok(order()));
        let newer = r#"{"version": 9, "novelty": true}"#;
        assert!(
            Order::read(newer.as_bytes())
                .unwrap_err()
                .contains("version 9")
        );
        assert!(Order::read(&text.as_bytes()[..40]).is_err());
    }

    #[test]
    fn the_helper_is_told_when_in_its_words() {
        assert_eq!(order().when.word(), "crashed:1700000000.007");
        assert_eq!(When::Running.word(), "running");
        assert_eq!(When::Over(Ending::InOrder).word(), "ended");
    }

    #[test]
    fn a_record_lies_in_the_innermost_mount() {
        let run: RunId = "c5a8b7".parse().unwrap();
        let path = |text: &str| text.parse::<GuestPath>().unwrap();
        let record = record_path(&path("/persistent"), &run).unwrap();
        let targets = ["/persistent", "/persistent/var", "/persist"].map(path);
        let found = innermost(targets.iter().enumerate(), &record);
        assert_eq!(found, Some((1, "lib/mayfly/placed/c5a8b7.json")));
        assert_eq!(innermost(targets.iter().enumerate(), &path("/srv")), None);
        let top = record_path(&GuestPath::top(), &run).unwrap();
        assert_eq!(top, path("/var/lib/mayfly/placed/c5a8b7.json"));
    }
}
