//! What an unpacked tree says of itself. It is looked into by openat2, so that no link in it leads outside.

use std::io::Read as _;
use std::path::Path;

use mayfly_core::names::DatasetName;
use mayfly_core::template::{
    Layout, LayoutDataset, LayoutMount, Manifest, Quota, RootKind, debian_architecture,
};
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2, readlinkat};
use rustix::io::Errno;

use super::metadata::{Metadata, os_release};

/// Where an init is looked for.
const INITS: [&str; 4] = [
    "/sbin/init",
    "/usr/lib/systemd/systemd",
    "/lib/systemd/systemd",
    "/init",
];

/// SIGRTMIN+3, which systemd takes for a shutdown.
const SIGRTMIN_3: i32 = 37;

/// The manifest of a tree that came without one.
pub(super) fn derive(tree: &Path, metadata: &Metadata) -> Result<Manifest, String> {
    let tree = Tree::open(tree).map_err(|e| format!("its tree cannot be looked at: {e}"))?;
    let release = ["/etc/os-release", "/usr/lib/os-release"]
        .into_iter()
        .find_map(|path| tree.text(path))
        .unwrap_or_default();
    let release = os_release(&release);
    let first = |names: &[&str]| names.iter().find_map(|name| release.get(name).cloned());
    let nixos = tree.is_directory("/nix/store");
    // An init of NixOS is a link that only leads somewhere once the store is at its place, as it is here.
    let (init, found) = INITS
        .into_iter()
        .find_map(|path| tree.program(path).map(|found| (path, found)))
        .or_else(|| tree.program(NIX_INIT).map(|found| (NIX_INIT, found)))
        .ok_or("there is no init in it that could be executed: it is no system, or what it needs is not in the archive")?;
    let architecture = [Some(&found), tree.program("/bin/sh").as_ref()]
        .into_iter()
        .flatten()
        .find_map(|program| program.architecture)
        .map(str::to_owned)
        .or_else(|| {
            let named = metadata.architecture.as_deref();
            named.map(|name| debian_architecture(name).to_owned())
        })
        .ok_or("its architecture can be told neither from its init nor from metadata")?;
    let distribution = match first(&["ID"]).or_else(|| metadata.os.clone()) {
        Some(id) => word(&id.to_lowercase()),
        None if nixos => "nixos".to_owned(),
        None => "unknown".to_owned(),
    };
    let version = first(&["VERSION_ID", "BUILD_ID", "VERSION_CODENAME"])
        .or_else(|| metadata.release.clone())
        .map_or_else(|| "unknown".to_owned(), |version| word(&version));
    let system = nixos && tree.program(NIX_INIT).is_some();
    // A NixOS is started by the link that its empty root gets.
    let (init, root_kind, layout) = if system {
        (INITS[0], RootKind::Empty, nix_layout())
    } else {
        (init, RootKind::Template, Layout::default())
    };
    Ok(Manifest {
        distribution,
        version,
        architecture,
        init: init.parse().expect("a constant path is valid"),
        halt_signal: found.halt_signal(nixos),
        root_kind,
        layout,
    })
}

/// The init of a NixOS system profile.
const NIX_INIT: &str = "/nix/var/nix/profiles/system/init";

/// A NixOS boots from an empty root with its store mounted.
fn nix_layout() -> Layout {
    let nix: DatasetName = "nix".parse().expect("a constant name is valid");
    let mount = |dataset: DatasetName, path: &str| LayoutMount {
        dataset,
        path: path.parse().expect("a constant path is valid"),
        read_only: false,
    };
    Layout {
        datasets: vec![LayoutDataset {
            name: nix.clone(),
            quota: Quota::Percent(60),
        }],
        mounts: vec![
            mount(nix, "/nix"),
            mount(DatasetName::root(), "/persistent"),
        ],
        impermanence: false,
        storage: "/persistent".parse().ok(),
        persistence: Default::default(),
    }
}

/// What of a text may stand in a manifest.
fn word(text: &str) -> String {
    let taken = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    let word: String = text.chars().filter(|c| taken(*c)).take(64).collect();
    let word = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if word.is_empty() { "unknown" } else { word }.to_owned()
}

/// A program of a tree.
struct Program {
    /// Where it really is.
    path: String,
    /// Debian's word, where it is an ELF that is known.
    architecture: Option<&'static str>,
    script: bool,
}

impl Program {
    /// The signal that has this init shut down.
    fn halt_signal(&self, nixos: bool) -> i32 {
        if nixos || self.path.contains("systemd") {
            SIGRTMIN_3
        } else if self.path.ends_with("busybox") {
            libc::SIGUSR2
        } else if self.script {
            libc::SIGTERM
        } else {
            // What sysvinit and OpenRC take.
            libc::SIGPWR
        }
    }
}

struct Tree(OwnedFd);

impl Tree {
    fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open(path, flags, Mode::empty()).map(Self)
    }

    fn at(&self, path: &str, flags: OFlags) -> Option<OwnedFd> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(
            &self.0,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            inside,
        )
        .ok()
    }

    fn is_directory(&self, path: &str) -> bool {
        self.at(path, OFlags::PATH | OFlags::DIRECTORY).is_some()
    }

    /// The first bytes of a file that is one: what is in a FIFO's place is not waited for.
    fn bytes(&self, path: &str, limit: u64) -> Option<Vec<u8>> {
        let file = std::fs::File::from(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn text(&self, path: &str) -> Option<String> {
        let bytes = self.bytes(path, 64 << 10)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn program(&self, path: &str) -> Option<Program> {
        use std::os::unix::fs::PermissionsExt as _;
        let held = self.at(path, OFlags::PATH)?;
        let meta = std::fs::File::from(held.try_clone().ok()?)
            .metadata()
            .ok()?;
        if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            return None;
        }
        // Where the links ended: only its name is wanted.
        let link = format!("/proc/self/fd/{}", held.as_raw_fd());
        let path_now = readlinkat(CWD, link, Vec::new()).ok()?;
        let begin = self.bytes(path, 20)?;
        Some(Program {
            path: path_now.to_string_lossy().into_owned(),
            architecture: machine(&begin),
            script: begin.starts_with(b"#!"),
        })
    }
}

/// The architecture of an ELF, in Debian's words.
fn machine(begin: &[u8]) -> Option<&'static str> {
    if !begin.starts_with(b"\x7fELF") || begin.len() < 20 {
        return None;
    }
    let pair = [begin[18], begin[19]];
    let big = begin[5] == 2;
    let number = if big {
        u16::from_be_bytes(pair)
    } else {
        u16::from_le_bytes(pair)
    };
    match (number, big) {
        (3, _) => Some("i386"),
        (21, false) => Some("ppc64el"),
        (22, _) => Some("s390x"),
        (40, _) => Some("armhf"),
        (62, _) => Some("amd64"),
        (183, _) => Some("arm64"),
        (243, _) => Some("riscv64"),
        _ => None,
    }
}
