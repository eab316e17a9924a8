//! What a VPS declares, told and changed from outside, while the guest does with its file what it likes.

use mayfly_core::documents::{OperationDoc, OperationState};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::fake::FakeRecipe;
use mayfly_core::names::PoolPath;
use mayfly_core::persist::change::{AddPath, PathKind, PersistChange};
use mayfly_core::persist::declare::{Method, Tier};
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::unite::Origin;
use mayfly_engine::{Engine, Intent, Persistence};

use crate::scenarios::there;
use crate::world::{Death, World, doc, settle, vps};

const OWN: &str = "/etc/mayfly/persistence.toml";

fn at(path: &str) -> TreePath {
    TreePath::parse(path).unwrap()
}

fn add(paths: &[(&str, Option<PathKind>)]) -> PersistChange {
    let add = paths.iter().map(|(path, kind)| AddPath {
        path: at(path),
        kind: *kind,
        tier: None,
        method: None,
    });
    PersistChange {
        add: add.collect(),
        ..PersistChange::default()
    }
}

pub(crate) fn directory(path: &str) -> PersistChange {
    add(&[(path, Some(PathKind::Directory))])
}

fn remove(path: &str) -> PersistChange {
    PersistChange {
        remove: vec![at(path)],
        ..PersistChange::default()
    }
}

/// Asks for a change and lets it be carried out.
fn change(engine: &Engine, change: PersistChange) -> OperationDoc {
    let op = engine.submit(Some(vps()), Intent::PersistChange { change }, "test");
    settle(engine);
    engine.operation(op.unwrap().id.as_str()).unwrap()
}

fn done(engine: &Engine, wish: PersistChange) {
    let op = change(engine, wish);
    assert_eq!(op.state, OperationState::Done, "{:?}", op.error);
}

fn refused(engine: &Engine, wish: PersistChange) -> Refusal {
    let op = change(engine, wish);
    assert_eq!(op.state, OperationState::Failed, "{:?}", op.plan);
    assert_eq!(op.steps_done, 0);
    op.error.unwrap()
}

fn told(engine: &Engine) -> Persistence {
    engine.persistence(&vps().to_string()).unwrap()
}

fn paths(engine: &Engine) -> Vec<(String, Origin)> {
    let listing = told(engine).listing;
    let lines = listing.lines.into_iter().map(|line| line.declaration);
    lines.map(|d| (d.path.to_string(), d.origin)).collect()
}

fn data() -> PoolPath {
    PoolPath::from_pool("11327").unwrap()
}

/// A VPS of a template that declares something itself.
fn world(start: bool) -> (World, Engine) {
    let world = World::new(&Default::default());
    let mut recipe = FakeRecipe::debian_impermanence();
    let persistence = serde_json::json!({ "/persistent": {
        "directories": ["/var/log", "/var/lib/app"], "files": [{ "file": "/etc/id", "method": "copy" }]
    }});
    let declared = persistence.as_object().unwrap().clone();
    recipe.built.manifest.layout.persistence = declared;
    world.host.add_recipe("declares", recipe);
    let engine = world.recover();
    let build = Intent::TemplateBuild {
        recipe: "declares".into(),
        name: "declares".parse().unwrap(),
        mirror: None,
        replace: false,
    };
    engine.submit(None, build, "test").unwrap();
    settle(&engine);
    there(&world, &engine, "declares", start);
    (world, engine)
}

