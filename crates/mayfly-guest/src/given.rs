//! The file that `apply` and `check` are given: a spec of the host, or declarations.

use std::io::Read as _;
use std::path::Path;

use mayfly_core::persist::declare::Source;
use mayfly_core::persist::read::{parse_json, parse_toml};
use mayfly_core::persist::spec::{Spec, check_run};
use serde_json::Value;

/// A spec is a manifest's declarations and a few words; more is not one.
const SPEC_BYTES: u64 = 4 << 20;
/// The run under whose name copies are recorded where nobody knows a better one.
const BY_HAND: &str = "by-hand";
/// Where a VPS reads about its run.
const BOOT_REPORT: &str = "/run/mayfly/boot.json";

/// What a file has.
pub(crate) enum Given {
    /// What the host says of a run.
    Spec(Spec),
    /// Declarations, as they are in a storage, or as Nix prints them.
    Declared(Source),
}

/// Reads it.
pub(crate) fn read_given(file: Option<&Path>) -> Result<Given, String> {
    let Some(file) = file else {
        return Err(
            "which storage has the declarations of this VPS is not known here\n  \
             next: name their file, as in --spec /persistent/etc/mayfly/persistence.toml"
                .to_owned(),
        );
    };
    let shown = file.display();
    let text =
        || String::from_utf8(read(file, SPEC_BYTES)?).map_err(|_| format!("{shown} is no UTF-8"));
    let mut source = match file.extension().and_then(|end| end.to_str()) {
        Some("toml") => parse_toml(&text()?),
        Some("json") => {
            let text = text()?;
            // A spec says which version it is; of declarations every key is a path.
            let is_spec = serde_json::from_str(&text)
                .is_ok_and(|value: Value| value.get("version").is_some());
            if is_spec {
                let spec = Spec::parse(text.as_bytes()).map_err(|e| format!("{shown}: {e}"))?;
                return Ok(Given::Spec(spec));
            }
            parse_json(&text)
        }
        Some("nix") => {
            return Err(format!(
                "{shown} is Nix, which is not read here\n  \
                 next: nix eval --json .#nixosConfigurations.NAME.config.environment.persistence > persistence.json, \
                 and give that"
            ));
        }
        _ => return Err(format!("{shown} ends in none of .toml, .json, .nix")),
    };
    source.problems.come_from(&shown.to_string());
    Ok(Given::Declared(source))
}

/// The run whose root is at `root`: copies that are placed in it by hand are taken back like all others.
pub(crate) fn run_of(root: &Path) -> String {
    let named = || -> Option<String> {
        let bytes = read(Path::new(BOOT_REPORT), SPEC_BYTES).ok()?;
        let report: Value = serde_json::from_slice(&bytes).ok()?;
        let run = report.get("run")?.as_str()?;
        check_run(run).ok().map(|()| run.to_owned())
    };
    let own = root == Path::new("/");
    own.then(named).flatten().unwrap_or(BY_HAND.to_owned())
}

fn read(file: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", file.display());
    let mut bytes = Vec::new();
    let open = std::fs::File::open(file).map_err(failed)?;
    open.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(format!("{} is larger than 4 MiB", file.display()));
    }
    Ok(bytes)
}
