//! Mount tables, of which a guest's may be of any length: read line by line, in bounds.

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// A longer line is no line that is looked for: paths are shorter, also where every byte of them is escaped.
const LINE_LIMIT: u64 = 32 << 10;

/// What a mount shows: a file system and a directory in it. The same in every mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: String,
    root: PathBuf,
}

/// One line of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) identity: Identity,
    pub(super) read_only: bool,
}

/// The mounts that are at exactly this path, lowest first.
pub(super) fn mounts_at(table: &mut (impl Read + Seek), at: &Path) -> io::Result<Vec<Entry>> {
    table.seek(SeekFrom::Start(0))?;
    let mut lines = BufReader::new(table);
    let mut found = Vec::new();
    loop {
        let mut line = Vec::new();
        (&mut lines).take(LINE_LIMIT).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(found);
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == LINE_LIMIT {
            lines.skip_until(b'\n')?;
            continue;
        }
        found.extend(parse(&line, at));
    }
}

/// `36 35 0:42 /11327/private /srv rw,nodev - btrfs /dev/loop0 rw`
fn parse(line: &[u8], at: &Path) -> Option<Entry> {
    let mut fields = line.split(|byte| byte.is_ascii_whitespace());
    let text = |field: &[u8]| String::from_utf8(field.to_vec()).ok();
    let id = text(fields.next()?)?.parse().ok()?;
    let device = text(fields.nth(1)?)?;
    let (root, point) = (fields.next()?, fields.next()?);
    let mut options = fields.next()?.split(|byte| *byte == b',');
    (path(point) == at).then(|| Entry {
        id,
        identity: Identity {
            device,
            root: path(root),
        },
        read_only: options.any(|option| option == b"ro"),
    })
}

/// A path of the table: blanks and backslashes are three octal digits there.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() {
            &after[3..]
        } else {
            after
        };
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_mounts_at_one_path_are_found_whatever_else_is_there() {
        let long = "x".repeat(40_000);
        let text = format!(
            "1 0 0:1 / / rw - ext4 /dev/a rw\n\
             2 1 0:42 /7/private /srv rw,nodev shared:1 - btrfs /dev/loop0 rw\n\
             3 1 0:42 /7/private /srv\\040x ro,nodev - btrfs /dev/loop0 rw\n\
             4 1 0:42 /{long} /srv rw - btrfs x rw\n\
             5 2 0:9 / /srv ro - tmpfs tmpfs rw\n\
             garbage\n"
        );
        let at = |path: &str| mounts_at(&mut Cursor::new(&text), Path::new(path)).unwrap();
        let ids: Vec<_> = at("/srv").iter().map(|e| (e.id, e.read_only)).collect();
        assert_eq!(ids, [(2, false), (5, true)]);
        assert_eq!(at("/srv x")[0].id, 3);
        assert_eq!(at("/srv x")[0].identity, at("/srv")[0].identity);
        assert_ne!(at("/srv")[0].identity, at("/srv")[1].identity);
        assert_eq!(at("/sr"), []);
    }
}
