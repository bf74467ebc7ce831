//! Chat templates: a tokenizer's Jinja template, rendered as transformers renders it.
//!
//! The environment follows `apply_chat_template`: blocks trimmed (`trim_blocks`, `lstrip_blocks`), Python's string
//! methods, loop controls, `raise_exception`, a `tojson` that writes as Python's `json.dumps`, and the
//! `{% generation %}` mark, which renders its content. One thing differs on purpose: `strftime_now` tells
//! [`TEMPLATE_DATE`] and not today, so that a prompt does not depend on the day it was made.

use std::collections::BTreeMap;

use farmhand_core::types::{Message, Role};
use farmhand_core::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value};

/// The date that templates see, as (year, month, day): Llama 3.2's own default where the date is not known.
pub const TEMPLATE_DATE: (i32, u32, u32) = (2024, 7, 26);

const NAME: &str = "chat";

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a template. `special_tokens` are the variables it may use, such as `bos_token`.
    ///
    /// # Errors
    /// When the template is not valid Jinja.
    pub fn new(source: &str, special_tokens: &BTreeMap<String, String>) -> Result<Self> {
        let mut environment = Environment::new();
        environment
            .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("the usual delimiters"));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime(&format));
        environment.add_filter("tojson", tojson);
        for (name, token) in special_tokens {
            environment.add_global(name.clone(), token.clone());
        }
        environment
            .add_template_owned(NAME, without_generation_marks(source))
            .map_err(|error| Error::invalid_data("the chat template is not valid").with_source(error))?;
        Ok(Self { environment })
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the model's next turn begins.
    ///
    /// # Errors
    /// When the template refuses the conversation, for example because it wants roles to alternate.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).expect("added when compiled");
        let context = minijinja::context! {
            messages => messages.iter().map(turn).collect::<Vec<Value>>(),
            tools => (),
            documents => (),
            add_generation_prompt => add_generation_prompt,
        };
        template.render(context).map_err(|error| {
            let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            let roles: Vec<&str> = messages.iter().map(|message| message.role.name()).collect();
            Error::invalid_data(format!("the chat template refuses a conversation of {}: {reason}", roles.join(", ")))
                .with_hint("check the order of the turns, or use another prompt format")
        })
    }

    /// What the template writes between the generation prompt and an answer (for example one space), and after it.
    /// The second is `None` when an answer does not appear in the rendered conversation as it is.
    pub(crate) fn around_answer(&self) -> Result<(String, Option<String>)> {
        const PROBE: &str = "farmhand0probe";
        let turn = |role, content: &str| Message { role, content: content.to_owned() };
        let question = [turn(Role::User, "question")];
        let prompt = self.render(&question, true)?;
        let full = self.render(&[question[0].clone(), turn(Role::Assistant, PROBE)], false)?;
        let Some((head, tail)) = full.rsplit_once(PROBE) else { return Ok((String::new(), None)) };
        let between = head.strip_prefix(prompt.as_str()).filter(|text| text.trim().is_empty()).unwrap_or_default();
        Ok((between.to_owned(), Some(tail.to_owned())))
    }
}

fn turn(message: &Message) -> Value {
    Value::from_pairs([("role", message.role.name()), ("content", message.content.as_str())])
}

/// `{% generation %}` marks what the model wrote, for masks made by others; here it becomes a condition that always holds,
/// which keeps the tag's whitespace control.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let Some(end) = tag.find("%}") else { break };
        let (tag, after) = tag.split_at(end + 2);
        out.push_str(before);
        match tag[2..end].trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// [`TEMPLATE_DATE`] at midnight in a `strftime` format; directives of the date, and of the time as zero.
fn strftime(format: &str) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const WEEKDAY: &str = "Friday";
    let (year, month, day) = TEMPLATE_DATE;
    let name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut directive = letters.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = letters.next();
        }
        let number = |value: u32| if unpadded { value.to_string() } else { format!("{value:02}") };
        match directive {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&number(year.rem_euclid(100) as u32)),
            Some('m') => out.push_str(&number(month)),
            Some('d') => out.push_str(&number(day)),
            Some('e') => out.push_str(&format!("{day:2}")),
            Some('B') => out.push_str(name),
            Some('b' | 'h') => out.push_str(&name[..3]),
            Some('A') => out.push_str(WEEKDAY),
            Some('a') => out.push_str(&WEEKDAY[..3]),
            Some('H' | 'M' | 'S') => out.push_str(&number(0)),
            Some('I') => out.push_str("12"),
            Some('p') => out.push_str("AM"),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str("00:00:00"),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn tojson(value: Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut out = Vec::new();
    let mut write = |formatter: PythonJson| -> serde_json::Result<()> {
        let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
        if sort_keys.unwrap_or(false) {
            serde::Serialize::serialize(&sorted(serde_json::to_value(&value)?), &mut serializer)
        } else {
            serde::Serialize::serialize(&value, &mut serializer)
        }
    };
    write(PythonJson { indent, depth: 0, filled: false }).map_err(failed)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

fn sorted(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => {
            let entries: BTreeMap<String, serde_json::Value> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.into_iter().collect()
        }
        serde_json::Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// `", "` and `": "` on one line, or one item a line with `","` when there is an indent.
struct PythonJson {
    indent: Option<usize>,
    depth: usize,
    filled: bool,
}

impl PythonJson {
    fn new_line(&self, out: &mut (impl std::io::Write + ?Sized)) -> std::io::Result<()> {
        match self.indent {
            Some(width) => write!(out, "\n{:1$}", "", width * self.depth),
            None => Ok(()),
        }
    }

    fn open(&mut self, out: &mut (impl std::io::Write + ?Sized), bracket: &[u8]) -> std::io::Result<()> {
        self.depth += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn close(&mut self, out: &mut (impl std::io::Write + ?Sized), bracket: &[u8]) -> std::io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.new_line(out)?;
        }
        self.filled = true;
        out.write_all(bracket)
    }

    fn item(&mut self, out: &mut (impl std::io::Write + ?Sized), first: bool) -> std::io::Result<()> {
        if !first {
            out.write_all(if self.indent.is_some() { b"," } else { b", " })?;
        }
        self.new_line(out)
    }
}

impl serde_json::ser::Formatter for PythonJson {
    fn begin_array<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        self.open(out, b"[")
    }
    fn end_array<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        self.close(out, b"]")
    }
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        self.item(out, first)
    }
    fn end_array_value<W: ?Sized + std::io::Write>(&mut self, _: &mut W) -> std::io::Result<()> {
        self.filled = true;
        Ok(())
    }
    fn begin_object<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        self.open(out, b"{")
    }
    fn end_object<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        self.close(out, b"}")
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        self.item(out, first)
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
    fn end_object_value<W: ?Sized + std::io::Write>(&mut self, _: &mut W) -> std::io::Result<()> {
        self.filled = true;
        Ok(())
    }
}
