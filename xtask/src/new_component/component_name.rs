//! What a new component may be called, and what its types are called after it.
//!
//! Part of `cargo xtask new` and, by `#[path]`, of `farmhand plugin new`, so it names nothing but std.

/// Rust's keywords that would pass for a name, crates that every crate has, and names that say nothing.
const REFUSED: [&str; 58] = [
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "trait",
    "true",
    "try",
    "type",
    "unsafe",
    "use",
    "where",
    "while",
    "yield",
    "alloc",
    "core",
    "proc_macro",
    "std",
    "test",
    "learner",
    "annotator",
    "evaluator",
    "policy",
    "reward_model",
];

/// Why a component cannot be called so.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// What is wrong, with the name in it.
    pub(crate) message: String,
    /// What a name is, or what to do.
    pub(crate) hint: String,
}

/// Names are snake_case, begin with a letter, and can be modules, crates and keys of a configuration.
pub(crate) fn check(name: &str) -> Result<(), Refusal> {
    let letters = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let shape = name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('_') && !name.contains("__");
    if !letters || !shape || !(2..=40).contains(&name.len()) {
        let like = suggestion(name).map(|other| format!(", such as `{other}`")).unwrap_or_default();
        return Err(Refusal {
            message: format!("`{name}` is no name for a component"),
            hint: format!("lower-case words joined by `_`{like}; 2 to 40 characters, the first a letter"),
        });
    }
    if REFUSED.contains(&name) {
        return Err(Refusal {
            message: format!("`{name}` is a word of Rust, or says nothing of what the component does"),
            hint: "choose another name, such as the method's own".to_owned(),
        });
    }
    Ok(())
}

/// The nearest name that is one: `My Method` and `my-method` are meant as `my_method`.
fn suggestion(name: &str) -> Option<String> {
    let spaced = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = name.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).chars().map(spaced).collect();
    let name = name.split('_').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("_");
    let is_one = (2..=40).contains(&name.len()) && !REFUSED.contains(&name.as_str());
    is_one.then_some(name)
}

/// `my_method` is `MyMethod`.
pub(crate) fn type_name(name: &str) -> String {
    let capitalised = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    name.split('_').filter(|word| !word.is_empty()).map(capitalised).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_snake_case_words() {
        for good in ["my_method", "dpo2", "ab", "matched"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "My", "MyMethod", "my-method", "my method", "2dpo", "1a", "_x", "x_", "a__b", "../x", "é", "ä_b"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        for word in ["match", "core", "policy"] {
            assert!(check(word).expect_err("no name").message.contains("a word of Rust"), "{word}");
        }
        assert_eq!(type_name("my_method2"), "MyMethod2");
    }

    #[test]
    fn a_name_is_told_that_is_near_what_was_meant() {
        let hint = |name: &str| check(name).expect_err("no name").hint;
        for name in ["My Method", "my-method", "_my_method", "../my__method/"] {
            assert!(hint(name).contains("such as `my_method`;"), "{name}: {}", hint(name));
        }
        for name in ["", "é", "../x", "Match-"] {
            assert!(!hint(name).contains("such as"), "{name}: {}", hint(name));
        }
    }
}
