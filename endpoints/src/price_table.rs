//! What models cost, by name and date: a table that comes with the program, and a user's own over it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use farmhand_core::{BuildContext, Error, Problem, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::date::Date;
use crate::usage::{Prices, Usage};

/// Prices of models by name and date; later tables lie over earlier ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PriceTable {
    entries: Vec<Entry>,
}

/// What a model costs, and what sending requests in batches takes off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelPrice {
    /// Prices of requests that are answered at once.
    pub prices: Prices,
    /// The part of the price that the batch interface takes off, in [0, 1).
    pub batch_discount: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    models: Vec<String>,
    from: Date,
    prompt: f64,
    cached_prompt: Option<f64>,
    completion: f64,
    #[serde(default)]
    batch_discount: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    price: Vec<Entry>,
}

impl PriceTable {
    /// The table that comes with the program; its prices are as their makers published them, with the day each came into force.
    pub fn embedded() -> &'static Self {
        static TABLE: OnceLock<PriceTable> = OnceLock::new();
        TABLE.get_or_init(|| Self::parse(include_str!("prices.toml")).expect("the embedded table was tested"))
    }

    /// Reads a table in the form of the embedded one and lays it over that: where both know a model, this one counts.
    ///
    /// # Errors
    /// When the file cannot be read, is no such table, or holds a price below 0.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read the price table", path, error))?;
        let own = Self::parse(&text).map_err(|message| {
            Error::invalid_config(format!("price table `{}`: {message}", path.display())).with_hint(
                "an entry is `[[price]]` with `models = [\"name\"]`, `from = \"2025-01-31\"`, `prompt` and `completion` in dollars \
                 per million tokens, and perhaps `cached_prompt` and `batch_discount`",
            )
        })?;
        Ok(Self { entries: Self::embedded().entries.iter().cloned().chain(own.entries).collect() })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let File { price: entries } = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        for entry in &entries {
            let problem = entry.price().prices.problems().into_iter().next();
            if let Some(problem) = problem {
                return Err(format!("`{}`, `{}`: {}", entry.models.join("`, `"), problem.path, problem.message));
            }
            if !(0.0..1.0).contains(&entry.batch_discount) {
                return Err(format!("`{}`, `batch_discount`: expected a number in [0, 1)", entry.models.join("`, `")));
            }
            let without = |model: &&String| model.strip_suffix("-*").unwrap_or(model).contains('*');
            if let Some(model) = entry.models.iter().find(without) {
                return Err(format!("`{model}`: a `*` stands at the end alone, after a dash"));
            }
        }
        Ok(Self { entries })
    }

    /// What a model cost on a day; `None` when the table does not know.
    pub fn price(&self, model: &str, on: Date) -> Option<ModelPrice> {
        let in_force = |names: fn(&str, &str) -> bool| {
            // A later table goes before an earlier one only for the same day: max_by_key takes the last of equals.
            let known = self.entries.iter().filter(|entry| entry.models.iter().any(|name| names(name, model)));
            known.filter(|entry| entry.from <= on).max_by_key(|entry| entry.from)
        };
        let exact = in_force(|name, model| name == model);
        exact.or_else(|| in_force(is_version_of)).map(Entry::price)
    }
}

/// Whether `model` is the name of `pattern` with a date or version behind it.
fn is_version_of(pattern: &str, model: &str) -> bool {
    let version = pattern.strip_suffix('*').and_then(|name| model.strip_prefix(name));
    version.is_some_and(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
}

impl Entry {
    fn price(&self) -> ModelPrice {
        let prices = Prices { prompt: self.prompt, cached_prompt: self.cached_prompt, completion: self.completion };
        ModelPrice { prices, batch_discount: self.batch_discount }
    }
}

impl ModelPrice {
    /// The prices of requests sent in batches.
    pub fn in_batches(&self) -> Prices {
        let kept = 1.0 - self.batch_discount;
        let Prices { prompt, cached_prompt, completion } = self.prices;
        Prices { prompt: prompt * kept, cached_prompt: cached_prompt.map(|price| price * kept), completion: completion * kept }
    }
}

/// How answers are priced: by the prices that a user set, else by a table. What neither knows has no price, which is not 0.
#[derive(Debug)]
pub struct Pricing {
    own: Option<Prices>,
    table: PriceTable,
    in_batches: bool,
    unknown: Mutex<Unknown>,
}

#[derive(Debug, Default)]
struct Unknown {
    told: BTreeSet<String>,
    untold: BTreeSet<String>,
}

/// What tokens cost, as whoever pays for a server's answers sets it. Others' options take these in with `#[serde(flatten)]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PriceOptions {
    /// What tokens cost; unset: what the price table says of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prices: Option<Prices>,
    /// A price table of one's own, laid over the one that comes with the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_file: Option<PathBuf>,
}

