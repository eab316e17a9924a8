//! Features, limits and impermanence are set together, and put back together wherever that fails.

use mayfly_core::documents::OperationState;
use mayfly_core::error::Code;
use mayfly_core::fake::StartFault;
use mayfly_core::features::{Feature, FeatureSeen, Features};
use mayfly_engine::{Engine, ImpermanenceWish, Intent};

use crate::scenarios::features::several;
use crate::scenarios::stop;
use crate::world::{Death, World, ask, create, doc, settle, vps};

fn lives(start: bool) -> (World, Engine) {
    let world = World::new(&Default::default());
    let engine = world.engine(Death::Never);
    ask(&engine, create("debian-12", start));
    settle(&engine);
    assert_eq!(world.host.is_running(vps()), start);
    (world, engine)
}

fn all_at_once() -> Intent {
    several(Some(ImpermanenceWish::On {
        root_quota: None,
        root_kind: None,
    }))
}

/// How the change ended.
fn ended(engine: &Engine) -> OperationState {
    let all = engine.operations().unwrap();
    let mut sets = all.iter().filter(|op| op.request.verb() == "feature set");
    let state = sets.next_back().expect("it was asked for").state;
    assert!(state.is_over());
    state
}

#[test]
fn a_failure_at_each_step_leaves_the_vps_as_it_was_and_running() {
    let mut failed = 0;
    for n in 1.. {
        let (world, engine) = lives(true);
        world.host.guest_write(vps(), "/srv/kept", "dear").unwrap();
        let before = doc(&engine);
        world.host.fail_call(n);
        let calls = world.host.calls().len();
        ask(&engine, all_at_once());
        settle(&engine);
        let what = format!("call {n}: {:?}", world.host.calls().get(calls + n - 1));
        world.assert_sound(&what);
        assert!(world.host.is_running(vps()), "{what}");
        let after = doc(&engine);
        let set = |doc: &mayfly_core::documents::VpsDoc| {
            (
                doc.features.clone(),
                doc.limits.clone(),
                doc.impermanence.clone(),
            )
        };
        if ended(&engine) == OperationState::Done {
            let (features, limits, impermanence) = set(&after);
            assert_eq!(features, [Feature::Nesting, Feature::Tun].into(), "{what}");
            assert_ne!(limits, before.limits, "{what}");
            assert!(impermanence.is_some(), "{what}");
            // Only what needs not go well may have failed.
            if world.host.calls().len() < calls + n {
                break;
            }
            continue;
        }
        failed += 1;
        assert_eq!(set(&after), set(&before), "{what}");
        assert_eq!(world.host.features_of(vps()), Some(Features::new()));
        assert_eq!(world.host.limits_of(vps()), Some(before.limits));
        let kept = world.host.guest_read(vps(), "/srv/kept");
        assert_eq!(kept.as_deref(), Some("dear"), "{what}");
    }
    assert!(failed >= 4, "only {failed} calls failed the change");
}

#[test]
fn a_guest_that_does_not_start_with_it_runs_as_before() {
    for fault in [
        StartFault::LaunchFails,
        StartFault::EndsBeforeInit,
        StartFault::Hangs,
        StartFault::InitDies,
    ] {
        let (world, engine) = lives(true);
        let before = doc(&engine);
        world.host.fail_start(vps(), fault);
        ask(&engine, all_at_once());
        settle(&engine);
        assert_eq!(ended(&engine), OperationState::Failed, "{fault:?}");
        world.assert_sound("after a start that failed");
        assert!(world.host.is_running(vps()), "{fault:?}");
        assert_eq!(world.host.limits_of(vps()), Some(before.limits));
        assert_eq!(world.host.features_of(vps()), Some(Features::new()));
        assert_eq!(doc(&engine).impermanence, None);
    }
}

#[test]
fn a_stopped_vps_stays_stopped_and_starts_with_it() {
    let (world, engine) = lives(false);
    ask(&engine, several(None));
    settle(&engine);
    assert_eq!(ended(&engine), OperationState::Done);
    assert!(!world.host.is_running(vps()));
    ask(&engine, Intent::Start);
    settle(&engine);
    let on = Features::from([Feature::Nesting, Feature::Tun]);
    assert_eq!(world.host.features_of(vps()), Some(on));
    world.assert_sound("with features");
}

#[test]
fn a_start_that_the_host_has_no_device_for_is_refused_with_the_reason() {
    let (world, engine) = lives(true);
    ask(&engine, several(None));
    settle(&engine);
    ask(&engine, stop(true, false));
    settle(&engine);
    world.host.set_feature(Feature::Tun, FeatureSeen::NoDevice);
    ask(&engine, Intent::Start);
    settle(&engine);
    let last = engine.operations().unwrap().pop().unwrap();
    let error = last.error.unwrap();
    assert_eq!(error.code, Code::FeatureUnavailable);
    assert!(error.message.contains("/dev/net/tun"), "{error:?}");
    assert!(error.hint.contains("tun=off"), "{error:?}");
    assert!(!world.host.is_running(vps()));
    world.assert_sound("without the device");
}
