//! The files of a dataset, and how a guest finds its way through several of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::error::Refusal;
use crate::names::GuestPath;
use crate::observed::InitSeen;
use crate::ports::FileEdit;

/// Links that are followed before it is a loop; the kernel's number.
const MAX_LINKS: usize = 40;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Node {
    Directory,
    /// `own` says whether its bytes are charged here and not to what this was cloned from.
    File {
        text: String,
        size: Bytes,
        executable: bool,
        own: bool,
    },
    Link(String),
}

impl Node {
    pub(super) fn file(text: &str) -> Self {
        Self::File {
            text: text.to_owned(),
            size: Bytes(text.len() as u64),
            executable: false,
            own: true,
        }
    }

    pub(super) fn program() -> Self {
        Self::File {
            text: "#!".to_owned(),
            size: Bytes(2),
            executable: true,
            own: true,
        }
    }
}

/// What lies in a dataset's `private`, by absolute path. The top is always there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree(pub(super) BTreeMap<String, Node>);

impl Tree {
    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        if path == "/" {
            Some(&Node::Directory)
        } else {
            self.0.get(path)
        }
    }

    /// Puts something there, with the directories above it.
    pub(super) fn put(&mut self, path: &str, node: Node) {
        let mut above = String::new();
        let (parent, _) = path.rsplit_once('/').unwrap_or_default();
        for part in parent.split('/').filter(|p| !p.is_empty()) {
            above = format!("{above}/{part}");
            self.0.entry(above.clone()).or_insert(Node::Directory);
        }
        self.0.insert(path.to_owned(), node);
    }

    /// A file's bytes; none where nothing is. Nothing is followed.
    pub(super) fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, String> {
        for (at, _) in path.match_indices('/').skip(1) {
            match self.get(&path[..at]) {
                None => return Ok(None),
                Some(Node::Directory) => {}
                Some(_) => {
                    return Err("cannot be reached: something on the way is no directory".into());
                }
            }
        }
        match self.get(path) {
            None => Ok(None),
            Some(Node::File { text, .. }) if text.len() <= limit => {
                Ok(Some(text.clone().into_bytes()))
            }
            Some(Node::File { .. }) => Err(format!("is longer than {limit} bytes")),
            Some(_) => Err("is no regular file".to_owned()),
        }
    }

    /// Changes a file that is as it was read.
    pub(super) fn edit(&mut self, edit: &FileEdit) -> Result<(), Refusal> {
        let path = edit.path.as_str();
        let found = self.read(path, usize::MAX).map_err(|_| edit.refusal())?;
        if !edit
            .is_done(found.as_deref())
            .ok_or_else(|| edit.refusal())?
        {
            self.put(path, Node::file(&edit.after));
        }
        Ok(())
    }

    /// Bytes that are charged to the dataset.
    pub(super) fn used(&self) -> Bytes {
        self.0.values().fold(Bytes(0), |sum, node| match node {
            Node::File {
                size, own: true, ..
            } => sum.saturating_add(*size),
            _ => sum,
        })
    }

    /// A copy that shares all of its bytes.
    pub(super) fn shared(&self) -> Self {
        let mut copy = self.clone();
        for node in copy.0.values_mut() {
            if let Node::File { own, .. } = node {
                *own = false;
            }
        }
        copy
    }
}

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoWay {
    /// The first path that is not there.
    Missing(String),
    /// What is there instead of a way on, in words.
    Barred(String),
}

impl std::fmt::Display for NoWay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{path} is not there"),
            Self::Barred(what) => write!(f, "{what} is in the way"),
        }
    }
}

/// Datasets put together, by their identities: a rename changes nothing for whoever has them mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// None: the skeleton of an empty root.
    pub(super) root: Option<u64>,
    pub(super) mounts: Vec<(GuestPath, u64, bool)>,
}

impl View {
    /// The dataset that shows at an absolute path that has no links in it, the path inside it, and whether it is
    /// read-only.
    pub(super) fn place(&self, path: &str) -> (Option<u64>, String, bool) {
        let under =
            |at: &str| path == at || path.strip_prefix(at).is_some_and(|r| r.starts_with('/'));
        let deepest = self
            .mounts
            .iter()
            .filter(|(at, ..)| under(at.as_str()))
            .max_by_key(|(at, ..)| at.as_str().len());
        match deepest {
            None => (self.root, path.to_owned(), false),
            Some((at, uid, read_only)) => {
                let inside = &path[at.as_str().len()..];
                (
                    Some(*uid),
                    if inside.is_empty() {
                        "/".into()
                    } else {
                        inside.to_owned()
                    },
                    *read_only,
                )
            }
        }
    }

    /// Whether something will be mounted below a path, which makes it a directory.
    fn is_above_mount(&self, path: &str) -> bool {
        let below = |at: &GuestPath| {
            at.as_str()
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        self.mounts.iter().any(|(at, ..)| below(at))
    }

    /// Follows a path as the kernel does, as if what is above a mount were there.
    pub(super) fn resolve(
        &self,
        path: &str,
        node: impl Fn(Option<u64>, &str) -> Option<Node>,
    ) -> Result<String, NoWay> {
        let mut todo: Vec<String> = path
            .split('/')
            .filter(|p| !p.is_empty())
            .rev()
            .map(str::to_owned)
            .collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == "." {
                continue;
            }
            if part == ".." {
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            let next = format!("{at}/{part}");
            let (uid, inside, _) = self.place(&next);
            match node(uid, &inside) {
                None if self.is_above_mount(&next) => at = next,
                None => return Err(NoWay::Missing(next)),
                Some(Node::Link(_)) if links == MAX_LINKS => {
                    return Err(NoWay::Barred(format!("{next}, a link into a loop")));
                }
                Some(Node::Link(to)) => {
                    links += 1;
                    if to.starts_with('/') {
                        at.clear();
                    }
                    todo.extend(
                        to.split('/')
                            .filter(|p| !p.is_empty())
                            .rev()
                            .map(str::to_owned),
                    );
                }
                Some(Node::File { .. }) if !todo.is_empty() => {
                    return Err(NoWay::Barred(format!("{next}, a file")));
                }
                Some(_) => at = next,
            }
        }
        Ok(if at.is_empty() { "/".into() } else { at })
    }

    pub(super) fn init(
        &self,
        init: &GuestPath,
        node: impl Fn(Option<u64>, &str) -> Option<Node>,
    ) -> InitSeen {
        match self.resolve(init.as_str(), &node) {
            Err(NoWay::Missing(path)) => InitSeen::Missing { path },
            Err(NoWay::Barred(what)) => InitSeen::NotExecutable { what },
            Ok(path) => {
                let (uid, inside, _) = self.place(&path);
                match node(uid, &inside) {
                    Some(Node::File {
                        executable: true, ..
                    }) => InitSeen::Found,
                    Some(Node::File { .. }) => InitSeen::NotExecutable {
                        what: "a file that is not executable".into(),
                    },
                    _ => InitSeen::NotExecutable {
                        what: "a directory".into(),
                    },
                }
            }
        }
    }
}

/// What an empty root has, whatever was mounted.
pub(super) fn skeleton() -> Tree {
    let mut tree = Tree::default();
    for directory in [
        "/boot", "/dev", "/etc", "/proc", "/run", "/sbin", "/sys", "/var",
    ] {
        tree.put(directory, Node::Directory);
    }
    tree.put(
        "/sbin/init",
        Node::Link("/nix/var/nix/profiles/system/init".into()),
    );
    tree
}
