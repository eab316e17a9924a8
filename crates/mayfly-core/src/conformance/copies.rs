//! Trees that are copied into other datasets, and directories that are taken out of them.

use super::given::{at, code, in_pool, life, operation, own_base, root, vps};
use super::rig::{Can, Thing};
use super::scene::Scene;
use crate::bytes::Bytes;
use crate::error::Code;
use crate::names::PoolPath;
use crate::ports::{Cancel, HostError, HostResult, NewDataset, Origin, Outcome, Storage};
use crate::trees::{TakeTo, TakenOut, TreeCopied, TreeCopy};

fn text(text: &str) -> Thing {
    Thing::Text(text.into())
}

/// A VPS with a little tree, and an empty dataset below it.
fn family(scene: &Scene<'_>, id: u32) -> Can<(NewDataset, NewDataset)> {
    let (from, to) = (scene.data(id, ""), scene.data(id, "nix"));
    for directory in ["/nix", "/nix/store", "/nix/store/deep", "/etc"] {
        scene.put(&from.name, directory, &Thing::Directory)?;
    }
    scene.put(&from.name, "/nix/store/a", &text("one"))?;
    scene.put(&from.name, "/nix/store/deep/b", &text("two"))?;
    scene.put(&from.name, "/nix/link", &Thing::Link("store/a".into()))?;
    scene.put(&from.name, "/etc/hostname", &text("web"))?;
    Ok((from, to))
}

fn of_nix(from: &NewDataset, to: &NewDataset) -> TreeCopy {
    TreeCopy {
        owner: from.mark.owner.clone().unwrap(),
        from: from.name.clone(),
        below: at("/nix"),
        to: to.name.clone(),
        without: Vec::new(),
    }
}

fn copy(scene: &Scene<'_>, copy: &TreeCopy) -> HostResult<TreeCopied> {
    scene
        .storage()
        .copy_tree(copy, &Cancel::default(), &mut |_| {})
}

#[track_caller]
fn copied(scene: &Scene<'_>, what: &TreeCopy) -> TreeCopied {
    let done = copy(scene, what).unwrap();
    assert_eq!(done.outcome, Outcome::Changed);
    done
}

#[track_caller]
fn holds(scene: &Scene<'_>, name: &PoolPath, path: &str, wanted: Option<&str>) {
    let found = scene.rig.read(name, path);
    assert_eq!(found.as_deref(), wanted, "{path} of {name}");
}

pub(super) fn a_tree_is_copied_whole_and_once(scene: &Scene<'_>) -> Can<()> {
    let (from, to) = family(scene, 191)?;
    let nix = of_nix(&from, &to);
    let done = copied(scene, &nix);
    assert_eq!(done.copied.saturating_add(done.shared), Bytes(6));
    holds(scene, &to.name, "/store/a", Some("one"));
    holds(scene, &to.name, "/store/deep/b", Some("two"));
    holds(scene, &to.name, "/etc/hostname", None);
    holds(scene, &from.name, "/nix/store/a", Some("one"));
    // Done is done, whatever became of it since.
    scene.put(&to.name, "/store/a", &text("changed"))?;
    assert_eq!(
        copy(scene, &nix).map(|done| done.outcome),
        Ok(Outcome::Unchanged)
    );
    holds(scene, &to.name, "/store/a", Some("changed"));
    holds(scene, &from.name, "/nix/store/a", Some("one"));
    Ok(())
}

pub(super) fn a_copy_leaves_out_what_it_is_told_to(scene: &Scene<'_>) -> Can<()> {
    let (from, to) = family(scene, 192)?;
    scene.put(&from.name, "/storefront", &text("stays"))?;
    let all = TreeCopy {
        below: at("/"),
        without: vec![
            at("/nix/store"),
            at("/etc/hostname"),
            at("/store"),
            at("/absent/x"),
        ],
        ..of_nix(&from, &to)
    };
    copied(scene, &all);
    holds(scene, &to.name, "/storefront", Some("stays"));
    for gone in ["/nix/store/a", "/nix/store/deep/b", "/etc/hostname"] {
        holds(scene, &to.name, gone, None);
    }
    // Of a directory that is left out, the directory itself is there.
    scene.put(&to.name, "/nix/store/new", &text("mine"))?;
    scene.put(&to.name, "/etc/new", &text("mine"))?;
    let nothing = TreeCopy {
        without: vec![at("/nix")],
        ..of_nix(&from, &scene.data(192, "other"))
    };
    assert_eq!(code(copy(scene, &nothing)), Code::Invalid);
    Ok(())
}

