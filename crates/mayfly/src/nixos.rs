//! `mayfly nixos scaffold`: what a NixOS in a VPS begins with, written into a directory of this machine. It needs no daemon.
//!
//! No file is ever overwritten, and what was written is taken away again where the rest could not be. `flake.lock` pins
//! revisions and their hashes, which only Nix with a network finds out: it is made where Nix is at hand, and whether it was
//! is said.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::names::GuestPath;
use mayfly_core::scaffold::{NixosRelease, Scaffold};
use mayfly_host::runner::{Command, Runner, Tool};
use serde::Serialize;

use crate::cli::{Failure, Screen, escape};

const AFTER: &str = "\
Examples:
  mayfly nixos scaffold --release 25.11 /etc/nixos                    inside the VPS
  mayfly nixos scaffold --release unstable --persistent /keep DIR     elsewhere, to be put there

Written are flake.nix, configuration.nix, and, unless --mayfly says where else it is, the module that a NixOS needs in a
VPS, in DIR/mayfly. flake.lock is made where Nix 2.26 or newer and a network are at hand; the first rebuild makes it too.";

/// The oldest Nix that can lock a flake in a directory beside.
const OLDEST_NIX: (u32, u32) = (2, 26);
const LOCK: &str = "flake.lock";
/// It downloads nixpkgs.
const LOCK_TIME: Duration = Duration::from_secs(600);

#[derive(Debug, Subcommand)]
pub(crate) enum NixosVerb {
    /// Write the configuration that a NixOS in an impermanent VPS begins with
    Scaffold(ScaffoldArgs),
}

/// What `mayfly nixos scaffold` is told.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct ScaffoldArgs {
    /// Which NixOS
    #[arg(long, value_enum)]
    release: Release,
    /// Where a dataset of the VPS is mounted that keeps what is declared
    #[arg(long, value_name = "PATH", default_value = "/persistent")]
    persistent: GuestPath,
    /// The flake that Mayfly's module comes from, such as git+file:///srv/mayfly?dir=nix [default: a copy of it]
    #[arg(long, value_name = "FLAKE")]
    mayfly: Option<String>,
    /// Leave flake.lock to the VPS
    #[arg(long)]
    no_lock: bool,
    /// Where to; it is made where it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Release {
    #[value(name = "25.11")]
    V25_11,
    Unstable,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    directory: String,
    files: Vec<String>,
    /// Why there is no `flake.lock`; none where there is one.
    unlocked: Option<String>,
}

/// Writes it.
pub(crate) fn run(verb: NixosVerb, json: bool) -> Result<ExitCode, Failure> {
    let NixosVerb::Scaffold(args) = verb;
    let written = scaffold(args, &lock)?;
    Screen { json }.show(&written, render)?;
    Ok(ExitCode::SUCCESS)
}

fn scaffold(
    args: ScaffoldArgs,
    lock: &dyn Fn(&Path, bool) -> Result<(), String>,
) -> Result<Written, Failure> {
    if args.persistent.as_str() == "/" {
        let hint = "name the path that a dataset is mounted at, such as /persistent";
        return Err(Failure::refused(
            Code::Invalid,
            "`/` itself keeps nothing",
            hint,
        ));
    }
    if args
        .mayfly
        .as_ref()
        .is_some_and(|flake| flake.is_empty() || flake.contains(char::is_control))
    {
        let hint = "leave --mayfly out for a copy of the module";
        return Err(Failure::refused(Code::Invalid, "that is no flake", hint));
    }
    let release = match args.release {
        Release::V25_11 => NixosRelease::V25_11,
        Release::Unstable => NixosRelease::Unstable,
    };
    let beside = args.mayfly.is_none();
    let files = Scaffold {
        release,
        persistent: args.persistent,
        modules: args.mayfly,
    }
    .files();
    let directory = std::path::absolute(&args.directory)?;
    write_all(&directory, &files)?;
    let unlocked = match args.no_lock {
        true => Some("it was not asked for".to_owned()),
        false => lock(&directory, beside).err(),
    };
    let mut names: Vec<String> = files.into_iter().map(|(name, _)| name).collect();
    if unlocked.is_none() {
        names.push(LOCK.to_owned());
    }
    Ok(Written {
        directory: directory.display().to_string(),
        files: names,
        unlocked,
    })
}

