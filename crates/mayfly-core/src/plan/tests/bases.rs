//! Bases that are changed, that follow their template, and templates that somebody needs.

use super::hands::Hands;
use super::{id, restart, run, start, stop};
use crate::change::VpsChange;
use crate::documents::{Request, Track};
use crate::error::Code;
use crate::fake::{Backend, FakeHost, FakeRecipe};
use crate::ids::{Digest, VpsId};
use crate::names::PoolPath;
use crate::plan::{base_path, needs_of};
use crate::ports::Storage as _;
use crate::template::RootKind;

const NAME: &str = "debian-12-impermanence";

fn vps() -> VpsId {
    id(11327)
}

/// One VPS of the template `debian-12-impermanence`, whose contents no other template has.
fn scene(host: FakeHost) -> Hands {
    let mut hands = Hands::on(host);
    for name in ["debian-12", "nixos-shaped"] {
        hands
            .ask(
                vps(),
                &Request::TemplateRemove {
                    name: name.parse().unwrap(),
                },
            )
            .unwrap();
    }
    hands.create(vps(), NAME, Some(run(1)));
    hands
}

fn set(template: Option<&str>, track: Option<Track>) -> Request {
    Request::Set {
        change: VpsChange {
            base: template.map(|name| name.parse().unwrap()),
            track,
            ..VpsChange::default()
        },
    }
}

/// Contents with another digest.
fn other(digest: u8) -> FakeRecipe {
    let mut recipe = FakeRecipe::debian_impermanence();
    recipe.built.digest = Digest::from_random([digest; 32]);
    recipe
}

/// Builds `recipe` as `name`, which may be there already.
fn put(hands: &mut Hands, name: &str, recipe: FakeRecipe) -> Digest {
    let digest = recipe.built.digest.clone();
    hands.host.add_recipe(name, recipe);
    let build = Request::TemplateBuild {
        recipe: name.into(),
        name: name.parse().unwrap(),
        mirror: None,
        replace: true,
    };
    hands.ask(vps(), &build).unwrap();
    digest
}

fn bases(hands: &Hands) -> (Digest, Option<Digest>, Option<Digest>) {
    let doc = hands.doc(vps());
    let run = doc.run.as_ref().and_then(|run| run.base.clone());
    (doc.base.template.clone(), run, doc.last_root_base.clone())
}

fn there(hands: &Hands, digest: &Digest) -> bool {
    hands.host.look(&base_path(digest)).unwrap().is_some()
}

#[test]
fn a_pinned_base_stays_and_one_that_follows_takes_the_latest_at_each_start() {
    let mut hands = scene(FakeHost::new());
    let old = hands.doc(vps()).base.template.clone();
    let new = put(&mut hands, NAME, other(0x11));
    hands.ask(vps(), &restart(2)).unwrap();
    assert_eq!(bases(&hands), (old.clone(), Some(old.clone()), None));

    hands.ask(vps(), &set(None, Some(Track::Latest))).unwrap();
    assert_eq!(
        bases(&hands),
        (old.clone(), Some(old.clone()), None),
        "not before the next start"
    );
    hands.ask(vps(), &stop()).unwrap();
    hands.clean_up();
    assert!(there(&hands, &old), "its last root was cloned from it");
    hands.ask(vps(), &start(3)).unwrap();
    assert_eq!(bases(&hands), (new.clone(), Some(new.clone()), None));
    hands.assert_sound();
    assert!(!there(&hands, &old), "nothing needs it any more");

    // Pinned again, it stays at what it has.
    hands.ask(vps(), &set(None, Some(Track::Pinned))).unwrap();
    put(&mut hands, NAME, other(0x22));
    hands.ask(vps(), &restart(4)).unwrap();
    hands.assert_sound();
    assert_eq!(bases(&hands).1, Some(new.clone()));
    assert!(there(&hands, &new));
}

#[test]
fn a_base_that_is_set_holds_from_the_next_start_on() {
    let mut hands = scene(FakeHost::new());
    let old = hands.doc(vps()).base.template.clone();
    let mut recipe = other(0x13);
    recipe.built.manifest.version = "13".into();
    recipe.built.manifest.halt_signal = 15;
    let new = put(&mut hands, "debian-13", recipe);
    hands.ask(vps(), &set(Some("debian-13"), None)).unwrap();
    let doc = hands.doc(vps()).clone();
    assert_eq!(
        (doc.template.as_str(), doc.manifest.halt_signal),
        ("debian-13", 15)
    );
    assert_eq!(bases(&hands), (new.clone(), Some(old.clone()), None));
    assert_eq!(
        hands
            .ask(vps(), &set(Some("debian-13"), None))
            .unwrap()
            .steps
            .len(),
        0
    );
    hands.ask(vps(), &stop()).unwrap();
    assert_eq!(bases(&hands), (new.clone(), None, Some(old)));
    hands.ask(vps(), &start(2)).unwrap();
    assert_eq!(bases(&hands), (new.clone(), Some(new), None));
    hands.assert_sound();
}

