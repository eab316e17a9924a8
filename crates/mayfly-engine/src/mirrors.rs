//! Keeps the mirrors of documents in the pool as they are in the state.
//!
//! A mirror is written after its document was committed, never before: it may be behind the state, by a moment, and is
//! never ahead of it. What nothing in the pool could tell (a VPS with its ids, datasets and mounts; a template) is mirrored
//! before its operation goes on; what changes with every start and stop follows in the background.
//!
//! A mirror that cannot be written stops no operation: the document is safe where it is, and a VPS must stop and start also
//! in a pool without room. It is told of (`mayfly pool show`, `mayfly status`, `mayfly fsck`), and tried again until it is
//! written. Mirrors of documents that cannot be read stay as they are, and so do all while the state is [held](crate::held).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use mayfly_core::documents::{NodeDoc, TemplateDoc, VpsDoc};
use mayfly_core::error::Refusal;
use mayfly_core::mirror::{Mirror, MirrorKey};
use mayfly_core::ports::HostError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::Engine;
use crate::keys;
use crate::store::{Doc, Revision, TypedStore};

/// What changes with every start and stop waits so long for more of the same.
const GATHER: Duration = Duration::from_millis(300);

/// How often what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is in the pool, as far as this daemon knows.
#[derive(Debug, Default)]
pub(crate) struct Mirrored {
    /// Revisions by key. Held while a mirror is written, so that an older one never replaces a newer.
    known: Mutex<BTreeMap<String, u64>>,
    /// What could not be written, by key, and why.
    trouble: Mutex<BTreeMap<String, String>>,
}

type Known = BTreeMap<String, u64>;

/// The document of a key with its text as it is mirrored.
pub(crate) fn mirror_of<T: Serialize>(found: &Doc<T>) -> Option<Mirror> {
    Some(Mirror {
        key: MirrorKey::new(&found.key)?,
        revision: found.mod_revision.0,
        document: serde_json::to_string(&found.doc).ok()?,
    })
}

impl Engine {
    /// The mirrors in the pool that make sense, by key.
    pub(crate) fn read_mirrors(
        &self,
    ) -> Result<BTreeMap<MirrorKey, Result<Mirror, String>>, Refusal> {
        let read = self.deps().storage.mirrors()?;
        let parse = |(key, text): (MirrorKey, Result<String, String>)| {
            let mirror = text.and_then(|text| Mirror::parse(&key, &text));
            (key, mirror)
        };
        Ok(read.into_iter().map(parse).collect())
    }

    /// The mirror of a VPS whose document cannot be used.
    pub(crate) fn mirrored_vps(&self, key: &str) -> Result<Option<VpsDoc>, Refusal> {
        let found = self
            .read_mirrors()?
            .into_iter()
            .find(|(one, _)| one.as_str() == key);
        let doc = found.and_then(|(_, mirror)| serde_json::from_str(&mirror.ok()?.document).ok());
        Ok(doc)
    }

    /// At the start of a daemon: what is in the pool is looked at, what is missing or behind is written, and mirrors of
    /// what is not there any more are removed.
    pub(crate) fn adopt_mirrors(&self) {
        let found = match self.read_mirrors() {
            Ok(found) => found,
            Err(why) => {
                tracing::warn!(%why, "the mirrors could not be looked at");
                return;
            }
        };
        let valid = found.iter().filter_map(|(key, mirror)| {
            Some((key.as_str().to_owned(), mirror.as_ref().ok()?.revision))
        });
        *self.known() = valid.collect();
        if let Err(why) = self.drop_stale_mirrors(&found) {
            tracing::warn!(%why, "mirrors of what is gone stay");
        }
        self.mirror_once();
    }

    /// Mirrors without a document, where nothing of what they speak of is in the pool: an operation that destroyed it was
    /// cut off before it came to the mirror.
    fn drop_stale_mirrors(
        &self,
        found: &BTreeMap<MirrorKey, Result<Mirror, String>>,
    ) -> Result<(), Refusal> {
        let pool = self.deps().storage.observe()?;
        for key in found.keys() {
            let there = self.deps().store.get(key.as_str())?.is_some();
            if !there && mayfly_core::fsck::is_mirror_of_nothing(key, found.get(key), &pool) {
                self.deps().storage.remove_mirror(key)?;
            }
        }
        Ok(())
    }

    pub(crate) fn wake_mirrors(&self) {
        let (due, wake) = &self.inner.mirror;
        *due.lock().expect("no thread panics with it") = true;
        wake.notify_all();
    }

