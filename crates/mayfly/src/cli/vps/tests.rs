use super::*;

fn vps() -> VpsView {
    serde_json::from_value(serde_json::json!({
        "id": 11327, "hostname": "web1", "state": "running", "why": null, "desired": "running", "on_crash": "restart",
        "template": "debian-12-impermanence", "base": { "template": "ab".repeat(32), "track": "pinned" },
        "impermanence": { "root_quota_bytes": 10_u64 << 30, "root_kind": "template" }, "storage": "/persistent",
        "disk_bytes": 120_u64 << 30, "disk_unassigned_bytes": 20_u64 << 30,
        "datasets": [
            { "name": "", "dataset": "11327", "quota_bytes": 80_u64 << 30, "used_bytes": 3_u64 << 20, "mounted_at": ["/persistent"] },
            { "name": "srv/data", "dataset": "11327/srv/data", "quota_bytes": 20_u64 << 30, "used_bytes": null, "mounted_at": [] }
        ],
        "mounts": [{ "dataset": "", "path": "/persistent", "read_only": false }],
        "limits": { "memory_bytes": 2_u64 << 30, "cpu_percent": 150, "processes": 8192 },
        "ids": { "first": 1_048_576, "count": 262_144 }, "incarnation": "00".repeat(16),
        "run": {
            "id": "c5a8b7", "root": "11327.impermanence-c5a8b7", "base": "ab".repeat(32), "started_unix_ms": 1_763_837_000_000_u64,
            "phase": "running", "init_pid": 4711, "launch_us": 31_250
        },
        "last_root": null, "last_root_base": null, "notes": []
    }))
    .unwrap()
}

#[test]
fn what_became_of_declared_paths_is_shown_where_a_root_is_temporary() {
    let mut vps = vps();
    let told = serde_json::json!({
        "state": "degraded", "staying": 4, "troubled": 1, "troubles": ["/etc/x: a file is there already\u{1b}"]
    });
    vps.persistence = Some(serde_json::from_value(told).unwrap());
    let shown = render_one(&vps, 1_763_837_065_000);
    assert!(
        shown.contains(
            "\ndeclared:      degraded, 4 stay, 1 does not as it should\n\
             trouble:       /etc/x: a file is there already\\u{1b}\n"
        ),
        "{shown}"
    );
    vps.impermanence = None;
    assert!(!render_one(&vps, 1_763_837_065_000).contains("declared:"));
}

#[test]
fn a_running_vps_shows_its_temporary_root() {
    assert_eq!(
        render_list(&[vps()]),
        "\
ID     NAME  STATE    ADDRESS  TEMPLATE                ROOT                       DISK  MEMORY
11327  web1  running  -        debian-12-impermanence  11327.impermanence-c5a8b7  120G  2G
"
    );
    assert_eq!(
        render_one(&vps(), 1_763_837_065_000),
        "\
id:            11327
name:          web1
state:         running for 1m 5s
template:      debian-12-impermanence
base:          debian-12-impermanence (abababababababab), pinned
impermanence:  on, root quota 10G, root kind template
storage:       /persistent
run:           c5a8b7, since 2025-11-22 18:43:20Z, launched in 31.2 ms, init is process 4711
root:          11327.impermanence-c5a8b7, a clone of abababababababab
disk space:    120G, 20G unassigned
memory:        2G
swap:          none
cpus:          1.5
processes:     8192
on crash:      restart
autostart:     last
host ids:      1048576 to 1310719

DATASET         QUOTA  USED  MOUNTED AT
11327           80G    3M    /persistent
11327/srv/data  20G    -     -
"
    );
}

#[test]
fn a_stopped_vps_shows_what_it_kept() {
    let mut v = vps();
    v.state = VpsState::Stopped;
    v.last_root = v.run.take().map(|run| run.root);
    v.impermanence = None;
    assert!(
        render_list(&[v.clone()])
            .contains("11327  web1  stopped  -        debian-12-impermanence  -     120G  2G\n")
    );
    let text = render_one(&v, 0);
    assert!(
        text.contains("state:         stopped, though it ought to run\n"),
        "{text}"
    );
    assert!(
        text.contains("last root:     11327.impermanence-c5a8b7, kept until the next start\n"),
        "{text}"
    );
    assert!(text.contains("impermanence:  off\n"), "{text}");
}

#[test]
fn trouble_is_told_in_full_and_escaped() {
    let mut v = vps();
    v.state = VpsState::NeedsOperator;
    v.why = Some("undo failed\x1b[2J".into());
    v.notes = vec!["could not look at the pool".into()];
    let text = render_one(&v, 0);
    assert!(
        text.contains("state:         needs operator\nwhy:           undo failed\\u{1b}[2J\n"),
        "{text}"
    );
    assert!(
        text.contains("note:          could not look at the pool\n"),
        "{text}"
    );
}
