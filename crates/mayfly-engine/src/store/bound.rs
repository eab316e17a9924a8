//! How many changes a watch gives at once: whoever watches holds so much, however far behind it is.

use super::{Change, Revision};

/// About so many bytes of keys and values.
pub(super) const WATCH_BYTES: usize = 64 << 10;

/// The first of `changes` (in order), whole transactions only. Where not all of them were taken, also the revision up to
/// which they were.
pub(super) fn first_of<E>(
    changes: impl Iterator<Item = Result<Change, E>>,
) -> Result<(Vec<Change>, Option<Revision>), E> {
    let mut taken: Vec<Change> = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let change = change?;
        let full = bytes >= WATCH_BYTES;
        if let Some(last) = taken
            .last()
            .filter(|last| full && last.revision != change.revision)
        {
            let up_to = last.revision;
            return Ok((taken, Some(up_to)));
        }
        bytes += change.key.len() + change.value.as_ref().map_or(0, String::len);
        taken.push(change);
    }
    Ok((taken, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, bytes: usize) -> Result<Change, ()> {
        Ok(Change {
            revision: Revision(revision),
            key: String::new(),
            value: Some("x".repeat(bytes)),
        })
    }

    #[test]
    fn a_transaction_is_never_cut_in_two() {
        let taken = |sizes: &[(u64, usize)]| {
            let all = sizes
                .iter()
                .map(|(revision, bytes)| change(*revision, *bytes));
            let (taken, up_to) = first_of(all).unwrap();
            (taken.len(), up_to)
        };
        assert_eq!(taken(&[]), (0, None));
        assert_eq!(taken(&[(1, 10), (2, 10)]), (2, None));
        assert_eq!(
            taken(&[(1, WATCH_BYTES), (1, WATCH_BYTES), (2, 1)]),
            (2, Some(Revision(1)))
        );
        assert_eq!(
            taken(&[(1, WATCH_BYTES - 1), (2, 1), (3, 1), (4, 1)]),
            (2, Some(Revision(2)))
        );
        assert_eq!(taken(&[(5, WATCH_BYTES * 3)]), (1, None));
    }
}
