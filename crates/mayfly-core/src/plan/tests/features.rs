//! Features beside impermanence, with limits and impermanence in one change.

use super::golden::check;
use super::hands::Hands;
use super::{id, restart, run, start, stop};
use crate::bytes::Bytes;
use crate::documents::{Impermanence, Request};
use crate::error::Code;
use crate::fake::StartFault;
use crate::features::{Feature, FeatureSeen, Features, FeaturesChange, LimitsChange, Switches};
use crate::ids::VpsId;
use crate::plan::Step;
use crate::template::RootKind;

fn vps() -> VpsId {
    id(11327)
}

fn running(template: &str) -> Hands {
    let mut hands = Hands::new();
    hands.create(vps(), template, Some(run(1)));
    hands
}

fn set(change: FeaturesChange, n: u8) -> Request {
    Request::SetFeatures {
        change,
        run: run(n),
    }
}

fn switch(switches: &[(Feature, bool)]) -> FeaturesChange {
    FeaturesChange {
        switches: switches.iter().copied().collect::<Switches>(),
        ..FeaturesChange::default()
    }
}

/// Two features, impermanence and a limit at once.
fn everything() -> FeaturesChange {
    FeaturesChange {
        impermanence: Some(Some(Impermanence {
            root_quota_bytes: Bytes::gib(5),
            root_kind: RootKind::Template,
        })),
        limits: LimitsChange {
            memory_bytes: Some(Bytes::gib(3)),
            ..LimitsChange::default()
        },
        ..switch(&[(Feature::Tun, true), (Feature::Fuse, true)])
    }
}

#[test]
fn features_limits_and_impermanence_are_one_change() {
    let mut hands = running("debian-12");
    check("features-running", &mut hands, &set(everything(), 2));
    let on = Features::from([Feature::Tun, Feature::Fuse]);
    assert_eq!(hands.host.features_of(vps()), Some(on.clone()));
    let memory = hands.host.limits_of(vps()).unwrap().memory_bytes;
    assert_eq!(memory, Some(Bytes::gib(3)));
    // Said again it changes nothing.
    let plan = hands.plan(vps(), &set(everything(), 3)).unwrap();
    assert_eq!(plan.steps, []);
    // They are of the VPS, not of that run.
    hands.ask(vps(), &restart(4)).unwrap();
    assert_eq!(hands.host.features_of(vps()), Some(on));
    hands.ask(vps(), &stop()).unwrap();
    let off = set(switch(&[(Feature::Tun, false)]), 5);
    check("features-stopped", &mut hands, &off);
    assert!(!hands.host.is_running(vps()), "it stays stopped");
    hands.ask(vps(), &start(6)).unwrap();
    let left = hands.host.features_of(vps()).unwrap();
    assert_eq!(left, Features::from([Feature::Fuse]));
}

#[test]
fn limits_alone_need_no_restart() {
    let mut hands = running("debian-12");
    hands.ask(vps(), &set(everything(), 2)).unwrap();
    let mut less = everything();
    less.limits.memory_bytes = Some(Bytes::gib(2));
    let plan = hands.ask(vps(), &set(less, 3)).unwrap();
    assert!(
        matches!(plan.steps[0].step, Step::SetLimits { .. }) && plan.steps.len() == 2,
        "{:?}",
        plan.lines()
    );
}

#[test]
fn what_does_not_start_is_put_back_whole() {
    for fault in [
        StartFault::LaunchFails,
        StartFault::EndsBeforeInit,
        StartFault::InitDies,
        StartFault::Hangs,
    ] {
        let mut hands = running("debian-12");
        hands.host.guest_write(vps(), "/root/work", "dear").unwrap();
        let before = hands.doc(vps()).clone();
        hands.host.fail_start(vps(), fault);
        hands.ask(vps(), &set(everything(), 2)).unwrap_err();
        let after = hands.doc(vps()).clone();
        assert_eq!(
            (&after.features, &after.limits, &after.impermanence),
            (&before.features, &before.limits, &before.impermanence),
            "{fault:?}"
        );
        assert!(crate::plan::should_start(&after), "{fault:?}");
        hands.assert_sound();
        hands.ask(vps(), &start(3)).unwrap();
        assert_eq!(hands.host.limits_of(vps()), Some(before.limits));
        assert_eq!(hands.host.features_of(vps()), Some(Features::new()));
        let read = hands.host.guest_read(vps(), "/root/work");
        assert_eq!(read.as_deref(), Some("dear"));
    }
}

