//! Reinstall: which datasets change places with what, what stays, and that an undo, or a failure, leaves what was before.

use super::hands::Hands;
use super::{dataset, id, name, run, start, stop};
use crate::bytes::Bytes;
use crate::documents::{ReinstallScope, Replaced, Request, VpsDoc};
use crate::error::Code;
use crate::fake::{COPIED, StartFault};
use crate::names::PoolPath;
use crate::plan::{Step, Undo};

pub(super) const VPS: u32 = 11327;

pub(super) fn reinstall(template: &str, scope: Option<ReinstallScope>, n: u8) -> Request {
    Request::Reinstall {
        template: template.parse().unwrap(),
        scope,
        run: run(n),
        boot_ms: 1000,
    }
}

/// The undo of the last reinstall.
pub(super) fn undo(hands: &Hands, n: u8) -> Request {
    let last = hands.doc(id(VPS)).replaced.last();
    let by = last.map_or_else(|| "0".repeat(20).parse().unwrap(), |entry| entry.by.clone());
    Request::ReinstallUndo {
        by,
        force: false,
        run: run(n),
    }
}

/// A VPS that runs, with a subdataset and something dear in each dataset.
fn lives(template: &str) -> Hands {
    lives_on(Hands::new(), template)
}

/// The same on a host of the test's choice.
pub(super) fn lives_on(mut hands: Hands, template: &str) -> Hands {
    hands.create(id(VPS), template, None);
    let shrink = Request::DatasetSet {
        name: name(""),
        quota_bytes: Bytes::gib(10),
    };
    hands.ask(id(VPS), &shrink).unwrap();
    hands
        .ask(id(VPS), &dataset("data", 2, Some("/srv/data")))
        .unwrap();
    hands.ask(id(VPS), &start(1)).unwrap();
    let kept = match template {
        "debian-12" => "/srv/kept",
        _ => "/persistent/kept",
    };
    for path in [kept, "/srv/data/kept"] {
        hands.host.guest_write(id(VPS), path, "dear").unwrap();
    }
    hands
}

fn pool(name: &str) -> PoolPath {
    PoolPath::from_pool(name).unwrap()
}

fn read(hands: &Hands, name: &str, path: &str) -> Option<String> {
    hands.host.read(&pool(name), path)
}

fn exchanged(plan: &crate::plan::Plan) -> Vec<String> {
    let of = |step: &Step| match step {
        Step::Exchange { dataset, .. } => Some(dataset.to_string()),
        _ => None,
    };
    plan.steps.iter().filter_map(|p| of(&p.step)).collect()
}

pub(super) fn entry(hands: &Hands) -> Replaced {
    hands.doc(id(VPS)).replaced.last().unwrap().clone()
}

/// The document without its run.
fn at_rest(doc: &VpsDoc) -> VpsDoc {
    doc.lasting()
}

#[test]
fn a_persistent_root_is_replaced_and_all_else_stays() {
    for twice in [false, true] {
        let mut hands = lives("debian-12");
        hands.twice = twice;
        let before = hands.doc(id(VPS)).clone();
        let used = hands.host.clone();
        let plan = hands
            .ask(id(VPS), &reinstall("debian-12", None, 2))
            .unwrap();
        assert_eq!(exchanged(&plan), ["11327"]);
        hands.assert_sound();
        let after = hands.doc(id(VPS)).clone();
        assert_eq!(after.run.as_ref().unwrap().run, run(2));
        let kept = entry(&hands);
        assert_eq!(kept.scope, ReinstallScope::Os);
        let aside = kept.datasets[0].aside.clone();
        assert_eq!(read(&hands, "11327", "/srv/kept"), None);
        assert_eq!(used.read(&aside, "/srv/kept").as_deref(), Some("dear"));
        assert_eq!(read(&hands, "11327/data", "/kept").as_deref(), Some("dear"));
        let machine = read(&hands, "11327", "/etc/machine-id").unwrap();
        assert_eq!(machine.trim(), after.incarnation.to_string());
        let same = VpsDoc {
            replaced: Vec::new(),
            ..at_rest(&after)
        };
        assert_eq!(same, at_rest(&before));

        hands.host.guest_write(id(VPS), "/srv/kept", "new").unwrap();
        hands.ask(id(VPS), &undo(&hands, 3)).unwrap();
        hands.assert_sound();
        assert_eq!(read(&hands, "11327", "/srv/kept").as_deref(), Some("dear"));
        assert_eq!(at_rest(hands.doc(id(VPS))), at_rest(&before));
        assert!(hands.host.is_running(id(VPS)));
        assert_eq!(
            hands.ask(id(VPS), &undo(&hands, 4)).unwrap_err().code,
            Code::Invalid
        );
    }
}

