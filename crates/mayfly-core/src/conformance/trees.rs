//! What the platform puts into guests' trees and looks for there, without following anything that a guest planted.

use super::given::{at, code};
use super::rig::{Can, Thing};
use super::scene::Scene;
use crate::error::Code;
use crate::ids::Digest;
use crate::names::PoolPath;
use crate::observed::InitSeen;
use crate::ports::{Assembly, FileEdit, Outcome, Storage, TreePlan};

fn directory(path: &str) -> TreePlan {
    TreePlan {
        directories: vec![at(path)],
        ..TreePlan::default()
    }
}

fn file(path: &str, text: &str) -> TreePlan {
    TreePlan {
        files: vec![(at(path), text.to_owned())],
        ..TreePlan::default()
    }
}

fn link(path: &str, target: &str) -> TreePlan {
    TreePlan {
        links: vec![(at(path), target.to_owned())],
        ..TreePlan::default()
    }
}

fn to(target: &str) -> Thing {
    Thing::Link(target.to_owned())
}

pub(super) fn trees_are_prepared_once(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let new = scene.data(181, "");
    let prepare = |tree: &TreePlan| storage.prepare_tree(&new.name, tree);
    let mut tree = TreePlan {
        directories: vec![at("/etc"), at("/srv/data/deep")],
        links: vec![(at("/etc/link"), "/nowhere".to_owned())],
        files: vec![(at("/etc/hostname"), "web\n".to_owned())],
        edits: Vec::new(),
    };
    assert_eq!(prepare(&tree), Ok(Outcome::Changed));
    assert_eq!(prepare(&tree), Ok(Outcome::Unchanged));
    tree.files[0].1 = "mail\n".to_owned();
    assert_eq!(prepare(&tree), Ok(Outcome::Changed));
    assert_eq!(
        scene.rig.read(&new.name, "/etc/hostname").as_deref(),
        Some("mail\n")
    );
    // A link is made only where nothing is; a directory is refused where a link or a file is.
    assert_eq!(prepare(&link("/etc/hostname", "x")), Ok(Outcome::Unchanged));
    for inside in [
        "/etc/link",
        "/etc/link/below",
        "/etc/hostname",
        "/etc/hostname/below",
    ] {
        assert_eq!(
            code(prepare(&directory(inside))),
            Code::MountPointRefused,
            "{inside}"
        );
    }
    let absent = storage.prepare_tree(&super::given::in_pool("999"), &tree);
    assert_eq!(code(absent), Code::DatasetNotFound);
    Ok(())
}

/// Whatever is there under a name, no directory is: nothing below it is reached.
#[track_caller]
fn is_not_followed(scene: &Scene<'_>, dataset: &PoolPath, name: &str) {
    let storage = scene.storage();
    for path in [format!("/{name}"), format!("/{name}/a/b")] {
        assert_eq!(
            code(storage.prepare_tree(dataset, &directory(&path))),
            Code::MountPointRefused,
            "{path}"
        );
    }
    let below = format!("/{name}/f");
    assert_eq!(
        code(storage.prepare_tree(dataset, &file(&below, "x"))),
        Code::MountPointRefused,
        "{below}"
    );
    assert_eq!(
        storage.prepare_tree(dataset, &link(&format!("/{name}"), "x")),
        Ok(Outcome::Unchanged)
    );
}

pub(super) fn what_a_guest_planted_is_never_followed(scene: &Scene<'_>) -> Can<()> {
    let new = scene.data(182, "");
    let planted = [
        ("absolute", to("/etc")),
        ("relative", to("../../../../etc")),
        ("inner", to("directory")),
        ("magic", to("/proc/1/root")),
        ("loop", to("loop")),
        ("file", Thing::Text("x".into())),
    ];
    scene.put(&new.name, "/directory", &Thing::Directory)?;
    for (name, thing) in &planted {
        scene.put(&new.name, &format!("/{name}"), thing)?;
        is_not_followed(scene, &new.name, name);
    }
    assert_eq!(scene.rig.read(&new.name, "/directory/f"), None);
    assert_eq!(scene.rig.read(&new.name, "/file").as_deref(), Some("x"));
    Ok(())
}

pub(super) fn files_take_the_place_of_what_is_no_directory(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let new = scene.data(183, "");
    scene.put(&new.name, "/target", &Thing::Text("kept".into()))?;
    scene.put(&new.name, "/link", &to("/target"))?;
    scene.put(&new.name, "/relative", &to("target"))?;
    scene.put(&new.name, "/program", &Thing::Program)?;
    for path in ["/link", "/relative", "/program"] {
        let put = storage.prepare_tree(&new.name, &file(path, "new"));
        assert_eq!(put, Ok(Outcome::Changed), "{path}");
        assert_eq!(scene.rig.read(&new.name, path).as_deref(), Some("new"));
    }
    assert_eq!(
        scene.rig.read(&new.name, "/target").as_deref(),
        Some("kept"),
        "a link was followed"
    );
    scene.put(&new.name, "/dir", &Thing::Directory)?;
    let refused = storage.prepare_tree(&new.name, &file("/dir", "new"));
    assert_eq!(code(refused), Code::MountPointRefused);
    Ok(())
}

