mod conformance;

use std::time::Duration;

use super::*;
use crate::error::Code;
use crate::ids::{Incarnation, OperationId, RunId};
use crate::names::DatasetName;
use crate::observed::{Evidence, Mark, MarkSeen, Role};
use crate::ports::{
    Cancel, Clock, NewDataset, Origin, Outcome, Runtime, Storage, Templates, TreePlan,
};
use crate::proof::{Burial, Condemned, ConfirmedDestroy, EphemeralRoot};
use crate::run::{IdRange, Limits, PROTOCOL, RunEnd, RunPhase, RunSpec};

fn vps() -> VpsId {
    11327.try_into().unwrap()
}

fn life() -> Incarnation {
    Incarnation::from_random([1; 16])
}

fn run(n: u8) -> RunId {
    RunId::from_random([n; 3])
}

fn operation() -> OperationId {
    OperationId::at(1, [0; 4])
}

fn new(host: &FakeHost, name: &PoolPath, role: Role, origin: Origin) -> NewDataset {
    let run = name.named_temporary_root().map(|(_, run)| run);
    let mark = Mark {
        node: host.node(),
        owner: Some((vps(), life())),
        role,
        run,
        made_as: name.clone(),
        condemned_by: None,
        unharvested: false,
        contents: None,
    };
    NewDataset {
        name: name.clone(),
        mark,
        quota: Some(Bytes::gib(1)),
        origin,
    }
}

fn data(host: &FakeHost) -> PoolPath {
    let name = PoolPath::dataset(vps(), &DatasetName::root());
    let debian = host.add_template("debian-12");
    let base = PoolPath::template(&debian.digest, &crate::names::TemplatePart::Base);
    host.create_dataset(&new(host, &name, Role::Persistent, Origin::Clone(base)))
        .unwrap();
    name
}

fn root(host: &FakeHost, n: u8) -> PoolPath {
    let debian = host.add_template("debian-12");
    let base = PoolPath::template(&debian.digest, &crate::names::TemplatePart::Base);
    let name = PoolPath::temporary_root(vps(), &run(n));
    host.create_dataset(&new(host, &name, Role::Temporary, Origin::Clone(base)))
        .unwrap();
    name
}

fn spec(host: &FakeHost, root: &PoolPath, n: u8) -> RunSpec {
    RunSpec {
        protocol: PROTOCOL,
        node: host.node(),
        vps: vps(),
        incarnation: life(),
        run: run(n),
        hostname: "web".parse().unwrap(),
        root: host.mount_source(root),
        mounts: Vec::new(),
        ids: IdRange {
            first: 1 << 20,
            count: IdRange::SIZE,
        },
        limits: Limits {
            memory_bytes: None,
            swap_bytes: Bytes(0),
            cpu_percent: None,
            processes: None,
        },
        features: crate::features::Features::new(),
        init: "/sbin/init".parse().unwrap(),
        halt_signal: 37,
        boot_report: serde_json::Value::Null,
        persistence: None,
        network: None,
        guest_helper: String::new(),
        console_dir: String::new(),
        detach: host.detach(),
    }
}

fn bury_blindly(host: &FakeHost, name: &PoolPath) -> HostResult<Outcome> {
    let mark = host.mark(name).unwrap();
    let proof = EphemeralRoot::prove(name, &mark, &host.node(), (vps(), &life()), &[]).unwrap();
    host.bury(&Burial::of_root(proof, operation()), &grave())
}

fn grave() -> PoolPath {
    PoolPath::grave("x")
}

fn reap(host: &FakeHost) -> HostResult<Outcome> {
    let proof = Condemned::prove(&grave(), &host.mark(&grave()).unwrap(), &host.node()).unwrap();
    host.reap(&proof)
}

#[test]
fn nothing_keeps_a_running_root_from_being_moved_but_it_is_noticed() {
    let host = FakeHost::new();
    let root = root(&host, 1);
    host.launch(&spec(&host, &root, 1)).unwrap();
    bury_blindly(&host, &root).unwrap();
    assert_eq!(host.catastrophes().len(), 1);
    // Whoever has it mounted goes on using it under its new name.
    host.guest_write(vps(), "/file", "still here").unwrap();
    assert_eq!(host.read(&grave(), "/file").as_deref(), Some("still here"));
    reap(&host).unwrap();
    assert_eq!(host.catastrophes().len(), 2);
}

