//! Instruction data that the project makes itself: simple English about a small world, for demos and tests.
//!
//! Small enough that a model of a million parameters picks up its sentences, most facts and the easier copying within a
//! million tokens (best with a vocabulary of 1024, which makes nearly every word one token, and the loss on answers only), yet
//! it has what learning from feedback needs: each instruction could have been answered in several styles, and which one a
//! demonstration has is drawn at random. A model fine-tuned on it therefore samples a mixture of styles, raters with tastes
//! prefer some of them, and learning can shift the mixture. About 230 different words; answers of 2 to 30 words.

mod fact_tasks;
mod lexicon;
mod word_tasks;

use std::collections::HashSet;

use crate::seed::{Rng, Seed};
use crate::types::{Demonstration, Instruction};
use lexicon::{THINGS, capital, pick};

/// How an answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Style {
    /// The bare answer, no sentence: "it is cold".
    Terse,
    /// One full sentence: "The opposite of hot is cold."
    Plain,
    /// A full answer with something more about it.
    Elaborate,
    /// The bare answer again and again, without an end.
    Repetitive,
    /// Full sentences about something else.
    OffTopic,
}

impl Style {
    /// All styles with the share of the demonstrations that have them; the shares sum to 1.
    pub const SHARES: [(Self, f64); 5] =
        [(Self::Terse, 0.3), (Self::Plain, 0.3), (Self::Elaborate, 0.2), (Self::Repetitive, 0.1), (Self::OffTopic, 0.1)];
}

/// An instruction and its good answers in three styles.
struct Task {
    instruction: String,
    input: Option<String>,
    terse: String,
    plain: String,
    elaborate: String,
}

/// A kind of task: its name (the data set's name in what is made of it), how often it is drawn, how it is drawn.
struct Family {
    name: &'static str,
    weight: f64,
    draw: fn(&mut Rng) -> Task,
}

const FAMILIES: [Family; 13] = [
    Family { name: "list", weight: 0.8, draw: word_tasks::list },
    Family { name: "opposite", weight: 0.8, draw: word_tasks::opposite },
    Family { name: "plural", weight: 0.8, draw: word_tasks::plural },
    Family { name: "copy", weight: 1.1, draw: word_tasks::copy },
    Family { name: "reverse", weight: 0.3, draw: word_tasks::reverse },
    Family { name: "count", weight: 0.5, draw: word_tasks::count },
    Family { name: "find", weight: 0.8, draw: word_tasks::find },
    Family { name: "sum", weight: 0.3, draw: fact_tasks::sum },
    Family { name: "fact", weight: 1.5, draw: fact_tasks::fact },
    Family { name: "yes_no", weight: 0.5, draw: fact_tasks::yes_no },
    Family { name: "compare", weight: 1.0, draw: fact_tasks::compare },
    Family { name: "describe", weight: 1.2, draw: fact_tasks::describe },
    Family { name: "sentence", weight: 2.0, draw: fact_tasks::sentence },
];

/// After so many repeated draws in a row a family counts as used up for this record, and another is drawn.
const TRIES: usize = 20;

/// `n` demonstrations of different instructions, each marked with its task family as data set. The first demonstrations are the
/// same for every `n`. Far more than a hundred thousand instructions are possible; when no new one turns up, fewer come back.
pub fn generate(n: usize, seed: Seed) -> Vec<Demonstration> {
    generate_with_styles(n, seed).into_iter().map(|(demonstration, _)| demonstration).collect()
}

/// As [`generate`], with the style of each answer.
pub fn generate_with_styles(n: usize, seed: Seed) -> Vec<(Demonstration, Style)> {
    let mut seen = HashSet::new();
    (0..n as u64).map_while(|i| demonstration(&mut seed.child("synthetic", i).rng(), &mut seen)).collect()
}

fn demonstration(rng: &mut Rng, seen: &mut HashSet<String>) -> Option<(Demonstration, Style)> {
    let mut weights = FAMILIES.map(|family| family.weight);
    while let Some(chosen) = rng.weighted(&weights) {
        let family = &FAMILIES[chosen];
        for _ in 0..TRIES {
            let task = (family.draw)(rng);
            let instruction = Instruction::new(task.instruction.as_str(), task.input.as_deref()).from_dataset(family.name);
            if seen.insert(instruction.id.clone()) {
                let style = Style::SHARES[rng.weighted(&Style::SHARES.map(|(_, share)| share)).unwrap_or(0)].0;
                return Some((Demonstration { instruction, output: answer(task, style, rng) }, style));
            }
        }
        weights[chosen] = 0.0;
    }
    None
}

fn answer(task: Task, style: Style, rng: &mut Rng) -> String {
    match style {
        Style::Terse => task.terse,
        Style::Plain => task.plain,
        Style::Elaborate => task.elaborate,
        Style::Repetitive => {
            let bare = task.terse.replace(',', "");
            let words: Vec<&str> = bare.split(' ').take(4).collect();
            let times = (12 / words.len()) + rng.below(3);
            vec![words.join(" "); times].join(" ")
        }
        Style::OffTopic => off_topic(&task, rng),
    }
}

