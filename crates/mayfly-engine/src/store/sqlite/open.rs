//! Opening the file: its mode, its lock, whose it is, and bringing its schema up to date.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::store_error;
use crate::store::StoreError;

/// How long to wait for another process to let go of the file.
const OPEN_WAIT: Duration = Duration::from_secs(2);

/// So many copies that were saved before migrations are kept.
const KEEP_SAVED: usize = 3;

/// `mayf`: what tells the file from those of other programs.
const APPLICATION_ID: u32 = 0x6d61_7966;

/// The statements that lead from each schema to the next, from an empty file on. A released one never changes. Those
/// that change documents bring them to the version that the same program writes.
///
/// 2: documents may speak of pools on ZFS, which a program that knows 1 must not touch.
/// 3: documents may have fields that a program which knows 2 would drop where it writes them.
/// 4: plans may have steps, and manifests declarations, that a program which knows 3 takes for damage.
pub(super) const SCHEMAS: &[&str] = &[
    "
    CREATE TABLE store (
        revision INTEGER NOT NULL,
        compacted INTEGER NOT NULL
    ) STRICT;
    INSERT INTO store VALUES (0, 0);
    CREATE TABLE leases (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        ttl_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE entries (
        key TEXT PRIMARY KEY NOT NULL,
        value TEXT NOT NULL,
        create_revision INTEGER NOT NULL,
        mod_revision INTEGER NOT NULL,
        lease INTEGER
    ) STRICT;
    CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL;
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        revision INTEGER NOT NULL,
        key TEXT NOT NULL,
        value TEXT
    ) STRICT;
    CREATE INDEX history_by_revision ON history (revision);
",
    "
    UPDATE entries SET value = json_set(value, '$.schema', 2)
        WHERE CASE WHEN json_valid(value) THEN json_extract(value, '$.schema') = 1 END;
    UPDATE history SET value = json_set(value, '$.schema', 2)
        WHERE CASE WHEN json_valid(value) THEN json_extract(value, '$.schema') = 1 END;
",
    "
    UPDATE entries SET value = json_set(value, '$.schema', 3)
        WHERE CASE WHEN json_valid(value) THEN json_extract(value, '$.schema') = 2 END;
    UPDATE history SET value = json_set(value, '$.schema', 3)
        WHERE CASE WHEN json_valid(value) THEN json_extract(value, '$.schema') = 2 END;
",
    "
    UPDATE entries SET value = json_set(value, '$.schema', 4)
        WHERE CASE WHEN json_valid(value) THEN json_extract(value, '$.schema') = 3 END;
    UPDATE history SET value = json_set(value, '$.schema', 4)
        WHERE CASE WHEN json_valid(value) THEN json_extract(value, '$.schema') = 3 END;
",
    "
    UPDATE entries SET value = json_set(value, '$.schema', 5)
        WHERE CASE WHEN json_valid(value) THEN json_extract(value, '$.schema') = 4 END;
    UPDATE history SET value = json_set(value, '$.schema', 5)
        WHERE CASE WHEN json_valid(value) THEN json_extract(value, '$.schema') = 4 END;
",
];

/// Opens the file, or makes it, and holds its lock until the connection is dropped.
pub(super) fn open(path: &Path, schemas: &[&str]) -> Result<Connection, StoreError> {
    let place = path.display().to_string();
    let at = |cause| store_error(&place, cause);
    prepare_file(path).map_err(|cause| file_error(path, cause))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(at)?;
    // SQLite falls back to reading where it may not write.
    if conn.is_readonly("main").map_err(at)? {
        let cause = "it cannot be opened for writing".into();
        return Err(StoreError::ReadOnly { place, cause });
    }
    conn.busy_timeout(OPEN_WAIT).map_err(at)?;
    conn.pragma_update(None, "locking_mode", "EXCLUSIVE")
        .map_err(at)?;
    let found = identify(&conn, &place)?;
    let known = u32::try_from(schemas.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(StoreError::Newer {
            place,
            found,
            known,
        });
    }
    // The write-ahead log may only be asked for once it is known whose file this is: it changes the file.
    conn.pragma_update(None, "journal_mode", "WAL")
        .map_err(at)?;
    conn.pragma_update(None, "synchronous", "FULL")
        .map_err(at)?;
    if found > 0 && found < known {
        save(&conn, path, found)?;
    }
    migrate(&mut conn, found, schemas).map_err(at)?;
    Ok(conn)
}