impl PriceOptions {
    /// Everything out of range, paths relative to the table that holds these options.
    pub fn problems(&self) -> Vec<Problem> {
        self.prices.iter().flat_map(Prices::problems).map(|problem| problem.under("prices")).collect()
    }

    /// The prices by these options.
    ///
    /// # Errors
    /// As [`PriceTable::read`].
    pub fn pricing(&self, ctx: &BuildContext<'_>) -> Result<Pricing> {
        let file = self.price_file.as_ref().map(|path| ctx.resolve(path));
        Pricing::new(self.prices, file.as_deref())
    }
}

impl Pricing {
    /// By the prices that are set for every model, else by a table in a file, else by the embedded one.
    ///
    /// # Errors
    /// As [`PriceTable::read`].
    pub fn new(own: Option<Prices>, table: Option<&Path>) -> Result<Self> {
        let table = table.map_or_else(|| Ok(PriceTable::embedded().clone()), PriceTable::read)?;
        Ok(Self { own, table, in_batches: false, unknown: Mutex::default() })
    }

    /// The same for requests that go in batches: the table's discount is taken off; prices that a user set are taken as they are.
    #[must_use]
    pub fn in_batches(self) -> Self {
        Self { in_batches: true, ..self }
    }

    /// The prices of a model today.
    pub fn prices(&self, model: &str) -> Option<Prices> {
        let listed = |price: ModelPrice| if self.in_batches { price.in_batches() } else { price.prices };
        self.own.or_else(|| self.table.price(model, Date::now()).map(listed))
    }

    /// What an answer cost, in US dollars. `answered_by` is the model in the server's word, which is often the exact version;
    /// where the table does not know it, `asked` counts. Unknown when the server counted no tokens.
    pub fn cost(&self, asked: &str, answered_by: Option<&str>, usage: &Usage) -> Option<f64> {
        let known = answered_by.and_then(|model| self.prices(model)).or_else(|| self.prices(asked));
        if known.is_none() {
            let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
            if !unknown.told.contains(asked) {
                unknown.untold.insert(asked.to_owned());
            }
        }
        let counted = usage.prompt_tokens > 0 || usage.completion_tokens > 0;
        known.filter(|_| counted).map(|prices| prices.cost(usage))
    }