#[test]
fn what_is_declared_is_told_with_where_it_comes_from() {
    for start in [true, false] {
        let (world, engine) = world(start);
        let own = "[\"/persistent\"]\npresets = [\"base\"]\ndirectories = [\"/srv/own\", { directory = \"/var/log\", enable = false }, \
                   { directory = \"/proc/x\" }, { directory = \"/x\", mode = \"what\" }]\n[\"/persistent\".users.me]\nfiles = [\".profile\"]\n";
        world.host.plant(&data(), OWN, own);
        let told = told(&engine);
        assert_eq!(told.own, Some(at(&format!("/persistent{OWN}"))));
        assert_eq!(told.inactive, None);
        let listing = &told.listing;
        let origin = |path: &str| listing.line(&at(path)).map(|l| l.declaration.origin);
        assert_eq!(origin("/srv/own"), Some(Origin::Guest));
        assert_eq!(origin("/var/lib/app"), Some(Origin::Manifest));
        assert_eq!(origin("/home/me/.profile"), Some(Origin::Guest));
        assert!(matches!(origin("/etc/machine-id"), Some(Origin::Preset(_))));
        assert_eq!(origin("/var/log"), None);
        assert!(listing.disabled.contains(&at("/var/log")));
        assert!(listing.line(&at("/proc/x")).unwrap().trouble().is_some());
        let places: Vec<_> = listing.problems.iter().map(|p| p.at.as_str()).collect();
        assert!(
            places.iter().any(|p| p.ends_with("directories[3].mode")),
            "{places:?}"
        );
    }
}

