//! Python's regular expressions, compiled here.
//!
//! AlpacaEval's settings hold patterns for Python's `re`. The engine here reads nearly the same language; what differs is
//! translated: `\Z`, `$` before a last newline, `{,n}`, a brace that is no repetition, and `[` or `&&` inside of a class, which
//! mean themselves in Python. What Python refuses (`\q`) is refused, and so are the few things that cannot be translated.

use std::iter::Peekable;
use std::str::CharIndices;

use fancy_regex::{Regex, RegexBuilder};

/// Steps back that one search may take: enough for any honest pattern, and the end of a search that would take hours.
const BACKTRACK_LIMIT: usize = 200_000;

/// Memory that one pattern may take when compiled, in bytes.
const SIZE_LIMIT: usize = 4 << 20;

/// Compiles a pattern of Python's `re`.
///
/// # Errors
/// What Python refuses, what cannot be translated, and patterns that are too large.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let translated = translate(pattern)?;
    RegexBuilder::new(&translated)
        .backtrack_limit(BACKTRACK_LIMIT)
        .delegate_size_limit(SIZE_LIMIT)
        .build()
        .map_err(|error| format!("the pattern `{pattern}` cannot be used: {error}"))
}

/// The highest count of a repetition.
const MOST_REPETITIONS: u32 = 1000;

fn translate(pattern: &str) -> Result<String, String> {
    let mut reader = Reader { pattern, chars: pattern.char_indices().peekable(), is_multi_line: false };
    let mut out = String::with_capacity(pattern.len() + 16);
    while let Some((at, c)) = reader.chars.next() {
        match c {
            '\\' => reader.escape(&mut out, at)?,
            '[' => reader.class(&mut out, at)?,
            '$' if !reader.is_multi_line => out.push_str(r"(?=\n?\z)"),
            '{' => reader.braces(&mut out, at)?,
            '}' | ']' => out.extend(['\\', c]),
            '(' if reader.takes("?") => reader.group(&mut out, at)?,
            _ => out.push(c),
        }
    }
    Ok(out)
}

struct Reader<'a> {
    pattern: &'a str,
    chars: Peekable<CharIndices<'a>>,
    is_multi_line: bool,
}

