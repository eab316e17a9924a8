//! Contents that change places.

use super::given::{code, digest, exchange, in_pool, life, part, put_aside, vps};
use super::rig::{Can, Planted, Thing};
use super::scene::{Scene, template_part};
use crate::bytes::Bytes;
use crate::error::Code;
use crate::names::{PoolPath, TemplatePart};
use crate::observed::{MarkSeen, Role};
use crate::ports::{NewDataset, Origin, Outcome, Storage};
use crate::proof::ConfirmedDestroy;

fn text(text: &str) -> Thing {
    Thing::Text(text.into())
}

/// A VPS with `old` contents and datasets below, and `new` ones of a template that lie aside for the reinstall `by`.
fn two(scene: &Scene<'_>, id: u32, by: u8) -> Can<(Vec<NewDataset>, NewDataset)> {
    let digest = digest(3);
    let parts = [
        (TemplatePart::Base, vec![("/which", text("new"))]),
        (part("nix"), vec![("/which", text("template's"))]),
    ];
    scene.rig.template(&digest, &parts);
    let family: Vec<_> = ["", "nix", "nix/deep", "srv"]
        .map(|name| scene.data(id, name))
        .to_vec();
    scene.put(&family[0].name, "/which", &text("old"))?;
    scene.put(&family[1].name, "/which", &text("below"))?;
    scene.rig.settle();
    let base = template_part(&digest, &TemplatePart::Base);
    let new = put_aside(&scene.node(), id, "", by, Origin::Clone(base));
    scene.create(&new);
    Ok((family, new))
}

