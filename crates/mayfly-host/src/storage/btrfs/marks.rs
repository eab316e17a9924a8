//! Marks: ownership records by subvolume uuid.

use mayfly_core::observed::{Mark, MarkSeen};
use mayfly_core::ports::HostResult;
use serde::{Deserialize, Serialize};

use super::pool::Uuid;
use crate::storage::records::{Records, VERSION};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkRecord {
    version: u32,
    uuid: String,
    mark: Mark,
}

impl Records {
    pub(super) fn mark(&self, uuid: &Uuid) -> MarkSeen {
        match self.read::<MarkRecord>(&uuid.to_string()) {
            Ok(None) => MarkSeen::Unset,
            Ok(Some(record)) if record.version != VERSION => MarkSeen::Unreadable(format!(
                "its version is {}, known is {VERSION}",
                record.version
            )),
            Ok(Some(record)) if record.uuid != uuid.to_string() => {
                MarkSeen::Unreadable("it was written for another dataset".to_owned())
            }
            Ok(Some(record)) => MarkSeen::Local(record.mark),
            Err(why) => MarkSeen::Unreadable(why),
        }
    }

    pub(super) fn write_mark(&self, uuid: &Uuid, mark: &Mark) -> HostResult<()> {
        let uuid = uuid.to_string();
        self.write(
            &uuid.clone(),
            &MarkRecord {
                version: VERSION,
                uuid,
                mark: mark.clone(),
            },
        )
    }
}