#[test]
fn a_base_that_does_not_fit_is_refused() {
    let mut hands = scene(FakeHost::new());
    let with = |change: fn(&mut FakeRecipe)| {
        let mut recipe = other(0x66);
        change(&mut recipe);
        recipe
    };
    for recipe in [
        with(|r| r.built.manifest.root_kind = RootKind::Empty),
        with(|r| r.built.manifest.architecture = "arm64".into()),
        with(|r| r.built.manifest.distribution = "alpine".into()),
        with(|r| r.built.manifest.layout = FakeRecipe::nixos_shaped().built.manifest.layout),
    ] {
        put(&mut hands, "other", recipe);
        let refusal = hands.ask(vps(), &set(Some("other"), None)).unwrap_err();
        assert_eq!(refusal.code, Code::TemplateUnfit, "{refusal:?}");
        // A template that came to be so under its name keeps a start from taking it, and says how to go on.
        let (name, doc) = (
            NAME.parse().unwrap(),
            hands.templates[&"other".parse().unwrap()].clone(),
        );
        let good = hands
            .templates
            .insert(
                name,
                crate::documents::TemplateDoc {
                    name: NAME.parse().unwrap(),
                    ..doc
                },
            )
            .unwrap();
        hands.vpses.get_mut(&vps()).unwrap().base.track = Track::Latest;
        let refusal = hands.ask(vps(), &restart(2)).unwrap_err();
        assert!(
            refusal.code == Code::TemplateUnfit && refusal.hint.contains("track=pinned"),
            "{refusal:?}"
        );
        hands.templates.insert(NAME.parse().unwrap(), good);
        hands.vpses.get_mut(&vps()).unwrap().base.track = Track::Pinned;
    }
    let refusal = hands.ask(vps(), &set(Some("nowhere"), None)).unwrap_err();
    assert_eq!(refusal.code, Code::TemplateNotFound);
}

#[test]
fn a_vps_that_clones_no_base_has_none_to_set() {
    for (template, hint) in [("debian-12", "impermanence=on"), ("nixos-shaped", "/nix")] {
        let mut hands = Hands::new();
        hands.create(vps(), template, None);
        for change in [
            set(Some("debian-12-impermanence"), None),
            set(None, Some(Track::Latest)),
        ] {
            let refusal = hands.ask(vps(), &change).unwrap_err();
            assert!(
                refusal.code == Code::TemplateUnfit && refusal.hint.contains(hint),
                "{refusal:?}"
            );
        }
    }
}

#[test]
fn a_template_that_something_needs_is_not_removed_and_the_refusal_says_by_whom() {
    let remove = Request::TemplateRemove {
        name: NAME.parse().unwrap(),
    };
    let mut hands = scene(FakeHost::new());
    let told = |hands: &mut Hands, by: &str| {
        let refusal = hands.ask(vps(), &remove).unwrap_err();
        assert_eq!(refusal.code, Code::TemplateInUse);
        assert!(refusal.message.contains(by), "{refusal:?}");
    };
    told(&mut hands, "it is the base of VPS 11327 (vps11327)");
    put(&mut hands, "debian-13", other(0x13));
    hands.ask(vps(), &set(Some("debian-13"), None)).unwrap();
    told(
        &mut hands,
        "the root of VPS 11327 (vps11327) was cloned from it",
    );
    hands.ask(vps(), &stop()).unwrap();
    told(
        &mut hands,
        "the last root of VPS 11327 (vps11327) was cloned from it",
    );
    hands.ask(vps(), &start(2)).unwrap();
    hands.ask(vps(), &remove).unwrap();
    hands.assert_sound();

    let follows = Request::TemplateRemove {
        name: "debian-13".parse().unwrap(),
    };
    hands.ask(vps(), &set(None, Some(Track::Latest))).unwrap();
    // The same contents under another name do not help a base that goes by the name.
    put(&mut hands, "same", other(0x13));
    let refusal = hands.ask(vps(), &follows).unwrap_err();
    assert!(refusal.message.contains("follows it"), "{refusal:?}");
    hands.ask(vps(), &set(None, Some(Track::Pinned))).unwrap();
    hands.ask(vps(), &follows).unwrap();
    hands.assert_sound();
}

#[test]
fn on_zfs_a_template_stays_for_the_data_that_was_cloned_from_it() {
    let host = FakeHost::with(Backend::Zfs, crate::bytes::Bytes::gib(1024));
    let mut hands = Hands::on(host);
    hands.create(vps(), "nixos-shaped", Some(run(1)));
    let digest = hands.doc(vps()).base.template.clone();
    let pool = hands.host.observe().unwrap();
    let nobody = needs_of(&base_path(&digest), &[], &pool);
    assert!(
        nobody
            .iter()
            .any(|need| need.starts_with("dataset 11327/nix was cloned")),
        "{nobody:?}"
    );
    // What lies in the graveyard is on its way.
    hands.ask(vps(), &Request::Destroy { now: false }).unwrap();
    let pool = hands.host.observe().unwrap();
    assert!(pool.datasets.keys().any(PoolPath::is_grave));
    assert_eq!(
        needs_of(&base_path(&digest), &[], &pool),
        Vec::<String>::new()
    );
}
