//! An old copy of the state, a lost one, a document that cannot be used: nothing is destroyed, nothing is started with the
//! wrong run, and what can be known is rebuilt.

use std::sync::Arc;
use std::time::Duration;

use mayfly_core::documents::{Desired, VpsDoc};
use mayfly_core::error::Code;
use mayfly_core::fsck::Kind;
use mayfly_core::names::PoolPath;
use mayfly_core::rebuild::Rebuilt;
use mayfly_engine::store::{MemoryStore, Store, Txn, TypedStore, Write};
use mayfly_engine::{Engine, Intent};

use crate::world::{Death, World, ask, create, create_as, doc, settle, vps};

fn stop() -> Intent {
    Intent::Stop {
        timeout_ms: 1000,
        force: true,
        discard: false,
    }
}

fn new_store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(Arc::new(|| Duration::ZERO)))
}

/// A copy of a store as it is now, at the same revision.
fn copy(store: &Arc<dyn Store>) -> Arc<dyn Store> {
    let seen = store.range("/").unwrap();
    let copy = new_store();
    let put = |writes: Vec<Write>| {
        copy.txn(Txn {
            conditions: vec![],
            writes,
        })
        .unwrap();
    };
    for n in 1..seen.revision.0 {
        put(vec![Write::Put("/filler".into(), n.to_string())]);
    }
    let entries = seen
        .entries
        .iter()
        .map(|entry| Write::Put(entry.key.clone(), entry.value.clone()));
    put(entries.chain([Write::Delete("/filler".into())]).collect());
    assert_eq!(copy.range("/").unwrap().revision, seen.revision);
    copy
}

/// A store with a rebuilt state.
fn store_of(rebuilt: &Rebuilt) -> Arc<dyn Store> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.db");
    mayfly_engine::write_rebuilt(rebuilt, &file).unwrap();
    let clock = Arc::new(|| Duration::ZERO);
    let store = mayfly_engine::store::SqliteStore::open(&file, clock).unwrap();
    assert!(store.range("/").unwrap().revision.0 > rebuilt.above);
    // The file may go: it is open.
    Arc::new(store)
}

pub(crate) fn running() -> (World, Engine) {
    let world = World::new(&Default::default());
    let engine = world.recover();
    ask(&engine, create("debian-12-impermanence", true));
    settle(&engine);
    world
        .host
        .guest_write(vps(), "/persistent/kept", "dear data")
        .unwrap();
    (world, engine)
}

fn kinds(engine: &Engine) -> Vec<Kind> {
    let mut all: Vec<Kind> = engine
        .fsck(false)
        .unwrap()
        .findings
        .iter()
        .map(|f| f.code)
        .collect();
    all.dedup();
    all
}

