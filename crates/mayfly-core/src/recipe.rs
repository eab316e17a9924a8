//! Recipes: how a template is built, and the manifest that it gets.
//!
//! A recipe is a TOML file with two tables: `[manifest]`, a [`Manifest`], and `[build]`, a [`Build`].

mod build;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::names::{DatasetName, GuestPath};
use crate::template::{Layout, Manifest, Quota};

use self::build::BuildText;
pub use self::build::{Build, Origin};

const HIGHEST_SIGNAL: i32 = 64;

/// A template that can be built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    let build: Option<BuildText> = section(&mut file, "build", &mut problems);
    problems.extend(file.keys().map(|key| {
        format!(
            "{}: unknown, only manifest and build are",
            key.escape_debug()
        )
    }));
    problems.extend(manifest.iter().flat_map(manifest_problems));
    let build = build.and_then(|text| text.check(&mut problems));
    match (manifest, build) {
        (Some(manifest), Some(build)) if problems.is_empty() => Ok(Recipe { manifest, build }),
        _ => Err(BadRecipe { problems }),
    }
}

/// Reads a manifest that stands by itself: a recipe without `[build]`.
pub fn parse_manifest(text: &str) -> Result<Manifest, BadRecipe> {
    let mut problems = Vec::new();
    let mut file: toml::Table = toml::from_str(text).map_err(|e| BadRecipe {
        problems: vec![one_line(&e.to_string())],
    })?;
    let manifest: Option<Manifest> = section(&mut file, "manifest", &mut problems);
    problems.extend(file.keys().map(|key| {
        format!(
            "{}: unknown, a manifest has the table manifest and no other",
            key.escape_debug()
        )
    }));
    problems.extend(manifest.iter().flat_map(manifest_problems));
    match manifest {
        Some(manifest) if problems.is_empty() => Ok(manifest),
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

/// Begins with a letter or digit; then letters, digits and `others`.
fn is_word(text: &str, others: &[u8]) -> bool {
    text.bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || others.contains(&b))
}
