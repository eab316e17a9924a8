//! Copies of trees, and directories that are destroyed, with what no fake has: links, attributes, holes, depth and width.
#![allow(
    clippy::disallowed_methods,
    reason = "a test drives the host with its own tools"
)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![allow(dead_code, reason = "the pool is made for other suites too")]

#[path = "common/alone.rs"]
mod alone;
#[path = "common/scratch_pool.rs"]
mod scratch;

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use mayfly_core::bytes::Bytes;
use mayfly_core::conformance::given::{at, code, operation, persistent};
use mayfly_core::error::Code;
use mayfly_core::ports::{Cancel, HostResult, Outcome, Storage};
use mayfly_core::trees::{TakeTo, TakenOut, TreeCopied, TreeCopy};
use mayfly_host::storage::btrfs::BtrfsPool;
use rustix::fs::{CWD, Mode, OFlags, XattrFlags, lgetxattr, lsetxattr, mkdirat, openat};
use scratch::{alone, make_subvolume, node, pool, private};

/// A VPS with an empty dataset for the copy; its tree, and that of the copy.
fn vps(pool: &BtrfsPool) -> (PathBuf, PathBuf) {
    let [from, to] = ["", "copy"].map(|name| persistent(&node(), 300, name, Bytes::mib(256)));
    pool.create_dataset(&from).unwrap();
    pool.create_dataset(&to).unwrap();
    (private(pool, &from.name), private(pool, &to.name))
}

fn copy(pool: &BtrfsPool, below: &str) -> HostResult<TreeCopied> {
    let [from, to] = ["", "copy"].map(|name| persistent(&node(), 300, name, Bytes::mib(256)));
    let copy = TreeCopy {
        owner: from.mark.owner.unwrap(),
        from: from.name,
        below: at(below),
        to: to.name,
        without: Vec::new(),
    };
    pool.copy_tree(&copy, &Cancel::default(), &mut |_| {})
}

fn run(program: &str, arguments: &[&str], last: &Path) {
    let status = Command::new(program).args(arguments).arg(last).status();
    assert!(status.unwrap().success(), "{program} {arguments:?}");
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = lgetxattr(path, name, &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

#[test]
fn a_copy_has_all_that_the_original_had() {
    alone("a_copy_has_all_that_the_original_had", |dir| {
        let pool = pool(dir);
        let (from, to) = vps(&pool);
        let file = from.join("program");
        fs::write(&file, "contents").unwrap();
        fs::hard_link(&file, from.join("again")).unwrap();
        std::os::unix::fs::chown(&file, Some(1000), Some(33)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
        // Version 2, effective: cap_net_raw.
        let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (name, value) in [
            ("security.capability", &capability[..]),
            ("user.mine", b"yes"),
        ] {
            lsetxattr(&file, name, value, XattrFlags::empty()).unwrap();
        }
        symlink("/nowhere", from.join("link")).unwrap();
        lsetxattr(
            from.join("link"),
            "trusted.mine",
            b"link",
            XattrFlags::empty(),
        )
        .unwrap();
        run("mkfifo", &[], &from.join("pipe"));
        let sparse = fs::File::create(from.join("sparse")).unwrap();
        sparse.write_at(b"here", 8 << 20).unwrap();
        sparse.set_len(32 << 20).unwrap();
        let inner = from.join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("file"), "x").unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o2770)).unwrap();
        let when = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        for path in [&file, &inner] {
            fs::File::open(path).unwrap().set_modified(when).unwrap();
        }

        let done = copy(&pool, "/").unwrap();
        assert_eq!(done.outcome, Outcome::Changed);
        let seen = |name: &str| fs::symlink_metadata(to.join(name)).unwrap();
        let program = seen("program");
        assert_eq!(
            (program.uid(), program.gid(), program.mode() & 0o7777),
            (1000, 33, 0o4751)
        );
        assert_eq!((program.nlink(), program.ino()), (2, seen("again").ino()));
        assert_eq!(program.modified().unwrap(), when);
        assert_eq!(fs::read_to_string(to.join("program")).unwrap(), "contents");
        let copied = to.join("program");
        assert_eq!(
            attribute(&copied, "security.capability").unwrap(),
            capability
        );
        assert_eq!(attribute(&copied, "user.mine").unwrap(), b"yes");
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("/nowhere")
        );
        assert_eq!(
            attribute(&to.join("link"), "trusted.mine").unwrap(),
            b"link"
        );
        assert!(seen("pipe").file_type().is_fifo());
        assert_eq!(seen("sparse").len(), 32 << 20);
        assert!(seen("sparse").blocks() < 64, "the holes were filled");
        let mut read = [0; 4];
        let sparse = fs::File::open(to.join("sparse")).unwrap();
        sparse.read_exact_at(&mut read, 8 << 20).unwrap();
        assert_eq!(&read, b"here");
        assert_eq!(seen("inner").mode() & 0o7777, 0o2770);
        assert_eq!(seen("inner").modified().unwrap(), when);
    });
}

