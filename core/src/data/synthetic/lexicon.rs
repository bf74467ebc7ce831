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
pub(super) const CATEGORIES: [(&str, &str); 6] = [
    ("animal", "animals"),
    ("fruit", "fruits"),
    ("vegetable", "vegetables"),
    ("tool", "tools"),
    ("vehicle", "vehicles"),
    ("instrument", "instruments"),
];

/// Sizes, smallest first.
pub(super) const SIZES: [&str; 4] = ["tiny", "small", "big", "huge"];

/// The colours that things have.
pub(super) const COLOURS: [&str; 9] = ["black", "white", "brown", "grey", "red", "blue", "green", "yellow", "orange"];

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
pub(super) const THINGS: [Thing; 36] = [
    thing("cat", "cats", 0, "black", 1, "in the house", "eats fish"),
    thing("dog", "dogs", 0, "brown", 1, "in the house", "eats meat"),
    thing("cow", "cows", 0, "white", 2, "on the farm", "gives milk"),
    thing("duck", "ducks", 0, "white", 1, "on the river", "swims well"),
    thing("bear", "bears", 0, "brown", 3, "in the forest", "eats fish"),
    thing("bee", "bees", 0, "yellow", 0, "in the garden", "makes honey"),
    thing("apple", "apples", 1, "red", 0, "in the garden", "tastes sweet"),
    thing("lemon", "lemons", 1, "yellow", 0, "at the market", "tastes sour"),
    thing("banana", "bananas", 1, "yellow", 0, "at the market", "tastes sweet"),
    thing("pear", "pears", 1, "green", 0, "in the garden", "tastes sweet"),
    thing("cherry", "cherries", 1, "red", 0, "in the garden", "tastes sweet"),
    thing("melon", "melons", 1, "green", 1, "at the market", "tastes sweet"),
    thing("carrot", "carrots", 2, "orange", 0, "in the garden", "tastes sweet"),
    thing("onion", "onions", 2, "white", 0, "in the kitchen", "tastes hot"),
    thing("bean", "beans", 2, "green", 0, "on the farm", "tastes good"),
    thing("pepper", "peppers", 2, "red", 0, "in the kitchen", "tastes hot"),
    thing("pumpkin", "pumpkins", 2, "orange", 1, "on the farm", "tastes sweet"),
    thing("potato", "potatoes", 2, "brown", 0, "on the farm", "tastes good"),
    thing("hammer", "hammers", 3, "grey", 1, "in the house", "hits nails"),
    thing("saw", "saws", 3, "grey", 1, "in the house", "cuts wood"),
    thing("spade", "spades", 3, "brown", 1, "in the garden", "digs holes"),
    thing("brush", "brushes", 3, "white", 0, "in the kitchen", "cleans floors"),
    thing("rope", "ropes", 3, "brown", 1, "on the farm", "ties boats"),
    thing("knife", "knives", 3, "grey", 0, "in the kitchen", "cuts bread"),
    thing("car", "cars", 4, "red", 2, "in the city", "carries people"),
    thing("bus", "buses", 4, "yellow", 3, "in the city", "carries people"),
    thing("train", "trains", 4, "green", 3, "in the city", "runs fast"),
    thing("boat", "boats", 4, "blue", 2, "on the river", "carries people"),
    thing("bike", "bikes", 4, "black", 1, "in the city", "runs fast"),
    thing("truck", "trucks", 4, "white", 3, "on the farm", "carries wood"),
    thing("drum", "drums", 5, "red", 1, "at the school", "makes loud music"),
    thing("flute", "flutes", 5, "grey", 0, "at the school", "makes soft music"),
    thing("bell", "bells", 5, "yellow", 0, "at the school", "makes loud music"),
    thing("violin", "violins", 5, "brown", 1, "at the school", "makes soft music"),
    thing("piano", "pianos", 5, "black", 2, "at the school", "makes soft music"),
    thing("horn", "horns", 5, "yellow", 0, "at the market", "makes loud music"),
];

/// Words and their opposites, either way.
pub(super) const OPPOSITES: [(&str, &str); 10] = [
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("old", "new"),
    ("happy", "sad"),
    ("hard", "soft"),
    ("light", "dark"),
    ("loud", "quiet"),
    ("wet", "dry"),
    ("full", "empty"),
];

/// The numbers from nought to twelve.
pub(super) const NUMBERS: [&str; 13] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

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
        1 => COLOURS[rng.below(COLOURS.len())],
        2 => NUMBERS[rng.below(NUMBERS.len())],
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
