//! Python literals: what `ast.literal_eval` reads, as JSON values.
//!
//! Judges that are asked for "a Python dictionary" answer in this language, and nothing here runs: texts, numbers, `True`,
//! `False`, `None`, lists, tuples, sets and dictionaries. Tuples and sets come back as lists, keys that are no texts as they are
//! written. Complex numbers, bytes, names, calls and f-strings are refused, and so is what nests too deeply.

use serde_json::{Map, Value};

/// How deeply lists and dictionaries may nest.
const MAX_DEPTH: usize = 64;

/// Reads one literal and nothing else.
///
/// # Errors
/// When the text is something else; the message says what was found where, counted in bytes.
pub fn read_literal(text: &str) -> Result<Value, String> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.expressions()?;
    reader.skip_space();
    if reader.at < text.len() { reader.refuse("something behind the literal") } else { Ok(value) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

type Read = Result<Value, String>;

impl<'a> Reader<'a> {
    fn refuse<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("the reply is not a Python literal: {what} at byte {}", self.at))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn takes(&mut self, what: &str) -> bool {
        let comes = self.rest().starts_with(what);
        if comes {
            self.at += what.len();
        }
        comes
    }

    fn skip_space(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\n' | '\r' | '\u{c}') => self.at += 1,
                Some('#') => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                Some('\\') if self.rest().starts_with("\\\n") => self.at += 2,
                _ => return,
            }
        }
    }

    /// A literal, or several with commas between, which are a tuple.
    fn expressions(&mut self) -> Read {
        let first = self.value(0)?;
        self.skip_space();
        if self.peek() != Some(',') {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.takes(",") {
            self.skip_space();
            if self.at == self.text.len() {
                break;
            }
            items.push(self.value(0)?);
            self.skip_space();
        }
        Ok(Value::Array(items))
    }

    fn value(&mut self, depth: usize) -> Read {
        if depth > MAX_DEPTH {
            return self.refuse("a literal that nests too deeply");
        }
        self.skip_space();
        match self.peek() {
            Some('[') => self.list("]", depth).map(|(items, _)| Value::Array(items)),
            Some('(') => {
                let (mut items, has_comma) = self.list(")", depth)?;
                // Brackets round one literal without a comma are only brackets.
                Ok(if items.len() == 1 && !has_comma { items.remove(0) } else { Value::Array(items) })
            }
            Some('{') => self.dictionary_or_set(depth),
            Some('+' | '-' | '.' | '0'..='9') => self.number(),
            Some(_) => self.text_or_word(),
            None => self.refuse("nothing"),
        }
    }

    /// Items up to `end`, and whether there was a comma.
    fn list(&mut self, end: &str, depth: usize) -> Result<(Vec<Value>, bool), String> {
        self.at += 1;
        let (mut items, mut has_comma) = (Vec::new(), false);
        loop {
            self.skip_space();
            if self.takes(end) {
                return Ok((items, has_comma));
            }
            items.push(self.value(depth + 1)?);
            if !self.goes_on(end)? {
                return Ok((items, has_comma));
            }
            has_comma = true;
        }
    }

    /// Reads a comma or `end`; whether it was a comma.
    fn goes_on(&mut self, end: &str) -> Result<bool, String> {
        self.skip_space();
        match () {
            () if self.takes(",") => Ok(true),
            () if self.takes(end) => Ok(false),
            () => self.refuse(&format!("neither a comma nor `{end}`")),
        }
    }

    fn dictionary_or_set(&mut self, depth: usize) -> Read {
        self.at += 1;
        let (mut entries, mut items) = (Map::new(), Vec::new());
        loop {
            self.skip_space();
            if self.takes("}") {
                break;
            }
            let key = self.value(depth + 1)?;
            self.skip_space();
            if self.takes(":") {
                let value = self.value(depth + 1)?;
                let key = match key {
                    Value::String(text) => text,
                    Value::Array(_) | Value::Object(_) => return self.refuse("a key that is a list or a dictionary"),
                    other => other.to_string(),
                };
                entries.insert(key, value);
            } else {
                items.push(key);
            }
            if !entries.is_empty() && !items.is_empty() {
                return self.refuse("a dictionary with an entry that has no value");
            }
            if !self.goes_on("}")? {
                break;
            }
        }
        Ok(if items.is_empty() { Value::Object(entries) } else { Value::Array(items) })
    }

    fn number(&mut self) -> Read {
        let is_negative = match self.peek() {
            Some(sign @ ('+' | '-')) => {
                self.at += 1;
                self.skip_space();
                sign == '-'
            }
            _ => false,
        };
        let end = self.number_end();
        let digits = &self.rest()[..end];
        let Some(plain) = without_underscores(digits) else { return self.refuse("an underscore out of place") };
        let lower = plain.to_ascii_lowercase();
        let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find_map(|(prefix, radix)| {
            lower.strip_prefix(prefix).map(|digits| u64::from_str_radix(digits, radix).ok().map(|number| number as f64))
        });
        let is_integer = !lower.is_empty() && lower.bytes().all(|byte| byte.is_ascii_digit());
        if is_integer && lower.len() > 1 && lower.starts_with('0') && lower.bytes().any(|byte| byte != b'0') {
            return self.refuse("a number that begins with 0");
        }
        let is_decimal = lower.bytes().any(|byte| byte.is_ascii_digit());
        let magnitude = prefixed.unwrap_or_else(|| if is_decimal { lower.parse::<f64>().ok() } else { None });
        let Some(magnitude) = magnitude.filter(|number| number.is_finite()) else { return self.refuse("no number") };
        self.at += end;
        if self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            return self.refuse("a letter behind a number");
        }
        // Whole numbers that JSON can hold stay whole.
        if is_integer && let Ok(whole) = lower.parse::<i64>() {
            return Ok(Value::from(if is_negative { -whole } else { whole }));
        }
        Ok(Value::from(if is_negative { -magnitude } else { magnitude }))
    }

    /// Where the characters of a number end, a sign in an exponent included.
    fn number_end(&self) -> usize {
        let bytes = self.rest().as_bytes();
        let is_hex = bytes.len() > 1 && bytes[0] == b'0' && matches!(bytes[1], b'x' | b'X');
        let mut end = 0;
        while end < bytes.len() {
            let signs_exponent = !is_hex && end > 0 && matches!(bytes[end], b'+' | b'-') && matches!(bytes[end - 1], b'e' | b'E');
            if !(bytes[end].is_ascii_alphanumeric() || matches!(bytes[end], b'.' | b'_') || signs_exponent) {
                break;
            }
            end += 1;
        }
        end
    }

    fn text_or_word(&mut self) -> Read {
        let word: &str =
            &self.rest()[..self.rest().find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest().len())];
        let is_quoted = self.rest()[word.len()..].starts_with(['\'', '"']);
        if is_quoted {
            return self.texts();
        }
        let value = match word {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            _ => return self.refuse("no literal"),
        };
        self.at += word.len();
        Ok(value)
    }

    /// One text, or several side by side, which are one.
    fn texts(&mut self) -> Read {
        let mut whole = String::new();
        loop {
            self.text(&mut whole)?;
            self.skip_space();
            let prefix = self.rest().find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(0);
            if !self.rest()[prefix..].starts_with(['\'', '"']) {
                return Ok(Value::String(whole));
            }
        }
    }

    fn text(&mut self, out: &mut String) -> Result<(), String> {
        let prefix: String = self.rest().chars().take_while(char::is_ascii_alphabetic).collect();
        let is_raw = match prefix.to_ascii_lowercase().as_str() {
            "" | "u" => false,
            "r" => true,
            _ => return self.refuse("a text of another kind"),
        };
        self.at += prefix.len();
        let Some(quote) = ["'", "\""].into_iter().find(|quote| self.rest().starts_with(quote)) else {
            return self.refuse("a text of another kind");
        };
        let tripled = quote.repeat(3);
        let end = if self.rest().starts_with(&tripled) { tripled.as_str() } else { quote };
        self.at += end.len();
        loop {
            if self.takes(end) {
                return Ok(());
            }
            let Some(c) = self.peek() else { return self.refuse("a text without an end") };
            if c == '\n' && end.len() == 1 {
                return self.refuse("a line that ends inside of a text");
            }
            self.at += c.len_utf8();
            match c {
                '\\' if is_raw => {
                    out.push('\\');
                    // The character behind it belongs to the text, also when it is the quote.
                    if let Some(next) = self.peek() {
                        self.at += next.len_utf8();
                        out.push(next);
                    }
                }
                '\\' => self.escape(out)?,
                c => out.push(c),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), String> {
        let Some(c) = self.peek() else { return self.refuse("a text without an end") };
        self.at += c.len_utf8();
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            'x' => return self.code(out, 16, 2, 2),
            'u' => return self.code(out, 16, 4, 4),
            'U' => return self.code(out, 16, 8, 8),
            '0'..='7' => {
                self.at -= 1;
                return self.code(out, 8, 1, 3);
            }
            'N' => return self.refuse("a character by its name"),
            // Python keeps the backslash of an escape it does not know.
            other => out.extend(['\\', other]),
        }
        Ok(())
    }

    fn code(&mut self, out: &mut String, radix: u32, at_least: usize, at_most: usize) -> Result<(), String> {
        let digits: String = self.rest().chars().take(at_most).take_while(|c| c.is_digit(radix)).collect();
        let number = u32::from_str_radix(&digits, radix).ok().filter(|_| digits.len() >= at_least);
        let Some(number) = number else { return self.refuse("an escape that is too short") };
        self.at += digits.len();
        // Half of a surrogate pair stands for no character alone.
        out.push(char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER));
        Ok(())
    }
}

