//! The mirrors of a fake host's pool.

use super::storage::refuse;
use super::{DIED, FakeHost};
use crate::bytes::Bytes;
use crate::error::Code;
use crate::mirror::MirrorKey;
use crate::ports::{HostError, HostResult, Outcome};

impl FakeHost {
    /// A call that writes or removes a mirror is done or not: it is one rename.
    pub(super) fn write_mirror(&self, key: &MirrorKey, text: Option<&str>) -> HostResult<Outcome> {
        let what = if text.is_some() {
            "mirror"
        } else {
            "forget the mirror of"
        };
        self.mutate(format!("{what} {key}"), |world, _| {
            let want = text.map(|text| Ok(text.to_owned()));
            if world.mirrors.get(key) == want.as_ref() {
                return Ok(Outcome::Unchanged);
            }
            match want {
                Some(_) if world.free() == Bytes(0) => {
                    return refuse(Code::PoolFull, format!("no room for the mirror of {key}"));
                }
                Some(want) => drop(world.mirrors.insert(key.clone(), want)),
                None => drop(world.mirrors.remove(key)),
            }
            Ok(Outcome::Changed)
        })
    }

    /// Not one of the calls that a daemon dies at: it follows every commit, and without it the pool is behind the state, as
    /// it is before the call.
    pub(super) fn write_generation(&self, to: u64) -> HostResult<Outcome> {
        let mut world = self.world();
        let what = format!("raising the generation to {to}");
        if self.is_dead(&world) {
            return Err(HostError::failed(what, DIED));
        }
        world.can_look(&what)?;
        if world.generation >= Some(to) {
            return Ok(Outcome::Unchanged);
        }
        world.generation = Some(to);
        Ok(Outcome::Changed)
    }

    /// Someone damages a mirror, or (with none) removes it.
    pub fn damage_mirror(&self, key: &str, text: Option<&str>) {
        let key = MirrorKey::new(key).expect("the key that a test names is one");
        let mut world = self.world();
        match text {
            Some(text) => drop(world.mirrors.insert(key, Ok(text.to_owned()))),
            None => drop(world.mirrors.remove(&key)),
        }
    }
}
