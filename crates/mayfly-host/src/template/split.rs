//! Splits a built tree into the parts of a template.
//!
//! Each dataset that the layout mounts below `/` starts with what the tree has at that place; what is left is the base.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mayfly_core::names::{DatasetName, GuestPath, TemplatePart};
use mayfly_core::template::Layout;
use rustix::fd::OwnedFd;
use rustix::fs::{
    Dir, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, fchmod, fchown, fstat, open, openat2,
    renameat_with,
};
use rustix::io::Errno;

use crate::runner::{Command, RunFailure, Runner, Tool, ToolMissing};

const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// A tree that could not be split. Its files lie in both places or are incomplete: it must be built again.
#[derive(Debug, thiserror::Error)]
#[error("cannot split the tree {}", base.display())]
pub struct SplitError {
    /// The tree.
    pub base: PathBuf,
    /// Why.
    #[source]
    pub cause: SplitCause,
}

/// Why a tree could not be split.
#[derive(Debug, thiserror::Error)]
pub enum SplitCause {
    /// The layout has a part for which there is no directory.
    #[error("no place was given for the dataset `{0}`")]
    NoTarget(DatasetName),
    /// A directory that should be empty is not.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// A directory could not be used. In the tree, this is a link or file in the way as well.
    #[error("{} cannot be used as a directory", .0.display())]
    Directory(PathBuf, #[source] Errno),
    /// A program is missing on this host.
    #[error(transparent)]
    Tool(#[from] ToolMissing),
    /// Copying or removing failed.
    #[error(transparent)]
    Run(#[from] RunFailure),
}

/// Moves what `base` has at each mount of `layout` into the directory of that dataset in `targets`, which must be empty.
/// Empty mount points stay behind. A dataset that is mounted twice starts with what is at its first place.
///
/// Everything is checked before the first move. Entries are renamed where that is possible, and copied without sharing blocks
/// and then removed where it is not (between subvolumes and between datasets).
pub fn split_tree(
    runner: &Runner,
    base: &Path,
    layout: &Layout,
    targets: &BTreeMap<TemplatePart, PathBuf>,
) -> Result<(), SplitError> {
    split(runner, base, layout, targets).map_err(|cause| SplitError {
        base: base.to_owned(),
        cause,
    })
}

fn split(
    runner: &Runner,
    base: &Path,
    layout: &Layout,
    targets: &BTreeMap<TemplatePart, PathBuf>,
) -> Result<(), SplitCause> {
    let mut moves = Vec::new();
    for (dataset, path) in places(layout) {
        let part = TemplatePart::Dataset(dataset.clone());
        let target = targets
            .get(&part)
            .ok_or_else(|| SplitCause::NoTarget(dataset.clone()))?;
        let opened = open(
            target,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| SplitCause::Directory(target.clone(), e))?;
        if !names(&opened)
            .map_err(|e| SplitCause::Directory(target.clone(), e))?
            .is_empty()
        {
            return Err(SplitCause::NotEmpty(target.clone()));
        }
        if let Some(from) = open_place(base, path)? {
            moves.push(Move {
                from,
                from_path: base.join(path.relative()),
                to: opened,
                to_path: target.clone(),
            });
        }
    }
    moves.iter().try_for_each(|one| one.run(runner))
}

/// Each dataset and its first place, the deepest places first, so that a place inside another is emptied before that one moves.
fn places(layout: &Layout) -> Vec<(&DatasetName, &GuestPath)> {
    let mut seen = BTreeSet::new();
    let mut places: Vec<_> = layout
        .mounts
        .iter()
        .filter(|m| !m.path.is_top() && seen.insert(&m.dataset))
        .map(|m| (&m.dataset, &m.path))
        .collect();
    places.sort_by(|a, b| b.1.cmp(a.1));
    places
}

/// The directory at `path` in the tree; none where there is nothing. No link is followed.
fn open_place(base: &Path, path: &GuestPath) -> Result<Option<OwnedFd>, SplitCause> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top =
        open(base, flags, Mode::empty()).map_err(|e| SplitCause::Directory(base.to_owned(), e))?;
    match openat2(
        &top,
        path.relative(),
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    ) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(SplitCause::Directory(base.join(path.relative()), errno)),
    }
}

fn names(dir: &OwnedFd) -> Result<Vec<std::ffi::CString>, Errno> {
    let all = Dir::read_from(dir)?
        .map(|entry| entry.map(|e| e.file_name().to_owned()))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(all
        .into_iter()
        .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
        .collect())
}

struct Move {
    from: OwnedFd,
    from_path: PathBuf,
    to: OwnedFd,
    to_path: PathBuf,
}

impl Move {
    fn run(&self, runner: &Runner) -> Result<(), SplitCause> {
        let at = |errno| SplitCause::Directory(self.from_path.clone(), errno);
        let mut across = false;
        for name in names(&self.from).map_err(at)? {
            match renameat_with(&self.from, &name, &self.to, &name, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::XDEV) => {
                    across = true;
                    break;
                }
                Err(errno) => return Err(at(errno)),
            }
        }
        if across {
            self.copy_and_remove(runner)?;
        }
        // What the guest sees as the top of the dataset looks like what it was in the tree. Owner first: it clears mode bits.
        let top = fstat(&self.from).map_err(at)?;
        let to = |errno| SplitCause::Directory(self.to_path.clone(), errno);
        fchown(
            &self.to,
            Some(Uid::from_raw(top.st_uid)),
            Some(Gid::from_raw(top.st_gid)),
        )
        .map_err(to)?;
        fchmod(&self.to, Mode::from_raw_mode(top.st_mode)).map_err(to)
    }