#[test]
fn each_scope_replaces_what_it_says() {
    use ReinstallScope::{All, Data, Os};
    let cases: [(&str, ReinstallScope, &[&str]); 6] = [
        ("debian-12-impermanence", Os, &[]),
        ("debian-12-impermanence", Data, &["11327"]),
        ("debian-12-impermanence", All, &["11327"]),
        ("nixos-shaped", Os, &["11327/nix"]),
        ("nixos-shaped", Data, &["11327"]),
        ("nixos-shaped", All, &["11327", "11327/nix"]),
    ];
    for (template, scope, want) in cases {
        for runs in [true, false] {
            let mut hands = lives(template);
            if !runs {
                hands.ask(id(VPS), &stop()).unwrap();
            }
            let plan = hands
                .ask(id(VPS), &reinstall(template, Some(scope), 2))
                .unwrap();
            assert_eq!(exchanged(&plan), want, "{template} {scope}");
            hands.assert_sound();
            assert_eq!(hands.host.is_running(id(VPS)), runs);
            let kept = read(&hands, "11327", "/kept");
            assert_eq!(kept.is_none(), scope != Os, "{template} {scope}");
            // What was owed to the storage is in the contents that it was written for.
            assert_eq!(read(&hands, "11327/data", "/kept").as_deref(), Some("dear"));
            if template == "nixos-shaped" && scope != Os {
                assert!(read(&hands, "11327", "/etc/nixos/flake.nix").is_some());
            }
            hands.ask(id(VPS), &undo(&hands, 3)).unwrap();
            hands.assert_sound();
            assert_eq!(hands.host.is_running(id(VPS)), runs);
            assert_eq!(read(&hands, "11327", "/kept").as_deref(), Some("dear"));
        }
    }
}

#[test]
fn an_impermanent_vps_is_told_what_each_scope_would_take() {
    let hands = lives("nixos-shaped");
    let refusal = hands
        .plan(id(VPS), &reinstall("nixos-shaped", None, 2))
        .unwrap_err();
    assert_eq!(refusal.code, Code::Invalid);
    for word in ["os: ", "in 11327/nix", "data: ", "in 11327", "all: "] {
        assert!(
            refusal.message.contains(word),
            "{word}: {}",
            refusal.message
        );
    }
    let hands = lives("debian-12");
    for scope in [ReinstallScope::Data, ReinstallScope::All] {
        let refusal = hands
            .plan(id(VPS), &reinstall("debian-12", Some(scope), 2))
            .unwrap_err();
        assert_eq!(refusal.code, Code::Invalid);
    }
}

#[test]
fn what_would_not_boot_or_fit_is_refused_before_the_first_step() {
    let refused = |template: &str, with: &str, scope| {
        let hands = lives(template);
        let before = hands.picture();
        let refusal = hands.plan(id(VPS), &reinstall(with, scope, 2)).unwrap_err();
        assert_eq!(hands.picture(), before);
        refusal.code
    };
    let os = Some(ReinstallScope::Os);
    assert_eq!(
        refused("debian-12", "nixos-shaped", None),
        Code::TemplateUnfit
    );
    assert_eq!(refused("debian-12", "none", None), Code::TemplateNotFound);
    assert_eq!(
        refused("debian-12-impermanence", "nixos-shaped", os),
        Code::TemplateUnfit
    );
    assert_eq!(
        refused("nixos-shaped", "debian-12", os),
        Code::TemplateUnfit
    );
}

#[test]
fn a_reinstall_that_does_not_start_leaves_the_vps_as_it_was() {
    for (template, scope) in [
        ("debian-12", None),
        ("nixos-shaped", Some(ReinstallScope::All)),
    ] {
        let mut hands = lives(template);
        let before = hands.doc(id(VPS)).lasting();
        hands.host.fail_start(id(VPS), StartFault::InitDies);
        hands
            .ask(id(VPS), &reinstall(template, scope, 2))
            .unwrap_err();
        hands.assert_sound();
        assert_eq!(hands.doc(id(VPS)).lasting(), before);
        hands.ask(id(VPS), &start(3)).unwrap();
        assert_eq!(
            hands.host.guest_read(id(VPS), "/srv/data/kept").as_deref(),
            Some("dear")
        );
        hands.assert_sound();
    }
}

#[test]
fn reinstalls_are_undone_one_by_one_and_destroyed_with_the_vps() {
    let mut hands = lives("debian-12");
    hands
        .ask(id(VPS), &reinstall("debian-12", None, 2))
        .unwrap();
    hands
        .host
        .guest_write(id(VPS), "/srv/kept", "second")
        .unwrap();
    hands
        .ask(id(VPS), &reinstall("debian-12", None, 3))
        .unwrap();
    hands.assert_sound();
    assert_eq!(hands.doc(id(VPS)).replaced.len(), 2);
    hands.ask(id(VPS), &undo(&hands, 4)).unwrap();
    assert_eq!(
        read(&hands, "11327", "/srv/kept").as_deref(),
        Some("second")
    );
    hands.ask(id(VPS), &undo(&hands, 5)).unwrap();
    assert_eq!(read(&hands, "11327", "/srv/kept").as_deref(), Some("dear"));
    hands
        .ask(id(VPS), &reinstall("debian-12", None, 6))
        .unwrap();
    hands.ask(id(VPS), &Request::Destroy { now: true }).unwrap();
    hands.assert_sound();
    let left = hands.host.datasets();
    assert!(
        left.iter()
            .all(|name| name.as_str().starts_with("templates/")),
        "{left:?}"
    );
}

