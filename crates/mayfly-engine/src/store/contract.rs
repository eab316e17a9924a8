//! What every store must do. Each test here runs on all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{
    Change, Condition, Entry, LeaseId, MemoryStore, Monotonic, Revision, SqliteStore, Store,
    StoreError, Txn, TxnOutcome, Write,
};

const HISTORY: u64 = 20;
const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(20);

/// A store under test, and the time that it sees.
struct Bench {
    store: Arc<dyn Store>,
    seconds: Arc<AtomicU64>,
    _dir: Option<tempfile::TempDir>,
}

fn stopped_clock() -> (Arc<AtomicU64>, Monotonic) {
    let seconds = Arc::new(AtomicU64::new(1000));
    let shown = seconds.clone();
    (
        seconds,
        Arc::new(move || Duration::from_secs(shown.load(Ordering::SeqCst))),
    )
}

fn memory() -> Bench {
    let (seconds, clock) = stopped_clock();
    Bench {
        store: Arc::new(MemoryStore::with_history(clock, HISTORY)),
        seconds,
        _dir: None,
    }
}

fn sqlite() -> Bench {
    let (seconds, clock) = stopped_clock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let store = SqliteStore::open_with_history(&path, clock, HISTORY).unwrap();
    Bench {
        store: Arc::new(store),
        seconds,
        _dir: Some(dir),
    }
}

