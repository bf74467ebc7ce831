//! What chat templates call: a date in Python's `strftime`, and JSON as Python's `json.dumps` writes it.

use std::collections::BTreeMap;

use minijinja::value::Kwargs;
use minijinja::{ErrorKind, Value};

/// The date that templates see, as (year, month, day): Llama 3.2's own default where the date is not known.
pub const TEMPLATE_DATE: (i32, u32, u32) = (2024, 7, 26);

/// [`TEMPLATE_DATE`] at midnight in a `strftime` format; directives of the date, and of the time as zero.
pub(crate) fn strftime(format: &str) -> String {
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
pub(crate) fn tojson(value: Value, options: Kwargs) -> Result<String, minijinja::Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_python_writes_them() {
        assert_eq!(
            strftime("%d %b %Y, %A %-d %B %y %F %H:%M:%S %% %e|%a %m"),
            "26 Jul 2024, Friday 26 July 24 2024-07-26 00:00:00 % 26|Fri 07"
        );
        assert_eq!(strftime("%-m %"), "7 %");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let render = |template: &str| {
            let mut environment = minijinja::Environment::new();
            environment.add_filter("tojson", tojson);
            environment.render_str(template, ()).expect("renders")
        };
        assert_eq!(render("{{ {'b': [1, 2.5, none, true], 'a': {}} | tojson }}"), r#"{"b": [1, 2.5, null, true], "a": {}}"#);
        assert_eq!(render("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}"), r#"{"a": 2, "b": 1}"#);
        assert_eq!(
            render("{{ {'b': [1, {}], 'a': []} | tojson(indent=2) }}"),
            "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": []\n}"
        );
        assert_eq!(render("{{ 'é<\\n\"' | tojson }}"), "\"é<\\n\\\"\"");
    }
}