#[test]
fn an_old_copy_of_the_state_destroys_starts_and_ends_nothing() {
    let (mut world, engine) = running();
    let remove = Intent::TemplateRemove {
        name: "nixos-shaped".parse().unwrap(),
    };
    engine.submit(None, remove, "test").unwrap();
    settle(&engine);
    let old = copy(&world.store);
    // What the copy does not know: another run, a last root, a template, a VPS, a dataset.
    ask(
        &engine,
        Intent::Restart {
            timeout_ms: 1000,
            force: true,
        },
    );
    let build = Intent::TemplateBuild {
        recipe: "nixos-shaped".into(),
        name: "later".parse().unwrap(),
        mirror: None,
        replace: false,
    };
    engine.submit(None, build, "test").unwrap();
    let other = 400.try_into().unwrap();
    let another = create_as(Some(other), "debian-12-impermanence", true);
    engine.submit(None, another, "test").unwrap();
    settle(&engine);
    engine.submit(Some(other), stop(), "test").unwrap();
    settle(&engine);
    let (there, running) = (world.host.datasets(), world.host.root_of(vps()));
    assert!(running.is_some() && !world.host.is_running(other));

    world.store = old;
    for power in [false, true] {
        world.host = if power {
            world.host.reboot()
        } else {
            world.host.restart_daemon()
        };
        let before = world.host.calls().len();
        let engine = world.engine(Death::Never);
        let found = engine.recover().unwrap();
        assert!(
            found.reports[0].contains("an older copy of it was put back"),
            "{found:?}"
        );
        assert!(found.reports[0].contains("mayfly recover"), "{found:?}");
        for intent in [Intent::Start, stop(), Intent::Destroy { now: true }] {
            let refused = engine.submit(Some(vps()), intent, "test").unwrap_err();
            assert_eq!(refused.code, Code::StateBehind);
            assert!(refused.hint.contains("mayfly recover"));
        }
        settle(&engine);
        engine.reap_once().unwrap();
        world.host.advance(Duration::from_secs(3600));
        engine.reap_due().unwrap();
        assert_eq!(
            world.host.calls()[before..],
            [] as [String; 0],
            "power cut: {power}"
        );
        assert_eq!(world.host.datasets(), there);
        let told = engine.pool().unwrap().reports.join("\n");
        for what in ["400", "templates/", "an older copy"] {
            assert!(told.contains(what), "{what} is not told: {told}");
        }
        assert_eq!(kinds(&engine), [Kind::StateBehind]);
        let repaired = engine.fsck(true).unwrap();
        assert!(
            repaired.mended.is_empty() && repaired.findings.len() == 1,
            "{repaired:?}"
        );
        assert_eq!(world.host.calls()[before..], [] as [String; 0]);
        if !power {
            assert_eq!(world.host.root_of(vps()), running, "it runs on");
        }
    }

    // Rebuilt, it knows again what it had forgotten.
    let engine = world.engine(Death::Never);
    engine.fsck(false).unwrap();
    let rebuilt = engine
        .plan_rebuild(None)
        .unwrap()
        .expect("there is something to rebuild");
    world.store = store_of(&rebuilt);
    world.host = world.host.restart_daemon();
    let engine = world.recover();
    let ids: Vec<_> = engine.vpses().unwrap().iter().map(|v| v.id).collect();
    assert_eq!(ids, [other, vps()]);
    assert!(
        engine
            .templates()
            .unwrap()
            .iter()
            .any(|t| t.name.as_str() == "later")
    );
    assert!(
        world.host.is_running(vps()),
        "it ought to run, and the host was booted"
    );
    assert_eq!(kinds(&engine), []);
    world.assert_sound("after the state was rebuilt");
}

#[test]
fn a_lost_state_is_rebuilt_from_mirrors_and_marks() {
    let (mut world, engine) = running();
    let before: VpsDoc = doc(&engine);
    let root = world.host.root_of(vps());
    world.store = new_store();
    world.host = world.host.restart_daemon();
    let engine = world.engine(Death::Never);
    assert!(!engine.recover().unwrap().reports.is_empty());
    assert_eq!(
        engine
            .submit(None, create("debian-12", false), "test")
            .unwrap_err()
            .code,
        Code::StateBehind
    );
    let rebuilt = engine.plan_rebuild(None).unwrap().unwrap();
    assert_eq!(rebuilt.vpses, [before]);
    assert_eq!(rebuilt.spared.len(), 0, "{rebuilt:?}");
    assert_eq!(rebuilt.templates.len(), 3);
    world.store = store_of(&rebuilt);
    world.host = world.host.restart_daemon();
    let engine = world.recover();
    assert_eq!(world.host.root_of(vps()), root, "it did not notice");
    assert_eq!(
        engine.plan_rebuild(None).unwrap(),
        None,
        "nothing is left to be done"
    );
    ask(
        &engine,
        Intent::Restart {
            timeout_ms: 1000,
            force: true,
        },
    );
    settle(&engine);
    world.assert_sound("after a restart on the rebuilt state");
}

#[test]
fn what_a_stale_mirror_does_not_know_comes_from_the_pool_or_is_spared() {
    let (mut world, engine) = running();
    let stale = world.mirror("/vps/11327");
    ask(
        &engine,
        Intent::DatasetSet {
            name: Default::default(),
            quota: mayfly_core::bytes::Bytes::gib(10),
        },
    );
    ask(
        &engine,
        Intent::DatasetCreate {
            name: "later".parse().unwrap(),
            quota: mayfly_core::bytes::Bytes::gib(1),
            mount: None,
        },
    );
    ask(
        &engine,
        Intent::Restart {
            timeout_ms: 1000,
            force: true,
        },
    );
    settle(&engine);
    let (now, run) = (doc(&engine), doc(&engine).run.unwrap());
    // Somebody's root of long ago, which no document knows.
    world.host.damage_mirror("/vps/11327", Some(&stale));
    world.host.damage_mirror("/templates/nixos-shaped", None);
    world.store = new_store();
    world.host = world.host.restart_daemon();
    let engine = world.engine(Death::Never);
    let rebuilt = engine.plan_rebuild(None).unwrap().unwrap();
    let [one] = &rebuilt.vpses[..] else {
        panic!("{rebuilt:?}")
    };
    assert_eq!(one.datasets, now.datasets);
    assert_eq!(
        (
            &one.run.as_ref().unwrap().run,
            &one.run.as_ref().unwrap().root
        ),
        (&run.run, &run.root)
    );
    assert_eq!(one.desired, Desired::Running);
    let notes = rebuilt.notes.join("\n");
    for what in [
        "it gets the dataset 11327/later back",
        "it runs as",
        "is 10G, as the pool has it",
    ] {
        assert!(notes.contains(what), "{what} is not told:\n{notes}");
    }
    let template = rebuilt.spared.iter().next().unwrap().clone();
    assert!(rebuilt.spared.len() == 1 && template.as_str().starts_with("templates/"));
    world.store = store_of(&rebuilt);
    world.host = world.host.restart_daemon();
    let engine = world.recover();
    world.host.advance(Duration::from_secs(3600));
    engine.reap_once().unwrap();
    assert!(world.host.datasets().contains(&template), "it is spared");
    assert_eq!(kinds(&engine), [Kind::Spared]);
    // Until somebody says so.
    let repaired = engine.fsck(true).unwrap();
    assert_eq!(repaired.mended.len(), 1, "{repaired:?}");
    engine.fsck(true).unwrap();
    assert_eq!(kinds(&engine), []);
    assert!(!world.host.datasets().contains(&template));
    world.assert_sound("after it was let go");
}

