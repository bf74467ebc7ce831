//! What is kept is found again, and stands.

use std::time::Instant;

use serde_json::Value;

use super::*;

#[test]
fn what_is_kept_is_found_again_also_after_reopening() {
    let (_dir, path) = folder();
    let store = Store::open(&path).expect("made");
    let (said, refused) = (answer("Ü \"quoted\" \0 \u{1F600}"), refusal());
    wait(store.keep(key(0), said.clone())).expect("kept");
    wait(store.keep(key(1), refused.clone())).expect("kept");
    let keys = [key(1), key(2), key(0), key(0)];
    let expected = [Some(refused), None, Some(said.clone()), Some(said)];
    assert_eq!(store.replies(&keys).expect("read"), expected);
    drop(store);
    let left: Vec<_> =
        std::fs::read_dir(path.parent().expect("a folder")).expect("listed").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["judgements.db"], "the write-ahead file is folded in");
    assert_eq!(Store::open_existing(&path).expect("opened").replies(&keys).expect("read"), expected);
}

#[test]
fn the_first_answer_stands_and_an_answer_takes_the_place_of_failures() {
    let (_dir, path) = folder();
    let store = Store::open(&path).expect("made");
    wait(store.keep(key(0), refusal())).expect("kept");
    let busy = failure(&Error::new(ErrorKind::RemoteService, "busy").retryable());
    wait(store.keep(key(0), busy.clone())).expect("kept");
    assert_eq!(store.replies(&[key(0)]).expect("read"), [Some(busy)], "the latest failure");
    assert_eq!(wait(store.keep_or_take(key(0), answer("one"))).expect("kept"), answer("one"));
    assert_eq!(wait(store.keep_or_take(key(0), answer("two"))).expect("kept"), answer("one"));
    wait(store.keep(key(0), refusal())).expect("kept");
    assert_eq!(store.replies(&[key(0)]).expect("read"), [Some(answer("one"))]);
}

#[test]
fn nobody_changes_or_removes_a_row() {
    let (_dir, path) = folder();
    let store = Store::open(&path).expect("made");
    wait(store.keep(key(0), answer("one"))).expect("kept");
    wait(store.keep(key(1), refusal())).expect("kept");
    let other = Connection::open(&path).expect("opened");
    for table in ["replies", "reply_failures"] {
        for sql in [format!("UPDATE {table} SET model = 'x'"), format!("DELETE FROM {table}")] {
            let error = other.execute(&sql, []).expect_err("refused");
            assert!(error.to_string().contains("is never"), "{error}");
        }
    }
}

#[test]
fn one_file_is_opened_once_and_a_dropped_future_still_keeps() {
    let (dir, path) = folder();
    let store = Store::open(&path).expect("made");
    let again = Store::open(dir.path().join("deep/../deep/judgements.db")).expect("opened");
    assert!(Arc::ptr_eq(&store.shared, &again.shared));
    drop(store.keep(key(0), answer("one")));
    drop((store, again));
    let reopened = Store::open(&path).expect("opened");
    assert_eq!(reopened.replies(&[key(0)]).expect("read"), [Some(answer("one"))]);
}

#[test]
fn ten_thousand_replies_a_second_and_more() {
    let (_dir, path) = folder();
    let store = Store::open(&path).expect("made");
    const N: usize = 20_000;
    let words = "The first answer is better because it says why. ".repeat(4);
    let started = Instant::now();
    let kept: Vec<_> = (0..N).map(|i| store.keep(key(i), answer(&words))).collect();
    kept.into_iter().for_each(|kept| wait(kept).expect("kept"));
    let writing = started.elapsed();
    let started = Instant::now();
    for chunk in (0..N).map(key).collect::<Vec<_>>().chunks(128) {
        assert!(store.replies(chunk).expect("read").iter().all(Option::is_some));
    }
    let reading = started.elapsed();
    // A tenth of what an idle machine does: this is a test of how the work is grouped, not of the machine.
    assert!(writing.as_secs_f64() < 20.0 && reading.as_secs_f64() < 20.0, "{writing:?} {reading:?}");
}

#[test]
fn a_reply_round_trips_as_json() {
    for reply in [answer("x"), refusal()] {
        let text = serde_json::to_string(&reply).expect("JSON");
        assert_eq!(serde_json::from_str::<StoredReply>(&text).expect("read"), reply);
        assert!(text.contains("\"2023-11-14T22:13:20Z\""), "{text}");
        assert!(serde_json::from_str::<Value>(&text).is_ok());
    }
}
