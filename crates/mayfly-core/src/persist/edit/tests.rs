use proptest::prelude::*;

use super::*;
use crate::persist::read::parse_toml;

fn at(path: &str) -> TreePath {
    TreePath::parse(path).unwrap()
}

fn entry(path: &str, kind: PathKind) -> Entry {
    Entry {
        path: at(path),
        kind,
        tier: None,
        method: None,
        enable: true,
    }
}

fn directory(path: &str) -> Entry {
    entry(path, PathKind::Directory)
}

fn file(path: &str) -> Entry {
    entry(path, PathKind::File)
}

fn added(text: &str, entry: &Entry) -> String {
    let mut editor = Editor::parse(text).unwrap();
    editor.add(&at("/persistent"), entry).unwrap();
    editor.text()
}

fn without(text: &str, path: &str) -> String {
    let mut editor = Editor::parse(text).unwrap();
    assert_eq!(
        editor.take_out(&at(path), true, &People::new()),
        1,
        "{text}"
    );
    editor.text()
}

#[test]
fn a_new_file_begins_with_what_it_is() {
    let mut editor = Editor::new();
    editor
        .add(&at("/persistent"), &directory("/srv/data"))
        .unwrap();
    let copy = Entry {
        method: Some(Method::Copy),
        tier: Some(Tier::Cache),
        ..file("/etc/app.conf")
    };
    editor.add(&at("/persistent"), &copy).unwrap();
    assert_eq!(
        editor.text(),
        format!(
            "{HEAD}\n[\"/persistent\"]\ndirectories = [\n    \"/srv/data\",\n]\n\
             files = [\n    {{ file = \"/etc/app.conf\", tier = \"cache\", method = \"copy\" }},\n]\n"
        )
    );
}

const WRITTEN: &str = r#"# ours

["/persistent"]     # the storage
presets = ["base"]
directories = [
  # of the database
  "/var/lib/postgresql", # big
  { directory = "/srv/old", enable = false },
  "/srv/new" # the last, without a comma
  ] # the end

# of people
["/persistent".users.talyz]
directories = ["Downloads", { directory = ".ssh", mode = "0700" }]
# nothing more
"#;

#[test]
fn order_comments_and_spelling_stay() {
    let now = added(WRITTEN, &directory("/srv/more"));
    let wanted = WRITTEN.replace(
        "  \"/srv/new\" # the last, without a comma\n  ] # the end",
        "  \"/srv/new\", # the last, without a comma\n  \"/srv/more\",\n  ] # the end",
    );
    assert_eq!(now, wanted);
    let now = added(&now, &file("/etc/x"));
    let wanted = wanted.replace(
        "] # the end\n",
        "] # the end\nfiles = [\n    \"/etc/x\",\n]\n",
    );
    assert_eq!(now, wanted);
    let back = without(&now, "/srv/more");
    assert_eq!(
        back,
        now.replace("  \"/srv/more\",\n", ""),
        "the comment on the line before stays"
    );
}

#[test]
fn what_is_taken_out_leaves_the_comments_around_it() {
    let now = without(WRITTEN, "/var/lib/postgresql");
    assert!(!now.contains("postgresql"), "{now}");
    for line in WRITTEN.lines().filter(|line| line.contains('#')) {
        let (_, comment) = line.split_once('#').unwrap();
        assert!(now.contains(comment), "{comment}: {now}");
    }
    let mut editor = Editor::parse(&now).unwrap();
    assert_eq!(editor.take_out(&at("/srv/old"), true, &People::new()), 0);
    assert_eq!(editor.take_out(&at("/srv/old"), false, &People::new()), 1);
    assert_eq!(
        editor.take_out(&at("/home/talyz/.ssh"), true, &People::new()),
        1,
        "of a user, by the home that nobody named"
    );
    assert!(
        editor.text().contains("directories = [\"Downloads\"]"),
        "{}",
        editor.text()
    );
}

#[test]
fn a_file_may_be_written_in_any_way() {
    let ways = [
        "\"/persistent\" = { directories = [\"/a\"], files = [\"/f\"] }\n",
        "\"/persistent\".directories = [\"/a\"]\n\"/persistent\".files = [ \"/f\" ]\n",
        "[[\"/persistent\".directories]]\ndirectory = \"/a\"\n\n[[\"/persistent\".files]]\nfile = \"/f\"\n",
        "['//persistent/']\r\ndirectories = [\r\n\t'/a',\r\n]\r\nfiles = [ '''/f''' ]\r\n",
        "[\"/persistent\".users.root]\nfiles = [\".x\"]\n",
        "",
        "# nothing but a comment",
    ];
    for way in ways {
        let mut editor = Editor::parse(way).unwrap();
        let storage = at("/persistent");
        editor.add(&storage, &directory("/b c")).unwrap();
        editor.add(&storage, &file("/g\"'é")).unwrap();
        let text = editor.text();
        let read = parse_toml(&text);
        assert!(read.problems.is_empty(), "{text}: {:?}", read.problems);
        assert_eq!(read.storages.len(), 1, "{text}");
        let settings = &read.storages[&storage];
        let old = parse_toml(way)
            .storages
            .remove(&storage)
            .unwrap_or_default();
        assert_eq!(
            settings.directories.len(),
            old.directories.len() + 1,
            "{text}"
        );
        assert_eq!(settings.directories.last().unwrap().directory, "/b c");
        assert_eq!(settings.files.last().unwrap().file, "/g\"'é");
        assert_eq!(settings.users, old.users);
        for path in ["/b c", "/g\"'é"] {
            assert_eq!(
                editor.take_out(&at(path), true, &People::new()),
                1,
                "{text}"
            );
        }
        let left = parse_toml(&editor.text())
            .storages
            .remove(&storage)
            .unwrap();
        assert_eq!((left.directories, left.files), (old.directories, old.files));
    }
}

