//! Reading grades: a number for each attribute of each answer.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Attribute, GradeOptions};
use crate::chat::json_reply::document;
use crate::chat::parsers::Unreadable;

/// The grades of one answer, by attribute.
pub type Grades = BTreeMap<String, f64>;

/// The grades of the answers of these names, in that order. A reply about a single answer may leave out its name.
///
/// # Errors
/// When an answer or an attribute has no grade, or one off the scale.
pub fn read_grades(text: &str, names: &[&str], options: &GradeOptions) -> Result<Vec<Grades>, Unreadable> {
    let reply = document(text, '{')?;
    let of = |name: &&str| {
        let found = reply.get(*name).filter(|grades| grades.is_object());
        let found = found.or(if names.len() == 1 { Some(&reply) } else { None });
        grades(found.ok_or_else(|| Unreadable::Unparsable(format!("the reply has no grades for `{name}`")))?, options)
    };
    names.iter().map(of).collect()
}

fn grades(given: &Value, options: &GradeOptions) -> Result<Grades, Unreadable> {
    let of = |attribute: &Attribute| {
        let name = &attribute.name;
        let missing = || Unreadable::Unparsable(format!("the reply has no grade for `{name}`"));
        let grade = given.get(name).and_then(Value::as_f64).ok_or_else(missing)?;
        if !(options.lowest..=options.highest).contains(&grade) {
            let scale = format!("[{}, {}]", options.lowest, options.highest);
            return Err(Unreadable::Unparsable(format!("the grade for `{name}` is off the scale {scale}")));
        }
        Ok((name.clone(), grade))
    };
    options.attributes.iter().map(of).collect()
}

/// The mean of the grades, weighted.
pub(super) fn weighted_mean(grades: &Grades, attributes: &[Attribute]) -> f64 {
    let total: f64 = attributes.iter().map(|attribute| attribute.weight.abs()).sum();
    attributes.iter().map(|attribute| attribute.weight * grades.get(&attribute.name).copied().unwrap_or(0.0)).sum::<f64>() / total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> GradeOptions {
        let attribute = |name: &str, weight| Attribute { name: name.to_owned(), description: "x".to_owned(), weight };
        GradeOptions { attributes: vec![attribute("true", 3.0), attribute("long", -1.0)], ..GradeOptions::default() }
    }

    #[test]
    fn every_answer_has_every_grade() {
        let text = "```json\n{\"A\": {\"true\": 4, \"long\": 0, \"other\": 9}, \"B\": {\"true\": 1.5, \"long\": 2}}\n```";
        let both = read_grades(text, &["A", "B"], &options()).expect("grades");
        assert_eq!((both[0]["true"], both[1]["long"], both[0].len()), (4.0, 2.0, 2));
        let means: Vec<f64> = both.iter().map(|grades| weighted_mean(grades, &options().attributes)).collect();
        assert_eq!(means, [3.0, 0.625]);
        let one = read_grades(r#"{"true": 4, "long": 0}"#, &["A"], &options()).expect("grades");
        assert_eq!(one[0]["true"], 4.0);
    }

    #[test]
    fn what_is_missing_or_off_the_scale_is_no_grade() {
        for text in [
            r#"{"A": {"true": 4, "long": 0}}"#,
            r#"{"A": {"true": 4}, "B": {"true": 4, "long": 0}}"#,
            r#"{"A": {"true": 5, "long": 0}, "B": {"true": 4, "long": 0}}"#,
            r#"{"A": {"true": "4", "long": 0}, "B": {"true": 4, "long": 0}}"#,
            "A is better",
            "",
        ] {
            assert!(read_grades(text, &["A", "B"], &options()).is_err(), "{text}");
        }
    }
}