    pub(crate) fn keep_mirrors(&self) {
        let (due, wake) = &self.inner.mirror;
        while !self.stopping() {
            {
                let wait = if self.mirror_trouble().is_empty() {
                    Duration::from_secs(30)
                } else {
                    AGAIN
                };
                let guard = due.lock().expect("no thread panics with it");
                let (mut guard, _) = wake
                    .wait_timeout_while(guard, wait, |due| !*due)
                    .expect("no thread panics with it");
                *guard = false;
            }
            if !self.stopping() {
                std::thread::sleep(GATHER);
                self.mirror_once();
            }
        }
    }

    /// Writes every mirror that is behind.
    pub fn mirror_once(&self) {
        if self.held().is_some() {
            return;
        }
        let mut known = self.known();
        let listed = self.mirror_all(&mut known);
        self.note("the state", listed);
    }

    fn mirror_all(&self, known: &mut Known) -> Result<(), HostError> {
        let store = &*self.deps().store;
        let node = Doc {
            key: keys::NODE.to_owned(),
            doc: self.node().clone(),
            create_revision: Revision(0),
            mod_revision: Revision(0),
        };
        self.note(keys::NODE, self.put_mirror::<NodeDoc>(known, &node));
        let vpses = store
            .list_docs::<VpsDoc>(keys::VPSES)
            .map_err(Refusal::from)?;
        for found in vpses.docs {
            self.note(&found.key, self.put_mirror(known, &found));
        }
        let templates = store
            .list_docs::<TemplateDoc>(keys::TEMPLATES)
            .map_err(Refusal::from)?;
        for found in templates.docs {
            self.note(&found.key, self.put_mirror(known, &found));
        }
        Ok(())
    }

    fn put_mirror<T: Serialize>(&self, known: &mut Known, found: &Doc<T>) -> Result<(), HostError> {
        let Some(mirror) = mirror_of(found) else {
            return Ok(());
        };
        if known.get(&found.key) != Some(&mirror.revision) {
            self.deps()
                .storage
                .put_mirror(&mirror.key, &mirror.render())?;
            known.insert(found.key.clone(), mirror.revision);
        }
        Ok(())
    }

    /// Brings one mirror up to date now: it is written, or removed where the document is gone.
    pub(crate) fn mirror_now(&self, key: &str) {
        if self.held().is_some() {
            return;
        }
        let mut known = self.known();
        let done = if key.starts_with(keys::VPSES) {
            self.mirror_one::<VpsDoc>(&mut known, key)
        } else {
            self.mirror_one::<TemplateDoc>(&mut known, key)
        };
        self.note(key, done);
    }

    fn mirror_one<T: Serialize + DeserializeOwned>(
        &self,
        known: &mut Known,
        key: &str,
    ) -> Result<(), HostError> {
        let found = self.deps().store.get_doc::<T>(key).map_err(Refusal::from)?;
        if let Some(found) = found {
            return self.put_mirror(known, &found);
        }
        known.remove(key);
        if let Some(key) = MirrorKey::new(key) {
            self.deps().storage.remove_mirror(&key)?;
        }
        Ok(())
    }

    /// The pool's generation follows the state's revision. One that cannot be raised is told of, like a mirror.
    pub(crate) fn raise_generation(&self, to: u64) {
        let raised = self.deps().storage.raise_generation(to);
        self.note("the generation", raised.map(drop));
    }

    /// What could not be written into the pool, in words.
    pub(crate) fn mirror_trouble(&self) -> Vec<String> {
        let told = |(key, why): (&String, &String)| format!("the mirror of {key} is behind: {why}");
        self.trouble().iter().map(told).collect()
    }

    /// Remembers what became of a key, and logs it when that has changed.
    fn note(&self, key: &str, done: Result<(), HostError>) {
        let mut trouble = self.trouble();
        match done {
            Ok(()) => {
                if trouble.remove(key).is_some() {
                    tracing::info!(key, "mirrored again");
                }
            }
            Err(error) => {
                let why = error.to_string();
                if trouble.get(key) != Some(&why) {
                    tracing::warn!(key, why, "a mirror is behind; it is tried again");
                }
                trouble.insert(key.to_owned(), why);
            }
        }
    }

    /// Writes this mirror whatever is thought to be there.
    pub(crate) fn rewrite_mirror(&self, key: &str) -> Result<(), Refusal> {
        self.known().remove(key);
        self.mirror_once();
        match self.trouble().get(key) {
            None => Ok(()),
            Some(why) => Err(Refusal::new(
                mayfly_core::error::Code::HostFailed,
                format!("the mirror of {key} could not be written: {why}"),
                "mend the cause; it is tried again",
            )),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner
            .mirrored
            .known
            .lock()
            .expect("no thread panics with it")
    }

    fn trouble(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.inner
            .mirrored
            .trouble
            .lock()
            .expect("no thread panics with it")
    }
}
