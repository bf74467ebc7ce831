//! Judging pairs in a browser: by keyboard, two raters at once, and no script of the data ever runs.

use std::fmt::Write as _;

use farmhand_core::data::{ReadOptions, read_judgements};
use farmhand_core::types::Preference;
use serde_json::{Value, json};

use crate::browser::{Browser, Tab};
use crate::http::{Labelling, options};
use crate::label::write_data;

const HOSTILE: [&str; 10] = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror=\"window.hacked = 2\">",
    "<svg onload=\"window.hacked = 3\"><script>window.hacked = 4</script></svg>",
    "[click](javascript:window.hacked=5) <a href=\"javascript:window.hacked=6\">x</a>",
    "[data](data:text/html,<script>window.hacked=7</script>) ![p](http://127.0.0.1:9/pixel.png)",
    "<iframe srcdoc=\"<script>parent.hacked = 8</script>\"></iframe>",
    "<style>body { display: none }</style><base href=\"http://evil.example/\">",
    "<form action=\"http://127.0.0.1:9/\"><input autofocus onfocus=\"window.hacked = 9\"></form>",
    "<details open ontoggle=\"window.hacked = 10\"><math><mi xlink:href=\"javascript:1\">x</mi></math></details>",
    "</script></main><meta http-equiv=refresh content=\"0;url=http://127.0.0.1:9/\">",
];

/// Enters a name and waits for the first question.
fn enter(browser: &mut Browser, url: &str, name: &str) -> Tab {
    let tab = browser.open(url);
    browser.wait_for(&tab, "document.getElementById('welcome') && !document.getElementById('welcome').hidden");
    assert_eq!(browser.eval(&tab, "document.activeElement.id"), "name", "the name can be typed at once");
    browser.write(&tab, name);
    browser.key(&tab, "Enter");
    browser.wait_for(&tab, "!page.busy && page.item !== null");
    tab
}

/// Presses a key and waits until the page has moved on.
fn press(browser: &mut Browser, tab: &Tab, key: &str) {
    let before = browser.eval(tab, "byId('progress').textContent + page.item");
    browser.key(tab, key);
    browser.wait_for(tab, &format!("!page.busy && byId('progress').textContent + page.item !== {before}"));
}

fn question(browser: &mut Browser, tab: &Tab) -> String {
    browser.eval(tab, "byId('question-text').innerText").as_str().expect("a text").to_owned()
}

#[test]
fn two_raters_judge_by_keyboard_undo_comment_and_come_back() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    write_data(dir.path(), 6);
    let server = Labelling::start(&options(dir.path()));
    let url = server.raters.url.clone();
    let ana = enter(&mut browser, &url, "Ana María");
    let ben = enter(&mut browser, &url, "张伟");
    assert_ne!(question(&mut browser, &ana), question(&mut browser, &ben), "one question lies before one rater");
    assert_eq!(browser.eval(&ana, "document.activeElement.id"), "question");

    // A comment, a tie, back again, the comment is still there; then the better answer.
    let first = question(&mut browser, &ana);
    browser.key(&ana, "c");
    browser.wait_for(&ana, "document.activeElement.id === 'comment'");
    browser.write(&ana, "1 and 2 are typed, not pressed");
    browser.key(&ana, "Escape");
    press(&mut browser, &ana, "t");
    press(&mut browser, &ana, "u");
    assert_eq!(question(&mut browser, &ana), first);
    assert_eq!(browser.eval(&ana, "byId('comment').value"), "1 and 2 are typed, not pressed");
    for (tab, arrows) in [(&ana, true), (&ben, false), (&ana, false)] {
        let left_is_good = browser.eval(tab, "byId('left-text').innerText.includes('GOOD')") == json!(true);
        press(
            &mut browser,
            tab,
            match (left_is_good, arrows) {
                (true, true) => "ArrowLeft",
                (false, true) => "ArrowRight",
                (true, false) => "1",
                (false, false) => "2",
            },
        );
    }
    browser.key(&ben, "?");
    browser.wait_for(&ben, "byId('help-box').open");
    browser.key(&ben, "1");
    assert_eq!(browser.eval(&ben, "byId('progress').textContent.startsWith('1 answered')"), true, "no verdict under the help");
    browser.key(&ben, "Enter");
    browser.wait_for(&ben, "!byId('help-box').open");

    // A reload goes on with the same question and name.
    let open = question(&mut browser, &ana);
    browser.call(Some(&ana), "Page.reload", &json!({}));
    browser.wait_for(&ana, "typeof page === 'object' && page.item !== null && !page.busy");
    assert_eq!((question(&mut browser, &ana), browser.eval(&ana, "byId('who').textContent")), (open, json!("Ana María")));
    press(&mut browser, &ana, "s");

    let operator = browser.open(&server.operator.url);
    browser.wait_for(&operator, "document.body.innerText.includes('张伟')");
    browser.wait_for(&operator, "document.body.innerText.includes('1 and 2 are typed')");
    let summary = server.stop();
    assert_eq!((summary.n_labels, summary.n_done, summary.n_raters), (4, 3, 2));
    let (judgements, _) = read_judgements(&dir.path().join("out/judgements.jsonl"), &ReadOptions::default()).expect("read");
    for judgement in judgements.iter().filter(|judgement| judgement.annotation().is_some()) {
        let first_is_good = judgement.comparison.output_1.contains("GOOD");
        assert_eq!(judgement.preference(), Some(if first_is_good { Preference::First } else { Preference::Second }));
    }
}