pub(super) fn a_copy_goes_only_into_what_is_empty(scene: &Scene<'_>) -> Can<()> {
    let (from, to) = family(scene, 193)?;
    scene.put(&to.name, "/mine", &text("precious"))?;
    assert_eq!(code(copy(scene, &of_nix(&from, &to))), Code::DatasetExists);
    holds(scene, &to.name, "/mine", Some("precious"));
    holds(scene, &to.name, "/store/a", None);
    // Another copy is not this one.
    let other = scene.data(193, "other");
    copied(scene, &of_nix(&from, &other));
    let etc = TreeCopy {
        below: at("/etc"),
        ..of_nix(&from, &other)
    };
    assert_eq!(code(copy(scene, &etc)), Code::DatasetExists);
    holds(scene, &other.name, "/store/a", Some("one"));
    Ok(())
}

pub(super) fn only_a_vps_s_own_trees_are_copied(scene: &Scene<'_>) -> Can<()> {
    let (from, to) = family(scene, 194)?;
    let foreign = scene.data(195, "");
    let temporary = scene.root(194, 1);
    let nix = of_nix(&from, &to);
    let strange = [
        TreeCopy {
            to: foreign.name.clone(),
            ..nix.clone()
        },
        TreeCopy {
            from: foreign.name.clone(),
            ..nix.clone()
        },
        TreeCopy {
            to: temporary.name.clone(),
            ..nix.clone()
        },
        TreeCopy {
            from: temporary.name,
            ..nix.clone()
        },
        TreeCopy {
            to: from.name.clone(),
            ..nix.clone()
        },
        TreeCopy {
            owner: (vps(194), life(2)),
            ..nix.clone()
        },
    ];
    for one in strange {
        assert_eq!(code(copy(scene, &one)), Code::NotOurs, "{one:?}");
    }
    let absent = TreeCopy {
        to: in_pool("999"),
        ..nix
    };
    assert_eq!(code(copy(scene, &absent)), Code::DatasetNotFound);
    holds(scene, &foreign.name, "/store/a", None);
    Ok(())
}

pub(super) fn a_copy_follows_nothing(scene: &Scene<'_>) -> Can<()> {
    let (from, to) = family(scene, 196)?;
    scene.put(&from.name, "/around", &Thing::Link("nix".into()))?;
    let below = |path| TreeCopy {
        below: at(path),
        ..of_nix(&from, &to)
    };
    for (path, why) in [
        ("/around", Code::FileRefused),
        ("/around/store", Code::FileRefused),
        ("/etc/hostname", Code::FileRefused),
        ("/absent", Code::FileNotFound),
    ] {
        assert_eq!(code(copy(scene, &below(path))), why, "{path}");
    }
    copied(scene, &below("/nix/store"));
    holds(scene, &to.name, "/a", Some("one"));
    Ok(())
}

pub(super) fn a_copy_that_does_not_fit_leaves_nothing(scene: &Scene<'_>) -> Can<()> {
    let (from, to) = family(scene, 197)?;
    scene.put(&from.name, "/nix/big", &Thing::Filled(Bytes::mib(24)))?;
    scene.rig.settle();
    assert_eq!(
        scene.storage().set_quota(&to.name, Bytes::mib(8)),
        Ok(Outcome::Changed)
    );
    let nix = of_nix(&from, &to);
    assert_eq!(code(copy(scene, &nix)), Code::DiskSpace);
    scene.rig.settle();
    holds(scene, &to.name, "/store/a", None);
    assert!(scene.seen(&to.name).used.unwrap() < Bytes::mib(1));
    assert_eq!(
        scene.storage().set_quota(&to.name, Bytes::mib(64)),
        Ok(Outcome::Changed)
    );
    let done = copied(scene, &nix);
    assert_eq!(
        done.copied.saturating_add(done.shared),
        Bytes::mib(24).saturating_add(Bytes(6))
    );
    holds(scene, &to.name, "/store/a", Some("one"));
    Ok(())
}

