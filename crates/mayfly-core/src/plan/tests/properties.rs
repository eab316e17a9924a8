//! Properties of all plans, over random histories of a few VPSes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::hands::Hands;
use super::{dataset, id, mount, name, path, restart, run};
use crate::bytes::Bytes;
use crate::change::VpsChange;
use crate::documents::{Impermanence, Mount, OnCrash, Request, VpsDoc};
use crate::error::Code;
use crate::fake::StartFault;
use crate::features::{Feature, FeatureSeen, FeaturesChange, LimitsChange, Switches};
use crate::ids::{NodeId, VpsId};
use crate::observed::{Evidence, MarkSeen, Observed, Role};
use crate::plan::{Plan, Step, StepKind, Undo, free_range, mount_order, plan_vps};
use crate::ports::Runtime as _;
use crate::run::{IdRange, RunEnd};
use crate::template::RootKind;

#[derive(Clone, Debug)]
enum Move {
    Ask(Request),
    Crash,
    PowerOff,
    KillSupervisor,
    HostReboot,
    Write(&'static str),
    Fault(StartFault),
    Full(bool),
    RefuseLimits(bool),
    UseMemory(Bytes),
    Lack(Feature, bool),
}

fn requests() -> impl Strategy<Value = Request> {
    use proptest::option::of;
    let names = || prop_oneof![Just("srv"), Just("srv/data"), Just("nix"), Just("x")];
    let paths = || {
        prop_oneof![
            Just("/srv"),
            Just("/srv/a"),
            Just("/persistent"),
            Just("/nix"),
            Just("/srv/a/b")
        ]
    };
    let kind = prop_oneof![Just(RootKind::Empty), Just(RootKind::Template)];
    prop_oneof![
        3 => any::<u8>().prop_map(|n| Request::Start { run: run(n) }),
        2 => (any::<bool>(), any::<bool>())
            .prop_map(|(force, discard)| Request::Stop { timeout_ms: 60_000, force, discard }),
        2 => any::<u8>().prop_map(restart),
        1 => any::<bool>().prop_map(|now| Request::Destroy { now }),
        2 => (names(), proptest::option::of(paths())).prop_map(|(of, at)| dataset(of, 3, at)),
        1 => (names(), 1..40u64).prop_map(|(of, gib)| Request::DatasetSet { name: name(of), quota_bytes: Bytes::gib(gib) }),
        1 => (1..90u64).prop_map(|gib| Request::DatasetSet { name: name(""), quota_bytes: Bytes::gib(gib) }),
        1 => (names(), any::<bool>()).prop_map(|(of, force)| Request::DatasetDestroy { name: name(of), force }),
        1 => (names(), paths()).prop_map(|(of, at)| Request::MountAdd { mount: mount(of, at) }),
        1 => paths().prop_map(|at| Request::MountRemove { path: path(at) }),
        2 => changes().prop_map(|change| Request::Set { change }),
        3 => (proptest::option::of(proptest::option::of(kind)), switches(), of(1..4u64), any::<u8>())
            .prop_map(|(kind, switches, memory, n)| {
                let on = |root_kind| Impermanence { root_quota_bytes: Bytes::gib(2), root_kind };
                let limits = LimitsChange { memory_bytes: memory.map(Bytes::gib), ..LimitsChange::default() };
                let impermanence = kind.map(|kind| kind.map(on));
                Request::SetFeatures { change: FeaturesChange { impermanence, switches, limits }, run: run(n) }
            }),
    ]
}

fn switches() -> impl Strategy<Value = Switches> {
    let feature = proptest::sample::select(Feature::ALL.to_vec());
    proptest::collection::btree_map(feature, any::<bool>(), 0..3)
}

fn changes() -> impl Strategy<Value = VpsChange> {
    use proptest::option::of;
    let limits = (of(0..4u64), of(0..2u64), of(of(0..3u32)), of(10..20u32));
    let crash = of(prop_oneof![Just(OnCrash::Restart), Just(OnCrash::Stop)]);
    (limits, of(0..200u64), crash).prop_map(|((memory, swap, cpus, processes), disk, on_crash)| {
        VpsChange {
            memory_bytes: memory.map(Bytes::gib),
            swap_bytes: swap.map(Bytes::gib),
            cpu_percent: cpus.map(|cpus| cpus.map(|n| n * 50)),
            processes,
            disk_bytes: disk.map(Bytes::gib),
            on_crash,
            ..VpsChange::default()
        }
    })
}

fn moves() -> impl Strategy<Value = Vec<(u32, Move)>> {
    use StartFault::{EndsBeforeInit, Hangs, InitDies, LaunchFails};
    let faults = prop_oneof![
        Just(EndsBeforeInit),
        Just(Hangs),
        Just(InitDies),
        Just(LaunchFails)
    ];
    let one = prop_oneof![
        12 => requests().prop_map(Move::Ask),
        1 => Just(Move::Crash),
        1 => Just(Move::PowerOff),
        1 => Just(Move::KillSupervisor),
        1 => Just(Move::HostReboot),
        4 => prop_oneof![Just("/persistent/a"), Just("/srv/b"), Just("/nix/c"), Just("/d")].prop_map(Move::Write),
        2 => faults.prop_map(Move::Fault),
        1 => proptest::bool::weighted(0.3).prop_map(Move::Full),
        1 => any::<bool>().prop_map(Move::RefuseLimits),
        1 => (0..4u64).prop_map(|gib| Move::UseMemory(Bytes::gib(gib))),
        1 => (proptest::sample::select(Feature::ALL.to_vec()), any::<bool>()).prop_map(|(of, lacks)| Move::Lack(of, lacks)),
    ];
    proptest::collection::vec((100..103u32, one), 0..25)
}

fn scene() -> Hands {
    let mut hands = Hands::new();
    for (vps, template) in [
        (100, "debian-12"),
        (101, "debian-12-impermanence"),
        (102, "nixos-shaped"),
    ] {
        hands.create(id(vps), template, None);
    }
    hands
}

/// Does a move. A refusal is an answer like another; the end of a run is settled, and the VPS left stopped.
fn play(hands: &mut Hands, vps: VpsId, this: &Move) {
    let host = hands.host.clone();
    let alive = host.is_running(vps);
    match this {
        Move::Write(at) => drop(host.guest_write(vps, at, "precious").ok()),
        Move::Fault(fault) => host.fail_start(vps, *fault),
        Move::Full(full) => host.pool_full(*full),
        Move::RefuseLimits(refuse) => host.refuse_limits(vps, *refuse),
        Move::UseMemory(used) if alive => {
            // No more than its limit.
            let most = host.limits_of(vps).and_then(|limits| limits.memory_bytes);
            host.use_memory(vps, most.map_or(*used, |most| most.min(*used)));
        }
        Move::Lack(feature, lacks) => {
            let seen = if *lacks {
                FeatureSeen::NoDriver
            } else {
                FeatureSeen::Usable
            };
            host.set_feature(*feature, seen);
        }
        Move::HostReboot => hands.host = host.reboot(),
        Move::Ask(request) if hands.vpses.contains_key(&vps) => drop(hands.ask(vps, request)),
        Move::Crash if alive => host.guest_crash(vps),
        Move::PowerOff if alive => host.guest_poweroff(vps),
        Move::KillSupervisor if alive => host.kill_supervisor(vps),
        _ => {}
    }
    for doc in hands.docs() {
        if let Some(current) = &doc.run {
            let supervised = |e: &Evidence| matches!(e, Evidence::Supervisor { .. });
            if !hands.host.evidence(doc.id).unwrap().iter().any(supervised) {
                let end = RunEnd::Crashed {
                    detail: String::new(),
                };
                let ended = Request::RunEnded {
                    run: current.run.clone(),
                    end,
                    next: run(0),
                    boot_ms: 1,
                };
                hands.ask(doc.id, &ended).unwrap();
                let again = hands.plan(doc.id, &ended).unwrap();
                assert_eq!(again, Plan::default(), "the end of a run is settled once");
            }
        }
    }
}

/// What must hold of a plan, whatever was asked.
fn check_plan(request: &Request, doc: &VpsDoc, seen: &Observed, plan: &Plan) {
    let confirmed = matches!(
        request,
        Request::Destroy { .. } | Request::DatasetDestroy { .. }
    );
    let mut ended = !seen.is_alive();
    let mut lives = false;
    for planned in &plan.steps {
        ended |= planned.step.kind() == StepKind::EndRun;
        lives |= planned.step.kind() == StepKind::AwaitInit;
        match &planned.step {
            Step::BuryData {
                dataset,
                incarnation,
                ..
            } => {
                assert!(confirmed, "{request:?} gives up {dataset}");
                check_mark(seen, dataset, doc, Role::Persistent);
                // A guest that runs may go on without a dataset that it does not show.
                let shown = doc
                    .mounts
                    .iter()
                    .any(|m| doc.pool_path(&m.dataset) == *dataset);
                let may_run = matches!(request, Request::DatasetDestroy { .. }) && !shown;
                assert!((ended || may_run) && *incarnation == doc.incarnation);
            }
            Step::BuryRoot {
                root, incarnation, ..
            } => {
                check_mark(seen, root, doc, Role::Temporary);
                assert!(ended && *incarnation == doc.incarnation);
                let discarded = matches!(request, Request::Stop { discard: true, .. });
                assert!(
                    lives || discarded || confirmed,
                    "{request:?} gives up {root} before the next one lives"
                );
                let launched = plan.steps.iter().find_map(|p| match &p.step {
                    Step::Launch { launch } => Some(&launch.root),
                    _ => None,
                });
                assert_ne!(launched, Some(root));
            }
            _ => {}
        }
        // The undo may give up what this very plan made, and nothing else.
        if let Undo::Step(undo) = &planned.undo {
            let gives_up = match &**undo {
                Step::BuryData { dataset, .. } => Some(dataset),
                Step::BuryRoot { root, .. } => Some(root),
                _ => None,
            };
            if let Some(gone) = gives_up {
                assert!(matches!(&planned.step, Step::CreateDataset { new } if new.name == *gone));
                assert!(
                    !seen.pool.datasets.contains_key(gone),
                    "the undo would give up {gone}, which was there before"
                );
            }
        }
    }
}

fn check_mark(seen: &Observed, name: &crate::names::PoolPath, doc: &VpsDoc, role: Role) {
    match &seen.pool.datasets[name].mark {
        MarkSeen::Local(mark) => {
            assert_eq!((mark.role, &mark.made_as), (role, name));
            assert_eq!(mark.owner, Some((doc.id, doc.incarnation.clone())));
        }
        other => panic!("{name} with {other:?} is given up"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// After any history: no catastrophe, no persistent data lost, nothing left over once the reaper was there.
    #[test]
    fn no_history_loses_data_or_leaves_remains(history in moves()) {
        let mut hands = scene();
        for (vps, one) in &history {
            play(&mut hands, id(*vps), one);
            hands.host.assert_no_catastrophe();
            hands.host.assert_persistent_data_intact();
        }
        hands.assert_sound();
    }

    /// Every plan is safe on its face, equal when made again, and does not depend on the order of what was seen.
    #[test]
    fn plans_are_safe_and_equal(history in moves(), asked in proptest::collection::vec((100..103u32, requests()), 8)) {
        let mut hands = scene();
        for (vps, one) in &history {
            play(&mut hands, id(*vps), one);
        }
        for (vps, request) in &asked {
            let Some(doc) = hands.vpses.get(&id(*vps)) else { continue };
            let seen = hands.observe(request, doc).unwrap();
            let plan = plan_vps(request, doc, &seen, &hands.context());
            prop_assert_eq!(&plan, &plan_vps(request, doc, &seen, &hands.context()));
            let mut turned = seen.clone();
            turned.evidence.reverse();
            turned.pool.datasets = seen.pool.datasets.clone().into_iter().rev().collect();
            prop_assert_eq!(&plan, &plan_vps(request, doc, &turned, &hands.context()));
            if let Ok(plan) = plan {
                check_plan(request, doc, &seen, &plan);
            }
        }
    }

    /// Whatever marks are not ours, no plan gives anything up by them; the host is asked, and refuses as well.
    #[test]
    fn foreign_marks_are_never_given_up(
        history in moves(),
        asked in proptest::collection::vec((100..103u32, requests()), 6),
        spoilt in proptest::collection::vec((any::<proptest::sample::Index>(), 0..4u8), 1..4),
    ) {
        let mut hands = scene();
        for (vps, one) in &history {
            play(&mut hands, id(*vps), one);
        }
        let mut kept = BTreeSet::new();
        for (which, how) in &spoilt {
            let names = hands.host.datasets();
            let victim = which.get(&names).clone();
            let Some(MarkSeen::Local(mut mark)) = hands.host.mark(&victim) else { continue };
            hands.host.set_mark(&victim, match how {
                0 => MarkSeen::Unset,
                1 => MarkSeen::NotLocal,
                2 => MarkSeen::Unreadable("EIO".into()),
                _ => {
                    mark.node = crate::ids::NodeId::from_random([7; 8]);
                    MarkSeen::Local(mark)
                }
            });
            kept.insert(victim);
        }
        for (vps, request) in &asked {
            let vps = id(*vps);
            let Some(doc) = hands.vpses.get(&vps).cloned() else { continue };
            let Ok(seen) = hands.observe(request, &doc) else { continue };
            let Ok(plan) = plan_vps(request, &doc, &seen, &hands.context()) else { continue };
            for planned in &plan.steps {
                if let Step::BuryRoot { root: gone, .. } | Step::BuryData { dataset: gone, .. } = &planned.step {
                    // A root that the document names is asked for by name; its mark is for the executor to prove.
                    let named = doc.last_root.as_ref() == Some(gone) || doc.run.as_ref().is_some_and(|r| r.root == *gone);
                    let by_name = matches!(request, Request::Stop { .. } | Request::DatasetDestroy { .. });
                    prop_assert!(!kept.contains(gone) || named || by_name);
                }
                let done = hands.perform(&planned.step);
                if done.is_err() { break; }
            }
        }
        let there: BTreeSet<_> = hands.host.datasets().into_iter().collect();
        for one in &kept {
            prop_assert!(there.contains(one), "{} is gone", one);
        }
    }

    /// Each step done twice has the effect of once.
    #[test]
    fn each_step_twice_is_the_same_as_once(history in moves()) {
        let (mut once, mut twice) = (scene(), scene());
        twice.twice = true;
        for (vps, one) in &history {
            play(&mut once, id(*vps), one);
            play(&mut twice, id(*vps), one);
            prop_assert_eq!(once.picture(), twice.picture());
        }
    }

    /// What was asked for and done is done: asked again, it is refused or changes no dataset.
    #[test]
    fn planning_after_the_deed_destroys_nothing_more(history in moves(), vps in 100..103u32, request in requests()) {
        let mut hands = scene();
        for (vps, one) in &history {
            play(&mut hands, id(*vps), one);
        }
        let vps = id(vps);
        if !hands.vpses.contains_key(&vps) || hands.ask(vps, &request).is_err() || !hands.vpses.contains_key(&vps) {
            return Ok(());
        }
        match hands.plan(vps, &request) {
            Err(refusal) => prop_assert_ne!(refusal.code, Code::Internal),
            Ok(plan) => {
                let gone = plan.steps.iter().any(|p| p.step.kind() == StepKind::BuryData);
                prop_assert!(!gone, "{:?} gives up data a second time", request);
            }
        }
    }

    /// A change of settings is done or it is not; done, it is recorded and holds, and there is nothing left to do.
    #[test]
    fn settings_are_changed_together_or_not_at_all(history in moves(), vps in 100..103u32, change in changes()) {
        let mut hands = scene();
        for (vps, one) in &history {
            play(&mut hands, id(*vps), one);
        }
        let vps = id(vps);
        let Some(before) = hands.vpses.get(&vps).cloned() else { return Ok(()) };
        let request = Request::Set { change: change.clone() };
        let held = hands.host.limits_of(vps);
        let want = match hands.ask(vps, &request) {
            Ok(_) => {
                prop_assert_eq!(hands.plan(vps, &request).unwrap(), Plan::default());
                change.of(&before)
            }
            Err(_) => {
                prop_assert_eq!(hands.host.limits_of(vps), held);
                before
            }
        };
        prop_assert_eq!(hands.doc(vps), &want);
        prop_assert!(hands.host.limits_of(vps).is_none_or(|held| held == want.limits));
        hands.assert_sound();
    }

    #[test]
    fn ranges_of_host_ids_never_overlap(
        taken in proptest::collection::vec((0..60u32, -1..=1i32, 0..3u32, -1..=1i32), 0..20),
        many in 1..50usize,
    ) {
        // Around the borders of the ranges, where a mistake by one shows.
        let near = |n: u32, off: i32| (n * IdRange::SIZE).saturating_add_signed(off);
        let mut taken: Vec<_> = taken
            .into_iter()
            .map(|(first, a, count, b)| IdRange { first: near(first, a), count: near(count, b) })
            .collect();
        for _ in 0..many {
            let node = NodeId::from_random([0; 8]);
            let range = free_range(&taken, &node).expect("sixty of eight thousand are taken");
            let end = |r: &IdRange| u64::from(r.first) + u64::from(r.count);
            for other in &taken {
                let apart = end(&range) <= u64::from(other.first) || end(other) <= u64::from(range.first);
                prop_assert!(apart || other.count == 0, "{range:?} and {other:?}");
            }
            taken.push(range);
        }
    }

    #[test]
    fn mounts_are_ordered_parents_first(paths in proptest::collection::btree_set("(/[ab.-]{1,2}[a-z]){1,4}", 0..12)) {
        let mounts: Vec<Mount> = paths.iter().rev().map(|at| mount("", at)).collect();
        let order = mount_order(&mounts);
        prop_assert_eq!(order.len(), mounts.len());
        for (at, one) in order.iter().enumerate() {
            for later in &order[at + 1..] {
                prop_assert_eq!(one.path.below(&later.path), None, "{} comes before {}", one.path, later.path);
            }
        }
    }
}
