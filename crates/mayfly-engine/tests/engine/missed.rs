//! A store that takes nothing for a while, as one on a full disk. What a VPS is due is asked for when it can be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mayfly_core::documents::Desired;
use mayfly_engine::store::{
    Entry, LeaseId, Revision, Snapshot, Store, StoreError, Txn, TxnOutcome, Watched,
};

use crate::world::{Death, World, ask, create, doc, settle, vps};

struct Full {
    store: Arc<dyn Store>,
    full: Arc<AtomicBool>,
}

impl Store for Full {
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.store.get(key)
    }

    fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        self.store.range(prefix)
    }

    fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(StoreError::Full {
                place: "memory".into(),
                cause: "the disk is full".into(),
            });
        }
        self.store.txn(txn)
    }

    fn check(&self) -> Result<Vec<String>, StoreError> {
        self.store.check()
    }

    fn watch(&self, prefix: &str, after: Revision, wait: Duration) -> Result<Watched, StoreError> {
        self.store.watch(prefix, after, wait)
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease)
    }
}

#[test]
fn a_run_that_ended_while_nothing_could_be_recorded_is_settled_later() {
    let full = Arc::new(AtomicBool::new(false));
    let mut world = World::new(&Default::default());
    world.store = Arc::new(Full {
        store: Arc::clone(&world.store),
        full: Arc::clone(&full),
    });
    let engine = world.engine(Death::Never);
    ask(&engine, create("debian-12-impermanence", true));
    settle(&engine);
    let first = world.host.root_of(vps()).unwrap();
    full.store(true, Ordering::SeqCst);
    world.host.guest_crash(vps());
    settle(&engine);
    engine.settle_missed();
    assert!(!world.host.is_running(vps()), "nothing could be recorded");
    full.store(false, Ordering::SeqCst);
    engine.settle_missed();
    settle(&engine);
    assert_ne!(world.host.root_of(vps()), Some(first));
    assert_eq!(doc(&engine).desired, Desired::Running);
    world.assert_sound("after the store took writes again");
}