#[test]
fn a_vps_whose_data_is_gone_or_anothers_is_not_rebuilt() {
    let (mut world, engine) = running();
    let mirror = world.mirror("/vps/11327");
    ask(&engine, Intent::Destroy { now: true });
    settle(&engine);
    assert!(
        world.mirrors().iter().all(|key| !key.contains("11327")),
        "its mirror went with it"
    );
    // A mirror whose removal was cut off, and a new VPS of the same number.
    world.host.damage_mirror("/vps/11327", Some(&mirror));
    let gone = |world: &World| {
        let engine = World {
            store: new_store(),
            ..world.clone()
        }
        .engine(Death::Never);
        engine.plan_rebuild(None).unwrap().unwrap()
    };
    let rebuilt = gone(&world);
    assert!(rebuilt.vpses.is_empty());
    assert!(
        rebuilt
            .notes
            .iter()
            .any(|n| n.contains("is not in the pool")),
        "{rebuilt:?}"
    );
    ask(&engine, create("debian-12-impermanence", false));
    settle(&engine);
    world.host.damage_mirror("/vps/11327", Some(&mirror));
    let rebuilt = gone(&world);
    assert!(rebuilt.vpses.is_empty());
    let notes = rebuilt.notes.join("\n");
    assert!(notes.contains("is not that of this VPS"), "{notes}");
    assert!(notes.contains("neither mirror nor document"), "{notes}");
    // The daemon notices a mirror that is not the document's.
    world.host = world.host.restart_daemon();
    let engine = world.recover();
    assert!(world.mirror("/vps/11327") != mirror);
    assert_eq!(kinds(&engine), []);
}

#[test]
fn a_document_that_cannot_be_used_disables_its_vps_alone() {
    let (mut world, engine) = running();
    let other = 400.try_into().unwrap();
    let another = create_as(Some(other), "debian-12-impermanence", true);
    engine.submit(None, another, "test").unwrap();
    settle(&engine);
    ask(&engine, stop());
    settle(&engine);
    let (root, there) = (doc(&engine).last_root.unwrap(), world.host.datasets());
    let good = world.store.get("/vps/11327").unwrap().unwrap();
    for bad in [r#"{"schema": 99}"#, "7", r#"{"schema": 1, "id": 11327}"#] {
        world.put_raw("/vps/11327", bad);
        world.host = world.host.restart_daemon();
        let engine = world.engine(Death::Never);
        let found = engine.recover().unwrap();
        settle(&engine);
        assert!(
            found
                .reports
                .iter()
                .any(|r| r.contains("/vps/11327 cannot be used")),
            "{found:?}"
        );
        let ids: Vec<_> = engine.vpses().unwrap().iter().map(|v| v.id).collect();
        assert_eq!(ids, [other], "the others are listed");
        let refused = engine.vps("11327").unwrap_err();
        assert_eq!(refused.code, Code::StateFailed);
        assert!(refused.hint.contains("mayfly fsck"), "{refused:?}");
        // The others go on, and a new one gets nothing of it.
        engine.submit(Some(other), stop(), "test").unwrap();
        engine.submit(Some(other), Intent::Start, "test").unwrap();
        let third = create_as(None, "debian-12-impermanence", false);
        let made = engine.submit(None, third, "test").unwrap();
        settle(&engine);
        let third = engine.vps(&made.vps.unwrap().to_string()).unwrap();
        let hidden: VpsDoc = serde_json::from_str(&good.value).unwrap();
        assert!(!third.ids.overlaps(&hidden.ids) && third.id != hidden.id);
        engine
            .submit(Some(third.id), Intent::Destroy { now: true }, "test")
            .unwrap();
        settle(&engine);
        engine.reap_once().unwrap();
        assert!(
            world.host.datasets().contains(&root),
            "its last root is nobody's to clear away"
        );
        for name in &there {
            let of_it = name.as_str().starts_with("11327");
            assert!(
                !of_it || world.host.datasets().contains(name),
                "{name} is gone"
            );
        }
        assert!(
            engine
                .operations()
                .unwrap()
                .iter()
                .all(|op| op.state.is_over())
        );
        assert_eq!(kinds(&engine), [Kind::DocumentBad]);
        // Its mirror is of another revision, so it is not put back by itself, but it is rebuilt.
        assert!(engine.fsck(true).unwrap().mended.is_empty());
        let rebuilt = engine.plan_rebuild(None).unwrap().unwrap();
        assert_eq!(rebuilt.vpses.len(), 2);
        let hidden_again = rebuilt.vpses.iter().find(|v| v.id == vps()).unwrap();
        assert_eq!(hidden_again, &hidden);
    }
}

