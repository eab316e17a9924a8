//! What is said of a VPS: every finding, and none where nothing is to be said.

use serde_json::{Map, json};

use crate::doctor::{
    About, ConfigFile, Finding, Kept, Looked, NixFacts, NixosLook, Severity, Topic, Unsure, judge,
};
use crate::documents::{Impermanence, Mount, VpsDoc};
use crate::names::DatasetName;
use crate::persist::list::{Listing, list};
use crate::persist::own::{DeclaredSeen, Format, OwnFile};
use crate::persist::path::TreePath;
use crate::template::RootKind;

fn doc(distribution: &str) -> VpsDoc {
    let document = json!({
        "schema": 5, "id": 11327, "hostname": "web", "incarnation": "0123456789abcdef0123456789abcdef",
        "node": "0123456789abcdef", "template": "some", "base": {"template": "0".repeat(64)},
        "manifest": {"distribution": distribution, "version": "1", "architecture": "amd64", "init": "/sbin/init",
            "halt_signal": 37, "root_kind": "empty"},
        "storage": "/persistent", "disk_bytes": 1, "datasets": [], "mounts": [], "impermanence": null, "limits": {},
        "ids": {"first": 1048576, "count": 262144}, "lifecycle": {"state": "ready"}, "desired": "stopped",
        "on_crash": "restart", "crashes": [], "run": null, "last_root": null
    });
    let mut doc: VpsDoc = serde_json::from_value(document).unwrap();
    doc.impermanence = Some(Impermanence {
        root_quota_bytes: "10G".parse().unwrap(),
        root_kind: RootKind::Empty,
    });
    doc.mounts = vec![mount("", "/persistent"), mount("nix", "/nix")];
    doc
}

fn mount(dataset: &str, path: &str) -> Mount {
    let dataset = match dataset {
        "" => DatasetName::root(),
        name => name.parse().unwrap(),
    };
    Mount {
        dataset,
        path: path.parse().unwrap(),
        read_only: false,
    }
}

/// What the VPS's own file says.
fn own(text: &str) -> Listing {
    let file = OwnFile {
        path: TreePath::parse("/persistent/etc/mayfly/persistence.toml").unwrap(),
        format: Format::Toml,
        text: Ok(text.to_owned()),
    };
    let seen = DeclaredSeen {
        own: Some(file),
        ..DeclaredSeen::default()
    };
    list(&Map::new(), &seen)
}

fn kept(storage: &str, paths: &[&str]) -> Kept {
    Kept {
        name: storage.to_owned(),
        storage: None,
        line: 4,
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        users: false,
        disabled: false,
    }
}

/// A configuration that keeps what a NixOS is.
fn facts() -> NixFacts {
    NixFacts {
        kept: vec![kept(
            "/persistent",
            &[
                "/etc/nixos",
                "/var/log",
                "/var/lib/nixos",
                "/etc/machine-id",
            ],
        )],
        flakes: Some(true),
        host_keys: Some(vec!["/persistent/etc/ssh/ssh_host_ed25519_key".to_owned()]),
        has_module: true,
        ..NixFacts::default()
    }
}

fn look(facts: NixFacts) -> NixosLook {
    let file = ConfigFile {
        name: "configuration.nix".to_owned(),
        read: Ok(facts),
    };
    NixosLook {
        directory: Some("/persistent/etc/nixos".to_owned()),
        files: vec![file],
    }
}

fn of_nixos(doc: &VpsDoc, nixos: &NixosLook) -> Vec<Finding> {
    let listing = Listing::default();
    judge(&Looked {
        doc,
        listing: &listing,
        nixos: Some(nixos),
        sshd: None,
    })
}

/// What is found of a NixOS whose configuration was changed so.
#[track_caller]
fn changed(change: impl FnOnce(&mut VpsDoc, &mut NixFacts)) -> Vec<(Severity, Topic)> {
    let (mut doc, mut facts) = (doc("nixos"), facts());
    change(&mut doc, &mut facts);
    let found = of_nixos(&doc, &look(facts));
    for finding in &found {
        let Finding {
            object,
            reason,
            hint,
            ..
        } = finding;
        assert!(
            !object.is_empty() && !reason.is_empty() && !hint.is_empty(),
            "{finding:?}"
        );
    }
    found.into_iter().map(|f| (f.severity, f.topic)).collect()
}

fn without(facts: &mut NixFacts, path: &str) {
    facts.kept[0].paths.retain(|known| known != path);
}

#[test]
fn a_nixos_that_keeps_what_it_is_has_nothing_to_be_told() {
    assert_eq!(changed(|_, _| {}), []);
}