pub(super) fn devices_and_pipes_are_not_touched(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let new = scene.data(184, "");
    for (name, thing) in [("pipe", Thing::Pipe), ("device", Thing::Device)] {
        let path = format!("/{name}");
        scene.put(&new.name, &path, &thing)?;
        is_not_followed(scene, &new.name, name);
        let read = storage.read_file(&new.name, &at(&path), 99);
        assert_eq!(code(read), Code::Invalid, "{name}");
        let put = storage.prepare_tree(&new.name, &file(&path, "new"));
        assert_eq!(put, Ok(Outcome::Changed), "{name}");
        assert_eq!(scene.rig.read(&new.name, &path).as_deref(), Some("new"));
    }
    Ok(())
}

pub(super) fn files_are_read_without_following_anything(scene: &Scene<'_>) -> Can<()> {
    let new = scene.data(180, "");
    let read = |path: &str| scene.storage().read_file(&new.name, &at(path), 8);
    for (path, thing) in [
        ("/etc", Thing::Directory),
        ("/etc/short", Thing::Text("12345678".into())),
        ("/etc/long", Thing::Text("123456789".into())),
        ("/etc/empty", Thing::Text(String::new())),
        ("/link", to("/etc/short")),
        ("/way", to("etc")),
        ("/loop", to("loop")),
        ("/host", to("/etc")),
    ] {
        scene.put(&new.name, path, &thing)?;
    }
    assert_eq!(read("/etc/short"), Ok(Some(b"12345678".to_vec())));
    assert_eq!(read("/etc/empty"), Ok(Some(Vec::new())));
    for absent in ["/etc/none", "/none/at/all"] {
        assert_eq!(read(absent), Ok(None), "{absent}");
    }
    for refused in [
        "/etc",
        "/etc/long",
        "/etc/short/below",
        "/link",
        "/way/short",
        "/loop",
        "/host/passwd",
    ] {
        assert_eq!(code(read(refused)), Code::Invalid, "{refused}");
    }
    let absent = scene
        .storage()
        .read_file(&super::given::in_pool("999"), &at("/etc/short"), 8);
    assert_eq!(code(absent), Code::DatasetNotFound);
    Ok(())
}

pub(super) fn a_file_is_changed_only_as_it_was_read(scene: &Scene<'_>) -> Can<()> {
    let new = scene.data(189, "");
    let edit = |path: &str, before: Option<&str>, after: &str| {
        let edit = FileEdit {
            path: at(path),
            before: before.map(|text| Digest::of(text.as_bytes())),
            after: after.to_owned(),
            what: "a change".to_owned(),
        };
        let tree = TreePlan {
            directories: vec![at("/etc")],
            edits: vec![edit],
            ..TreePlan::default()
        };
        scene.storage().prepare_tree(&new.name, &tree)
    };
    let is = |path: &str, text: &str| {
        let read = scene.rig.read(&new.name, path);
        assert_eq!(read.as_deref(), Some(text), "{path}");
    };
    assert_eq!(edit("/etc/own", None, "one"), Ok(Outcome::Changed));
    assert_eq!(edit("/etc/own", None, "one"), Ok(Outcome::Unchanged));
    assert_eq!(edit("/etc/own", Some("one"), "two"), Ok(Outcome::Changed));
    is("/etc/own", "two");
    for before in [None, Some("one"), Some("two and more"), Some("tw")] {
        let refused = edit("/etc/own", before, "three");
        assert_eq!(code(refused), Code::PersistChanged, "{before:?}");
        is("/etc/own", "two");
    }
    assert_eq!(
        code(edit("/etc/gone", Some("one"), "two")),
        Code::PersistChanged
    );
    assert_eq!(scene.rig.read(&new.name, "/etc/gone"), None);
    // What a guest put in its place is not followed, and not replaced.
    scene.put(&new.name, "/target", &Thing::Text("one".into()))?;
    scene.put(&new.name, "/etc/link", &to("/target"))?;
    scene.put(&new.name, "/etc/dir", &Thing::Directory)?;
    for path in ["/etc/link", "/etc/dir"] {
        let refused = edit(path, Some("one"), "two");
        assert_eq!(code(refused), Code::PersistChanged, "{path}");
    }
    is("/target", "one");
    Ok(())
}

fn missing(path: &str) -> InitSeen {
    InitSeen::Missing {
        path: path.to_owned(),
    }
}

#[track_caller]
fn is_no_program(seen: &InitSeen) {
    assert!(matches!(seen, InitSeen::NotExecutable { .. }), "{seen:?}");
}

