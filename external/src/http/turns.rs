//! How a conversation becomes one text, where a server wants one.

use farmhand_core::Problem;
use farmhand_core::types::{Response, Role};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a turn's text goes.
const TEXT: &str = "{text}";

/// How a conversation becomes one text: each turn in its form, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    /// What stands before the first turn.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub start: String,
    /// A turn of the person, `{text}` once in it.
    pub user: String,
    /// A turn of the model, `{text}` once in it.
    pub assistant: String,
    /// A system message, `{text}` once in it; unset: as the person's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

impl Turns {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let all = [("user", Some(&self.user)), ("assistant", Some(&self.assistant)), ("system", self.system.as_ref())];
        let wrong = all.into_iter().filter(|(_, form)| form.is_some_and(|form| form.matches(TEXT).count() != 1));
        wrong.map(|(path, _)| Problem::new(path, format!("expected a text with `{TEXT}` once in it"))).collect()
    }

    /// The turn's form before and after its text. What a turn says is never read as a form.
    fn around(&self, role: Role) -> (&str, &str) {
        let form = match role {
            Role::User => &self.user,
            Role::Assistant => &self.assistant,
            Role::System => self.system.as_ref().unwrap_or(&self.user),
        };
        form.split_once(TEXT).unwrap_or((form, ""))
    }

    /// The conversation up to where the answer begins, and all of it.
    pub(super) fn render(&self, response: &Response<'_>) -> (String, String) {
        let mut prompt = self.start.clone();
        for turn in &response.instruction.history {
            let (before, after) = self.around(turn.role);
            prompt.extend([before, &turn.content, after]);
        }
        let (before, after) = self.around(Role::User);
        prompt.extend([before, &response.instruction.text(), after]);
        let (before, after) = self.around(Role::Assistant);
        prompt.push_str(before);
        let whole = [prompt.as_str(), response.output, after].concat();
        (prompt, whole)
    }
}

#[cfg(test)]
mod tests {
    use farmhand_core::types::{Instruction, Message};

    use super::*;

    #[test]
    fn turns_are_written_in_their_forms_and_their_texts_stay_as_they_are() {
        let turns = Turns {
            start: "<s>".to_owned(),
            user: "[U]{text}[/U]".to_owned(),
            assistant: "[A]{text}</s>".to_owned(),
            system: Some("[S]{text}".to_owned()),
        };
        assert_eq!(turns.problems(), []);
        let said = |role, content: &str| Message { role, content: content.to_owned() };
        let history = vec![said(Role::System, "Be kind."), said(Role::User, "{text}"), said(Role::Assistant, "Yes?")];
        let instruction = Instruction::with_history("Add", Some("1 {text}"), history);
        let (prompt, whole) = turns.render(&Response { instruction: &instruction, output: "2[/U]" });
        assert_eq!(prompt, "<s>[S]Be kind.[U]{text}[/U][A]Yes?</s>[U]Add\n\n1 {text}[/U][A]");
        assert_eq!(whole, format!("{prompt}2[/U]</s>"));
    }

    #[test]
    fn a_form_without_a_place_for_the_text_is_refused() {
        let turns = Turns { user: "{text}{text}".to_owned(), system: Some("x".to_owned()), ..Turns::default() };
        let paths: Vec<String> = turns.problems().into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["user", "assistant", "system"]);
    }
}
