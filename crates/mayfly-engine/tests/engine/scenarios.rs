//! What the daemon is asked to do while it dies at every point, or is asked to give it up at every point.

mod convert;
pub(crate) mod features;
pub(crate) mod reinstall;

use mayfly_core::bytes::Bytes;
use mayfly_core::change::{SetAutostart, VpsChange};
use mayfly_core::documents::{AutostartWhen, Mount, OnCrash, Track};
use mayfly_core::fake::{COPIED, FakeRecipe, StartFault};
use mayfly_core::ids::Digest;
use mayfly_core::names::GuestPath;
use mayfly_core::ports::ImportSource;
use mayfly_core::remote::PullSource;
use mayfly_engine::{Engine, Intent};

use crate::world::{World, ask, create, doc, settle, vps};

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Scenario> {
    let more = reinstall::SCENARIOS.iter().chain(convert::SCENARIOS);
    SCENARIOS.iter().chain(features::SCENARIOS).chain(more)
}

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) before: fn(&World, &Engine),
    pub(crate) act: fn(&World, &Engine),
}

pub(crate) fn stop(force: bool, discard: bool) -> Intent {
    Intent::Stop {
        timeout_ms: 60_000,
        force,
        discard,
    }
}

pub(crate) fn restart() -> Intent {
    Intent::Restart {
        timeout_ms: 60_000,
        force: false,
    }
}

pub(crate) fn there(world: &World, engine: &Engine, template: &str, start: bool) {
    ask(engine, create(template, start));
    settle(engine);
    doc(engine);
    if start {
        assert!(world.host.is_running(vps()), "the scenario's VPS runs");
        let kept = if template == "debian-12" {
            "/srv/kept"
        } else {
            "/persistent/kept"
        };
        world.host.guest_write(vps(), kept, "dear data").unwrap();
        world.host.guest_write(vps(), "/scratch", "not dear").ok();
        // Declared as a copy where the template has a storage: whatever happens, the next run begins with it.
        world.host.guest_write(vps(), COPIED, "changed").unwrap();
    }
}

fn rescue() -> Intent {
    Intent::Rescue {
        template: "debian-12".parse().unwrap(),
        root_at: "/mnt/vps".parse().ok(),
    }
}

fn data() -> Intent {
    Intent::DatasetCreate {
        name: "data".parse().unwrap(),
        quota: Bytes::gib(2),
        mount: Some("/data".parse().unwrap()),
    }
}

fn shrink() -> Intent {
    Intent::DatasetSet {
        name: "".parse().unwrap(),
        quota: Bytes::gib(20),
    }
}

fn mount_and_back(engine: &Engine) {
    let path: GuestPath = "/mnt/all".parse().unwrap();
    let mount = Mount {
        dataset: "".parse().unwrap(),
        path: path.clone(),
        read_only: true,
    };
    ask(engine, Intent::MountAdd { mount });
    settle(engine);
    ask(engine, Intent::MountRemove { path });
}

fn limits() -> Intent {
    Intent::Set {
        change: VpsChange {
            memory_bytes: Some(Bytes::gib(1)),
            swap_bytes: Some(Bytes::gib(1)),
            cpu_percent: Some(Some(50)),
            processes: Some(200),
            disk_bytes: Some(Bytes::gib(40)),
            on_crash: Some(OnCrash::Restart),
            autostart: Some(SetAutostart {
                when: AutostartWhen::On,
                priority: Some(7),
            }),
            ..VpsChange::default()
        },
    }
}

/// What `/image.tar` is in every scenario that imports it: Debian with another digest.
fn other_contents(world: &World) {
    let mut recipe = FakeRecipe::debian_impermanence();
    recipe.built.digest = Digest::from_random([0x13; 32]);
    world.host.add_recipe("/image.tar", recipe);
}

fn import(name: &str, replace: bool) -> Intent {
    Intent::TemplateImport {
        source: ImportSource {
            archive: "/image.tar".into(),
            metadata: None,
            digest: None,
        },
        name: name.parse().unwrap(),
        replace,
    }
}

fn pull(name: &str, replace: bool) -> Intent {
    Intent::TemplatePull {
        source: PullSource {
            remote: "https://images.example/".parse().unwrap(),
            image: "debian/13".into(),
            plain_http: false,
        },
        name: name.parse().unwrap(),
        replace,
    }
}

/// What that server has.
fn an_image(world: &World) {
    let mut recipe = FakeRecipe::debian_impermanence();
    recipe.built.digest = Digest::from_random([0x14; 32]);
    world.host.add_recipe("debian/13", recipe);
}

