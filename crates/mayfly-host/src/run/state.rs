//! `run.json` and `state.json`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use mayfly_core::run::{PROTOCOL, RunSpec, RunState};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::evidence::LookError;
use super::paths::RunDir;
use super::proc_text::read_text;

/// Neither file is larger.
const LIMIT: u64 = 16 << 20;

/// A file of a run that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there, or cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It is not what it should be.
    #[error("{path} is damaged")]
    Damaged {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
    /// It speaks another version.
    #[error("{path} has protocol {found}, this program speaks {PROTOCOL}")]
    OtherProtocol {
        /// Which file.
        path: String,
        /// Its version.
        found: u32,
    },
}

/// Reads what the supervisor is told.
pub(crate) fn read_spec(dir: &RunDir) -> Result<RunSpec, FileError> {
    read(&dir.spec())
}

/// Reads what the supervisor tells.
pub fn read_state(dir: &RunDir) -> Result<RunState, FileError> {
    read(&dir.state())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    #[derive(Deserialize)]
    struct Version {
        protocol: u32,
    }
    let shown = || path.display().to_string();
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LIMIT).read_to_end(&mut text))
        .map_err(|cause| FileError::Unreadable {
            path: shown(),
            cause,
        })?;
    let damaged = |cause| FileError::Damaged {
        path: shown(),
        cause,
    };
    let Version { protocol } = serde_json::from_slice(&text).map_err(damaged)?;
    if protocol != PROTOCOL {
        return Err(FileError::OtherProtocol {
            path: shown(),
            found: protocol,
        });
    }
    serde_json::from_slice(&text).map_err(damaged)
}

/// Replaces a file of the run: readers see the old one or the new one, also after a power cut.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    write_beside(path, contents)?.sync_all()?;
    put_in_place(path)?;
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// As [`replace`], for what speaks of this boot alone: a process that is killed leaves the old one or the new one, and
/// after a power cut nobody asks for it, because nothing of the run is alive then. It may be damaged or absent.
pub(crate) fn replace_for_this_boot(path: &Path, contents: &[u8]) -> io::Result<()> {
    write_beside(path, contents)?;
    put_in_place(path)
}

fn write_beside(path: &Path, contents: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path.with_extension("tmp"))?;
    file.write_all(contents)?;
    Ok(file)
}

fn put_in_place(path: &Path) -> io::Result<()> {
    fs::rename(path.with_extension("tmp"), path)
}

/// Whether a supervisor lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// It lives, with this process id.
    Alive(i32),
    /// It has ended, or never told its process id.
    Gone,
}

/// Whether the supervisor that a run directory names lives. A process id alone may belong to another by now.
pub(crate) fn observe_supervisor(dir: &Path) -> Result<Liveness, LookError> {
    let state = match read_state(&RunDir::new(dir)) {
        Ok(state) => state,
        Err(FileError::Unreadable { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
            return Ok(Liveness::Gone);
        }
        // The process itself is then found in its cgroup.
        Err(FileError::Damaged { .. }) => return Ok(Liveness::Gone),
        Err(e) => {
            return Err(LookError {
                at: dir.to_owned(),
                why: e.to_string(),
            });
        }
    };
    match start_ticks(state.supervisor_pid) {
        Ok(Some(ticks)) if ticks == state.supervisor_start_ticks => {
            Ok(Liveness::Alive(state.supervisor_pid))
        }
        Ok(_) => Ok(Liveness::Gone),
        Err(e) => Err(LookError::at(
            Path::new(&format!("/proc/{}/stat", state.supervisor_pid)),
            &e,
        )),
    }
}

/// When a process started, in the unit of `/proc/PID/stat`. None: it does not exist, or is dead and not yet reaped.
pub(crate) fn start_ticks(pid: i32) -> io::Result<Option<u64>> {
    match read_text(format!("/proc/{pid}/stat")) {
        Ok(text) => parse_start_ticks(&text).ok_or_else(|| io::Error::other("its form is unknown")),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The outer option: whether the line was understood. The program's name may hold spaces and parentheses.
fn parse_start_ticks(stat: &str) -> Option<Option<u64>> {
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let dead = matches!(fields.next()?, "Z" | "X");
    let ticks = fields.nth(18)?.parse().ok()?;
    Some((!dead).then_some(ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_field_22() {
        let tail = "1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(
            parse_start_ticks(&format!("7 (a) b) S {tail}")),
            Some(Some(4242))
        );
        assert_eq!(parse_start_ticks(&format!("7 (x) Z {tail}")), Some(None));
        assert_eq!(parse_start_ticks("7 (x) S 1 1"), None);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_ticks(own).unwrap().is_some());
        assert_eq!(start_ticks(i32::MAX).unwrap(), None);
    }

    #[test]
    fn another_protocol_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let dir = RunDir::new(dir.path());
        std::fs::write(dir.spec(), r#"{"protocol": 999, "novelty": true}"#).unwrap();
        assert!(matches!(
            read_spec(&dir),
            Err(FileError::OtherProtocol { found: 999, .. })
        ));
        std::fs::write(dir.spec(), r#"{"protocol": "#).unwrap();
        assert!(matches!(read_spec(&dir), Err(FileError::Damaged { .. })));
        assert!(matches!(
            read_state(&dir),
            Err(FileError::Unreadable { .. })
        ));
    }
}
