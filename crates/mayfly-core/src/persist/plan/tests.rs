//! What is planned for whom, and what holds for every plan.

use proptest::prelude::*;

use super::super::declare::Source;
use super::super::read::{parse_toml, parse_value};
use super::super::unite::unite;
use super::*;

fn people() -> People {
    let mut people = People::new();
    people
        .add_passwd("me:x:1000:100::/althome/me:/bin/sh\nbenny:x:1001:1001::/home/benny:/bin/sh\n");
    people.add_group("users:x:100:\nbenny:x:1001:\n");
    people
}

fn planned(text: &str) -> (Wanted, Plan) {
    let guest = parse_toml(text);
    let wanted = unite(&Source::default(), &guest, &people());
    let plan = plan(&wanted, &people(), &BTreeMap::new());
    (wanted, plan)
}

fn show(wanted: &Wanted, plan: &Plan) -> Vec<String> {
    let name = |n: &usize| wanted.declarations[*n].path.to_string();
    let step = |step: &Step| match step {
        Step::Base { storage } => format!("base {storage}"),
        Step::Store {
            storage,
            path,
            owner: o,
        } => {
            format!("store {storage} {path} {}:{} {:04o}", o.uid, o.gid, o.mode)
        }
        Step::Mirror { storage, path } => format!("mirror {storage} {path}"),
        Step::Point { storage, path } => format!("point {storage} {path}"),
        Step::Bind { declaration } => format!("bind {}", name(declaration)),
        Step::Place { declaration } => format!("place {}", name(declaration)),
    };
    plan.steps.iter().map(step).collect()
}

#[test]
fn a_plan_is_one_pass_from_the_top() {
    let (wanted, plan) = planned(
        r#"
        ["/p"]
        directories = ["/foo/bar/bazz/luhrmann", { directory = "/foo/bar/bazz", mode = "0700", user = "benny", group = "benny" }]
        files = ["/etc/machine-id"]
        users.me.directories = [".config/x"]
        users.me.files = [".screenrc"]
        "#,
    );
    assert_eq!(
        show(&wanted, &plan),
        [
            "base /p",
            "store /p /althome 0:0 0755",
            "mirror /p /althome",
            "store /p /althome/me 1000:100 0700",
            "mirror /p /althome/me",
            "store /p /althome/me/.config 1000:100 0755",
            "mirror /p /althome/me/.config",
            "store /p /althome/me/.config/x 1000:100 0755",
            "mirror /p /althome/me/.config/x",
            "bind /althome/me/.config/x",
            "place /althome/me/.screenrc",
            "store /p /etc 0:0 0755",
            "mirror /p /etc",
            "place /etc/machine-id",
            "store /p /foo 0:0 0755",
            "mirror /p /foo",
            "store /p /foo/bar 0:0 0755",
            "mirror /p /foo/bar",
            "store /p /foo/bar/bazz 1001:1001 0700",
            "mirror /p /foo/bar/bazz",
            "bind /foo/bar/bazz",
            "store /p /foo/bar/bazz/luhrmann 0:0 0755",
        ]
    );
    assert_eq!(plan.without.len(), 1);
    assert!(
        plan.without
            .values()
            .all(|w| matches!(w, Without::Inside(_)))
    );
}

#[test]
fn a_home_is_its_users_whoever_owns_what_is_in_it() {
    let text = r#"
        ["/p"]
        users.me.directories = [{ directory = "shared", user = "benny", group = "benny" }]
        "#;
    let (wanted, plan) = planned(text);
    assert!(show(&wanted, &plan).contains(&"store /p /althome/me 1000:100 0700".to_owned()));
    let (wanted, plan) = planned(&format!("{text}\nlikeModule = true"));
    assert!(show(&wanted, &plan).contains(&"store /p /althome/me 1001:1001 0700".to_owned()));
}

#[test]
fn the_module_gives_a_declared_parent_the_defaults() {
    let text = r#"
        ["/p"]
        directories = ["/a/b", { directory = "/a", mode = "0700" }]
        "#;
    let (wanted, plan) = planned(text);
    assert!(show(&wanted, &plan).contains(&"store /p /a 0:0 0700".to_owned()));
    let (wanted, plan) = planned(&format!("{text}\nlikeModule = true"));
    assert!(show(&wanted, &plan).contains(&"store /p /a 0:0 0755".to_owned()));
}

#[test]
fn what_cannot_stay_is_refused_and_the_rest_is_not() {
    let text = r#"
        ["/p"]
        directories = ["/", "/p", "/p/x", "/proc/x", "/good", "/both", "/a/../b", { directory = "/twice", mode = "0700" }, "/twice"]
        files = ["/both", "/f", "/f/g/h"]
        ["/p/q/r"]
        directories = ["/p/q", "/other"]
        "#;
    let (wanted, plan) = planned(text);
    let refused: Vec<_> = plan
        .without
        .iter()
        .filter(|(_, w)| matches!(w, Without::Refused(_)))
        .map(|(n, _)| wanted.declarations[*n].path.to_string())
        .collect();
    assert_eq!(
        refused,
        ["/", "/p", "/p/x", "/proc/x", "/p/q", "/both", "/f"]
    );
    let shown = show(&wanted, &plan);
    for step in [
        "bind /good",
        "bind /both",
        "bind /other",
        "place /f/g/h",
        "store /p /twice 0:0 0700",
    ] {
        assert!(shown.contains(&step.to_owned()), "{step}: {shown:?}");
    }
    let (wanted, plan) = planned(&format!("{text}\nstrict = true"));
    assert!(plan.steps.is_empty() && plan.without.len() == wanted.declarations.len());
}