    /// One command for all entries, so that files with several names stay such.
    fn copy_and_remove(&self, runner: &Runner) -> Result<(), SplitCause> {
        let (cp, find) = (Tool::find("cp")?, Tool::find("find")?);
        // Extended attributes are named although --archive has them: named, a failure to copy them is a failure.
        let copy = Command::new(&cp)
            .args([
                "--archive",
                "--preserve=xattr",
                "--reflink=never",
                "--one-file-system",
                "--no-target-directory",
                "--",
            ])
            .args([&self.from_path, &self.to_path])
            .deadline(DEADLINE);
        runner.run(&copy)?;
        let remove = Command::new(&find)
            .arg(&self.from_path)
            .args(["-xdev", "-mindepth", "1", "-delete"])
            .deadline(DEADLINE);
        runner.run(&remove)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::template::{LayoutDataset, LayoutMount};
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn layout(mounts: &[(&str, &str)]) -> Layout {
        let mount = |(dataset, path): &(&str, &str)| LayoutMount {
            dataset: dataset.parse().unwrap(),
            path: path.parse().unwrap(),
            read_only: false,
        };
        let datasets = mounts.iter().filter(|(d, _)| !d.is_empty());
        Layout {
            datasets: datasets
                .map(|(d, _)| LayoutDataset {
                    name: d.parse().unwrap(),
                    quota: "1G".to_owned().try_into().unwrap(),
                })
                .collect(),
            mounts: mounts.iter().map(mount).collect(),
            ..Layout::default()
        }
    }

    fn put(top: &Path, path: &str) {
        let path = top.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    /// A tree, and an empty directory for each named dataset, below `pool` where it is given.
    fn scene(parts: &[&str]) -> (tempfile::TempDir, PathBuf, BTreeMap<TemplatePart, PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::create_dir(&base).unwrap();
        let targets = parts.iter().enumerate().map(|(n, part)| {
            let target = dir.path().join(format!("part{n}"));
            fs::create_dir(&target).unwrap();
            (TemplatePart::Dataset(part.parse().unwrap()), target)
        });
        let targets = targets.collect();
        (dir, base, targets)
    }

    fn target<'a>(targets: &'a BTreeMap<TemplatePart, PathBuf>, part: &str) -> &'a Path {
        &targets[&TemplatePart::Dataset(part.parse().unwrap())]
    }

