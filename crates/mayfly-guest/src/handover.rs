//! What the host leaves in `/dev/.mayfly`, and how it is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::mount::{UnmountFlags, unmount};

/// Where the host's files are bound; a directory of the tmpfs that LXC mounts on `/dev`.
const HANDOVER: &str = "/dev/.mayfly";
/// A boot report is a page or two; more is not one.
const REPORT_LIMIT: u64 = 1 << 20;
/// What is told to the host at most, so that one write to the FIFO is whole.
const LINE_LIMIT: usize = 2048;

/// The way back to the host: the report FIFO, closed by the exec of the VPS's init.
pub(crate) struct Host {
    fifo: Option<File>,
}

impl Host {
    /// Opens the FIFO. A host that does not listen is no reason not to boot.
    pub(crate) fn open() -> Self {
        let path = Path::new(HANDOVER).join("report");
        let fifo = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(path);
        Self { fifo: fifo.ok() }
    }

    /// Tells one line: a keyword and a text.
    pub(crate) fn tell(&mut self, keyword: &str, text: &str) {
        if let Some(fifo) = &mut self.fifo {
            let _ = fifo.write_all(line(keyword, text).as_bytes());
        }
    }
}

/// One line for the host, escaped and cut to what a pipe takes at once.
fn line(keyword: &str, text: &str) -> String {
    let mut line = format!("{keyword} ");
    for c in text.chars().flat_map(char::escape_debug) {
        if line.len() + c.len_utf8() >= LINE_LIMIT {
            break;
        }
        line.push(c);
    }
    line.push('\n');
    line
}

/// Copies the boot report to where the VPS can read it. Everything that goes wrong is a text for the console.
pub(crate) fn place_boot_report() -> Result<(), String> {
    let from = Path::new(HANDOVER).join("boot.json");
    let mut report = Vec::new();
    let file = File::open(&from).map_err(|e| format!("cannot open {}: {e}", from.display()))?;
    file.take(REPORT_LIMIT)
        .read_to_end(&mut report)
        .map_err(|e| format!("cannot read {}: {e}", from.display()))?;
    let directory = Path::new("/run/mayfly");
    match fs::DirBuilder::new().mode(0o755).create(directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(format!("cannot make {}: {e}", directory.display()));
        }
        _ => {}
    }
    let to = directory.join("boot.json");
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&to)
        .and_then(|mut file| file.write_all(&report))
        .map_err(|e| format!("cannot write {}: {e}", to.display()))
}

/// Takes the host's mounts off and removes the directory. Returns what stayed.
pub(crate) fn remove_traces() -> Vec<String> {
    let mut stayed = Vec::new();
    for name in ["guest", "boot.json", "report"] {
        let path = Path::new(HANDOVER).join(name);
        if let Err(e) = unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            stayed.push(format!("cannot unmount {}: {e}", path.display()));
            continue;
        }
        if let Err(e) = fs::remove_file(&path) {
            stayed.push(format!("cannot remove {}: {e}", path.display()));
        }
    }
    if let Err(e) = fs::remove_dir(HANDOVER) {
        stayed.push(format!("cannot remove {HANDOVER}: {e}"));
    }
    stayed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_short() {
        assert_eq!(line("exec", "/sbin/init"), "exec /sbin/init\n");
        assert_eq!(line("error", "a\nb\u{1b}[0m"), "error a\\nb\\u{1b}[0m\n");
        let long = line("error", &"ä".repeat(5_000));
        assert!(long.len() <= LINE_LIMIT + 1 && long.ends_with('\n'));
    }
}
