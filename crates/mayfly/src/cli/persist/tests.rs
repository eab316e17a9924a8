use serde_json::json;

use super::*;

fn view() -> PersistenceView {
    let line = |path: &str, kind: &str, method: Option<&str>, origin: &str| {
        json!({
            "path": path, "kind": kind, "method": method, "tier": "data", "storage": "/persistent", "origin": origin,
            "preset": null, "within": null, "trouble": null
        })
    };
    let mut lines = vec![
        line("/var/log", "directory", None, "manifest"),
        line("/var/log/x", "directory", None, "file"),
        line("/etc/machine-id", "file", Some("auto"), "preset"),
        line("/proc/x\u{1b}", "file", Some("copy"), "file"),
    ];
    lines[1]["within"] = json!("/var/log");
    lines[2]["preset"] = json!("base");
    lines[3]["path"] = json!("/proc/x");
    lines[3]["tier"] = json!("ignore");
    lines[3]["trouble"] = json!("what is there is the kernel's");
    serde_json::from_value(json!({
        "storage": "/persistent", "file": "/persistent/etc/mayfly/persistence.toml", "inactive": null,
        "declarations": lines, "disabled": ["/srv/old"], "accounts": "/persistent",
        "problems": [{ "at": "/persistent.files[0]\u{1b}[2J", "what": "it is\nwrong", "severity": "error" }],
        "problems_omitted": 3,
        "last_start": { "state": "degraded", "staying": 3, "troubled": 1, "troubles": ["/proc/x: no\u{7}"] }
    }))
    .unwrap()
}

#[test]
fn a_list_says_who_declares_what_and_what_is_wrong() {
    assert_eq!(
        render_list(&view()),
        "\
PATH             WHAT        TIER    STORAGE      DECLARED BY  NOTE
/var/log         directory   data    /persistent  template
/var/log/x       directory   data    /persistent  own file     in /var/log
/etc/machine-id  file        data    /persistent  preset base
/proc/x          file, copy  ignore  /persistent  own file     will not stay: what is there is the kernel's

taken away: /srv/old
users and groups are kept in /persistent
problem: /persistent.files[0]\\u{1b}[2J: it is\\nwrong
and 3 problems more
at the last start: degraded, 3 stay, 1 does not as it should
  /proc/x: no\\u{7}
"
    );
    let nothing = PersistenceView {
        inactive: Some("impermanence is off".into()),
        declarations: Vec::new(),
        disabled: Vec::new(),
        accounts: None,
        problems: Vec::new(),
        problems_omitted: 0,
        last_start: None,
        ..view()
    };
    assert_eq!(
        render_list(&nothing),
        "nothing is done for it: impermanence is off\n\nPATH  WHAT  TIER  STORAGE  DECLARED BY  NOTE\n"
    );
}

#[test]
fn a_slash_at_the_end_means_a_directory() {
    let typed = |text: &str| parse_path(text).unwrap();
    assert!(typed("/srv/data/").slash && !typed("/srv/data").slash);
    assert_eq!(typed("/srv//data/").path, typed("/srv/data").path);
    for bad in ["srv", "", "/a/../b", "/a\n"] {
        assert!(parse_path(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_there_now_is_not_forgotten() {
    let wish = |path: &str| AddPath {
        path: parse_path(path).unwrap().path,
        kind: None,
        tier: None,
        method: None,
    };
    let vps = |state: &str, on: bool| -> VpsView {
        let on = on.then(|| json!({ "root_quota_bytes": 1_u64 << 30, "root_kind": "template" }));
        serde_json::from_value(json!({
            "id": 11327, "hostname": "web1", "state": state, "why": null, "desired": "running", "on_crash": "restart",
            "template": "debian-12-impermanence", "base": { "template": "ab".repeat(32), "track": "pinned" },
            "impermanence": on, "storage": "/persistent", "disk_bytes": 120_u64 << 30, "disk_unassigned_bytes": 0,
            "datasets": [], "mounts": [], "limits": {}, "ids": { "first": 1_048_576, "count": 262_144 },
            "incarnation": "00".repeat(16), "run": null, "last_root": null, "last_root_base": null, "notes": []
        }))
        .unwrap()
    };
    let wishes = [wish("/etc/app"), wish("/srv/it's here")];
    assert_eq!(
        added("web1", &vps("running", true), &wishes),
        "declared: /etc/app, /srv/it's here\n\
         it holds from the next start on: mayfly restart web1\n\
         what is there now is not moved and goes with the temporary root, unless it is copied before: \
         mayfly exec web1 -- cp -a --parents /etc/app '/srv/it'\\''s here' /persistent\n"
    );
    assert_eq!(
        added("web1", &vps("stopped", true), &wishes[..1]),
        "declared: /etc/app\nit holds from the next start on: mayfly start web1\n\
         what the last root has there is not moved, and goes with that root\n"
    );
    assert!(added("web1", &vps("running", false), &wishes).contains("once impermanence is on"));
    let gone = [wish("/var/log").path];
    assert_eq!(
        removed("web1", &view(), &gone),
        "declared no more: /var/log\nit holds from the next start of web1 on\n\
         what is stored stays at /persistent/var/log\n"
    );
}
