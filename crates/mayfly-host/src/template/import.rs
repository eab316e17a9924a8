//! Archives that somebody else made, on their way to a template: opened once, checked whole, unpacked by programs that are
//! confined, looked at as a tree.
//!
//! Nothing is unpacked before all of it was checked, and what is unpacked is the file that was checked: it is held open,
//! and its time of change must be the same afterwards.

mod listing;
mod metadata;
mod squash;
mod tree;

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::Digest;
use mayfly_core::ports::ImportSource;
use mayfly_core::recipe::{manifest_problems, parse_manifest};
use mayfly_core::template::Manifest;
use sha2::{Digest as _, Sha256};

use self::metadata::Metadata;
use super::alone::Alone;
use crate::runner::{Command, RunFailure, Runner, Tool, ToolMissing};

/// The most entries of an archive.
const ENTRIES: u64 = 2_000_000;
/// The most bytes of its files when they are unpacked, holes included.
const BYTES: Bytes = Bytes::gib(64);
/// The most bytes of a manifest or of `metadata.yaml`.
const TEXT: u64 = 1 << 20;
/// The most entries of an archive of metadata.
const METADATA_ENTRIES: u64 = 10_000;

/// What unpacking may come to.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    entries: u64,
    bytes: Bytes,
    /// What the pool has room for.
    room: Bytes,
}

impl Bounds {
    fn entries(&self, entries: u64) -> Result<(), String> {
        if entries <= self.entries {
            return Ok(());
        }
        Err(format!("it has more than {} entries", self.entries))
    }

    fn bytes(&self, bytes: u64) -> Result<(), String> {
        if bytes > self.bytes.0 {
            return Err(format!(
                "unpacked it would have more than {}, holes included",
                self.bytes
            ));
        }
        if bytes > self.room.0 {
            return Err(format!(
                "unpacked it would have more than the {} that the pool has room for",
                self.room
            ));
        }
        Ok(())
    }
}

/// What a file is by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A tar; compressed by the program, with tar's word for it.
    Tar(Option<(&'static str, &'static str)>),
    Squashfs,
    /// A text, or nothing that is known.
    Other,
}

/// Each compression: how it begins, the program, tar's option.
const COMPRESSIONS: [(&[u8], &str, &str); 3] = [
    (&[0x1f, 0x8b], "gzip", "--gzip"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "--xz"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "--zstd"),
];

/// A file that is held open.
struct Held {
    /// As the caller named it, for people to read.
    shown: String,
    file: File,
    kind: Kind,
    bytes: u64,
    /// Its time of change: any write moves it.
    changed: (i64, i64),
}

/// Archives that were checked and can be unpacked.
pub(super) struct Checked {
    archive: Held,
    /// The directory in the archive that the tree is in; none where the archive is the tree.
    within: Option<&'static str>,
    metadata: Metadata,
    manifest: Option<Manifest>,
    digest: Digest,
    alone: Alone,
}

/// Opens and checks what is to be imported. `room` is what the pool can take.
pub(super) fn check(
    runner: &Runner,
    source: &ImportSource,
    room: Bytes,
    progress: &mut dyn FnMut(&str),
) -> Result<Checked, Refusal> {
    let mut archive = Held::open(&source.archive)?;
    if archive.kind == Kind::Other {
        let why = "it is neither tar (plain, gz, xz, zst) nor squashfs";
        return Err(archive.bad(why));
    }
    let mut beside = source.metadata.as_deref().map(Held::open).transpose()?;
    let alone = Alone::find().map_err(missing)?;
    let mut manifest = None;
    progress("taking the digest");
    let mut hash = Sha256::new();
    match &mut beside {
        Some(held) if held.kind == Kind::Other => manifest = Some(held.manifest()?),
        Some(held) => held.hash_into(&mut hash)?,
        None => {}
    }
    archive.hash_into(&mut hash)?;
    let digest = Digest::from_random(hash.finalize().into());
    if let Some(wanted) = source.digest.as_ref().filter(|wanted| **wanted != digest) {
        return Err(Refusal::new(
            Code::TemplateWrongDigest,
            format!(
                "{}: its digest is sha256:{digest}, not sha256:{wanted}",
                archive.shown
            ),
            "fetch it again; what the digest must be is told by whoever made the image",
        ));
    }
    progress("checking every entry");
    let mut bounds = Bounds {
        entries: METADATA_ENTRIES,
        bytes: Bytes::mib(64),
        room,
    };
    let mut metadata = Metadata::default();
    if let Some(held) = beside.as_mut().filter(|held| held.kind != Kind::Other) {
        if held.kind == Kind::Squashfs {
            return Err(held.bad("metadata come as a tar or as a manifest"));
        }
        // What lxc-create fetches has no metadata.yaml, and then the tree says it all.
        if let Some(member) = held.listed(runner, &alone, bounds)?.metadata {
            metadata = held.metadata(runner, &alone, member)?;
        }
    }
    bounds.entries = ENTRIES;
    bounds.bytes = BYTES;
    let mut within = None;
    if archive.kind == Kind::Squashfs {
        archive.check_squashfs(runner, &alone, bounds)?;
    } else {
        let listed = archive.listed(runner, &alone, bounds)?;
        if let (Some(member), true, true) =
            (listed.metadata, listed.is_unified(), manifest.is_none())
        {
            within = listed.rootfs;
            metadata = archive.metadata(runner, &alone, member)?;
        }
    }
    Ok(Checked {
        archive,
        within,
        metadata,
        manifest,
        digest,
        alone,
    })
}