pub(super) fn a_copy_that_is_not_wanted_ends(scene: &Scene<'_>) -> Can<()> {
    let (from, to) = family(scene, 198)?;
    let cancel = Cancel::default();
    cancel.set();
    let nix = of_nix(&from, &to);
    let ended = scene.storage().copy_tree(&nix, &cancel, &mut |_| {});
    assert!(matches!(ended, Err(HostError::Failed { .. })), "{ended:?}");
    holds(scene, &to.name, "/store/a", None);
    copied(scene, &nix);
    Ok(())
}

pub(super) fn a_base_is_cloned_once_it_is_whole(scene: &Scene<'_>) -> Can<()> {
    let (from, _) = family(scene, 199)?;
    let base = own_base(&scene.node(), 199, 4);
    scene.create(&base);
    let clone = root(&scene.node(), 199, 1, Origin::Clone(base.name.clone()));
    let early = scene.storage().create_dataset(&clone);
    assert!(matches!(early, Err(HostError::Look(_))), "{early:?}");
    let all = TreeCopy {
        below: at("/"),
        ..of_nix(&from, &base)
    };
    copied(scene, &all);
    scene.rig.settle();
    scene.create(&clone);
    holds(scene, &clone.name, "/etc/hostname", Some("web"));
    scene.put(&clone.name, "/etc/hostname", &text("mine"))?;
    let next = root(&scene.node(), 199, 2, Origin::Clone(base.name.clone()));
    scene.create(&next);
    holds(scene, &next.name, "/etc/hostname", Some("web"));
    assert_eq!(
        copy(scene, &all).map(|done| done.outcome),
        Ok(Outcome::Unchanged)
    );
    Ok(())
}

fn nix_of(dataset: &NewDataset) -> TakenOut {
    TakenOut {
        owner: dataset.mark.owner.clone().unwrap(),
        dataset: dataset.name.clone(),
        path: at("/nix"),
        by: operation(4),
    }
}

pub(super) fn a_directory_is_taken_out_and_put_back(scene: &Scene<'_>) -> Can<()> {
    let (from, _) = family(scene, 201)?;
    let nix = nix_of(&from);
    let take = |to| scene.storage().take_out(&nix, to);
    assert_eq!(take(TakeTo::Back), Ok(Outcome::Unchanged));
    assert_eq!(take(TakeTo::Aside), Ok(Outcome::Changed));
    holds(scene, &from.name, "/nix/store/a", None);
    holds(scene, &from.name, "/etc/hostname", Some("web"));
    // An empty directory, such as a mount point, is no obstacle; anything else is.
    scene.put(&from.name, "/nix", &Thing::Directory)?;
    scene.put(&from.name, "/nix/mine", &text("new"))?;
    assert_eq!(code(take(TakeTo::Back)), Code::FileRefused);
    holds(scene, &from.name, "/nix/mine", Some("new"));
    scene.rig.remove(&from.name, "/nix/mine").unwrap();
    assert_eq!(take(TakeTo::Back), Ok(Outcome::Changed));
    holds(scene, &from.name, "/nix/store/deep/b", Some("two"));
    assert_eq!(take(TakeTo::Nothing), Ok(Outcome::Unchanged));
    holds(scene, &from.name, "/nix/store/deep/b", Some("two"));
    Ok(())
}

pub(super) fn what_was_taken_out_counts_until_it_is_destroyed(scene: &Scene<'_>) -> Can<()> {
    let (from, _) = family(scene, 202)?;
    scene.put(&from.name, "/nix/big", &Thing::Filled(Bytes::mib(24)))?;
    scene.rig.settle();
    let nix = nix_of(&from);
    let take = |to| scene.storage().take_out(&nix, to);
    assert_eq!(take(TakeTo::Aside), Ok(Outcome::Changed));
    scene.rig.settle();
    assert!(scene.seen(&from.name).used.unwrap() >= Bytes::mib(24));
    assert_eq!(take(TakeTo::Nothing), Ok(Outcome::Changed));
    scene.rig.settle();
    assert!(scene.seen(&from.name).used.unwrap() < Bytes::mib(1));
    assert_eq!(take(TakeTo::Back), Ok(Outcome::Unchanged));
    holds(scene, &from.name, "/nix/store/a", None);
    holds(scene, &from.name, "/etc/hostname", Some("web"));
    Ok(())
}