impl Bench {
    fn pass(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    fn txn(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> TxnOutcome {
        self.store.txn(Txn { conditions, writes }).unwrap()
    }

    fn write(&self, writes: Vec<Write>) -> Revision {
        match self.txn(vec![], writes) {
            TxnOutcome::Committed(revision) => revision,
            TxnOutcome::Conflict { key } => panic!("conflict on {key} without a condition"),
        }
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        self.store
            .range(prefix)
            .unwrap()
            .entries
            .into_iter()
            .map(|entry| entry.key)
            .collect()
    }

    fn changes(&self, prefix: &str, after: u64) -> Vec<Change> {
        self.store
            .watch(prefix, Revision(after), NOW)
            .unwrap()
            .changes
    }

    fn get(&self, key: &str) -> Option<Entry> {
        self.store.get(key).unwrap()
    }
}

fn put(key: &str, value: impl ToString) -> Write {
    Write::Put(key.to_owned(), value.to_string())
}

fn leased(key: &str, lease: LeaseId) -> Write {
    Write::PutLeased(key.to_owned(), "true".to_owned(), lease)
}

fn delete(key: &str) -> Write {
    Write::Delete(key.to_owned())
}

fn change(revision: u64, key: &str, value: Option<&str>) -> Change {
    Change {
        revision: Revision(revision),
        key: key.to_owned(),
        value: value.map(str::to_owned),
    }
}

macro_rules! contract {
    ($($name:ident)*) => {
        mod on_memory { $(#[test] fn $name() { super::$name(&super::memory()); })* }
        mod on_sqlite { $(#[test] fn $name() { super::$name(&super::sqlite()); })* }
    };
}

contract! {
    a_new_store_is_empty
    revisions_count_transactions
    conditions_hold_or_nothing_changes
    the_first_failed_condition_is_told
    what_changes_nothing_makes_no_revision
    a_prefix_takes_whole_segments
    keys_sort_by_bytes
    bad_input_changes_nothing
    concurrent_increments_lose_nothing
    one_of_many_makers_wins
    a_watch_sees_every_change_in_order
    a_watch_waits
    a_watch_times_out_and_moves_on
    watchers_see_what_writers_wrote
    a_watch_gives_so_much_at_once
    an_old_watch_is_compacted
    a_watch_from_the_future_is_refused
    a_waiting_watch_is_not_overtaken_by_the_history
    a_lease_ends_and_takes_its_keys
    a_lease_that_is_kept_alive_stays
    a_lease_that_is_revoked_takes_its_keys
    a_put_without_lease_frees_the_key
    what_an_ended_lease_held_is_absent_at_once
    the_end_of_a_lease_wakes_a_watch
}

fn a_new_store_is_empty(bench: &Bench) {
    let all = bench.store.range("/").unwrap();
    assert_eq!((all.revision, all.entries), (Revision(0), vec![]));
    assert_eq!(bench.get("/vps/100"), None);
    assert_eq!(bench.changes("/", 0), []);
}

fn revisions_count_transactions(bench: &Bench) {
    assert_eq!(bench.write(vec![put("/a", 1), put("/b", 1)]), Revision(1));
    assert_eq!(bench.write(vec![put("/a", 2)]), Revision(2));
    let mut a = Entry {
        key: "/a".to_owned(),
        value: "2".to_owned(),
        create_revision: Revision(1),
        mod_revision: Revision(2),
        lease: None,
    };
    assert_eq!(bench.get("/a"), Some(a.clone()));
    assert_eq!(bench.get("/b").unwrap().mod_revision, Revision(1));
    bench.write(vec![delete("/a")]);
    assert_eq!(bench.get("/a"), None);
    bench.write(vec![put("/a", 2)]);
    (a.create_revision, a.mod_revision) = (Revision(4), Revision(4));
    assert_eq!(bench.get("/a"), Some(a));
    assert_eq!(bench.store.range("/").unwrap().revision, Revision(4));
}

fn conditions_hold_or_nothing_changes(bench: &Bench) {
    let conflict = |key: &str| TxnOutcome::Conflict {
        key: key.to_owned(),
    };
    let done = |revision| TxnOutcome::Committed(Revision(revision));
    let absent = || vec![Condition::Absent("/a".to_owned())];
    let exists = || vec![Condition::Exists("/a".to_owned())];
    let at = |revision| vec![Condition::AtRevision("/a".to_owned(), Revision(revision))];

    assert_eq!(bench.txn(exists(), vec![put("/b", 0)]), conflict("/a"));
    assert_eq!(bench.txn(at(0), vec![put("/b", 0)]), conflict("/a"));
    assert_eq!(bench.txn(absent(), vec![put("/a", 1)]), done(1));
    assert_eq!(
        bench.txn(absent(), vec![put("/a", 2), put("/b", 2)]),
        conflict("/a")
    );
    assert_eq!(bench.txn(exists(), vec![put("/a", 2)]), done(2));
    assert_eq!(bench.txn(at(1), vec![delete("/a")]), conflict("/a"));
    assert_eq!(bench.txn(at(2), vec![put("/a", 3)]), done(3));
    assert_eq!(bench.keys("/"), ["/a"]);
    assert_eq!(bench.get("/a").unwrap().value, "3");
    assert_eq!(bench.store.range("/").unwrap().revision, Revision(3));
}

fn the_first_failed_condition_is_told(bench: &Bench) {
    bench.write(vec![put("/a", 1)]);
    let conditions = vec![
        Condition::Exists("/a".to_owned()),
        Condition::Exists("/b".to_owned()),
        Condition::Absent("/a".to_owned()),
    ];
    let outcome = bench.txn(conditions, vec![put("/c", 1)]);
    assert_eq!(
        outcome,
        TxnOutcome::Conflict {
            key: "/b".to_owned()
        }
    );
}

fn what_changes_nothing_makes_no_revision(bench: &Bench) {
    bench.write(vec![put("/a", 1)]);
    assert_eq!(bench.write(vec![]), Revision(1));
    assert_eq!(bench.write(vec![delete("/b")]), Revision(1));
    // The same value again is a change: whoever compares revisions must notice that it was written.
    assert_eq!(bench.write(vec![put("/a", 1)]), Revision(2));
    assert_eq!(bench.changes("/", 1), [change(2, "/a", Some("1"))]);
}

fn a_prefix_takes_whole_segments(bench: &Bench) {
    let keys = [
        "/vps",
        "/vps/1",
        "/vps/1/run",
        "/vps/11",
        "/vps/11/run",
        "/vps0",
        "/vps-x/1",
    ];
    bench.write(keys.iter().map(|key| put(key, 0)).collect());
    assert_eq!(bench.keys("/vps/1/"), ["/vps/1/run"]);
    assert_eq!(
        bench.keys("/vps/"),
        ["/vps/1", "/vps/1/run", "/vps/11", "/vps/11/run"]
    );
    assert_eq!(bench.keys("/").len(), keys.len());
    let watched = bench.changes("/vps/1/", 0);
    assert_eq!(watched, [change(1, "/vps/1/run", Some("0"))]);
}

fn keys_sort_by_bytes(bench: &Bench) {
    let sorted = [
        "/a-b/1", "/a/1", "/a/10", "/a/2", "/a/B", "/a/_", "/a/a", "/a/~",
    ];
    for key in sorted.iter().rev() {
        bench.write(vec![put(key, 0)]);
    }
    assert_eq!(bench.keys("/"), sorted);
}

fn bad_input_changes_nothing(bench: &Bench) {
    for key in [
        "", "/", "a", "/a/", "/a//b", "/a b", "/a\0", "/ä", "/a%", "/a/*",
    ] {
        let read = bench.store.get(key).unwrap_err();
        assert!(
            matches!(read, StoreError::BadKey { .. }),
            "{key:?} was read"
        );
        let txn = Txn {
            conditions: vec![],
            writes: vec![put("/good", 0), put(key, 0)],
        };
        let wrote = bench.store.txn(txn).unwrap_err();
        assert!(
            matches!(wrote, StoreError::BadKey { .. }),
            "{key:?} was written"
        );
    }
    for prefix in ["", "/vps", "vps/", "//", "/vps//"] {
        let failed = bench.store.range(prefix).unwrap_err();
        assert!(
            matches!(failed, StoreError::BadKey { .. }),
            "{prefix:?} was listed"
        );
    }
    let big = format!("\"{}\"", "x".repeat(1024 * 1024));
    let many = (0..129).map(|n| put(&format!("/{n}"), 0)).collect();
    for writes in [
        vec![put("/a", "{")],
        vec![put("/a", "1 2")],
        vec![put("/a", 1), put("/a", 2)],
        vec![put("/a", 1), delete("/a")],
        vec![put("/a", big)],
        many,
    ] {
        let failed = bench
            .store
            .txn(Txn {
                conditions: vec![],
                writes,
            })
            .unwrap_err();
        assert!(matches!(failed, StoreError::BadTxn { .. }), "{failed}");
    }
    let lease = LeaseId(77);
    let writes = vec![put("/a", 1), leased("/b", lease)];
    let failed = bench
        .store
        .txn(Txn {
            conditions: vec![],
            writes,
        })
        .unwrap_err();
    assert!(matches!(
        failed,
        StoreError::LeaseNotFound { lease: LeaseId(77) }
    ));
    assert_eq!(bench.store.range("/").unwrap().revision, Revision(0));
    assert_eq!(bench.keys("/"), [""; 0]);
}

fn concurrent_increments_lose_nothing(bench: &Bench) {
    const EACH: u64 = 25;
    bench.write(vec![put("/n", 0)]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut done = 0;
                while done < EACH {
                    let seen = bench.get("/n").unwrap();
                    let next = seen.value.parse::<u64>().unwrap() + 1;
                    let unchanged = vec![Condition::AtRevision(seen.key, seen.mod_revision)];
                    let outcome = bench.txn(unchanged, vec![put("/n", next)]);
                    done += u64::from(matches!(outcome, TxnOutcome::Committed(_)));
                }
            });
        }
    });
    let last = bench.get("/n").unwrap();
    assert_eq!(last.value, (4 * EACH).to_string());
    assert_eq!(last.mod_revision, Revision(4 * EACH + 1));
}

fn one_of_many_makers_wins(bench: &Bench) {
    let won = AtomicU64::new(0);
    thread::scope(|scope| {
        for maker in 0..8 {
            let won = &won;
            scope.spawn(move || {
                let absent = vec![Condition::Absent("/names/web".to_owned())];
                let outcome = bench.txn(absent, vec![put("/names/web", maker)]);
                if matches!(outcome, TxnOutcome::Committed(_)) {
                    won.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(won.into_inner(), 1);
}

fn a_watch_sees_every_change_in_order(bench: &Bench) {
    bench.write(vec![put("/vps/2", 1), put("/vps/1", 1), put("/other", 1)]);
    bench.write(vec![delete("/vps/2"), delete("/vps/3")]);
    bench.write(vec![put("/vps/2", 2)]);
    let all = [
        change(1, "/vps/2", Some("1")),
        change(1, "/vps/1", Some("1")),
        change(2, "/vps/2", None),
        change(3, "/vps/2", Some("2")),
    ];
    assert_eq!(bench.changes("/vps/", 0), all);
    assert_eq!(bench.changes("/vps/", 1), all[2..]);
    assert_eq!(bench.changes("/vps/", 3), []);
}

fn a_watch_waits(bench: &Bench) {
    thread::scope(|scope| {
        let watcher = scope.spawn(|| bench.store.watch("/vps/", Revision(0), SOON).unwrap());
        bench.write(vec![put("/other", 1)]);
        thread::sleep(Duration::from_millis(20));
        bench.write(vec![put("/vps/1", 1)]);
        let watched = watcher.join().unwrap();
        assert_eq!(watched.changes, [change(2, "/vps/1", Some("1"))]);
        assert_eq!(watched.revision, Revision(2));
    });
}

fn a_watch_times_out_and_moves_on(bench: &Bench) {
    bench.write(vec![put("/other", 1)]);
    let begun = Instant::now();
    let wait = Duration::from_millis(50);
    let watched = bench.store.watch("/vps/", Revision(0), wait).unwrap();
    assert!(begun.elapsed() >= wait);
    assert_eq!((watched.revision, watched.changes), (Revision(1), vec![]));
}

fn watchers_see_what_writers_wrote(bench: &Bench) {
    const TOTAL: usize = 18;
    thread::scope(|scope| {
        let watch = || {
            let (mut seen, mut after) = (Vec::new(), Revision(0));
            while seen.len() < TOTAL {
                let watched = bench.store.watch("/n/", after, SOON).unwrap();
                assert!(
                    !watched.changes.is_empty(),
                    "only {} changes came",
                    seen.len()
                );
                seen.extend(watched.changes);
                after = watched.revision;
            }
            seen
        };
        let watchers = [scope.spawn(watch), scope.spawn(watch)];
        for writer in 0..3 {
            scope.spawn(move || {
                for n in 0..TOTAL / 3 {
                    bench.write(vec![put(&format!("/n/{writer}"), n)]);
                }
            });
        }
        for watcher in watchers {
            let seen = watcher.join().unwrap();
            let revisions = seen
                .iter()
                .map(|change| change.revision.0)
                .collect::<Vec<_>>();
            assert_eq!(revisions, (1..=TOTAL as u64).collect::<Vec<_>>());
        }
    });
}

fn a_watch_gives_so_much_at_once(bench: &Bench) {
    let big = format!("\"{}\"", "x".repeat(100 << 10));
    for _ in 0..9 {
        bench.write(vec![put("/a", &big), put("/b", &big)]);
    }
    let (mut after, mut seen) = (Revision(0), Vec::new());
    while after < Revision(9) {
        let watched = bench.store.watch("/", after, NOW).unwrap();
        assert_eq!(watched.changes.last().unwrap().revision, watched.revision);
        assert_eq!(watched.changes.len(), 2, "no more than is held at once");
        after = watched.revision;
        seen.extend(watched.changes.iter().map(|change| change.revision.0));
    }
    assert_eq!(seen, (1..=9).flat_map(|n| [n, n]).collect::<Vec<_>>());
}

fn an_old_watch_is_compacted(bench: &Bench) {
    for n in 0..HISTORY + 5 {
        bench.write(vec![put("/a", n), put("/b", n)]);
    }
    let failed = bench.store.watch("/", Revision(4), NOW).unwrap_err();
    assert!(
        matches!(
            failed,
            StoreError::Compacted {
                oldest: Revision(5)
            }
        ),
        "{failed}"
    );
    let kept = bench.changes("/", 5);
    assert_eq!(kept.len() as u64, 2 * HISTORY);
    assert_eq!(kept[0], change(6, "/a", Some("5")));
}

fn a_watch_from_the_future_is_refused(bench: &Bench) {
    bench.write(vec![put("/a", 1)]);
    let failed = bench.store.watch("/", Revision(2), SOON).unwrap_err();
    let told = matches!(
        failed,
        StoreError::NotReached {
            asked: Revision(2),
            current: Revision(1)
        }
    );
    assert!(told, "{failed}");
}

fn a_waiting_watch_is_not_overtaken_by_the_history(bench: &Bench) {
    // The watcher may lag by two rounds before it is really overtaken.
    const ROUND: u64 = HISTORY / 2 - 1;
    const ROUNDS: u64 = 4;
    thread::scope(|scope| {
        let watcher = scope.spawn(|| bench.store.watch("/quiet/", Revision(0), SOON));
        for n in 0..ROUNDS * ROUND {
            if n % ROUND == 0 {
                thread::sleep(Duration::from_millis(200));
            }
            bench.write(vec![put("/busy/1", n)]);
        }
        bench.write(vec![put("/quiet/1", 1)]);
        let watched = watcher.join().unwrap().unwrap();
        assert_eq!(
            watched.changes,
            [change(ROUNDS * ROUND + 1, "/quiet/1", Some("1"))]
        );
    });
}

fn a_lease_ends_and_takes_its_keys(bench: &Bench) {
    let lease = bench.store.grant(Duration::from_secs(10)).unwrap();
    let other = bench.store.grant(Duration::from_secs(60)).unwrap();
    assert_ne!(lease, other);
    bench.write(vec![
        leased("/b", lease),
        leased("/a", lease),
        leased("/c", other),
        put("/d", 1),
    ]);
    assert_eq!(bench.get("/a").unwrap().lease, Some(lease));
    bench.pass(9);
    assert_eq!(bench.keys("/"), ["/a", "/b", "/c", "/d"]);
    bench.pass(1);
    assert_eq!(bench.keys("/"), ["/c", "/d"]);
    assert_eq!(
        bench.changes("/", 1),
        [change(2, "/a", None), change(2, "/b", None)]
    );
    let failed = bench.store.keep_alive(lease).unwrap_err();
    assert!(matches!(failed, StoreError::LeaseNotFound { .. }));
    assert!(bench.store.revoke(lease).is_err());
    let txn = Txn {
        conditions: vec![],
        writes: vec![leased("/a", lease)],
    };
    assert!(matches!(
        bench.store.txn(txn),
        Err(StoreError::LeaseNotFound { .. })
    ));
}

fn a_lease_that_is_kept_alive_stays(bench: &Bench) {
    let lease = bench.store.grant(Duration::from_secs(10)).unwrap();
    bench.write(vec![leased("/a", lease)]);
    for _ in 0..5 {
        bench.pass(9);
        bench.store.keep_alive(lease).unwrap();
    }
    assert_eq!(bench.keys("/"), ["/a"]);
    bench.pass(10);
    assert_eq!(bench.keys("/"), [""; 0]);
}

fn a_lease_that_is_revoked_takes_its_keys(bench: &Bench) {
    let lease = bench.store.grant(Duration::from_secs(10)).unwrap();
    bench.write(vec![leased("/a", lease), put("/b", 1)]);
    bench.store.revoke(lease).unwrap();
    assert_eq!(bench.keys("/"), ["/b"]);
    assert_eq!(bench.changes("/", 1), [change(2, "/a", None)]);
    assert!(matches!(
        bench.store.revoke(lease),
        Err(StoreError::LeaseNotFound { .. })
    ));
    // A lease without keys ends without a change.
    let empty = bench.store.grant(Duration::from_secs(10)).unwrap();
    bench.store.revoke(empty).unwrap();
    assert_eq!(bench.store.range("/").unwrap().revision, Revision(2));
}

fn a_put_without_lease_frees_the_key(bench: &Bench) {
    let lease = bench.store.grant(Duration::from_secs(10)).unwrap();
    let longer = bench.store.grant(Duration::from_secs(20)).unwrap();
    bench.write(vec![leased("/a", lease), leased("/b", lease)]);
    bench.write(vec![put("/a", 1), leased("/b", longer)]);
    bench.pass(10);
    assert_eq!(bench.keys("/"), ["/a", "/b"]);
    bench.pass(10);
    assert_eq!(bench.keys("/"), ["/a"]);
}

fn what_an_ended_lease_held_is_absent_at_once(bench: &Bench) {
    let lease = bench.store.grant(Duration::from_secs(10)).unwrap();
    bench.write(vec![leased("/a", lease)]);
    bench.pass(10);
    assert_eq!(bench.get("/a"), None);
    let stale = vec![Condition::AtRevision("/a".to_owned(), Revision(1))];
    let outcome = bench.txn(stale, vec![put("/a", 2)]);
    assert_eq!(
        outcome,
        TxnOutcome::Conflict {
            key: "/a".to_owned()
        }
    );
    let absent = vec![Condition::Absent("/a".to_owned())];
    assert_eq!(
        bench.txn(absent, vec![put("/a", 2)]),
        TxnOutcome::Committed(Revision(3))
    );
    assert_eq!(bench.get("/a").unwrap().create_revision, Revision(3));
}

fn the_end_of_a_lease_wakes_a_watch(bench: &Bench) {
    let lease = bench.store.grant(Duration::from_millis(100)).unwrap();
    bench.write(vec![leased("/a", lease)]);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| bench.store.watch("/", Revision(1), SOON).unwrap());
        thread::sleep(Duration::from_millis(20));
        // Nothing but time passes from here on.
        bench.pass(1);
        let begun = Instant::now();
        assert_eq!(watcher.join().unwrap().changes, [change(2, "/a", None)]);
        assert!(begun.elapsed() < SOON / 2);
    });
}