#[test]
fn what_is_in_the_way_is_named() {
    for (text, what) in [
        ("\"/persistent\" = 1", "`/persistent` is no table"),
        (
            "[\"/persistent\"]\ndirectories = \"/a\"",
            "`/persistent.directories` is no list",
        ),
        (
            "[\"/persistent\".directories]\nx = 1",
            "`/persistent.directories` is no list",
        ),
    ] {
        let mut editor = Editor::parse(text).unwrap();
        let why = editor
            .add(&at("/persistent"), &directory("/b"))
            .unwrap_err();
        assert!(why.starts_with(what), "{why}");
        assert_eq!(editor.text().trim_end(), text, "nothing was changed");
    }
}

/// Its values, each with what is before and behind it; whether a comma ends it, and what stands before its bracket.
type List = (Vec<(usize, bool, String, String)>, bool, String);

/// Lists as people write them: in a line or in several, with comments, with a comma at the end or without.
fn written() -> impl Strategy<Value = String> {
    let gap = prop_oneof![
        Just(" ".to_owned()),
        Just("\n  ".to_owned()),
        "  # c[0-9]{4}\n\t"
    ];
    let one = (0_usize..40, any::<bool>(), gap.clone(), gap.clone());
    let list = (prop::collection::vec(one, 0..6), any::<bool>(), gap);
    (list.clone(), list, "(# t[0-9]{4}\n){0,2}").prop_map(|(directories, files, tail)| {
        let line = |name: &str, key: &str, (items, comma, end): List| {
            let mut text = format!("{name} = [");
            let count = items.len();
            for (number, (path, table, before, after)) in items.into_iter().enumerate() {
                text.push_str(&before);
                text.push_str(&match table {
                    true => format!("{{ {key} = \"/p{path}\", tier = \"cache\" }}"),
                    false => format!("\"/p{path}\""),
                });
                if number + 1 < count || comma {
                    text.push_str(&after);
                    text.push(',');
                }
            }
            text.push_str(&end);
            text.push_str("]\n");
            text
        };
        format!(
            "[\"/persistent\"]\n{}{}{tail}",
            line("directories", "directory", directories),
            line("files", "file", files)
        )
    })
}

fn comments(text: &str) -> Vec<String> {
    let found = text.split('#').skip(1);
    let mut all: Vec<String> = found
        .map(|c| c.trim_start().chars().take(5).collect())
        .collect();
    all.sort();
    all
}

proptest! {
    #[test]
    fn what_is_added_is_read_back_and_everything_else_stays(
        text in written(), number in 0_usize..60, is_file: bool, tier: bool,
    ) {
        let before = parse_toml(&text);
        let path = format!("/p{number}");
        let kind = if is_file { PathKind::File } else { PathKind::Directory };
        let new = Entry { tier: tier.then_some(Tier::Ignore), ..entry(&path, kind) };
        let mut editor = Editor::parse(&text).unwrap();
        editor.add(&at("/persistent"), &new).unwrap();
        let now = editor.text();
        let read = parse_toml(&now);
        prop_assert!(read.problems.is_empty(), "{}: {:?}", now, read.problems);
        let (mut was, mut is) = (before.storages[&at("/persistent")].clone(), read.storages[&at("/persistent")].clone());
        let (last, tier_is) = match kind {
            PathKind::File => is.files.pop().map(|f| (f.file, f.tier)).unwrap(),
            PathKind::Directory => is.directories.pop().map(|d| (d.directory, d.tier)).unwrap(),
        };
        prop_assert_eq!(&last, &path);
        prop_assert_eq!(tier_is, if tier { Tier::Ignore } else { Tier::Data });
        prop_assert_eq!(&was, &is);
        prop_assert_eq!(comments(&text), comments(&now));

        let mut editor = Editor::parse(&now).unwrap();
        let taken = editor.take_out(&at(&path), true, &People::new());
        let left = parse_toml(&editor.text());
        prop_assert!(left.problems.is_empty(), "{}: {:?}", editor.text(), left.problems);
        was.directories.retain(|d| d.directory != path);
        was.files.retain(|f| f.file != path);
        let of = &before.storages[&at("/persistent")];
        prop_assert_eq!(taken, 1 + of.directories.len() + of.files.len() - was.directories.len() - was.files.len());
        prop_assert_eq!(&left.storages[&at("/persistent")], &was);
        prop_assert_eq!(comments(&text), comments(&editor.text()));
    }
}
