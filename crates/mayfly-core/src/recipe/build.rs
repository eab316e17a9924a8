//! `[build]`: where the tree of a template comes from.

use serde::{Deserialize, Serialize};

use super::is_word;

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

/// How a tree is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "BuildText")]
pub struct Build {
    /// What it begins as.
    pub origin: Origin,
    /// File names of scripts that are run in this order on it: on the host, as root, with the tree as the only argument.
    pub customize: Vec<String>,
}

/// What a tree begins as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Packages of Debian.
    Packages {
        /// The release by its code name, such as `bookworm`.
        suite: String,
        /// The set of packages to begin with, in mmdebstrap's words.
        variant: String,
        /// Packages on top of it.
        packages: Vec<String>,
    },
    /// A tar of the tree, compressed or not: the name of a file beside the recipe.
    Archive(String),
}

/// A build as it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BuildText {
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suite: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packages: Option<Vec<String>>,
    #[serde(default)]
    customize: Vec<String>,
}

impl From<Build> for BuildText {
    fn from(build: Build) -> Self {
        let text = Self {
            customize: build.customize,
            ..Self::default()
        };
        match build.origin {
            Origin::Archive(name) => Self {
                archive: Some(name),
                ..text
            },
            Origin::Packages {
                suite,
                variant,
                packages,
            } => Self {
                suite: Some(suite),
                variant: Some(variant),
                packages: Some(packages),
                ..text
            },
        }
    }
}

impl BuildText {
    /// The build, unless something is wrong with it; all of that is told.
    pub(super) fn check(self, problems: &mut Vec<String>) -> Option<Build> {
        let before = problems.len();
        for script in self.customize.iter().filter(|name| !is_word(name, b"._-")) {
            problems.push(beside_the_recipe("customize", script));
        }
        let origin = match (self.archive, self.suite) {
            (Some(archive), None) => {
                if self.variant.is_some() || self.packages.is_some() {
                    problems.push(
                        "build: an archive has neither variant nor packages, it is taken as it is"
                            .to_owned(),
                    );
                }
                if !is_word(&archive, b"._-") {
                    problems.push(beside_the_recipe("archive", &archive));
                }
                Some(Origin::Archive(archive))
            }
            (None, Some(suite)) => {
                let variant = self.variant.unwrap_or_else(|| "minbase".to_owned());
                let packages = self.packages.unwrap_or_default();
                package_problems(&suite, &variant, &packages, problems);
                Some(Origin::Packages {
                    suite,
                    variant,
                    packages,
                })
            }
            (Some(_), Some(_)) => {
                problems.push("build: suite and archive are both there, choose one".to_owned());
                None
            }
            (None, None) => {
                problems.push("build: neither suite nor archive is there".to_owned());
                None
            }
        };
        let customize = self.customize;
        origin
            .filter(|_| problems.len() == before)
            .map(|origin| Build { origin, customize })
    }
}

fn package_problems(suite: &str, variant: &str, packages: &[String], problems: &mut Vec<String>) {
    if !is_word(suite, b"-") {
        problems.push(format!(
            "build.suite: `{}` must be letters, digits and -",
            suite.escape_debug()
        ));
    }
    if !VARIANTS.contains(&variant) {
        problems.push(format!(
            "build.variant: `{}` is none of {}",
            variant.escape_debug(),
            VARIANTS.join(", ")
        ));
    }
    for package in packages.iter().filter(|name| !is_word(name, b"+-.:")) {
        problems.push(format!(
            "build.packages: `{}` is not the name of a package",
            package.escape_debug()
        ));
    }
}

fn beside_the_recipe(field: &str, name: &str) -> String {
    format!(
        "build.{field}: `{}` must be the name of a file beside the recipe",
        name.escape_debug()
    )
}