fn base(template: Option<&str>, track: Option<Track>) -> Intent {
    Intent::Set {
        change: VpsChange {
            base: template.map(|name| name.parse().unwrap()),
            track,
            ..VpsChange::default()
        },
    }
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "create",
        before: |_, _| {},
        act: |_, e| ask(e, create("debian-12", false)),
    },
    Scenario {
        name: "create and start",
        before: |_, _| {},
        act: |_, e| ask(e, create("debian-12-impermanence", true)),
    },
    Scenario {
        name: "create NixOS-shaped",
        before: |_, _| {},
        act: |_, e| ask(e, create("nixos-shaped", true)),
    },
    Scenario {
        name: "start of a guest that powers itself off at once",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            ask(e, stop(false, false));
            settle(e);
            w.host.fail_start(vps(), StartFault::PowersOff);
        },
        act: |_, e| ask(e, Intent::Start),
    },
    Scenario {
        name: "create that does not start",
        before: |w, _| w.host.fail_start(vps(), StartFault::InitDies),
        act: |_, e| ask(e, create("debian-12-impermanence", true)),
    },
    Scenario {
        name: "start",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            ask(e, stop(false, false));
            settle(e);
        },
        act: |_, e| ask(e, Intent::Start),
    },
    Scenario {
        name: "start that fails to launch",
        before: |w, e| {
            there(w, e, "nixos-shaped", true);
            ask(e, stop(false, false));
            settle(e);
            w.host.fail_start(vps(), StartFault::EndsBeforeInit);
        },
        act: |_, e| ask(e, Intent::Start),
    },
    Scenario {
        name: "stop",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |_, e| ask(e, stop(false, false)),
    },
    Scenario {
        name: "rescue of one that runs",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |_, e| ask(e, rescue()),
    },
    Scenario {
        name: "rescue by a system that lies in a dataset",
        before: |w, e| there(w, e, "nixos-shaped", true),
        act: |_, e| {
            ask(
                e,
                Intent::Rescue {
                    template: "nixos-shaped".parse().unwrap(),
                    root_at: "/mnt/vps".parse().ok(),
                },
            )
        },
    },
    Scenario {
        name: "out of rescue",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            ask(e, rescue());
            settle(e);
        },
        act: |_, e| ask(e, restart()),
    },
    Scenario {
        name: "stop and discard",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |_, e| ask(e, stop(true, true)),
    },
    Scenario {
        name: "restart",
        before: |w, e| there(w, e, "nixos-shaped", true),
        act: |_, e| ask(e, restart()),
    },
    Scenario {
        name: "restart without impermanence",
        before: |w, e| there(w, e, "debian-12", true),
        act: |_, e| ask(e, restart()),
    },
    Scenario {
        name: "restart that fails",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            w.host.fail_start(vps(), StartFault::InitDies);
        },
        act: |_, e| ask(e, restart()),
    },
    Scenario {
        name: "reboot inside",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |w, _| w.host.guest_reboot(vps()),
    },
    Scenario {
        name: "poweroff inside",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |w, _| w.host.guest_poweroff(vps()),
    },
    Scenario {
        name: "init crashes",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |w, _| w.host.guest_crash(vps()),
    },
    Scenario {
        name: "supervisor is killed",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |w, _| w.host.kill_supervisor(vps()),
    },
    Scenario {
        name: "lxc-start is killed",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |w, _| w.host.kill_lxc_start(vps()),
    },
    Scenario {
        name: "destroy of a running VPS",
        before: |w, e| there(w, e, "nixos-shaped", true),
        act: |_, e| ask(e, Intent::Destroy { now: true }),
    },
    Scenario {
        name: "destroy of a stopped VPS",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            ask(e, stop(true, false));
            settle(e);
        },
        act: |_, e| ask(e, Intent::Destroy { now: false }),
    },
    Scenario {
        name: "restart with a leaked namespace",
        before: |w, e| {
            there(w, e, "nixos-shaped", true);
            w.host.leak_namespace(vps());
        },
        act: |_, e| ask(e, restart()),
    },
    Scenario {
        name: "stop and discard with a leaked namespace",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            w.host.leak_namespace(vps());
        },
        act: |_, e| ask(e, stop(false, true)),
    },
    Scenario {
        name: "destroy with a leaked namespace",
        before: |w, e| {
            there(w, e, "nixos-shaped", true);
            w.host.leak_namespace(vps());
        },
        act: |_, e| ask(e, Intent::Destroy { now: false }),
    },
    Scenario {
        name: "dataset create",
        before: |w, e| {
            there(w, e, "debian-12", false);
            ask(e, shrink());
            settle(e);
        },
        act: |_, e| ask(e, data()),
    },
    Scenario {
        name: "dataset create while it runs",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            ask(e, shrink());
            settle(e);
        },
        act: |_, e| {
            ask(
                e,
                Intent::DatasetCreate {
                    name: "more".parse().unwrap(),
                    quota: Bytes::gib(2),
                    mount: None,
                },
            )
        },
    },
    Scenario {
        name: "dataset set",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |_, e| ask(e, shrink()),
    },
    Scenario {
        name: "limits of a running VPS",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |_, e| ask(e, limits()),
    },
    Scenario {
        name: "limits that the host does not take",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            w.host.refuse_limits(vps(), true);
        },
        act: |_, e| ask(e, limits()),
    },
    Scenario {
        name: "limits of a stopped VPS, then a start",
        before: |w, e| there(w, e, "debian-12", false),
        act: |_, e| {
            ask(e, limits());
            ask(e, Intent::Start);
        },
    },
    Scenario {
        name: "limits, then a restart",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |_, e| {
            ask(e, limits());
            ask(e, restart());
        },
    },
    Scenario {
        name: "dataset destroy",
        before: |w, e| {
            there(w, e, "debian-12", false);
            ask(e, shrink());
            ask(e, data());
            settle(e);
        },
        act: |_, e| {
            ask(
                e,
                Intent::DatasetDestroy {
                    name: "data".parse().unwrap(),
                    force: true,
                },
            )
        },
    },
    Scenario {
        name: "mount add and remove",
        before: |w, e| there(w, e, "debian-12", false),
        act: |_, e| mount_and_back(e),
    },
    Scenario {
        name: "mount add and remove while it runs",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            ask(e, shrink());
            settle(e);
        },
        act: |_, e| mount_and_back(e),
    },
    Scenario {
        name: "dataset create and mount while it runs",
        before: |w, e| {
            there(w, e, "debian-12-impermanence", true);
            ask(e, shrink());
            settle(e);
        },
        act: |_, e| ask(e, data()),
    },
    Scenario {
        name: "declare a path, running",
        before: |w, e| there(w, e, "debian-12-impermanence", true),
        act: |_, e| {
            let change = crate::persist::directory("/srv/data");
            ask(e, Intent::PersistChange { change })
        },
    },
    Scenario {
        name: "template build",
        before: |_, _| {},
        act: |_, e| {
            ask(
                e,
                Intent::TemplateBuild {
                    recipe: "debian-12".into(),
                    name: "again".parse().unwrap(),
                    mirror: None,
                    replace: false,
                },
            )
        },
    },
    Scenario {
        name: "template import",
        before: |w, _| w.host.add_recipe("/image.tar", FakeRecipe::debian()),
        act: |_, e| ask(e, import("imported", false)),
    },
    Scenario {
        name: "template pull",
        before: |w, _| an_image(w),
        act: |_, e| ask(e, pull("pulled", false)),
    },
    Scenario {
        name: "template pull over one that is there",
        before: |w, _| an_image(w),
        act: |_, e| ask(e, pull("debian-12", true)),
    },
    Scenario {
        name: "base set, then a restart",
        before: |w, e| {
            other_contents(w);
            there(w, e, "debian-12-impermanence", true);
            ask(e, import("debian-13", false));
            settle(e);
        },
        act: |_, e| {
            ask(e, base(Some("debian-13"), None));
            ask(e, restart());
        },
    },
    Scenario {
        name: "other contents of a template that is followed, then a restart",
        before: |w, e| {
            other_contents(w);
            for name in ["debian-12", "nixos-shaped"] {
                ask(
                    e,
                    Intent::TemplateRemove {
                        name: name.parse().unwrap(),
                    },
                );
            }
            there(w, e, "debian-12-impermanence", true);
            ask(e, base(None, Some(Track::Latest)));
        },
        act: |_, e| {
            ask(e, import("debian-12-impermanence", true));
            settle(e);
            ask(e, restart());
        },
    },
    Scenario {
        name: "template remove",
        before: |_, _| {},
        act: |_, e| {
            ask(
                e,
                Intent::TemplateRemove {
                    name: "nixos-shaped".parse().unwrap(),
                },
            )
        },
    },
];
