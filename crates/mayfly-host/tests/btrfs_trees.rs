//! The btrfs driver on trees that guests own: nothing planted is followed; templates and their clones.
#![allow(
    clippy::disallowed_methods,
    reason = "a test drives the host with its own tools"
)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "common/storage_contract.rs"]
mod contract;
#[path = "common/scratch_pool.rs"]
mod scratch;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use contract::{at, code, persistent, root};
use mayfly_core::bytes::Bytes;
use mayfly_core::error::Code;
use mayfly_core::names::{PoolPath, TemplateName, TemplatePart};
use mayfly_core::observed::{InitSeen, MarkSeen};
use mayfly_core::ports::{Assembly, HostError, Origin, Outcome, Storage, TreePlan};
use mayfly_host::storage::TemplatePool as _;
use scratch::{alone, build_template, data, digest, node, pool, private, records};

#[test]
fn what_a_guest_planted_is_never_followed() {
    alone("what_a_guest_planted_is_never_followed", |dir| {
        let pool = pool(dir);
        let new = data(11327);
        pool.create_dataset(&new).unwrap();
        let tree = private(&pool, &new.name);
        let outside = dir.join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, tree.join("absolute")).unwrap();
        symlink("../../../../outside", tree.join("relative")).unwrap();
        symlink("/proc/1/root", tree.join("magic")).unwrap();
        symlink("loop", tree.join("loop")).unwrap();
        fs::write(tree.join("file"), "x").unwrap();
        let made = |args: &[&str]| {
            Command::new("mknod")
                .arg(tree.join(args[0]))
                .args(&args[1..])
                .status()
                .unwrap()
        };
        assert!(made(&["fifo", "p"]).success() && made(&["device", "c", "1", "3"]).success());
        for name in [
            "absolute", "relative", "magic", "loop", "file", "fifo", "device",
        ] {
            for path in [format!("/{name}"), format!("/{name}/a/b")] {
                let plan = TreePlan {
                    directories: vec![at(&path)],
                    ..TreePlan::default()
                };
                let Err(HostError::Refused(refusal)) = pool.prepare_tree(&new.name, &plan) else {
                    panic!("{path}")
                };
                assert_eq!(refusal.code, Code::MountPointRefused);
                assert!(
                    refusal.message.contains(&format!("/{name} is a")),
                    "{}",
                    refusal.message
                );
            }
            let plan = TreePlan {
                files: vec![(at(&format!("/{name}/f")), "x".into())],
                ..TreePlan::default()
            };
            assert_eq!(
                code(pool.prepare_tree(&new.name, &plan)),
                Code::MountPointRefused
            );
            let plan = TreePlan {
                links: vec![(at(&format!("/{name}")), "x".into())],
                ..TreePlan::default()
            };
            assert_eq!(pool.prepare_tree(&new.name, &plan), Ok(Outcome::Unchanged));
        }
        // A file takes the place of a link, a FIFO, a device; what those pointed to stays as it was.
        for name in ["absolute", "fifo", "device"] {
            let plan = TreePlan {
                files: vec![(at(&format!("/{name}")), "new".into())],
                ..TreePlan::default()
            };
            assert_eq!(pool.prepare_tree(&new.name, &plan), Ok(Outcome::Changed));
            let seen = fs::symlink_metadata(tree.join(name)).unwrap();
            assert!(seen.is_file() && seen.mode() & 0o7777 == 0o644);
        }
        fs::create_dir(tree.join("dir")).unwrap();
        let plan = TreePlan {
            files: vec![(at("/dir"), "new".into())],
            ..TreePlan::default()
        };
        assert_eq!(
            code(pool.prepare_tree(&new.name, &plan)),
            Code::MountPointRefused
        );
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        let made = fs::metadata(&tree).unwrap();
        assert_eq!(
            (made.uid(), made.gid(), made.mode() & 0o7777),
            (0, 0, 0o755)
        );
    });
}

