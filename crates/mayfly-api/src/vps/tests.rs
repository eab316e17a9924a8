use std::collections::BTreeMap;

use mayfly_core::documents::VpsDoc;
use mayfly_core::features::{Feature, FeatureSeen, Switches};
use mayfly_core::run::{PROTOCOL, RunState};

use super::*;

fn doc() -> VpsDoc {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "id": 11327, "hostname": "web1", "incarnation": "00".repeat(16), "node": "00".repeat(8),
        "template": "debian-12-impermanence", "base": { "template": "ab".repeat(32) },
        "manifest": { "distribution": "debian", "version": "12", "architecture": "amd64", "root_kind": "template" },
        "storage": "/persistent", "disk_bytes": 120_u64 << 30,
        "datasets": [{ "name": "", "quota_bytes": 80_u64 << 30 }, { "name": "nix", "quota_bytes": 20_u64 << 30 }],
        "mounts": [{ "dataset": "nix", "path": "/nix", "read_only": false }],
        "impermanence": { "root_quota_bytes": 10_u64 << 30, "root_kind": "template" },
        "limits": { "memory_bytes": 2_u64 << 30 }, "ids": { "first": 1_048_576, "count": 262_144 },
        "lifecycle": { "state": "ready" }, "desired": "running", "on_crash": "restart", "crashes": [],
        "run": { "run": "c5a8b7", "root": "11327.impermanence-c5a8b7", "boot_id": "b", "started_unix_ms": 5 },
        "last_root": null
    }))
    .unwrap()
}

fn told(phase: RunPhase) -> RunState {
    RunState {
        protocol: PROTOCOL,
        phase,
        supervisor_pid: 7,
        supervisor_start_ticks: 1,
        lxc_pid: Some(8),
        init_pid: Some(9),
        launch_us: Some(31_000),
        end: None,
        in_order: false,
        ended_unix_ms: None,
        features: [].into(),
        persistence: None,
    }
}

#[test]
fn the_state_is_what_document_and_supervisor_say_together() {
    let running = told(RunPhase::Running);
    let state = |doc: &VpsDoc, run: Option<&RunState>| VpsView::new(doc.clone(), run).state;
    let mut doc = doc();
    assert_eq!(state(&doc, None), VpsState::Starting);
    assert_eq!(
        state(&doc, Some(&told(RunPhase::Starting))),
        VpsState::Starting
    );
    assert_eq!(state(&doc, Some(&running)), VpsState::Running);
    assert_eq!(
        state(&doc, Some(&told(RunPhase::Ended))),
        VpsState::Stopping
    );
    doc.desired = Desired::Stopped;
    assert_eq!(state(&doc, Some(&running)), VpsState::Stopping);
    doc.run = None;
    assert_eq!(state(&doc, None), VpsState::Stopped);
    doc.lifecycle = Lifecycle::Creating;
    assert_eq!(state(&doc, None), VpsState::Creating);
    doc.lifecycle = Lifecycle::NeedsOperator { why: "x".into() };
    assert_eq!(state(&doc, None), VpsState::NeedsOperator);
}

#[test]
fn a_view_keeps_units_in_its_names_and_tells_what_is_unassigned() {
    let view = VpsView::new(doc(), Some(&told(RunPhase::Running)));
    assert_eq!(view.disk_unassigned_bytes, Bytes::gib(20));
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json["state"], "running");
    assert_eq!(json["run"]["root"], "11327.impermanence-c5a8b7");
    assert_eq!(json["run"]["init_pid"], 9);
    assert_eq!(json["datasets"][1]["mounted_at"][0], "/nix");
    assert_eq!(json["limits"]["memory_bytes"], 2_u64 << 30);
    assert_eq!(serde_json::from_value::<VpsView>(json).unwrap(), view);
}

#[test]
fn requests_refuse_what_they_do_not_know() {
    let bad = [
        r#"{"template":"debian-12","memory":"2G"}"#,
        r#"{"template":"debian-12","id":5}"#,
        r#"{"template":"debian-12","hostname":"Web 1"}"#,
        r#"{"hostname":"web1"}"#,
    ];
    for text in bad {
        assert!(
            serde_json::from_str::<CreateVps>(text).is_err(),
            "{text} was taken"
        );
    }
    let good: CreateVps = serde_json::from_str(r#"{"template":"debian-12"}"#).unwrap();
    assert!(!good.start && good.id.is_none());
    assert_eq!(
        serde_json::from_str::<StopVps>("{}").unwrap(),
        StopVps::default()
    );
    assert!(serde_json::from_str::<SetFeatures>(r#"{"impermanence":true}"#).is_err());
}

#[test]
fn features_say_what_they_are_and_what_the_host_lacks() {
    let mut doc = doc();
    doc.features = [Feature::Tun, Feature::Kvm].into();
    let mut host: BTreeMap<_, _> = Feature::ALL.map(|one| (one, FeatureSeen::Usable)).into();
    host.insert(Feature::Kvm, FeatureSeen::NoDriver);
    host.insert(Feature::Ppp, FeatureSeen::NoDevice);
    let all = FeatureView::all(&doc, &host);
    assert_eq!(all[0].detail, "root quota 10G, root kind template");
    let states: Vec<_> = all.iter().map(|f| (f.name.as_str(), f.state)).collect();
    assert_eq!(
        states,
        [
            ("impermanence", FeatureState::On),
            ("nesting", FeatureState::Off),
            ("tun", FeatureState::On),
            ("fuse", FeatureState::Off),
            ("kvm", FeatureState::On),
            ("ppp", FeatureState::Unavailable),
        ]
    );
    assert_eq!(all[5].detail, "the host has no /dev/ppp");
    assert!(all[4].detail.ends_with("it does not start"), "{all:?}");
}

#[test]
fn features_that_are_not_named_are_not_switched() {
    let wish: SetFeatures =
        serde_json::from_str(r#"{"tun":true,"kvm":false,"limits":{"memory_bytes":1073741824}}"#)
            .unwrap();
    let wanted = [(Feature::Tun, true), (Feature::Kvm, false)];
    assert_eq!(wish.switches(), Switches::from(wanted));
    assert!(!wish.limits.is_nothing());
    assert!(serde_json::from_str::<SetFeatures>(r#"{"limits":{"disk_bytes":1}}"#).is_err());
}
