//! An image of a server on its way to a template: index, catalogue, files, and then what import does with files.
//!
//! What is downloaded lies in a directory of the node's state that nobody else may enter. It is removed when the pull is
//! over, and what a crash left is removed before the next pull and when the daemon starts.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ports::{Cancel, ImportSource};
use mayfly_core::remote::{
    Choice, INDEX, PullSource, RemoteFile, Wanted, choose_image, parse_index,
};

use super::fetch::{Fetcher, Patience};
use crate::crash::crash_point;
use crate::runner::Tool;

/// The most bytes of an index or a catalogue.
const TEXT: u64 = 32 << 20;
/// The most bytes of one file of an image.
const FILE: Bytes = Bytes::gib(32);
/// What is left free where the state is.
const SPARE: Bytes = Bytes::mib(64);
/// How often it is told how far a download is.
const TELL: Duration = Duration::from_secs(1);

/// Files that were downloaded, as long as this is there.
pub(super) struct Pulled {
    directory: PathBuf,
    /// What import is told.
    pub(super) source: ImportSource,
}

impl Drop for Pulled {
    fn drop(&mut self) {
        if let Err(error) = forget_downloads(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "a download was not removed");
        }
    }
}

/// Removes what earlier pulls left.
pub fn forget_downloads(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Downloads the image that is meant into `directory`, which it has for itself.
pub(super) fn pull(
    directory: &Path,
    source: &PullSource,
    architecture: &str,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&str),
) -> Result<Pulled, Refusal> {
    source.check()?;
    let failed = |error: io::Error| {
        Refusal::new(
            Code::HostFailed,
            format!("{} cannot be written to: {error}", directory.display()),
            "mend what the node's state lies on, and pull again",
        )
    };
    forget_downloads(directory).map_err(failed)?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;
    let mut pulled = Pulled {
        directory: directory.to_owned(),
        source: ImportSource {
            archive: text_of(&directory.join("rootfs"))?,
            metadata: None,
            digest: None,
        },
    };
    let fetcher = Fetcher::new(source, cancel, Patience::default());
    fetcher.while_wanted(|| {
        let image = look(&fetcher, source, architecture, progress)?;
        progress(&format!(
            "found {}, version {}",
            image.product.escape_debug(),
            image.version.escape_debug()
        ));
        has_room(directory, &image)?;
        if let Some(metadata) = &image.metadata {
            let file = directory.join("metadata");
            download(&fetcher, source, metadata, &file, "metadata", progress)?;
            pulled.source.metadata = Some(text_of(&file)?);
        }
        let rootfs = directory.join("rootfs");
        download(
            &fetcher,
            source,
            &image.archive,
            &rootfs,
            "root file system",
            progress,
        )?;
        pulled.source.digest = image.digest;
        Ok::<(), Refusal>(())
    })?;
    crash_point("pull.after_download");
    Ok(pulled)
}

fn look(
    fetcher: &Fetcher<'_>,
    source: &PullSource,
    architecture: &str,
    progress: &mut dyn FnMut(&str),
) -> Result<Choice, Refusal> {
    progress("fetching the index");
    let index = fetcher.text(&below(source, INDEX)?, TEXT)?;
    let mut catalogues: Vec<Vec<u8>> = Vec::new();
    // One bound for all of them: they are in memory together, and so is what is made of them.
    let mut left = TEXT;
    for path in parse_index(&index)? {
        let text = fetcher.text(&below(source, &path)?, left)?;
        left = left.saturating_sub(text.len() as u64);
        catalogues.push(text);
    }
    let wanted = Wanted {
        image: &source.image,
        architecture,
        squashfs: Tool::find("unsquashfs").is_ok(),
    };
    choose_image(&catalogues, &wanted)
}

fn below(source: &PullSource, path: &str) -> Result<mayfly_core::remote::RemoteUrl, Refusal> {
    source.remote.below(path).map_err(|why| {
        Refusal::new(
            Code::TemplatePullFailed,
            format!("{}: {why}", source.remote),
            "ask whoever runs the server",
        )
    })
}

/// Refuses what would fill the file system that the node's state is on.
fn has_room(directory: &Path, image: &Choice) -> Result<(), Refusal> {
    let files = image.metadata.iter().chain([&image.archive]);
    let wanted = files
        .clone()
        .fold(Bytes(0), |sum, file| sum.saturating_add(Bytes(file.bytes)));
    if let Some(file) = files.into_iter().find(|file| file.bytes > FILE.0) {
        return Err(Refusal::new(
            Code::TemplatePullFailed,
            format!(
                "{} would have {}, and more than {FILE} is not taken",
                file.path.escape_debug(),
                Bytes(file.bytes)
            ),
            "choose another image",
        ));
    }
    let seen = rustix::fs::statvfs(directory).map_err(|errno| {
        Refusal::new(
            Code::CouldNotLook,
            format!("{}: {errno}", directory.display()),
            "mend what the node's state lies on, and pull again",
        )
    })?;
    let free = Bytes(seen.f_bavail.saturating_mul(seen.f_frsize));
    if wanted.saturating_add(SPARE) > free {
        return Err(Refusal::new(
            Code::HostUnsuitable,
            format!(
                "the image has {wanted}, and {} has {free} free",
                directory.display()
            ),
            "make room there, and pull again",
        ));
    }
    Ok(())
}

fn download(
    fetcher: &Fetcher<'_>,
    source: &PullSource,
    wanted: &RemoteFile,
    file: &Path,
    what: &str,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Refusal> {
    let to = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(|error| {
            Refusal::new(
                Code::HostFailed,
                format!("{} cannot be made: {error}", file.display()),
                "mend what the node's state lies on, and pull again",
            )
        })?;
    let all = Bytes(wanted.bytes);
    progress(&format!("downloading the {what}, {all}"));
    let mut last = Instant::now();
    fetcher.file(&below(source, &wanted.path)?, wanted, to, &mut |got| {
        if last.elapsed() >= TELL {
            last = Instant::now();
            let percent = got.saturating_mul(100) / wanted.bytes;
            progress(&format!("downloading the {what}, {percent} % of {all}"));
        }
    })
}

fn text_of(path: &Path) -> Result<String, Refusal> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Refusal::new(
            Code::HostUnsuitable,
            format!("{} is not UTF-8", path.display()),
            "move the node's state to another path",
        )
    })
}
