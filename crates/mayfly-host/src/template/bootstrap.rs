//! mmdebstrap or an archive, and the scripts of a recipe: from nothing to a tree.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use mayfly_core::recipe::Origin;
use rustix::fs::{MemfdFlags, memfd_create};

use super::alone::{Alone, OWN_PROCESSES};
use super::mirror::{BadMirror, Mirrors, observe_mirrors, observe_settings};
use super::scrub::{ScrubError, scrub_tree};
use super::source::{Script, Source};
use crate::runner::{Command, RunFailure, Runner, Tool, ToolMissing, escaped};

/// How this host reaches the network.
const PROXIES: [&str; 10] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];
/// What makes the build quick: no translations, no fsync for each file. None of it stays in the tree, see [`FORGET`].
/// There is no path-exclude: it makes mmdebstrap filter each package in Python, for a third of the time of the build.
const APT_OPTION: &str = "Acquire::Languages \"none\"";
const DPKG_OPTION: &str = "force-unsafe-io";
/// mmdebstrap keeps the options that it was given in the tree. They are not for the life of the system.
const FORGET: &str =
    "rm -f \"$1/etc/apt/apt.conf.d/99mmdebstrap\" \"$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap\"";

/// A tree that could not be built. What is there of it is worthless.
#[derive(Debug, thiserror::Error)]
#[error("cannot build {system} in {}", tree.display())]
pub struct BuildError {
    /// What it should have become, such as `debian 12`.
    pub system: String,
    /// Where.
    pub tree: PathBuf,
    /// Why.
    #[source]
    pub cause: Box<BuildCause>,
}