/// Makes the file for its owner alone; SQLite gives the files beside it the same mode. One that is there is not
/// opened, so that no lock on it is lost.
fn prepare_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => Ok(()),
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {
            let mode = fs::metadata(path)?.permissions().mode();
            if mode & 0o077 == 0 {
                return Ok(());
            }
            fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700))
        }
        Err(why) => Err(why),
    }
}

fn file_error(path: &Path, error: io::Error) -> StoreError {
    let place = path.display().to_string();
    let kind = error.kind();
    let cause = Box::new(error);
    match kind {
        io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { place, cause },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full { place, cause }
        }
        _ => StoreError::Io { place, cause },
    }
}

/// The schema of the file; 0 for an empty one. The first read takes the lock.
fn identify(conn: &Connection, place: &str) -> Result<u32, StoreError> {
    let at = |cause| store_error(place, cause);
    let number = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let (application, schema) = (
        number("application_id").map_err(at)?,
        number("user_version").map_err(at)?,
    );
    if application == APPLICATION_ID {
        return Ok(schema);
    }
    let tables = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, u32>(0)
        })
        .map_err(at)?;
    if tables == 0 && application == 0 && schema == 0 {
        return Ok(0);
    }
    Err(StoreError::Foreign {
        place: place.to_owned(),
        why: "it is a database of another program",
    })
}

fn migrate(conn: &mut Connection, from: u32, schemas: &[&str]) -> rusqlite::Result<()> {
    for (step, to) in schemas.iter().zip(1_u32..).skip(from as usize) {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(step)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", to)?;
        tx.commit()?;
    }
    Ok(())
}

/// Saves a copy beside the file before its schema changes: `<file>.schema-<n>.revision-<n>`. What has that name
/// already is the same state. A copy that was cut off has another name and is begun anew.
fn save(conn: &Connection, path: &Path, schema: u32) -> Result<(), StoreError> {
    let at = |cause| store_error(&path.display().to_string(), cause);
    let revision: u64 = conn
        .query_row("SELECT revision FROM store", [], |row| row.get(0))
        .map_err(at)?;
    let saved = beside(path, &format!(".schema-{schema}.revision-{revision}"));
    let partial = beside(path, ".saving");
    let prepare = || match fs::remove_file(&partial) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial),
    };
    let file = prepare().map_err(|cause| file_error(&partial, cause))?;
    conn.execute("VACUUM INTO ?1", [partial.to_string_lossy()])
        .map_err(at)?;
    // SQLite does not sync what VACUUM INTO writes.
    file.sync_all()
        .and_then(|()| fs::rename(&partial, &saved))
        .and_then(|()| File::open(parent(path))?.sync_all())
        .and_then(|()| forget_saved(path))
        .map_err(|cause| file_error(&saved, cause))
}

/// Removes all but the newest copies that were saved before a migration.
fn forget_saved(path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(());
    };
    let numbers = |entry: &str| -> Option<(u32, u64)> {
        let rest = entry.strip_prefix(name)?.strip_prefix(".schema-")?;
        let (schema, revision) = rest.split_once(".revision-")?;
        Some((schema.parse().ok()?, revision.parse().ok()?))
    };
    let mut saved = Vec::new();
    for entry in fs::read_dir(parent(path))? {
        let entry = entry?;
        saved.extend(
            entry
                .file_name()
                .to_str()
                .and_then(numbers)
                .map(|age| (age, entry.path())),
        );
    }
    saved.sort();
    let surplus = saved.len().saturating_sub(KEEP_SAVED);
    for (_, old) in saved.iter().take(surplus) {
        fs::remove_file(old)?;
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
