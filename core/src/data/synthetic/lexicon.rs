//! The small world that synthetic instructions are about: things with their facts, opposites, numbers.

use crate::seed::Rng;

/// A thing and everything there is to know about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) name: &'static str,
    pub(super) plural: &'static str,
    /// Index into [`CATEGORIES`].
    pub(super) category: usize,
    pub(super) colour: &'static str,
    /// Index into [`SIZES`].
    pub(super) size: usize,
    /// Where it is found, with its preposition.
    pub(super) place: &'static str,
    /// What it does, as the predicate of "it …".
    pub(super) does: &'static str,
}

/// Names of the categories: one, several.
pub(super) const CATEGORIES: [(&str, &str); 7] = [
    ("animal", "animals"),
    ("fruit", "fruits"),
    ("vegetable", "vegetables"),
    ("tool", "tools"),
    ("garment", "garments"),
    ("vehicle", "vehicles"),
    ("instrument", "instruments"),
];

/// Sizes, smallest first.
pub(super) const SIZES: [&str; 4] = ["tiny", "small", "big", "huge"];

/// The colours that things have.
pub(super) const COLOURS: [&str; 11] =
    ["black", "white", "brown", "grey", "red", "blue", "green", "yellow", "orange", "purple", "pink"];

const fn thing(
    name: &'static str,
    plural: &'static str,
    category: usize,
    colour: &'static str,
    size: usize,
    place: &'static str,
    does: &'static str,
) -> Thing {
    Thing { name, plural, category, colour, size, place, does }
}

/// All things, by category.
pub(super) const THINGS: [Thing; 58] = [
    thing("cat", "cats", 0, "black", 1, "in the house", "eats fish"),
    thing("dog", "dogs", 0, "brown", 1, "in the house", "guards the door"),
    thing("mouse", "mice", 0, "grey", 0, "in the house", "eats seeds"),
    thing("horse", "horses", 0, "brown", 2, "on the farm", "eats grass"),
    thing("cow", "cows", 0, "white", 2, "on the farm", "gives milk"),
    thing("pig", "pigs", 0, "pink", 2, "on the farm", "eats corn"),
    thing("goat", "goats", 0, "white", 1, "on the farm", "eats grass"),
    thing("duck", "ducks", 0, "white", 1, "on the river", "swims well"),
    thing("frog", "frogs", 0, "green", 0, "on the river", "eats flies"),
    thing("bear", "bears", 0, "brown", 3, "in the forest", "sleeps in winter"),
    thing("fox", "foxes", 0, "red", 1, "in the forest", "runs fast"),
    thing("owl", "owls", 0, "grey", 1, "in the forest", "sees at night"),
    thing("bee", "bees", 0, "yellow", 0, "in the garden", "makes honey"),
    thing("whale", "whales", 0, "blue", 3, "in the sea", "swims well"),
    thing("crab", "crabs", 0, "red", 0, "in the sea", "walks slowly"),
    thing("apple", "apples", 1, "red", 0, "in the garden", "tastes sweet"),
    thing("lemon", "lemons", 1, "yellow", 0, "at the market", "tastes sour"),
    thing("banana", "bananas", 1, "yellow", 0, "at the market", "tastes sweet"),
    thing("plum", "plums", 1, "purple", 0, "in the garden", "tastes sweet"),
    thing("pear", "pears", 1, "green", 0, "in the garden", "tastes fresh"),
    thing("cherry", "cherries", 1, "red", 0, "in the garden", "tastes sweet"),
    thing("grape", "grapes", 1, "purple", 0, "at the market", "tastes sweet"),
    thing("melon", "melons", 1, "green", 1, "at the market", "tastes fresh"),
    thing("carrot", "carrots", 2, "orange", 0, "in the garden", "tastes fresh"),
    thing("onion", "onions", 2, "white", 0, "in the kitchen", "tastes hot"),
    thing("pea", "peas", 2, "green", 0, "in the garden", "tastes sweet"),
    thing("bean", "beans", 2, "green", 0, "on the farm", "tastes fresh"),
    thing("pepper", "peppers", 2, "red", 0, "in the kitchen", "tastes hot"),
    thing("pumpkin", "pumpkins", 2, "orange", 1, "on the farm", "tastes sweet"),
    thing("potato", "potatoes", 2, "brown", 0, "on the farm", "tastes fresh"),
    thing("hammer", "hammers", 3, "grey", 1, "in the shed", "hits nails"),
    thing("saw", "saws", 3, "grey", 1, "in the shed", "cuts wood"),
    thing("spade", "spades", 3, "brown", 1, "in the garden", "digs holes"),
    thing("brush", "brushes", 3, "white", 0, "in the kitchen", "cleans floors"),
    thing("needle", "needles", 3, "grey", 0, "in the house", "mends clothes"),
    thing("rope", "ropes", 3, "brown", 1, "in the shed", "ties boats"),
    thing("ladder", "ladders", 3, "brown", 2, "in the shed", "helps people climb"),
    thing("knife", "knives", 3, "grey", 0, "in the kitchen", "cuts bread"),
    thing("hat", "hats", 4, "black", 0, "in the shop", "covers the head"),
    thing("coat", "coats", 4, "brown", 1, "in the shop", "keeps people warm"),
    thing("shirt", "shirts", 4, "white", 1, "in the shop", "keeps people warm"),
    thing("shoe", "shoes", 4, "black", 0, "in the shop", "covers the foot"),
    thing("scarf", "scarves", 4, "red", 0, "in the shop", "keeps people warm"),
    thing("glove", "gloves", 4, "blue", 0, "in the shop", "covers the hand"),
    thing("dress", "dresses", 4, "pink", 1, "in the shop", "looks pretty"),
    thing("car", "cars", 5, "red", 2, "in the city", "carries people"),
    thing("bus", "buses", 5, "yellow", 3, "in the city", "carries people"),
    thing("train", "trains", 5, "green", 3, "in the city", "runs fast"),
    thing("boat", "boats", 5, "blue", 2, "on the river", "carries people"),
    thing("bike", "bikes", 5, "black", 1, "in the city", "runs fast"),
    thing("truck", "trucks", 5, "white", 3, "on the farm", "carries wood"),
    thing("ship", "ships", 5, "grey", 3, "in the sea", "carries people"),
    thing("drum", "drums", 6, "red", 1, "at the school", "makes loud music"),
    thing("flute", "flutes", 6, "grey", 0, "at the school", "makes soft music"),
    thing("bell", "bells", 6, "yellow", 0, "at the school", "makes loud music"),
    thing("violin", "violins", 6, "brown", 1, "at the school", "makes soft music"),
    thing("piano", "pianos", 6, "black", 2, "at the school", "makes soft music"),
    thing("horn", "horns", 6, "yellow", 0, "at the market", "makes loud music"),
];

