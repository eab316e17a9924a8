//! Features on and off, impermanence among them, and limits with them.

use mayfly_core::bytes::Bytes;
use mayfly_core::fake::StartFault;
use mayfly_core::features::{Feature, LimitsChange};
use mayfly_engine::{FeaturesWish, ImpermanenceWish, Intent};

use super::{Scenario, stop, there};
use crate::world::{ask, settle, vps};

fn set(wish: FeaturesWish) -> Intent {
    Intent::SetFeatures { wish }
}

pub(crate) fn impermanence(on: bool) -> Intent {
    let wish = match on {
        true => ImpermanenceWish::On {
            root_quota: None,
            root_kind: None,
        },
        false => ImpermanenceWish::Off,
    };
    set(FeaturesWish {
        impermanence: Some(wish),
        ..FeaturesWish::default()
    })
}

/// Two features, a limit and impermanence at once.
pub(crate) fn several(impermanence: Option<ImpermanenceWish>) -> Intent {
    set(FeaturesWish {
        impermanence,
        switches: [(Feature::Tun, true), (Feature::Nesting, true)].into(),
        limits: LimitsChange {
            memory_bytes: Some(Bytes::gib(1)),
            ..LimitsChange::default()
        },
    })
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "impermanence on, running",
        before: |w, e| there(w, e, "debian-12", true),
        act: |_, e| ask(e, impermanence(true)),
    },
    Scenario {
        name: "impermanence on, running, and it does not start",
        before: |w, e| {
            there(w, e, "debian-12", true);
            w.host.fail_start(vps(), StartFault::EndsBeforeInit);
        },
        act: |_, e| ask(e, impermanence(true)),
    },
    Scenario {
        name: "impermanence off, stopped",
        before: |w, e| {
            there(w, e, "debian-12", false);
            ask(e, impermanence(true));
            ask(e, Intent::Start);
            settle(e);
            ask(e, stop(true, false));
            settle(e);
        },
        act: |_, e| ask(e, impermanence(false)),
    },
    Scenario {
        name: "features and a limit of one that runs",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |_, e| ask(e, several(None)),
    },
    Scenario {
        name: "features, a limit and impermanence at once, and it does not start",
        before: |w, e| {
            there(w, e, "nixos-shaped", true);
            w.host.fail_start(vps(), StartFault::InitDies);
        },
        act: |_, e| {
            let wish = ImpermanenceWish::On {
                root_quota: Some(Bytes::gib(1)),
                root_kind: None,
            };
            ask(e, several(Some(wish)))
        },
    },
];