#[test]
fn what_the_host_has_not_is_refused_before_anything_is_done() {
    let mut hands = running("debian-12");
    hands.host.set_feature(Feature::Ppp, FeatureSeen::NoDevice);
    let both = switch(&[(Feature::Tun, true), (Feature::Ppp, true)]);
    let calls = hands.host.calls().len();
    let before = hands.doc(vps()).clone();
    let refusal = hands.ask(vps(), &set(both, 2)).unwrap_err();
    assert_eq!(refusal.code, Code::FeatureUnavailable);
    assert!(refusal.message.contains("no /dev/ppp"), "{refusal:?}");
    assert!(refusal.hint.contains("ppp_generic"), "{refusal:?}");
    assert_eq!(*hands.doc(vps()), before);
    assert_eq!(hands.host.calls().len(), calls);
    assert!(hands.host.is_running(vps()));
    // A look that failed is no answer.
    hands.host.fail_looks("feature kvm");
    let kvm = set(switch(&[(Feature::Kvm, true)]), 2);
    let refusal = hands.ask(vps(), &kvm).unwrap_err();
    assert_ne!(refusal.code, Code::FeatureUnavailable);
    assert_eq!(*hands.doc(vps()), before);
}

#[test]
fn a_feature_that_the_host_lost_stops_starts_and_not_the_run() {
    let mut hands = running("debian-12");
    let on = switch(&[(Feature::Kvm, true), (Feature::Fuse, true)]);
    hands.ask(vps(), &set(on, 2)).unwrap();
    hands.host.set_feature(Feature::Kvm, FeatureSeen::NoDriver);
    let refusal = hands.ask(vps(), &restart(3)).unwrap_err();
    assert_eq!(refusal.code, Code::FeatureUnavailable);
    assert!(refusal.hint.contains("kvm=off"), "{refusal:?}");
    assert!(hands.host.is_running(vps()), "it was not stopped for that");
    // What else it has cannot be changed by a restart either, unless this goes.
    let fuse = set(switch(&[(Feature::Fuse, false)]), 4);
    assert!(hands.ask(vps(), &fuse).is_err());
    // A rescue system has what there is.
    let rescue = Request::Rescue {
        run: run(5),
        template: "debian-12".parse().unwrap(),
        root_at: "/mnt/vps".parse().ok(),
    };
    hands.ask(vps(), &rescue).unwrap();
    let in_rescue = hands.host.features_of(vps()).unwrap();
    assert_eq!(in_rescue, Features::from([Feature::Fuse]));
    assert!(hands.doc(vps()).features.contains(&Feature::Kvm));
    hands.ask(vps(), &stop()).unwrap();
    assert!(hands.ask(vps(), &start(6)).is_err());
    let kvm = set(switch(&[(Feature::Kvm, false)]), 7);
    hands.ask(vps(), &kvm).unwrap();
    hands.ask(vps(), &start(8)).unwrap();
    hands.assert_sound();
}

#[test]
fn limits_that_no_guest_can_live_with_are_refused_with_features_too() {
    let mut hands = running("debian-12");
    let mut change = everything();
    change.limits.memory_bytes = Some(Bytes::mib(1));
    let refusal = hands.ask(vps(), &set(change, 2)).unwrap_err();
    assert_eq!(refusal.code, Code::Invalid);
    let nothing = set(FeaturesChange::default(), 2);
    assert_eq!(hands.ask(vps(), &nothing).unwrap_err().code, Code::Invalid);
    assert!(hands.doc(vps()).features.is_empty());
}
