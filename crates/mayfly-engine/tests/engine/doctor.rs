//! The doctor's look at a VPS, while the guest does with its configuration what it likes.

use mayfly_core::doctor::{FILE_BYTES, Severity, Topic};
use mayfly_core::names::PoolPath;
use mayfly_core::scaffold::{NixosRelease, Scaffold};
use mayfly_engine::{Diagnosis, Engine};

use crate::scenarios::there;
use crate::world::{World, vps};

fn look(engine: &Engine) -> Diagnosis {
    engine.doctor(&vps().to_string()).unwrap()
}

fn topics(engine: &Engine) -> Vec<(Severity, Topic, String)> {
    let found = look(engine).findings.into_iter();
    found.map(|f| (f.severity, f.topic, f.object)).collect()
}

fn plant(world: &World, name: &str, text: &str) {
    let data = PoolPath::from_pool("11327").unwrap();
    world.host.plant(&data, &format!("/etc/nixos/{name}"), text);
}

/// A NixOS with the scaffold's configuration.
fn world(start: bool) -> (World, Engine) {
    let world = World::new(&Default::default());
    let engine = world.recover();
    there(&world, &engine, "nixos-shaped", start);
    for (name, text) in scaffold() {
        plant(&world, &name, &text);
    }
    (world, engine)
}

fn scaffold() -> Vec<(String, String)> {
    let scaffold = Scaffold {
        release: NixosRelease::V25_11,
        persistent: "/persistent".parse().unwrap(),
        modules: None,
    };
    scaffold.files()
}

fn configuration() -> String {
    scaffold().swap_remove(1).1
}

#[test]
fn a_scaffold_has_nothing_to_be_told() {
    for start in [true, false] {
        let (_world, engine) = world(start);
        let told = look(&engine);
        assert_eq!(told.findings, []);
        assert_eq!(told.configuration.as_deref(), Some("/persistent/etc/nixos"));
        assert_eq!(told.files, ["flake.nix", "configuration.nix"]);
    }
}

#[test]
fn what_is_taken_out_is_told_and_what_is_made_an_expression_is_not_guessed() {
    let (world, engine) = world(true);
    plant(
        &world,
        "configuration.nix",
        &configuration().replace("\"/etc/machine-id\"", ""),
    );
    let lost = (
        Severity::Warning,
        Topic::MachineIdLost,
        "/etc/machine-id".to_owned(),
    );
    assert_eq!(topics(&engine), [lost]);
    let made = configuration().replace(
        "files = [\n      \"/etc/machine-id\"\n    ]",
        "files = import ./files.nix",
    );
    plant(&world, "configuration.nix", &made);
    let place = (
        Severity::Unknown,
        Topic::NeedsEvaluation,
        "configuration.nix:11".to_owned(),
    );
    let lost = (
        Severity::Unknown,
        Topic::MachineIdLost,
        "/etc/machine-id".to_owned(),
    );
    assert_eq!(topics(&engine), [lost, place]);
}

#[test]
fn imports_are_followed_within_the_configuration_and_in_bounds() {
    let (world, engine) = world(true);
    let import = |imports: &str| {
        let text = configuration().replace(
            "{ ... }:\n{",
            &format!("{{ ... }}:\n{{ imports = [ {imports} ];"),
        );
        let files = text.replace("\"/etc/machine-id\"", "");
        plant(&world, "configuration.nix", &files);
    };
    let id = "{ environment.persistence.\"/persistent\".files = [ \"/etc/machine-id\" ]; }";
    plant(&world, "sub/default.nix", "{ imports = [ ../id.nix ]; }");
    plant(&world, "id.nix", id);
    import("./sub");
    let told = look(&engine);
    assert_eq!(told.findings, []);
    assert_eq!(
        told.files,
        [
            "flake.nix",
            "configuration.nix",
            "sub/default.nix",
            "id.nix"
        ]
    );

    import("./gone.nix ../../etc/passwd.nix ./link.nix ./long.nix ./broken.nix");
    let data = PoolPath::from_pool("11327").unwrap();
    world
        .host
        .plant_link(&data, "/etc/nixos/link.nix", "/etc/nixos/id.nix");
    plant(&world, "long.nix", &" ".repeat(FILE_BYTES + 1));
    plant(&world, "broken.nix", "{ a = (((");
    let unread: Vec<_> = look(&engine)
        .findings
        .into_iter()
        .map(|f| (f.topic, f.object))
        .collect();
    let of = |topic: Topic| {
        unread
            .iter()
            .filter(|(t, _)| *t == topic)
            .map(|(_, o)| o.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(Topic::ConfigurationUnreadable),
        [
            "gone.nix",
            "link.nix",
            "long.nix",
            "broken.nix",
            "../../etc/passwd.nix"
        ]
    );
    assert_eq!(of(Topic::MachineIdLost), ["/etc/machine-id"]);

    // Each imports the next, and the last one the first.
    for n in 0..100 {
        plant(
            &world,
            &format!("{n}.nix"),
            &format!("{{ imports = [ ./{}.nix ]; }}", (n + 1) % 100),
        );
    }
    import("./0.nix");
    let told = look(&engine);
    assert_eq!(told.files.len(), 32);
    let left = told
        .findings
        .iter()
        .find(|f| f.topic == Topic::ConfigurationUnreadable)
        .unwrap();
    assert!(left.reason.contains("too many files"), "{left:?}");
}

#[test]
fn a_file_that_the_flake_does_not_import_is_no_module() {
    let (world, engine) = world(true);
    let flake = scaffold()
        .swap_remove(0)
        .1
        .replace("./configuration.nix", "./other.nix");
    plant(&world, "flake.nix", &flake);
    plant(
        &world,
        "other.nix",
        "{ nix.settings.experimental-features = \"flakes\"; }",
    );
    let told = look(&engine);
    assert_eq!(told.files, ["flake.nix", "other.nix"]);
    assert!(
        told.findings
            .iter()
            .any(|f| f.topic == Topic::NothingDeclared),
        "{:?}",
        told.findings
    );
}

#[test]
fn a_debian_is_judged_by_what_it_declares() {
    let world = World::new(&Default::default());
    let engine = world.recover();
    there(&world, &engine, "debian-12-impermanence", true);
    let found = topics(&engine);
    assert_eq!(found[0].1, Topic::NothingDeclared, "{found:?}");
    let data = PoolPath::from_pool("11327").unwrap();
    world.host.plant(
        &data,
        "/etc/mayfly/persistence.toml",
        "[\"/persistent\"]\npresets = [\"base\"]\n",
    );
    assert_eq!(topics(&engine), []);
}