#[test]
fn two_storages_share_parents_and_nest() {
    let (wanted, plan) = planned(
        r#"
        ["/s1"]
        directories = ["/one/two"]
        ["/s2"]
        directories = ["/one/two/three/four"]
        files = ["/one/go"]
        "#,
    );
    let shown = show(&wanted, &plan);
    let want = [
        "base /s1",
        "base /s2",
        "store /s1 /one 0:0 0755",
        "store /s2 /one 0:0 0755",
        "mirror /s2 /one",
        "place /one/go",
        "store /s1 /one/two 0:0 0755",
        "store /s2 /one/two 0:0 0755",
        "mirror /s1 /one/two",
        "bind /one/two",
        "store /s2 /one/two/three 0:0 0755",
        "point /s2 /one/two/three",
        "store /s2 /one/two/three/four 0:0 0755",
        "point /s2 /one/two/three/four",
        "bind /one/two/three/four",
    ];
    assert_eq!(shown, want);
}

#[test]
fn an_unknown_owner_leaves_a_directory_to_root() {
    let (_, plan) = planned(
        "[\"/p\"]\ndirectories = [{ directory = \"/a\", user = \"ghost\", mode = \"0755\" }]\nusers.new.files = [\"x\"]",
    );
    let unknown: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Store {
                owner:
                    Owner {
                        uid: 0,
                        gid: 0,
                        mode: 0o700,
                        unknown: Some(name),
                    },
                ..
            } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(unknown, ["ghost", "new"]);
}

#[test]
fn the_guest_replaces_and_takes_away_what_the_manifest_declares() {
    let manifest = parse_toml(
        r#"
        ["/p"]
        presets = ["base", "accounts"]
        directories = ["/var/lib/nixos", { directory = "/srv", mode = "0700" }, "/opt"]
        ["/q"]
        directories = ["/gone"]
        "#,
    );
    let guest = parse_toml(
        r#"
        ["/p"]
        presets.accounts = false
        directories = [{ directory = "/var/log", enable = false }, { directory = "/srv", tier = "cache" }]
        ["/q"]
        enable = false
        "#,
    );
    let wanted = unite(&manifest, &guest, &people());
    let paths: Vec<_> = wanted
        .declarations
        .iter()
        .map(|d| d.path.as_str())
        .collect();
    assert!(
        !paths.contains(&"/var/log") && !paths.contains(&"/gone"),
        "{paths:?}"
    );
    assert!(paths.contains(&"/var/lib/systemd") && paths.contains(&"/opt"));
    let srv: Vec<_> = wanted
        .declarations
        .iter()
        .filter(|d| d.path.as_str() == "/srv")
        .collect();
    assert_eq!((srv.len(), srv[0].said.mode), (1, None));
    assert!(wanted.accounts.is_empty());
    let disabled: Vec<_> = wanted.disabled.iter().map(|p| p.as_str()).collect();
    assert_eq!(disabled, ["/var/log", "/gone"]);
    assert!(wanted.problems.is_empty(), "{:?}", wanted.problems);

    let guest = parse_toml("[\"/p\"]\ndefaults = false\ndirectories = [\"/mine\"]");
    let wanted = unite(&manifest, &guest, &people());
    let paths: Vec<_> = wanted
        .declarations
        .iter()
        .map(|d| d.path.as_str())
        .collect();
    assert_eq!(paths, ["/mine", "/gone"]);
}

#[test]
fn as_many_declarations_as_fit_into_the_limits_are_planned_in_no_time() {
    let list: String = (0..4_000)
        .map(|n| format!("\"/d{n}/{}\",", "x/".repeat(10)))
        .collect();
    let text = format!("[\"/p\"]\ndirectories = [{list}]");
    let begun = std::time::Instant::now();
    let (_, plan) = planned(&text);
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    assert!(
        plan.without
            .values()
            .any(|w| matches!(w, Without::Refused(_)))
    );
    assert!(plan.steps.len() <= 3 * limits::DIRECTORIES);
}

proptest! {
    #[test]
    fn every_plan_is_sorted_whole_and_the_same_again(
        one in super::super::read::tests::any_value(),
        two in super::super::read::tests::any_value(),
        like_module in any::<bool>(),
        strict in any::<bool>(),
    ) {
        let (one, two) = (parse_value(&one), parse_value(&two));
        let mut wanted = unite(&one, &two, &people());
        wanted.like_module = like_module;
        wanted.strict = strict;
        let plan = plan(&wanted, &people(), &BTreeMap::new());
        prop_assert_eq!(&plan, &super::plan(&wanted, &people(), &BTreeMap::new()));
        // Every declaration is bound, placed, or has its reason; none has both.
        let mut seen: Vec<usize> = plan.without.keys().copied().collect();
        let mut last = TreePath::top();
        let mut stored: std::collections::BTreeSet<(TreePath, TreePath)> = Default::default();
        for step in &plan.steps {
            let path = match step {
                Step::Base { .. } => continue,
                Step::Store { storage, path, .. } => {
                    if let Some(parent) = path.parent().filter(|p| !p.is_top()) {
                        prop_assert!(stored.contains(&(storage.clone(), parent)));
                    }
                    stored.insert((storage.clone(), path.clone()));
                    path
                }
                Step::Mirror { storage, path } | Step::Point { storage, path } => {
                    prop_assert!(stored.contains(&(storage.clone(), path.clone())));
                    path
                }
                Step::Bind { declaration } | Step::Place { declaration } => {
                    seen.push(*declaration);
                    &wanted.declarations[*declaration].path
                }
            };
            prop_assert!(*path >= last);
            last = path.clone();
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..wanted.declarations.len()).collect::<Vec<_>>());
    }
}
