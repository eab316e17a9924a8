//! The arguments of `apply`, `check`, `harvest`, `put` and `get`, and what they print.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::persist::declare::{Severity, Source};
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::people::People;
use mayfly_core::persist::plan::plan;
use mayfly_core::persist::read::parse_value;
use mayfly_core::persist::record::HarvestState;
use mayfly_core::persist::report::State;
use mayfly_core::persist::spec::{Spec, check_run};
use mayfly_core::persist::unite::unite;

use crate::apply::{Order, apply};
use crate::files::{Pieces, Rights, Trouble, get, put};
use crate::given::{Given, read_given, run_of};
use crate::harvest::{Harvest, When, harvest};
use crate::tree::Tree;
use crate::{USAGE, sys, text};

/// Words with a value each, by name, and words without one.
struct Words {
    values: BTreeMap<String, Vec<PathBuf>>,
    switches: BTreeSet<String>,
}

impl Words {
    fn parse(arguments: &[OsString], known: &[&str], switches: &[&str]) -> Result<Self, String> {
        let mut values: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        let mut said = BTreeSet::new();
        let mut rest = arguments.iter();
        while let Some(word) = rest.next() {
            if let Some(switch) = word.to_str().filter(|word| switches.contains(word)) {
                said.insert(switch.to_owned());
                continue;
            }
            let name = word.to_str().filter(|word| known.contains(word));
            let name =
                name.ok_or_else(|| format!("unknown argument {}", Path::new(word).display()))?;
            let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
            values
                .entry(name.to_owned())
                .or_default()
                .push(value.into());
        }
        Ok(Self {
            values,
            switches: said,
        })
    }