impl Checked {
    /// The sha256 of the files, metadata first where they are an archive.
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Unpacks into `tree`, an empty directory. After a failure it must be thrown away.
    pub(super) fn unpack(&mut self, runner: &Runner, tree: &Path) -> Result<(), Refusal> {
        let command = match self.archive.kind {
            Kind::Squashfs => self
                .alone
                .confined(&Tool::find("unsquashfs").map_err(missing)?)
                .args(["-no-progress", "-force", "-dest"])
                .arg(tree)
                .arg("/dev/stdin"),
            _ => {
                let command = self
                    .archive
                    .tar(&self.alone, &["--extract"])?
                    .args(["--numeric-owner", "--same-owner", "--same-permissions"])
                    .args(["--xattrs", "--xattrs-include=security.capability"])
                    .args(["--xattrs-include=user.*", "--acls", "--directory"])
                    .arg(tree);
                match self.within {
                    Some(rootfs) => {
                        let parts = rootfs.split('/').count();
                        command
                            .arg(format!("--strip-components={parts}"))
                            .arg(rootfs)
                    }
                    None => command,
                }
            }
        };
        let done = runner.run_on(&command, Some(self.archive.rewound()?), None);
        done.map_err(|failure| self.archive.failed("cannot be unpacked", &failure))?;
        self.archive.unchanged()
    }

    /// The manifest that came along, or what metadata and the unpacked tree say.
    pub(super) fn manifest(&self, tree: &Path) -> Result<Manifest, Refusal> {
        let manifest = match &self.manifest {
            Some(manifest) => manifest.clone(),
            None => tree::derive(tree, &self.metadata).map_err(|why| self.archive.bad(why))?,
        };
        let problems = manifest_problems(&manifest);
        if !problems.is_empty() {
            return Err(self.archive.bad(problems.join("; ")));
        }
        Ok(manifest)
    }
}

