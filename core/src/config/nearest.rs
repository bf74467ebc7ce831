//! "Did you mean …?"

/// The known name that is nearest to a mistyped one, when one is near.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate));
    let near = distances.filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(name.len()) / 3).min();
    near.map(|(_, candidate)| candidate)
}

/// A hint that names the nearest known name, when one is near, and all of them, when they are few.
pub fn did_you_mean(name: &str, known: &[&str]) -> String {
    let list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match nearest(name, known) {
        Some(nearest) if known.len() > 12 => format!("did you mean `{nearest}`?"),
        Some(nearest) => format!("did you mean `{nearest}`? known: {list}"),
        None if known.is_empty() => "none is known here".to_owned(),
        None => format!("known: {list}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        assert!(did_you_mean("dop", &["dpo", "ppo"]).starts_with("did you mean `dpo`?"));
        assert_eq!(did_you_mean("zzzzzz", &["dpo", "ppo"]), "known: `dpo`, `ppo`");
    }
}
