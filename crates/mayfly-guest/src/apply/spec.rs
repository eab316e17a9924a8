//! What the host says about this run.

use mayfly_core::persist::path::TreePath;
use serde::Deserialize;
use serde_json::Value;

/// The version of [`Spec`] that is understood.
const VERSION: u32 = 1;

/// One run, and what its template declares.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    version: u32,
    /// The run, under whose name is recorded what is placed.
    pub(crate) run: String,
    /// Whether `/` lives for this run only.
    pub(crate) temporary_root: bool,
    /// The storage that has the guest's own declarations.
    #[serde(default)]
    pub(crate) storage: Option<TreePath>,
    /// The declarations of the manifest: storage to settings.
    #[serde(default = "nothing")]
    pub(crate) manifest: Value,
    /// Owners and modes as the Nix module gives them.
    #[serde(default)]
    pub(crate) like_module: bool,
    /// Nothing is applied where anything is wrong.
    #[serde(default)]
    pub(crate) strict: bool,
}

fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}

impl Spec {
    /// Reads a spec.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
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
pub(crate) fn check_run(run: &str) -> Result<(), String> {
    let well = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if run.is_empty() || run.len() > 64 || !run.bytes().all(well) {
        return Err("a run is named by 1 to 64 letters, digits and -".to_owned());
    }
    Ok(())
}
