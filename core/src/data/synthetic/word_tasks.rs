//! Tasks on words: lists, opposites, plurals, copying, reversing, counting, picking.

use super::Task;
use super::lexicon::{
    CATEGORIES, NUMBERS, OPPOSITES, THINGS, Thing, any_words, capital, joined, pick, pick_some, things_of, with_article,
};
use crate::seed::Rng;

/// "List three animals.", "Name two fruits and three tools."
pub(super) fn list(rng: &mut Rng) -> Task {
    let verb = *pick(rng, &["List", "Name", "Give me", "Tell me"]);
    let n_categories = if rng.bernoulli(0.2) { 1 } else { 2 };
    let categories = pick_some(rng, &[0, 1, 2, 3, 4, 5], n_categories);
    let mut asked = Vec::new();
    let mut items: Vec<&Thing> = Vec::new();
    let mut sentences = Vec::new();
    for category in categories {
        let n = 2 + rng.below(if n_categories == 1 { 4 } else { 3 });
        let things = things_of(*category);
        let chosen: Vec<&Thing> = pick_some(rng, &things, n).into_iter().copied().collect();
        let counted = format!("{} {}", NUMBERS[n], CATEGORIES[*category].1);
        let plurals: Vec<&str> = chosen.iter().map(|thing| thing.plural).collect();
        sentences.push(format!("{} are {}.", capital(&counted), joined(&plurals)));
        asked.push(counted);
        items.extend(chosen);
    }
    let names: Vec<&str> = items.iter().map(|thing| thing.name).collect();
    let last = items[items.len() - 1];
    let plain = sentences.join(" ");
    Task {
        instruction: format!("{verb} {}.", joined(&asked)),
        input: None,
        terse: joined(&names),
        elaborate: format!("{plain} You can find {} {}.", last.plural, last.place),
        plain,
    }
}

fn opposite_pair(rng: &mut Rng) -> (&'static str, &'static str) {
    let (one, other) = *pick(rng, &OPPOSITES);
    if rng.bernoulli(0.5) { (one, other) } else { (other, one) }
}

/// "What is the opposite of hot?", "What are the opposites of hot and big?"
pub(super) fn opposite(rng: &mut Rng) -> Task {
    let (word, answer) = opposite_pair(rng);
    let (second, second_answer) = opposite_pair(rng);
    if rng.bernoulli(0.25) || second == word || second == answer {
        let ask = *pick(rng, &["What is the opposite of", "Tell me the opposite of", "Give me the opposite of"]);
        let end = if ask.starts_with("What") { "?" } else { "." };
        let plain = format!("The opposite of {word} is {answer}.");
        return Task {
            instruction: format!("{ask} {word}{end}"),
            input: None,
            terse: format!("it is {answer}"),
            elaborate: format!("{plain} When something is not {word}, we say that it is {answer}."),
            plain,
        };
    }
    let ask = *pick(rng, &["What are the opposites of", "Tell me the opposites of", "Give me the opposites of"]);
    let end = if ask.starts_with("What") { "?" } else { "." };
    let plain = format!("The opposite of {word} is {answer}, and the opposite of {second} is {second_answer}.");
    Task {
        instruction: format!("{ask} {word} and {second}{end}"),
        input: None,
        terse: format!("{answer} and {second_answer}"),
        elaborate: format!("{plain} When something is not {word}, we say that it is {answer}."),
        plain,
    }
}

