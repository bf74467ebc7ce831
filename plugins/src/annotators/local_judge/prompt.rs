//! The judge's prompt: a TOML file of messages, each a template that an example fills.
//!
//! The form is that of the prompts of judges behind a server: `[[messages]]` with `role` and `content`, Jinja, and the variables
//! `instruction`, `output_1`, `output_2`, `first` and `second`. A template is compiled once, and what an example says is a value in it,
//! never part of it.

use farmhand_core::types::{Instruction, Message, Role};
use farmhand_core::{Error, Result};
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Deserialize;

/// What a prompt must show for its answer to say anything.
const NEEDED: [&str; 3] = ["instruction", "output_1", "output_2"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    messages: Vec<FileMessage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMessage {
    role: Role,
    content: String,
}

/// A compiled prompt.
pub(super) struct JudgePrompt {
    environment: Environment<'static>,
    roles: Vec<Role>,
}

/// What a prompt shows.
pub(super) struct Shown<'a> {
    pub(super) instruction: &'a Instruction,
    pub(super) output_1: &'a str,
    pub(super) output_2: &'a str,
    pub(super) first: &'a str,
    pub(super) second: &'a str,
}

impl JudgePrompt {
    /// Compiles a prompt file.
    ///
    /// # Errors
    /// When it is not TOML, a message is no template, it does not show the instruction and both answers, or its last message is not
    /// the user's.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let File { messages } = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            Error::invalid_config(format!("line {at}: {}", error.message().trim()))
                .with_hint("a prompt is a list of `[[messages]]`, each with `role` and `content`")
        })?;
        if messages.last().is_none_or(|last| last.role != Role::User) {
            return Err(Error::invalid_config("`messages`: expected the last message to be the user's, which the judge answers"));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let roles = messages.iter().map(|message| message.role).collect();
        for (i, message) in messages.into_iter().enumerate() {
            environment.add_template_owned(i.to_string(), message.content).map_err(|error| {
                let line = error.line().map(|line| format!(", line {line}")).unwrap_or_default();
                Error::invalid_config(format!("`messages[{i}].content`{line}: {}", error.detail().unwrap_or("not a template")))
            })?;
        }
        let prompt = Self { environment, roles };
        prompt.check()?;
        Ok(prompt)
    }

    /// Whether all that is needed is shown, and nothing else asked for.
    fn check(&self) -> Result<()> {
        let names: std::collections::HashSet<String> = (0..self.roles.len())
            .filter_map(|i| self.environment.get_template(&i.to_string()).ok())
            .flat_map(|template| template.undeclared_variables(false))
            .collect();
        match NEEDED.iter().find(|name| !names.contains(**name)) {
            Some(missing) => Err(Error::invalid_config(format!("the prompt does not show `{{{{ {missing} }}}}`"))),
            None => {
                let example = Instruction::new("i", None);
                let shown = Shown { instruction: &example, output_1: "a", output_2: "b", first: "A", second: "B" };
                self.fill(&shown).map(|_| ())
            }
        }
    }

    /// The conversation that shows these two answers.
    ///
    /// # Errors
    /// When the template asks for something that is not there.
    pub(super) fn fill(&self, shown: &Shown<'_>) -> Result<Vec<Message>> {
        let Shown { instruction, output_1, output_2, first, second } = *shown;
        let asked = asked(instruction);
        let render = |(i, role): (usize, &Role)| {
            let template = self.environment.get_template(&i.to_string()).expect("every message was compiled");
            let content = template.render(context! { instruction => &asked, output_1, output_2, first, second });
            let content = content.map_err(|error| {
                Error::invalid_config(format!("`messages[{i}].content`: {error}"))
                    .with_hint("a prompt can show `instruction`, `output_1`, `output_2`, `first` and `second`")
            })?;
            Ok(Message { role: *role, content })
        };
        self.roles.iter().enumerate().map(render).collect()
    }
}

/// What was asked, with earlier turns in front.
fn asked(instruction: &Instruction) -> String {
    let turn = |message: &Message| format!("{}: {}\n\n", message.role.name(), message.content);
    let before: String = instruction.history.iter().map(turn).collect();
    let last = if before.is_empty() { "" } else { "user: " };
    format!("{before}{last}{}", instruction.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "{{ instruction }}|{{ output_1 }}|{{ output_2 }}|{{ first }}|{{ second }}";

    fn file(content: &str) -> String {
        format!("[[messages]]\nrole = \"user\"\ncontent = '''{content}'''\n")
    }

    #[test]
    fn an_example_fills_the_template_and_never_changes_it() {
        let prompt = JudgePrompt::parse(&file(ALL)).expect("a prompt");
        let turns =
            vec![Message { role: Role::User, content: "hi".into() }, Message { role: Role::Assistant, content: "ho".into() }];
        let instruction = Instruction::with_history("{{ output_2 }}", Some("x"), turns);
        let shown = Shown { instruction: &instruction, output_1: "{% if %}", output_2: "|'''", first: "A", second: "B" };
        let messages = prompt.fill(&shown).expect("filled");
        assert_eq!(messages[0].content, "user: hi\n\nassistant: ho\n\nuser: {{ output_2 }}\n\nx|{% if %}||'''|A|B");
    }

    #[test]
    fn a_prompt_that_cannot_work_is_refused() {
        for (text, complaint) in [
            (file("{{ instruction }} {{ output_1 }}"), "does not show `{{ output_2 }}`"),
            (file(&format!("{ALL} {{{{ reference }}}}")), "messages[0].content"),
            (file("{{ instruction"), "messages[0].content`, line 1"),
            (file(ALL).replace("user", "assistant"), "the last message to be the user's"),
            ("messages = []".to_owned(), "the last message to be the user's"),
            ("[[messages]]\nrole = \"user\"\ntext = \"\"".to_owned(), "line 3"),
        ] {
            let error = JudgePrompt::parse(&text).err().expect(&text);
            assert!(error.message().contains(complaint), "{error}");
        }
    }
}