impl Reader<'_> {
    fn rest(&mut self) -> &str {
        let at = self.chars.peek().map_or(self.pattern.len(), |(at, _)| *at);
        &self.pattern[at..]
    }

    /// Reads `text` if it comes next. `text` is ASCII.
    fn takes(&mut self, text: &str) -> bool {
        let comes = self.rest().starts_with(text);
        if comes {
            self.chars.by_ref().take(text.len()).for_each(drop);
        }
        comes
    }

    fn refuse<T>(&self, at: usize, why: &str) -> Result<T, String> {
        Err(format!("the pattern `{}` cannot be used: {why} at byte {at}", self.pattern))
    }

    /// What follows a backslash outside of a class.
    fn escape(&mut self, out: &mut String, at: usize) -> Result<(), String> {
        match self.chars.peek().copied() {
            Some((_, 'Z')) => out.push_str(r"\z"),
            Some((_, c @ ('A' | 'b' | 'B' | 'd' | 'D' | 'w' | 'W' | 's' | 'S'))) => out.extend(['\\', c]),
            Some((_, '1'..='9')) => return self.back_reference(out, at),
            _ => {
                let c = self.escaped_char(at)?;
                literal(out, c);
                return Ok(());
            }
        }
        self.chars.next();
        Ok(())
    }

    fn back_reference(&mut self, out: &mut String, at: usize) -> Result<(), String> {
        let digits: String = self.rest().chars().take(3).take_while(char::is_ascii_digit).collect();
        let is_octal = digits.len() == 3 && digits.chars().all(|c| c < '8');
        let digits = if is_octal { &digits[..] } else { &digits[..digits.len().min(2)] };
        self.takes(digits);
        if is_octal {
            match u32::from_str_radix(digits, 8).ok().filter(|code| *code <= 0o377).and_then(char::from_u32) {
                Some(c) => literal(out, c),
                None => return self.refuse(at, "an octal number that is too large"),
            }
        } else {
            // In a group, so that a digit that follows does not become part of the number.
            out.push_str(&format!(r"(?:\{digits})"));
        }
        Ok(())
    }

    /// The one character that an escape stands for.
    fn escaped_char(&mut self, at: usize) -> Result<char, String> {
        let Some((_, c)) = self.chars.next() else { return self.refuse(at, "a backslash at the end") };
        let code = match c {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            'x' => self.digits(at, 16, 2, 2)?,
            'u' => self.digits(at, 16, 4, 4)?,
            'U' => self.digits(at, 16, 8, 8)?,
            '0' => self.digits(at, 8, 0, 2)?,
            c if c.is_ascii_alphanumeric() => return self.refuse(at, &format!("`\\{c}` means nothing")),
            c => return Ok(c),
        };
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.refuse(at, "no such character"),
        }
    }

    fn digits(&mut self, at: usize, radix: u32, at_least: usize, at_most: usize) -> Result<u32, String> {
        let digits: String = self.rest().chars().take(at_most).take_while(|c| c.is_digit(radix)).collect();
        if digits.len() < at_least {
            return self.refuse(at, "an escape that is too short");
        }
        self.takes(&digits);
        u32::from_str_radix(&digits, radix).or(Ok(0))
    }

    /// `{m}`, `{m,}`, `{,n}` and `{m,n}` repeat; any other brace is itself.
    fn braces(&mut self, out: &mut String, at: usize) -> Result<(), String> {
        let inside = self.pattern[at + 1..].split_once('}').map(|(inside, _)| inside.to_owned());
        let is_number = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        let repetition = inside.as_deref().and_then(|inside| match inside.split_once(',') {
            None if !inside.is_empty() && is_number(inside) => Some(format!("{{{inside}}}")),
            Some((from, to)) if is_number(from) && is_number(to) && inside.len() > 1 => {
                Some(format!("{{{},{to}}}", if from.is_empty() { "0" } else { from }))
            }
            _ => None,
        });
        match (repetition, inside) {
            (Some(_), Some(inside))
                if inside.split(',').any(|count| count.parse::<u32>().is_ok_and(|n| n > MOST_REPETITIONS)) =>
            {
                return self.refuse(at, "a repetition that is too long");
            }
            (Some(repetition), Some(inside)) => {
                out.push_str(&repetition);
                self.takes(&inside);
                self.chars.next();
            }
            _ => out.push_str(r"\{"),
        }
        Ok(())
    }

    /// What follows `(?`.
    fn group(&mut self, out: &mut String, at: usize) -> Result<(), String> {
        if self.takes("#") {
            return if self.chars.any(|(_, c)| c == ')') { Ok(()) } else { self.refuse(at, "a comment without an end") };
        }
        let rest = self.rest().to_owned();
        let flags: String = rest.chars().take_while(|c| c.is_ascii_alphabetic() || *c == '-').collect();
        let ends = rest[flags.len()..].chars().next();
        if flags.is_empty() || flags.starts_with('P') || !matches!(ends, Some(')' | ':')) {
            out.push_str("(?");
            return Ok(());
        }
        if let Some(flag) = flags.chars().find(|c| !"imsu-".contains(*c)) {
            return self.refuse(at, &format!("the flag `{flag}` is not supported"));
        }
        self.takes(&flags);
        let kept: String = flags.chars().filter(|c| *c != 'u').collect();
        let is_global = self.takes(")");
        self.is_multi_line |= is_global && kept.contains('m');
        match (is_global, kept.is_empty()) {
            (true, true) => {}
            (true, false) => out.push_str(&format!("(?{kept})")),
            (false, _) => out.push_str(&format!("(?{kept}")),
        }
        Ok(())
    }

    /// A class: every member is written as its number, so that none can mean something else here.
    fn class(&mut self, out: &mut String, at: usize) -> Result<(), String> {
        out.push('[');
        if self.takes("^") {
            out.push('^');
        }
        let mut is_first = true;
        loop {
            match self.member(at, is_first)? {
                Member::End => break,
                Member::Set(set) => out.extend(['\\', set]),
                Member::One(low) => {
                    member_literal(out, low);
                    if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                        self.takes("-");
                        let Member::One(high) = self.member(at, true)? else {
                            return self.refuse(at, "a range that ends in a set");
                        };
                        if high < low {
                            return self.refuse(at, "a range that runs backwards");
                        }
                        out.push('-');
                        member_literal(out, high);
                    }
                }
            }
            is_first = false;
        }
        out.push(']');
        Ok(())
    }

    fn member(&mut self, at: usize, may_be_bracket: bool) -> Result<Member, String> {
        match self.chars.next() {
            None => self.refuse(at, "a class without an end"),
            Some((_, ']')) if !may_be_bracket => Ok(Member::End),
            Some((at, '\\')) => match self.chars.peek().copied() {
                Some((_, set @ ('d' | 'D' | 'w' | 'W' | 's' | 'S'))) => {
                    self.chars.next();
                    Ok(Member::Set(set))
                }
                Some((_, '1'..='7')) => {
                    let code = self.digits(at, 8, 1, 3)?;
                    char::from_u32(code).map_or_else(|| self.refuse(at, "no such character"), |c| Ok(Member::One(c)))
                }
                _ => self.escaped_char(at).map(Member::One),
            },
            Some((_, c)) => Ok(Member::One(c)),
        }
    }
}