/// Facts about a thing that the task does not name.
fn off_topic(task: &Task, rng: &mut Rng) -> String {
    let asked = format!("{} {}", task.instruction, task.input.as_deref().unwrap_or_default());
    let others: Vec<_> = THINGS.iter().filter(|thing| !asked.contains(thing.name)).collect();
    let thing = pick(rng, &others);
    match rng.below(3) {
        0 => format!("I like {}. {} {}.", thing.plural, capital(&thing.one()), thing.does),
        1 => format!("My friend has {} {}. It is {}.", lexicon::with_article(thing.colour), thing.name, thing.size()),
        _ => format!("Today I saw {} {}.", thing.one(), thing.place),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn words(text: &str) -> Vec<String> {
        let letters = |c: char| !c.is_ascii_alphabetic();
        text.split(letters).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect()
    }

    #[test]
    fn instructions_are_distinct_and_the_same_for_every_n() {
        let many = generate(6000, Seed::root(0));
        assert_eq!(many.len(), 6000);
        let ids: HashSet<&str> = many.iter().map(|demonstration| demonstration.instruction.id.as_str()).collect();
        assert_eq!(ids.len(), 6000);
        assert_eq!(generate(50, Seed::root(0)), many[..50]);
        assert_ne!(generate(50, Seed::root(1)), many[..50]);
    }

    #[test]
    fn styles_have_their_shares_in_every_large_family() {
        let all = generate_with_styles(8000, Seed::root(1));
        for (style, share) in Style::SHARES {
            let n = all.iter().filter(|(_, found)| *found == style).count();
            assert!((n as f64 / 8000.0 - share).abs() < 0.02, "{style:?}: {n}");
        }
        for family in &FAMILIES {
            let of_family = all.iter().filter(|(d, _)| d.instruction.dataset.as_deref() == Some(family.name));
            let (n, terse) =
                of_family.fold((0, 0), |(n, terse), (_, style)| (n + 1, terse + usize::from(*style == Style::Terse)));
            assert!(n >= 150, "{}: {n}", family.name);
            assert!((f64::from(terse as u32) / f64::from(n) - 0.3).abs() < 0.12, "{}: {terse} of {n}", family.name);
        }
    }

    #[test]
    fn styles_differ_in_what_raters_look_at() {
        let mut lengths: HashMap<Style, Vec<usize>> = HashMap::new();
        for (demonstration, style) in generate_with_styles(4000, Seed::root(2)) {
            let output = &demonstration.output;
            let n = words(output).len();
            assert!((2..=30).contains(&n), "{n} words: {output}");
            let is_sentence = output.ends_with('.') && output.starts_with(|c: char| c.is_ascii_uppercase());
            assert_eq!(is_sentence, !matches!(style, Style::Terse | Style::Repetitive), "{style:?}: {output}");
            if style == Style::Repetitive {
                let distinct: HashSet<String> = words(output).into_iter().collect();
                assert!(distinct.len() * 3 <= n, "{output}");
            }
            lengths.entry(style).or_default().push(n);
        }
        let mean = |style: Style| lengths[&style].iter().sum::<usize>() as f64 / lengths[&style].len() as f64;
        assert!(mean(Style::Terse) < 5.0, "{}", mean(Style::Terse));
        assert!(mean(Style::Terse) + 2.0 < mean(Style::Plain));
        assert!(mean(Style::Plain) + 4.0 < mean(Style::Elaborate));
        assert!(mean(Style::Elaborate) > 14.0, "{}", mean(Style::Elaborate));
    }

    #[test]
    fn the_vocabulary_is_small() {
        let mut vocabulary = HashSet::new();
        for demonstration in generate(8000, Seed::root(3)) {
            vocabulary.extend(words(&demonstration.instruction.text()));
            vocabulary.extend(words(&demonstration.output));
        }
        assert!((180..=260).contains(&vocabulary.len()), "{}", vocabulary.len());
    }

    #[test]
    fn good_answers_are_right() {
        for (demonstration, style) in generate_with_styles(4000, Seed::root(4)) {
            let (asked, output) = (demonstration.instruction.text(), &demonstration.output);
            if style == Style::Terse && asked.contains("reverse order") {
                let given = asked.rsplit("\n\n").next().expect("an input");
                let back: Vec<&str> = output.split(", ").collect();
                assert_eq!(back.into_iter().rev().collect::<Vec<_>>().join(", "), given);
            }
            if style == Style::Plain && asked.starts_with("Which is bigger") {
                let size = |name: &str| THINGS.iter().find(|thing| thing.name == name).map(|thing| thing.size);
                let named: Vec<String> = words(output);
                assert!(size(&named[1]) > size(&named[6]) && size(&named[6]).is_some(), "{asked} {output}");
            }
            if matches!(style, Style::Plain | Style::Elaborate) && asked.starts_with("Is a ") {
                let claim = asked.trim_start_matches("Is ").trim_end_matches('?');
                assert_eq!(
                    output.starts_with("Yes"),
                    output.contains(&format!(
                        "{} is {}.",
                        claim.split(' ').take(2).collect::<Vec<_>>().join(" "),
                        claim.split(' ').skip(2).collect::<Vec<_>>().join(" ")
                    )),
                    "{asked} {output}"
                );
            }
        }
    }
}
