//! The contents of one file: its data, and the holes between them.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use mayfly_core::bytes::Bytes;
use mayfly_core::ports::Cancel;
use rustix::fs::{SeekFrom, Stat, copy_file_range, ftruncate, seek};
use rustix::io::{Errno, pread, pwrite};

/// What is read and written at a time.
const PIECE: usize = 1 << 20;
/// What the kernel is asked to copy at a time: it cannot be cancelled meanwhile.
const RANGE: u64 = 64 << 20;
/// How often it is told how far the copy is.
const PACE: Duration = Duration::from_secs(1);

/// How the data of files come to the new dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) enum Blocks {
    /// They are read and written: where quotas charge blocks to whoever wrote them first, sharing them would charge the wrong
    /// dataset, for ever.
    Written,
    /// They are shared where the file system can.
    Shared,
}

/// Copies contents, and counts what it copied.
pub(super) struct Contents<'a> {
    blocks: Blocks,
    cancel: &'a Cancel,
    progress: &'a mut dyn FnMut(&str),
    buffer: Vec<u8>,
    copied: u64,
    told: Instant,
}

/// What ended a copy before its end.
pub(super) enum Stop {
    Failed(Errno),
    Unwanted,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

impl<'a> Contents<'a> {
    pub(super) fn new(
        blocks: Blocks,
        cancel: &'a Cancel,
        progress: &'a mut dyn FnMut(&str),
    ) -> Self {
        Self {
            blocks,
            cancel,
            progress,
            buffer: vec![0; PIECE],
            copied: 0,
            told: Instant::now(),
        }
    }

    /// The bytes of data so far.
    pub(super) fn copied(&self) -> Bytes {
        Bytes(self.copied)
    }

    /// Looks whether it is still wanted, and tells how far it is.
    pub(super) fn pause(&mut self) -> Result<(), Stop> {
        if self.cancel.is_set() {
            return Err(Stop::Unwanted);
        }
        if self.told.elapsed() >= PACE {
            self.told = Instant::now();
            (self.progress)(&format!("copied {}", Bytes(self.copied)));
        }
        Ok(())
    }

    /// Copies the data of a file that had `seen` when it was opened into an empty one.
    pub(super) fn copy(
        &mut self,
        seen: &Stat,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
    ) -> Result<(), Stop> {
        let size = seen.st_size as u64;
        ftruncate(to, size)?;
        let mut done = 0;
        while done < size {
            let begin = match seek(from, SeekFrom::Data(done)) {
                Ok(begin) => begin.min(size),
                // Nothing but a hole to the end.
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            if begin == size {
                break;
            }
            done = seek(from, SeekFrom::Hole(begin))?.min(size);
            if done <= begin {
                return Err(Errno::IO.into());
            }
            self.range(from, to, begin, done)?;
        }
        Ok(())
    }

    fn range(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        mut at: u64,
        end: u64,
    ) -> Result<(), Stop> {
        while at < end {
            self.pause()?;
            let copied = match self.blocks {
                Blocks::Written => self.piece(from, to, at, end - at)?,
                Blocks::Shared => match by_kernel(from, to, at, end - at)? {
                    Some(copied) => copied,
                    None => self.piece(from, to, at, end - at)?,
                },
            };
            if copied == 0 {
                // It became shorter: somebody is writing to it who ought not to be there.
                return Err(Errno::IO.into());
            }
            at += copied;
            self.copied += copied;
        }
        Ok(())
    }

    fn piece(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        at: u64,
        length: u64,
    ) -> Result<u64, Stop> {
        let length = usize::try_from(length).unwrap_or(PIECE).min(PIECE);
        let read = rustix::io::retry_on_intr(|| pread(from, &mut self.buffer[..length], at))?;
        let mut written = 0;
        while written < read {
            let piece = &self.buffer[written..read];
            let more = rustix::io::retry_on_intr(|| pwrite(to, piece, at + written as u64))?;
            if more == 0 {
                return Err(Errno::IO.into());
            }
            written += more;
        }
        Ok(read as u64)
    }
}

/// Has the kernel copy, which shares blocks where it can; none where it does not copy between these two.
fn by_kernel(
    from: impl AsFd,
    to: impl AsFd,
    at: u64,
    length: u64,
) -> rustix::io::Result<Option<u64>> {
    let (mut read, mut written) = (at, at);
    let length = usize::try_from(length.min(RANGE)).unwrap_or(PIECE);
    match copy_file_range(from, Some(&mut read), to, Some(&mut written), length) {
        Ok(copied) => Ok(Some(copied as u64)),
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}
