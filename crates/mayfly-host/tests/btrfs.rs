//! The btrfs driver on a file of its own.
#![allow(
    clippy::disallowed_methods,
    reason = "a test drives the host with its own tools"
)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "common/alone.rs"]
mod alone;
#[path = "common/guest.rs"]
mod guest;
#[path = "common/btrfs_rig.rs"]
mod rig;
#[path = "common/scratch_pool.rs"]
mod scratch;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use mayfly_core::bytes::Bytes;
use mayfly_core::conformance::check;
use mayfly_core::conformance::given::{at, burial_of_root, code, condemned, root};
use mayfly_core::error::Code;
use mayfly_core::ids::NodeId;
use mayfly_core::names::{PoolPath, TemplateName};
use mayfly_core::observed::MarkSeen;
use mayfly_core::ports::{HostError, Origin, Storage, TreePlan};
use mayfly_host::runner::Runner;
use mayfly_host::storage::btrfs::{Allocation, BtrfsPool, NewPool, PoolSource};
use mayfly_host::storage::{KernelIdentity, TemplatePool};
use rig::BtrfsRig;
use scratch::{
    alone, data, gone, loops_of, make_subvolume, new_pool, node, pool, private, records,
};

#[test]
fn it_keeps_the_contract_of_storage() {
    alone("it_keeps_the_contract_of_storage", |dir| {
        let rig = BtrfsRig::new(pool(dir), &dir.join("held"));
        let report = check(&rig);
        eprint!("{report}");
        report.assert_skipped(&rig::skipped());
        let pool = rig.pool();
        assert_eq!(
            (
                records(pool, "marks"),
                records(pool, "intents"),
                records(pool, "staging")
            ),
            (0, 0, 0)
        );
    });
}

#[test]
fn it_keeps_the_contract_in_a_directory_of_another_btrfs() {
    alone(
        "it_keeps_the_contract_in_a_directory_of_another_btrfs",
        |dir| {
            let outer = pool(dir);
            let plain = outer.path().join("plain/pool");
            fs::create_dir_all(&plain).unwrap();
            for (inner, at) in [(plain, "a"), (outer.path().join("sub"), "b")] {
                let new = NewPool::Directory { dir: inner.clone() };
                let pool =
                    BtrfsPool::format(&Runner::default(), &new, &node(), &dir.join(at)).unwrap();
                let again =
                    BtrfsPool::format(&Runner::default(), &new, &node(), &dir.join("c")).unwrap();
                again.unmount().unwrap();
                let rig = BtrfsRig::new(pool, &dir.join("held").join(at));
                check(&rig).assert_skipped(&rig::skipped());
                let pool = rig.pool();
                let shown = format!(
                    "/{}/11327/private",
                    inner.strip_prefix(outer.path()).unwrap().display()
                );
                let KernelIdentity::FileSystem { device, .. } = pool.kernel_identity() else {
                    panic!("a btrfs pool is one file system")
                };
                let line = format!("77 25 {device} {shown} /p rw - btrfs x rw");
                assert_eq!(
                    pool.kernel_identity().shown_in(&line).unwrap().what,
                    "11327/private"
                );
                assert_eq!(fs::metadata(&inner).unwrap().mode() & 0o7777, 0o700);
            }
            let full = outer.path().join("full");
            fs::create_dir_all(full.join("x")).unwrap();
            let refused = BtrfsPool::format(
                &Runner::default(),
                &NewPool::Directory { dir: full },
                &node(),
                &dir.join("d"),
            );
            assert_eq!(code(refused), Code::HostUnsuitable);
            let elsewhere = NewPool::Directory {
                dir: dir.join("not-btrfs"),
            };
            assert_eq!(
                code(BtrfsPool::format(
                    &Runner::default(),
                    &elsewhere,
                    &node(),
                    &dir.join("d")
                )),
                Code::HostUnsuitable
            );
        },
    );
}

#[test]
fn a_pool_is_attached_again_and_never_by_a_second_device() {
    alone(
        "a_pool_is_attached_again_and_never_by_a_second_device",
        |dir| {
            let first = pool(dir);
            first.create_dataset(&data(11327)).unwrap();
            let source = PoolSource::Loop(dir.join("pool.img"));
            assert!(matches!(
                BtrfsPool::attach(&source, &node(), &dir.join("pool")),
                Err(HostError::Busy { .. })
            ));
            // A guest of an earlier daemon holds the pool while another daemon attaches it.
            let second = BtrfsPool::attach(&source, &node(), &dir.join("again")).unwrap();
            assert_eq!(loops_of(dir).len(), 1);
            assert_eq!(first.kernel_identity(), second.kernel_identity());
            first.unmount().unwrap();
            assert!(second.look(&data(11327).name).unwrap().is_some());
            let options = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let line = options
                .lines()
                .find(|line| line.contains("/again "))
                .unwrap();
            for flag in ["nosuid", "nodev", "noatime", "discard=async"] {
                assert!(line.contains(flag), "{flag} is not set: {line}");
            }
            assert_eq!(
                fs::metadata(dir.join("again")).unwrap().mode() & 0o7777,
                0o700
            );
            second.unmount().unwrap();
            gone(|| loops_of(dir).is_empty(), "the loop device");
            let third = pool(dir);
            assert!(
                third.look(&data(11327).name).unwrap().is_some(),
                "the second format emptied the pool"
            );
        },
    );
}