    fn has(&self, switch: &str) -> bool {
        self.switches.contains(switch)
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

/// `apply [--spec FILE] [--root DIR] [--dry-run] [--json]`: exit status 1 where something that is declared does not stay.
pub(crate) fn run_apply(arguments: &[OsString]) -> ExitCode {
    let words = match Words::parse(arguments, &["--spec", "--root"], &["--dry-run", "--json"]) {
        Ok(words) => words,
        Err(why) => return usage(&why),
    };
    let run = || -> Result<bool, String> {
        // Every mode is given as it is to be.
        rustix::process::umask(rustix::fs::Mode::empty());
        let root = words.one("--root").unwrap_or(Path::new("/"));
        let (spec, by_hand) = match read_given(words.one("--spec"))? {
            Given::Spec(spec) => (spec, None),
            Given::Declared(source) => (Spec::new(run_of(root), true), Some(source)),
        };
        let dry_run = words.has("--dry-run");
        let report = apply(&Order {
            spec: &spec,
            root,
            by_hand,
            dry_run,
        });
        if words.has("--json") {
            let json = serde_json::to_string(&report).map_err(|e| e.to_string())?;
            print(&(json + "\n"))?;
        } else {
            print(&text::report(&report, dry_run))?;
        }
        Ok(report.state != State::Degraded)
    };
    exit(run())
}

/// `check --spec FILE`: exit status 1 where something that is declared cannot be.
pub(crate) fn run_check(arguments: &[OsString]) -> ExitCode {
    let words = match Words::parse(arguments, &["--spec"], &[]) {
        Ok(words) => words,
        Err(why) => return usage(&why),
    };
    let Some(file) = words.one("--spec") else {
        return usage("--spec is needed");
    };
    let run = || -> Result<bool, String> {
        let (manifest, guest) = match read_given(Some(file))? {
            Given::Spec(spec) => (parse_value(&spec.manifest), Source::default()),
            Given::Declared(source) => (Source::default(), source),
        };
        let wanted = unite(&manifest, &guest, &People::new());
        let problems = plan(&wanted, &People::new(), &BTreeMap::new()).problems;
        let mut told = String::new();
        for problem in problems.iter() {
            told.push_str(&text::problem(problem));
        }
        let errors = problems
            .iter()
            .filter(|p| p.severity == Severity::Error)
            .count();
        let (all, warnings) = (wanted.declarations.len(), problems.iter().count() - errors);
        let more = match problems.dropped() {
            0 => String::new(),
            more => format!(", {more} more of either"),
        };
        print(&format!(
            "{told}{all} declarations: {errors} errors, {warnings} warnings{more}\n"
        ))?;
        Ok(!problems.any_error())
    };
    exit(run())
}

/// `harvest --root DIR --storage PATH --run ID [--at PATH=DIR]… [--when running|ended|crashed:SECONDS]`.
pub(crate) fn run_harvest(arguments: &[OsString]) -> ExitCode {
    let known = ["--root", "--storage", "--run", "--at", "--when"];
    let words = match Words::parse(arguments, &known, &[]) {
        Ok(words) => words,
        Err(why) => return usage(&why),
    };
    let run = || -> Result<bool, String> {
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
                .and_then(|p| p.rsplit_once('='))
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
        let json = serde_json::to_string(&report).map_err(|e| e.to_string())?;
        print(&(json + "\n"))?;
        Ok(report.state != HarvestState::Incomplete)
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

/// Nobody has to read what is printed.
fn print(text: &str) -> Result<(), String> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| format!("the report cannot be printed: {e}"))
}

/// What was typed makes no sense.
fn usage(why: &str) -> ExitCode {
    eprintln!("mayfly-guest: {why}\n{USAGE}");
    ExitCode::from(2)
}

/// What went well, went wrong as the report says, or came to no report.
fn exit(result: Result<bool, String>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("mayfly-guest: {why}");
            ExitCode::FAILURE
        }
    }
}
/// `put --path PATH [--name NAME] [--mode OCTAL] [--mode-if-new OCTAL] [--owner UID:GID]`
pub(crate) fn run_put(arguments: &[OsString]) -> ExitCode {
    let known = ["--path", "--name", "--mode", "--mode-if-new", "--owner"];
    let read = || -> Result<(PathBuf, Option<String>, Rights), String> {
        let words = Words::parse(arguments, &known, &[])?;
        let mode = |name: &str| -> Result<Option<u32>, String> {
            let text = words.text(name)?;
            let parse = |text: &str| u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
            text.map(|text| parse(text).ok_or_else(|| format!("{text} is no mode")))
                .transpose()
        };
        let owner = words.text("--owner")?.map(|text| {
            let ids = text.split_once(':');
            let ids = ids.and_then(|(u, g)| Some((u.parse().ok()?, g.parse().ok()?)));
            ids.ok_or_else(|| format!("{text} is no user and group"))
        });
        let rights = Rights {
            mode: mode("--mode")?,
            mode_if_new: mode("--mode-if-new")?,
            owner: owner.transpose()?,
        };
        let name = words.text("--name")?.map(str::to_owned);
        Ok((words.needed("--path")?.to_path_buf(), name, rights))
    };
    let (path, name, rights) = match read() {
        Ok(wish) => wish,
        Err(why) => return usage(&why),
    };
    told(
        put(
            &path,
            name.as_deref(),
            rights,
            Pieces::new(std::io::stdin().lock()),
        )
        .and_then(|done| {
            let line = serde_json::to_string(&done).map_err(|e| Trouble::Other(e.to_string()))?;
            print(&(line + "\n")).map_err(Trouble::Other)
        }),
    )
}

/// `get --path PATH`
pub(crate) fn run_get(arguments: &[OsString]) -> ExitCode {
    let words = Words::parse(arguments, &["--path"], &[]);
    match words.and_then(|words| words.needed("--path").map(Path::to_path_buf)) {
        Ok(path) => told(get(&path, std::io::stdout().lock())),
        Err(why) => usage(&why),
    }
}

/// Exit status 3 where nothing is there.
fn told(done: Result<(), Trouble>) -> ExitCode {
    let (why, status) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Trouble::Absent(why)) => (why, 3),
        Err(Trouble::Other(why)) => (why, 1),
    };
    eprintln!("{why}");
    ExitCode::from(status)
}