/// Words and their opposites, either way.
pub(super) const OPPOSITES: [(&str, &str); 18] = [
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("old", "new"),
    ("happy", "sad"),
    ("hard", "soft"),
    ("light", "dark"),
    ("loud", "quiet"),
    ("wet", "dry"),
    ("clean", "dirty"),
    ("full", "empty"),
    ("strong", "weak"),
    ("rich", "poor"),
    ("early", "late"),
    ("high", "low"),
    ("long", "short"),
    ("sweet", "sour"),
    ("open", "closed"),
];

/// The numbers from nought to twenty.
pub(super) const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

impl Thing {
    /// "a cat", "an owl".
    pub(super) fn one(&self) -> String {
        with_article(self.name)
    }

    /// The category's name for one: "animal".
    pub(super) fn kind(&self) -> &'static str {
        CATEGORIES[self.category].0
    }

    /// "tiny".
    pub(super) fn size(&self) -> &'static str {
        SIZES[self.size]
    }
}

/// A word with "a" or "an" before it.
pub(super) fn with_article(word: &str) -> String {
    let article = if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {word}")
}

/// The same text with a capital at its start.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// "a", "a and b", "a, b and c".
pub(super) fn joined<S: AsRef<str>>(items: &[S]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [before @ .., last] => {
            let before: Vec<&str> = before.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", before.join(", "), last.as_ref())
        }
    }
}

/// One of the items of a list that is never empty.
pub(super) fn pick<'a, T>(rng: &mut Rng, items: &'a [T]) -> &'a T {
    &items[rng.below(items.len())]
}

/// `n` different items, in random order; all of them when there are no more.
pub(super) fn pick_some<'a, T>(rng: &mut Rng, items: &'a [T], n: usize) -> Vec<&'a T> {
    rng.permutation(items.len()).into_iter().take(n).map(|i| &items[i]).collect()
}

/// Things of one category.
pub(super) fn things_of(category: usize) -> Vec<&'static Thing> {
    THINGS.iter().filter(|thing| thing.category == category).collect()
}

/// A thing's name, a word that has an opposite, a colour or a number.
pub(super) fn any_word(rng: &mut Rng) -> &'static str {
    match rng.below(5) {
        0 => {
            let (one, other) = pick(rng, &OPPOSITES);
            if rng.bernoulli(0.5) { one } else { other }
        }
        1 => *pick(rng, &COLOURS),
        2 => *pick(rng, &NUMBERS),
        _ => pick(rng, &THINGS).name,
    }
}

/// `n` different words.
pub(super) fn any_words(rng: &mut Rng, n: usize) -> Vec<&'static str> {
    let mut words: Vec<&str> = Vec::new();
    while words.len() < n {
        let word = any_word(rng);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}
