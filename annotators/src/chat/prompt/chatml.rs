//! ChatML: `<|im_start|>role` … `<|im_end|>`, taken apart.

use farmhand_core::types::Role;

const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";

/// The turns of a template in ChatML, their contents trimmed; `None` when it is a plain prompt.
///
/// # Errors
/// When it begins as ChatML and goes on as something else.
pub(super) fn turns(template: &str) -> Result<Option<Vec<(Role, &str)>>, String> {
    let Some(inside) = template.trim().strip_prefix(START) else { return Ok(None) };
    inside.split(START).map(turn).collect::<Result<_, _>>().map(Some)
}

fn turn(text: &str) -> Result<(Role, &str), String> {
    let (heading, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut words = heading.split_whitespace();
    let role = match words.next() {
        Some("system") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        other => {
            return Err(format!("expected a role behind `{START}` (system, user, assistant), got `{}`", other.unwrap_or("")));
        }
    };
    if let Some(attribute) = words.next() {
        return Err(format!("the attribute `{attribute}` of a `{}` turn is not supported", role.name()));
    }
    let (content, behind) = rest.split_once(END).ok_or_else(|| format!("a `{}` turn has no `{END}`", role.name()))?;
    if !behind.trim().is_empty() {
        return Err(format!("text behind a `{END}` belongs to no turn"));
    }
    Ok((role, content.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_found_and_trimmed() {
        let text = "\n<|im_start|>system\n You judge. \n<|im_end|>\n<|im_start|>user\nWhich?\n\n{a}<|im_end|>  ";
        assert_eq!(turns(text), Ok(Some(vec![(Role::System, "You judge."), (Role::User, "Which?\n\n{a}")])));
        assert_eq!(turns("Which? <|im_start|>"), Ok(None));
    }

    #[test]
    fn broken_markup_is_named() {
        for (text, part) in [
            ("<|im_start|>user\nWhich?", "no `<|im_end|>`"),
            ("<|im_start|>judge\nWhich?<|im_end|>", "`judge`"),
            ("<|im_start|>", "expected a role"),
            ("<|im_start|>system name=example_user\nA<|im_end|>", "name=example_user"),
            ("<|im_start|>user\nA<|im_end|>B", "belongs to no turn"),
        ] {
            let error = turns(text).expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }
}
