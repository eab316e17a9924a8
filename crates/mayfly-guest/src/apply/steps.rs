//! The steps of a plan, taken one after the other. One that fails is told where it matters: at the declarations below it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use mayfly_core::persist::declare::{Method, Problems};
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::plan::{Owner, Step};
use mayfly_core::persist::report::{Fate, How};
use mayfly_core::persist::unite::{Declaration, Kind, Wanted};
use rustix::fs::{OFlags, Stat, XattrFlags, fstat, getxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::Outcome;
use super::copies::Copies;
use super::files;
use super::options::Options;
use crate::tree::{
    Tree, attribute_path, bind, make_directory, make_directory_exactly, mode_of, mount_of,
    reopen_directory, same, set_mode, set_owner,
};

/// On a directory that is root's alone because nobody knows whose it is to be.
const PENDING: &str = "user.mayfly.pending";

/// Directories that could not be made, by where they would be, and why.
#[derive(Default)]
pub(super) struct Broken(BTreeMap<TreePath, String>);

impl Broken {
    pub(super) fn add(&mut self, at: &TreePath, why: String) {
        self.0.insert(at.clone(), why);
    }

    /// Refuses what is one of them, or lies below one.
    pub(super) fn refuse(&self, at: &TreePath) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        match at
            .parents()
            .iter()
            .chain([at])
            .find_map(|at| self.0.get(at))
        {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }
}

/// Directories that were opened for one step and are needed by the next. A descriptor is of that very directory, whatever
/// its path leads to by then.
#[derive(Default)]
struct AtHand {
    /// The last one of a storage, as it was looked at.
    stored: Option<(TreePath, OwnedFd, Stat)>,
    /// The one of the root in which something was made last.
    parent: Option<(TreePath, OwnedFd)>,
    /// What was made in it: nothing is mounted there yet.
    made: Option<(TreePath, OwnedFd)>,
}

impl AtHand {
    /// Something is mounted at `path` now: what was opened there, or below, is not what is there.
    fn is_hidden(&mut self, path: &TreePath) {
        self.stored.take_if(|(of, ..)| of.is_in(path));
        self.parent.take_if(|(of, _)| of.is_in(path));
        self.made.take_if(|(of, _)| of.is_in(path));
    }
}

/// One application of a plan.
pub(crate) struct Run<'a> {
    tree: &'a Tree,
    wanted: &'a Wanted,
    /// What the platform wrote into the root.
    platform: &'a [TreePath],
    /// The mount that `/` is.
    root_mount: u64,
    broken: Broken,
    /// What the steps before this one had open: of a thousand declarations most come one after the other.
    at_hand: AtHand,
    /// Directories of a storage whose owner nobody knows.
    pending: BTreeMap<TreePath, String>,
    /// Trouble that nothing depends on.
    trouble: Vec<(TreePath, String)>,
    pub(crate) outcomes: BTreeMap<usize, Outcome>,
    pub(crate) copies: Copies,
    options: Options,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        tree: &'a Tree,
        wanted: &'a Wanted,
        platform: &'a [TreePath],
        copies: Copies,
    ) -> Self {
        let top = tree
            .directory(&TreePath::top())
            .and_then(|fd| mount_of(fd.as_fd()));
        Self {
            tree,
            wanted,
            platform,
            // Where it is not known no directory is taken for one of the root's.
            root_mount: top.map_or(u64::MAX, |(mount, _)| mount),
            broken: Broken::default(),
            at_hand: AtHand::default(),
            pending: BTreeMap::new(),
            trouble: Vec::new(),
            outcomes: BTreeMap::new(),
            copies,
            options: Options::default(),
        }
    }

    /// Takes one step.
    pub(crate) fn take(&mut self, step: &Step) {
        match step {
            Step::Base { storage } => {
                if let Err(why) = self.tree.make_directories(storage, 0o755) {
                    self.broken.add(storage, why);
                }
            }
            Step::Store {
                storage,
                path,
                owner,
            } => {
                let at = path.below(storage);
                if let Err(why) = self
                    .broken
                    .refuse(&at)
                    .and_then(|()| self.store(&at, owner))
                {
                    self.broken.add(&at, why);
                }
            }
            Step::Mirror { storage, path } => self.ensure_twin(storage, path, true),
            Step::Point { storage, path } => self.ensure_twin(storage, path, false),
            Step::Bind { declaration } => self.settle(*declaration, Self::bind),
            Step::Place { declaration } => self.settle(*declaration, Self::place),
        }
    }

    fn settle(
        &mut self,
        number: usize,
        act: fn(&mut Self, &Declaration) -> Result<Outcome, String>,
    ) {
        let declaration = &self.wanted.declarations[number];
        let mut outcome = act(self, declaration).unwrap_or_else(Outcome::refused);
        let stays = matches!(outcome.fate, Fate::Applied | Fate::Already);
        if stays && !self.pending.is_empty() {
            let stored = declaration.path.below(&declaration.storage);
            let unknown = stored
                .parents()
                .iter()
                .chain([&stored])
                .find_map(|at| self.pending.get(at).cloned());
            if let Some(name) = unknown {
                outcome.wait_for(&name);
            }
        }
        self.outcomes.insert(number, outcome);
    }

    /// A directory of a storage, and what it is like.
    fn stored(&mut self, at: &TreePath) -> Result<(&OwnedFd, &Stat), String> {
        if self.at_hand.stored.as_ref().is_none_or(|(of, ..)| of != at) {
            let fd = self
                .tree
                .directory(at)
                .map_err(|e| self.tree.explain(at, e))?;
            let stat = fstat(&fd).map_err(|e| format!("{at}: {e}"))?;
            self.at_hand.stored = Some((at.clone(), fd, stat));
        }
        match &self.at_hand.stored {
            Some((_, fd, stat)) => Ok((fd, stat)),
            None => Err(format!("{at} is not open")),
        }
    }

    fn store(&mut self, at: &TreePath, owner: &Owner) -> Result<(), String> {
        let fd = match self.tree.directory(at) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return self.make_stored(at, owner),
            Err(e) => return Err(self.tree.explain(at, e)),
        };
        let stat = fstat(&fd).map_err(|e| format!("{at}: {e}"))?;
        let is_roots = (stat.st_uid, stat.st_gid, mode_of(&stat)) == (0, 0, 0o700);
        if !is_roots && owner.unknown.is_none() {
            // Looked at by the next step as well; what may change below is looked at again.
            self.at_hand.stored = Some((at.clone(), fd, stat));
            return Ok(());
        }
        if (stat.st_uid, stat.st_gid, mode_of(&stat)) == (0, 0, 0o700)
            && (owner.uid, owner.gid, owner.mode) != (0, 0, 0o700)
            || owner.unknown.is_some()
        {
            self.settle_pending(at, &fd, owner);
        }
        Ok(())
    }

    fn make_stored(&mut self, at: &TreePath, owner: &Owner) -> Result<(), String> {
        let parent = at.parent().unwrap_or_else(TreePath::top);
        let fd = self
            .tree
            .directory(&parent)
            .map_err(|e| self.tree.explain(&parent, e))?;
        make_directory(&fd, at.name(), owner.uid, owner.gid, owner.mode)
            .map_err(|e| format!("{at}: {e}"))?;
        if let Some(name) = &owner.unknown {
            self.pending.insert(at.clone(), name.clone());
            if let Ok(fd) = self.tree.directory(at) {
                // Without it the directory stays root's, which is told at each boot.
                let _ = setxattr(
                    attribute_path(&fd),
                    PENDING,
                    name.as_bytes(),
                    XattrFlags::empty(),
                );
            }
        }
        Ok(())
    }

    /// A directory that an earlier boot made for an owner whom nobody knew: is the owner known now?
    fn settle_pending(&mut self, at: &TreePath, fd: &OwnedFd, owner: &Owner) {
        if !is_pending(fd) {
            return;
        }
        let path = attribute_path(fd);
        if let Some(name) = &owner.unknown {
            self.pending.insert(at.clone(), name.clone());
            return;
        }
        let give = || -> rustix::io::Result<()> {
            let fd = reopen_directory(fd)?;
            set_owner(&fd, owner.uid, owner.gid)?;
            set_mode(&fd, owner.mode)?;
            removexattr(&path, PENDING)
        };
        if let Err(e) = give() {
            self.trouble
                .push((at.clone(), format!("cannot give it to its owner: {e}")));
        }
    }

    /// Makes a directory of the root like its twin in the storage.
    fn ensure_twin(&mut self, storage: &TreePath, path: &TreePath, like_twin: bool) {
        let twin = path.below(storage);
        let made = self
            .broken
            .refuse(&twin)
            .and_then(|()| self.broken.refuse(path))
            .and_then(|()| {
                let stat = *self.stored(&twin)?.1;
                self.make_like(path, &stat, like_twin)
            });
        if let Err(why) = made {
            self.broken.add(path, why);
        }
    }

    fn make_like(&mut self, path: &TreePath, twin: &Stat, like_twin: bool) -> Result<(), String> {
        let fd = match self.tree.directory(path) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                let made = self.make_in_root(path, twin)?;
                self.at_hand.made = Some((path.clone(), made));
                return Ok(());
            }
            Err(e) => return Err(self.tree.explain(path, e)),
        };
        if !like_twin {
            return Ok(());
        }
        let stat = fstat(&fd).map_err(|e| format!("{path}: {e}"))?;
        let owned = (stat.st_uid, stat.st_gid) == (twin.st_uid, twin.st_gid);
        if owned && mode_of(&stat) == mode_of(twin) {
            return Ok(());
        }
        // What is mounted there is another dataset's, stays by itself, and is nobody's to change.
        if mount_of(fd.as_fd()).map_err(|e| format!("{path}: {e}"))?.0 != self.root_mount {
            return Ok(());
        }
        let give = || -> rustix::io::Result<()> {
            let fd = reopen_directory(&fd)?;
            if !owned {
                set_owner(&fd, twin.st_uid, twin.st_gid)?;
            }
            set_mode(&fd, mode_of(twin))
        };
        if let Err(e) = give() {
            self.trouble.push((
                path.clone(),
                format!("it cannot be made like its twin in the storage: {e}"),
            ));
        }
        Ok(())
    }

    fn make_in_root(&mut self, path: &TreePath, twin: &Stat) -> Result<OwnedFd, String> {
        let parent = path.parent().unwrap_or_else(TreePath::top);
        let fd = match self.at_hand.parent.take() {
            Some((of, fd)) if of == parent => fd,
            _ => self
                .tree
                .directory(&parent)
                .map_err(|e| self.tree.explain(&parent, e))?,
        };
        let (uid, gid, mode) = (twin.st_uid, twin.st_gid, mode_of(twin));
        let made = make_directory_exactly(&fd, path.name(), uid, gid, mode);
        self.at_hand.parent = Some((parent, fd));
        made.map_err(|e| format!("{path}: {e}"))
    }

    fn bind(&mut self, declaration: &Declaration) -> Result<Outcome, String> {
        let (path, stored) = (
            &declaration.path,
            declaration.path.below(&declaration.storage),
        );
        self.broken.refuse(&stored)?;
        self.broken.refuse(path)?;
        let made = self.at_hand.made.take().filter(|(of, _)| of == path);
        let tree = self.tree;
        let (from, _) = self.stored(&stored)?;
        let outcome = match made {
            Some((_, to)) => {
                bind(from, &to).map_err(|e| format!("it cannot be mounted: {e}"))?;
                Outcome::done(Fate::Applied, How::Bind)
            }
            None => {
                let to = tree.directory(path).map_err(|e| tree.explain(path, e))?;
                bind_over(tree, from, path, &to)?
            }
        };
        self.at_hand.is_hidden(path);
        if let Kind::Directory { hide, trash } = declaration.kind {
            self.options.add(path, &stored, hide, trash);
        }
        Ok(outcome)
    }

    fn place(&mut self, declaration: &Declaration) -> Result<Outcome, String> {
        let (path, stored) = (
            &declaration.path,
            declaration.path.below(&declaration.storage),
        );
        self.broken.refuse(&stored)?;
        self.broken.refuse(path)?;
        match declaration.kind {
            Kind::File {
                method: Method::Copy,
            } => self.copies.place(self.tree, path, &stored),
            Kind::File { method } => {
                let platform = self.platform.contains(path);
                let action = files::decide(self.tree, path, path, &stored, method, platform)?;
                files::place(self.tree, path, &stored, &action)
            }
            Kind::Directory { .. } => Err("it is a directory".to_owned()),
        }
    }

    /// Writes what the harvest and `mount` need to know, and tells the rest.
    pub(crate) fn finish(&mut self, problems: &mut Problems) {
        if let Err(why) = self.copies.write_record(self.tree) {
            problems.error("copies", &why);
            for (number, declaration) in self.wanted.declarations.iter().enumerate() {
                if declaration.kind
                    == (Kind::File {
                        method: Method::Copy,
                    })
                    && self
                        .outcomes
                        .get(&number)
                        .is_some_and(|o| o.fate == Fate::Applied)
                {
                    let why = format!("it is there, and will not be taken back: {why}");
                    self.outcomes.insert(number, Outcome::refused(why));
                }
            }
        }
        if let Err(why) = self.options.write(self.tree) {
            problems.warn("/run/mount/utab", why);
        }
        for (path, why) in self.trouble.drain(..) {
            problems.error(path.as_str(), why);
        }
    }
}