/// `which` contents are at the dataset, `other` ones aside, and all below is in its place with its own mark.
#[track_caller]
fn is_so(scene: &Scene<'_>, family: &[NewDataset], aside: &PoolPath, (which, other): (&str, &str)) {
    let read = |name: &PoolPath| scene.rig.read(name, "/which");
    assert_eq!(read(&family[0].name).as_deref(), Some(which));
    assert_eq!(read(aside).as_deref(), Some(other));
    assert_eq!(read(&family[1].name).as_deref(), Some("below"));
    for one in &family[1..] {
        let seen = scene.seen(&one.name);
        assert_eq!(seen.mark, MarkSeen::Local(one.mark.clone()), "{}", one.name);
        assert_eq!(seen.quota, one.quota, "{}", one.name);
    }
    let role = |name: &PoolPath| match scene.seen(name).mark {
        MarkSeen::Local(mark) if mark.made_as == *name => mark.role,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(role(&family[0].name), Role::Persistent);
    assert_eq!(role(aside), Role::Replaced);
    let all = scene.storage().observe().unwrap().datasets;
    let stray = all
        .keys()
        .find(|name| name.is_below(aside) || **name == aside.on_the_way());
    assert_eq!(stray, None);
}

pub(super) fn contents_change_places_and_what_lies_below_stays(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let (family, new) = two(scene, 171, 5)?;
    let there = exchange(171, "", &new.name, Some(5));
    assert_eq!(storage.exchange(&there), Ok(Outcome::Changed));
    is_so(scene, &family, &new.name, ("new", "old"));
    assert_eq!(storage.exchange(&there), Ok(Outcome::Unchanged));
    // What is written now stays with the contents that it was written to.
    scene.put(&family[0].name, "/later", &text("later"))?;
    let back = exchange(171, "", &new.name, None);
    assert_eq!(storage.exchange(&back), Ok(Outcome::Changed));
    is_so(scene, &family, &new.name, ("old", "new"));
    assert_eq!(scene.rig.read(&family[0].name, "/later"), None);
    assert_eq!(
        scene.rig.read(&new.name, "/later").as_deref(),
        Some("later")
    );
    assert_eq!(
        scene.seen(&family[0].name).mark,
        MarkSeen::Local(family[0].mark.clone())
    );
    assert_eq!(
        scene.seen(&new.name).mark,
        MarkSeen::Local(new.mark.clone())
    );
    Ok(())
}

pub(super) fn contents_of_a_subdataset_change_places(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let family: Vec<_> = ["", "nix", "nix/deep"]
        .map(|name| scene.data(172, name))
        .to_vec();
    scene.put(&family[1].name, "/which", &text("old"))?;
    let new = put_aside(&scene.node(), 172, "nix", 6, Origin::Empty);
    scene.create(&new);
    let there = exchange(172, "nix", &new.name, Some(6));
    assert_eq!(storage.exchange(&there), Ok(Outcome::Changed));
    assert_eq!(scene.rig.read(&family[1].name, "/which"), None);
    assert_eq!(scene.rig.read(&new.name, "/which").as_deref(), Some("old"));
    for one in [&family[0], &family[2]] {
        assert_eq!(
            scene.seen(&one.name).mark,
            MarkSeen::Local(one.mark.clone())
        );
    }
    Ok(())
}

pub(super) fn quotas_go_with_contents_that_change_places(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let old = scene.data(173, "");
    let mut new = put_aside(&scene.node(), 173, "", 7, Origin::Empty);
    new.quota = Some(Bytes::mib(32));
    scene.create(&new);
    let there = exchange(173, "", &new.name, Some(7));
    assert_eq!(storage.exchange(&there), Ok(Outcome::Changed));
    let quotas = (scene.seen(&old.name).quota, scene.seen(&new.name).quota);
    assert_eq!(quotas, (Some(Bytes::mib(32)), old.quota));
    Ok(())
}

pub(super) fn only_a_vps_s_own_contents_change_places(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let (family, new) = two(scene, 174, 5)?;
    // Neither has these contents.
    let other = exchange(174, "", &new.name, Some(8));
    assert_eq!(code(storage.exchange(&other)), Code::NotOurs);
    // Another VPS's, a temporary root, a template.
    scene.data(175, "");
    let foreign = exchange(175, "", &new.name, Some(5));
    assert_eq!(code(storage.exchange(&foreign)), Code::NotOurs);
    let root = scene.root(174, 1);
    let as_root = exchange(174, "", &root.name, Some(5));
    assert_eq!(code(storage.exchange(&as_root)), Code::NotOurs);
    let template = template_part(&digest(3), &TemplatePart::Base);
    let as_template = exchange(174, "", &template, Some(5));
    assert_eq!(code(storage.exchange(&as_template)), Code::NotOurs);
    is_so(scene, &family, &new.name, ("old", "new"));
    Ok(())
}

pub(super) fn an_unknown_dataset_below_stops_the_exchange(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let (family, new) = two(scene, 176, 5)?;
    let stranger = in_pool("176/nix/stranger");
    scene.rig.plant(&stranger, &Planted::Unmarked)?;
    let there = exchange(176, "", &new.name, Some(5));
    assert_eq!(code(storage.exchange(&there)), Code::NotOurs);
    is_so(scene, &family, &new.name, ("old", "new"));
    scene.rig.uproot(&stranger);
    Ok(())
}

pub(super) fn what_was_put_aside_is_buried_with_proof(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let old = scene.data(177, "");
    let new = put_aside(&scene.node(), 177, "", 7, Origin::Empty);
    scene.create(&new);
    let there = exchange(177, "", &new.name, Some(7));
    assert_eq!(storage.exchange(&there), Ok(Outcome::Changed));
    let mark = scene.seen(&new.name).mark;
    let prove = |id, n| {
        let owner = (vps(id), &life(n));
        ConfirmedDestroy::prove(&new.name, &mark, &scene.node(), owner, &[])
    };
    assert!(prove(178, 1).is_err());
    assert!(prove(177, 2).is_err());
    assert!(prove(177, 1).is_ok());
    let grave = scene.bury_data(&new, 9);
    scene.reap(&grave);
    scene.seen(&old.name);
    Ok(())
}

pub(super) fn an_exchange_that_is_cut_off_is_finished_or_put_back(scene: &Scene<'_>) -> Can<()> {
    let (family, new) = two(scene, 179, 5)?;
    let there = exchange(179, "", &new.name, Some(5));
    scene.rig.cut(&|storage| drop(storage.exchange(&there)))?;
    // Whatever was reached, neither can be destroyed as something that it is not any more, or not yet.
    let back = exchange(179, "", &new.name, None);
    assert_eq!(scene.storage().exchange(&back), Ok(Outcome::Changed));
    is_so(scene, &family, &new.name, ("old", "new"));
    scene.rig.cut(&|storage| drop(storage.exchange(&there)))?;
    assert_eq!(scene.storage().exchange(&there), Ok(Outcome::Changed));
    is_so(scene, &family, &new.name, ("new", "old"));
    Ok(())
}
