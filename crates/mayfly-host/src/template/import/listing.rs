//! What `tar --list --verbose` says of an archive, entry by entry, and what of it no template may have.
//!
//! The listing comes from the very program that unpacks the archive afterwards, so the two cannot read it differently.
//! Names are quoted as in C: one entry is one line, whatever is in its name.

use std::collections::BTreeSet;

use super::Bounds;

/// A line that is longer is none of an entry: a name and a target of 4096 bytes, each of them four characters.
const LINE: usize = 64 << 10;
/// So many bytes of names of links are remembered.
const LINKS: usize = 256 << 20;

/// What tar is told so that it prints what is read here: names and targets as the archive has them, not as they would be
/// made harmless.
pub(super) const ARGS: [&str; 5] = [
    "--list",
    "--absolute-names",
    "--verbose",
    "--numeric-owner",
    "--quoting-style=c",
];

/// What an archive is, as far as its listing tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its entries.
    pub(super) entries: u64,
    /// The bytes of its files when they are unpacked, holes included.
    pub(super) bytes: u64,
    /// How it names the `metadata.yaml` at its top, where it has one.
    pub(super) metadata: Option<&'static str>,
    /// How it names the directory `rootfs` at its top. With `metadata.yaml` it is Incus' unified image then.
    pub(super) rootfs: Option<&'static str>,
}

impl Listed {
    /// Whether it has both, the tree and what it is.
    pub(super) fn is_unified(&self) -> bool {
        self.metadata.is_some() && self.rootfs.is_some()
    }
}

/// Takes a listing as it comes.
pub(super) struct Checker {
    bounds: Bounds,
    line: Vec<u8>,
    /// Paths that are symbolic links, without the `/` before them.
    links: BTreeSet<Vec<u8>>,
    link_bytes: usize,
    listed: Listed,
    /// What is wrong if the tree is in `rootfs`, and what is if it is not.
    bad_if_unified: Option<String>,
    bad_if_plain: Option<String>,
    bad: Option<String>,
}

struct Entry {
    kind: u8,
    bytes: u64,
    path: Vec<u8>,
    target: Option<Vec<u8>>,
}

impl Checker {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            line: Vec::new(),
            links: BTreeSet::new(),
            link_bytes: 0,
            listed: Listed::default(),
            bad_if_unified: None,
            bad_if_plain: None,
            bad: None,
        }
    }

    /// A piece of the listing; false once it is known to be bad.
    pub(super) fn take(&mut self, piece: &[u8]) -> bool {
        for &byte in piece {
            if byte != b'\n' {
                self.line.push(byte);
            }
            let checked = if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                parse(&line).and_then(|entry| self.check(&entry))
            } else if self.line.len() > LINE {
                Err("the name of an entry is too long".to_owned())
            } else {
                Ok(())
            };
            if let Err(why) = checked {
                self.bad.get_or_insert(why);
                return false;
            }
        }
        true
    }

    /// What the archive is, or what is wrong with it; to be asked first, before why the listing ended.
    pub(super) fn verdict(self) -> Result<Listed, String> {
        let bad = self.bad.or(if self.listed.is_unified() {
            self.bad_if_unified
        } else {
            self.bad_if_plain
        });
        bad.map_or(Ok(self.listed), Err)
    }

    fn check(&mut self, entry: &Entry) -> Result<(), String> {
        let shown = shown(&entry.path);
        let parts = parts(&entry.path).map_err(|why| format!("the entry {shown} {why}"))?;
        self.listed.entries += 1;
        self.bounds.entries(self.listed.entries)?;
        self.below_no_link(&parts)
            .map_err(|link| format!("the entry {shown} lies below the symbolic link {link}"))?;
        match entry.kind {
            b'd' | b'p' => {}
            b'-' | b'C' => {
                self.listed.bytes = self.listed.bytes.saturating_add(entry.bytes);
                self.bounds.bytes(self.listed.bytes)?;
            }
            b'l' => {
                let path = parts.join(&b'/');
                self.link_bytes += path.len();
                if self.link_bytes > LINKS {
                    return Err("its symbolic links have too many names".to_owned());
                }
                self.links.insert(path);
            }
            b'h' => self.check_hard_link(entry, &parts, &shown)?,
            b'c' | b'b' => match parts.as_slice() {
                [b"dev", _, ..] => {
                    let why = format!("the device node {shown} is not in /dev");
                    self.bad_if_unified.get_or_insert(why);
                }
                [b"rootfs", b"dev", _, ..] => {
                    let why = format!("the device node {shown} is not in /dev");
                    self.bad_if_plain.get_or_insert(why);
                }
                _ => return Err(format!("the device node {shown} is not in /dev")),
            },
            other => {
                let kind = char::from(other).escape_debug().to_string();
                return Err(format!(
                    "the entry {shown} is of a kind that no file system has ({kind})"
                ));
            }
        }
        match (entry.kind, entry.path.as_slice()) {
            (b'-', b"metadata.yaml") => self.listed.metadata = Some("metadata.yaml"),
            (b'-', b"./metadata.yaml") => self.listed.metadata = Some("./metadata.yaml"),
            (b'd', b"rootfs" | b"rootfs/") => self.listed.rootfs = Some("rootfs"),
            (b'd', b"./rootfs" | b"./rootfs/") => self.listed.rootfs = Some("./rootfs"),
            _ => {}
        }
        Ok(())
    }

    fn check_hard_link(
        &mut self,
        entry: &Entry,
        path: &[&[u8]],
        shown_path: &str,
    ) -> Result<(), String> {
        let target = entry.target.as_deref().unwrap_or_default();
        let told = format!("the hard link {shown_path} to {}", shown(target));
        let to = parts(target).map_err(|why| format!("{told} {why}"))?;
        self.below_no_link(&to)
            .map_err(|link| format!("{told} goes through the symbolic link {link}"))?;
        let inside = |parts: &[&[u8]]| parts.first() == Some(&b"rootfs".as_slice());
        if inside(path) && !inside(&to) {
            self.bad_if_unified
                .get_or_insert(format!("{told} leads out of the tree"));
        }
        Ok(())
    }

    fn below_no_link(&self, parts: &[&[u8]]) -> Result<(), String> {
        for end in 1..parts.len() {
            let above = parts[..end].join(&b'/');
            if self.links.contains(&above) {
                return Err(shown(&above));
            }
        }
        Ok(())
    }
}