#[test]
fn a_pool_of_another_node_is_refused() {
    alone("a_pool_of_another_node_is_refused", |dir| {
        let mine = pool(dir);
        let path = mine.path().to_owned();
        let other = NodeId::from_random([2; 8]);
        assert_eq!(code(BtrfsPool::open(&path, &other)), Code::PoolForeign);
        mine.unmount().unwrap();
        let source = PoolSource::Loop(dir.join("pool.img"));
        assert_eq!(
            code(BtrfsPool::attach(&source, &other, &path)),
            Code::PoolForeign
        );
        assert_eq!(
            code(BtrfsPool::format(
                &Runner::default(),
                &new_pool(dir),
                &other,
                &path
            )),
            Code::PoolForeign
        );
        gone(|| loops_of(dir).is_empty(), "the loop device");
        fs::write(dir.join("junk"), vec![0; 1 << 20]).unwrap();
        let junk = PoolSource::Loop(dir.join("junk"));
        assert_eq!(
            code(BtrfsPool::attach(&junk, &node(), &path)),
            Code::PoolUnavailable
        );
    });
}

#[test]
fn a_pool_without_simple_quotas_is_refused() {
    alone("a_pool_without_simple_quotas_is_refused", |dir| {
        let outer = pool(dir);
        let quota = |what: &str| {
            Command::new("btrfs")
                .args(["quota", what])
                .arg(outer.path())
                .output()
                .unwrap()
        };
        assert!(quota("disable").status.success());
        assert_eq!(
            code(BtrfsPool::open(outer.path(), &node())),
            Code::PoolUnavailable
        );
        assert!(quota("enable").status.success());
        let inner = NewPool::Directory {
            dir: outer.path().join("inner"),
        };
        let refused = BtrfsPool::format(&Runner::default(), &inner, &node(), &dir.join("inner"));
        let Err(HostError::Refused(refusal)) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(refusal.code, Code::HostUnsuitable);
        assert!(
            refusal.hint.contains("btrfs quota disable"),
            "{}",
            refusal.hint
        );
    });
}

#[test]
fn a_quota_holds_and_does_not_count_the_template() {
    alone("a_quota_holds_and_does_not_count_the_template", |dir| {
        let pool = pool(dir);
        let base = data(11327);
        pool.create_dataset(&base).unwrap();
        fs::write(private(&pool, &base.name).join("base"), vec![7; 40 << 20]).unwrap();
        let mut clone = root(&node(), 11327, 1, Origin::Clone(base.name.clone()));
        clone.quota = Some(Bytes::mib(20));
        pool.create_dataset(&clone).unwrap();
        assert!(pool.look(&clone.name).unwrap().unwrap().used.unwrap() < Bytes::mib(1));

        let file = private(&pool, &clone.name).join("hog");
        let error = fs::write(&file, vec![7; 40 << 20]).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::DQUOT.raw_os_error())
        );
        let used = pool.look(&clone.name).unwrap().unwrap().used.unwrap();
        assert!(
            used > Bytes::mib(15) && used <= Bytes::mib(20),
            "{used} of 20M"
        );
        // Before anything was synced it is counted as well.
        assert_eq!(
            code(pool.set_quota(&clone.name, Bytes::mib(10))),
            Code::QuotaBelowUse
        );
        let tree = TreePlan {
            files: vec![(at("/more"), "x".repeat(8 << 20))],
            ..TreePlan::default()
        };
        assert_eq!(code(pool.prepare_tree(&clone.name, &tree)), Code::DiskSpace);
        assert!(!private(&pool, &clone.name).join(".more.mayfly").exists());
        pool.set_quota(&clone.name, Bytes::mib(60)).unwrap();
        fs::write(&file, vec![7; 40 << 20]).unwrap();
    });
}

