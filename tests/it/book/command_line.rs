//! Commands of the book, read by the real command line.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use farmhand::cli::args::Cli;

/// Whether every `farmhand` in a shell command is understood.
pub(super) fn understood(command: &str) -> Result<(), String> {
    for words in simple_commands(command) {
        let words: Vec<&String> = words.iter().skip_while(|word| is_assignment(word)).collect();
        let Some(program) = words.first().map(|word| word.as_str()) else { continue };
        if !matches!(program.rsplit('/').next(), Some("farmhand" | "my-farmhand")) {
            continue;
        }
        if let Err(error) = Cli::try_parse_from(&words)
            && !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
        {
            return Err(error.to_string());
        }
    }
    Ok(())
}

/// What is wrong with code in a sentence that names a command which there is not.
pub(super) fn unknown_subcommand(span: &str) -> Option<String> {
    let word = span.strip_prefix("farmhand ")?.split_whitespace().next()?;
    let is_name = word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
    let known = Cli::command().get_subcommands().any(|command| command.get_name() == word);
    (is_name && !known).then(|| format!("there is no command `{word}` in `{span}`"))
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// The words of every command between `|`, `;`, `&` and newlines, without redirections and comments; quotes as in a shell.
fn simple_commands(text: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word = None::<String>;
    let mut skips_next = false;
    let mut chars = text.chars().peekable();
    let mut end = |word: &mut Option<String>, commands: &mut Vec<Vec<String>>| {
        if let Some(word) = word.take() {
            if word == ">" || word == "2>" {
                skips_next = true;
            } else if !std::mem::take(&mut skips_next) {
                commands.last_mut().expect("never empty").push(word);
            }
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\n') | None => end(&mut word, &mut commands),
                Some(escaped) => word.get_or_insert_default().push(escaped),
            },
            '"' | '\'' => {
                let word = word.get_or_insert_default();
                while let Some(inner) = chars.next().filter(|&inner| inner != c) {
                    match inner {
                        '\\' if c == '"' => word.extend(chars.next()),
                        _ => word.push(inner),
                    }
                }
            }
            '#' if word.is_none() => while chars.next_if(|&c| c != '\n').is_some() {},
            '|' | ';' | '&' | '\n' => {
                end(&mut word, &mut commands);
                commands.push(Vec::new());
            }
            c if c.is_whitespace() => end(&mut word, &mut commands),
            c => word.get_or_insert_default().push(c),
        }
    }
    end(&mut word, &mut commands);
    commands.retain(|words| !words.is_empty());
    commands
}

#[test]
fn commands_are_taken_apart_as_a_shell_does() {
    let found = simple_commands("A=1 farmhand run \"a b\" \\\n --set 'x=\"y\"' > out # why\nfarmhand list | head -3");
    assert_eq!(found[0], ["A=1", "farmhand", "run", "a b", "--set", "x=\"y\""]);
    assert_eq!(found[1..], [vec!["farmhand".to_owned(), "list".to_owned()], vec!["head".to_owned(), "-3".to_owned()]]);
    assert!(understood("A=1 farmhand list | farmhand lsit").is_err() && understood("cat x | farmhand list").is_ok());
    assert!(unknown_subcommand("farmhand lern").is_some() && unknown_subcommand("farmhand learn dpo").is_none());
}
