use super::*;
use std::collections::BTreeMap;

use super::super::listing::Property;

/// As OpenZFS 2.3.9 prints it.
const WHOLE: &str = "health\tONLINE\nreadonly\toff\nfeature@async_destroy\tenabled\nfeature@extensible_dataset\tactive\n";

fn refusal(result: HostResult<impl std::fmt::Debug>) -> Refusal {
    match result {
        Err(HostError::Refused(refusal)) => refusal,
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

#[test]
fn versions_are_told_from_what_debian_and_others_call_them() {
    for (text, version) in [
        ("zfs-2.3.9-0+deb13u1", Version(2, 3)),
        ("zfs-kmod-2.4.0-rc3", Version(2, 4)),
        ("2.2.10-1\n", Version(2, 2)),
        ("2.12.1", Version(2, 12)),
    ] {
        assert_eq!(Version::parse(text), Some(version), "{text}");
    }
    assert_eq!(Version::parse("unknown"), None);
    assert!(Version(2, 12) > Version::WITH_JSON && Version(2, 2) < Version::WITH_JSON);
}

#[test]
fn the_older_of_module_and_commands_decides() {
    assert_eq!(
        judge_version(Version(2, 2), Version(2, 3)),
        Ok(Version(2, 3))
    );
    for (module, commands) in [
        (Version(2, 1), Version(2, 3)),
        (Version(2, 3), Version(2, 1)),
    ] {
        let refused = refusal(judge_version(module, commands));
        assert_eq!(refused.code, Code::HostUnsuitable);
        assert!(refused.message.contains("2.1 is too old"), "{refused:?}");
        assert!(refused.hint.contains("apt install"), "{refused:?}");
    }
}

#[test]
fn a_zpool_is_judged_by_health_and_features() {
    assert_eq!(judge_zpool("tank", WHOLE, Health::Whole), Ok(()));
    let degraded = WHOLE.replace("ONLINE", "DEGRADED");
    assert_eq!(judge_zpool("tank", &degraded, Health::Usable), Ok(()));
    let refused = refusal(judge_zpool("tank", &degraded, Health::Whole));
    assert!(refused.hint.contains("zpool replace"), "{refused:?}");
    for state in ["FAULTED", "UNAVAIL", "SUSPENDED", "REMOVED"] {
        let text = WHOLE.replace("ONLINE", state);
        let refused = refusal(judge_zpool("tank", &text, Health::Usable));
        assert_eq!(refused.code, Code::PoolUnavailable);
        assert!(refused.message.contains(state), "{refused:?}");
    }
    let disabled = WHOLE.replace("extensible_dataset\tactive", "extensible_dataset\tdisabled");
    let refused = refusal(judge_zpool("tank", &disabled, Health::Whole));
    assert!(
        refused
            .hint
            .contains("zpool set feature@extensible_dataset=enabled tank"),
        "{refused:?}"
    );
    let read_only = WHOLE.replace("readonly\toff", "readonly\ton");
    assert!(
        refusal(judge_zpool("tank", &read_only, Health::Usable))
            .message
            .contains("read-only")
    );
}

#[test]
fn half_an_answer_is_a_look_that_failed() {
    for end in 0..WHOLE.len() - 1 {
        let judged = judge_zpool("tank", &WHOLE[..end], Health::Whole);
        assert!(judged.is_err(), "cut at {end}");
    }
    let judged = judge_zpool("tank", "health\tONLINE\n", Health::Whole);
    assert!(matches!(judged, Err(HostError::Look(_))), "{judged:?}");
}

#[test]
fn a_pool_is_a_dataset_of_its_own() {
    for good in ["tank/ct", "tank/a.b-c_d/ct:1", "rpool/data/mayfly"] {
        assert_eq!(check_name(good), Ok(()), "{good}");
    }
    for bad in [
        "tank",
        "",
        "/tank/ct",
        "tank//ct",
        "tank/ct/",
        "tank/../x",
        "tank/a b",
        "tank/ct@now",
        "-o/x",
        "tank/-x",
        "tank/\n",
    ] {
        assert!(check_name(bad).is_err(), "{bad} was taken");
    }
    assert!(check_name(&format!("tank/{}", "x".repeat(60))).is_err());
}

#[test]
fn only_a_local_record_of_this_node_makes_a_pool_ours() {
    let node = NodeId::from_random([1; 8]);
    let record = serde_json::to_string(&PoolRecord::of(&node)).unwrap();
    let owned = |record: Option<&str>, source, node: &NodeId| {
        let properties = record.map(|value| {
            let value = value.to_owned();
            (POOL.to_owned(), Property { value, source })
        });
        let row = Row {
            name: "tank/ct".to_owned(),
            properties: properties.into_iter().collect::<BTreeMap<_, _>>(),
        };
        check_owner(&row, node)
    };
    assert_eq!(owned(None, Source::None, &node), Ok(false));
    assert_eq!(owned(Some(&record), Source::Local, &node), Ok(true));
    for source in [Source::Received, Source::Inherited] {
        let refused = refusal(owned(Some(&record), source, &node));
        assert_eq!(refused.code, Code::PoolForeign);
    }
    let other = NodeId::from_random([2; 8]);
    let refused = refusal(owned(Some(&record), Source::Local, &other));
    assert_eq!(refused.code, Code::PoolForeign);
    let damaged = owned(Some("{"), Source::Local, &node);
    assert!(matches!(damaged, Err(HostError::Look(_))), "{damaged:?}");
}
