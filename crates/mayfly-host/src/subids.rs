//! Host ids that `/etc/subuid` and `/etc/subgid` have given to others.

use std::io;

use mayfly_core::run::IdRange;

/// Every range of both files. A file that is not there gives none; one that cannot be read is an error.
pub fn observe_reserved_ranges() -> io::Result<Vec<IdRange>> {
    let mut ranges = Vec::new();
    for file in ["/etc/subuid", "/etc/subgid"] {
        match std::fs::read_to_string(file) {
            Ok(text) => ranges.extend(parse_subids(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{file}: {error}"))),
        }
    }
    Ok(ranges)
}

/// Lines of `name:first:count`. Root's own entries are left out: they are what a container host sets aside for
/// containers, and Mayfly is that host's. Other lines that are malformed give nothing, as the shadow tools ignore them.
pub fn parse_subids(text: &str) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().splitn(3, ':');
            let name = fields.next()?;
            let first = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok()?;
            (name != "root" && name != "0").then_some(IdRange { first, count })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_other_users_are_read_and_broken_lines_are_not() {
        let text = "root:1000000:1000000000\nann:100000:65536\n\nbad\nbob:x:1\n1001:165536:65536\n";
        let want = [
            IdRange {
                first: 100_000,
                count: 65_536,
            },
            IdRange {
                first: 165_536,
                count: 65_536,
            },
        ];
        assert_eq!(parse_subids(text), want);
    }
}
