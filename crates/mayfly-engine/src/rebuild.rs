//! Rebuilding a lost, damaged or outdated state: looks, has [`mayfly_core::rebuild`] decide, and writes the new database
//! beside the old one. Putting it into the old one's place is for whoever has closed that.

use std::path::Path;

use mayfly_core::documents::{SCHEMA, SparedDoc};
use mayfly_core::error::Refusal;
use mayfly_core::rebuild::{NotRebuilt, Rebuilt, rebuild};

use crate::engine::Engine;
use crate::keys;
use crate::store::{Revision, SqliteStore, StoreError, Write};

impl Engine {
    /// What the state would be rebuilt as; none where it is whole and as new as the pool. `no_state` says why the old one
    /// cannot be used at all.
    pub fn plan_rebuild(&self, no_state: Option<&Refusal>) -> Result<Option<Rebuilt>, Refusal> {
        let seen = self.look_over(no_state)?;
        let clock = &self.deps().clock;
        match rebuild(&seen, &clock.boot_id(), clock.unix_ms()) {
            Ok(rebuilt) => Ok(Some(rebuilt)),
            Err(NotRebuilt::NothingToDo) => Ok(None),
            Err(NotRebuilt::Look(failed)) => Err(failed.into()),
        }
    }
}

/// Writes a rebuilt state into a new file, which is whole and on the disk when this returns.
pub fn write_rebuilt(rebuilt: &Rebuilt, file: &Path) -> Result<(), StoreError> {
    let mut writes = Vec::new();
    for doc in &rebuilt.templates {
        writes.push(Write::put_doc(keys::template(&doc.name), doc)?);
    }
    for doc in &rebuilt.vpses {
        writes.push(Write::put_doc(keys::vps(doc.id), doc)?);
    }
    if !rebuilt.spared.is_empty() {
        let doc = SparedDoc {
            schema: SCHEMA,
            datasets: rebuilt.spared.clone(),
        };
        writes.push(Write::put_doc(keys::SPARED, &doc)?);
    }
    SqliteStore::make(file, Revision(rebuilt.above + 1), writes)
}