/// All files, or none.
fn write_all(directory: &Path, files: &[(String, String)]) -> Result<(), Failure> {
    let names = files.iter().map(|(name, _)| name.as_str());
    for name in names.chain([LOCK]) {
        let path = directory.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => return Err(is_there(&path).into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unwritten(&path, &error).into()),
        }
    }
    let mut made = Made::default();
    for (name, text) in files {
        if let Err(refusal) = made.write(&directory.join(name), text) {
            made.take_away();
            return Err(refusal.into());
        }
    }
    Ok(())
}

/// What was made so far.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn write(&mut self, path: &Path, text: &str) -> Result<(), Refusal> {
        self.directory(path.parent().unwrap_or(Path::new("/")))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => is_there(path),
                _ => unwritten(path, &error),
            })?;
        self.0.push(path.to_owned());
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| unwritten(path, &error))
    }

    /// Makes a directory, and those above it, where there is none.
    fn directory(&mut self, path: &Path) -> Result<(), Refusal> {
        match fs::create_dir(path) {
            Ok(()) => {
                self.0.push(path.to_owned());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.directory(path.parent().unwrap_or(Path::new("/")))?;
                self.directory(path)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(unwritten(path, &error)),
        }
    }

    /// The newest first, so that directories are empty. What cannot be taken away stays, beside the error that is told.
    fn take_away(&self) {
        for path in self.0.iter().rev() {
            let _ = match path.is_dir() {
                true => fs::remove_dir(path),
                false => fs::remove_file(path),
            };
        }
    }
}

fn is_there(path: &Path) -> Refusal {
    Refusal::new(
        Code::FileRefused,
        format!("{} is there, and nothing is overwritten", path.display()),
        "name another directory, and take over from it what you want",
    )
}

fn unwritten(path: &Path, error: &io::Error) -> Refusal {
    Refusal::new(
        Code::HostFailed,
        format!("{} cannot be written: {error}", path.display()),
        "mend the cause, or name another directory",
    )
}

/// Has Nix make `flake.lock`, or says why there is none.
fn lock(directory: &Path, beside: bool) -> Result<(), String> {
    let nix = Tool::find("nix").map_err(|_| "Nix is not on this machine".to_owned())?;
    let runner = Runner::default();
    let version = runner
        .run(&Command::new(&nix).arg("--version"))
        .map_err(|error| error.to_string())?
        .text();
    if beside && parse_version(&version).is_none_or(|version| version < OLDEST_NIX) {
        let (major, minor) = OLDEST_NIX;
        return Err(format!(
            "`{}` cannot lock a flake beside another one; {major}.{minor} can",
            version.trim()
        ));
    }
    let command = Command::new(&nix)
        .args(["--extra-experimental-features", "nix-command flakes"])
        .args([
            "--option",
            "connect-timeout",
            "10",
            "--option",
            "download-attempts",
            "2",
        ])
        .args(["flake", "lock"])
        .arg(format!("path:{}", directory.display()))
        .pass_env(&[
            "HOME",
            "USER",
            "https_proxy",
            "http_proxy",
            "no_proxy",
            "NIX_SSL_CERT_FILE",
            "NIX_PATH",
        ])
        .deadline(LOCK_TIME);
    runner
        .run(&command)
        .map_err(|error| format!("nix flake lock failed: {error}"))?;
    // It is looked at, not believed.
    match File::open(directory.join(LOCK)) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("nix flake lock made none: {error}")),
    }
}

/// `nix (Nix) 2.31.2` is 2 and 31.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split_whitespace().last()?.split('.');
    let digits = |part: &str| {
        let end = part
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(part.len());
        part[..end].parse().ok()
    };
    Some((digits(parts.next()?)?, digits(parts.next()?)?))
}

