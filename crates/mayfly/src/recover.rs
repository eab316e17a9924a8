//! `mayfly recover`: rebuilds the state database from the pool. It destroys nothing: the old database is kept beside the new
//! one, as `state.db.before-recover-N`.
//!
//! ```text
//! look ──> write state.db.recovering ──> set the old log aside ──> exchange the two ──> set the old one aside
//! ```
//!
//! Cut off before the exchange, the old database is there, without its log perhaps and then behind the pool, so that no
//! daemon trusts it; cut off after it, the new one is. Either way the next call goes on: what it finds half done it sets
//! aside as well.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use mayfly_core::rebuild::Rebuilt;
use mayfly_engine::write_rebuilt;
use mayfly_host::crash::crash_point;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;

use crate::cli::{Failure, Screen, escape};
use crate::fsck::state_dir_of;
use crate::node::{self, StateDir};

/// What `mayfly recover` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct RecoverArgs {
    /// Say what would be written, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The directory of everything that the node keeps; else the one that the socket is in
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// What was rebuilt.
#[derive(Debug, Serialize)]
struct Told {
    /// Whether there was anything to do.
    needed: bool,
    /// Whether the new database is in place.
    written: bool,
    vpses: Vec<mayfly_core::documents::VpsDoc>,
    templates: Vec<mayfly_core::documents::TemplateDoc>,
    spared: Vec<String>,
    notes: Vec<String>,
    /// Where the old database is now.
    kept: Option<PathBuf>,
}

impl Told {
    fn of(rebuilt: Option<Rebuilt>) -> Self {
        let needed = rebuilt.is_some();
        let rebuilt = rebuilt.unwrap_or_default();
        Self {
            needed,
            written: false,
            vpses: rebuilt.vpses,
            templates: rebuilt.templates,
            spared: rebuilt.spared.iter().map(ToString::to_string).collect(),
            notes: rebuilt.notes,
            kept: None,
        }
    }
}

/// Rebuilds the state. Called before any other thread exists.
pub(crate) fn run(
    args: RecoverArgs,
    json: bool,
    socket: Option<PathBuf>,
) -> Result<ExitCode, Failure> {
    let state = StateDir::new(&state_dir_of(args.state_dir, socket))?;
    let told = recover(&state, args.dry_run)?;
    Screen { json }.show(&told, render)?;
    Ok(ExitCode::SUCCESS)
}

fn recover(state: &StateDir, dry_run: bool) -> anyhow::Result<Told> {
    // A directory that is no node's gets no lock either.
    state.node()?;
    let lock = state.lock()?;
    let (daemon, trouble) = node::open_to_look(state, lock)?;
    let file = state.database();
    let new = beside(&file, ".recovering");
    let rebuilt = match daemon.engine.plan_rebuild(trouble.as_ref())? {
        Some(rebuilt) if !dry_run => rebuilt,
        planned => {
            if !dry_run {
                // The old database, where an earlier call was cut off right after the exchange.
                set_aside(&new, &file)?;
            }
            return Ok(Told::of(planned));
        }
    };
    let lock = daemon.close();
    set_aside(&new, &file)?;
    for log in ["-wal", "-shm", "-journal"] {
        remove_if_there(&beside(&new, log))?;
    }
    write_rebuilt(&rebuilt, &new).map_err(mayfly_core::error::Refusal::from)?;
    crash_point("recover.after_write");
    let kept = free_name(&file);
    for log in ["-wal", "-shm", "-journal"] {
        rename_if_there(&beside(&file, log), &beside(&kept, log))?;
    }
    crash_point("recover.after_log");
    let moved = exchange(&new, &file)?;
    sync_parent(&file)?;
    crash_point("recover.after_exchange");
    if moved {
        rename_if_there(&new, &kept)?;
        sync_parent(&file)?;
    }
    drop(lock);
    Ok(Told {
        written: true,
        kept: moved.then_some(kept),
        ..Told::of(Some(rebuilt))
    })
}

/// Puts `new` into the place of `file`, and that, where it is there, into its place.
fn exchange(new: &Path, file: &Path) -> anyhow::Result<bool> {
    let there = fs::symlink_metadata(file).is_ok();
    let flags = if there {
        RenameFlags::EXCHANGE
    } else {
        RenameFlags::NOREPLACE
    };
    renameat_with(CWD, new, CWD, file, flags)
        .with_context(|| format!("cannot put the new database at {}", file.display()))?;
    Ok(there)
}

/// Keeps what an earlier call left under this name: it may be the old database.
fn set_aside(left: &Path, file: &Path) -> anyhow::Result<()> {
    rename_if_there(left, &free_name(file))
}

/// A name for the old database that nothing has.
fn free_name(file: &Path) -> PathBuf {
    let name = |n: u32| beside(file, &format!(".before-recover-{n}"));
    let taken = |path: &Path| {
        ["", "-wal", "-shm", "-journal"]
            .iter()
            .any(|end| fs::symlink_metadata(beside(path, end)).is_ok())
    };
    (1..)
        .map(name)
        .find(|path| !taken(path))
        .expect("there are more numbers than files")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> anyhow::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("cannot set {} aside", from.display())),
    }
}

/// The log of a database that was being written when a call was cut off.
fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn sync_parent(file: &Path) -> anyhow::Result<()> {
    if let Some(dir) = file.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn render(told: &Told) -> String {
    if !told.needed {
        return "the state is whole, and as new as the pool; nothing is written\n".to_owned();
    }
    let mut text = String::new();
    for doc in &told.vpses {
        let runs = doc
            .run
            .as_ref()
            .map_or(String::new(), |run| format!(", runs as {}", run.run));
        text.push_str(&format!("VPS {}{runs}\n", escape(&doc.title())));
    }
    for doc in &told.templates {
        text.push_str(&format!("template {}\n", doc.name));
    }
    for note in &told.notes {
        text.push_str(&format!("note: {}\n", escape(note)));
    }
    if let Some(kept) = &told.kept {
        text.push_str(&format!(
            "the old database is kept: {}\n",
            escape(&kept.to_string_lossy())
        ));
    }
    text.push_str(if told.written {
        "the state is rebuilt\n  next: mayfly serve, then mayfly fsck\n"
    } else {
        "nothing is written yet\n  next: mayfly recover\n"
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_never_takes_the_place_of_something() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state.db");
        for text in ["one", "two"] {
            let left = dir.path().join("state.db.recovering");
            fs::write(&left, text).unwrap();
            set_aside(&left, &file).unwrap();
        }
        set_aside(&dir.path().join("state.db.recovering"), &file).unwrap();
        let read = |n| fs::read_to_string(beside(&file, &format!(".before-recover-{n}")));
        assert_eq!(
            (read(1).unwrap(), read(2).unwrap()),
            ("one".into(), "two".into())
        );
        fs::write(beside(&file, ".before-recover-3-wal"), "").unwrap();
        assert!(free_name(&file).ends_with("state.db.before-recover-4"));
    }

    #[test]
    fn the_new_database_takes_the_place_of_the_old_one_or_of_none() {
        let dir = tempfile::tempdir().unwrap();
        let (new, file) = (dir.path().join("new"), dir.path().join("state.db"));
        fs::write(&new, "new").unwrap();
        assert!(!exchange(&new, &file).unwrap());
        fs::write(&new, "newer").unwrap();
        assert!(exchange(&new, &file).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "newer");
        assert_eq!(fs::read_to_string(&new).unwrap(), "new");
    }
}
