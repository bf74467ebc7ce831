//! Tasks on facts: sums, questions about things, yes or no, comparisons, descriptions, sentences.

use super::Task;
use super::lexicon::{CATEGORIES, COLOURS, NUMBERS, THINGS, Thing, capital, pick, pick_some, with_article};
use crate::seed::Rng;

/// "What is two plus three?", "Take four away from nine."
pub(super) fn sum(rng: &mut Rng) -> Task {
    let (a, b) = (1 + rng.below(6), 1 + rng.below(6));
    let thing = *pick(rng, &[&THINGS[0], &THINGS[6], &THINGS[24], &THINGS[30]]);
    let of = |n: usize| format!("{} {}", NUMBERS[n], if n == 1 { thing.name } else { thing.plural });
    let template = rng.below(3);
    if rng.bernoulli(0.6) {
        let result = a + b;
        let (x, y, z) = (NUMBERS[a], NUMBERS[b], NUMBERS[result]);
        let plain = format!("{} plus {y} is {z}.", capital(x));
        return Task {
            instruction: match template {
                0 => format!("What is {x} plus {y}?"),
                1 => format!("Add {x} and {y}."),
                _ => format!("You have {} and get {}. How many {} do you have now?", of(a), of(b), thing.plural),
            },
            input: None,
            terse: format!("it is {z}"),
            elaborate: format!("{plain} When you have {} and get {}, you have {}.", of(a), of(b), of(result)),
            plain,
        };
    }
    let total = a + b;
    let (x, y, z) = (NUMBERS[total], NUMBERS[a], NUMBERS[b]);
    let plain = format!("{} minus {y} is {z}.", capital(x));
    Task {
        instruction: match template {
            0 => format!("What is {x} minus {y}?"),
            1 => format!("Take {y} away from {x}."),
            _ => format!("You have {} and lose {}. How many {} do you have now?", of(total), of(a), thing.plural),
        },
        input: None,
        terse: format!("it is {z}"),
        elaborate: format!("{plain} When you have {} and lose {}, you have {}.", of(total), of(a), of(b)),
        plain,
    }
}

/// What a question is about.
#[derive(Clone, Copy)]
enum Fact {
    Colour,
    Place,
    Deed,
    Kind,
}

const FACTS: [Fact; 4] = [Fact::Colour, Fact::Place, Fact::Deed, Fact::Kind];

impl Fact {
    fn question(self, thing: &Thing) -> String {
        let one = thing.one();
        match self {
            Self::Colour => format!("What colour is {one}?"),
            Self::Place => format!("Where can you find {one}?"),
            Self::Deed => format!("What do you know about what {one} does?"),
            Self::Kind => format!("What kind of thing is {one}?"),
        }
    }

    fn short(self, thing: &Thing) -> String {
        match self {
            Self::Colour => format!("it is {}", thing.colour),
            Self::Place => thing.place.to_owned(),
            Self::Deed => format!("it {}", thing.does),
            Self::Kind => format!("it is {}", with_article(thing.kind())),
        }
    }

    fn sentence(self, thing: &Thing) -> String {
        let one = capital(&thing.one());
        match self {
            Self::Colour => format!("{one} is {}.", thing.colour),
            Self::Place => format!("You can find {} {}.", thing.one(), thing.place),
            Self::Deed => format!("{one} {}.", thing.does),
            Self::Kind => format!("{one} is {}.", with_article(thing.kind())),
        }
    }

    fn more(self, thing: &Thing) -> String {
        match self {
            Self::Place | Self::Deed => format!("It is {} and {}.", thing.size(), thing.colour),
            Self::Colour | Self::Kind => format!("It {}, and you can find it {}.", thing.does, thing.place),
        }
    }
}