#[test]
fn zfs_does_not_destroy_what_is_in_use_or_cloned_from() {
    let host = FakeHost::with(Backend::Zfs, Bytes::gib(10));
    let root = root(&host, 1);
    host.launch(&spec(&host, &root, 1)).unwrap();
    bury_blindly(&host, &root).unwrap();
    assert!(matches!(reap(&host), Err(HostError::Busy { .. })));
    host.guest_poweroff(vps());
    let debian = PoolPath::from_pool("templates/dededededededede").unwrap();
    let proof =
        ConfirmedDestroy::prove_template(&debian, &host.mark(&debian).unwrap(), &host.node())
            .unwrap();
    let other = PoolPath::grave("t");
    host.bury(&Burial::of_data(proof, operation()), &other)
        .unwrap();
    let template = Condemned::prove(&other, &host.mark(&other).unwrap(), &host.node()).unwrap();
    assert!(matches!(host.reap(&template), Err(HostError::Busy { .. })));
    reap(&host).unwrap();
    host.reap(&template).unwrap();
}

#[test]
fn space_comes_back_late() {
    let host = FakeHost::with(Backend::Btrfs, Bytes::gib(4));
    let root = root(&host, 1);
    let free = || host.observe().unwrap().free;
    let before = free();
    host.launch(&spec(&host, &root, 1)).unwrap();
    host.guest_fill(vps(), "/big", Bytes::mib(500)).unwrap();
    host.stop(vps(), &run(1), Duration::ZERO, true).unwrap();
    bury_blindly(&host, &root).unwrap();
    reap(&host).unwrap();
    assert_eq!(free(), before.saturating_sub(Bytes::mib(500)));
    host.advance(Duration::from_secs(31));
    assert_eq!(free(), before);
}

#[test]
fn quotas_count_what_was_written_here() {
    let host = FakeHost::new();
    let root = root(&host, 1);
    assert_eq!(
        host.look(&root).unwrap().unwrap().used,
        Some(Bytes(0)),
        "a clone's bytes are the template's"
    );
    host.launch(&spec(&host, &root, 1)).unwrap();
    host.guest_fill(vps(), "/big", Bytes::mib(900)).unwrap();
    assert_eq!(
        host.guest_fill(vps(), "/more", Bytes::mib(200)),
        Err(GuestError::QuotaExceeded)
    );
    let refused = host.set_quota(&root, Bytes::mib(500)).unwrap_err();
    assert!(matches!(refused, HostError::Refused(r) if r.code == Code::QuotaBelowUse));
    host.pool_full(true);
    assert_eq!(host.guest_write(vps(), "/x", "y"), Err(GuestError::NoSpace));
}

#[test]
fn a_second_run_is_refused_while_anything_lives() {
    let host = FakeHost::new();
    let (one, two) = (root(&host, 1), root(&host, 2));
    assert_eq!(
        host.launch(&spec(&host, &one, 1)).unwrap(),
        Outcome::Changed
    );
    assert_eq!(
        host.launch(&spec(&host, &one, 1)).unwrap(),
        Outcome::Unchanged
    );
    host.orphan(vps());
    let refused = host.launch(&spec(&host, &two, 2)).unwrap_err();
    assert!(matches!(refused, HostError::Refused(r) if r.code == Code::StillAlive));
    assert_eq!(host.state(vps(), &run(1)).unwrap(), None);
    host.sweep(vps()).unwrap();
    assert_eq!(host.evidence(vps()).unwrap(), []);
    host.launch(&spec(&host, &two, 2)).unwrap();
    host.assert_no_catastrophe();
}

#[test]
fn the_root_of_another_run_is_not_for_this_one() {
    let host = FakeHost::new();
    let root = root(&host, 1);
    host.launch(&spec(&host, &root, 1)).unwrap();
    host.guest_poweroff(vps());
    host.launch(&spec(&host, &root, 2)).unwrap();
    assert_eq!(host.catastrophes().len(), 1);
}

