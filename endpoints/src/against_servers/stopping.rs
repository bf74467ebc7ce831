//! The user's wish to stop: what is under way is paid for and comes back, what is not is not sent.

use super::*;

/// Answers after a while.
fn slow(time: Duration) -> Loopback {
    Loopback::start(move |_| {
        std::thread::sleep(time);
        Reply::json(200, &completion("a"))
    })
}

/// Sets the flag once the server has so many requests.
fn stop_when_asked(server: &Loopback, n: usize, cancel: &CancelFlag) {
    while server.received().len() < n {
        std::thread::sleep(Duration::from_millis(1));
    }
    cancel.cancel();
}

#[test]
fn answers_under_way_come_back_and_nothing_more_is_sent() {
    let (server, cancel) = (slow(Duration::from_millis(150)), CancelFlag::new());
    let client = client_of(server.base_url(), None, |options| options.max_concurrent = 4);
    let requests: Vec<_> = (0..20).map(|_| client.complete(request("a"))).collect();
    let mut n_seen = 0;
    let results = std::thread::scope(|scope| {
        scope.spawn(|| stop_when_asked(&server, 4, &cancel));
        wait(client.in_parallel(requests, &cancel, |_, result| {
            n_seen += usize::from(result.is_ok());
            ControlFlow::Continue(())
        }))
    });
    assert_eq!(results.iter().filter(|result| matches!(result, Some(Ok(_)))).count(), 4);
    assert_eq!((n_seen, server.received().len(), client.usage().n_requests), (4, 4, 4));
    assert!(results.iter().all(|result| matches!(result, None | Some(Ok(_)))), "what was not sent has no result");
}

#[test]
fn a_single_request_is_waited_for_as_long_as_the_grace_allows() {
    let (server, cancel) = (slow(Duration::from_millis(150)), CancelFlag::new());
    let patient = client(&server);
    std::thread::scope(|scope| {
        scope.spawn(|| stop_when_asked(&server, 1, &cancel));
        assert!(wait(patient.unless_cancelled(patient.complete(request("a")), &cancel)).is_ok());
    });
    let failure = wait(patient.unless_cancelled(patient.complete(request("a")), &cancel)).expect_err("asked to stop before");
    assert!(failure.kind == FailureKind::Cancelled && server.received().len() == 1);

    let (server, cancel) = (slow(Duration::from_secs(20)), CancelFlag::new());
    let hasty = client_of(server.base_url(), None, |options| options.grace_secs = 0.05);
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| stop_when_asked(&server, 1, &cancel));
        let failure = wait(hasty.unless_cancelled(hasty.complete(request("a")), &cancel)).expect_err("too slow");
        assert_eq!(failure.kind, FailureKind::Cancelled);
    });
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_failure_after_the_wish_is_not_tried_again_and_waits_end() {
    let cancel = Arc::new(CancelFlag::new());
    let flag = cancel.clone();
    let server = Loopback::start(move |_| {
        flag.cancel();
        Reply::json_with(429, ("retry-after", "100"), &json!({ "error": { "message": "busy" } }))
    });
    let started = Instant::now();
    let client = client(&server);
    let failure = wait(client.unless_cancelled(client.complete(request("a")), &cancel)).expect_err("busy");
    assert!(matches!(failure.kind, FailureKind::RateLimited | FailureKind::Cancelled), "{failure}");
    assert!(server.received().len() == 1 && started.elapsed() < Duration::from_secs(5));
}

#[test]
fn any_number_of_requests_may_wait_for_the_wish_on_any_executor() {
    let (server, cancel) = (slow(Duration::ZERO), CancelFlag::new());
    let client = client(&server);
    let one = |i: usize| {
        let (client, cancel) = (client.clone(), &cancel);
        async move { client.unless_cancelled(client.complete(request(&i.to_string())), cancel).await.is_ok() }
    };
    let (a, b) = wait(async { (one(0).await, one(1).await) });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without a clock");
    assert!(a && b && runtime.block_on(one(2)));
}
