//! Sending: the changes between two snapshots of ours, or all of one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use mayfly_core::error::{Code, LookFailed};
use mayfly_core::names::{PoolPath, SnapshotName};
use mayfly_core::ports::{HostError, HostResult};
use mayfly_core::snapshots::{ResumeToken, SendSpec, SnapshotOf, SnapshotSeen};
use rustix::fs::FileType;
use rustix::pipe::PipeFlags;

use super::pool::ZfsPool;
use super::snapshots::refuse;
use crate::storage::refusals::not_ours;

/// What `zfs send -nvt` says of a token: what it names, and the guids of both ends.
fn parse_token(said: &str) -> Option<(String, u64, Option<u64>)> {
    let value = |name: &str| {
        let line = |line: &str| {
            let (key, value) = line.trim().split_once(" = ")?;
            (key == name).then(|| value.trim().to_owned())
        };
        said.lines().find_map(line)
    };
    let number = |text: String| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let from = match value("fromguid") {
        Some(text) => Some(number(text)?),
        None => None,
    };
    Some((value("toname")?, number(value("toguid")?)?, from))
}

fn is_token(text: &str) -> bool {
    text.starts_with("1-")
        && text.len() < 4096
        && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

fn is_pipe(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    Ok(kind == FileType::Fifo)
}

/// A pipe whose contents go on into a descriptor of another kind, and how that ended.
///
/// `zfs send` has such a pipe of its own for everything that is none, and waits for ever once nothing takes from it: a
/// socket without a reader, a file on a full disk. Where the descriptor itself takes nothing any more, the thread waits
/// until its other end goes away.
fn pass_on(into: BorrowedFd<'_>) -> io::Result<(OwnedFd, Receiver<io::Result<u64>>)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let mut target = File::from(into.try_clone_to_owned()?);
    let (tell, told) = channel();
    std::thread::Builder::new()
        .name("send".to_owned())
        .spawn(move || {
            let passed = io::copy(&mut File::from(reader), &mut target);
            // Who asked may have gone away.
            let _ = tell.send(passed);
        })?;
    Ok((writer, told))
}

impl ZfsPool {
    /// The snapshot that may be sent, by its place among those of its dataset.
    fn sendable(
        &self,
        name: &PoolPath,
        all: &[SnapshotSeen],
        snapshot: &SnapshotName,
    ) -> HostResult<usize> {
        let own = self.own_mark(&self.row_must(name)?)?;
        let Some(at) = all.iter().position(|one| one.name == snapshot.as_str()) else {
            return refuse(
                Code::DatasetNotFound,
                format!("there is no snapshot {snapshot} of dataset {name}"),
                "make one first",
            );
        };
        match &all[at].of {
            SnapshotOf::Ours(mark)
                if mark.node == self.node && own.owner.as_ref() == Some(&mark.owner) =>
            {
                Ok(at)
            }
            SnapshotOf::Unreadable(why) => {
                let what = format!("the mark of the snapshot {snapshot} of {name}");
                Err(LookFailed::new(what, why).into())
            }
            SnapshotOf::Ours(_) | SnapshotOf::Foreign => Err(not_ours(
                format!("{name}@{snapshot}"),
                "this node did not make that snapshot",
            )),
        }
    }

    /// The snapshot and the one that the changes begin at.
    fn ends(&self, what: &SendSpec) -> HostResult<(SnapshotSeen, Option<SnapshotSeen>)> {
        self.own_mark(&self.row_must(&what.dataset)?)?;
        let mut all = self.seen_snapshots(&self.whole(&what.dataset))?;
        let to = self.sendable(&what.dataset, &all, &what.snapshot)?;
        let from = match &what.from {
            None => None,
            Some(from) => {
                let before = self.sendable(&what.dataset, &all, from)?;
                if before >= to {
                    return refuse(
                        Code::Invalid,
                        format!("the snapshot {from} is not earlier than {}", what.snapshot),
                        "begin with an earlier one",
                    );
                }
                Some(all[before].clone())
            }
        };
        Ok((all.swap_remove(to), from))
    }

    fn send_with(
        &self,
        what: &SendSpec,
        args: &[&str],
        into: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<()> {
        let failed = |why: String| {
            HostError::failed(format!("sending {}@{}", what.dataset, what.snapshot), why)
        };
        if is_pipe(into).map_err(|e| failed(e.to_string()))? {
            let sent = self.zfs.run_on(args, None, Some(into), limit);
            return sent
                .map(drop)
                .map_err(|failure| failed(failure.to_string()));
        }
        let begun = Instant::now();
        let (writer, passed) = pass_on(into).map_err(|e| failed(e.to_string()))?;
        let sent = self.zfs.run_on(args, None, Some(writer.as_fd()), limit);
        drop(writer);
        match sent {
            Ok(_) => {
                let left = limit.saturating_sub(begun.elapsed());
                match passed.recv_timeout(left) {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(failed(error.to_string())),
                    Err(_) => Err(failed(format!("it took more than {} s", limit.as_secs()))),
                }
            }
            // A reader that is gone ends the command, and is the better reason.
            Err(failure) => match passed.recv_timeout(Duration::from_millis(200)) {
                Ok(Err(error)) => Err(failed(error.to_string())),
                _ => Err(failed(failure.to_string())),
            },
        }
    }

    pub(super) fn send_snapshot(
        &self,
        what: &SendSpec,
        into: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<()> {
        let (_, from) = self.ends(what)?;
        let snapshot = format!("{}@{}", self.whole(&what.dataset), what.snapshot);
        // As it lies on the disks: large blocks, embedded ones, compressed ones. No properties.
        let mut args = vec!["send", "-L", "-e", "-c"];
        let from = from.map(|from| format!("@{}", from.name));
        args.extend(from.iter().flat_map(|from| ["-i", from]));
        args.push(&snapshot);
        self.send_with(what, &args, into, limit)
    }

    pub(super) fn send_what_is_missing(
        &self,
        what: &SendSpec,
        token: &ResumeToken,
        into: BorrowedFd<'_>,
        limit: Duration,
    ) -> HostResult<()> {
        let (to, from) = self.ends(what)?;
        let bad = |why: &str| {
            refuse(
                Code::Invalid,
                format!(
                    "the resume token is not for {}@{}: {why}",
                    what.dataset, what.snapshot
                ),
                "abort the receive, and send it from its beginning",
            )
        };
        if !is_token(&token.0) {
            return bad("it is none");
        }
        let said = match self.zfs.run(["send", "-n", "-v", "-t", &token.0]) {
            Ok(out) => out.text() + &out.stderr,
            Err(failure) => return bad(&failure.why()),
        };
        let named = format!("{}@{}", self.whole(&what.dataset), what.snapshot);
        match parse_token(&said) {
            Some(found) if found == (named, to.guid, from.map(|from| from.guid)) => {}
            Some((name, ..)) => return bad(&format!("it is for {name}")),
            None => return bad("it does not say what it is for"),
        }
        self.send_with(what, &["send", "-t", &token.0], into, limit)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_takes_nothing_any_more_ends_the_writer() {
        let (writer, told) = {
            let (reader, socket) = UnixStream::pair().unwrap();
            drop(reader);
            pass_on(socket.as_fd()).unwrap()
        };
        let mut writer = File::from(writer);
        let piece = [0; 64 << 10];
        let error = (0..64).find_map(|_| io::Write::write_all(&mut writer, &piece).err());
        assert_eq!(error.unwrap().kind(), io::ErrorKind::BrokenPipe);
        let passed = told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(passed.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_stream_goes_on_into_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        let (writer, told) = pass_on(file.as_fd()).unwrap();
        assert!(is_pipe(writer.as_fd()).unwrap() && !is_pipe(file.as_fd()).unwrap());
        io::Write::write_all(&mut File::from(writer), b"stream").unwrap();
        let passed = told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(passed.unwrap(), 6);
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "stream");
    }

    #[test]
    fn a_token_tells_what_it_is_for() {
        let said = "resume token contents:\nnvlist version: 0\n\tobject = 0x2\n\toffset = 0x400000\n\
                    \tbytes = 0x401000\n\ttoguid = 0x8a1f4e\n\ttoname = tank/ct/101@one\n\tcompressok = 1\n\
                    full send of tank/ct/101@one estimated size is 8.01M\n";
        let whole = ("tank/ct/101@one".to_owned(), 0x8a1f4e, None);
        assert_eq!(parse_token(said), Some(whole));
        let changes = said.replace("\ttoname", "\tfromguid = 0x77\n\ttoname");
        let since = ("tank/ct/101@one".to_owned(), 0x8a1f4e, Some(0x77));
        assert_eq!(parse_token(&changes), Some(since));
        assert_eq!(parse_token("resume token contents:\n"), None);
        assert_eq!(parse_token(&said.replace("0x8a1f4e", "junk")), None);
        assert!(is_token("1-e604ea4bf-e0-789c63"));
        for bad in ["", "-n", "1-x", "1-a b", "2-00", "1-00\n"] {
            assert!(!is_token(bad), "{bad}");
        }
    }
}
