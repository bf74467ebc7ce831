//! A TOML file with the overrides from the command line, and where each key stands in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::schema_check::check_against_schema;
use crate::component::schema_json;
use crate::error::{Error, ErrorKind, Problem, Result};

/// A configuration as written: its values, and the line of each key.
#[derive(Debug, Clone)]
pub struct Document {
    path: PathBuf,
    values: Value,
    lines: BTreeMap<String, usize>,
}

impl Document {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// When it cannot be read or is not TOML; the message gives line and column.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read the configuration", path, error))?;
        Self::parse(path, &text)
    }

    /// Reads TOML text that is shown as coming from `path`.
    ///
    /// # Errors
    /// When it is not TOML.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let parsed = toml_edit::Document::parse(text).map_err(|error| {
            let (line, column) = error.span().map_or((1, 1), |span| line_and_column(text, span.start));
            Error::invalid_config(format!("{}:{line}:{column}: not TOML: {}", path.display(), error.message().trim()))
        })?;
        let mut lines = BTreeMap::new();
        note_lines(parsed.as_table(), "", text, &mut lines);
        let values: Value = toml::from_str(text).map_err(|error| Error::invalid_config(error.message()))?;
        Ok(Self { path: path.to_owned(), values, lines })
    }

    /// Overrides one value: `learner.dpo.beta=0.2`. The value is TOML; what is not is taken as a plain text.
    ///
    /// # Errors
    /// When there is no `=`, or the path runs through something that is not a table.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (path, text) = assignment.split_once('=').ok_or_else(|| {
            Error::invalid_config(format!("`--set {assignment}` has no `=`")).with_hint("write `--set path.to.key=value`")
        })?;
        let (path, text) = (path.trim(), text.trim());
        let value = toml::from_str::<BTreeMap<String, Value>>(&format!("value = {text}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::String(text.to_owned()));
        let mut place = &mut self.values;
        for key in path.split('.') {
            let table = match place {
                Value::Object(table) => table,
                _ => {
                    return Err(Error::invalid_config(format!(
                        "`--set {assignment}`: `{path}` runs through a value that is not a table"
                    )));
                }
            };
            place = table.entry(key).or_insert_with(|| Value::Object(serde_json::Map::new()));
        }
        *place = value;
        self.lines.retain(|known, _| known != path && !known.starts_with(&format!("{path}.")));
        Ok(())
    }

    /// Reads the document as `T`: first compares it with `T`'s schema and reports everything wrong at once, each with
    /// its line; then builds the value.
    ///
    /// # Errors
    /// When anything is wrong.
    pub fn read_as<T: DeserializeOwned + schemars::JsonSchema>(&self) -> Result<T> {
        let schema: Value = serde_json::from_str(&schema_json::<T>()).expect("a schema is JSON");
        let problems = check_against_schema(&self.values, &schema);
        if !problems.is_empty() {
            return Err(self.problems_error(&problems));
        }
        serde_path_to_error::deserialize(&self.values).map_err(|error| {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            self.problems_error(&[Problem::new(path, error.inner().to_string())])
        })
    }

    /// One error for all problems, each with file and line.
    pub fn problems_error(&self, problems: &[Problem]) -> Error {
        let rendered = render_problems(problems, |path| self.location(path));
        let count = match problems.len() {
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        };
        Error::new(ErrorKind::InvalidConfig, format!("{count} in `{}`:\n{rendered}", self.path.display()))
    }

    /// `file:line` of a key, or of the nearest table around it.
    fn location(&self, path: &str) -> String {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return format!("{}:{line}", self.path.display());
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.path.display().to_string(),
            }
        }
    }

    /// The values.
    pub fn values(&self) -> &Value {
        &self.values
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Problems as text, one a paragraph: location, key path, message, hint.
pub fn render_problems(problems: &[Problem], location: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for (i, problem) in problems.iter().enumerate() {
        let end = if i == 0 { "" } else { "\n" };
        let place = location(&problem.path);
        text += &match problem.path.as_str() {
            "" => format!("{end}  {place}: {}", problem.message),
            path => format!("{end}  {place}: `{path}`: {}", problem.message),
        };
        if let Some(hint) = &problem.hint {
            text += &format!("\n    hint: {hint}");
        }
    }
    text
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line = before.matches('\n').count() + 1;
    (line, before.chars().rev().take_while(|c| *c != '\n').count() + 1)
}

fn note_lines(table: &dyn toml_edit::TableLike, prefix: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, item) in table.iter() {
        let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        let span = table.get_key_value(key).and_then(|(key, _)| key.span()).or_else(|| item.span());
        if let Some(span) = span {
            lines.insert(path.clone(), line_and_column(text, span.start).0);
        }
        note_item(item, &path, text, lines);
    }
}

fn note_item(item: &toml_edit::Item, path: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    if let Some(table) = item.as_table_like() {
        note_lines(table, path, text, lines);
    } else if let Some(array) = item.as_array() {
        for (i, value) in array.iter().enumerate() {
            let path = format!("{path}[{i}]");
            if let Some(span) = value.span() {
                lines.insert(path.clone(), line_and_column(text, span.start).0);
            }
            if let Some(table) = value.as_inline_table() {
                note_lines(table, &path, text, lines);
            }
        }
    } else if let Some(tables) = item.as_array_of_tables() {
        for (i, table) in tables.iter().enumerate() {
            note_lines(table, &format!("{path}[{i}]"), text, lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Options {
        #[serde(default)]
        learning: Learning,
        #[serde(default)]
        names: Vec<String>,
    }

    #[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    struct Learning {
        rate: f64,
        steps: u32,
    }

    fn document(text: &str) -> Document {
        Document::parse(Path::new("a.toml"), text).expect("TOML")
    }

    #[test]
    fn all_problems_come_at_once_with_their_lines() {
        let text = "names = [\"a\", 3]\n\n[learning]\nrat = 1.0\nsteps = \"ten\"\n";
        let error = document(text).read_as::<Options>().expect_err("three problems").to_string();
        assert!(error.starts_with("3 problems in `a.toml`:"), "{error}");
        assert!(error.contains("a.toml:1: `names[1]`: expected a text, got the whole number 3"), "{error}");
        assert!(error.contains("a.toml:4: `learning.rat`: unknown option"), "{error}");
        assert!(error.contains("hint: did you mean `rate`?"), "{error}");
        assert!(error.contains("a.toml:5: `learning.steps`: expected a whole number, got the text \"ten\""), "{error}");
    }

    #[test]
    fn overrides_replace_and_make_values() {
        let mut document = document("[learning]\nrate = 1.0\n");
        document.set("learning.rate=0.5").expect("set");
        document.set("learning.steps = 7").expect("set");
        document.set("names=[\"x\"]").expect("set");
        let options: Options = document.read_as().expect("fits");
        assert_eq!((options.learning.rate, options.learning.steps, options.names.len()), (0.5, 7, 1));
        assert!(document.set("learning.rate").is_err());
        assert!(document.set("learning.rate.x=1").is_err());
        document.set("learning.rate=fast").expect("set");
        assert!(document.read_as::<Options>().expect_err("a text").to_string().contains("got the text \"fast\""));
    }

    #[test]
    fn broken_toml_is_located() {
        let error = Document::parse(Path::new("a.toml"), "x = 1\ny = = 2\n").expect_err("broken").to_string();
        assert!(error.starts_with("a.toml:2:5: not TOML"), "{error}");
    }
}