#[test]
fn each_thing_that_is_missing_is_told() {
    use Severity::{Note, Problem, Warning};
    let lost = |path: &str| changed(|_, facts| without(facts, path));
    assert_eq!(lost("/etc/machine-id"), [(Warning, Topic::MachineIdLost)]);
    assert_eq!(lost("/var/lib/nixos"), [(Warning, Topic::AccountsLost)]);
    assert_eq!(lost("/etc/nixos"), [(Problem, Topic::ConfigurationLost)]);
    assert_eq!(lost("/var/log"), [(Note, Topic::LogsLost)]);
    let keys = |keys: Option<&[&str]>| {
        changed(|_, facts| {
            facts.host_keys = keys.map(|k| k.iter().map(|k| (*k).to_owned()).collect())
        })
    };
    assert_eq!(keys(None), [(Warning, Topic::SshHostKeysLost)]);
    assert_eq!(
        keys(Some(&["/etc/ssh/key"])),
        [(Warning, Topic::SshHostKeysLost)]
    );
    assert_eq!(keys(Some(&["/var/log/key"])), []);
    let off = changed(|_, facts| (facts.host_keys, facts.sshd) = (None, Some(false)));
    assert_eq!(off, [], "without a server there are no keys");
    assert_eq!(
        changed(|_, facts| facts.flakes = Some(false)),
        [(Warning, Topic::FlakesOff)]
    );
    assert_eq!(
        changed(|_, facts| facts.flakes = None),
        [(Warning, Topic::FlakesOff)]
    );
    assert_eq!(
        changed(|_, facts| facts.has_module = false),
        [(Warning, Topic::ModuleMissing)]
    );
    let mounts = [("/persistent", 9), ("/nix", 9), ("/srv", 9)].map(|(p, l)| (p.to_owned(), l));
    let twice = changed(|_, facts| facts.file_systems = mounts.to_vec());
    assert_eq!(
        twice,
        [
            (Warning, Topic::MountedTwice),
            (Warning, Topic::MountedTwice)
        ]
    );
    let off = changed(|doc, _| doc.impermanence = None);
    assert_eq!(off, [(Note, Topic::FeatureOff)]);
}

#[test]
fn a_storage_that_is_none_is_told_and_nothing_stays_in_it() {
    use Severity::{Problem, Warning};
    let gone = changed(|doc, _| doc.mounts.retain(|m| m.path.as_str() != "/persistent"));
    for wanted in [
        (Problem, Topic::StorageNotMounted),
        (Problem, Topic::ConfigurationLost),
        (Warning, Topic::NothingDeclared),
        (Warning, Topic::MachineIdLost),
        (Warning, Topic::SshHostKeysLost),
    ] {
        assert!(gone.contains(&wanted), "{wanted:?} of {gone:?}");
    }
    assert_eq!(
        gone.iter()
            .filter(|(_, topic)| *topic == Topic::StorageNotMounted)
            .count(),
        1
    );
    // Declared in a directory of another name, which is no mount.
    let typo = changed(|_, facts| facts.kept[0].name = "/persist".to_owned());
    assert!(
        typo.contains(&(Problem, Topic::StorageNotMounted)),
        "{typo:?}"
    );
    assert!(typo.contains(&(Warning, Topic::StorageDiffers)), "{typo:?}");
    // A storage of another name, which is one.
    let other = changed(|doc, facts| {
        doc.mounts.push(mount("data", "/data"));
        facts.kept[0].storage = Some("/data".to_owned());
    });
    assert_eq!(other, [(Warning, Topic::StorageDiffers)]);
    let locked = changed(|doc, _| doc.mounts[0].read_only = true);
    assert_eq!(locked, [(Problem, Topic::StorageReadOnly)]);
    let off = changed(|_, facts| facts.kept[0].disabled = true);
    assert!(off.contains(&(Warning, Topic::NothingDeclared)), "{off:?}");
    let store = changed(|doc, _| doc.mounts.retain(|m| m.path.as_str() != "/nix"));
    assert_eq!(store, [(Problem, Topic::StoreInRoot)]);
}