/// The parts of a path that stays in the tree.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.first() == Some(&b'/') {
        return Err("has an absolute name");
    }
    let parts: Vec<&[u8]> = path
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.contains(&b"..".as_slice()) {
        return Err("leads out of the tree");
    }
    Ok(parts)
}

fn shown(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(200).collect();
    format!("`{}`", text.escape_debug())
}

/// One line of the listing.
fn parse(line: &[u8]) -> Result<Entry, String> {
    let strange = || {
        let line: String = String::from_utf8_lossy(line).chars().take(200).collect();
        format!("tar says something strange of it: {}", line.escape_debug())
    };
    let quote = line.iter().position(|b| *b == b'"').ok_or_else(strange)?;
    let before = std::str::from_utf8(&line[..quote]).map_err(|_| strange())?;
    let fields: Vec<&str> = before.split_ascii_whitespace().collect();
    let (Some(kind), Some(size)) = (
        fields.first().and_then(|mode| mode.bytes().next()),
        fields.get(2),
    ) else {
        return Err(strange());
    };
    let (path, rest) = unquote(&line[quote..]).ok_or_else(strange)?;
    let bytes = if matches!(kind, b'c' | b'b') {
        0
    } else {
        size.parse().map_err(|_| strange())?
    };
    let target = match (kind, rest) {
        (b'l' | b'h', rest) => {
            let arrow: &[u8] = if kind == b'l' { b" -> " } else { b" link to " };
            let quoted = rest.strip_prefix(arrow).ok_or_else(strange)?;
            match unquote(quoted) {
                Some((target, [])) => Some(target),
                _ => return Err(strange()),
            }
        }
        (_, []) => None,
        _ => return Err(strange()),
    };
    Ok(Entry {
        kind,
        bytes,
        path,
        target,
    })
}

/// A text in quotes, and what follows it.
fn unquote(quoted: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = quoted.strip_prefix(b"\"")?;
    let mut text = Vec::new();
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => return Some((text, rest)),
            b'\\' => {
                let (&escaped, after) = rest.split_first()?;
                rest = after;
                text.push(match escaped {
                    b'a' => 7,
                    b'b' => 8,
                    b't' => b'\t',
                    b'n' => b'\n',
                    b'v' => 11,
                    b'f' => 12,
                    b'r' => b'\r',
                    b'"' | b'\\' | b'?' => escaped,
                    b'0'..=b'3' => {
                        let (more, after) = rest.split_at_checked(2)?;
                        rest = after;
                        let digits = std::str::from_utf8(more).ok()?;
                        let low = u8::from_str_radix(digits, 8).ok()?;
                        (escaped - b'0') << 6 | low
                    }
                    _ => return None,
                });
            }
            byte => text.push(byte),
        }
    }
}

#[cfg(test)]
mod tests;