pub(super) fn only_a_vps_s_own_directories_are_taken_out(scene: &Scene<'_>) -> Can<()> {
    let (from, _) = family(scene, 203)?;
    let base = own_base(&scene.node(), 203, 4);
    scene.create(&base);
    scene.put(&from.name, "/around", &Thing::Link("nix".into()))?;
    let nix = nix_of(&from);
    let refused = [
        (
            TakenOut {
                owner: (vps(203), life(2)),
                ..nix.clone()
            },
            Code::NotOurs,
        ),
        (
            TakenOut {
                owner: (vps(204), life(1)),
                ..nix.clone()
            },
            Code::NotOurs,
        ),
        (
            TakenOut {
                dataset: base.name,
                ..nix.clone()
            },
            Code::NotOurs,
        ),
        (
            TakenOut {
                dataset: in_pool("999"),
                ..nix.clone()
            },
            Code::DatasetNotFound,
        ),
        (
            TakenOut {
                path: at("/"),
                ..nix.clone()
            },
            Code::Invalid,
        ),
        (
            TakenOut {
                path: at("/absent"),
                ..nix.clone()
            },
            Code::FileNotFound,
        ),
        (
            TakenOut {
                path: at("/absent/too"),
                ..nix.clone()
            },
            Code::FileNotFound,
        ),
        (
            TakenOut {
                path: at("/around"),
                ..nix.clone()
            },
            Code::FileRefused,
        ),
        (
            TakenOut {
                path: at("/around/store"),
                ..nix.clone()
            },
            Code::FileRefused,
        ),
        (
            TakenOut {
                path: at("/etc/hostname"),
                ..nix.clone()
            },
            Code::FileRefused,
        ),
    ];
    for (what, why) in refused {
        let taken = scene.storage().take_out(&what, TakeTo::Aside);
        assert_eq!(code(taken), why, "{what:?}");
    }
    holds(scene, &from.name, "/nix/store/a", Some("one"));
    // What one conversion took out is none of another's.
    assert_eq!(
        scene.storage().take_out(&nix, TakeTo::Aside),
        Ok(Outcome::Changed)
    );
    let other = TakenOut {
        by: operation(5),
        ..nix.clone()
    };
    for to in [TakeTo::Back, TakeTo::Nothing] {
        let taken = scene.storage().take_out(&other, to);
        assert_eq!(taken, Ok(Outcome::Unchanged));
    }
    assert_eq!(
        scene.storage().take_out(&nix, TakeTo::Back),
        Ok(Outcome::Changed)
    );
    holds(scene, &from.name, "/nix/store/a", Some("one"));
    Ok(())
}

pub(super) fn a_clone_has_nothing_of_what_was_taken_out(scene: &Scene<'_>) -> Can<()> {
    let (from, _) = family(scene, 205)?;
    let nix = nix_of(&from);
    let taken = scene.storage().take_out(&nix, TakeTo::Aside);
    assert_eq!(taken, Ok(Outcome::Changed));
    scene.rig.settle();
    let clone = root(&scene.node(), 205, 1, Origin::Clone(from.name.clone()));
    scene.create(&clone);
    holds(scene, &clone.name, "/etc/hostname", Some("web"));
    holds(scene, &clone.name, "/nix/store/a", None);
    let back = scene.storage().take_out(&nix, TakeTo::Back);
    assert_eq!(back, Ok(Outcome::Changed));
    holds(scene, &from.name, "/nix/store/a", Some("one"));
    Ok(())
}

pub(super) fn a_copy_that_is_cut_off_begins_anew(scene: &Scene<'_>) -> Can<()> {
    let (from, to) = family(scene, 206)?;
    let nix = of_nix(&from, &to);
    let cancel = Cancel::default();
    scene
        .rig
        .cut(&|storage| drop(storage.copy_tree(&nix, &cancel, &mut |_| {})))?;
    holds(scene, &to.name, "/store/a", None);
    copied(scene, &nix);
    holds(scene, &to.name, "/store/a", Some("one"));
    let taken = nix_of(&from);
    scene
        .rig
        .cut(&|storage| drop(storage.take_out(&taken, TakeTo::Aside)))?;
    scene
        .rig
        .cut(&|storage| drop(storage.take_out(&taken, TakeTo::Nothing)))?;
    scene.storage().take_out(&taken, TakeTo::Nothing).unwrap();
    holds(scene, &from.name, "/nix/store/a", None);
    holds(scene, &to.name, "/store/a", Some("one"));
    Ok(())
}