/// What could be said where nobody looked is not known, and not denied.
#[test]
fn what_needs_evaluation_is_not_guessed() {
    let unsure = |about: About| Unsure {
        line: 7,
        option: "it".to_owned(),
        about,
    };
    let found = changed(|_, facts| {
        without(facts, "/etc/machine-id");
        facts.flakes = None;
        facts.unsure = vec![unsure(About::Persistence)];
    });
    assert_eq!(
        found,
        [
            (Severity::Warning, Topic::FlakesOff),
            (Severity::Unknown, Topic::MachineIdLost),
            (Severity::Unknown, Topic::NeedsEvaluation),
        ]
    );
    let found = changed(|_, facts| {
        without(facts, "/etc/machine-id");
        (facts.flakes, facts.host_keys, facts.has_module) = (None, None, false);
        facts.unsure = vec![unsure(About::Everything)];
    });
    assert!(
        found.len() == 5
            && found
                .iter()
                .all(|(severity, _)| *severity == Severity::Unknown),
        "{found:?}"
    );
    let found = changed(|_, facts| {
        facts.host_keys = None;
        facts.unsure = vec![unsure(About::Ssh)];
    });
    assert_eq!(
        found,
        [
            (Severity::Unknown, Topic::SshHostKeysLost),
            (Severity::Unknown, Topic::NeedsEvaluation)
        ]
    );
    // What is said is said, whatever else needs evaluation.
    let found = changed(|_, facts| facts.unsure = vec![unsure(About::Everything)]);
    assert_eq!(found, [(Severity::Unknown, Topic::NeedsEvaluation)]);

    let mut nixos = look(facts());
    nixos.files.push(ConfigFile {
        name: "flake.nix".to_owned(),
        read: Err("it is no Nix".to_owned()),
    });
    let found = of_nixos(&doc("nixos"), &nixos);
    assert_eq!(
        (found.len(), found[0].topic),
        (1, Topic::ConfigurationUnreadable)
    );
    assert_eq!(found[0].object, "flake.nix");
}

#[test]
fn a_place_is_told_by_file_and_line() {
    let mut facts = facts();
    facts.kept[0].name = "/persist".to_owned();
    let found = of_nixos(&doc("nixos"), &look(facts));
    let place = found
        .iter()
        .find(|f| f.topic == Topic::StorageNotMounted)
        .unwrap();
    assert_eq!(place.object, "configuration.nix:4");
    assert!(
        place.hint.contains("mayfly mount add 11327 /persist"),
        "{}",
        place.hint
    );
}

#[test]
fn nothing_to_read_is_told() {
    let found = of_nixos(&doc("nixos"), &NixosLook::default());
    let topics: Vec<_> = found.iter().map(|f| f.topic).collect();
    assert!(
        topics.contains(&Topic::ConfigurationUnreadable),
        "{topics:?}"
    );
    assert!(
        topics.contains(&Topic::MachineIdLost) && !topics.contains(&Topic::FlakesOff),
        "{topics:?}"
    );
}

#[test]
fn another_system_is_judged_by_its_documents_and_declarations() {
    let mut doc = doc("debian");
    let found = |doc: &VpsDoc, listing: &Listing, sshd: Option<bool>| {
        let found = judge(&Looked {
            doc,
            listing,
            nixos: None,
            sshd,
        });
        found
            .into_iter()
            .map(|f| (f.severity, f.topic))
            .collect::<Vec<_>>()
    };
    let base = own("[\"/persistent\"]\npresets = [\"base\"]\n");
    doc.mounts.truncate(1);
    assert_eq!(found(&doc, &base, Some(true)), []);
    let none = Listing::default();
    assert_eq!(
        found(&doc, &none, Some(true)),
        [
            (Severity::Warning, Topic::NothingDeclared),
            (Severity::Warning, Topic::SshHostKeysLost)
        ]
    );
    assert_eq!(
        found(&doc, &none, None),
        [
            (Severity::Warning, Topic::NothingDeclared),
            (Severity::Note, Topic::SshHostKeysLost)
        ]
    );
    assert_eq!(
        found(&doc, &none, Some(false)),
        [(Severity::Warning, Topic::NothingDeclared)]
    );
    // Data in a dataset of its own needs no declaration.
    doc.mounts.push(mount("data", "/srv"));
    assert_eq!(found(&doc, &none, Some(false)), []);
    doc.mounts.pop();
    // What the helper would refuse.
    let broken = own("[\"/persistent\"]\npresets = [\"base\"]\ndirectories = [\"/proc/x\", 7]\n");
    let told = found(&doc, &broken, Some(true));
    assert!(
        !told.is_empty()
            && told
                .iter()
                .all(|(_, topic)| *topic == Topic::DeclarationRefused),
        "{told:?}"
    );
    doc.storage = None;
    doc.mounts.clear();
    assert!(found(&doc, &none, Some(false)).contains(&(Severity::Warning, Topic::NoStorage)));
}