#[test]
fn a_killed_supervisor_leaves_its_guest_and_a_stale_record() {
    let host = FakeHost::new();
    let root = root(&host, 1);
    host.launch(&spec(&host, &root, 1)).unwrap();
    host.kill_supervisor(vps());
    assert!(matches!(
        host.next_end(Duration::ZERO),
        Some((_, _, RunEnd::Crashed { .. }))
    ));
    assert_eq!(
        host.state(vps(), &run(1)).unwrap().unwrap().phase,
        RunPhase::Running
    );
    let signs = host.evidence(vps()).unwrap();
    assert!(
        signs.iter().any(Evidence::is_alive)
            && !signs
                .iter()
                .any(|e| matches!(e, Evidence::Supervisor { .. }))
    );
    // There is nobody to ask; the sweep is what ends it.
    host.stop(vps(), &run(1), Duration::ZERO, true).unwrap();
    assert!(host.is_running(vps()));
    host.sweep(vps()).unwrap();
    assert!(!host.is_running(vps()));
}

#[test]
fn ends_are_told_once_and_to_those_who_watch() {
    let host = FakeHost::new();
    let root = root(&host, 1);
    host.launch(&spec(&host, &root, 1)).unwrap();
    host.kill_daemon();
    host.guest_reboot(vps());
    let next = host.restart_daemon();
    assert_eq!(next.next_end(Duration::ZERO), None);
    next.watch(vps(), &run(1)).unwrap();
    assert_eq!(
        next.next_end(Duration::ZERO),
        Some((vps(), run(1), RunEnd::Reboot))
    );
    assert_eq!(next.next_end(Duration::ZERO), None);
}

#[test]
fn a_dead_daemon_stays_dead() {
    let host = FakeHost::new().crash_after(1);
    let made = root_of(&host);
    assert!(host.crashed() && made.is_err());
    assert!(host.observe().is_err() && host.sweep(vps()).is_err());
    let next = host.restart_daemon();
    assert!(
        host.crashed() && host.observe().is_err(),
        "the old handle does not come to life again"
    );
    assert!(
        !next.crashed() && next.look(&name()).unwrap().is_some(),
        "the effect of the call is there"
    );
    let host = FakeHost::new().crash_before(1);
    assert!(root_of(&host).is_err());
    assert_eq!(host.restart_daemon().look(&name()).unwrap(), None);
}

fn name() -> PoolPath {
    PoolPath::temporary_root(vps(), &run(1))
}

fn root_of(host: &FakeHost) -> HostResult<Outcome> {
    host.create_dataset(&new(host, &name(), Role::Temporary, Origin::Empty))
}

#[test]
fn what_is_cut_off_half_way_is_finished_by_doing_it_again() {
    let host = FakeHost::new().crash_half_way(1);
    assert!(root_of(&host).is_err());
    let host = host.restart_daemon();
    assert_eq!(host.look(&name()).unwrap(), None);
    assert_eq!(host.orphans(&[]), [format!("staging/{}", name())]);
    root_of(&host).unwrap();
    host.crash_half_way(1);
    assert!(bury_blindly(&host, &name()).is_err());
    let host = host.restart_daemon();
    assert!(matches!(host.mark(&name()), Some(MarkSeen::Local(m)) if m.condemned_by.is_some()));
    bury_blindly(&host, &name()).unwrap();
    host.crash_half_way(1);
    assert!(reap(&host).is_err());
    let host = host.restart_daemon();
    reap(&host).unwrap();
    host.assert_no_orphans(&[]);
}

#[test]
fn a_power_cycle_ends_runs_and_nothing_else() {
    let host = FakeHost::new();
    let root = root(&host, 1);
    host.launch(&spec(&host, &root, 1)).unwrap();
    host.guest_write(vps(), "/file", "kept").unwrap();
    let (boot, at) = (host.boot_id(), host.boot_ms());
    let host = host.reboot();
    assert!(host.boot_id() != boot && host.boot_ms() < at);
    assert_eq!(
        (host.running(), host.state(vps(), &run(1)).unwrap()),
        (0, None)
    );
    assert_eq!(host.read(&root, "/file").as_deref(), Some("kept"));
    assert!(host.has_console(vps()));
}

