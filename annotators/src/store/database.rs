//! The SQLite file of a store: how it is opened, its tables, and what its errors mean to a user.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use farmhand_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

/// How long one process waits for another that writes.
const BUSY: Duration = Duration::from_secs(60);

/// Marks the file as ours, in SQLite's header: `farm`.
const APPLICATION_ID: i32 = 0x6661_726d;

/// The version of the tables below.
pub(super) const SCHEMA_VERSION: i32 = 1;

const SCHEMA: &str = include_str!("schema.sql");

/// Whether a file that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Make,
    Refuse,
}

/// Opens a store's file, with its tables.
pub(super) fn open(path: &Path, missing: Missing) -> Result<Connection> {
    look_at(path, missing)?;
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, missing == Missing::Make);
    let mut connection = Connection::open_with_flags(path, flags).map_err(|error| explain("open", path, error))?;
    prepare(&mut connection, path)?;
    Ok(connection)
}

/// Tells what is no store by its first bytes, before SQLite touches it.
fn look_at(path: &Path, missing: Missing) -> Result<()> {
    if path.is_dir() {
        return Err(Error::new(ErrorKind::Io, format!("the judgement store `{}` is a folder", path.display()))
            .with_hint("name a file in it, for example `judgements.db`"));
    }
    if missing == Missing::Make
        && let Some(parent) = path.parent()
    {
        std::fs::create_dir_all(parent).map_err(|error| Error::io("make folder", parent, error))?;
    }
    let mut head = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => {
            file.take(16).read_to_end(&mut head).map_err(|error| Error::io("read", path, error))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && missing == Missing::Make => {}
        Err(error) => return Err(Error::io("open the judgement store", path, error)),
    }
    match head.first() {
        None => Ok(()),
        Some(_) if head.starts_with(b"SQLite format 3\0") => Ok(()),
        Some(b'{') => Err(Error::invalid_data(format!("`{}` holds JSON lines and is no judgement store", path.display()))
            .with_hint("a cache of an earlier version cannot be taken over, for it does not say what was judged; name a new file, and import \
                 judgements.jsonl of earlier runs with `farmhand judgements import`")),
        Some(_) => Err(Error::invalid_data(format!("`{}` is no judgement store", path.display()))
            .with_hint("name a new file, or one that farmhand made")),
    }
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<()> {
    let explain = |error| explain("open", path, error);
    connection.busy_timeout(BUSY).map_err(explain)?;
    let number = |connection: &Connection, name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let n_tables = |connection: &Connection| {
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).map_err(explain)
    };
    let foreign = || {
        Error::invalid_data(format!("`{}` is a database of another program", path.display()))
            .with_hint("name a new file, or one that farmhand made")
    };
    if n_tables(connection)? > 0 && number(connection, "application_id").map_err(explain)? != APPLICATION_ID {
        return Err(foreign());
    }
    // Two processes that make a file at the same time: one switches, the other finds it switched.
    let mut tries = 0;
    while let Err(error) = connection.pragma_update(None, "journal_mode", "WAL") {
        tries += 1;
        if tries > 200 || error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) {
            return Err(explain(error));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(explain)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explain)?;
    match number(&transaction, "user_version").map_err(explain)? {
        SCHEMA_VERSION => Ok(()),
        0 if n_tables(&transaction)? == 0 => {
            transaction.execute_batch(SCHEMA).map_err(explain)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(explain)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(explain)?;
            transaction.commit().map_err(explain)
        }
        newer if newer > SCHEMA_VERSION => Err(Error::invalid_data(format!(
            "the judgement store `{}` has version {newer}, and this farmhand reads up to version {SCHEMA_VERSION}",
            path.display()
        ))
        .with_hint("a newer farmhand wrote it; use that one, or name another file")),
        _ => Err(foreign()),
    }
}

/// What an error of SQLite means, with what can be done about it.
pub(super) fn explain(action: &str, path: &Path, error: rusqlite::Error) -> Error {
    let (kind, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (ErrorKind::Io, "the disk is full; free some space and run the same command again"),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            (ErrorKind::Io, "the file and its folder must be writable")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (
            ErrorKind::InvalidData,
            "the file is damaged; `farmhand judgements verify` says how far it can be read; move it away to start a new one",
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Io, "another process has held it for a minute; is one stopped in the middle of writing?")
        }
        _ => (ErrorKind::Io, "the disk or the file system refused"),
    };
    Error::new(kind, format!("cannot {action} the judgement store `{}`", path.display())).with_source(error).with_hint(hint)
}