    #[test]
    fn each_dataset_gets_what_is_at_its_place() {
        let (_dir, base, targets) = scene(&["nix", "", "nix/var"]);
        for path in [
            "etc/hostname",
            "nix/store/a/x",
            "nix/var/profiles",
            "persistent/etc/nixos/flake.nix",
        ] {
            put(&base, path);
        }
        symlink("a", base.join("nix/store/b")).unwrap();
        fs::set_permissions(base.join("persistent"), fs::Permissions::from_mode(0o750)).unwrap();
        split_tree(
            &Runner::default(),
            &base,
            &layout(&[
                ("nix", "/nix"),
                ("nix/var", "/nix/var"),
                ("", "/persistent"),
            ]),
            &targets,
        )
        .unwrap();
        assert!(
            target(&targets, "nix").join("store/a/x").is_file()
                && target(&targets, "nix").join("store/b").is_symlink()
        );
        assert_eq!(
            fs::read_dir(target(&targets, "nix").join("var"))
                .unwrap()
                .count(),
            0
        );
        assert!(target(&targets, "nix/var").join("profiles").is_file());
        assert!(target(&targets, "").join("etc/nixos/flake.nix").is_file());
        assert_eq!(
            target(&targets, "").metadata().unwrap().mode() & 0o7777,
            0o750
        );
        assert!(base.join("etc/hostname").is_file() && base.join("nix").is_dir());
        assert_eq!(fs::read_dir(base.join("nix")).unwrap().count(), 0);
    }

    #[test]
    fn across_file_systems_it_copies() {
        let (_dir, base, mut targets) = scene(&["nix"]);
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
            return eprintln!("skipped: no /dev/shm");
        };
        targets.insert(
            TemplatePart::Dataset("nix".parse().unwrap()),
            other.path().to_owned(),
        );
        put(&base, "nix/store/a");
        fs::hard_link(base.join("nix/store/a"), base.join("nix/b")).unwrap();
        fs::set_permissions(base.join("nix/b"), fs::Permissions::from_mode(0o4711)).unwrap();
        split_tree(
            &Runner::default(),
            &base,
            &layout(&[("nix", "/nix")]),
            &targets,
        )
        .unwrap();
        let copied = other.path().join("store/a").metadata().unwrap();
        assert_eq!((copied.nlink(), copied.mode() & 0o7777), (2, 0o4711));
        assert_eq!(fs::read_dir(base.join("nix")).unwrap().count(), 0);
    }

    #[test]
    fn all_is_checked_before_the_first_move() {
        let mounts = layout(&[("nix", "/nix"), ("", "/persistent")]);
        let (_dir, base, mut targets) = scene(&["nix"]);
        put(&base, "nix/a");
        let cause = || {
            split_tree(&Runner::default(), &base, &mounts, &targets)
                .unwrap_err()
                .cause
        };
        assert!(matches!(cause(), SplitCause::NoTarget(name) if name.is_root()));
        let full = base.join("nix").to_owned();
        targets.insert(TemplatePart::Dataset(DatasetName::root()), full.clone());
        let cause = || {
            split_tree(&Runner::default(), &base, &mounts, &targets)
                .unwrap_err()
                .cause
        };
        assert!(matches!(cause(), SplitCause::NotEmpty(path) if path == full));
        assert!(base.join("nix/a").is_file());
    }

    #[test]
    fn a_link_in_the_way_is_refused() {
        let (_dir, base, targets) = scene(&["nix"]);
        symlink("/etc", base.join("nix")).unwrap();
        let cause = split_tree(
            &Runner::default(),
            &base,
            &layout(&[("nix", "/nix")]),
            &targets,
        )
        .unwrap_err()
        .cause;
        assert!(
            matches!(cause, SplitCause::Directory(_, Errno::LOOP)),
            "{cause:?}"
        );
    }

    #[test]
    fn a_place_that_is_not_there_leaves_the_dataset_empty() {
        let (_dir, base, targets) = scene(&["nix"]);
        split_tree(
            &Runner::default(),
            &base,
            &layout(&[("nix", "/nix")]),
            &targets,
        )
        .unwrap();
        assert_eq!(fs::read_dir(target(&targets, "nix")).unwrap().count(), 0);
    }
}