/// The digits of a number without the underscores that may stand between two of them.
fn without_underscores(digits: &str) -> Option<String> {
    let bytes = digits.as_bytes();
    let is_placed = |at: usize| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        let after = bytes.get(at + 1);
        before.is_some_and(u8::is_ascii_alphanumeric) && after.is_some_and(u8::is_ascii_alphanumeric)
    };
    let all_placed = (0..bytes.len()).filter(|at| bytes[*at] == b'_').all(is_placed);
    all_placed.then(|| digits.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What `ast.literal_eval` gives, tuples and sets as lists.
    #[test]
    fn literals_are_read_as_python_reads_them() {
        let cases = [
            ("[{'model': 'model_1', 'rank': 1}, ]", json!([{ "model": "model_1", "rank": 1 }])),
            (" \n[\n  {\"a\": 1.5e0,}, # why\n  {'b': -2}\n]\n", json!([{ "a": 1.5 }, { "b": -2 }])),
            ("(1, 2)", json!([1, 2])),
            ("(1)", json!(1)),
            ("1,", json!([1])),
            ("1, 2", json!([1, 2])),
            ("()", json!([])),
            ("{1, 2}", json!([1, 2])),
            ("{}", json!({})),
            ("{1: 'a', None: 'b'}", json!({ "1": "a", "null": "b" })),
            ("[True, False, None]", json!([true, false, null])),
            ("'a' \"b\" '''c\nd'''", json!("abc\nd")),
            (
                r#"'it\'s \x41\u00e9\101\q\
x'"#,
                json!("it's AéA\\qx"),
            ),
            (r"r'\n\''", json!("\\n\\'")),
            ("u'x'", json!("x")),
            ("0x1F", json!(31.0)),
            ("1_000", json!(1000)),
            ("- 3", json!(-3)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("00", json!(0)),
            ("123456789012345678901234567890", json!(123456789012345678901234567890.0_f64)),
        ];
        for (text, expected) in cases {
            assert_eq!(read_literal(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_a_literal_and_nothing_runs() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "model_1",
            "[1",
            "[1 2]",
            "{'a': }",
            "{'a': 1, 2}",
            "{[1]: 2}",
            "'a",
            "'a\nb'",
            "1 2",
            "__import__('os')",
            "f'{1}'",
            "b'x'",
            "1j",
            "1__0",
            "_1",
            "012",
            "1e999",
            "0x",
            "+",
            "'\\N{DASH}'",
            "[1] if True else 2",
            "...",
            "'\\x1'",
            "é'a'",
            "r1'a'",
            &deep,
        ] {
            assert!(read_literal(text).is_err(), "{text:.40}");
        }
    }
}