#[test]
fn a_document_that_was_damaged_where_it_lay_is_put_back_from_its_mirror() {
    let (mut world, engine) = running();
    let before = doc(&engine);
    // The store cannot be damaged in place: the mirror is given the revision of the damage.
    world.put_raw("/vps/11327", "7");
    let revision = world
        .store
        .get("/vps/11327")
        .unwrap()
        .unwrap()
        .mod_revision
        .0;
    let text = world.mirror("/vps/11327");
    let key = mayfly_core::mirror::MirrorKey::new("/vps/11327").unwrap();
    let mut mirror = mayfly_core::mirror::Mirror::parse(&key, &text).unwrap();
    mirror.revision = revision;
    world
        .host
        .damage_mirror("/vps/11327", Some(&mirror.render()));
    world.host = world.host.restart_daemon();
    let engine = world.engine(Death::Never);
    engine.recover().unwrap();
    let report = engine.fsck(true).unwrap();
    assert_eq!(report.mended.len(), 1, "{report:?}");
    assert_eq!(doc(&engine), before);
    assert_eq!(kinds(&engine), []);
}

#[test]
fn a_mirror_that_cannot_be_written_stops_nothing_and_is_made_good() {
    let (world, engine) = running();
    let before = world.mirror("/vps/11327");
    world.host.pool_full(true);
    ask(&engine, stop());
    settle(&engine);
    assert!(!world.host.is_running(vps()));
    assert_eq!(world.mirror("/vps/11327"), before);
    let told = engine.pool().unwrap().reports.join("\n");
    assert!(
        told.contains("the mirror of /vps/11327 is behind"),
        "{told}"
    );
    assert_eq!(kinds(&engine), [Kind::MirrorBehind]);
    world.host.pool_full(false);
    engine.mirror_once();
    assert_eq!(engine.pool().unwrap().reports, [] as [String; 0]);
    assert!(world.mirror("/vps/11327") != before);
    assert_eq!(kinds(&engine), []);
}

impl World {
    fn mirrors(&self) -> Vec<String> {
        use mayfly_core::ports::Storage as _;
        self.host
            .mirrors()
            .unwrap()
            .keys()
            .map(ToString::to_string)
            .collect()
    }

    fn mirror(&self, key: &str) -> String {
        use mayfly_core::ports::Storage as _;
        let all = self.host.mirrors().unwrap();
        let found = all
            .iter()
            .find(|(one, _)| one.as_str() == key)
            .expect("it is mirrored");
        found.1.clone().unwrap()
    }

    fn put_raw(&self, key: &str, value: &str) {
        self.store
            .txn(Txn {
                conditions: vec![],
                writes: vec![Write::Put(key.into(), value.into())],
            })
            .unwrap();
    }
}

/// Used by the checks of planted defects.
pub(crate) fn stopped() -> (World, Engine, PoolPath) {
    let (world, engine) = running();
    ask(&engine, stop());
    settle(&engine);
    let root = doc(&engine).last_root.unwrap();
    let _ = world.store.list_docs::<VpsDoc>("/vps/").unwrap();
    (world, engine, root)
}
