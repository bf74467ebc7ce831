//! Programs that behave, die, hang, talk nonsense and answer too few.

use farmhand_core::types::Instruction;

use super::*;
use crate::testing::{Desk, python, python_from};

fn process(desk: &Desk, options: CommandOptions) -> Process {
    Process::new(options, desk.folder(), "reward_model")
}

fn ask(desk: &Desk, process: &mut Process, n: usize) -> Result<Vec<Value>> {
    let items: Vec<Value> = (0..n).map(|i| json!({ "instruction": Instruction::new("i", None).text(), "output": i })).collect();
    process.ask_for(n, json!({ "items": items }), &desk.events, Some(&desk.cancel))
}

#[test]
fn the_program_is_started_once_with_its_options_and_what_it_says_is_shown() {
    let desk = Desk::new();
    let greeting = "print(json.dumps({'farmhand': hello['farmhand']}), flush=True)\n\
                    print('ready', hello['kind'], hello['options'], file=sys.stderr, flush=True)";
    let mut options = python_from(&desk, greeting, "reply([os.getpid() for i in items])");
    options.options.insert("weight".to_owned(), json!(0.5));
    let mut process = process(&desk, options);
    let first = ask(&desk, &mut process, 2).expect("answered");
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(ask(&desk, &mut process, 2).expect("answered"), first, "one program");
    let said = desk.messages();
    assert!(said.contains("python3: ready reward_model {'weight': 0.5}"), "{said}");
}

#[test]
fn a_program_that_dies_is_started_again_and_one_that_keeps_dying_is_an_error_with_its_last_words() {
    let desk = Desk::new();
    let once = "(open('died', 'w').close(), sys.exit(3)) if not os.path.exists('died') else reply([1.0 for i in items])";
    let mut process_once = process(&desk, python(&desk, once));
    assert_eq!(ask(&desk, &mut process_once, 3).expect("answered"), [1.0; 3].map(|x| json!(x)));
    assert!(desk.messages().contains("started again (1 of 2)"));

    let always = "(print('no memory left', file=sys.stderr, flush=True), os._exit(4))";
    let mut process_always = process(&desk, python(&desk, always));
    let error = ask(&desk, &mut process_always, 1).expect_err("gone");
    let text = error.to_string();
    assert!(text.contains("exit status: 4") && text.contains("no memory left"), "{text}");
}

#[test]
fn a_program_that_hangs_is_ended_after_its_time() {
    let desk = Desk::new();
    let options = CommandOptions { timeout_secs: 0.2, restarts: 1, ..python(&desk, "time.sleep(60)") };
    let started = Instant::now();
    let error = ask(&desk, &mut process(&desk, options), 1).expect_err("nothing came");
    assert!(error.to_string().contains("said nothing for 0.2 s") && error.hint().is_some_and(|hint| hint.contains("flush")));
    assert!(started.elapsed() < Duration::from_secs(10));
    let silent = CommandOptions { start_timeout_secs: 0.3, restarts: 0, ..python_from(&desk, "time.sleep(60)", "pass") };
    assert!(ask(&desk, &mut process(&desk, silent), 1).expect_err("no greeting").to_string().contains("said nothing"));
}

#[test]
fn a_program_that_breaks_the_protocol_is_named_with_what_it_wrote() {
    let desk = Desk::new();
    let refusal = |greeting: &str, body: &str| {
        let options = python_from(&desk, greeting, body);
        ask(&desk, &mut process(&desk, options), 2).expect_err("refused")
    };
    let hello = "print(json.dumps({'farmhand': 1}), flush=True)";
    for (greeting, body, words) in [
        (hello, "print('loading model', flush=True)", "a line that is no JSON"),
        (hello, "reply([float('nan')] * 2)", "a line that is no JSON"),
        (hello, "reply([1.0])", "gave 1 results for 2 items"),
        (hello, "reply(1.0)", "no list: `1.0`"),
        (hello, "print('{\"id\": 99, \"results\": []}', flush=True)", "another request than 0"),
        (hello, "print('{\"id\": 0}', flush=True)", "answered without `results`"),
        (hello, "print('{\"id\": 0, \"error\": \"too long\"}', flush=True)", "says: too long"),
        ("print('{\"farmhand\": 2}', flush=True)", "pass", "speaks version 2"),
        ("print('{\"ready\": true}', flush=True)", "pass", "did not begin with `{\"farmhand\": 1}`"),
        ("print('{\"error\": \"no weights\"}', flush=True)", "pass", "does not start: no weights"),
    ] {
        let error = refusal(greeting, body).to_string();
        assert!(error.contains(words) && error.contains("program.py"), "{words}: {error}");
    }
    let missing = CommandOptions { command: vec!["./no-such-program".to_owned()], ..CommandOptions::default() };
    let error = ask(&desk, &mut process(&desk, missing), 1).expect_err("not there");
    assert!(error.kind() == ErrorKind::MissingInput && error.to_string().contains("./no-such-program"), "{error}");
}

#[test]
fn after_a_request_that_failed_the_same_program_goes_on() {
    let desk = Desk::new();
    let body = "print(json.dumps({'id': request['id'], 'error': 'odd'}), flush=True) if len(items) % 2 else reply([os.getpid()] * len(items))";
    let mut process = process(&desk, python(&desk, body));
    let before = ask(&desk, &mut process, 2).expect("answered");
    assert!(ask(&desk, &mut process, 3).is_err());
    assert_eq!(ask(&desk, &mut process, 2).expect("answered"), before);
}

#[test]
fn a_wish_to_stop_ends_the_wait_and_the_program() {
    let desk = Desk::new();
    let mut process = process(&desk, python(&desk, "(open('begun', 'w').close(), time.sleep(60))"));
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !desk.dir.path().join("begun").exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            desk.cancel.cancel();
        });
        assert!(ask(&desk, &mut process, 1).expect_err("stopped").is_cancelled());
    });
    assert!(started.elapsed() < Duration::from_secs(20) && process.running.is_none());
}