enum Member {
    One(char),
    Set(char),
    End,
}

fn literal(out: &mut String, c: char) {
    if c.is_alphanumeric() || c == '_' { out.push(c) } else { member_literal(out, c) }
}

fn member_literal(out: &mut String, c: char) {
    out.push_str(&format!("\\x{{{:X}}}", c as u32));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where Python finds the pattern: (start, end) in characters, as `re.search(pattern, text).span()` says.
    #[test]
    fn searches_find_what_python_finds() {
        let cases = [
            (r"(?:^|\n) ?Output \(a\)", "x\nOutput (a)", Some((1, 12))),
            (r"(?i)output \(A\)", "OUTPUT (a)", Some((0, 10))),
            ("[[A]]", "say [[A]]", Some((6, 8))), // a class of `[` and `A`, then `]`: AlpacaEval's Self-taught settings
            (r"a$", "a\n", Some((0, 1))),
            (r"a\Z", "a\n", None),
            (r"(?m)a$", "a\nb", Some((0, 1))),
            (r"a{,2}b", "xaaab", Some((2, 5))),
            (r"{a}", "{a}", Some((0, 3))),
            (r"{1,x}", "{1,x}", Some((0, 5))),
            (r"[a&&b]+", "b&&a", Some((0, 4))),
            (r"[]-a]+", "x]^_`ab", Some((1, 6))),
            (r"(a)\1", "baa", Some((1, 3))),
            (r"(a)\0601", "a01", Some((0, 3))),
            (r"(?P<q>['\x22]).(?P=q)", "'a\"b\"", Some((2, 5))),
            (r"(?#why)\<b\>", "<b>", Some((0, 3))),
            (r"\u00e9\x41", "éA", Some((0, 2))),
            (r"(?<=a)b(?!c)", "abcab", Some((4, 5))),
        ];
        for (pattern, text, expected) in cases {
            let regex = compile(pattern).expect(pattern);
            let found = regex.find(text).expect("within the limit");
            let span = found.map(|found| (text[..found.start()].chars().count(), text[..found.end()].chars().count()));
            assert_eq!(span, expected, "{pattern} in {text}");
        }
    }

    #[test]
    fn what_python_refuses_and_what_cannot_be_translated_is_refused() {
        for (pattern, why) in [
            (r"\q", "means nothing"),
            ("a\\", "at the end"),
            ("[a", "without an end"),
            ("[z-a]", "backwards"),
            (r"\x1", "too short"),
            ("(?x)a b", "flag `x`"),
            ("(a", "cannot be used"),
            (r"\N{DASH}", "means nothing"),
            ("(?#a", "without an end"),
            (r"a{9,99999}", "too long"),
        ] {
            let error = compile(pattern).expect_err(pattern);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_search_that_would_take_hours_ends() {
        let regex = compile(r"(a|a)*\1$").expect("compiled");
        assert!(regex.find(&"a".repeat(40)).is_err() || regex.find("ab").is_ok());
    }
}