#[test]
fn no_script_link_or_image_of_an_answer_does_anything() {
    let Some(mut browser) = Browser::start() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let all = HOSTILE.join("\n\n");
    let mut data = String::new();
    for (i, text) in HOSTILE.iter().chain([&all.as_str()]).enumerate() {
        let record =
            json!({ "instruction": format!("{i} {text}"), "input": text, "output_1": text, "output_2": format!("{text} {i}") });
        let _ = writeln!(data, "{record}");
    }
    std::fs::write(dir.path().join("data.jsonl"), data).expect("written");
    let rubric = dir.path().join("rubric.toml");
    let text = format!("guidance = '''{}'''\nquestion = '{}'\n[[attributes]]\nname = '\"]<script>'\n", HOSTILE[0], HOSTILE[1]);
    std::fs::write(&rubric, text).expect("written");
    let server = Labelling::start(&farmhand_web::label::LabelOptions { rubric: Some(rubric), ..options(dir.path()) });
    let tab = enter(&mut browser, &server.raters.url, "<b>Ana</b>");
    for i in 0..=HOSTILE.len() {
        let listed = "[...document.querySelectorAll('.text *')].map((e) => e.localName).join(' ')";
        let elements = browser.eval(&tab, listed).as_str().expect("names").to_owned();
        for forbidden in ["script", "img", "svg", "iframe", "style", "form", "input", "base", "meta", "object", "details", "math"]
        {
            assert!(!elements.split(' ').any(|name| name == forbidden), "{forbidden} in question {i}: {elements}");
        }
        let handlers = "[...document.querySelectorAll('.text *')].every((e) => [...e.attributes].every((a) => ['href', 'rel', \
                        'target', 'title', 'class', 'dir', 'start'].includes(a.name)))";
        assert_eq!(browser.eval(&tab, handlers), true);
        assert_eq!(
            browser.eval(&tab, "[...document.querySelectorAll('.text a')].every((a) => a.protocol.startsWith('http'))"),
            true
        );
        // Whatever could be clicked is clicked.
        browser.eval(&tab, "document.querySelectorAll('.text span, .text div, .text p').forEach((e) => e.click())");
        press(&mut browser, &tab, "1");
    }
    assert_eq!(browser.eval(&tab, "typeof window.hacked"), "undefined");
    browser.wait_for(&tab, "byId('rest-title').textContent.startsWith('Thank you')");
    let operator = browser.open(&server.operator.url);
    browser.wait_for(&operator, "document.body.innerText.includes('<b>Ana</b>')");
    assert_eq!(browser.eval(&operator, "typeof window.hacked"), "undefined");

    let events = browser.take_events();
    let requests: Vec<&str> = events
        .iter()
        .filter(|event| event["method"] == "Network.requestWillBeSent")
        .filter_map(|event| event["params"]["request"]["url"].as_str())
        .collect();
    let own = format!("http://{}/", server.raters.host());
    assert!(requests.len() > 10 && requests.iter().all(|url| url.starts_with(&own)), "{requests:#?}");
    let complaints: Vec<&Value> = events
        .iter()
        .filter(|event| event["method"] == "Runtime.exceptionThrown" || event["params"]["entry"]["source"] == "security")
        .collect();
    assert!(complaints.is_empty(), "nothing was even tried: {complaints:#?}");
}
