//! What the guest helper tells through its FIFO. The writer is the guest's side: every byte is hostile.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use mayfly_core::persist::report::Summary;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chownat, mkfifoat};

use crate::run::paths::RunDir;

/// More is no report: the helper tells four lines of 2 KiB each at most.
const LIMIT: usize = 8192;
/// So many troubles of a summary are kept; the helper tells no more.
const TROUBLES: usize = 16;

/// The reading side of the FIFO.
#[derive(Debug)]
pub(super) struct Report {
    fifo: Option<File>,
    text: Vec<u8>,
}

/// What a finished report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The guest's init was executed.
    Executed,
    /// The guest's init could not be executed, and why: escaped, bounded.
    Error(String),
    /// The helper ended without a word.
    Nothing,
}

impl Report {
    /// Makes the FIFO: root's, writable by the guest's root group only, and opens it.
    pub(super) fn create(dir: &RunDir, guest_root: u32) -> io::Result<Self> {
        let path = dir.report();
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
        chownat(
            CWD,
            &path,
            Some(Uid::ROOT),
            Some(Gid::from_raw(guest_root)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR | Mode::WGRP)?;
        let fifo = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
            .open(&path)?;
        Ok(Self {
            fifo: Some(fifo),
            text: Vec::new(),
        })
    }

    /// What to poll, until the report is complete.
    pub(super) fn interest(&self) -> Option<BorrowedFd<'_>> {
        self.fifo.as_ref().map(File::as_fd)
    }

    /// Takes what is there. A report is complete when the helper's side is closed: by the exec, or by its end.
    pub(super) fn on_ready(&mut self) -> Option<(Told, Option<Summary>)> {
        let fifo = self.fifo.as_mut()?;
        let mut buffer = [0; 1024];
        loop {
            match fifo.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => self.text.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            if self.text.len() > LIMIT {
                break;
            }
        }
        self.fifo = None;
        Some((parse_report(&self.text), parse_persistence(&self.text)))
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text[..text.len().min(LIMIT)].split(|b| *b == b'\n')
}

/// What became of the declarations: the last line that tells it and makes sense. Every text in it is escaped and bounded.
fn parse_persistence(text: &[u8]) -> Option<Summary> {
    let told = lines(text).filter_map(|line| line.strip_prefix(b"persistence "));
    let summary: Summary = told
        .filter_map(|json| serde_json::from_slice(json).ok())
        .last()?;
    let troubles = summary.troubles.iter().take(TROUBLES);
    Some(Summary {
        why: summary.why.as_deref().map(bounded),
        troubles: troubles.map(|text| bounded(text)).collect(),
        ..summary
    })
}

fn parse_report(text: &[u8]) -> Told {
    let mut told = Told::Nothing;
    for line in lines(text) {
        let line = String::from_utf8_lossy(line);
        match line.split_once(' ') {
            Some(("exec", _)) if told == Told::Nothing => told = Told::Executed,
            Some(("error", why)) => return Told::Error(bounded(why)),
            _ => {}
        }
    }
    told
}

/// Text from a guest: printable, on one line, not longer than a paragraph.
pub(crate) fn bounded(text: &str) -> String {
    // What the helper escaped already is not escaped again.
    let escape = |c: char| {
        if c == '\\' || c == '\'' || c == '"' {
            vec![c]
        } else {
            c.escape_debug().collect()
        }
    };
    text.chars()
        .take(1000)
        .flat_map(escape)
        .take(1000)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_exec_or_error() {
        assert_eq!(parse_report(b"exec /sbin/init\n"), Told::Executed);
        assert_eq!(
            parse_report(b"exec /sbin/init\nerror no loader\n"),
            Told::Error("no loader".into())
        );
        assert_eq!(
            parse_report(b"error no init\n"),
            Told::Error("no init".into())
        );
        assert_eq!(parse_report(b""), Told::Nothing);
        assert_eq!(parse_report(b"executed\nx"), Told::Nothing);
    }

    #[test]
    fn declarations_are_told_in_one_line_of_json() {
        let good = br#"persistence {"state":"degraded","staying":3,"troubled":1,"troubles":["/a: it is \u001b[2J \"b\""]}"#;
        let mut text = b"begin \npersistence {\n".to_vec();
        text.extend(good);
        text.extend(b"\nexec /sbin/init\n");
        let summary = parse_persistence(&text).unwrap();
        assert_eq!((summary.staying, summary.troubled), (3, 1));
        assert_eq!(summary.troubles, ["/a: it is \\u{1b}[2J \"b\""]);
        assert_eq!(parse_report(&text), Told::Executed);
        for other in [
            &b"persistence {}\n"[..],
            b"persistence \xff\n",
            b"persistence [[[[\n",
            b"persist {}\n",
            b"",
        ] {
            assert_eq!(parse_persistence(other), None, "{other:?}");
        }
        let many = vec!["x"; 1_000];
        let flood =
            serde_json::json!({"state": "applied", "staying": 0, "troubled": 0, "troubles": many});
        let kept = parse_persistence(format!("persistence {flood}").as_bytes()).unwrap();
        assert_eq!(kept.troubles.len(), TROUBLES);
    }

    #[test]
    fn hostile_text_is_escaped_and_cut() {
        let Told::Error(why) = parse_report(b"error \x1b[2J\r\x00\xff it's\\n\n") else {
            panic!()
        };
        assert_eq!(why, "\\u{1b}[2J\\r\\0\u{fffd} it's\\n");
        let mut flood = b"error ".to_vec();
        flood.extend(vec![b'\x07'; 100_000]);
        let Told::Error(why) = parse_report(&flood) else {
            panic!()
        };
        assert!(why.len() <= 1000);
    }
}