fn render(written: &Written) -> String {
    let directory = escape(&written.directory);
    let mut text = format!("{directory}:\n");
    for name in &written.files {
        text.push_str(&format!("  {name}\n"));
    }
    if let Some(why) = &written.unlocked {
        text.push_str(&format!(
            "no {LOCK}: {}\n  next: nix flake lock in the VPS, or the first rebuild makes it\n",
            escape(why)
        ));
    }
    text.push_str(
        "deploy it in the VPS, from its /etc/nixos: nixos-rebuild boot --flake /etc/nixos#vps\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(directory: &Path) -> ScaffoldArgs {
        ScaffoldArgs {
            release: Release::V25_11,
            persistent: "/persistent".parse().unwrap(),
            mayfly: None,
            no_lock: false,
            directory: directory.to_owned(),
        }
    }

    fn offline(_: &Path, _: bool) -> Result<(), String> {
        Err("Nix is not on this machine".to_owned())
    }

    fn refusal(failure: Failure) -> (Code, String) {
        let Failure::Error(info) = failure else {
            panic!("{failure:?}")
        };
        (info.code, info.message)
    }

    /// All files below it, with their contents.
    fn tree(directory: &Path) -> Vec<(PathBuf, String)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => all.extend(tree(&path)),
                false => all.push((path.clone(), fs::read_to_string(&path).unwrap())),
            }
        }
        all.sort();
        all
    }

    #[test]
    fn it_is_written_once_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("etc/nixos");
        let written = scaffold(args(&to), &offline).unwrap();
        assert_eq!(written.files.len(), 5);
        let before = tree(&to);
        assert_eq!(before.len(), 5);
        let text = render(&written);
        assert!(
            text.contains("no flake.lock: Nix is not on this machine"),
            "{text}"
        );

        let (code, message) = refusal(scaffold(args(&to), &offline).unwrap_err());
        assert_eq!(code, Code::FileRefused);
        assert!(message.contains("flake.nix is there"), "{message}");
        assert_eq!(tree(&to), before);
        // Whatever bears one of the names is in the way: a link that leads nowhere too.
        for name in ["configuration.nix", "flake.lock", "mayfly/container.nix"] {
            let other = dir.path().join(name.replace('/', "-"));
            fs::create_dir_all(other.join(name).parent().unwrap()).unwrap();
            std::os::unix::fs::symlink("/nowhere", other.join(name)).unwrap();
            let (code, message) = refusal(scaffold(args(&other), &offline).unwrap_err());
            assert_eq!(code, Code::FileRefused, "{message}");
            assert!(fs::symlink_metadata(other.join("flake.nix")).is_err());
        }
    }

    #[test]
    fn what_cannot_be_finished_is_taken_away_again() {
        let dir = tempfile::tempdir().unwrap();
        // The module's directory cannot be made where a file is.
        let to = dir.path().join("nixos");
        fs::create_dir(&to).unwrap();
        File::create(to.join("mayfly")).unwrap();
        let (_, message) = refusal(scaffold(args(&to), &offline).unwrap_err());
        assert!(message.contains("mayfly"), "{message}");
        assert_eq!(tree(&to).len(), 1);
    }

    #[test]
    fn a_lock_is_told_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let locks = |to: &Path, beside: bool| {
            assert!(beside);
            File::create(to.join(LOCK))
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        let written = scaffold(args(dir.path()), &locks).unwrap();
        assert_eq!(written.files.last().map(String::as_str), Some(LOCK));
        assert!(!render(&written).contains("no flake.lock"));
        let unasked = ScaffoldArgs {
            no_lock: true,
            ..args(&dir.path().join("unasked"))
        };
        let written = scaffold(unasked, &|_, _| panic!("it was asked for")).unwrap();
        assert_eq!(written.unlocked.as_deref(), Some("it was not asked for"));
        let top = ScaffoldArgs {
            persistent: "/".parse().unwrap(),
            ..args(dir.path())
        };
        assert_eq!(
            refusal(scaffold(top, &offline).unwrap_err()).0,
            Code::Invalid
        );
    }

    #[test]
    fn versions_of_nix_are_read() {
        for (text, wanted) in [
            ("nix (Nix) 2.8.0\n", Some((2, 8))),
            ("nix (Nix) 2.31.2", Some((2, 31))),
            ("nix (Nix) 2.26pre20250101_abc", Some((2, 26))),
            ("nix (Lix, like Nix) 2.93.0", Some((2, 93))),
            ("nix", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), wanted, "{text}");
        }
    }
}
