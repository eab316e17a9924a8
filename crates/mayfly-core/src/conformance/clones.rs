//! Clones: of the parts of templates, as every start makes them, and of persistent datasets.

use super::given::{
    at, burial_of_template, code, condemned, digest, in_pool, part, persistent, root,
};
use super::rig::{Can, Clones, PutError, Thing};
use super::scene::{Scene, template_part};
use crate::bytes::Bytes;
use crate::error::Code;
use crate::names::{PoolPath, TemplatePart};
use crate::observed::MarkSeen;
use crate::ports::{HostError, NewDataset, Origin, Outcome, Storage, TreePlan};

fn text(text: &str) -> Thing {
    Thing::Text(text.to_owned())
}

#[track_caller]
fn cloned(scene: &Scene<'_>, id: u32, run: u8, from: &PoolPath) -> NewDataset {
    let new = root(&scene.node(), id, run, Origin::Clone(from.clone()));
    scene.create(&new);
    new
}

pub(super) fn a_clone_of_a_template_has_its_contents_and_a_mark_of_its_own(
    scene: &Scene<'_>,
) -> Can<()> {
    let base = scene.template(vec![
        ("/etc", Thing::Directory),
        ("/etc/os-release", text("debian")),
    ]);
    let clone = cloned(scene, 111, 1, &base);
    let seen = scene.seen(&clone.name);
    assert_eq!(
        (seen.mark, seen.quota),
        (MarkSeen::Local(clone.mark.clone()), clone.quota)
    );
    assert_eq!(
        scene.rig.read(&clone.name, "/etc/os-release").as_deref(),
        Some("debian")
    );
    let tree = TreePlan {
        directories: vec![at("/etc")],
        ..TreePlan::default()
    };
    assert_eq!(
        scene.storage().prepare_tree(&clone.name, &tree),
        Ok(Outcome::Unchanged),
        "the contents are not there"
    );
    // What a VPS keeps is cloned from a template as well, once.
    let mut kept = persistent(&scene.node(), 111, "", Bytes::mib(64));
    kept.origin = Origin::Clone(base.clone());
    scene.create(&kept);
    assert_eq!(scene.seen(&kept.name).mark, MarkSeen::Local(kept.mark));
    let MarkSeen::Local(mark) = scene.seen(&base).mark else {
        panic!("the template lost its mark")
    };
    assert_eq!((mark.owner, &mark.made_as), (None, &base));
    Ok(())
}

pub(super) fn a_clone_shares_no_changes(scene: &Scene<'_>) -> Can<()> {
    let base = scene.template(vec![("/file", text("as built"))]);
    let first = cloned(scene, 112, 1, &base);
    scene.put(&first.name, "/file", &text("changed"))?;
    scene.put(&first.name, "/new", &text("mine"))?;
    scene.rig.settle();
    let second = cloned(scene, 112, 2, &base);
    for name in [&base, &second.name] {
        assert_eq!(scene.rig.read(name, "/file").as_deref(), Some("as built"));
        assert_eq!(scene.rig.read(name, "/new"), None, "{name}");
    }
    assert_eq!(
        scene.rig.read(&first.name, "/file").as_deref(),
        Some("changed")
    );
    Ok(())
}

pub(super) fn a_clone_of_a_part_has_none_of_the_other_parts(scene: &Scene<'_>) -> Can<()> {
    let digest = digest(2);
    let parts = [
        (TemplatePart::Base, vec![("/which", text("base"))]),
        (part(""), vec![("/which", text("top"))]),
        (part("srv/data"), vec![("/which", text("data"))]),
    ];
    scene.rig.template(&digest, &parts);
    scene.rig.settle();
    let names: Vec<_> = scene
        .storage()
        .observe()
        .unwrap()
        .datasets
        .into_keys()
        .collect();
    for (part, _) in &parts {
        assert!(
            names.contains(&template_part(&digest, part)),
            "{part:?} is not in {names:?}"
        );
    }
    let base = cloned(scene, 113, 1, &template_part(&digest, &TemplatePart::Base));
    assert_eq!(
        scene.rig.read(&base.name, "/which").as_deref(),
        Some("base")
    );
    for below in ["srv", "srv/data", ".root"] {
        scene.is_absent(&in_pool(&format!("{}/{below}", base.name)));
    }
    let mut top = persistent(&scene.node(), 113, "", Bytes::mib(64));
    top.origin = Origin::Clone(template_part(&digest, &part("")));
    scene.create(&top);
    let mut data = persistent(&scene.node(), 113, "data", Bytes::mib(64));
    data.origin = Origin::Clone(template_part(&digest, &part("srv/data")));
    scene.create(&data);
    assert_eq!(scene.rig.read(&top.name, "/which").as_deref(), Some("top"));
    assert_eq!(
        scene.rig.read(&data.name, "/which").as_deref(),
        Some("data")
    );
    Ok(())
}