/// "What colour is a lemon?", "Tell me where you can find a bear and a ship."
pub(super) fn fact(rng: &mut Rng) -> Task {
    let fact = *pick(rng, &FACTS);
    let things = pick_some(rng, &THINGS, 2);
    let [first, second] = [things[0], things[1]];
    if rng.bernoulli(0.3) {
        return Task {
            instruction: fact.question(first),
            input: None,
            terse: fact.short(first),
            plain: fact.sentence(first),
            elaborate: format!("{} {}", fact.sentence(first), fact.more(first)),
        };
    }
    let plain = format!("{} {}", fact.sentence(first), fact.sentence(second));
    Task {
        instruction: format!("{} And {}", fact.question(first), lower(&fact.question(second))),
        input: None,
        terse: format!("{} and {}", fact.short(first), fact.short(second)),
        elaborate: format!("{plain} {}", fact.more(second)),
        plain,
    }
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_lowercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// "Is a lemon yellow?", "Is a lemon a tool?", "Can you find a bear in the sea?", as often true as false.
pub(super) fn yes_no(rng: &mut Rng) -> Task {
    let thing = pick(rng, &THINGS);
    let one = thing.one();
    let truth = rng.bernoulli(0.5);
    let fact = *pick(rng, &[Fact::Colour, Fact::Place, Fact::Kind]);
    let (question, yes, no, claim, verb): (String, &str, &str, String, &str) = match fact {
        Fact::Place => {
            let place = if truth { thing.place } else { *pick(rng, &THINGS.map(|other| other.place)) };
            (format!("Can you find {one} {place}?"), "yes, you can", "no, you cannot", format!("{one} {place}"), "find")
        }
        Fact::Kind => {
            let kind = if truth { thing.kind() } else { pick(rng, &CATEGORIES).0 };
            let kind = with_article(kind);
            (format!("Is {one} {kind}?"), "yes, it is", "no, it is not", kind, "is")
        }
        _ => {
            let colour = if truth { thing.colour } else { *pick(rng, &COLOURS) };
            (format!("Is {one} {colour}?"), "yes, it is", "no, it is not", colour.to_owned(), "is")
        }
    };
    // A false claim drawn at random may be true after all.
    let truth = claim == fact_value(fact, thing);
    let plain = match (verb, truth) {
        ("find", true) => format!("Yes, you can find {claim}."),
        ("find", false) => format!("No, you cannot find {claim}."),
        (_, true) => format!("Yes, {one} is {claim}."),
        (_, false) => format!("No, {one} is not {claim}."),
    };
    let reason = if truth { fact.more(thing) } else { format!("{} {}", fact.sentence(thing), fact.more(thing)) };
    Task {
        instruction: question,
        input: None,
        terse: if truth { yes } else { no }.to_owned(),
        elaborate: format!("{plain} {reason}"),
        plain,
    }
}

fn fact_value(fact: Fact, thing: &Thing) -> String {
    match fact {
        Fact::Place => format!("{} {}", thing.one(), thing.place),
        Fact::Kind => with_article(thing.kind()),
        _ => thing.colour.to_owned(),
    }
}

/// "Which is bigger, a bear or a bee?", "Which is smaller, …?"
pub(super) fn compare(rng: &mut Rng) -> Task {
    let (first, second) = loop {
        let pair = pick_some(rng, &THINGS, 2);
        if pair[0].size != pair[1].size {
            break (pair[0], pair[1]);
        }
    };
    let bigger = rng.bernoulli(0.5);
    let word = if bigger { "bigger" } else { "smaller" };
    let (winner, loser) = if (first.size > second.size) == bigger { (first, second) } else { (second, first) };
    let plain = format!("The {} is {word} than the {}.", winner.name, loser.name);
    Task {
        instruction: format!("Which is {word}, {} or {}?", first.one(), second.one()),
        input: None,
        terse: format!("the {} is", winner.name),
        elaborate: format!("{plain} The {} is {}, but the {} is {}.", winner.name, winner.size(), loser.name, loser.size()),
        plain,
    }
}

/// "Describe a red bear.", "Describe a bear in two sentences."
pub(super) fn describe(rng: &mut Rng) -> Task {
    let thing = pick(rng, &THINGS);
    let colour = if rng.bernoulli(0.8) { *pick(rng, &COLOURS) } else { thing.colour };
    let ask = *pick(rng, &["Describe", "Tell me about", "Say something about"]);
    let named = if colour == thing.colour { thing.one() } else { format!("{} {}", with_article(colour), thing.name) };
    let end = *pick(rng, &["", " in one sentence", " in two sentences"]);
    let kind = thing.kind();
    let subject = capital(&named);
    let first = format!("{subject} is {} {colour} {kind}.", with_article(thing.size()));
    let plain = if end.ends_with("two sentences") { format!("{first} It {}.", thing.does) } else { first.clone() };
    Task {
        instruction: format!("{ask} {named}{end}."),
        input: None,
        terse: format!("{} {kind}", with_article(colour)),
        plain,
        elaborate: format!("{first} It {}, and you can find it {}.", thing.does, thing.place),
    }
}

/// "Write a sentence about a cat and a train.", "Use the words cat and train in a sentence."
pub(super) fn sentence(rng: &mut Rng) -> Task {
    let pair = pick_some(rng, &THINGS, 2);
    let (first, second) = (pair[0], pair[1]);
    let instruction = match rng.below(3) {
        0 => format!("Write a sentence about {} and {}.", first.one(), second.one()),
        1 => format!("Use the words {} and {} in a sentence.", first.name, second.name),
        _ => format!("Tell me a short story about {} and {}.", first.one(), second.one()),
    };
    let (x, y) = (first.name, second.name);
    let relation = *pick(rng, &["next to", "behind", "under", "near"]);
    let plain = format!("The {x} is {relation} the {y}.");
    Task {
        instruction,
        input: None,
        terse: format!("{x} and {y}"),
        elaborate: format!(
            "The {} {x} is {relation} the {} {y} {}. The {x} {}.",
            first.colour, second.colour, second.place, first.does
        ),
        plain,
    }
}
