//! What is true of the file only: durability, the lock, the schema, and what failures are called.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::*;
use mayfly_core::documents::SCHEMA;

use crate::store::Condition;

const NOW: Duration = Duration::ZERO;

fn frozen() -> Monotonic {
    Arc::new(|| Duration::from_secs(1000))
}

fn at(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, frozen())
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    (dir, path)
}

fn put(store: &SqliteStore, key: &str, value: &str) -> Result<TxnOutcome, StoreError> {
    let writes = vec![Write::Put(key.to_owned(), value.to_owned())];
    store.txn(Txn {
        conditions: vec![],
        writes,
    })
}

/// Runs the test `child` of this program in another process, on that file.
#[expect(
    clippy::disallowed_methods,
    reason = "the test is a process of its own"
)]
fn other_process(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg(format!(
            "{}::child",
            module_path!().split_once("::").unwrap().1
        ))
        .env("STORE_UNDER_TEST", path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "the other process of the tests below; it does nothing by itself"]
fn child() {
    let Some(path) = std::env::var_os("STORE_UNDER_TEST") else {
        return;
    };
    let store = match at(Path::new(&path)) {
        Ok(store) => store,
        Err(why) => {
            println!("\nrefused: {why}");
            return;
        }
    };
    for n in 0.. {
        let outcome = put(&store, "/n", &n.to_string()).unwrap();
        println!("\ndurable {n}: {outcome:?}");
    }
}

#[test]
fn everything_is_there_again_after_a_reopen() {
    let (_dir, path) = scratch();
    let store = at(&path).unwrap();
    put(&store, "/a", "1").unwrap();
    put(&store, "/a", "2").unwrap();
    let lease = store.grant(Duration::from_secs(10)).unwrap();
    let writes = vec![Write::PutLeased("/b".to_owned(), "3".to_owned(), lease)];
    store
        .txn(Txn {
            conditions: vec![],
            writes,
        })
        .unwrap();
    let before = (
        store.range("/").unwrap(),
        store.watch("/", Revision(0), NOW).unwrap(),
    );
    drop(store);

    let store = at(&path).unwrap();
    let after = (
        store.range("/").unwrap(),
        store.watch("/", Revision(0), NOW).unwrap(),
    );
    assert_eq!(before, after);
    store.keep_alive(lease).unwrap();
    store.revoke(lease).unwrap();
    assert_eq!(store.get("/b").unwrap(), None);
    drop(store);
    assert!(
        at(&path).unwrap().grant(NOW).unwrap() > lease,
        "a lease's number was used again"
    );
}

#[test]
fn a_lease_has_its_whole_time_after_a_reopen() {
    let (_dir, path) = scratch();
    let store = at(&path).unwrap();
    let lease = store.grant(Duration::from_secs(10)).unwrap();
    let writes = vec![Write::PutLeased("/a".to_owned(), "1".to_owned(), lease)];
    store
        .txn(Txn {
            conditions: vec![],
            writes,
        })
        .unwrap();
    drop(store);
    let later = |seconds| -> Monotonic { Arc::new(move || Duration::from_secs(seconds)) };
    // Even where the clock began anew with the machine.
    for seconds in [5, 500_000] {
        let store = SqliteStore::open(&path, later(seconds)).unwrap();
        assert!(
            store.get("/a").unwrap().is_some(),
            "it was gone at {seconds} s"
        );
    }
}

#[test]
fn nothing_durable_is_lost_when_the_process_is_killed() {
    let (_dir, path) = scratch();
    let mut child = other_process(&path);
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(
        lines
            .by_ref()
            .filter(|line| line.starts_with("durable"))
            .nth(50)
            .is_some()
    );

    let refused = at(&path).err().unwrap();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");

    child.kill().unwrap();
    child.wait().unwrap();
    let told = lines
        .filter(|line| line.starts_with("durable"))
        .last()
        .unwrap();
    let told = told
        .split(['(', ')'])
        .find_map(|part| part.parse::<u64>().ok())
        .unwrap();
    let store = at(&path).unwrap();
    let entry = store.get("/n").unwrap().unwrap();
    let kept = entry.mod_revision.0;
    assert!(
        kept == told || kept == told + 1,
        "{told} was told durable, {kept} is there"
    );
    assert_eq!(entry.value, (kept - 1).to_string());
}

#[test]
fn a_second_process_is_refused_while_the_first_has_it() {
    let (_dir, path) = scratch();
    let store = at(&path).unwrap();
    put(&store, "/a", "1").unwrap();
    let refused = at(&path).err().unwrap();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
    let output = other_process(&path).wait_with_output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("refused: the state in"), "{told}");
    assert!(told.contains("is in use by another process"), "{told}");
    put(&store, "/a", "2").unwrap();
}

