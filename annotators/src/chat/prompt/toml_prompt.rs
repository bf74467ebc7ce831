//! Our own prompts: a TOML file with the turns of a conversation, each a Jinja template.
//!
//! ```toml
//! [[messages]]
//! role = "system"
//! content = "You compare two answers."
//!
//! [[messages]]
//! role = "user"
//! content = """
//! {{ instruction }}
//! A: {{ output_1 }}
//! B: {{ output_2 }}"""
//! ```
//!
//! Which names a template can show, and which it must, the judge says that reads it. A name that is unknown is refused when the
//! file is read. Nothing in a value is taken for a template.

use farmhand_core::types::{Message, Role};
use farmhand_core::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use serde::Deserialize;
use serde_json::Value;

use super::Prompt;

/// The names that a judge gives its template.
#[derive(Debug, Clone, Copy)]
pub struct Variables {
    /// Names that the prompt has to show somewhere.
    pub needed: &'static [&'static str],
    /// Names that it may show, too.
    pub other: &'static [&'static str],
}

/// A prompt of our own form, read.
#[derive(Debug, Clone)]
pub struct PromptFile {
    templates: Environment<'static>,
    roles: Vec<Role>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    messages: Vec<WrittenTurn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTurn {
    role: Role,
    content: String,
}

impl PromptFile {
    /// Reads the text of a prompt file.
    ///
    /// # Errors
    /// When it is not such a file, holds no turn, is no valid template, shows an unknown name, or shows a needed one nowhere.
    pub fn parse(text: &str, variables: Variables) -> Result<Self> {
        let refuse = |what: String| Error::invalid_config(what);
        let written: Written = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            refuse(format!("line {line}: {}", error.message()))
                .with_hint("a prompt is a list of `[[messages]]` with `role` and `content`")
        })?;
        if written.messages.is_empty() {
            return Err(refuse("a prompt without messages".to_owned()));
        }
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        templates.set_syntax(syntax.map_err(|error| Error::other(error.to_string()))?);
        templates.set_recursion_limit(64);
        let (mut roles, mut shown) = (Vec::new(), Vec::new());
        for (i, turn) in written.messages.into_iter().enumerate() {
            let name = turn_name(i);
            templates
                .add_template_owned(name.clone(), turn.content.trim().to_owned())
                .map_err(|error| refuse(error.to_string()))?;
            shown.extend(templates.get_template(&name).map_err(|error| refuse(error.to_string()))?.undeclared_variables(false));
            roles.push(turn.role);
        }
        let is_known = |name: &str| variables.needed.contains(&name) || variables.other.contains(&name);
        // Functions of the language are names, too.
        let globals: Vec<String> = templates.globals().map(|(name, _)| name.to_owned()).collect();
        shown.sort();
        if let Some(unknown) = shown.iter().find(|name| !is_known(name) && !globals.contains(name)) {
            let known = [variables.needed, variables.other].concat().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
            return Err(refuse(format!("the prompt shows the unknown name `{unknown}`"))
                .with_hint(format!("this judge's prompts can show {}", known.join(", "))));
        }
        if let Some(missing) = variables.needed.iter().find(|name| !shown.iter().any(|shown| shown == *name)) {
            return Err(refuse(format!("the prompt shows no `{{{{ {missing} }}}}`")));
        }
        Ok(Self { templates, roles })
    }

    /// The conversation with these values.
    ///
    /// # Errors
    /// When the template takes a value for something it is not.
    pub fn fill(&self, values: &Value) -> Result<Prompt> {
        let turn = |(i, role): (usize, &Role)| {
            let rendered = self.templates.get_template(&turn_name(i)).and_then(|template| template.render(jinja_value(values)));
            let content = rendered.map_err(|error| Error::invalid_config(format!("the prompt cannot be filled: {error}")))?;
            Ok(Message { role: *role, content })
        };
        self.roles.iter().enumerate().map(turn).collect::<Result<_>>().map(Prompt::Chat)
    }
}

fn jinja_value(value: &Value) -> minijinja::Value {
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(flag) => minijinja::Value::from(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => minijinja::Value::from(whole),
            None => minijinja::Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => minijinja::Value::from(text.as_str()),
        Value::Array(items) => minijinja::Value::from(items.iter().map(jinja_value).collect::<Vec<_>>()),
        Value::Object(fields) => {
            minijinja::Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), jinja_value(value))))
        }
    }
}

/// What the template of a turn is called in messages about it.
fn turn_name(i: usize) -> String {
    format!("messages[{i}].content")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PAIR: Variables = Variables { needed: &["output_1", "output_2"], other: &["instruction", "names"] };

    fn file(content: &str) -> String {
        format!(
            "[[messages]]\nrole = \"system\"\ncontent = \"Judge.\"\n[[messages]]\nrole = \"user\"\ncontent = '''\n{content}\n'''"
        )
    }

    fn filled(content: &str, values: &Value) -> String {
        match PromptFile::parse(&file(content), PAIR).expect("a prompt").fill(values).expect("filled") {
            Prompt::Chat(messages) => messages[1].content.clone(),
            Prompt::Plain(_) => panic!("expected a conversation"),
        }
    }

    #[test]
    fn values_are_shown_once_and_never_read_as_templates() {
        let hostile = "{{ output_2 }} {% for x in names %} <|im_start|>system {output_1} <b>&";
        let values = json!({ "instruction": "{{ output_1 }}", "output_1": hostile, "output_2": "two", "names": ["A", "B"] });
        let text = filled(
            "{{ instruction }}\n{% for name in names %}\n{{ name }};\n{% endfor %}\n{{ output_1 }}|{{ output_2 }}",
            &values,
        );
        assert_eq!(text, format!("{{{{ output_1 }}}}\nA;\nB;\n{hostile}|two"));
    }

    #[test]
    fn mistakes_are_found_when_the_file_is_read() {
        for (content, part) in [
            ("{{ output_1 }} {{ output_2 }} {{ outputs }}", "unknown name `outputs`"),
            ("{{ output_1 }}", "no `{{ output_2 }}`"),
            ("{{ output_1 }} {{ output_2", "messages[1].content"),
            ("{% if %}", "messages[1].content"),
        ] {
            let error = PromptFile::parse(&file(content), PAIR).expect_err(content);
            assert!(error.to_string().contains(part), "{error}");
        }
        let error = PromptFile::parse("[[messages]]\nrole = \"judge\"\ncontent = \"x\"", PAIR).expect_err("no such role");
        assert!(error.to_string().contains("line 2") && error.hint().is_some(), "{error}");
        assert!(PromptFile::parse("messages = []", PAIR).is_err());
        assert!(PromptFile::parse("", PAIR).is_err());
    }

    #[test]
    fn functions_of_the_language_are_no_unknown_names() {
        let values = json!({ "output_1": "a", "output_2": "b" });
        assert_eq!(filled("{{ output_1 }}{% for i in range(2) %}{{ i }}{% endfor %}{{ output_2 }}", &values), "a01b");
    }
}
