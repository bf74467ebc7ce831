//! Commands with what they print, and the comparison of what is shown with what is printed.

/// A command and what is shown below it.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    pub(super) command: String,
    pub(super) shown: String,
}

/// The commands of a `console` block. A command goes on in the next line after `\` and inside quotes.
pub(super) fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        if goes_on {
            let command = &mut steps.last_mut().expect("begun").command;
            command.push('\n');
            command.push_str(line);
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), shown: String::new() });
        } else {
            if let Some(step) = steps.last_mut() {
                step.shown.push_str(line);
                step.shown.push('\n');
            }
            continue;
        }
        let command = &steps.last().expect("begun").command;
        goes_on = command.ends_with('\\') || quote_is_open(command);
    }
    steps
}

fn quote_is_open(command: &str) -> bool {
    let mut open = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (c, open) {
            ('\\', Some('"') | None) => drop(chars.next()),
            ('"' | '\'', None) => open = Some(c),
            (c, Some(quote)) if c == quote => open = None,
            _ => {}
        }
    }
    open.is_some()
}

/// How strictly output is compared.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Comparison {
    /// Numbers may be any, and so may the width of columns.
    pub(super) numbers_vary: bool,
    /// Lines may stand in any order.
    pub(super) any_order: bool,
    /// The first line, which says what the numbers mean, may be another.
    pub(super) verdict_varies: bool,
}

impl Comparison {
    /// Whether what is printed is what is shown.
    pub(super) fn same(self, shown: &str, printed: &str) -> bool {
        let lines = |text: &str| -> Vec<String> {
            let line = |line: &str| if self.numbers_vary { shape(line) } else { line.trim_end().to_owned() };
            text.trim_end().lines().map(line).collect()
        };
        let (mut shown, mut printed) = (lines(shown), lines(printed));
        if self.verdict_varies && !shown.is_empty() && !printed.is_empty() {
            drop((shown.remove(0), printed.remove(0)));
        }
        if self.any_order {
            shown.sort_unstable();
            printed.sort_unstable();
        }
        all_match(&shown, &printed)
    }
}

/// A line without its numbers: each becomes `#`, a run of spaces one space, a rule one dash.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    let mut chars = line.trim_end().chars().peekable();
    while let Some(c) = chars.next() {
        let last = shape.chars().next_back();
        let sign =
            matches!(c, '+' | '-' | '−') && last.is_none_or(|last| last == ' ') && chars.peek().is_some_and(char::is_ascii_digit);
        let in_word = last.is_some_and(|last| last.is_alphabetic() || last == '_');
        if (c.is_ascii_digit() && !in_word) || sign {
            while chars.next_if(|&c| c.is_ascii_digit() || matches!(c, '.' | ',' | 'e')).is_some() {}
            shape.push('#');
        } else if !(last == Some(c) && matches!(c, ' ' | '─')) {
            shape.push(c);
        }
    }
    // `p = 0.61` and `p < 0.001` are numbers of one place.
    shape.trim().replace("< #", "#").replace("= #", "#")
}

fn all_match(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first.trim() == "…" => (0..=printed.len()).any(|n| all_match(rest, &printed[n..])),
        Some((first, rest)) => {
            printed.split_first().is_some_and(|(line, more)| line_matches(first, line) && all_match(rest, more))
        }
    }
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let Some((start, rest)) = shown.split_once('…') else { return shown == printed };
    let Some(mut left) = printed.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('…').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = left.split_once(part) else { return false };
        left = after;
    }
    left.ends_with(end)
}

#[test]
fn commands_go_on_after_a_backslash_and_inside_quotes() {
    let found = steps("$ one \\\n    two\nout\n$ query \"a\n  b\"\n\nlast\n");
    let step = |command: &str, shown: &str| Step { command: command.to_owned(), shown: shown.to_owned() };
    assert_eq!(found, [step("one \\\n    two", "out\n"), step("query \"a\n  b\"", "\nlast\n")]);
}

#[test]
fn what_differs_is_found() {
    let strict = Comparison::default();
    assert!(strict.same("a 1\nb…d\n…\nz\n", "a 1\nbcd\nx\ny\nz"));
    assert!(!strict.same("a 1\n", "a 2\n") && !strict.same("a\n", "a\nb\n") && !strict.same("a…c\n", "ab\n"));
    let loose = Comparison { numbers_vary: true, ..strict };
    assert!(loose.same("(p = 0.61)", "(p < 0.001)") && loose.same("dpo   62.17  -0.1 ─────", "dpo  9.5 +1,000.5 ───"));
    assert!(!loose.same("dpo 1", "ppo 1") && !loose.same("step1 1", "step2 1") && !loose.same("1 2", "1"));
    assert!(Comparison { any_order: true, ..loose }.same("b 1\na 2", "a 1\nb 2"));
}