#[test]
fn the_files_are_their_owners_alone() {
    let (dir, path) = scratch();
    let assert_private = || {
        for file in fs::read_dir(dir.path()).unwrap() {
            let file = file.unwrap();
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.path().display());
        }
    };
    let store = at(&path).unwrap();
    put(&store, "/a", "1").unwrap();
    assert_private();
    drop(store);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let store = at(&path).unwrap();
    put(&store, "/a", "1").unwrap();
    assert_private();
}

#[test]
fn commits_are_synced() {
    let (_dir, path) = scratch();
    let store = at(&path).unwrap();
    let inner = store.lock();
    let pragma = |name| -> String {
        inner
            .conn
            .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|value| format!("{value:?}"))
            .unwrap()
    };
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
    assert_eq!(pragma("synchronous"), "Integer(2)");
    assert_eq!(pragma("locking_mode"), "Text(\"exclusive\")");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let (_dir, path) = scratch();
    drop(at(&path).unwrap());
    let conn = Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 7).unwrap();
    drop(conn);
    let before = fs::read(&path).unwrap();
    let refused = at(&path).err().unwrap();
    assert!(
        matches!(
            refused,
            StoreError::Newer {
                found: 7,
                known: SCHEMA,
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_migration_saves_a_copy_first() {
    let (dir, path) = scratch();
    let store = at(&path).unwrap();
    put(&store, "/a", "1").unwrap();
    drop(store);
    let newer = &[
        open::SCHEMAS,
        &["ALTER TABLE store ADD COLUMN cluster TEXT"],
    ]
    .concat();
    // What a cut-off save left is no hindrance.
    fs::write(dir.path().join("state.db.saving"), "half").unwrap();
    let conn = open::open(&path, newer).unwrap();
    conn.execute("UPDATE store SET cluster = 'c'", []).unwrap();
    drop(conn);
    assert!(matches!(
        at(&path),
        Err(StoreError::Newer {
            found,
            known: SCHEMA,
            ..
        }) if found == SCHEMA + 1
    ));

    let saved = dir
        .path()
        .join(format!("state.db.schema-{SCHEMA}.revision-1"));
    assert_eq!(
        fs::metadata(&saved).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(at(&saved).unwrap().get("/a").unwrap().unwrap().value, "1");
    assert!(!dir.path().join("state.db.saving").try_exists().unwrap());
}

#[test]
fn documents_of_the_first_schema_are_brought_up_to_date() {
    let (dir, path) = scratch();
    let conn = open::open(&path, &open::SCHEMAS[..1]).unwrap();
    let insert = "INSERT INTO entries VALUES (?1, ?2, 1, 1, NULL)";
    let old = r#"{"schema":1,"id":100}"#;
    for (key, value) in [("/vps/100", old), ("/text", "schema"), ("/number", "1")] {
        conn.execute(insert, [key, value]).unwrap();
    }
    drop(conn);
    let store = at(&path).unwrap();
    let value = |key: &str| store.get(key).unwrap().unwrap().value;
    let now = format!(r#"{{"schema":{SCHEMA},"id":100}}"#);
    assert_eq!(value("/vps/100"), now);
    assert_eq!(
        (value("/text").as_str(), value("/number").as_str()),
        ("schema", "1")
    );
    let saved = dir.path().join("state.db.schema-1.revision-0");
    let conn = Connection::open(&saved).unwrap();
    let before = "SELECT value FROM entries WHERE key = '/vps/100'";
    let before: String = conn.query_row(before, [], |row| row.get(0)).unwrap();
    assert_eq!(before, old);
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let (_dir, path) = scratch();
    drop(at(&path).unwrap());
    let broken = &[
        open::SCHEMAS,
        &["CREATE TABLE more (x); ALTER TABLE nothing ADD y"],
    ]
    .concat();
    assert!(open::open(&path, broken).is_err());
    let store = at(&path).unwrap();
    let more = "SELECT count(*) FROM sqlite_schema WHERE name = 'more'";
    assert_eq!(
        store.lock().conn.query_row(more, [], |row| row.get(0)),
        Ok(0)
    );
}

#[test]
fn a_file_of_another_program_is_left_alone() {
    let (_dir, path) = scratch();
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(conn);
    let before = fs::read(&path).unwrap();
    assert!(matches!(at(&path), Err(StoreError::Foreign { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
    fs::write(
        &path,
        "this is a text file, longer than the head of a database".repeat(20),
    )
    .unwrap();
    assert!(matches!(at(&path), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let (dir, _) = scratch();
    let failed = at(&dir.path().join("nowhere/state.db")).err().unwrap();
    assert!(matches!(failed, StoreError::Io { .. }), "{failed}");
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_what_was_there() {
    let (_dir, path) = scratch();
    let store = at(&path).unwrap();
    put(&store, "/a", "1").unwrap();
    let pages = |n: u32| store.lock().conn.pragma_update(None, "max_page_count", n);
    let used = store
        .lock()
        .conn
        .pragma_query_value(None, "page_count", |row| row.get(0))
        .unwrap();
    pages(used).unwrap();
    let big = format!("\"{}\"", "x".repeat(100_000));
    let failed = put(&store, "/a", &big).unwrap_err();
    assert!(matches!(failed, StoreError::Full { .. }), "{failed}");
    let refusal = mayfly_core::error::Refusal::from(failed);
    let told = refusal.message.strip_prefix(&format!(
        "there is no room for the state in {}",
        path.display()
    ));
    assert_eq!(told, Some(": database or disk is full (SQLite 13)"));
    let entry = store.get("/a").unwrap().unwrap();
    assert_eq!(
        (entry.value.as_str(), entry.mod_revision),
        ("1", Revision(1))
    );
    pages(1_000_000).unwrap();
    assert_eq!(
        put(&store, "/a", &big).unwrap(),
        TxnOutcome::Committed(Revision(2))
    );
}

#[test]
fn a_read_only_state_can_be_read_though_leases_end() {
    let (_dir, path) = scratch();
    let seconds = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let clock = seconds.clone();
    let read = move || Duration::from_secs(clock.load(std::sync::atomic::Ordering::SeqCst));
    let store = SqliteStore::open(&path, Arc::new(read)).unwrap();
    let lease = store.grant(Duration::from_secs(10)).unwrap();
    let writes = vec![
        Write::PutLeased("/a".to_owned(), "1".to_owned(), lease),
        Write::Put("/b".to_owned(), "2".to_owned()),
    ];
    store
        .txn(Txn {
            conditions: vec![],
            writes,
        })
        .unwrap();
    store
        .lock()
        .conn
        .pragma_update(None, "query_only", true)
        .unwrap();
    seconds.store(10, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(store.get("/a").unwrap(), None);
    assert_eq!(store.range("/").unwrap().entries.len(), 1);
    assert!(matches!(
        put(&store, "/b", "3"),
        Err(StoreError::ReadOnly { .. })
    ));
}

#[test]
fn a_damaged_page_is_damage_and_not_absence() {
    let (_dir, path) = scratch();
    let store = at(&path).unwrap();
    for n in 0..200 {
        put(
            &store,
            &format!("/vps/{n}"),
            &format!("\"{}\"", "x".repeat(1000)),
        )
        .unwrap();
    }
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    for page in bytes.chunks_mut(4096).skip(2) {
        page[..64].fill(0xff);
    }
    fs::write(&path, bytes).unwrap();
    let failed = at(&path)
        .and_then(|store| store.range("/").map(|_| ()))
        .err()
        .unwrap();
    assert!(matches!(failed, StoreError::Corrupt { .. }), "{failed}");
}

#[test]
fn a_transaction_of_many_writes_is_all_or_nothing() {
    let (_dir, path) = scratch();
    let store = at(&path).unwrap();
    let writes = |value: &str| {
        (0..100)
            .map(|n| Write::Put(format!("/n/{n}"), value.to_owned()))
            .collect::<Vec<_>>()
    };
    store
        .txn(Txn {
            conditions: vec![],
            writes: writes("1"),
        })
        .unwrap();
    let trigger = "CREATE TEMP TRIGGER fails BEFORE UPDATE ON entries WHEN new.key = '/n/99'
                   BEGIN SELECT raise(ABORT, 'no'); END";
    store.lock().conn.execute_batch(trigger).unwrap();
    let conditions = vec![Condition::Exists("/n/0".to_owned())];
    assert!(
        store
            .txn(Txn {
                conditions,
                writes: writes("2")
            })
            .is_err()
    );
    let all = store.range("/n/").unwrap();
    assert_eq!(all.revision, Revision(1));
    assert!(all.entries.iter().all(|entry| entry.value == "1"));
}
