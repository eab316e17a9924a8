//! Answers that OpenZFS 2.3.9 gave, whole and damaged.

use super::*;

const TABLE: &str = include_str!("../testdata/get.table");
const JSON: &str = include_str!("../testdata/get.json");
const GUIDS: &str = include_str!("../testdata/guids.json");
const NEWLINE: &str = include_str!("../testdata/newline.table");

fn by_name(rows: Vec<Row>) -> BTreeMap<String, Row> {
    rows.into_iter()
        .map(|row| (row.name.clone(), row))
        .collect()
}

fn source(row: &Row) -> Option<Source> {
    row.get("mayfly:mark").map(|property| property.source)
}

#[test]
fn both_forms_say_the_same() {
    let table = by_name(from_table(TABLE.as_bytes()).unwrap());
    let json = by_name(from_json(JSON.as_bytes()).unwrap());
    for rows in [&table, &json] {
        assert_eq!(
            rows.keys().map(String::as_str).collect::<Vec<_>>(),
            [
                "tank/t",
                "tank/t/101",
                "tank/t/101/nix",
                "tank/t/copy",
                "tank/t/vol"
            ]
        );
        assert_eq!(source(&rows["tank/t"]), None);
        assert_eq!(source(&rows["tank/t/101"]), Some(Source::Local));
        assert_eq!(source(&rows["tank/t/101/nix"]), Some(Source::Inherited));
        assert_eq!(source(&rows["tank/t/copy"]), Some(Source::Received));
        let mark = rows["tank/t/101"].get("mayfly:mark").unwrap();
        assert_eq!(mark.value, r#"{"version":1,"x":"a b\"c"}"#);
        assert_eq!(rows["tank/t/101"].number("refquota"), Ok(1 << 30));
        assert_eq!(rows["tank/t/vol"].get("refquota"), None);
        assert!(rows["tank/t/vol"].number("refquota").is_err());
    }
    let mark = |rows: &BTreeMap<String, Row>| {
        rows.values()
            .map(|row| row.get("mayfly:mark").cloned())
            .collect::<Vec<_>>()
    };
    assert_eq!(mark(&table), mark(&json));
}

#[test]
fn numbers_are_whole_up_to_the_last_bit() {
    let rows = by_name(from_json(GUIDS.as_bytes()).unwrap());
    assert_eq!(rows["tank"].number("guid"), Ok(16_808_635_103_203_466_401));
}

#[test]
fn a_part_of_an_answer_is_no_answer() {
    for end in 1..JSON.trim_end().len() {
        assert!(from_json(&JSON.as_bytes()[..end]).is_err(), "cut at {end}");
    }
    assert!(from_json(b"").is_err());
    for end in 1..TABLE.len() {
        let whole_lines = TABLE.as_bytes()[end - 1] == b'\n';
        // A table has no end of its own: cut between two lines it looks whole, and the exit status has to tell.
        assert_eq!(
            from_table(&TABLE.as_bytes()[..end]).is_ok(),
            whole_lines,
            "cut at {end}"
        );
    }
}

#[test]
fn what_is_not_understood_is_an_error() {
    // A property whose value has a newline tears a line in two.
    assert!(from_table(NEWLINE.as_bytes()).is_err());
    assert!(from_table(b"tank\tguid\t1\n").is_err());
    assert!(from_table(b"tank\tguid\t1\tfrom afar\n").is_err());
    assert!(from_table(b"tank\tguid\t\xff\t-\n").is_err());
    for json in [
        r#"{"output_version":{"vers_major":1},"datasets":{}}"#,
        r#"{"datasets":{}}"#,
        r#"{"output_version":{"vers_major":0},"datasets":{"t":{"name":"t","properties":{"guid":{"value":[],"source":{"type":"NONE"}}}}}}"#,
        r#"{"output_version":{"vers_major":0},"datasets":{"t":{"name":"t","properties":{"guid":{"value":"1","source":{"type":"ELSEWHERE"}}}}}}"#,
    ] {
        assert!(from_json(json.as_bytes()).is_err(), "{json}");
    }
}
