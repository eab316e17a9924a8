//! Every defect that can be planted on the fake host is found, told with its object, and mended or left to an operator; a
//! second look finds nothing of what was mended.

use mayfly_core::bytes::Bytes;
use mayfly_core::documents::{OperationState, Request, VpsDoc};
use mayfly_core::fake::FakeHost;
use mayfly_core::fsck::Kind;
use mayfly_core::ids::{NodeId, OperationId};
use mayfly_core::names::{DatasetName, PoolPath};
use mayfly_core::observed::{Mark, MarkSeen};
use mayfly_core::ports::{NewDataset, Origin, Storage as _};
use mayfly_engine::store::{Txn, TypedStore, Write};
use mayfly_engine::{Engine, Intent};

use crate::held::stopped;
use crate::world::{Death, World, ask, create, doc, settle, vps};

fn told(engine: &Engine) -> Vec<String> {
    engine
        .fsck(false)
        .unwrap()
        .findings
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn pool(name: &str) -> PoolPath {
    PoolPath::from_pool(name).unwrap()
}

fn put<T: serde::Serialize>(world: &World, key: &str, doc: &T) {
    world
        .store
        .txn(Txn {
            conditions: vec![],
            writes: vec![Write::put_doc(key, doc).unwrap()],
        })
        .unwrap();
}

fn change(world: &World, change: impl FnOnce(&mut VpsDoc)) {
    let mut doc = world
        .store
        .get_doc::<VpsDoc>("/vps/11327")
        .unwrap()
        .unwrap()
        .doc;
    change(&mut doc);
    put(world, "/vps/11327", &doc);
}

/// Plants one defect on a node whose VPS is stopped, and asserts what is found (by the beginning of the line) and whether
/// `--repair` mends it.
fn case(want: &str, mends: bool, plant: impl FnOnce(&mut World, &PoolPath)) {
    let (mut world, engine, root) = stopped();
    assert_eq!(told(&engine), [] as [String; 0], "before {want}");
    plant(&mut world, &root);
    let engine = world.engine(Death::Never);
    let before = (
        world.host.calls().len(),
        world.store.range("/").unwrap().revision,
    );
    let found = told(&engine);
    let here = found.iter().any(|line| line.starts_with(want));
    assert!(here, "{want} is not among {found:#?}");
    let after = (
        world.host.calls().len(),
        world.store.range("/").unwrap().revision,
    );
    assert_eq!(before, after, "{want}: a look changed something");
    let report = engine.fsck(true).unwrap();
    let refused = report
        .failed
        .iter()
        .any(|(one, _)| one.to_string().starts_with(want));
    assert_eq!(
        refused,
        want.starts_with("pool.staged"),
        "{want}: {:?}",
        report.failed
    );
    let mended = report
        .mended
        .iter()
        .any(|one| one.to_string().starts_with(want));
    assert_eq!(mended, mends, "{want}: {report:#?}");
    let left = told(&engine);
    assert_eq!(
        left.iter().any(|line| line.starts_with(want)),
        !mends,
        "{want}: {left:#?}"
    );
    if mends {
        assert_eq!(left, [] as [String; 0], "after {want}");
        let calls = world.host.calls().len();
        assert!(engine.fsck(true).unwrap().mended.is_empty());
        assert_eq!(
            world.host.calls().len(),
            calls,
            "{want}: a second repair did something"
        );
    }
    assert_eq!(world.host.losses(), [] as [String; 0], "{want}");
    assert_eq!(world.host.catastrophes(), [] as [String; 0], "{want}");
}

fn mark_of(host: &FakeHost, name: &PoolPath) -> Mark {
    match host.mark(name) {
        Some(MarkSeen::Local(mark)) => mark,
        other => panic!("{name} has {other:?}"),
    }
}

#[test]
fn what_is_wrong_with_the_pool_is_found() {
    case(
        "pool.unmarked stray: nothing says whose it is",
        false,
        |w, _| w.host.make_by_hand(&pool("stray")),
    );
    case(
        "pool.nested 11327/private/x: it lies inside",
        false,
        |w, _| {
            w.host.make_by_hand(&pool("11327/private/x"));
            w.host.set_mark(&pool("11327/private/x"), MarkSeen::Unset);
        },
    );
    case(
        "pool.mark_unreadable 11327.impermanence-",
        false,
        |w, root| {
            w.host.set_mark(root, MarkSeen::Unreadable("EIO".into()));
        },
    );
    case("pool.mark_not_local 11327: its mark came", false, |w, _| {
        w.host.set_mark(&pool("11327"), MarkSeen::NotLocal);
    });
    case(
        "pool.foreign 11327: its mark names the node",
        false,
        |w, _| {
            let mut mark = mark_of(&w.host, &pool("11327"));
            mark.node = NodeId::from_random([9; 8]);
            w.host.set_mark(&pool("11327"), MarkSeen::Local(mark));
        },
    );
    case(
        "pool.mark_misfit 11327: its mark was made for 999",
        false,
        |w, _| {
            let mut mark = mark_of(&w.host, &pool("11327"));
            mark.made_as = pool("999");
            w.host.set_mark(&pool("11327"), MarkSeen::Local(mark));
        },
    );
    case("pool.grave_foreign trash/x: ", false, |w, _| {
        w.host.make_by_hand(&pool("trash/x"))
    });
    case("pool.staged by-hand: ", false, |w, _| {
        w.host.litter_staging("by-hand")
    });
    case(
        "dataset.quota_differs 11327: its quota is 29G and should be 30G",
        true,
        |w, _| {
            w.host.set_quota(&pool("11327"), Bytes::gib(29)).unwrap();
        },
    );
    case("pool.root_left 11327.impermanence-", true, |w, root| {
        change(w, |doc| doc.last_root = None);
        w.engine(Death::Never).mirror_once();
        assert!(w.host.datasets().contains(root));
    });
    case(
        "pool.data_unknown 11327/more: it is data of VPS 11327",
        false,
        |w, _| {
            let name = PoolPath::dataset(vps(), &"more".parse::<DatasetName>().unwrap());
            let mark = Mark {
                made_as: name.clone(),
                ..mark_of(&w.host, &pool("11327"))
            };
            let new = NewDataset {
                name,
                mark,
                quota: Some(Bytes::gib(1)),
                origin: Origin::Empty,
            };
            w.host.create_dataset(&new).unwrap();
        },
    );
}

#[test]
fn what_a_kill_left_is_found_and_mended() {
    let (mut world, engine, _) = stopped();
    // Killed in the middle of a start.
    drop(engine);
    let dies = world.engine(Death::HalfWay(3));
    assert!(!world.live(&dies, |engine| ask(engine, Intent::Start)));
    world.host = world.host.restart_daemon();
    let engine = world.engine(Death::Never);
    let found = told(&engine);
    assert!(
        found.iter().any(|l| l.starts_with("operation.stuck ")),
        "{found:#?}"
    );
    // Nobody carries it out, so it is told, not mended; the next daemon does it.
    assert!(engine.fsck(true).unwrap().failed.is_empty());
    world.recover();
    assert_eq!(told(&world.engine(Death::Never)), [] as [String; 0]);
}

#[test]
fn a_repair_that_is_cut_off_anywhere_is_finished_by_the_next() {
    for n in 1.. {
        let (mut world, _, root) = stopped();
        change(&world, |doc| doc.last_root = None);
        world
            .host
            .set_quota(&pool("11327"), Bytes::gib(29))
            .unwrap();
        world.host.damage_mirror("/templates/debian-12", None);
        let engine = world.engine(Death::Before(n));
        let whole = world.live(&engine, |engine| drop(engine.fsck(true)));
        world.host = world.host.restart_daemon();
        let engine = world.engine(Death::Never);
        engine.fsck(true).unwrap();
        assert_eq!(told(&engine), [] as [String; 0], "cut at {n}");
        assert!(!world.host.datasets().contains(&root));
        world.recover();
        world.assert_sound("after a repair that was cut off");
        if whole {
            assert!(n > 4, "there was something to cut");
            break;
        }
    }
}

#[test]
fn what_is_wrong_with_the_state_is_found() {
    case("dataset.missing 11327/gone: VPS 11327", false, |w, _| {
        change(w, |doc| {
            let mut dataset = doc.datasets[0].clone();
            dataset.name = "gone".parse().unwrap();
            dataset.quota_bytes = Bytes(0);
            doc.datasets.push(dataset);
        });
        w.engine(Death::Never).mirror_once();
    });
    case("root.missing 11327.impermanence-", true, |w, root| {
        w.host.destroy_by_hand(root)
    });
    case(
        "document.misfit /vps/11327: its quotas are 30G together",
        false,
        |w, _| {
            change(w, |doc| doc.disk_bytes = Bytes::gib(1));
            w.engine(Death::Never).mirror_once();
        },
    );
    case(
        "document.misfit /vps/400: it is the document of VPS 11327",
        false,
        |w, _| {
            let doc = w
                .store
                .get_doc::<VpsDoc>("/vps/11327")
                .unwrap()
                .unwrap()
                .doc;
            put(w, "/vps/400", &doc);
            w.engine(Death::Never).mirror_once();
        },
    );
    case(
        "ids.overlap 11327 (vps11327): it has host ids of VPS 400 (other)",
        false,
        |w, _| {
            let mut doc = w
                .store
                .get_doc::<VpsDoc>("/vps/11327")
                .unwrap()
                .unwrap()
                .doc;
            doc.id = 400.try_into().unwrap();
            doc.hostname = "other".parse().unwrap();
            put(w, "/vps/400", &doc);
        },
    );
    case(
        "document.bad /vps/400: what it speaks of is disabled",
        false,
        |w, _| {
            put(w, "/vps/400", &7);
            w.engine(Death::Never).mirror_once();
        },
    );
    case(
        "template.missing debian-12: its dataset templates/",
        false,
        |w, _| {
            let base = w.engine(Death::Never).templates().unwrap();
            let base = base
                .iter()
                .find(|t| t.name.as_str() == "debian-12")
                .unwrap();
            w.host.destroy_by_hand(&PoolPath::template(
                &base.digest,
                &mayfly_core::names::TemplatePart::Base,
            ));
        },
    );
    case("operation.stuck ", false, |w, _| {
        let mut op = w.engine(Death::Never).operations().unwrap()[0].clone();
        op.id = OperationId::at(7, [7; 4]);
        op.state = OperationState::Queued;
        op.request = Request::Destroy { now: false };
        put(w, &format!("/operations/{}", op.id), &op);
    });
    case("mirror.missing /vps/11327: ", true, |w, _| {
        w.host.damage_mirror("/vps/11327", None)
    });
    case("mirror.bad /vps/11327: it is cut off", true, |w, _| {
        w.host.damage_mirror("/vps/11327", Some("x"))
    });
    case(
        "mirror.left /vps/400: there is no such document",
        true,
        |w, _| w.host.damage_mirror("/vps/400", Some("x")),
    );
    case("generation.behind ", true, |w, _| {
        for _ in 0..3 {
            put(w, "/filler", &1);
        }
    });
}

#[test]
fn what_is_alive_and_should_not_be_is_found() {
    case("mount.held 11327.impermanence-", false, |w, root| {
        w.host.stray_mount(vps(), root)
    });
    let (mut world, engine, _) = stopped();
    ask(&engine, Intent::Start);
    settle(&engine);
    assert_eq!(told(&engine), [] as [String; 0]);
    let run = doc(&engine).run;
    change(&world, |doc| doc.run = None);
    let found = told(&world.engine(Death::Never));
    assert!(
        found
            .iter()
            .any(|l| l.starts_with("run.unknown VPS 11327: its document knows nothing of it")),
        "{found:#?}"
    );
    change(&world, |doc| doc.run = run);
    world.host = world.host.reboot();
    let found = told(&world.engine(Death::Never));
    assert!(
        found
            .iter()
            .any(|l| l.starts_with("run.dead VPS 11327: it is recorded as running")),
        "{found:#?}"
    );
    world.recover();
    assert_eq!(told(&world.engine(Death::Never)), [] as [String; 0]);
}

#[test]
fn a_look_that_fails_is_a_finding_and_mends_nothing() {
    for blind in [
        "the pool",
        "evidence",
        "the mirrors",
        "the generation",
        "staging",
        "holders",
        "records",
    ] {
        let (world, _, root) = stopped();
        change(&world, |doc| doc.last_root = None);
        world.host.fail_looks(blind);
        let engine = world.engine(Death::Never);
        let report = engine.fsck(true).unwrap();
        let failed = |kind| report.findings.iter().any(|one| one.code == kind);
        assert!(failed(Kind::CouldNotLook), "{blind}: {report:#?}");
        if ["the pool", "the generation"].contains(&blind) {
            assert!(world.host.datasets().contains(&root), "{blind}");
        }
        if blind == "the generation" {
            assert!(report.mended.is_empty(), "{report:#?}");
        }
    }
}

#[test]
fn a_node_with_everything_is_clean() {
    let (world, engine, _) = stopped();
    for intent in [
        Intent::Start,
        Intent::DatasetCreate {
            name: "more".parse().unwrap(),
            quota: Bytes::gib(1),
            mount: Some("/more".parse().unwrap()),
        },
        Intent::Restart {
            timeout_ms: 1000,
            force: false,
        },
    ] {
        ask(&engine, intent);
        settle(&engine);
        assert_eq!(told(&engine), [] as [String; 0]);
    }
    ask(&engine, Intent::Destroy { now: true });
    settle(&engine);
    ask(&engine, create("nixos-shaped", false));
    settle(&engine);
    assert_eq!(told(&engine), [] as [String; 0]);
    world.assert_sound("at the end");
}
