//! The btrfs driver on trees that guests own, where the conformance suite cannot look; templates and their clones.
#![allow(
    clippy::disallowed_methods,
    reason = "a test drives the host with its own tools"
)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "common/alone.rs"]
mod alone;
#[path = "common/scratch_pool.rs"]
mod scratch;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use mayfly_core::bytes::Bytes;
use mayfly_core::conformance::given::{at, persistent, root};
use mayfly_core::error::Code;
use mayfly_core::names::{PoolPath, TemplateName, TemplatePart};
use mayfly_core::observed::MarkSeen;
use mayfly_core::ports::{HostError, Origin, Outcome, Storage, TreePlan};
use mayfly_host::storage::TemplatePool as _;
use scratch::{alone, build_template, data, digest, node, pool, private, records};

#[test]
fn what_a_guest_points_to_outside_is_never_touched() {
    alone("what_a_guest_points_to_outside_is_never_touched", |dir| {
        let pool = pool(dir);
        let new = data(11327);
        pool.create_dataset(&new).unwrap();
        let tree = private(&pool, &new.name);
        let outside = dir.join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, tree.join("absolute")).unwrap();
        symlink("../../../../outside", tree.join("relative")).unwrap();
        for name in ["absolute", "relative"] {
            let plans = [
                TreePlan {
                    directories: vec![at(&format!("/{name}/a/b"))],
                    ..TreePlan::default()
                },
                TreePlan {
                    files: vec![(at(&format!("/{name}/f")), "x".into())],
                    ..TreePlan::default()
                },
            ];
            for plan in plans {
                let Err(HostError::Refused(refusal)) = pool.prepare_tree(&new.name, &plan) else {
                    panic!("{plan:?}")
                };
                assert_eq!(refusal.code, Code::MountPointRefused);
                let said = format!("/{name} is a symlink");
                assert!(refusal.message.contains(&said), "{}", refusal.message);
            }
        }
        let plan = TreePlan {
            files: vec![(at("/absolute"), "new".into())],
            ..TreePlan::default()
        };
        assert_eq!(pool.prepare_tree(&new.name, &plan), Ok(Outcome::Changed));
        let seen = fs::symlink_metadata(tree.join("absolute")).unwrap();
        assert!(seen.is_file() && seen.mode() & 0o7777 == 0o644);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
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
