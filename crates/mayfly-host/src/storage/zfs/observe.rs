//! A look at the whole pool.

use std::collections::BTreeMap;

use mayfly_core::error::LookFailed;
use mayfly_core::names::PoolPath;
use mayfly_core::observed::PoolSeen;

use super::marks::{self, OF_A_DATASET};
use super::pool::{OF_THE_POOL, ZfsPool, is_own, room_in};

impl ZfsPool {
    pub(super) fn observe_pool(&self) -> Result<PoolSeen, LookFailed> {
        let object = format!("the datasets in {}", self.dataset);
        let look = |e| LookFailed::new(&object, e);
        let properties: Vec<&str> = OF_A_DATASET.iter().chain(&OF_THE_POOL).copied().collect();
        let (rows, mut snapshots) = {
            let _still = self.hold_shape();
            // Two commands, neither of which waits for the other.
            std::thread::scope(|scope| {
                let snapshots = scope.spawn(|| self.all_snapshots());
                let how = ["-r", "-t", "filesystem,volume"];
                let rows = self
                    .zfs
                    .get(&how, &properties, &[&self.dataset])
                    .map_err(|failed| failed.of_look(&object));
                let snapshots = snapshots
                    .join()
                    .unwrap_or_else(|_| Err(LookFailed::new(&object, "a thread panicked")));
                Ok::<_, LookFailed>((rows?, snapshots?))
            })?
        };
        let pool = rows
            .iter()
            .find(|row| row.name == self.dataset)
            .ok_or_else(|| LookFailed::new(&object, "the pool itself is not in the answer"))?;
        if pool.number("guid") != Ok(self.guid) {
            return Err(LookFailed::new(
                &object,
                "there is another pool in its place",
            ));
        }
        let (capacity, free) = room_in(pool)?;
        let mut datasets = BTreeMap::new();
        for row in rows {
            let Some(name) = self.relative(&row.name).and_then(PoolPath::from_pool) else {
                continue;
            };
            if is_own(&name) {
                continue;
            }
            let own = snapshots.remove(&row.name).unwrap_or_default();
            datasets.insert(name, marks::seen(&self.dataset, &row, own).map_err(look)?);
        }
        Ok(PoolSeen {
            datasets,
            capacity,
            free,
        })
    }

    /// All snapshots in the pool, by the whole name of their dataset.
    fn all_snapshots(&self) -> Result<BTreeMap<String, Vec<String>>, LookFailed> {
        let args = [
            "list",
            "-H",
            "-t",
            "snapshot",
            "-r",
            "-o",
            "name",
            &self.dataset,
        ];
        let out = self
            .zfs
            .run(args)
            .map_err(|failure| failure.of_look(&format!("the snapshots in {}", self.dataset)))?;
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (dataset, name) in out.text().lines().filter_map(|line| line.split_once('@')) {
            all.entry(dataset.to_owned())
                .or_default()
                .push(name.to_owned());
        }
        Ok(all)
    }
}