#[test]
fn trees_are_prepared_without_following_what_a_guest_planted() {
    let host = FakeHost::new();
    let data = data(&host);
    host.plant_link(&data, "/srv", "/etc");
    let tree = |path: &str| TreePlan {
        directories: vec![path.parse().unwrap()],
        ..TreePlan::default()
    };
    for path in ["/srv", "/srv/x"] {
        let refused = host.prepare_tree(&data, &tree(path)).unwrap_err();
        assert!(
            matches!(refused, HostError::Refused(r) if r.code == Code::MountPointRefused),
            "{path}"
        );
    }
    assert_eq!(
        host.prepare_tree(&data, &tree("/new")).unwrap(),
        Outcome::Changed
    );
    assert_eq!(
        host.prepare_tree(&data, &tree("/new")).unwrap(),
        Outcome::Unchanged
    );
}

#[test]
fn data_that_is_gone_is_a_loss_unless_it_was_given_up_with_proof() {
    let host = FakeHost::new();
    let data = data(&host);
    host.plant(&data, "/home/me/letter", "dear");
    host.assert_persistent_data_intact();
    let proof = ConfirmedDestroy::prove(
        &data,
        &host.mark(&data).unwrap(),
        &host.node(),
        (vps(), &life()),
        &[],
    )
    .unwrap();
    host.world()
        .datasets
        .get_mut(&data)
        .unwrap()
        .tree
        .0
        .remove("/home/me/letter");
    assert_eq!(host.losses().len(), 1);
    host.bury(&Burial::of_data(proof, operation()), &grave())
        .unwrap();
    assert_eq!((host.losses().len(), host.given_up()), (0, vec![data]));
}

#[test]
fn a_burial_takes_nothing_along_that_is_not_of_the_same_owner() {
    let host = FakeHost::new();
    let data = data(&host);
    host.make_by_hand(&PoolPath::from_pool("11327/hand").unwrap());
    let proof = ConfirmedDestroy::prove(
        &data,
        &host.mark(&data).unwrap(),
        &host.node(),
        (vps(), &life()),
        &[],
    )
    .unwrap();
    let refused = host
        .bury(&Burial::of_data(proof, operation()), &grave())
        .unwrap_err();
    assert!(matches!(refused, HostError::Refused(r) if r.code == Code::NotOurs));
    let zfs = FakeHost::with(Backend::Zfs, Bytes::gib(10));
    let top = self::data(&zfs);
    let hand = PoolPath::from_pool("11327/hand").unwrap();
    zfs.make_by_hand(&hand);
    assert_eq!(
        zfs.mark(&hand),
        Some(MarkSeen::NotLocal),
        "below {top} it inherits"
    );
}

#[test]
fn looks_fail_where_the_test_says_so() {
    let host = FakeHost::new();
    let data = data(&host);
    host.fail_looks("dataset 11327");
    assert!(host.look(&data).is_err() && host.observe().is_ok());
    assert!(matches!(
        host.set_quota(&data, Bytes::gib(2)),
        Err(HostError::Look(_))
    ));
    host.heal_looks();
    host.fail_looks("");
    assert!(
        host.observe().is_err()
            && host.evidence(vps()).is_err()
            && host.vpses_with_evidence().is_err()
    );
}

#[test]
fn templates_are_built_whole_or_not_at_all() {
    let host = FakeHost::new().crash_half_way(1);
    assert!(
        host.build("nixos-shaped", None, &Cancel::default(), &mut |_| {})
            .is_err()
    );
    let host = host.restart_daemon();
    assert!(host.datasets().is_empty());
    let built = host
        .build("nixos-shaped", None, &Cancel::default(), &mut |_| {})
        .unwrap();
    assert_eq!(host.datasets().len(), 3);
    assert_eq!(
        host.build("nixos-shaped", None, &Cancel::default(), &mut |_| {})
            .unwrap(),
        built
    );
    assert!(
        host.build("unknown", None, &Cancel::default(), &mut |_| {})
            .is_err()
    );
}

#[test]
fn next_end_waits_no_longer_than_it_was_told() {
    let host = FakeHost::new();
    let root = root(&host, 1);
    host.launch(&spec(&host, &root, 1)).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(host.next_end(Duration::from_millis(20)), None);
    assert!(begun.elapsed() >= Duration::from_millis(20));
    let (killer, waiter) = (host.clone(), host);
    let waiting = std::thread::spawn(move || waiter.next_end(Duration::from_secs(60)));
    killer.guest_crash(vps());
    assert!(waiting.join().unwrap().is_some());
}
