//! The arguments of `apply` and `harvest`, and what they print: one JSON document.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::record::HarvestState;
use mayfly_core::persist::spec::{Spec, check_run};

use crate::apply;
use crate::harvest::{Harvest, When, harvest};
use crate::sys;
use crate::tree::Tree;

/// A spec is a manifest's declarations and a few words; more is not one.
const SPEC_BYTES: u64 = 4 << 20;

/// Words with a value each, by name.
struct Words {
    values: BTreeMap<String, Vec<PathBuf>>,
}

impl Words {
    fn parse(arguments: &[OsString], known: &[&str]) -> Result<Self, String> {
        let mut values: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        let mut rest = arguments.iter();
        while let Some(word) = rest.next() {
            let name = word.to_str().filter(|word| known.contains(word));
            let name =
                name.ok_or_else(|| format!("unknown argument {}", Path::new(word).display()))?;
            let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
            values
                .entry(name.to_owned())
                .or_default()
                .push(value.into());
        }
        Ok(Self { values })
    }

    fn one(&self, name: &str) -> Option<&Path> {
        self.values
            .get(name)
            .and_then(|all| all.last())
            .map(PathBuf::as_path)
    }

    fn needed(&self, name: &str) -> Result<&Path, String> {
        self.one(name).ok_or_else(|| format!("{name} is needed"))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, String> {
        let text = |path: &Path| {
            path.to_str()
                .ok_or_else(|| format!("{name} is no text"))
                .map(str::to_owned)
        };
        self.one(name)
            .map(|path| text(path).map(|_| path.to_str().unwrap_or_default()))
            .transpose()
    }
}

/// `apply --spec FILE [--root DIR] [--report FILE]`: exit status 0 whenever a report was made, since trouble stops no
/// boot.
pub(crate) fn run_apply(arguments: &[OsString]) -> ExitCode {
    let run = || -> Result<(), String> {
        let words = Words::parse(arguments, &["--spec", "--root", "--report"])?;
        // Every mode is given as it is to be.
        rustix::process::umask(rustix::fs::Mode::empty());
        let file = words.needed("--spec")?;
        let spec = Spec::parse(&read(file)?)?;
        let report = apply::apply(&spec, words.one("--root").unwrap_or(Path::new("/")));
        let text = serde_json::to_string(&report).map_err(|e| e.to_string())?;
        match words.one("--report") {
            Some(file) => {
                write(file, &(text + "\n")).map_err(|e| format!("{}: {e}", file.display()))
            }
            None => print(&text),
        }
    };
    exit(run())
}

/// `harvest --root DIR --storage PATH --run ID [--at PATH=DIR]… [--when running|ended|crashed:SECONDS]`.
pub(crate) fn run_harvest(arguments: &[OsString]) -> ExitCode {
    let run = || -> Result<(), String> {
        let words = Words::parse(
            arguments,
            &["--root", "--storage", "--run", "--at", "--when"],
        )?;
        sys::survive_lease_breaks();
        let root = words.needed("--root")?;
        let root = Tree::at(root).map_err(|e| format!("{}: {e}", root.display()))?;
        let storage = words
            .text("--storage")?
            .ok_or("--storage is needed")?
            .to_owned();
        let run = words.text("--run")?.ok_or("--run is needed")?.to_owned();
        check_run(&run)?;
        let mut storages = BTreeMap::new();
        for pair in words.values.get("--at").into_iter().flatten() {
            let (path, directory) = pair
                .to_str()
                .and_then(|p| p.split_once('='))
                .ok_or("--at needs PATH=DIR")?;
            let tree = Tree::at(Path::new(directory)).map_err(|e| format!("{directory}: {e}"))?;
            storages.insert(TreePath::try_from(path.to_owned())?, tree);
        }
        let when = parse_when(words.text("--when")?.unwrap_or("running"))?;
        let plan = Harvest {
            root: &root,
            storages,
            storage: TreePath::try_from(storage)?,
            run,
            when,
        };
        let report = harvest(&plan);
        print(&serde_json::to_string(&report).map_err(|e| e.to_string())?)?;
        if report.state == HarvestState::Incomplete {
            Err("not all could be looked at or taken".to_owned())
        } else {
            Ok(())
        }
    };
    exit(run())
}

fn parse_when(text: &str) -> Result<When, String> {
    match text {
        "running" => Ok(When::Running),
        "ended" => Ok(When::Ended),
        _ => {
            let seconds = text
                .strip_prefix("crashed:")
                .and_then(|s| s.parse::<f64>().ok());
            let at = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
            at.map(When::Crashed)
                .ok_or_else(|| "--when is running, ended, or crashed:SECONDS".to_owned())
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let open = std::fs::File::open(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let mut bytes = Vec::new();
    open.take(SPEC_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("{}: {e}", file.display()))?;
    if bytes.len() as u64 > SPEC_BYTES {
        return Err(format!("{} is larger than 4 MiB", file.display()));
    }
    Ok(bytes)
}

/// Nobody has to read what is printed.
fn print(text: &str) -> Result<(), String> {
    writeln!(std::io::stdout(), "{text}").map_err(|e| format!("the report cannot be printed: {e}"))
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644);
    options.open(file)?.write_all(text.as_bytes())
}

fn exit(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("mayfly-guest: {why}");
            ExitCode::FAILURE
        }
    }
}
