//! Names kept once, columns hold their numbers.

use std::collections::HashMap;
use std::sync::Arc;

/// Different names, numbered from 0 in the order in which they first came.
#[derive(Debug, Clone, Default)]
pub struct Names {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, u32>,
    /// The number of the name that was asked last: files hold runs of the same name.
    last: Option<u32>,
}

impl Names {
    /// The number of a name, which is new or not.
    ///
    /// # Panics
    /// When there are more than 2³² different names.
    pub fn number_of(&mut self, name: &str) -> u32 {
        if let Some(last) = self.last.filter(|last| &*self.names[*last as usize] == name) {
            return last;
        }
        let number = self.numbers.get(name).copied().unwrap_or_else(|| {
            let number = u32::try_from(self.names.len()).expect("fewer than 2³² names");
            let name: Arc<str> = name.into();
            self.names.push(Arc::clone(&name));
            self.numbers.insert(name, number);
            number
        });
        self.last = Some(number);
        number
    }

    /// The number of a name that is there.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The name of a number.
    ///
    /// # Panics
    /// When no name has it.
    pub fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }

    /// All names, by number.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_number() {
        let mut names = Names::default();
        let numbers: Vec<u32> = ["b", "a", "a", "b", ""].iter().map(|name| names.number_of(name)).collect();
        assert_eq!(numbers, [0, 1, 1, 0, 2]);
        assert_eq!((names.find("a"), names.find("c"), names.name(0)), (Some(1), None, "b"));
        assert_eq!(names.iter().collect::<Vec<_>>(), ["b", "a", ""]);
    }
}
