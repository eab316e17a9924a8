//! Contents that are replaced, brought back, and given up.

use std::time::Duration;

use mayfly_core::documents::{ReinstallScope, Replaced};
use mayfly_core::fake::StartFault;
use mayfly_engine::{Engine, Intent};

use super::{Scenario, data, shrink, stop, there};
use crate::world::{ask, doc, settle, vps};

fn reinstall(template: &str, scope: Option<ReinstallScope>) -> Intent {
    Intent::Reinstall {
        template: template.parse().unwrap(),
        scope,
    }
}

/// The undo of the last one; of none that there is where that was cancelled.
pub(crate) fn undo(engine: &Engine) -> Intent {
    let last = doc(engine).replaced.last().map(|entry| entry.by.clone());
    Intent::ReinstallUndo {
        by: last.unwrap_or_else(|| "0".repeat(20).parse().expect("it is an id")),
        force: false,
    }
}

/// All that is kept is given up.
fn forget(engine: &Engine) -> Intent {
    match undo(engine) {
        Intent::ReinstallUndo { by, force } => Intent::ReinstallForget { by, force },
        other => other,
    }
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "reinstall of one that runs",
        before: |w, e| {
            there(w, e, "debian-12", false);
            ask(e, shrink());
            ask(e, data());
            ask(e, Intent::Start);
            settle(e);
            w.host.guest_write(vps(), "/srv/kept", "dear data").unwrap();
            w.host
                .guest_write(vps(), "/data/kept", "dear data")
                .unwrap();
        },
        act: |_, e| ask(e, reinstall("debian-12", None)),
    },
    Scenario {
        name: "reinstall that does not start",
        before: |w, e| {
            there(w, e, "nixos-shaped", true);
            w.host.fail_start(vps(), StartFault::InitDies);
        },
        act: |_, e| ask(e, reinstall("nixos-shaped", Some(ReinstallScope::All))),
    },
    Scenario {
        name: "reinstall of the data of one that is stopped, and its undo",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            ask(e, stop(false, false));
            settle(e);
        },
        act: |_, e| {
            ask(
                e,
                reinstall("debian-12-impermanence", Some(ReinstallScope::Data)),
            );
            settle(e);
            ask(e, undo(e));
        },
    },
    Scenario {
        name: "undo of a reinstall, running",
        before: |w, e| {
            there(w, e, "nixos-shaped", true);
            ask(e, reinstall("nixos-shaped", Some(ReinstallScope::Os)));
            settle(e);
        },
        act: |_, e| ask(e, undo(e)),
    },
    Scenario {
        name: "former contents of two reinstalls, given up",
        before: |w, e| {
            there(w, e, "debian-12", true);
            for _ in 0..2 {
                ask(e, reinstall("debian-12", None));
                settle(e);
            }
        },
        act: |_, e| ask(e, forget(e)),
    },
    Scenario {
        name: "former contents whose days are over",
        before: |w, e| {
            there(w, e, "debian-12", true);
            ask(e, reinstall("debian-12", None));
            settle(e);
            for _ in 1..Replaced::KEPT_MS / Replaced::DAY_MS {
                w.host.advance(Duration::from_millis(Replaced::DAY_MS));
                e.see_to_replaced().unwrap();
                settle(e);
            }
        },
        act: |w, e| {
            w.host.advance(Duration::from_millis(Replaced::DAY_MS));
            e.see_to_replaced().unwrap();
        },
    },
];
