//! Copying trees, and taking directories out of them.

use mayfly_core::bytes::Bytes;
use mayfly_core::error::LookFailed;
use mayfly_core::ports::{Cancel, HostResult, Outcome};
use mayfly_core::trees::{TakeTo, TakenOut, TreeCopied, TreeCopy};

use super::pool::{BtrfsPool, PRIVATE};
use crate::storage::contained::{DIRECTORY, open_below};
use crate::storage::copy::{Blocks, Copying};
use crate::storage::taken::take_out;

impl BtrfsPool {
    pub(super) fn copy(
        &self,
        copy: &TreeCopy,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<TreeCopied> {
        let (from, to) = (
            self.subvolume_must(&copy.from)?,
            self.subvolume_must(&copy.to)?,
        );
        copy.check_from(&self.own_mark(&copy.from, &from.uuid)?)?;
        copy.check_to(&self.own_mark(&copy.to, &to.uuid)?)?;
        self.check_room(&format!("copying into dataset {}", copy.to))?;
        let look = |e| LookFailed::new(format!("the contents of dataset {}", copy.from), e);
        let copying = Copying {
            copy,
            from: open_below(&from.fd, PRIVATE, DIRECTORY).map_err(look)?,
            to: to.fd,
            blocks: Blocks::Written,
            sync: &|| self.sync(),
            cancel,
            progress,
        };
        let copied = copying.run()?;
        Ok(TreeCopied {
            outcome: match copied {
                Some(_) => Outcome::Changed,
                None => Outcome::Unchanged,
            },
            copied: copied.unwrap_or_default(),
            shared: Bytes(0),
        })
    }

    pub(super) fn take(&self, what: &TakenOut, to: TakeTo) -> HostResult<Outcome> {
        let dataset = self.subvolume_must(&what.dataset)?;
        what.check(&self.own_mark(&what.dataset, &dataset.uuid)?)?;
        let outcome = take_out(&dataset.fd, what, to)?;
        // Also where an earlier call did it: that one may not have come so far.
        self.sync()?;
        Ok(outcome)
    }
}
