//! What the host leaves in `/dev/.mayfly`, and how it is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use mayfly_core::persist::report::Report;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::{Map, Value};

/// Where the host's files are bound; a directory of the tmpfs that LXC mounts on `/dev`.
const HANDOVER: &str = "/dev/.mayfly";
const BOOT_REPORT: &str = "boot.json";
const PERSISTENCE: &str = "persistence.json";
/// A boot report is a page or two, and a spec has a manifest's declarations; more is neither.
const FILE_LIMIT: u64 = 4 << 20;
/// What is told to the host at most, so that one write to the FIFO is whole.
const LINE_LIMIT: usize = 2048;
/// How the line begins that tells of the declarations.
const KEYWORD: &str = "persistence ";

/// What became of the declarations, as text: for the host, and for boot.json.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// A summary in one line.
    summary: String,
    /// The whole report, indented.
    report: String,
}

impl Told {
    /// A report as it is told.
    pub(crate) fn of(report: &Report) -> Self {
        Self {
            summary: report.summary().to_line(LINE_LIMIT - KEYWORD.len() - 1),
            report: serde_json::to_string_pretty(report).unwrap_or_else(|_| "null".to_owned()),
        }
    }

    /// For a pipe.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        format!("{}\n{}", self.summary, self.report).into_bytes()
    }

    /// What [`Told::into_bytes`] made.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Self, String> {
        let text = String::from_utf8(bytes).map_err(|e| format!("its report is no text: {e}"))?;
        match text.split_once('\n') {
            Some((summary, report)) if !report.is_empty() => Ok(Self {
                summary: summary.to_owned(),
                report: report.to_owned(),
            }),
            _ => Err("it told nothing".to_owned()),
        }
    }
}

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

    /// Tells how the declarations went: one line, which stays JSON however much there was to say.
    pub(crate) fn tell_persistence(&mut self, told: &Told) {
        if let Some(fifo) = &mut self.fifo {
            let _ = fifo.write_all(format!("{KEYWORD}{}\n", told.summary).as_bytes());
        }
    }

    /// Lets go of the FIFO. A child does, so that the host does not wait for it after its parent has become the init.
    pub(crate) fn close(&mut self) {
        self.fifo = None;
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

/// What the host says about this run.
pub(crate) struct Handover {
    /// The boot report, or why there is none.
    boot_report: Result<Vec<u8>, String>,
    /// What stays, as a spec that has yet to be parsed; none where the host says nothing of it.
    pub(crate) persistence: Option<Result<Vec<u8>, String>>,
}

impl Handover {
    /// Reads it. Everything that goes wrong is told where it matters.
    pub(crate) fn read() -> Self {
        let persistence = match read(PERSISTENCE) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(|e| cannot_read(PERSISTENCE, &e))),
        };
        Self {
            boot_report: read(BOOT_REPORT).map_err(|e| cannot_read(BOOT_REPORT, &e)),
            persistence,
        }
    }

    /// Puts the boot report where the VPS can read it, with what became of the declarations. Everything that goes wrong
    /// is a text for the console.
    pub(crate) fn place_boot_report(&self, persistence: Option<&Told>) -> Result<(), String> {
        let (bytes, trouble) = match (&self.boot_report, persistence) {
            (Err(why), None) => return Err(why.clone()),
            (Ok(bytes), None) => (bytes.clone(), None),
            (read, Some(told)) => extend(read, &told.report),
        };
        let directory = Path::new("/run/mayfly");
        match fs::DirBuilder::new().mode(0o755).create(directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("cannot make {}: {e}", directory.display()));
            }
            _ => {}
        }
        let to = directory.join(BOOT_REPORT);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&to)
            .and_then(|mut file| file.write_all(&bytes))
            .map_err(|e| format!("cannot write {}: {e}", to.display()))?;
        trouble.map_or(Ok(()), Err)
    }
}

fn read(name: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(Path::new(HANDOVER).join(name))?;
    file.take(FILE_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn cannot_read(name: &str, error: &io::Error) -> String {
    format!("cannot read {HANDOVER}/{name}: {error}")
}

/// The boot report with one key more; where there is no boot report, with that key alone, and why.
fn extend(read: &Result<Vec<u8>, String>, report: &str) -> (Vec<u8>, Option<String>) {
    let parsed = read.as_ref().map_err(Clone::clone).and_then(|bytes| {
        serde_json::from_slice::<Map<String, Value>>(bytes)
            .map_err(|e| format!("the boot report is not understood: {e}"))
    });
    let (mut map, trouble) = match parsed {
        Ok(map) => (map, None),
        Err(why) => (Map::new(), Some(why)),
    };
    map.remove("persistence");
    let others = serde_json::to_string_pretty(&map).unwrap_or_default();
    let others = others.trim_end_matches('}').trim_end();
    let comma = if map.is_empty() { "" } else { "," };
    // Line breaks within its texts are escaped, so all of these are between its parts.
    let report = report.replace('\n', "\n  ");
    let text = format!("{others}{comma}\n  \"persistence\": {report}\n}}");
    (text.into_bytes(), trouble)
}

/// Takes the host's mounts off and removes the directory. Returns what stayed.
pub(crate) fn remove_traces() -> Vec<String> {
    let mut stayed = Vec::new();
    for name in ["guest", BOOT_REPORT, "report", PERSISTENCE] {
        let path = Path::new(HANDOVER).join(name);
        let absent =
            fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        if name == PERSISTENCE && absent {
            continue;
        }
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

    #[test]
    fn the_boot_report_gets_a_key_more() {
        let report = Report::inactive("nothing is\ndeclared");
        let told = Told::of(&report);
        let mut whole = serde_json::json!({"vps": {"name": "web}"}});
        let (bytes, trouble) = extend(&Ok(whole.to_string().into_bytes()), &told.report);
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(trouble, None);
        whole["persistence"] = serde_json::to_value(&report).unwrap();
        assert_eq!(value, whole);
        let pretty = serde_json::to_string_pretty(&whole).unwrap();
        assert_eq!(pretty.lines().count(), bytes.split(|b| *b == b'\n').count());
        for read in [Ok(b"[1]".to_vec()), Err("it is gone".to_owned())] {
            let (bytes, trouble) = extend(&read, &told.report);
            let value: Value = serde_json::from_slice(&bytes).unwrap();
            assert!(trouble.is_some());
            assert_eq!(value["persistence"]["why"], "nothing is\ndeclared");
        }
    }

    #[test]
    fn what_is_told_comes_through_a_pipe() {
        let report = Report::unknown("it\nbroke \u{1b}[0m");
        let bytes = Told::of(&report).into_bytes();
        assert_eq!(Told::from_bytes(bytes), Ok(Told::of(&report)));
        for bad in [&b""[..], b"{}\n", b"\xff\n{}"] {
            assert!(Told::from_bytes(bad.to_vec()).is_err());
        }
    }
}