    /// What the user should know about models without a price; each is told once.
    pub fn warning(&self) -> Option<String> {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        let models = std::mem::take(&mut unknown.untold);
        if models.is_empty() {
            return None;
        }
        let names = models.iter().map(|model| format!("`{model}`")).collect::<Vec<_>>().join(", ");
        unknown.told.extend(models);
        Some(format!(
            "the price of {names} is not known, so its cost is not counted; set `prices`, or name a table in `price_file`"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt_price(model: &str, day: &str) -> Option<f64> {
        PriceTable::embedded().price(model, day.parse().expect("a day")).map(|price| price.prices.prompt)
    }

    #[test]
    fn a_model_costs_what_was_in_force_that_day() {
        for (model, day, price) in [
            ("gpt-4o", "2024-04-01", None),
            ("gpt-4o", "2024-06-01", Some(5.0)),
            ("gpt-4o", "2025-01-01", Some(2.5)),
            ("gpt-4o-2024-05-13", "2026-01-01", Some(5.0)),
            ("gpt-4o-2024-08-06", "2026-01-01", Some(2.5)),
            ("gpt-4-1106-preview", "2024-01-01", Some(10.0)),
            ("gpt-4-0314", "2023-06-01", Some(30.0)),
            ("gpt-3.5-turbo", "2023-04-01", Some(2.0)),
            ("gpt-3.5-turbo", "2024-12-01", Some(0.5)),
            ("o3", "2025-06-09", Some(10.0)),
            ("o3", "2025-06-10", Some(2.0)),
            ("claude-3-5-sonnet-20241022", "2025-01-01", Some(3.0)),
        ] {
            assert_eq!(prompt_price(model, day), price, "{model} on {day}");
        }
    }

    #[test]
    fn a_name_that_only_contains_another_is_unknown() {
        let day = "2026-11-01";
        assert_eq!(prompt_price("gpt-4.1-mini-2025-04-14", day), Some(0.4));
        assert_eq!(prompt_price("gpt-4.1-2025-04-14", day), Some(2.0));
        for model in
            ["gpt-4.1-tiny", "my-gpt-4", "gpt-4o-audio-preview", "gpt-4o-", "ft:gpt-4o-mini", "GPT-4O", "llama-3-70b", ""]
        {
            assert_eq!(prompt_price(model, day), None, "{model}");
        }
    }

    #[test]
    fn a_users_table_lies_over_the_embedded_one_and_is_checked() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("prices.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).expect("written");
            PriceTable::read(&path)
        };
        let entry =
            |rest: &str| format!("[[price]]\nmodels = [\"mine\", \"gpt-4o\"]\nfrom = \"2026-01-01\"\nprompt = 7.0\n{rest}");
        let table = read(&entry("completion = 9.0\nbatch_discount = 0.25\n")).expect("a table");
        let today = "2026-11-01".parse().expect("a day");
        let price = table.price("mine", today).expect("known");
        assert_eq!(price.in_batches(), Prices { prompt: 5.25, cached_prompt: None, completion: 6.75 });
        assert_eq!(table.price("gpt-4o", today), Some(price));
        assert_eq!(table.price("gpt-4o-mini", today).map(|price| price.prices.prompt), Some(0.15));
        for (text, says) in [
            (entry("completion = -1.0\n"), "`completion`: expected a number ≥ 0"),
            (entry("completion = 1.0\nbatch_discount = 1.0\n"), "`batch_discount`"),
            (entry("completion = 1.0\nper = 3\n"), "unknown field `per`"),
            (entry("completion = 1.0\n").replace("mine", "m*e"), "stands at the end alone"),
            (entry("completion = 1.0\n").replace("2026-01-01", "soon"), "expected a date"),
        ] {
            let error = read(&text).expect_err(says);
            assert!(error.message().contains(says) && error.hint().is_some(), "{error:?}");
        }
    }

    #[test]
    fn what_has_no_price_is_told_once_and_never_costs_nothing() {
        let usage = Usage { prompt_tokens: 1_000_000, ..Usage::default() };
        let pricing = Pricing::new(None, None).expect("made");
        assert_eq!(pricing.cost("llama", None, &usage), None);
        assert_eq!(pricing.cost("llama", Some("llama-3"), &usage), None);
        assert!(pricing.warning().expect("a warning").contains("`llama`"));
        pricing.cost("llama", None, &usage);
        assert_eq!(pricing.warning(), None);
        let mini = pricing.cost("gpt-4.1", Some("gpt-4.1-mini-2025-04-14"), &usage).expect("known");
        assert!((mini - 0.4).abs() < 1e-12, "the one that answered: {mini}");
        assert_eq!(pricing.cost("gpt-4.1", Some("who knows"), &usage), Some(2.0));
        assert_eq!(pricing.cost("gpt-4.1", None, &Usage::default()), None, "nobody counted");
        let own = Prices { prompt: 0.0, cached_prompt: None, completion: 0.0 };
        assert_eq!(Pricing::new(Some(own), None).expect("made").cost("llama", None, &usage), Some(0.0));
    }
}