/// Whether an earlier boot made this directory for an owner whom nobody knew.
pub(super) fn is_pending(directory: &OwnedFd) -> bool {
    let mut name = [0u8; 256];
    getxattr(attribute_path(directory), PENDING, &mut name).is_ok()
}

/// Binds `from` over `to`, which is at `path`, unless it is there already.
pub(super) fn bind_over(
    tree: &Tree,
    from: &OwnedFd,
    path: &TreePath,
    to: &OwnedFd,
) -> Result<Outcome, String> {
    let failed = |e: Errno| format!("{path}: {e}");
    let (source, target) = (fstat(from).map_err(failed)?, fstat(to).map_err(failed)?);
    if same(&source, &target) {
        return Ok(Outcome::done(Fate::Already, How::Bind));
    }
    if mount_of(to.as_fd()).map_err(failed)?.1 {
        return Err("something else is mounted there".to_owned());
    }
    bind(from, to).map_err(|e| format!("it cannot be mounted: {e}"))?;
    let seen = tree
        .open(path, OFlags::PATH)
        .and_then(fstat)
        .map_err(failed)?;
    if !same(&source, &seen) {
        return Err("it was mounted, and something else is there".to_owned());
    }
    Ok(Outcome::done(Fate::Applied, How::Bind))
}