pub(super) fn an_init_is_found_in_the_assembled_datasets(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let nix = scene.data(185, "").name;
    let assembly = Assembly {
        root: None,
        mounts: vec![(nix.clone(), at("/nix"))],
    };
    let probe = |init: &str| storage.probe_init(&assembly, &at(init)).unwrap();
    assert_eq!(probe("/sbin/init"), missing("/nix/var"));
    assert_eq!(probe("/bin/init"), missing("/bin"));
    let tree = TreePlan {
        directories: vec![at("/var/nix/profiles"), at("/store/x")],
        links: vec![(at("/var/nix/profiles/system"), "/nix/store/x".to_owned())],
        files: vec![(at("/store/x/init"), "#!/bin/sh\n".to_owned())],
        edits: Vec::new(),
    };
    storage.prepare_tree(&nix, &tree).unwrap();
    // Mode 0644: there, and nothing to execute.
    is_no_program(&probe("/sbin/init"));
    is_no_program(&probe("/nix/var/nix/profiles/system/init"));
    is_no_program(&probe("/nix"));
    scene.put(&nix, "/store/x/init", &Thing::Program)?;
    assert_eq!(probe("/sbin/init"), InitSeen::Found);
    let none = Assembly {
        root: Some(PoolPath::grave("x")),
        mounts: vec![],
    };
    assert!(storage.probe_init(&none, &at("/x")).is_err());
    Ok(())
}

/// As a persistent system that shows its root dataset at another path as well is looked at before it is reinstalled.
pub(super) fn an_init_is_found_in_a_template_that_shows_twice(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let base = scene.template(vec![("/init", Thing::Program)]);
    let twice = Assembly {
        root: Some(base.clone()),
        mounts: vec![(base, at("/persistent"))],
    };
    for init in ["/init", "/persistent/init"] {
        assert_eq!(storage.probe_init(&twice, &at(init)), Ok(InitSeen::Found));
    }
    Ok(())
}

pub(super) fn an_init_is_resolved_as_the_guest_would(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let (root, nix) = (scene.data(186, "").name, scene.data(186, "nix").name);
    for path in ["/usr", "/usr/lib", "/usr/lib/systemd", "/usr/sbin", "/up"] {
        scene.put(&root, path, &Thing::Directory)?;
    }
    scene.put(&root, "/usr/lib/systemd/systemd", &Thing::Program)?;
    scene.put(&root, "/sbin", &to("usr/sbin"))?;
    // More dots than directories: the top is above itself.
    let deep = "../lib/systemd/../../../../usr/lib/systemd/systemd";
    scene.put(&root, "/usr/sbin/init", &to(deep))?;
    scene.put(&root, "/absolute", &to("/etc/passwd"))?;
    scene.put(&root, "/stored", &to("/nix/store/init"))?;
    scene.put(&root, "/magic", &to("/proc/self/root/etc/passwd"))?;
    let whole = Assembly {
        root: Some(root),
        mounts: vec![(nix.clone(), at("/nix")), (nix.clone(), at("/srv/deep"))],
    };
    let probe = |init: &str| storage.probe_init(&whole, &at(init)).unwrap();
    assert_eq!(probe("/sbin/init"), InitSeen::Found);
    assert_eq!(probe("/stored"), missing("/nix/store"));
    scene.put(&nix, "/store", &Thing::Directory)?;
    scene.put(&nix, "/store/init", &Thing::Program)?;
    assert_eq!(probe("/stored"), InitSeen::Found);
    // At a mount point that is not there yet.
    assert_eq!(probe("/srv/deep/store/init"), InitSeen::Found);
    is_no_program(&probe("/srv"));
    // The host's own files are not looked at.
    assert_eq!(probe("/absolute"), missing("/etc"));
    assert_eq!(probe("/magic"), missing("/proc"));
    assert_eq!(probe("/none/at/all"), missing("/none"));
    is_no_program(&probe("/usr"));
    is_no_program(&probe("/usr/lib/systemd/systemd/below"));
    Ok(())
}

pub(super) fn an_init_without_an_end_is_none(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let root = scene.data(187, "").name;
    scene.put(&root, "/loop", &to("/loop2"))?;
    scene.put(&root, "/loop2", &to("loop"))?;
    let bomb = (0..40).fold("x".to_owned(), |path, _| format!("bomb/{path}"));
    scene.put(&root, "/bomb", &to(&bomb))?;
    let whole = Assembly {
        root: Some(root.clone()),
        mounts: Vec::new(),
    };
    let probe = |init: &str| storage.probe_init(&whole, &at(init)).unwrap();
    is_no_program(&probe("/loop"));
    is_no_program(&probe("/loop/init"));
    is_no_program(&probe("/bomb"));
    Ok(())
}

pub(super) fn a_pipe_is_no_init(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let root = scene.data(188, "").name;
    scene.put(&root, "/pipe", &Thing::Pipe)?;
    let whole = Assembly {
        root: Some(root),
        mounts: Vec::new(),
    };
    let probe = |init: &str| storage.probe_init(&whole, &at(init)).unwrap();
    is_no_program(&probe("/pipe"));
    is_no_program(&probe("/pipe/x"));
    Ok(())
}
