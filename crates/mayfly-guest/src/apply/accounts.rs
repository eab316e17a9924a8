//! The preset `accounts`: users and groups that were kept, merged into the base's before anybody looks one up.

use mayfly_core::persist::accounts::{Files, merge as merge_files};
use mayfly_core::persist::declare::Problems;
use mayfly_core::persist::limits;
use mayfly_core::persist::own::ACCOUNTS;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::people::People;

use super::copies::Copies;
use super::storages;
use crate::content::find;
use crate::tree::{Tree, kind, set_mode, set_owner};

/// One of the six: its name in /etc, its field, and its mode where the base has none.
type File = (&'static str, fn(&mut Files) -> &mut String, u32);

const FILES: [File; 6] = [
    ("passwd", |f| &mut f.passwd, 0o644),
    ("group", |f| &mut f.group, 0o644),
    ("shadow", |f| &mut f.shadow, 0o600),
    ("gshadow", |f| &mut f.gshadow, 0o600),
    ("subuid", |f| &mut f.subuid, 0o644),
    ("subgid", |f| &mut f.subgid, 0o644),
];

/// The numbers that `storage` keeps.
pub(super) fn add_people(tree: &Tree, storage: &TreePath, people: &mut People) {
    if storages::judge(tree, storage).is_err() {
        return;
    }
    if let Ok(kept) = read_all(tree, storage, ACCOUNTS) {
        people.add_passwd(&kept.passwd);
        people.add_group(&kept.group);
    }
}

fn read_all(tree: &Tree, base: &TreePath, directory: &str) -> Result<Files, String> {
    let mut files = Files::default();
    for (name, field, _) in FILES {
        let path = base.join(directory).and_then(|at| at.join(name))?;
        let bytes = tree.read(&path, limits::ACCOUNT_BYTES)?.unwrap_or_default();
        *field(&mut files) = String::from_utf8(bytes).map_err(|_| format!("{path} is no UTF-8"))?;
    }
    Ok(files)
}

/// Merges what is kept in `storage` into the base's, once a root.
pub(super) fn merge(tree: &Tree, storage: &TreePath, problems: &mut Problems, copies: &mut Copies) {
    let mut all = || -> Result<(), String> {
        copies.ready(tree)?;
        let etc = TreePath::top().join("etc")?;
        if copies.has(&etc.join("passwd")?) {
            return Ok(());
        }
        tree.make_directories(&etc, 0o755)?;
        tree.make_directories(&storage.join(ACCOUNTS)?, 0o700)?;
        let mut base = read_all(tree, &TreePath::top(), "etc")?;
        let mut kept = read_all(tree, storage, ACCOUNTS)?;
        let mut merged = merge_files(&base, &kept);
        for moved in &merged.moved {
            let what = if moved.group { "group" } else { "user" };
            problems.warn(
                moved.name.as_str(),
                format!(
                    "the {what} has the number {} and not the base's {}, which was taken: files of the base keep the old one",
                    moved.to, moved.from
                ),
            );
        }
        for note in &merged.notes {
            problems.warn("accounts", note.as_str());
        }
        for (name, field, mode) in FILES {
            let path = etc.join(name)?;
            let text = std::mem::take(field(&mut merged.files));
            // Without anything kept the base's stay as they are, to the letter.
            if !field(&mut kept).is_empty() && text != *field(&mut base) {
                rewrite(tree, &path, &text, mode)?;
            }
            copies.note(
                &path,
                &storage.join(ACCOUNTS)?.join(name)?,
                find(tree, &path)?.content,
            );
        }
        Ok(())
    };
    if let Err(why) = all() {
        problems.error("accounts", why);
    }
}

/// Replaces a file of /etc, which keeps its owner and mode.
fn rewrite(tree: &Tree, path: &TreePath, text: &str, mode: u32) -> Result<(), String> {
    let old = tree.look(path).map_err(|e| tree.explain(path, e))?;
    if old
        .as_ref()
        .is_some_and(|stat| kind(stat) != rustix::fs::FileType::RegularFile)
    {
        return Err(format!("{path} is no regular file"));
    }
    let parent = path.parent().unwrap_or_else(TreePath::top);
    let parent = tree
        .directory(&parent)
        .map_err(|e| tree.explain(&parent, e))?;
    let write = || -> std::io::Result<()> {
        let file = crate::tree::new_file(&parent)?;
        std::io::Write::write_all(&mut &file, text.as_bytes())?;
        if let Some(old) = &old {
            set_owner(&file, old.st_uid, old.st_gid)?;
        }
        set_mode(&file, old.as_ref().map_or(mode, crate::tree::mode_of))?;
        crate::tree::finish(&parent, path.name())?;
        Ok(())
    };
    write().map_err(|e| format!("{path}: {e}"))
}
