//! A persistent VPS made impermanent, and back.

use std::collections::BTreeSet;

use mayfly_core::health::Health;
use mayfly_engine::{ConvertIntent, Engine, Intent};

use super::{Scenario, there};
use crate::world::{World, ask, doc, settle, vps};

fn convert() -> Intent {
    Intent::Convert(ConvertIntent::default())
}

/// An ordinary NixOS: its system is in the root dataset, with all else.
fn nixos(world: &World, engine: &Engine) {
    there(world, engine, "debian-12", true);
    let init = "/nix/store/system/init";
    world.host.guest_install(vps(), init).unwrap();
    let profile = "/nix/var/nix/profiles/system";
    world
        .host
        .guest_link(vps(), profile, "/nix/store/system")
        .unwrap();
}

fn rest(engine: &Engine) {
    settle(engine);
    engine.see_to_converted().unwrap();
    settle(engine);
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "conversion of a nixos, and its rest",
        before: nixos,
        act: |_, e| {
            ask(e, convert());
            rest(e);
        },
    },
    Scenario {
        name: "conversion of what is no nixos",
        before: |w, e| there(w, e, "debian-12", true),
        act: |_, e| ask(e, convert()),
    },
    Scenario {
        name: "conversion that makes it worse",
        before: |w, e| {
            there(w, e, "debian-12", true);
            let failed = BTreeSet::from(["new.service".to_owned()]);
            let worse = Health {
                failed,
                ..Health::default()
            };
            w.host.set_health_of_roots(vps(), worse);
        },
        act: |_, e| ask(e, convert()),
    },
    Scenario {
        name: "revert of a nixos",
        before: |w, e| {
            nixos(w, e);
            ask(e, convert());
            rest(e);
        },
        act: |_, e| ask(e, Intent::Revert),
    },
    Scenario {
        name: "revert of what is no nixos, stopped",
        before: |w, e| {
            there(w, e, "debian-12", true);
            ask(e, convert());
            rest(e);
            assert!(doc(e).converted.is_some());
            ask(e, super::stop(false, false));
            settle(e);
        },
        act: |_, e| ask(e, Intent::Revert),
    },
];