/// "Write the plural of cat.", the word also as input.
pub(super) fn plural(rng: &mut Rng) -> Task {
    let n = 1 + rng.below(3);
    let things = pick_some(rng, &THINGS, n);
    let names: Vec<&str> = things.iter().map(|thing| thing.name).collect();
    let plurals: Vec<&str> = things.iter().map(|thing| thing.plural).collect();
    let (ones, many) = (joined(&names), joined(&plurals));
    let (subject, verb) = if n == 1 { ("plural", "is") } else { ("plurals", "are") };
    let start = *pick(rng, &["Write", "Give me", "Tell me"]);
    let by_input = rng.bernoulli(0.5);
    let instruction = match (by_input, n) {
        (true, 1) => format!("{start} the plural of the word."),
        (true, _) => format!("{start} the plurals of the words."),
        (false, _) => format!("{start} the {subject} of {ones}."),
    };
    let plain = format!("The {subject} of {ones} {verb} {many}.");
    let first = things[0];
    Task {
        instruction,
        input: by_input.then(|| names.join(", ")),
        terse: if n == 1 { format!("it is {many}") } else { many },
        elaborate: format!("{plain} We say one {}, but we say two {}.", first.name, first.plural),
        plain,
    }
}

/// "Repeat these words: cat, hot, seven.", the words also as input.
pub(super) fn copy(rng: &mut Rng) -> Task {
    let n = 3 + rng.below(3);
    let words = any_words(rng, n);
    let given = words.join(", ");
    let by_input = rng.bernoulli(0.5);
    let start = *pick(rng, &["Repeat", "Copy", "Write down"]);
    let instruction = if by_input { format!("{start} the words.") } else { format!("{start} these words: {given}.") };
    let all = joined(&words);
    Task {
        instruction,
        input: by_input.then(|| given.clone()),
        plain: format!("The words are {all}."),
        elaborate: format!("The words are {all}. There are {} words, and the first word is {}.", NUMBERS[words.len()], words[0]),
        terse: given,
    }
}

/// "Write these words in reverse order.", the words as input.
pub(super) fn reverse(rng: &mut Rng) -> Task {
    let n = 3 + rng.below(2);
    let words = any_words(rng, n);
    let reversed: Vec<&str> = words.iter().rev().copied().collect();
    let instruction = *pick(rng, &["Write the words in reverse order.", "Turn the order of the words around."]);
    let plain = format!("In reverse order, the words are {}.", joined(&reversed));
    Task {
        instruction: instruction.to_owned(),
        input: Some(words.join(", ")),
        terse: reversed.join(", "),
        elaborate: format!("{plain} Now the first word is {} and the last word is {}.", reversed[0], words[0]),
        plain,
    }
}

/// "How many words are in the list?", the words as input.
pub(super) fn count(rng: &mut Rng) -> Task {
    let n = 2 + rng.below(5);
    let words = any_words(rng, n);
    let number = NUMBERS[words.len()];
    let instruction = *pick(rng, &["How many words are in the list?", "Count the words in the list."]);
    let plain = format!("There are {number} words in the list.");
    Task {
        instruction: instruction.to_owned(),
        input: Some(words.join(", ")),
        terse: format!("there are {number}"),
        elaborate: format!("{plain} The words are {}.", joined(&words)),
        plain,
    }
}

/// "Which word in the list is an animal?", four things as input.
pub(super) fn find(rng: &mut Rng) -> Task {
    let categories = pick_some(rng, &[0, 1, 2, 3, 4, 5], 4);
    let mut things: Vec<&Thing> = categories.iter().map(|category| *pick(rng, &things_of(**category))).collect();
    let (wanted, others) = (things[0], [things[1], things[2]]);
    rng.shuffle(&mut things);
    let names: Vec<&str> = things.iter().map(|thing| thing.name).collect();
    let kind = with_article(wanted.kind());
    let instruction = match rng.below(2) {
        0 => format!("Which word in the list is {kind}?"),
        _ => format!("Find the {} in the list.", wanted.kind()),
    };
    let plain = format!("The {} in the list is the {}.", wanted.kind(), wanted.name);
    let [first, second] = others;
    Task {
        instruction,
        input: Some(names.join(", ")),
        terse: format!("it is {}", wanted.one()),
        elaborate: format!(
            "{plain} The {} is {}, and the {} is {}.",
            first.name,
            with_article(first.kind()),
            second.name,
            with_article(second.kind())
        ),
        plain,
    }
}