#[test]
fn an_init_is_resolved_as_the_guest_would() {
    alone("an_init_is_resolved_as_the_guest_would", |dir| {
        let pool = pool(dir);
        let (root, nix) = (
            data(11327),
            persistent(&node(), 11327, "nix", Bytes::mib(64)),
        );
        pool.create_dataset(&root).unwrap();
        pool.create_dataset(&nix).unwrap();
        let (tree, store) = (private(&pool, &root.name), private(&pool, &nix.name));
        let executable = |path: PathBuf| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        executable(tree.join("usr/lib/systemd/systemd"));
        symlink("usr/sbin", tree.join("sbin")).unwrap();
        fs::create_dir(tree.join("usr/sbin")).unwrap();
        symlink(
            "../lib/systemd/../../../../usr/lib/systemd/systemd",
            tree.join("usr/sbin/init"),
        )
        .unwrap();
        symlink("loop2", tree.join("loop")).unwrap();
        symlink("/loop", tree.join("loop2")).unwrap();
        symlink("/etc/passwd", tree.join("absolute")).unwrap();
        symlink("/nix/store/init", tree.join("stored")).unwrap();
        symlink("/proc/self/root/etc/passwd", tree.join("magic")).unwrap();
        assert!(
            Command::new("mknod")
                .arg(tree.join("fifo"))
                .arg("p")
                .status()
                .unwrap()
                .success()
        );
        let bomb = (0..40).fold("x".to_owned(), |path, _| format!("bomb/{path}"));
        symlink(&bomb, tree.join("bomb")).unwrap();
        let whole = Assembly {
            root: Some(root.name.clone()),
            mounts: vec![
                (nix.name.clone(), at("/nix")),
                (nix.name.clone(), at("/srv/deep")),
            ],
        };
        let probe = |init: &str| pool.probe_init(&whole, &at(init)).unwrap();
        let missing = |path: &str| InitSeen::Missing {
            path: path.to_owned(),
        };
        assert_eq!(probe("/sbin/init"), InitSeen::Found);
        assert_eq!(probe("/stored"), missing("/nix/store"));
        executable(store.join("store/init"));
        assert_eq!(probe("/stored"), InitSeen::Found);
        assert_eq!(
            probe("/srv/deep/store/init"),
            InitSeen::Found,
            "a mount point that is not there yet"
        );
        assert_eq!(
            probe("/absolute"),
            missing("/etc"),
            "the host's own /etc was looked at"
        );
        assert_eq!(probe("/magic"), missing("/proc"));
        assert_eq!(probe("/none/at/all"), missing("/none"));
        for bad in ["/loop", "/fifo", "/fifo/x", "/bomb", "/usr", "/srv"] {
            assert!(
                matches!(probe(bad), InitSeen::NotExecutable { .. }),
                "{bad}: {:?}",
                probe(bad)
            );
        }
        executable(store.join("var/nix/profiles/system/init"));
        let empty = Assembly {
            root: None,
            mounts: vec![(nix.name.clone(), at("/nix"))],
        };
        assert_eq!(
            pool.probe_init(&empty, &at("/sbin/init")),
            Ok(InitSeen::Found)
        );
        assert!(
            pool.probe_init(
                &Assembly {
                    root: Some(PoolPath::grave("x")),
                    mounts: vec![]
                },
                &at("/x")
            )
            .is_err()
        );
    });
}

#[test]
fn a_template_appears_whole_and_its_clones_have_no_stubs() {
    alone(
        "a_template_appears_whole_and_its_clones_have_no_stubs",
        |dir| {
            let pool = pool(dir);
            let name: TemplateName = "debian-12".parse().unwrap();
            drop(pool.begin_template(&name).unwrap());
            assert_eq!(
                (records(&pool, "intents"), records(&pool, "staging")),
                (0, 0)
            );
            assert_eq!(build_template(&pool), Ok(Outcome::Changed));
            assert_eq!(build_template(&pool), Ok(Outcome::Unchanged));
            assert_eq!(
                (
                    records(&pool, "marks"),
                    records(&pool, "intents"),
                    records(&pool, "staging")
                ),
                (3, 0, 0)
            );
            let base = PoolPath::template(&digest(), &TemplatePart::Base);
            let data = PoolPath::template(
                &digest(),
                &TemplatePart::Dataset("srv/data".parse().unwrap()),
            );
            assert!(
                matches!(pool.look(&data).unwrap().unwrap().mark, MarkSeen::Local(mark) if mark.made_as == data)
            );

            let clone = root(&node(), 11327, 1, Origin::Clone(base));
            pool.create_dataset(&clone).unwrap();
            let beside: Vec<_> = fs::read_dir(pool.path().join(clone.name.as_str()))
                .unwrap()
                .flatten()
                .collect();
            assert_eq!(beside.len(), 1, "{beside:?}");
            assert_eq!(
                fs::read_to_string(private(&pool, &clone.name).join("part")).unwrap(),
                "0"
            );
            let mut nested = persistent(&node(), 11327, "", Bytes::mib(64));
            nested.origin = Origin::Clone(data);
            pool.create_dataset(&nested).unwrap();
            assert_eq!(
                fs::read_to_string(private(&pool, &nested.name).join("part")).unwrap(),
                "2"
            );
        },
    );
}
