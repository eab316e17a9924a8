//! A squashfs image: what its superblock and the listing of `unsquashfs -lln` say of it.
//!
//! The listing does not quote names, so a name with a newline may look like more lines than it is. It can add to what is
//! counted and refused, never hide: the line of an entry begins with what unsquashfs says of it.

use super::Bounds;

/// The first bytes of an image.
pub(super) const MAGIC: [u8; 4] = *b"hsqs";
/// So many bytes are read of its beginning.
pub(super) const SUPERBLOCK: usize = 96;

/// Checks what can be checked before anything reads the image: that all of it is there, and that it is none of too many
/// entries.
pub(super) fn check_superblock(
    block: &[u8; SUPERBLOCK],
    file_bytes: u64,
    bounds: Bounds,
) -> Result<(), String> {
    let number = |at: usize, len: usize| {
        block[at..at + len]
            .iter()
            .rev()
            .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    if number(28, 2) != 4 {
        return Err(format!("it is of version {}, known is 4", number(28, 2)));
    }
    let wants = number(40, 8);
    if wants > file_bytes {
        return Err(format!(
            "it is cut off: it has {file_bytes} bytes, and says that it has {wants}"
        ));
    }
    bounds.entries(number(4, 4))
}

/// Takes the listing as it comes.
pub(super) struct Checker {
    bounds: Bounds,
    line: Vec<u8>,
    entries: u64,
    bytes: u64,
    bad: Option<String>,
}

impl Checker {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            line: Vec::new(),
            entries: 0,
            bytes: 0,
            bad: None,
        }
    }

    /// A piece of the listing; false once it is known to be bad.
    pub(super) fn take(&mut self, piece: &[u8]) -> bool {
        for &byte in piece {
            if byte != b'\n' {
                // What is cut off here is the rest of a name.
                if self.line.len() < 16 << 10 {
                    self.line.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if let Err(why) = self.check(&line) {
                self.bad.get_or_insert(why);
                return false;
            }
        }
        true
    }

    /// The bytes of its files, or what is wrong.
    pub(super) fn verdict(self) -> Result<u64, String> {
        self.bad.map_or(Ok(self.bytes), Err)
    }

    fn check(&mut self, line: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(line);
        let mut fields = text.split_ascii_whitespace();
        let (Some(mode), Some(owner)) = (fields.next(), fields.next()) else {
            return Ok(());
        };
        let is_mode = mode.len() == 10 && mode.is_ascii() && !mode.contains('/');
        if !is_mode || !owner.contains('/') {
            return Ok(());
        }
        self.entries += 1;
        self.bounds.entries(self.entries)?;
        match mode.as_bytes()[0] {
            b'c' | b'b' => {
                let inside = text
                    .split_once("squashfs-root/")
                    .map_or("", |(_, path)| path);
                if !inside.starts_with("dev/") {
                    return Err(format!(
                        "the device node `{}` is not in /dev",
                        inside.escape_debug()
                    ));
                }
            }
            b'-' => {
                let size = fields.next().and_then(|size| size.parse().ok());
                self.bytes = self.bytes.saturating_add(size.unwrap_or(0));
                self.bounds.bytes(self.bytes)?;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::bytes::Bytes;

    const BOUNDS: Bounds = Bounds {
        entries: 5,
        bytes: Bytes(1000),
        room: Bytes(900),
    };

    fn listed(text: &str) -> Result<u64, String> {
        let mut checker = Checker::new(BOUNDS);
        checker.take(text.as_bytes());
        checker.verdict()
    }

    #[test]
    fn what_is_listed_is_counted_whatever_names_look_like() {
        let fine = "drwxr-xr-x 0/0 27 2026-11-25 16:00 squashfs-root\n\
                    -rw-r--r-- 0/0 5 2026-11-25 16:00 squashfs-root/a b\n\
                    -rw-r--r-- 0/0 7 2026-11-25 16:00 squashfs-root/new\nline\n\
                    crw-r--r-- 0/0 1, 3 2026-11-25 16:00 squashfs-root/dev/null\n";
        assert_eq!(listed(fine), Ok(12));
        let outside = "crw-r--r-- 0/0 1,  3 2026-11-25 16:00 squashfs-root/etc/null\n";
        assert!(listed(outside).unwrap_err().contains("`etc/null`"));
        let big = "-rw-r--r-- 0/0 901 2026-11-25 16:00 squashfs-root/a\n";
        assert!(listed(big).unwrap_err().contains("room"));
        let many = "-rw-r--r-- 0/0 1 2026-11-25 16:00 squashfs-root/a\n".repeat(6);
        assert!(listed(&many).unwrap_err().contains("entries"));
    }

    #[test]
    fn a_superblock_tells_of_missing_bytes() {
        let mut block = [0; SUPERBLOCK];
        block[4] = 3;
        block[28] = 4;
        block[40] = 200;
        assert_eq!(check_superblock(&block, 200, BOUNDS), Ok(()));
        assert!(
            check_superblock(&block, 199, BOUNDS)
                .unwrap_err()
                .contains("cut off")
        );
        block[5] = 1;
        assert!(check_superblock(&block, 200, BOUNDS).is_err());
    }
}