#[test]
fn whatever_the_guest_has_there_is_told_and_no_failure() {
    let (world, engine) = world(true);
    let problems = || {
        told(&engine)
            .listing
            .problems
            .iter()
            .map(|p| p.what.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(problems(), [""; 0]);
    for (text, part) in [
        ("not toml", "not TOML"),
        ("\"/persistent\" = { directories = [", "not TOML"),
        (&"x".repeat(300 << 10), "longer than"),
        (&"[".repeat(500), "nests too deep"),
    ] {
        world.host.plant(&data(), OWN, text);
        let problems = problems();
        assert!(
            problems.iter().any(|p| p.contains(part)),
            "{part}: {problems:?}"
        );
        assert_eq!(paths(&engine).len(), 3, "the template's count all the same");
        let refusal = refused(&engine, directory("/srv/x"));
        assert_eq!(refusal.code, Code::PersistNotEditable, "{refusal:?}");
        assert_eq!(world.host.read(&data(), OWN).as_deref(), Some(text));
    }
    // It is read, and too long for the journal of a change.
    let long = "# a line\n".repeat(10_000);
    world.host.plant(&data(), OWN, &long);
    assert_eq!(problems(), [""; 0]);
    let refusal = refused(&engine, directory("/srv/x"));
    assert_eq!(refusal.code, Code::PersistNotEditable);
    assert!(refusal.message.contains("64 KiB"), "{refusal:?}");
    world
        .host
        .guest_remove(vps(), &format!("/persistent{OWN}"))
        .unwrap();
    world.host.plant_link(&data(), OWN, "/etc/passwd");
    assert!(
        problems()[0].contains("no regular file"),
        "{:?}",
        problems()
    );
    assert_eq!(
        refused(&engine, directory("/srv/x")).code,
        Code::PersistNotEditable
    );
    // A look that failed is told as that, and is no empty list.
    world.host.fail_looks(OWN);
    let failed = engine.persistence(&vps().to_string()).unwrap_err();
    assert_eq!(failed.code, Code::CouldNotLook);
    assert_eq!(
        refused(&engine, directory("/srv/x")).code,
        Code::CouldNotLook
    );
}

#[test]
fn declaring_and_taking_away_again_changes_the_file_and_nothing_else() {
    for start in [true, false] {
        let (world, engine) = world(start);
        let plan = Intent::PersistChange {
            change: directory("/srv/data"),
        };
        let plan = engine.dry_run(Some(vps()), plan).unwrap();
        assert_eq!(
            plan.lines(),
            [
                "in 11327: /etc/ /etc/mayfly/ /etc/mayfly/persistence.toml (declare /srv/data, a directory)"
            ]
        );
        assert_eq!(
            world.host.read(&data(), OWN),
            None,
            "a plan changes nothing"
        );
        done(&engine, directory("/srv/data"));
        let copy = AddPath {
            path: at("/etc/my app.conf"),
            kind: None,
            tier: Some(Tier::Cache),
            method: Some(Method::Copy),
        };
        done(
            &engine,
            PersistChange {
                add: vec![copy],
                remove: Vec::new(),
            },
        );
        let text = world.host.read(&data(), OWN).unwrap();
        assert!(text.starts_with("# "), "{text}");
        assert!(
            text.ends_with(
                "[\"/persistent\"]\ndirectories = [\n    \"/srv/data\",\n]\nfiles = [\n    \
             { file = \"/etc/my app.conf\", tier = \"cache\", method = \"copy\" },\n]\n"
            ),
            "{text}"
        );
        assert_eq!(
            told(&engine)
                .listing
                .line(&at("/etc/my app.conf"))
                .unwrap()
                .declaration
                .tier,
            Tier::Cache
        );
        done(&engine, remove("/srv/data"));
        // What the template declares is taken away by saying so, and comes back by not saying so.
        done(&engine, remove("/var/log"));
        assert!(told(&engine).listing.line(&at("/var/log")).is_none());
        assert!(
            world
                .host
                .read(&data(), OWN)
                .unwrap()
                .contains("{ directory = \"/var/log\", enable = false }")
        );
        done(&engine, add(&[("/var/log", None)]));
        assert_eq!(
            told(&engine)
                .listing
                .line(&at("/var/log"))
                .unwrap()
                .declaration
                .origin,
            Origin::Manifest
        );
        assert!(!world.host.read(&data(), OWN).unwrap().contains("/var/log"));
        // With wishes of its own it is declared anew.
        done(&engine, remove("/etc/id"));
        let link = AddPath {
            path: at("/etc/id"),
            kind: None,
            tier: None,
            method: Some(Method::Symlink),
        };
        done(
            &engine,
            PersistChange {
                add: vec![link],
                remove: Vec::new(),
            },
        );
        assert_eq!(
            told(&engine)
                .listing
                .line(&at("/etc/id"))
                .unwrap()
                .declaration
                .origin,
            Origin::Guest
        );
        world.assert_sound("declarations changed");
    }
}

#[test]
fn what_cannot_or_need_not_be_declared_is_refused_and_nothing_is_written() {
    let (world, engine) = world(true);
    for (wish, code, part) in [
        (directory("/"), Code::PersistRefused, "/ cannot be declared"),
        (directory("/proc/x"), Code::PersistRefused, "/proc/x"),
        (directory("/run/x"), Code::PersistRefused, "/run/x"),
        (
            directory("/persistent"),
            Code::PersistExists,
            "stays anyway",
        ),
        (
            directory("/persistent/srv"),
            Code::PersistExists,
            "stays anyway",
        ),
        (
            directory("/var/log"),
            Code::PersistExists,
            "by its template",
        ),
        (
            directory("/var/log/deep"),
            Code::PersistExists,
            "lies in /var/log",
        ),
        (
            add(&[("/var/lib", Some(PathKind::File))]),
            Code::PersistRefused,
            "declared as a file",
        ),
        (
            add(&[("/nowhere", None)]),
            Code::Invalid,
            "directory or a file",
        ),
        (
            add(&[("/a", Some(PathKind::Directory)), ("/proc", None)]),
            Code::PersistRefused,
            "/proc",
        ),
        (
            add(&[
                ("/a", Some(PathKind::Directory)),
                ("/a", Some(PathKind::File)),
            ]),
            Code::PersistExists,
            "/a",
        ),
        (
            add(&[("/a", Some(PathKind::File)), ("/a/b", Some(PathKind::File))]),
            Code::PersistRefused,
            "/a",
        ),
        (remove("/nowhere"), Code::PersistNotFound, "/nowhere"),
        (
            remove("/var/log/deep"),
            Code::PersistNotFound,
            "lies in /var/log",
        ),
        (PersistChange::default(), Code::Invalid, "0 paths"),
    ] {
        let told = format!("{wish:?}");
        let refusal = refused(&engine, wish);
        assert_eq!(refusal.code, code, "{told}: {refusal:?}");
        assert!(
            refusal.message.contains(part),
            "{told}: {}",
            refusal.message
        );
        assert!(!refusal.hint.is_empty());
        assert_eq!(world.host.read(&data(), OWN), None, "{told}");
    }
}

#[test]
fn what_is_there_says_whether_it_is_a_directory() {
    let (world, engine) = world(true);
    let root = doc(&engine).run.unwrap().root;
    world.host.plant(&root, "/etc/app/conf", "x");
    world.host.plant_link(&root, "/etc/link", "/etc/app");
    done(
        &engine,
        add(&[("/etc/app", None), ("/srv", Some(PathKind::Directory))]),
    );
    assert!(
        told(&engine)
            .listing
            .line(&at("/etc/app"))
            .unwrap()
            .declaration
            .kind
            .is_directory()
    );
    done(&engine, remove("/etc/app"));
    done(&engine, add(&[("/etc/app/conf", None)]));
    assert!(
        !told(&engine)
            .listing
            .line(&at("/etc/app/conf"))
            .unwrap()
            .declaration
            .kind
            .is_directory()
    );
    assert_eq!(
        refused(&engine, add(&[("/etc/link", None)])).code,
        Code::Invalid
    );
    assert_eq!(
        refused(&engine, add(&[("/etc/link/conf", None)])).code,
        Code::Invalid
    );
}

#[test]
fn a_file_that_the_guest_changed_meanwhile_is_left_as_it_is() {
    let (world, _) = world(true);
    let host = world.host.clone();
    // After the plan was made, and before its step.
    let engine = world.engine_with(move |point| {
        if point == "prepare_tree" {
            host.plant(&data(), OWN, "# the guest's\n");
        }
    });
    engine.recover().unwrap();
    let op = change(&engine, directory("/srv/data"));
    assert_eq!(
        (op.state, op.error.map(|e| e.code)),
        (OperationState::Failed, Some(Code::PersistChanged))
    );
    assert_eq!(
        world.host.read(&data(), OWN).as_deref(),
        Some("# the guest's\n")
    );
    let engine = world.recover();
    done(&engine, directory("/srv/data"));
    assert!(
        world
            .host
            .read(&data(), OWN)
            .unwrap()
            .starts_with("# the guest's\n")
    );
}

#[test]
fn several_changes_that_wait_do_not_undo_each_other() {
    let (_world, engine) = world(false);
    for path in ["/srv/a", "/srv/b", "/srv/c"] {
        let change = directory(path);
        engine
            .submit(Some(vps()), Intent::PersistChange { change }, "test")
            .unwrap();
    }
    settle(&engine);
    let declared: Vec<_> = paths(&engine).into_iter().map(|(path, _)| path).collect();
    for path in ["/srv/a", "/srv/b", "/srv/c"] {
        assert!(declared.contains(&path.to_owned()), "{path}: {declared:?}");
    }
}

#[test]
fn without_a_storage_nothing_can_be_declared() {
    let world = World::new(&Default::default());
    let engine = world.engine(Death::Never);
    there(&world, &engine, "debian-12", false);
    let refusal = refused(&engine, directory("/srv/data"));
    assert_eq!(refusal.code, Code::PersistNoStorage);
    assert!(refusal.hint.contains("template"), "{}", refusal.hint);
    let told = told(&engine);
    assert!(told.inactive.is_some() && told.listing.lines.is_empty());
    // With one that nothing is mounted at it is the same.
    let world = World::new(&Default::default());
    let engine = world.recover();
    there(&world, &engine, "debian-12-impermanence", false);
    let path = "/persistent".parse().unwrap();
    engine
        .submit(Some(vps()), Intent::MountRemove { path }, "test")
        .unwrap();
    settle(&engine);
    let refusal = refused(&engine, directory("/srv/data"));
    assert!(
        refusal.code == Code::PersistNoStorage && refusal.hint.contains("mount add"),
        "{refusal:?}"
    );
}