#[test]
fn what_has_no_mark_of_this_node_is_left_alone() {
    alone("what_has_no_mark_of_this_node_is_left_alone", |dir| {
        let pool = pool(dir);
        let new = root(&node(), 11327, 1, Origin::Empty);
        make_subvolume(&pool.path().join(new.name.as_str()));
        assert_eq!(code(pool.create_dataset(&new)), Code::DatasetExists);
        assert_eq!(pool.look(&new.name).unwrap().unwrap().mark, MarkSeen::Unset);
        make_subvolume(&pool.path().join("trash/by-hand"));
        make_subvolume(&pool.path().join(".mayfly/staging/by-hand"));
        let told = pool.clear_staging().unwrap();
        assert!(told.len() == 1 && told[0].contains("by-hand"), "{told:?}");
        assert!(pool.path().join(".mayfly/staging/by-hand").is_dir());
        assert!(
            pool.observe()
                .unwrap()
                .datasets
                .contains_key(&PoolPath::grave("by-hand"))
        );

        // A mark that makes no sense is not the same as none.
        let other = root(&node(), 11327, 2, Origin::Empty);
        pool.create_dataset(&other).unwrap();
        let mark = fs::read_dir(pool.path().join(".mayfly/marks"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        fs::remove_file(&mark).unwrap();
        symlink("{\"version\":1,", &mark).unwrap();
        assert!(matches!(
            pool.look(&other.name).unwrap().unwrap().mark,
            MarkSeen::Unreadable(_)
        ));
        assert!(matches!(
            pool.create_dataset(&other),
            Err(HostError::Look(_))
        ));
        fs::remove_file(&mark).unwrap();
        fs::write(&mark, "{}").unwrap();
        assert!(matches!(
            pool.look(&other.name).unwrap().unwrap().mark,
            MarkSeen::Unreadable(_)
        ));
    });
}

#[test]
fn a_subvolume_that_a_guest_made_stops_burial_and_is_reported() {
    alone(
        "a_subvolume_that_a_guest_made_stops_burial_and_is_reported",
        |dir| {
            let pool = pool(dir);
            let new = root(&node(), 11327, 1, Origin::Empty);
            pool.create_dataset(&new).unwrap();
            fs::create_dir(private(&pool, &new.name).join("srv")).unwrap();
            make_subvolume(&private(&pool, &new.name).join("srv/made"));
            let burial = burial_of_root(&pool, &node(), &new, 1);
            assert_eq!(
                code(pool.bury(&burial, &PoolPath::grave("g"))),
                Code::NotOurs
            );
            assert_eq!(
                pool.look(&new.name).unwrap().unwrap().mark,
                MarkSeen::Local(new.mark.clone())
            );
            let inner = PoolPath::from_pool(&format!("{}/private/srv/made", new.name)).unwrap();
            assert_eq!(
                pool.observe().unwrap().datasets[&inner].mark,
                MarkSeen::Unset
            );

            // One that appears in a grave stops the reaper before it destroys anything.
            fs::remove_dir(private(&pool, &new.name).join("srv/made")).unwrap();
            pool.bury(&burial, &PoolPath::grave("g")).unwrap();
            let proof = condemned(&pool, &node(), &PoolPath::grave("g"));
            make_subvolume(&pool.path().join("trash/g/private/late"));
            assert_eq!(code(pool.reap(&proof)), Code::NotOurs);
            assert!(pool.path().join("trash/g/private/late").is_dir());
        },
    );
}

#[test]
fn a_full_pool_refuses_and_keeps_nothing_half_made() {
    alone("a_full_pool_refuses_and_keeps_nothing_half_made", |dir| {
        let pool = pool(dir);
        let mut base = data(11327);
        base.quota = None;
        pool.create_dataset(&base).unwrap();
        let old = root(&node(), 11327, 1, Origin::Empty);
        pool.create_dataset(&old).unwrap();
        let hog = private(&pool, &base.name).join("hog");
        let error = fs::write(&hog, vec![7; 1100 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        let marks = records(&pool, "marks");
        for origin in [Origin::Empty, Origin::Clone(base.name.clone())] {
            let new = root(&node(), 11327, 2, origin);
            assert_eq!(code(pool.create_dataset(&new)), Code::PoolFull);
            assert_eq!(pool.look(&new.name), Ok(None));
        }
        let name: TemplateName = "t".parse().unwrap();
        assert_eq!(code(pool.begin_template(&name).map(|_| ())), Code::PoolFull);
        assert_eq!(
            (
                records(&pool, "marks"),
                records(&pool, "staging"),
                records(&pool, "intents")
            ),
            (marks, 0, 0)
        );
        // Room can be made in a full pool.
        pool.bury(
            &burial_of_root(&pool, &node(), &old, 1),
            &PoolPath::grave("g"),
        )
        .unwrap();
        pool.reap(&condemned(&pool, &node(), &PoolPath::grave("g")))
            .unwrap();
        fs::remove_file(&hog).unwrap();
        let new = root(&node(), 11327, 2, Origin::Empty);
        gone(|| pool.create_dataset(&new).is_ok(), "the lack of room");
    });
}

#[test]
fn a_sparse_pool_is_not_larger_than_its_own_file_system() {
    alone(
        "a_sparse_pool_is_not_larger_than_its_own_file_system",
        |dir| {
            let small = dir.join("small");
            fs::create_dir(&small).unwrap();
            let mounted = Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=300m", "none"])
                .arg(&small)
                .status();
            assert!(mounted.unwrap().success());
            let new = |allocation| NewPool::Loop {
                file: small.join("p"),
                size: Bytes::gib(1),
                allocation,
            };
            let refused = BtrfsPool::format(
                &Runner::default(),
                &new(Allocation::Full),
                &node(),
                &dir.join("pool"),
            );
            assert_eq!(code(refused), Code::HostUnsuitable);
            assert_eq!(
                fs::read_dir(&small).unwrap().count(),
                0,
                "an unfinished file is left"
            );
            let pool = BtrfsPool::format(
                &Runner::default(),
                &new(Allocation::Sparse),
                &node(),
                &dir.join("pool"),
            )
            .unwrap();
            let seen = pool.observe().unwrap();
            assert!(
                seen.capacity == Bytes::gib(1) && seen.free < Bytes::mib(300),
                "{seen:?}"
            );
        },
    );
}

#[test]
fn quota_groups_go_with_their_datasets() {
    alone("quota_groups_go_with_their_datasets", |dir| {
        let pool = pool(dir);
        let groups = || {
            let out = Command::new("btrfs")
                .args(["qgroup", "show", "--raw"])
                .arg(pool.path())
                .output()
                .unwrap();
            String::from_utf8_lossy(&out.stdout)
                .lines()
                .filter(|line| line.starts_with("0/"))
                .count()
        };
        let before = groups();
        for n in 0..20 {
            let new = root(&node(), 11327, n, Origin::Empty);
            pool.create_dataset(&new).unwrap();
            fs::write(private(&pool, &new.name).join("f"), vec![1; 100_000]).unwrap();
            pool.bury(
                &burial_of_root(&pool, &node(), &new, 1),
                &PoolPath::grave("g"),
            )
            .unwrap();
            pool.reap(&condemned(&pool, &node(), &PoolPath::grave("g")))
                .unwrap();
        }
        assert_eq!(records(&pool, "marks"), 0);
        let last = root(&node(), 11327, 99, Origin::Empty);
        let settled = || {
            assert!(
                Command::new("btrfs")
                    .args(["filesystem", "sync"])
                    .arg(pool.path())
                    .status()
                    .unwrap()
                    .success()
            );
            pool.create_dataset(&last).unwrap();
            pool.bury(
                &burial_of_root(&pool, &node(), &last, 1),
                &PoolPath::grave("g"),
            )
            .unwrap();
            pool.reap(&condemned(&pool, &node(), &PoolPath::grave("g")))
                .unwrap();
            groups() <= before + 1
        };
        gone(settled, "the quota groups");
    });
}

#[test]
fn datasets_made_at_the_same_time_do_not_disturb_each_other() {
    alone(
        "datasets_made_at_the_same_time_do_not_disturb_each_other",
        |dir| {
            let pool = pool(dir);
            let base = data(100);
            pool.create_dataset(&base).unwrap();
            std::thread::scope(|scope| {
                for id in 101..109 {
                    let (pool, base) = (&pool, &base);
                    scope.spawn(move || {
                        for run in 0..10 {
                            let new = root(&node(), id, run, Origin::Clone(base.name.clone()));
                            pool.create_dataset(&new).unwrap();
                            let grave = PoolPath::grave(&format!("{id}-{run}"));
                            pool.bury(&burial_of_root(pool, &node(), &new, 1), &grave)
                                .unwrap();
                            pool.reap(&condemned(pool, &node(), &grave)).unwrap();
                        }
                    });
                }
                for _ in 0..50 {
                    let seen = pool.observe().unwrap().datasets;
                    assert!(
                        seen.contains_key(&base.name),
                        "a listing missed a dataset that was there all the time"
                    );
                    assert!(
                        seen.values()
                            .all(|one| matches!(one.mark, MarkSeen::Local(_))),
                        "{seen:?}"
                    );
                    assert_eq!(pool.clear_staging().unwrap(), Vec::<String>::new());
                }
            });
            assert_eq!(pool.observe().unwrap().datasets.len(), 1);
            assert_eq!(records(&pool, "marks"), 1);
        },
    );
}