pub(super) fn the_bytes_of_the_base_are_not_charged(scene: &Scene<'_>) -> Can<()> {
    let base = scene.template(vec![("/big", Thing::Filled(Bytes::mib(24)))]);
    let mut clone = root(&scene.node(), 114, 1, Origin::Clone(base.clone()));
    clone.quota = Some(Bytes::mib(16));
    scene.create(&clone);
    scene.rig.settle();
    let seen = scene.seen(&clone.name);
    assert_eq!(seen.quota, clone.quota);
    assert!(seen.used.unwrap() < Bytes::mib(1), "{seen:?}");

    // Its own writes are, up to the quota and no further.
    scene.put(&clone.name, "/own", &Thing::Filled(Bytes::mib(10)))?;
    scene.rig.settle();
    let used = scene.seen(&clone.name).used.unwrap();
    assert!(
        used >= Bytes::mib(10) && used < Bytes::mib(12),
        "10M were written, {used} are charged"
    );
    assert_eq!(
        code(scene.storage().set_quota(&clone.name, Bytes::mib(8))),
        Code::QuotaBelowUse
    );
    let more = Thing::Filled(Bytes::mib(24));
    assert_eq!(
        scene.rig.put(&clone.name, "/more", &more),
        Err(PutError::Quota)
    );
    // The quota may be below what the base holds.
    assert_eq!(
        scene.storage().set_quota(&clone.name, Bytes::mib(20)),
        Ok(Outcome::Changed)
    );
    assert_eq!(scene.seen(&clone.name).quota, Some(Bytes::mib(20)));
    Ok(())
}

pub(super) fn a_persistent_dataset_is_cloned_without_what_lies_below_it(
    scene: &Scene<'_>,
) -> Can<()> {
    let base = scene.data(115, "");
    scene.data(115, "nix");
    scene.put(&base.name, "/kept", &text("on purpose"))?;
    scene.put(&base.name, "/big", &Thing::Filled(Bytes::mib(8)))?;
    scene.rig.settle();
    let mut clone = root(&scene.node(), 115, 1, Origin::Clone(base.name.clone()));
    clone.quota = Some(Bytes::mib(4));
    scene.create(&clone);
    scene.rig.settle();
    let seen = scene.seen(&clone.name);
    assert_eq!(seen.mark, MarkSeen::Local(clone.mark.clone()));
    assert!(seen.used.unwrap() < Bytes::mib(1), "{seen:?}");
    assert_eq!(
        scene.rig.read(&clone.name, "/kept").as_deref(),
        Some("on purpose")
    );
    scene.is_absent(&in_pool(&format!("{}/nix", clone.name)));
    // The platform's own snapshot, where it needs one, is nobody's.
    assert_eq!(scene.seen(&base.name).mark, MarkSeen::Local(base.mark));
    Ok(())
}

pub(super) fn there_is_no_clone_of_nothing(scene: &Scene<'_>) -> Can<()> {
    let new = root(&scene.node(), 116, 1, Origin::Clone(in_pool("999")));
    assert_eq!(
        code(scene.storage().create_dataset(&new)),
        Code::DatasetNotFound
    );
    scene.is_absent(&new.name);
    assert_eq!(scene.storage().clear_staging(), Ok(Vec::new()));
    Ok(())
}

pub(super) fn a_template_with_clones_outlives_them(scene: &Scene<'_>) -> Can<()> {
    let (storage, node) = (scene.storage(), scene.node());
    let base = scene.template(vec![("/file", text("as built"))]);
    let clone = cloned(scene, 117, 1, &base);
    let burial = burial_of_template(&storage, &node, &base, 1);
    let grave = scene.bury(&burial, 1);
    let proof = condemned(&storage, &node, &grave);
    match scene.rig.clones() {
        Clones::NeedTheirOrigin => {
            let refused = storage.reap(&proof);
            assert!(
                matches!(refused, Err(HostError::Busy { .. })),
                "{refused:?}"
            );
            // Nothing of it is destroyed, and it can be proven again.
            scene.condemned(&grave);
            assert_eq!(scene.rig.read(&grave, "/file").as_deref(), Some("as built"));
        }
        Clones::StandAlone => assert_eq!(storage.reap(&proof), Ok(Outcome::Changed)),
    }
    assert_eq!(
        scene.rig.read(&clone.name, "/file").as_deref(),
        Some("as built")
    );
    // What was cloned from it goes, and then it goes as well.
    let of_clone = scene.bury_root(&clone, 2);
    scene.reap(&of_clone);
    if scene.rig.clones() == Clones::NeedTheirOrigin {
        scene.reap(&grave);
    }
    Ok(())
}
