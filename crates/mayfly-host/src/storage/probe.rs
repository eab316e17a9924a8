//! Looking for a guest's init in datasets that are not mounted together.
//!
//! The guest's view is put together here, not by the kernel: one component at a time is opened with O_PATH in the dataset
//! that shows there, symlinks are read and resolved in that view, as deep as the kernel would. So nothing is mounted, no
//! namespace holds the pool, mount points that a fresh root does not have yet are no trouble, and nothing that a guest
//! planted is ever opened or followed.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use mayfly_core::error::LookFailed;
use mayfly_core::names::{GuestPath, PoolPath};
use mayfly_core::observed::InitSeen;
use mayfly_core::ports::{Assembly, HostError, HostResult};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::tree::kind_name;

/// As many links as the kernel follows.
const LINKS: usize = 40;
/// As long a way as a chain of such links may be.
const STEPS: usize = 16384;
/// As deep as that way may lead: each directory on it is a descriptor, and a chain of links may name thousands.
const DEPTH: usize = 256;
const ENDLESS: &str = "a link into a loop, or a chain of too many links";
/// How much of a path is told.
const SHOWN: usize = 256;

const SKELETON: [&str; 8] = ["boot", "dev", "etc", "proc", "run", "sbin", "sys", "var"];
const SKELETON_LINK: (&str, &str) = ("/sbin/init", "/nix/var/nix/profiles/system/init");

/// What is at one place of the view.
#[derive(Clone)]
enum Place {
    /// A directory of a dataset.
    Real(Rc<OwnedFd>),
    /// A directory that will be there at the start: of the skeleton, or above a mount point.
    Planned,
}

enum Found {
    Directory(Place),
    Link(Vec<u8>),
    File { kind: FileType, executable: bool },
}

/// The directories that were entered, each with the length of the path above it.
#[derive(Default)]
struct Way {
    places: Vec<(Place, usize)>,
    path: String,
}

impl Way {
    fn enter(&mut self, place: Place, path: String) {
        self.places.push((place, self.path.len()));
        self.path = path;
    }

    fn leave(&mut self) {
        if let Some((_, above)) = self.places.pop() {
            self.path.truncate(above);
        }
    }
}

struct View {
    root: Option<Rc<OwnedFd>>,
    mounts: Vec<(String, Rc<OwnedFd>)>,
}

/// Resolves `init` in the assembled datasets; `private` opens the contents of one.
pub(super) fn resolve_init(
    private: impl Fn(&PoolPath) -> HostResult<OwnedFd>,
    assembly: &Assembly,
    init: &GuestPath,
) -> Result<InitSeen, LookFailed> {
    let open = |name| match private(name) {
        Ok(fd) => Ok(Rc::new(fd)),
        Err(HostError::Look(failed)) => Err(failed),
        Err(error) => Err(LookFailed::new(format!("dataset {name}"), error)),
    };
    let root = assembly.root.as_ref().map(open).transpose()?;
    let mounts = assembly
        .mounts
        .iter()
        .map(|(name, at)| Ok((at.to_string(), open(name)?)));
    let view = View {
        root,
        mounts: mounts.collect::<Result<_, LookFailed>>()?,
    };
    view.resolve(init)
}

impl View {
    fn top(&self) -> Place {
        self.root.clone().map_or(Place::Planned, Place::Real)
    }

    fn resolve(&self, init: &GuestPath) -> Result<InitSeen, LookFailed> {
        let mut todo: VecDeque<Vec<u8>> = parts(init.as_str().as_bytes()).collect();
        let mut way = Way::default();
        let (mut links, mut steps) = (0, 0);
        while let Some(name) = todo.pop_front() {
            steps += 1;
            if steps > STEPS {
                return Ok(not_executable(&way.path, ENDLESS));
            }
            match name.as_slice() {
                b"." => continue,
                b".." => {
                    way.leave();
                    continue;
                }
                _ => {}
            }
            let path = joined(&way.path, &name);
            let here = way.places.last();
            let here = here.map_or_else(|| self.top(), |(place, _)| place.clone());
            let found = match self.look(&here, &name, &path) {
                Ok(found) => found,
                Err(Errno::NOENT) => {
                    let path = shortened(&path);
                    return Ok(InitSeen::Missing { path });
                }
                Err(Errno::NAMETOOLONG | Errno::INVAL) => {
                    return Ok(not_executable(&path, "no possible name"));
                }
                Err(errno) => return Err(LookFailed::new(shortened(&path), errno)),
            };
            match found {
                Found::Directory(_) if way.places.len() >= DEPTH => {
                    return Ok(not_executable(&path, "in too many directories"));
                }
                Found::Directory(place) => way.enter(place, path),
                Found::Link(target) => {
                    links += 1;
                    if links > LINKS {
                        return Ok(not_executable(&path, ENDLESS));
                    }
                    if target.first() == Some(&b'/') {
                        way = Way::default();
                    }
                    parts(&target).rev().for_each(|part| todo.push_front(part));
                }
                Found::File {
                    kind,
                    executable: true,
                } if kind == FileType::RegularFile && todo.is_empty() => {
                    return Ok(InitSeen::Found);
                }
                Found::File {
                    kind: FileType::RegularFile,
                    ..
                } if todo.is_empty() => {
                    return Ok(not_executable(
                        &path,
                        "a file without the right to execute it",
                    ));
                }
                Found::File { kind, .. } => return Ok(not_executable(&path, kind_name(kind))),
            }
        }
        let path = if way.path.is_empty() { "/" } else { &way.path };
        Ok(not_executable(path, "a directory"))
    }

