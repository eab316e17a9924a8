//! Text of `/proc` in which a guest has a say: names of its processes and cgroups. It need not be UTF-8, and a line of it may
//! be as long as the kernel lets it be.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// A process in as many groups as there can be has a status of half of this.
const LIMIT: u64 = 1 << 20;

/// Reads such a file; what is no UTF-8 comes out replaced.
pub(super) fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_text_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("status");
        std::fs::write(&file, b"Name:\t\xff\xfe\nUid:\t7\t7\t7\t7\n").unwrap();
        let text = read_text(&file).unwrap();
        assert!(
            text.lines().any(|line| line == "Uid:\t7\t7\t7\t7"),
            "{text}"
        );
        assert!(read_text(dir.path().join("absent")).is_err());
    }
}