/// So many directories, one in the other.
fn nest(top: &Path, depth: usize) {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let mut dir = openat(CWD, top, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
}

#[test]
fn depth_and_width_are_bounded() {
    alone("depth_and_width_are_bounded", |dir| {
        let pool = pool(dir);
        let (from, to) = vps(&pool);
        // Deeper than what is open at a time, with something behind every directory.
        let mut deep = from.join("deep");
        for _ in 0..200 {
            fs::create_dir(&deep).unwrap();
            fs::write(deep.join("a"), "x").unwrap();
            fs::write(deep.join("z"), "x").unwrap();
            deep = deep.join("m");
        }
        fs::create_dir(from.join("wide")).unwrap();
        for n in 0..5000 {
            fs::write(from.join(format!("wide/{n}")), "").unwrap();
        }
        copy(&pool, "/").unwrap();
        assert_eq!(fs::read_dir(to.join("wide")).unwrap().count(), 5000);
        let mut deep = to.join("deep");
        for n in 0..200 {
            let here = fs::read_dir(&deep).unwrap().count();
            assert_eq!(here, if n == 199 { 2 } else { 3 });
            deep = deep.join("m");
        }
        // What is refused leaves nothing, and what is destroyed may be of any depth.
        let other = persistent(&node(), 301, "", Bytes::mib(256));
        pool.create_dataset(&other).unwrap();
        let tree = private(&pool, &other.name);
        fs::create_dir(tree.join("endless")).unwrap();
        nest(&tree.join("endless"), 5000);
        let taken = TakenOut {
            owner: other.mark.owner.clone().unwrap(),
            dataset: other.name.clone(),
            path: at("/endless"),
            by: operation(4),
        };
        let into = persistent(&node(), 301, "copy", Bytes::mib(256));
        pool.create_dataset(&into).unwrap();
        let copy = TreeCopy {
            owner: taken.owner.clone(),
            from: other.name.clone(),
            below: at("/"),
            to: into.name.clone(),
            without: Vec::new(),
        };
        let copied = pool.copy_tree(&copy, &Cancel::default(), &mut |_| {});
        assert_eq!(code(copied), Code::FileRefused);
        let left = |name: &str| fs::read_dir(pool.path().join(name)).unwrap().count();
        assert_eq!(left("301/copy"), 1, "a part of the copy is left");
        for to in [TakeTo::Aside, TakeTo::Nothing] {
            assert_eq!(pool.take_out(&taken, to), Ok(Outcome::Changed));
        }
        assert_eq!(left("301"), 2, "a part of what was destroyed is left");
        assert_eq!(left("301/private"), 0);
    });
}

#[test]
fn what_is_no_part_of_a_dataset_is_refused() {
    alone("what_is_no_part_of_a_dataset_is_refused", |dir| {
        let pool = pool(dir);
        let (from, to) = vps(&pool);
        make_subvolume(&from.join("nested"));
        fs::write(from.join("nested/file"), "x").unwrap();
        assert_eq!(code(copy(&pool, "/")), Code::FileRefused);
        assert_eq!(code(copy(&pool, "/nested")), Code::FileRefused);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
        let owner = persistent(&node(), 300, "", Bytes::mib(1));
        let taken = |path: &str| TakenOut {
            owner: owner.mark.owner.clone().unwrap(),
            dataset: owner.name.clone(),
            path: at(path),
            by: operation(4),
        };
        let aside = pool.take_out(&taken("/nested"), TakeTo::Aside);
        assert_eq!(code(aside), Code::FileRefused);
        // Inside of what is destroyed it stops the work.
        fs::create_dir(from.join("plain")).unwrap();
        fs::rename(from.join("nested"), from.join("plain/nested")).unwrap();
        let plain = taken("/plain");
        assert_eq!(pool.take_out(&plain, TakeTo::Aside), Ok(Outcome::Changed));
        let gone = pool.take_out(&plain, TakeTo::Nothing);
        assert_eq!(code(gone), Code::FileRefused);
        let kept = format!("300/.dropped-{}/nested/file", operation(4));
        assert_eq!(fs::read_to_string(pool.path().join(kept)).unwrap(), "x");
    });
}
