use super::*;
use crate::template::RootKind;

const SMALL: &str = "
    [manifest]
    distribution = 'debian'
    version = '12'
    architecture = 'amd64'
    root_kind = 'template'
    [build]
    suite = 'bookworm'
";

/// Every recipe in the tree, by file name.
fn recipes() -> Vec<(String, Recipe)> {
    let top = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let templates = std::fs::read_dir(format!("{top}/templates"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let fixture = format!("{top}/tests/fixtures/nixos-shaped/recipe.toml").into();
    let mut found: Vec<_> = templates
        .chain([fixture])
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| {
            let recipe = parse_recipe(&std::fs::read_to_string(&path).unwrap());
            (
                path.file_stem().unwrap().to_string_lossy().into_owned(),
                recipe.unwrap_or_else(|e| panic!("{}: {e}", path.display())),
            )
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn packages(recipe: &Recipe) -> (&str, &[String]) {
    match &recipe.build.origin {
        Origin::Packages {
            variant, packages, ..
        } => (variant, packages),
        Origin::Archive(name) => panic!("it begins as {name}"),
    }
}

fn problems(text: &str) -> Vec<String> {
    parse_recipe(text).expect_err("it was taken").problems
}

#[test]
fn every_recipe_in_the_tree_is_valid() {
    let names: Vec<_> = recipes().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "debian-12",
            "debian-12-impermanence",
            "debian-13",
            "debian-13-impermanence",
            "recipe"
        ]
    );
}

#[test]
fn the_debian_recipes_differ_only_where_they_mean_to() {
    let all = recipes();
    let recipe = |name: &str| all.iter().find(|(n, _)| n == name).unwrap().1.clone();
    for name in ["debian-12", "debian-13"] {
        let (plain, impermanent) = (recipe(name), recipe(&format!("{name}-impermanence")));
        assert_eq!(plain.build, impermanent.build);
        assert_eq!(plain.manifest.layout, Layout::default());
        let layout = &impermanent.manifest.layout;
        assert!(
            layout.impermanence && layout.datasets.is_empty() && layout.mounts[0].dataset.is_root()
        );
        assert_eq!(
            Manifest {
                layout: Layout::default(),
                ..impermanent.manifest.clone()
            },
            plain.manifest
        );
    }
    assert_eq!(
        packages(&recipe("debian-12")).1,
        packages(&recipe("debian-13")).1
    );
}

/// T3
#[test]
fn the_nixos_shaped_recipe_has_the_layout_of_nixos() {
    let manifest = recipes().pop().unwrap().1.manifest;
    assert_eq!(
        (manifest.root_kind, manifest.distribution.as_str()),
        (RootKind::Empty, "nixos")
    );
    let mounts: Vec<_> = manifest
        .layout
        .mounts
        .iter()
        .map(|m| (m.dataset.as_str(), m.path.as_str()))
        .collect();
    assert_eq!(mounts, [("nix", "/nix"), ("", "/persistent")]);
    assert_eq!(
        manifest.layout.storage,
        Some("/persistent".parse().unwrap())
    );
}

#[test]
fn defaults_are_those_of_a_systemd_guest() {
    let recipe = parse_recipe(SMALL).unwrap();
    assert_eq!(
        (recipe.manifest.init.as_str(), recipe.manifest.halt_signal),
        ("/sbin/init", 37)
    );
    assert_eq!(packages(&recipe), ("minbase", &[][..]));
    assert!(recipe.build.customize.is_empty());
    assert_eq!(parse_recipe(&toml::to_string(&recipe).unwrap()), Ok(recipe));
}

#[test]
fn all_problems_are_told_at_once() {
    let told = problems(
        "
        extra = 1
        [manifest]
        distribution = 'a b'
        version = '12'
        architecture = 'amd64'
        root_kind = 'template'
        halt_signal = 99
        [manifest.layout]
        storage = '/data'
        [[manifest.layout.dataset]]
        name = 'a/b'
        quota = '60%'
        [[manifest.layout.dataset]]
        name = 'c'
        quota = '40%'
        [[manifest.layout.dataset]]
        name = 'c'
        quota = '1G'
        [[manifest.layout.mount]]
        path = '/'
        [[manifest.layout.mount]]
        dataset = 'd'
        path = '/x'
        [[manifest.layout.mount]]
        path = '/x'
        [build]
        suite = '--help'
        variant = 'all'
        packages = ['ok', '-bad', 'a,b']
        customize = ['../x', 'ok.sh']
        ",
    );
    for part in [
        "extra",
        "distribution",
        "halt_signal",
        "`a/b` comes before",
        "`c` is there twice",
        "100%",
        "no dataset `d`",
        "/ is never listed",
        "two mounts at /x",
        "suite",
        "variant",
        "`-bad`",
        "`a,b`",
        "`../x`",
    ] {
        assert!(
            told.iter().any(|t| t.contains(part)),
            "{part} is not in {told:#?}"
        );
    }
    let both = problems("[manifest]\nwrong = 1\n[build]\nalso = 2\n");
    assert!(
        both.len() == 2 && both[0].contains("wrong") && both[1].contains("also"),
        "{both:?}"
    );
}

#[test]
fn storage_must_be_on_a_mounted_dataset() {
    let with = |storage: &str| {
        format!(
            "{SMALL}[manifest.layout]\nstorage = '{storage}'\n[[manifest.layout.mount]]\npath = '/keep'\n"
        )
    };
    assert!(parse_recipe(&with("/keep")).is_ok() && parse_recipe(&with("/keep/here")).is_ok());
    assert!(problems(&with("/keeper"))[0].contains("would be lost"));
}

#[test]
fn what_is_not_toml_is_refused_on_one_line() {
    assert!(problems("[manifest").iter().all(|p| !p.contains('\n')));
    assert_eq!(problems(""), ["manifest: missing", "build: missing"]);
}

#[test]
fn a_tree_begins_as_packages_or_as_an_archive() {
    let with = |build: &str| SMALL.replace("suite = 'bookworm'", build);
    let recipe = parse_recipe(&with("archive = 'rootfs.tar.zst'\ncustomize = ['x.sh']")).unwrap();
    assert_eq!(
        recipe.build.origin,
        Origin::Archive("rootfs.tar.zst".to_owned())
    );
    assert_eq!(parse_recipe(&toml::to_string(&recipe).unwrap()), Ok(recipe));
    for (build, told) in [
        ("customize = []", "neither suite nor archive"),
        ("suite = 'bookworm'\narchive = 'a.tar'", "choose one"),
        ("archive = 'a.tar'\npackages = []", "taken as it is"),
        ("archive = 'a.tar'\nvariant = 'minbase'", "taken as it is"),
        ("archive = '../a.tar'", "beside the recipe"),
        ("archive = '/a.tar'", "beside the recipe"),
        ("archive = '-a.tar'", "beside the recipe"),
        ("archive = ''", "beside the recipe"),
    ] {
        let found = problems(&with(build));
        assert!(
            found.len() == 1 && found[0].contains(told),
            "{build}: {found:?}"
        );
    }
}
