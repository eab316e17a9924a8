//! Where recipes and their scripts come from: this program itself, or files of the operator.

use std::path::{Path, PathBuf};

use mayfly_core::recipe::{BadRecipe, Origin, Recipe, parse_recipe};

/// The recipes that this program carries, by template name.
const RECIPES: [(&str, &str); 4] = [
    (
        "debian-12",
        include_str!("../../../../templates/debian-12.toml"),
    ),
    (
        "debian-12-impermanence",
        include_str!("../../../../templates/debian-12-impermanence.toml"),
    ),
    (
        "debian-13",
        include_str!("../../../../templates/debian-13.toml"),
    ),
    (
        "debian-13-impermanence",
        include_str!("../../../../templates/debian-13-impermanence.toml"),
    ),
];

/// The scripts that this program carries, by file name.
const SCRIPTS: [(&str, &str); 1] = [("debian.sh", include_str!("../../../../templates/debian.sh"))];

/// A script of a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Its file name.
    pub name: String,
    /// What it says, for `sh`.
    pub text: String,
}

/// A recipe with everything that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The recipe.
    pub recipe: Recipe,
    /// Its scripts, in the order in which they run.
    pub scripts: Vec<Script>,
    /// The archive that it begins as, where it begins as one.
    pub archive: Option<PathBuf>,
}

/// A recipe that could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot load the recipe {}", path.display())]
pub struct LoadError {
    /// The file of the recipe.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub cause: LoadCause,
}

/// Why a recipe could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadCause {
    /// The file could not be read.
    #[error("it cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// It says something wrong.
    #[error(transparent)]
    Bad(#[from] BadRecipe),
    /// A script that it names could not be read.
    #[error("its script {0} cannot be read")]
    Script(String, #[source] std::io::Error),
    /// The archive that it names could not be read.
    #[error("its archive {0} cannot be read")]
    Archive(String, #[source] std::io::Error),
}

/// The names of the recipes that this program carries.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|(name, _)| *name)
}

/// A recipe that this program carries.
pub fn builtin(name: &str) -> Option<Source> {
    let (_, text) = RECIPES.iter().find(|(known, _)| *known == name)?;
    let recipe = parse_recipe(text).expect("the built-in recipes are valid, as a test shows");
    let script = |name: &String| {
        builtin_script(name).expect("the built-in recipes name built-in scripts, as a test shows")
    };
    Some(Source {
        scripts: recipe.build.customize.iter().map(script).collect(),
        archive: None,
        recipe,
    })
}

fn builtin_script(name: &str) -> Option<Script> {
    SCRIPTS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, text)| Script {
            name: name.to_owned(),
            text: (*text).to_owned(),
        })
}

/// Reads the recipe at `path` and its scripts: from beside it, and those that are not there from this program, so that
/// an operator's recipe may begin with `debian.sh`.
pub fn load_source(path: &Path) -> Result<Source, LoadError> {
    let failed = |cause| LoadError {
        path: path.to_owned(),
        cause,
    };
    let text = std::fs::read_to_string(path).map_err(|e| failed(LoadCause::Unreadable(e)))?;
    let recipe = parse_recipe(&text).map_err(|e| failed(e.into()))?;
    let beside = path.parent().unwrap_or(Path::new("."));
    let mut scripts = Vec::new();
    for name in &recipe.build.customize {
        scripts.push(match std::fs::read_to_string(beside.join(name)) {
            Ok(text) => Script {
                name: name.clone(),
                text,
            },
            Err(error) => match builtin_script(name) {
                Some(script) if error.kind() == std::io::ErrorKind::NotFound => script,
                _ => return Err(failed(LoadCause::Script(name.clone(), error))),
            },
        });
    }
    let archive = match &recipe.build.origin {
        Origin::Packages { .. } => None,
        Origin::Archive(name) => {
            let file = beside.join(name);
            std::fs::File::open(&file)
                .map_err(|error| failed(LoadCause::Archive(name.clone(), error)))?;
            Some(file)
        }
    };
    Ok(Source {
        recipe,
        scripts,
        archive,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_recipe_is_whole() {
        assert_eq!(builtin_names().count(), 4);
        for name in builtin_names() {
            let source = builtin(name).unwrap();
            assert_eq!(
                source.scripts.len(),
                source.recipe.build.customize.len(),
                "{name}"
            );
            // There is nothing beside a built-in recipe.
            assert!(
                matches!(source.recipe.build.origin, Origin::Packages { .. }),
                "{name}"
            );
        }
        assert!(builtin("debian").is_none());
    }

    #[test]
    fn a_recipe_of_the_operator_may_use_our_scripts() {
        let fixture = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/nixos-shaped/recipe.toml"
        );
        let source = load_source(Path::new(fixture)).unwrap();
        assert_eq!(source.scripts[0].text, SCRIPTS[0].1);
        assert_eq!(source.scripts[1].name, "nixos-shaped.sh");
    }

    #[test]
    fn an_archive_lies_beside_the_recipe() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        let (manifest, _) = RECIPES[0].1.split_once("[build]").unwrap();
        std::fs::write(
            &path,
            format!("{manifest}[build]\narchive = 'rootfs.tar'\n"),
        )
        .unwrap();
        let error = load_source(&path).unwrap_err();
        assert!(
            matches!(&error.cause, LoadCause::Archive(name, _) if name == "rootfs.tar"),
            "{error:?}"
        );
        let archive = dir.path().join("rootfs.tar");
        std::fs::write(&archive, "").unwrap();
        assert_eq!(load_source(&path).unwrap().archive, Some(archive));
    }

    #[test]
    fn a_missing_script_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        let text = RECIPES[0]
            .1
            .replace("\"debian.sh\"", "\"debian.sh\", \"mine.sh\"");
        std::fs::write(&path, text).unwrap();
        let error = load_source(&path).unwrap_err();
        assert!(
            matches!(&error.cause, LoadCause::Script(name, _) if name == "mine.sh"),
            "{error:?}"
        );
        assert!(matches!(
            load_source(Path::new("/no/such.toml")).unwrap_err().cause,
            LoadCause::Unreadable(_)
        ));
    }
}
