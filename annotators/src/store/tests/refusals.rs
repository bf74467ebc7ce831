//! What is no store, what is damaged, and a disk that refuses.

use super::*;

#[test]
fn what_is_no_store_is_refused_with_a_reason_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        path
    };
    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign).and_then(|c| c.execute_batch("CREATE TABLE t (x)")).expect("made");
    let newer = dir.path().join("newer.db");
    drop(Store::open(&newer).expect("made"));
    Connection::open(&newer).and_then(|c| c.pragma_update(None, "user_version", 99)).expect("changed");
    let cases = [
        (dir.path().to_owned(), ErrorKind::Io, "is a folder"),
        (write("cache.jsonl", b"{\"key\": 1}\n"), ErrorKind::InvalidData, "holds JSON lines"),
        (write("notes.txt", b"hello"), ErrorKind::InvalidData, "is no judgement store"),
        (write("torn.db", b"SQLite format 3\0 and then something else"), ErrorKind::InvalidData, "cannot open"),
        (foreign, ErrorKind::InvalidData, "database of another program"),
        (newer, ErrorKind::InvalidData, "has version 99, and this farmhand reads up to version 1"),
        (dir.path().join("cache.jsonl/x.db"), ErrorKind::Io, "cannot make folder"),
    ];
    for (path, kind, says) in cases {
        let before = std::fs::read(&path).ok();
        let error = Store::open(&path).expect_err(says);
        assert!(error.kind() == kind && error.message().contains(says) || error.to_string().contains(says), "{error:?}");
        assert_eq!(std::fs::read(&path).ok(), before, "{}", path.display());
    }
    let error = Store::open_existing(dir.path().join("none.db")).expect_err("not there");
    assert_eq!(error.kind(), ErrorKind::MissingInput);
    assert!(!dir.path().join("none.db").exists());
}

#[test]
fn a_full_disk_loses_nothing_that_was_paid_and_is_told_once() {
    let (_dir, path) = folder();
    drop(Store::open(&path).expect("made"));
    let connection = database::open(&path, Missing::Refuse).expect("opened");
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("counted");
    connection.pragma_update(None, "max_page_count", pages).expect("set");
    let store = Store { shared: Arc::new(Shared::start(path.clone(), connection).expect("started")) };
    let long = answer(&"long ".repeat(4000));
    let error = wait(store.keep(key(0), long.clone())).expect_err("no room");
    assert!(error.kind() == ErrorKind::Io && error.hint().is_some_and(|hint| hint.contains("disk is full")), "{error:?}");
    assert!(wait(store.keep(key(1), long.clone())).is_err());
    assert_eq!(store.replies(&[key(0), key(1), key(2)]).expect("read"), [Some(long.clone()), Some(long.clone()), None]);
    assert!(store.warning().expect("a warning").contains("kept in memory"));
    assert_eq!(store.warning(), None);
    drop(store);
    let after = Store::open(&path).expect("opened");
    assert_eq!(after.replies(&[key(0)]).expect("read"), [None], "the disk stayed full to the end");
}

#[test]
fn what_was_held_is_written_when_the_disk_takes_it_again() {
    let (_dir, path) = folder();
    drop(Store::open(&path).expect("made"));
    let lock = Connection::open(&path).expect("opened");
    let connection = database::open(&path, Missing::Refuse).expect("opened");
    connection.busy_timeout(std::time::Duration::ZERO).expect("set");
    let store = Store { shared: Arc::new(Shared::start(path.clone(), connection).expect("started")) };
    lock.execute_batch("BEGIN IMMEDIATE").expect("locked");
    assert!(wait(store.keep(key(0), answer("held"))).is_err());
    lock.execute_batch("COMMIT").expect("free");
    assert_eq!(store.replies(&[key(0)]).expect("read"), [Some(answer("held"))]);
    drop(store);
    let after = Store::open(&path).expect("opened");
    assert_eq!(after.replies(&[key(0)]).expect("read"), [Some(answer("held"))]);
}

#[test]
fn a_damaged_page_is_an_error_and_no_answer() {
    let (_dir, path) = folder();
    let store = Store::open(&path).expect("made");
    let kept: Vec<_> = (0..500).map(|i| store.keep(key(i), answer(&"words ".repeat(50)))).collect();
    kept.into_iter().for_each(|kept| wait(kept).expect("kept"));
    drop(store);
    let mut bytes = std::fs::read(&path).expect("read");
    let n = bytes.len();
    bytes[4096..n].fill(0xa5);
    std::fs::write(&path, bytes).expect("written");
    let error = Store::open(&path).and_then(|store| store.replies(&[key(3)])).expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.hint().is_some_and(|hint| hint.contains("damaged")), "{error:?}");
}
