//! Mirrors of documents, and the generation of the pool.

use super::rig::Can;
use super::scene::Scene;
use crate::mirror::MirrorKey;
use crate::ports::{Outcome, Storage};

fn key(text: &str) -> MirrorKey {
    MirrorKey::new(text).unwrap()
}

pub(super) fn a_mirror_comes_back_as_it_was_put(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let (vps, template) = (key("/vps/181"), key("/templates/debian-12"));
    assert!(storage.mirrors().unwrap().is_empty());
    assert_eq!(storage.put_mirror(&vps, "one\ntwo\n"), Ok(Outcome::Changed));
    assert_eq!(storage.put_mirror(&template, ""), Ok(Outcome::Changed));
    assert_eq!(storage.put_mirror(&vps, "three\n"), Ok(Outcome::Changed));
    assert_eq!(storage.put_mirror(&vps, "three\n"), Ok(Outcome::Unchanged));
    let all = storage.mirrors().unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[&vps], Ok("three\n".to_owned()));
    assert_eq!(all[&template], Ok(String::new()));
    assert!(storage.observe().unwrap().datasets.is_empty());
    assert_eq!(storage.clear_staging(), Ok(Vec::new()));
    for one in [&vps, &template] {
        assert_eq!(storage.remove_mirror(one), Ok(Outcome::Changed));
        assert_eq!(storage.remove_mirror(one), Ok(Outcome::Unchanged));
    }
    assert!(storage.mirrors().unwrap().is_empty());
    Ok(())
}

pub(super) fn a_mirror_may_be_large_and_the_pool_full_of_them(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let large = "x".repeat(200_000);
    let keys: Vec<_> = (0..20)
        .map(|n| key(&format!("/vps/{}", 1000 + n)))
        .collect();
    for one in &keys {
        assert_eq!(storage.put_mirror(one, &large), Ok(Outcome::Changed));
    }
    let all = storage.mirrors().unwrap();
    assert!(all.len() == 20 && all.values().all(|text| text.as_ref() == Ok(&large)));
    for one in &keys {
        assert_eq!(storage.remove_mirror(one), Ok(Outcome::Changed));
    }
    Ok(())
}

pub(super) fn the_generation_only_rises(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    // A pool keeps it for ever, so this goes on from where an earlier pass left it.
    let before = storage.generation().unwrap().unwrap_or(0);
    for (to, outcome) in [
        (before + 3, Outcome::Changed),
        (before + 3, Outcome::Unchanged),
        (before + 1, Outcome::Unchanged),
        (before + 70_000, Outcome::Changed),
    ] {
        assert_eq!(storage.raise_generation(to), Ok(outcome));
        assert!(storage.generation().unwrap() >= Some(to));
    }
    assert_eq!(storage.generation(), Ok(Some(before + 70_000)));
    assert!(storage.mirrors().unwrap().is_empty());
    Ok(())
}