    fn look(&self, here: &Place, name: &[u8], path: &str) -> Result<Found, Errno> {
        // The last of two mounts at one path covers the other.
        if let Some((_, fd)) = self.mounts.iter().rev().find(|(at, _)| at == path) {
            return Ok(Found::Directory(Place::Real(fd.clone())));
        }
        let planned = || self.planned(path).ok_or(Errno::NOENT);
        let Place::Real(dir) = here else {
            return planned();
        };
        let fd = match openat(
            dir,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return planned(),
            Err(errno) => return Err(errno),
        };
        let seen = fstat(&fd)?;
        Ok(match FileType::from_raw_mode(seen.st_mode) {
            FileType::Directory => Found::Directory(Place::Real(Rc::new(fd))),
            FileType::Symlink => Found::Link(readlinkat(&fd, "", Vec::new())?.into_bytes()),
            kind => Found::File {
                kind,
                executable: seen.st_mode & 0o111 != 0,
            },
        })
    }

    /// What will be at a path where no dataset has anything.
    fn planned(&self, path: &str) -> Option<Found> {
        let above_mount = self
            .mounts
            .iter()
            .any(|(at, _)| at.strip_prefix(path).is_some_and(|r| r.starts_with('/')));
        if above_mount
            || (self.root.is_none()
                && SKELETON
                    .iter()
                    .any(|name| path.strip_prefix('/') == Some(name)))
        {
            return Some(Found::Directory(Place::Planned));
        }
        let (link, target) = SKELETON_LINK;
        (self.root.is_none() && path == link).then(|| Found::Link(target.as_bytes().to_vec()))
    }
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty())
        .map(<[u8]>::to_vec)
}

fn joined(path: &str, name: &[u8]) -> String {
    format!("{path}/{}", String::from_utf8_lossy(name))
}

/// The beginning and the end of a path, which a guest may have made as long as it likes.
fn shortened(path: &str) -> String {
    let count = path.chars().count();
    if count <= SHOWN {
        return path.to_owned();
    }
    let begin = path.chars().take(SHOWN / 2);
    let end = path.chars().skip(count - SHOWN / 2);
    begin.chain("…".chars()).chain(end).collect()
}

fn not_executable(path: &str, what: &str) -> InitSeen {
    InitSeen::NotExecutable {
        what: format!("{} is {what}", shortened(path).escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::error::LookFailed;
    use rustix::fs::{CWD, mkdirat, symlinkat};

    /// What is seen of `/init` in a root that `make` has filled.
    fn seen(make: impl FnOnce(&OwnedFd)) -> Result<InitSeen, LookFailed> {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
        make(&open());
        let assembly = Assembly {
            root: Some(PoolPath::from_pool("1.impermanence-c5a8b7").unwrap()),
            mounts: Vec::new(),
        };
        resolve_init(|_| Ok(open()), &assembly, &"/init".parse().unwrap())
    }

    /// Directories in one another, and in the last of them a link to the first.
    fn deepen(top: &OwnedFd, depth: usize) {
        let mut at = top.try_clone().unwrap();
        for _ in 0..depth {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        }
        symlinkat("/d", &at, "again").unwrap();
    }

    #[test]
    fn a_way_through_many_directories_ends_early() {
        let many = seen(|top| {
            deepen(top, 500);
            symlinkat(format!("{}init", "d/".repeat(500)), top, "init").unwrap();
        });
        let Ok(InitSeen::NotExecutable { what }) = many else {
            panic!("{many:?}")
        };
        assert!(what.ends_with(" is in too many directories"), "{what}");
        assert!(what.chars().count() < 400, "{} characters", what.len());
    }

    #[test]
    fn a_way_up_and_down_ends_where_the_kernel_would_end_it() {
        let turns = seen(|top| {
            deepen(top, 100);
            symlinkat(format!("{}again/d/../init", "d/".repeat(100)), top, "init").unwrap();
        });
        let path = "/d/init".to_owned();
        assert_eq!(turns.unwrap(), InitSeen::Missing { path });
        let endless = seen(|top| {
            mkdirat(top, "d", Mode::RWXU).unwrap();
            symlinkat(format!("{}init", "d/../".repeat(800)), top, "init").unwrap();
        });
        let Ok(InitSeen::NotExecutable { what }) = endless else {
            panic!("{endless:?}")
        };
        assert!(what.ends_with(ENDLESS), "{what}");
    }
}
