//! What the host tells the helper in the guest about one run.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::path::TreePath;

/// The version of [`Spec`] that is written and understood.
pub const VERSION: u32 = 1;

/// One run, and what its template declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The run, under whose name is recorded what is placed.
    pub run: String,
    /// Whether `/` lives for this run only.
    pub temporary_root: bool,
    /// Why nothing is to be done in this run, where that is certain beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactive: Option<String>,
    /// The storage that has the guest's own declarations.
    #[serde(default)]
    pub storage: Option<TreePath>,
    /// Files that the platform wrote into the root: a declaration of one of them beats it.
    #[serde(default)]
    pub platform: Vec<TreePath>,
    /// The declarations of the manifest: storage to settings.
    #[serde(default = "nothing")]
    pub manifest: Value,
    /// Owners and modes as the Nix module gives them.
    #[serde(default)]
    pub like_module: bool,
    /// Nothing is applied where anything is wrong.
    #[serde(default)]
    pub strict: bool,
}

fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}

impl Spec {
    /// A run with nothing declared by its template.
    pub fn new(run: impl Into<String>, temporary_root: bool) -> Self {
        Self {
            version: VERSION,
            run: run.into(),
            temporary_root,
            inactive: None,
            storage: None,
            platform: Vec::new(),
            manifest: nothing(),
            like_module: false,
            strict: false,
        }
    }

    /// Reads a spec.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let spec: Self =
            serde_json::from_slice(text).map_err(|e| format!("the spec is not understood: {e}"))?;
        if spec.version != VERSION {
            return Err(format!(
                "the spec has version {}, and this helper knows {VERSION}",
                spec.version
            ));
        }
        check_run(&spec.run)?;
        Ok(spec)
    }
}

/// A run's name is part of a file's name.
///
/// # Errors
///
/// The rule that it breaks.
pub fn check_run(run: &str) -> Result<(), String> {
    let well = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if run.is_empty() || run.len() > 64 || !run.bytes().all(well) {
        return Err("a run is named by 1 to 64 letters, digits and -".to_owned());
    }
    Ok(())
}
