//! How the kernel names a pool in mount tables.

/// What tells the mounts of one pool from all others in `/proc/PID/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelIdentity {
    /// All datasets are one file system (btrfs).
    FileSystem {
        /// The third field: major:minor of the file system. The `st_dev` of its files is another number.
        device: String,
        /// The fourth field of the pool's own mount: the pool's path in the file system, as escaped there.
        root: String,
    },
    /// Every dataset is a file system of its own (ZFS), and is named as the source of its mounts.
    Datasets {
        /// The dataset that is the pool, such as `tank/ct`.
        pool: String,
    },
}

/// One mount of something of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown<'a> {
    /// What it shows, relative to the pool: `11327/private`; empty for the pool itself.
    pub what: String,
    /// Where, as escaped in the table.
    pub at: &'a str,
}

impl KernelIdentity {
    /// What the mount of one line of a mount table shows of the pool; none when it shows nothing of it. Mounts that
    /// contain the whole pool are not named: `/` of the same file system, where the pool is a directory of it.
    pub fn shown_in<'a>(&self, line: &'a str) -> Option<Shown<'a>> {
        let mut fields = line.split(' ').skip(2);
        let (device, root, at) = (fields.next()?, fields.next()?, fields.next()?);
        let what = match self {
            Self::FileSystem { device: own, .. } => {
                (device == own).then_some(())?;
                self.below_top(root)?.to_owned()
            }
            Self::Datasets { pool } => {
                // The optional fields end with a hyphen.
                let mut fields = fields.skip_while(|field| *field != "-").skip(1);
                (fields.next()? == "zfs").then_some(())?;
                let dataset = relative(fields.next()?.strip_prefix(pool.as_str())?)?;
                match (dataset, root.trim_start_matches('/')) {
                    (dataset, "") => dataset.to_owned(),
                    ("", inner) => inner.to_owned(),
                    (dataset, inner) => format!("{dataset}/{inner}"),
                }
            }
        };
        Some(Shown { what, at })
    }

    /// A path in the pool's file system, relative to the pool; none where it leads elsewhere, or where every dataset has a
    /// file system of its own.
    pub(crate) fn below_top<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self {
            Self::FileSystem { root, .. } => {
                relative(path.strip_prefix(root.trim_end_matches('/'))?)
            }
            Self::Datasets { .. } => None,
        }
    }
}

fn relative(rest: &str) -> Option<&str> {
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix('/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(pool: &KernelIdentity, line: &str) -> Option<String> {
        pool.shown_in(line).map(|shown| shown.what)
    }

    #[test]
    fn a_mount_of_a_file_system_is_told_by_device_and_path_prefix() {
        let pool = KernelIdentity::FileSystem {
            device: "0:45".into(),
            root: "/@/pool".into(),
        };
        let line = |device: &str, root: &str| {
            what(
                &pool,
                &format!("77 25 {device} {root} /p rw,nosuid - btrfs /dev/loop0 rw"),
            )
        };
        assert_eq!(
            line("0:45", "/@/pool/11327/private").as_deref(),
            Some("11327/private")
        );
        assert_eq!(line("0:45", "/@/pool").as_deref(), Some(""));
        assert_eq!(line("0:45", "/@/pool2/11327"), None);
        assert_eq!(line("0:46", "/@/pool/11327"), None);
        let whole = KernelIdentity::FileSystem {
            device: "0:45".into(),
            root: "/".into(),
        };
        let line = "77 25 0:45 /11327/private /p rw shared:1 - btrfs x rw";
        assert_eq!(what(&whole, line).as_deref(), Some("11327/private"));
    }

    #[test]
    fn a_mount_of_a_dataset_is_told_by_its_source() {
        let pool = KernelIdentity::Datasets {
            pool: "tank/ct".into(),
        };
        let line = |source: &str, root: &str| {
            what(
                &pool,
                &format!(
                    "77 25 0:61 {root} /p rw,noatime shared:4 master:2 - zfs {source} rw,xattr"
                ),
            )
        };
        assert_eq!(
            line("tank/ct/11327.impermanence-c5a8b7", "/private").as_deref(),
            Some("11327.impermanence-c5a8b7/private")
        );
        assert_eq!(line("tank/ct/11327/nix", "/").as_deref(), Some("11327/nix"));
        assert_eq!(line("tank/ct", "/").as_deref(), Some(""));
        assert_eq!(line("tank/ct2/11327", "/private"), None);
        assert_eq!(line("tank", "/ct"), None);
        let other = "77 25 0:61 / /p rw - ext4 tank/ct/11327 rw";
        assert_eq!(what(&pool, other), None);
    }
}