#[test]
fn what_was_put_aside_takes_no_disk_space_and_counts_in_the_pool() {
    let mut hands = lives("debian-12");
    hands.ask(id(VPS), &stop()).unwrap();
    let plan = hands
        .ask(id(VPS), &reinstall("debian-12", None, 2))
        .unwrap();
    assert!(!plan.steps.is_empty());
    let pool = crate::ports::Storage::observe(&hands.host).unwrap();
    let used = entry(&hands).datasets[0].aside.clone();
    let used = pool.datasets[&used].used.unwrap();
    let quotas = crate::space::total(&hands.doc(id(VPS)).datasets);
    assert_eq!(crate::plan::promised(&pool), quotas.saturating_add(used));
}

#[test]
fn former_contents_go_after_their_days_of_a_running_host_and_not_after_a_jump() {
    let mut hands = lives("debian-12");
    hands
        .ask(id(VPS), &reinstall("debian-12", None, 2))
        .unwrap();
    let age = |boot_ms| Request::ReplacedAge { boot_ms };
    // The clock of the wall does not count, whatever it says.
    hands.host.set_unix_ms(9_000_000_000_000);
    for day in 1..7 {
        let now = 1000 + day * Replaced::DAY_MS;
        hands.ask(id(VPS), &age(now)).unwrap();
        assert_eq!(entry(&hands).kept_ms, day * Replaced::DAY_MS);
    }
    hands
        .ask(id(VPS), &age(1000 + Replaced::KEPT_MS - 1))
        .unwrap();
    let aside = entry(&hands).datasets[0].aside.clone();
    hands.assert_sound();
    // It runs, and goes on running.
    hands.ask(id(VPS), &age(1000 + Replaced::KEPT_MS)).unwrap();
    assert!(hands.host.is_running(id(VPS)));
    assert!(hands.doc(id(VPS)).replaced.is_empty());
    assert!(!hands.host.datasets().contains(&aside));
    hands.assert_sound();
}

#[test]
fn days_are_counted_by_a_clock_that_does_not_jump() {
    let mut hands = lives("debian-12");
    hands
        .ask(id(VPS), &reinstall("debian-12", None, 2))
        .unwrap();
    let one = entry(&hands);
    let boot = one.counted_boot_id.clone();
    assert!(!one.is_due(&boot, 1000 + Replaced::DAY_MS - 1));
    assert!(one.is_due(&boot, 1000 + Replaced::DAY_MS));
    assert!(one.is_due("another boot", 1));
    assert_eq!(one.kept_by("another boot", u64::MAX), 0);
}

#[test]
fn an_undo_needs_room_and_the_same_kind_of_roots() {
    let mut hands = lives("debian-12-impermanence");
    hands.host.guest_write(id(VPS), COPIED, "owed").unwrap();
    hands
        .ask(
            id(VPS),
            &reinstall("debian-12-impermanence", Some(ReinstallScope::Data), 2),
        )
        .unwrap();
    hands.vpses.get_mut(&id(VPS)).unwrap().impermanence = None;
    let refusal = hands.plan(id(VPS), &undo(&hands, 3)).unwrap_err();
    assert!(refusal.hint.contains("feature set"), "{refusal:?}");
}

#[test]
fn a_failure_of_any_step_leaves_what_was_there() {
    for undoes in [false, true] {
        for at in 0.. {
            let mut hands = lives("debian-12");
            hands.ask(id(VPS), &stop()).unwrap();
            if undoes {
                hands
                    .ask(id(VPS), &reinstall("debian-12", None, 2))
                    .unwrap();
            }
            hands.assert_sound();
            let before = hands.picture();
            let request = match undoes {
                true => undo(&hands, 3),
                false => reinstall("debian-12", None, 3),
            };
            let plan = hands.plan(id(VPS), &request).unwrap();
            let Some(step) = plan.steps.get(at) else {
                break;
            };
            if step.undo == Undo::Housekeeping {
                continue;
            }
            hands.fails_at = Some(at);
            hands.ask(id(VPS), &request).unwrap_err();
            hands.fails_at = None;
            hands.assert_sound();
            assert_eq!(hands.picture(), before, "after {}", step.step);
        }
    }
}
