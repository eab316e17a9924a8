//! The console's last mebibyte, on disk, raw: it is what the guest printed, so escape it before a terminal.
//!
//! Two segments. The older one is replaced by the newer when that is full. Positions count bytes since the ring was
//! opened; each reader keeps its own, so nothing is buffered for anybody, and who falls behind the tail has lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The size at which a segment is full.
const SEGMENT: u64 = 512 << 10;
const NEWER: &str = "console.log";
const OLDER: &str = "console.old";
const NEXT: &str = "console.new";

/// The writer's side of the ring.
#[derive(Debug)]
pub(crate) struct Ring {
    dir: PathBuf,
    older: Option<Segment>,
    newer: Segment,
}

#[derive(Debug)]
struct Segment {
    file: File,
    /// Position of its first byte.
    start: u64,
    size: u64,
}

impl Ring {
    /// Opens the ring in `dir`, which is made where it is missing, and continues it.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let older = match segment_options().open(dir.join(OLDER)) {
            Ok(file) => Some(Segment {
                start: 0,
                size: file.metadata()?.len(),
                file,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let file = segment_options().create(true).open(dir.join(NEWER))?;
        let start = older.as_ref().map_or(0, |older| older.size);
        Ok(Self {
            dir: dir.to_owned(),
            older,
            newer: Segment {
                start,
                size: file.metadata()?.len(),
                file,
            },
        })
    }

    /// The position after the last byte.
    pub(crate) fn head(&self) -> u64 {
        self.newer.start + self.newer.size
    }

    /// The position of the oldest byte.
    pub(crate) fn tail(&self) -> u64 {
        self.older.as_ref().unwrap_or(&self.newer).start
    }

    /// Adds what the guest printed. On an error (a full disk) the bytes are lost, and the ring stays usable.
    pub(crate) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.newer.size >= SEGMENT {
                self.rotate()?;
            }
            let room = usize::try_from(SEGMENT - self.newer.size).unwrap_or(usize::MAX);
            let now = &bytes[..bytes.len().min(room)];
            self.newer.file.write_all_at(now, self.newer.size)?;
            self.newer.size += now.len() as u64;
            bytes = &bytes[now.len()..];
        }
        Ok(())
    }

    /// The next segment is made before the full one loses its name: on a full disk nothing has happened, and the next
    /// byte tries again. A turn that was cut off between the two renames is finished by the next.
    fn rotate(&mut self) -> io::Result<()> {
        let next = self.dir.join(NEXT);
        let file = segment_options().create(true).truncate(true).open(&next)?;
        match fs::rename(self.dir.join(NEWER), self.dir.join(OLDER)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::rename(&next, self.dir.join(NEWER))?;
        let newer = Segment {
            file,
            start: self.head(),
            size: 0,
        };
        self.older = Some(std::mem::replace(&mut self.newer, newer));
        Ok(())
    }

    /// Reads from a position on; 0 at the head, an error below the tail.
    pub(crate) fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let segment = match &self.older {
            Some(older) if position < self.newer.start => older,
            _ => &self.newer,
        };
        let offset = position
            .checked_sub(segment.start)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let left = usize::try_from(segment.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        segment.file.read_at(&mut buffer[..most], offset)
    }
}

fn segment_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    options
}

/// What a ring holds, oldest first, for readers in other processes: at most 1 MiB, empty where there is none.
pub fn read_ring(dir: &Path) -> io::Result<Vec<u8>> {
    let open = |name| match OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(dir.join(name))
    {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    // The newer one first: when the writer turns the ring in between, both names give the same file.
    let (newer, older) = (open(NEWER)?, open(OLDER)?);
    let same = |a: &File, b: &File| Ok::<_, io::Error>(a.metadata()?.ino() == b.metadata()?.ino());
    let mut bytes = Vec::new();
    if let Some(older) = &older {
        if !newer
            .as_ref()
            .map_or(Ok(false), |newer| same(newer, older))?
        {
            older.take(SEGMENT).read_to_end(&mut bytes)?;
        }
    }
    if let Some(newer) = &newer {
        newer.take(SEGMENT).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// A note of the supervisor's own in the console, such as where one run ends.
pub(crate) fn note(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 16);
    let _ = write!(bytes, "\r\n[mayfly: {}]\r\n", text.escape_debug());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_last_segments_and_survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(dir.path()).unwrap();
        ring.append(b"first").unwrap();
        assert_eq!((ring.tail(), ring.head()), (0, 5));
        let block = vec![b'x'; 300 << 10];
        for _ in 0..5 {
            ring.append(&block).unwrap();
        }
        ring.append(b"last").unwrap();
        assert_eq!(ring.head(), 5 + 5 * (300 << 10) + 4);
        assert!(ring.tail() > 5 && ring.head() - ring.tail() <= 2 * SEGMENT);
        let mut end = [0; 8];
        assert_eq!(ring.read_at(ring.head() - 4, &mut end).unwrap(), 4);
        assert_eq!(&end[..4], b"last");
        assert!(ring.read_at(ring.tail() - 1, &mut end).is_err());
        let before = read_ring(dir.path()).unwrap();
        assert!(before.ends_with(b"xlast") && before.len() as u64 == ring.head() - ring.tail());
        drop(ring);
        let again = Ring::open(dir.path()).unwrap();
        assert_eq!(again.head(), before.len() as u64);
    }

    #[test]
    fn a_ring_that_could_not_turn_turns_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(dir.path()).unwrap();
        let full = vec![b'x'; SEGMENT as usize];
        ring.append(&full).unwrap();
        // No new file can be made.
        fs::create_dir(dir.path().join(NEXT)).unwrap();
        for _ in 0..2 {
            assert!(ring.append(b"lost").is_err());
            assert_eq!(ring.head(), SEGMENT);
            assert_eq!(read_ring(dir.path()).unwrap(), full);
        }
        fs::remove_dir(dir.path().join(NEXT)).unwrap();
        ring.append(b"there again").unwrap();
        assert!(read_ring(dir.path()).unwrap().ends_with(b"xthere again"));
        // A turn that was cut off between its two renames.
        ring.append(&full[11..]).unwrap();
        fs::rename(dir.path().join(NEWER), dir.path().join(OLDER)).unwrap();
        ring.append(b"and again").unwrap();
        assert!(read_ring(dir.path()).unwrap().ends_with(b"and again"));
    }

    #[test]
    fn every_byte_is_read_in_order_across_the_segments() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(dir.path()).unwrap();
        let mut at = 0;
        let mut read = Vec::new();
        let mut buffer = [0; 777];
        let written: Vec<u8> = (0..2_000_000_u32)
            .flat_map(|n| n.to_le_bytes().into_iter().take(1))
            .collect();
        for part in written.chunks(100_000) {
            ring.append(part).unwrap();
            while at < ring.head() {
                let n = ring.read_at(at, &mut buffer).unwrap();
                read.extend_from_slice(&buffer[..n]);
                at += n as u64;
            }
        }
        assert!(read == written);
    }
}
