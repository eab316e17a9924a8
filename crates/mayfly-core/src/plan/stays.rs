//! What becomes of one path of a VPS at its next start, for whoever has just written there.
//!
//! What lies where is a guest's word; what a mount or a declaration makes of it is the node's own knowledge.

use super::places::mount_in;
use crate::documents::VpsDoc;
use crate::files::Ground;
use crate::persist::declare::Method;
use crate::persist::list::Listing;
use crate::persist::path::TreePath;
use crate::persist::plan::ACCOUNT_FILES;
use crate::persist::unite::Kind;

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Whether it is there after the next start.
    pub stays: bool,
    /// Why.
    pub why: String,
}

fn stays(why: String) -> Fate {
    Fate { stays: true, why }
}

fn goes(why: impl Into<String>) -> Fate {
    Fate {
        stays: false,
        why: why.into(),
    }
}

/// What becomes of the file at `path` in the present run, which lies on `ground`.
pub fn fate_of_file(doc: &VpsDoc, listing: &Listing, path: &TreePath, ground: Ground) -> Fate {
    if ground == Ground::Memory {
        return goes("it lies in memory");
    }
    let rescue = doc.run.as_ref().and_then(|run| run.rescue.as_ref());
    let mounts = rescue.map_or(&doc.mounts, |rescue| &rescue.mounts);
    // A declared path is bound over whatever mount lies around it.
    let declared = listing
        .line(path)
        .or_else(|| listing.around(path))
        .filter(|_| rescue.is_none() && doc.impermanence.is_some())
        .filter(|line| line.trouble().is_none());
    if ground == Ground::Elsewhere {
        if let Some(line) = declared {
            let line = &line.declaration;
            return stays(format!(
                "{} is declared, and stored in {}",
                line.path, line.storage
            ));
        }
        return match mount_in(mounts, path) {
            Some(mount) => {
                let dataset = doc.pool_path(&mount.dataset);
                stays(format!(
                    "it lies in the dataset {dataset} at {}",
                    mount.path
                ))
            }
            None => goes("it lies in something that the VPS mounted itself"),
        };
    }
    if rescue.is_some() {
        return goes("it lies in the root of the rescue system");
    }
    if doc.impermanence.is_none() {
        return stays("`/` is not temporary".to_owned());
    }
    let copied = declared.map(|line| &line.declaration).filter(|line| {
        let copy = Kind::File {
            method: Method::Copy,
        };
        line.kind == copy && line.path == *path
    });
    if let Some(line) = copied {
        let storage = &line.storage;
        return stays(format!("it is declared, and taken back into {storage}"));
    }
    match &listing.accounts {
        Some(storage) if ACCOUNT_FILES.contains(&path.as_str()) => {
            stays(format!("users and groups are kept in {storage}"))
        }
        _ => goes("it lies in the temporary root"),
    }
}