impl Held {
    fn open(path: &str) -> Result<Self, Refusal> {
        let shown = path.escape_debug().to_string();
        let unreadable = |why: String| {
            Refusal::new(
                Code::Invalid,
                format!("{shown} cannot be read: {why}"),
                "name a file on this node that root can read",
            )
        };
        // A FIFO in its place must not keep anybody waiting.
        let flags =
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
        let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty())
            .map_err(|e| unreadable(e.to_string()))?;
        let mut file = File::from(fd);
        let meta = file.metadata().map_err(|e| unreadable(e.to_string()))?;
        if !meta.is_file() {
            return Err(unreadable("it is no file".to_owned()));
        }
        let mut begin = Vec::new();
        (&mut file)
            .take(512)
            .read_to_end(&mut begin)
            .map_err(|e| unreadable(e.to_string()))?;
        let compressed = COMPRESSIONS
            .iter()
            .find(|(magic, ..)| begin.starts_with(magic));
        let kind = if let Some((_, program, option)) = compressed {
            Kind::Tar(Some((program, option)))
        } else if begin.starts_with(&squash::MAGIC) {
            Kind::Squashfs
        } else if begin.get(257..262) == Some(b"ustar") {
            Kind::Tar(None)
        } else {
            Kind::Other
        };
        Ok(Self {
            shown,
            file,
            kind,
            bytes: meta.len(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    fn bad(&self, why: impl std::fmt::Display) -> Refusal {
        Refusal::new(
            Code::TemplateBadArchive,
            format!("{} is refused: {why}", self.shown),
            "nothing of it was kept; take an image from somebody you trust, or make it anew",
        )
    }

    fn failed(&self, what: &str, failure: &RunFailure) -> Refusal {
        let last = failure
            .stderr
            .trim()
            .lines()
            .rev()
            .take(3)
            .collect::<Vec<_>>();
        let last: Vec<&str> = last.into_iter().rev().collect();
        self.bad(format!(
            "it {what}: {failure}: {}",
            last.join("; ").escape_debug()
        ))
    }

    fn io(&self, error: &std::io::Error) -> Refusal {
        Refusal::new(
            Code::HostFailed,
            format!("{} cannot be read: {error}", self.shown),
            "mend what it lies on, and import it again",
        )
    }

    fn rewound(&mut self) -> Result<BorrowedFd<'_>, Refusal> {
        if let Err(error) = self.file.seek(SeekFrom::Start(0)) {
            return Err(self.io(&error));
        }
        Ok(self.file.as_fd())
    }

    fn hash_into(&mut self, hash: &mut Sha256) -> Result<(), Refusal> {
        self.rewound()?;
        let mut piece = vec![0; 1 << 20];
        loop {
            match self.file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(len) => hash.update(&piece[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io(&error)),
            }
        }
    }

    /// Refused where somebody wrote to it since it was opened.
    fn unchanged(&self) -> Result<(), Refusal> {
        let meta = self.file.metadata().map_err(|e| self.io(&e))?;
        if (meta.ctime(), meta.ctime_nsec()) == self.changed && meta.len() == self.bytes {
            return Ok(());
        }
        Err(self.bad("it was changed while it was read"))
    }

    fn manifest(&mut self) -> Result<Manifest, Refusal> {
        self.rewound()?;
        let mut text = String::new();
        let read = (&mut self.file).take(TEXT).read_to_string(&mut text);
        if read.is_err() || self.bytes > TEXT {
            return Err(self.bad("it is neither a manifest nor a tar with metadata"));
        }
        parse_manifest(&text).map_err(|bad| {
            Refusal::new(
                Code::Invalid,
                format!("{}: {bad}", self.shown),
                "see the section on templates in the guide for what a manifest is",
            )
        })
    }

    /// tar that reads this file from its standard input.
    fn tar(&self, alone: &Alone, first: &[&str]) -> Result<Command, Refusal> {
        let tar = Tool::find("tar").map_err(missing)?;
        let mut command = alone
            .confined(&tar)
            .args(first)
            .arg("--file=-")
            // A header may ask for as much as it likes.
            .env("XZ_DEFAULTS", "--memlimit-decompress=1GiB");
        if let Kind::Tar(Some((program, option))) = self.kind {
            Tool::find(program).map_err(missing)?;
            command = command.arg(option);
        }
        Ok(command)
    }

    fn listed(
        &mut self,
        runner: &Runner,
        alone: &Alone,
        bounds: Bounds,
    ) -> Result<listing::Listed, Refusal> {
        let command = self.tar(alone, &listing::ARGS)?;
        let mut checker = listing::Checker::new(bounds);
        let from = self.rewound()?;
        let done = runner.run_reading(&command, from, &mut |piece| checker.take(piece));
        // What is wrong with an entry is why the listing was ended.
        let listed = checker.verdict().map_err(|why| self.bad(why))?;
        done.map_err(|failure| self.failed("cannot be read to its end", &failure))?;
        if self.kind == Kind::Tar(None) {
            self.check_end()?;
        }
        if listed.entries == 0 {
            return Err(self.bad("there is nothing in it"));
        }
        Ok(listed)
    }

    /// A tar that is not compressed ends with zeros; tar takes one without them for whole.
    fn check_end(&mut self) -> Result<(), Refusal> {
        let mut end = [1; 512];
        let read = self
            .file
            .seek(SeekFrom::End(-512))
            .and_then(|_| self.file.read_exact(&mut end));
        read.map_err(|e| self.io(&e))?;
        if end.iter().any(|byte| *byte != 0) {
            return Err(self.bad("it is cut off: a tar ends with empty blocks"));
        }
        Ok(())
    }

    /// What its `metadata.yaml` says, which is that `member` of it.
    fn metadata(
        &mut self,
        runner: &Runner,
        alone: &Alone,
        member: &str,
    ) -> Result<Metadata, Refusal> {
        let command = self
            .tar(alone, &["--extract", "--to-stdout"])?
            .arg(member)
            .output_limit(TEXT as usize);
        let from = self.rewound()?;
        let done = runner.run_on(&command, Some(from), None);
        let text = match done {
            Ok(output) => output.text(),
            Err(failure) => return Err(self.failed("has a metadata.yaml that is none", &failure)),
        };
        metadata::parse(&text).map_err(|why| self.bad(format!("its metadata.yaml: {why}")))
    }

    fn check_squashfs(
        &mut self,
        runner: &Runner,
        alone: &Alone,
        bounds: Bounds,
    ) -> Result<(), Refusal> {
        let unsquashfs = Tool::find("unsquashfs").map_err(missing)?;
        let mut block = [0; squash::SUPERBLOCK];
        self.rewound()?;
        if self.file.read_exact(&mut block).is_err() {
            return Err(self.bad("it is cut off"));
        }
        squash::check_superblock(&block, self.bytes, bounds).map_err(|why| self.bad(why))?;
        let command = alone.confined(&unsquashfs).args(["-lln", "/dev/stdin"]);
        let mut checker = squash::Checker::new(bounds);
        let from = self.rewound()?;
        let done = runner.run_reading(&command, from, &mut |piece| checker.take(piece));
        checker.verdict().map_err(|why| self.bad(why))?;
        done.map_err(|failure| self.failed("cannot be read to its end", &failure))
    }
}

/// The Debian package of each program.
fn missing(ToolMissing(program): ToolMissing) -> Refusal {
    let package = match program.as_str() {
        "unsquashfs" => "squashfs-tools",
        "xz" => "xz-utils",
        "setpriv" | "unshare" => "util-linux",
        other => other,
    };
    Refusal::new(
        Code::HostUnsuitable,
        format!("the program `{program}`, which reads this archive, is not on this host"),
        format!("apt-get install {package}"),
    )
}

#[cfg(test)]
mod tests;
