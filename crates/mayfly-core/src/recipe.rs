//! Recipes: how a template is built, and the manifest that it gets.
//!
//! A recipe is a TOML file with two tables: `[manifest]`, a [`Manifest`], and `[build]`, a [`Build`].

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{DatasetName, GuestPath};
use crate::template::{Layout, Manifest, Quota};

/// The sets of packages that mmdebstrap knows by name.
const VARIANTS: [&str; 8] = [
    "extract",
    "custom",
    "essential",
    "apt",
    "minbase",
    "buildd",
    "important",
    "standard",
];
const HIGHEST_SIGNAL: i32 = 64;

/// How a Debian tree is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// The release by its code name, such as `bookworm`.
    pub suite: String,
    /// The set of packages to begin with, in mmdebstrap's words.
    #[serde(default = "minbase")]
    pub variant: String,
    /// Packages on top of it.
    #[serde(default)]
    pub packages: Vec<String>,
    /// File names of scripts that are run in this order when the packages are installed: on the host, as root, with the
    /// tree as the only argument.
    #[serde(default)]
    pub customize: Vec<String>,
}

fn minbase() -> String {
    "minbase".to_owned()
}

/// A template that can be built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the template will be.
    pub manifest: Manifest,
    /// How its tree is made.
    pub build: Build,
}

/// A recipe that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecipe {
    /// All that is wrong, each with the place in the file.
    pub problems: Vec<String>,
}

impl std::error::Error for BadRecipe {}

impl fmt::Display for BadRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the recipe is not valid: {}", self.problems.join("; "))
    }
}

/// Reads a recipe and checks it. Every problem is told at once, as far as the text can be read.
pub fn parse_recipe(text: &str) -> Result<Recipe, BadRecipe> {
    let mut problems = Vec::new();
    let mut file: toml::Table = toml::from_str(text).map_err(|e| BadRecipe {
        problems: vec![one_line(&e.to_string())],
    })?;
    let manifest: Option<Manifest> = section(&mut file, "manifest", &mut problems);
    let build: Option<Build> = section(&mut file, "build", &mut problems);
    problems.extend(file.keys().map(|key| {
        format!(
            "{}: unknown, only manifest and build are",
            key.escape_debug()
        )
    }));
    problems.extend(manifest.iter().flat_map(manifest_problems));
    problems.extend(build.iter().flat_map(build_problems));
    match (manifest, build) {
        (Some(manifest), Some(build)) if problems.is_empty() => Ok(Recipe { manifest, build }),
        _ => Err(BadRecipe { problems }),
    }
}

fn section<T: serde::de::DeserializeOwned>(
    file: &mut toml::Table,
    name: &str,
    problems: &mut Vec<String>,
) -> Option<T> {
    let Some(value) = file.remove(name) else {
        problems.push(format!("{name}: missing"));
        return None;
    };
    value
        .try_into()
        .map_err(|e: toml::de::Error| {
            problems.push(format!("{name}: {}", one_line(&e.to_string())))
        })
        .ok()
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

/// What is wrong with a manifest, for recipes and for templates that are imported alike.
pub fn manifest_problems(manifest: &Manifest) -> Vec<String> {
    let mut problems = Vec::new();
    for (field, value) in [
        ("distribution", &manifest.distribution),
        ("version", &manifest.version),
        ("architecture", &manifest.architecture),
    ] {
        if !is_word(value, b"._-+") {
            problems.push(format!(
                "manifest.{field}: `{}` must be letters, digits and ._-+",
                value.escape_debug()
            ));
        }
    }
    if !(1..=HIGHEST_SIGNAL).contains(&manifest.halt_signal) {
        problems.push(format!(
            "manifest.halt_signal: {} is no signal (1 to {HIGHEST_SIGNAL})",
            manifest.halt_signal
        ));
    }
    layout_problems(&manifest.layout, &mut problems);
    problems
}

fn layout_problems(layout: &Layout, problems: &mut Vec<String>) {
    let mut known = BTreeSet::from([DatasetName::root()]);
    let mut percent = 0u32;
    for dataset in &layout.datasets {
        let name = &dataset.name;
        if let Some(parent) = name.parent().filter(|parent| !known.contains(parent)) {
            problems.push(format!(
                "manifest.layout.dataset: `{name}` comes before its parent `{parent}`"
            ));
        }
        if !known.insert(name.clone()) {
            problems.push(format!("manifest.layout.dataset: `{name}` is there twice"));
        }
        if let Quota::Percent(p) = dataset.quota {
            percent += u32::from(p);
        }
    }
    // The root dataset needs some of the disk space too.
    if percent >= 100 {
        problems.push(format!("manifest.layout.dataset: the quotas take {percent}% of the disk space, nothing is left for the root dataset"));
    }
    let mut paths: BTreeSet<&GuestPath> = BTreeSet::new();
    for mount in &layout.mounts {
        if !known.contains(&mount.dataset) {
            problems.push(format!(
                "manifest.layout.mount: no dataset `{}` for {}",
                mount.dataset, mount.path
            ));
        }
        if mount.path.is_top() {
            problems.push("manifest.layout.mount: / is never listed: it is the root dataset, or a temporary root".to_owned());
        }
        if !paths.insert(&mount.path) {
            problems.push(format!(
                "manifest.layout.mount: two mounts at {}",
                mount.path
            ));
        }
    }
    let mounted = |path: &GuestPath| {
        layout
            .mounts
            .iter()
            .any(|mount| path.below(&mount.path).is_some())
    };
    if let Some(storage) = layout.storage.as_ref().filter(|storage| !mounted(storage)) {
        problems.push(format!("manifest.layout.storage: {storage} is on no mounted dataset, what is kept there would be lost"));
    }
}

fn build_problems(build: &Build) -> Vec<String> {
    let mut problems = Vec::new();
    if !is_word(&build.suite, b"-") {
        problems.push(format!(
            "build.suite: `{}` must be letters, digits and -",
            build.suite.escape_debug()
        ));
    }
    if !VARIANTS.contains(&build.variant.as_str()) {
        problems.push(format!(
            "build.variant: `{}` is none of {}",
            build.variant.escape_debug(),
            VARIANTS.join(", ")
        ));
    }
    for package in build
        .packages
        .iter()
        .filter(|package| !is_word(package, b"+-.:"))
    {
        problems.push(format!(
            "build.packages: `{}` is not the name of a package",
            package.escape_debug()
        ));
    }
    for script in build
        .customize
        .iter()
        .filter(|script| !is_word(script, b"._-"))
    {
        problems.push(format!(
            "build.customize: `{}` must be the name of a file beside the recipe",
            script.escape_debug()
        ));
    }
    problems
}

/// Begins with a letter or digit; then letters, digits and `others`.
fn is_word(text: &str, others: &[u8]) -> bool {
    text.bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || others.contains(&b))
}

#[cfg(test)]
mod tests {
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
                layout.impermanence
                    && layout.datasets.is_empty()
                    && layout.mounts[0].dataset.is_root()
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
            recipe("debian-12").build.packages,
            recipe("debian-13").build.packages
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
        assert_eq!(
            (recipe.build.variant.as_str(), recipe.build.customize.len()),
            ("minbase", 0)
        );
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
}