/// Why a tree could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildCause {
    /// A program is missing on this host.
    #[error(transparent)]
    Tool(#[from] ToolMissing),
    /// The mirror that was given is none.
    #[error(transparent)]
    Mirror(#[from] BadMirror),
    /// A program failed.
    #[error("a program failed")]
    Run(#[from] RunFailure),
    /// A script of the recipe failed.
    #[error("its script {0} failed")]
    Script(String, #[source] RunFailure),
    /// The archive could not be unpacked.
    #[error("its archive {} cannot be unpacked", .0.display())]
    Unpack(PathBuf, #[source] RunFailure),
    /// A script could not be handed to `sh`.
    #[error("a script could not be prepared")]
    Prepare(#[from] io::Error),
    /// What a template may not hold could not be removed.
    #[error(transparent)]
    Scrub(#[from] ScrubError),
}

/// Builds the tree of `source` in `tree`, an empty directory or one that does not exist yet.
///
/// It is unpacked from the source's archive where that has one, else installed from packages. Those come from `mirror`, else from the mirror that this host's own apt uses, else from mmdebstrap's default.
/// `progress` gets a line for each stage. Not idempotent; after a failure or a crash the tree must be thrown away. All runs
/// in a mount namespace of its own, and ends with the calling thread: nothing stays mounted, and nothing goes on writing.
pub fn build_tree(
    runner: &Runner,
    source: &Source,
    tree: &Path,
    mirror: Option<&str>,
    progress: &mut dyn FnMut(&str),
) -> Result<(), BuildError> {
    let manifest = &source.recipe.manifest;
    build(runner, source, tree, mirror, progress).map_err(|cause| BuildError {
        system: format!("{} {}", manifest.distribution, manifest.version),
        tree: tree.to_owned(),
        cause: Box::new(cause),
    })
}

fn build(
    runner: &Runner,
    source: &Source,
    tree: &Path,
    mirror: Option<&str>,
    progress: &mut dyn FnMut(&str),
) -> Result<(), BuildCause> {
    let sh = Tool::find("sh")?;
    let alone = Alone::find()?;
    let tree = std::path::absolute(tree)?;
    match &source.archive {
        Some(archive) => unpack(runner, &alone, archive, &tree, progress)?,
        None => install(runner, &alone, source, &tree, mirror, progress)?,
    }
    for script in &source.scripts {
        progress(&format!("running {}", script.name));
        let text = hold(script)?;
        // Read through this process's own table, so that there is no file to be left behind.
        let path = format!("/proc/{}/fd/{}", std::process::id(), text.as_raw_fd());
        let command = alone.command(&[], &sh).arg(path).arg(&tree);
        run_telling(runner, &command, progress)
            .map_err(|failure| BuildCause::Script(script.name.clone(), failure))?;
    }
    scrub_tree(&tree, source.recipe.manifest.layout.storage.as_ref())?;
    Ok(())
}

fn install(
    runner: &Runner,
    alone: &Alone,
    source: &Source,
    tree: &Path,
    mirror: Option<&str>,
    progress: &mut dyn FnMut(&str),
) -> Result<(), BuildCause> {
    let mmdebstrap = Tool::find("mmdebstrap")?;
    let Origin::Packages {
        suite,
        variant,
        packages,
    } = &source.recipe.build.origin
    else {
        let cause = io::Error::new(io::ErrorKind::NotFound, "the archive was not looked for");
        return Err(cause.into());
    };
    let (sources, settings) = where_from(runner, suite, mirror)?;
    if let Some(line) = sources.first() {
        progress(&format!("packages come from `{line}`"));
    }
    let packages = Packages {
        suite,
        variant,
        packages,
        architecture: &source.recipe.manifest.architecture,
    };
    let bootstrap = alone
        .command(&OWN_PROCESSES, &mmdebstrap)
        .args(bootstrap_args(&packages, tree, &sources, &settings))
        .pass_env(&PROXIES);
    Ok(run_telling(runner, &bootstrap, progress)?)
}

/// Numbers of owners, extended attributes and access lists stay as they are in the archive. tar sees by itself how it is
/// compressed, and refuses to leave the tree.
fn unpack(
    runner: &Runner,
    alone: &Alone,
    archive: &Path,
    tree: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(), BuildCause> {
    let tar = Tool::find("tar")?;
    let archive = std::path::absolute(archive)?;
    progress(&format!("unpacking {}", archive.display()));
    std::fs::create_dir_all(tree)?;
    let command = alone
        .command(&OWN_PROCESSES, &tar)
        .args(["--extract", "--force-local", "--numeric-owner"])
        .args(["--same-owner", "--same-permissions"])
        .args(["--xattrs", "--xattrs-include=*", "--acls", "--directory"])
        .arg(tree)
        .arg("--file")
        .arg(&archive);
    run_telling(runner, &command, progress).map_err(|failure| BuildCause::Unpack(archive, failure))
}

/// Lines of sources.list and options of apt for `suite`.
fn where_from(
    runner: &Runner,
    suite: &str,
    mirror: Option<&str>,
) -> Result<(Vec<String>, Vec<String>), BuildCause> {
    // A host without apt is no host without mmdebstrap's default mirror. An apt that fails says so.
    let own = match Tool::find("apt-get") {
        Ok(apt_get) => observe_mirrors(runner, &apt_get)?,
        Err(_) => Mirrors::default(),
    };
    let settings = match Tool::find("apt-config") {
        Ok(apt_config) => observe_settings(runner, &apt_config)?,
        Err(_) => Vec::new(),
    };
    let mirrors = match mirror {
        Some(given) => own.with_archive(given)?,
        None => own,
    };
    Ok((mirrors.lines(suite), settings))
}

/// What mmdebstrap installs.
struct Packages<'a> {
    suite: &'a str,
    variant: &'a str,
    packages: &'a [String],
    architecture: &'a str,
}

fn bootstrap_args(
    build: &Packages<'_>,
    tree: &Path,
    sources: &[String],
    settings: &[String],
) -> Vec<std::ffi::OsString> {
    let mut args = vec![
        "--mode=root".to_owned(),
        "--format=directory".to_owned(),
        format!("--variant={}", build.variant),
        format!("--architectures={}", build.architecture),
    ];
    args.extend(
        settings
            .iter()
            .map(String::as_str)
            .chain([APT_OPTION])
            .map(|option| format!("--aptopt={option}")),
    );
    args.push(format!("--dpkgopt={DPKG_OPTION}"));
    if !build.packages.is_empty() {
        args.push(format!("--include={}", build.packages.join(",")));
    }
    args.push(format!("--customize-hook={FORGET}"));
    args.push(build.suite.to_owned());
    let mut args: Vec<std::ffi::OsString> = args.into_iter().map(Into::into).collect();
    args.push(tree.into());
    args.extend(sources.iter().map(Into::into));
    args
}

/// The script in memory.
fn hold(script: &Script) -> io::Result<OwnedFd> {
    let held = memfd_create("mayfly-template-script", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(held);
    io::Write::write_all(&mut file, script.text.as_bytes())?;
    Ok(file.into())
}

/// Runs to the end; each line of standard error is progress.
fn run_telling(
    runner: &Runner,
    command: &Command,
    progress: &mut dyn FnMut(&str),
) -> Result<(), RunFailure> {
    let mut line = Vec::new();
    let mut tell = |bytes: &[u8]| {
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => {
                    let text = escaped(
                        String::from_utf8_lossy(&line)
                            .trim()
                            .trim_start_matches("I: "),
                    );
                    if !text.is_empty() {
                        progress(&text);
                    }
                    line.clear();
                }
                // A line without an end is cut, not gathered without bound.
                _ if line.len() < 500 => line.push(byte),
                _ => {}
            }
        }
    };
    runner
        .run_streaming(command, &mut |_| {}, &mut tell)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::builtin;

    #[test]
    fn the_command_is_whole() {
        let packages = ["ca-certificates".to_owned(), "dbus".to_owned()];
        let build = Packages {
            suite: "bookworm",
            variant: "minbase",
            packages: &packages,
            architecture: "amd64",
        };
        let sources = ["deb http://mirror.example/debian bookworm main".to_owned()];
        let args = bootstrap_args(
            &build,
            Path::new("/pool/t"),
            &sources,
            &["A \"1\"".to_owned()],
        );
        let args: Vec<_> = args.iter().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(
            args[..5],
            [
                "--mode=root",
                "--format=directory",
                "--variant=minbase",
                "--architectures=amd64",
                "--aptopt=A \"1\""
            ]
        );
        assert!(args.contains(&"--dpkgopt=force-unsafe-io"));
        assert!(args.contains(&"--include=ca-certificates,dbus"));
        assert_eq!(
            args[args.len() - 3..],
            [
                "bookworm",
                "/pool/t",
                "deb http://mirror.example/debian bookworm main"
            ]
        );
    }

    /// What a build of an archive needs but cannot do without root: the confinement.
    fn unpacked(archive: &Path) -> (tempfile::TempDir, Result<(), BuildCause>) {
        let dir = tempfile::tempdir().unwrap();
        let alone = Alone::find().unwrap();
        let done = unpack(
            &Runner::default(),
            &alone,
            archive,
            &dir.path().join("tree"),
            &mut |_| {},
        );
        (dir, done)
    }

    #[test]
    fn an_archive_is_unpacked_and_a_broken_one_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/who"), "me").unwrap();
        std::os::unix::fs::chown(dir.path().join("etc/who"), Some(123_456), Some(7)).unwrap();
        let tar = Tool::find("tar").unwrap();
        let archive = dir.path().join("a:b.tar.gz");
        let pack = Command::new(&tar)
            .args(["--create", "--gzip", "--force-local", "--directory"])
            .arg(dir.path())
            .arg("--file")
            .arg(&archive)
            .arg("etc");
        Runner::default().run(&pack).unwrap();

        let (at, done) = unpacked(&archive);
        done.unwrap();
        let seen = std::fs::metadata(at.path().join("tree/etc/who")).unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&seen);
        assert_eq!((owner, seen.len()), (123_456, 2));

        std::fs::write(&archive, "no archive").unwrap();
        assert!(matches!(unpacked(&archive).1, Err(BuildCause::Unpack(..))));
    }

    #[test]
    fn progress_comes_line_by_line() {
        let sh = Tool::find("sh").unwrap();
        let mut told = Vec::new();
        let command = Command::new(&sh).args([
            "-c",
            "printf 'I: one\\n\\nt' >&2; sleep 0.1; printf 'wo\\033\\nunended' >&2",
        ]);
        run_telling(&Runner::default(), &command, &mut |line| {
            told.push(line.to_owned())
        })
        .unwrap();
        assert_eq!(told, ["one", "two\\u{1b}"]);
    }

    #[test]
    fn a_script_is_read_from_memory() {
        let script = Script {
            name: "x.sh".to_owned(),
            text: "echo \"tree is $1\"".to_owned(),
        };
        let held = hold(&script).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd());
        let done = Runner::default()
            .run(&Command::new(&Tool::find("sh").unwrap()).args([path.as_str(), "/t"]))
            .unwrap();
        assert_eq!(done.text(), "tree is /t\n");
    }

    #[test]
    fn a_bad_mirror_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let error = build_tree(
            &Runner::default(),
            &builtin("debian-12").unwrap(),
            &tree,
            Some("--help"),
            &mut |_| {},
        )
        .unwrap_err();
        assert!(
            matches!(*error.cause, BuildCause::Mirror(_) | BuildCause::Tool(_)),
            "{error:?}"
        );
        assert!(!tree.try_exists().unwrap());
    }
}
