//! A comparison in words, as Markdown and as plain text.

use super::{ComparisonPower, Difference, ModelComparison, Side};
use crate::number::{fixed, significant};
use crate::table::{Align, Table};

/// Which is better, or what it would take to say so.
pub(super) fn verdict(
    a: &Side,
    b: &Side,
    rate: &Difference,
    power: Option<&ComparisonPower>,
    n: usize,
    n_seeds: usize,
) -> String {
    let over = if n_seeds > 1 { format!("{n} instructions and {n_seeds} seeds") } else { format!("{n} instructions") };
    let ends = |interval: Option<[f64; 2]>| interval.map(|[low, high]| format!("{} to {}", fixed(low, 1), fixed(high, 1)));
    let p = rate.p_value.map(p_text);
    match (rate.p_value, rate.interval) {
        (Some(p_value), Some([low, high])) if p_value < super::ALPHA => {
            let (better, points, interval) = if rate.difference > 0.0 {
                (&a.name, rate.difference, [low, high])
            } else {
                (&b.name, -rate.difference, [-high, -low])
            };
            let told: Vec<String> =
                std::iter::once(format!("{} points", fixed(points, 1))).chain(ends(Some(interval))).chain(p).collect();
            format!("{better} is better: {} over {over}.", told.join(", "))
        }
        _ => {
            let seen: Vec<String> =
                std::iter::once(format!("{} points", fixed(rate.difference, 1))).chain(ends(rate.interval)).chain(p).collect();
            let mut text = format!("No difference is shown between {} and {}: {} over {over}", a.name, b.name, seen.join(", "));
            match power.map(|power| (power.for_2_points, power.detectable)) {
                Some((Some(needed), _)) => text.push_str(&format!("; to see one of 2 points {needed} instructions are needed")),
                Some((None, points)) => text.push_str(&format!(
                    "; true differences from {} points on are seen four times in five by as many instructions and seeds",
                    fixed(points, 1)
                )),
                None => text.push_str("; every verdict is the same"),
            }
            text + "."
        }
    }
}

/// A p value as people write it.
fn p_text(p: f64) -> String {
    if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {}", fixed(p, if p < 0.1 { 3 } else { 2 })) }
}

impl ModelComparison {
    /// The words, the numbers and the notes as Markdown.
    pub fn markdown(&self) -> String {
        let notes: String = self.remarks().iter().map(|note| format!("- {note}\n")).collect();
        let notes = if notes.is_empty() { notes } else { format!("\n{notes}") };
        format!("**{}**\n\n{}{notes}", self.verdict, self.table().markdown())
    }

    /// The same as plain text, for a terminal.
    pub fn terminal(&self) -> String {
        let notes: String = self.remarks().iter().map(|note| format!("{note}\n")).collect();
        let notes = if notes.is_empty() { notes } else { format!("\n{notes}") };
        format!("{}\n\n{}{notes}", self.verdict, self.table().terminal())
    }

    fn table(&self) -> Table {
        let numbers = [self.a.as_str(), self.b.as_str(), "Difference", "95 % interval", "p"];
        let columns = std::iter::once(("".to_owned(), Align::Left)).chain(numbers.map(|name| (name.to_owned(), Align::Right)));
        Table::new(columns.collect(), self.differences.iter().map(row).collect())
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some((rate, [a, b, neither])) = self.differences.first().and_then(|rate| Some((rate, rate.n_ahead?))) {
            let sign = rate.sign_p_value.map(|p| format!(" (sign test: {})", p_text(p))).unwrap_or_default();
            remarks.push(format!("{} is ahead on {a} instructions, {} on {b}, neither on {neither}{sign}.", self.a, self.b));
        }
        if let Some(power) = self.power.as_ref().filter(|power| power.for_2_points.is_some()) {
            remarks.push(format!(
                "{} instructions find a true difference of {} points four times in five.",
                self.n_instructions,
                fixed(power.detectable, 1)
            ));
        }
        remarks.extend(self.notes.iter().cloned());
        remarks
    }
}

fn row(found: &Difference) -> Vec<String> {
    let write = |value: f64| match found.unit.as_str() {
        "%" => fixed(value, 2),
        "characters" => fixed(value, 1),
        _ => significant(value),
    };
    let label = match found.name.as_str() {
        "win_rate" => "Win rate (%)".to_owned(),
        "length_controlled_winrate" => "Length-controlled win rate (%)".to_owned(),
        "mean_reward" => "Mean reward".to_owned(),
        "avg_length" => "Length (characters)".to_owned(),
        other => other.strip_prefix("mean_reward/").map_or(other.to_owned(), |name| format!("Mean reward by {name}")),
    };
    let signed = |value: f64| if value > 0.0 { format!("+{}", write(value)) } else { write(value) };
    vec![
        label,
        write(found.a),
        write(found.b),
        signed(found.difference),
        found.interval.map(|[low, high]| format!("{} – {}", signed(low), signed(high))).unwrap_or_default(),
        found.p_value.map(|p| p_text(p).replace("p = ", "").replace("p ", "")).unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use farmhand_core::Seed;

    use super::*;
    use crate::comparison::{compare, sides_of_one};
    use crate::fixture;

    #[test]
    fn a_small_run_is_compared_in_these_words() {
        let dir = fixture::repeated_run();
        let [a, b] = sides_of_one(dir.path(), "ppo", "sft").expect("read");
        let found = compare(&a, &b, Seed::root(0)).expect("compared");
        assert_eq!(
            found.terminal(),
            "\
No difference is shown between ppo and sft: 28.6 points, -16.6 to 73.7, p = 0.17 over 7 instructions and 3 seeds; true differences \
from 60.6 points on are seen four times in five by as many instructions and seeds.

                       ppo    sft  Difference    95 % interval      p
───────────────────  ─────  ─────  ──────────  ───────────────  ─────
Win rate (%)         60.71  32.14      +28.57  -16.56 – +73.70   0.17
Length (characters)   43.0   28.4       +14.6     +6.0 – +23.1  0.006

ppo is ahead on 2 instructions, sft on 0, neither on 5 (sign test: p = 0.50).
1 instruction without a verdict on both sides is left out.
Intervals count instructions and seeds; the sign test counts instructions alone.
"
        );
    }

    #[test]
    fn p_values_are_written_as_people_write_them() {
        assert_eq!(
            [0.0004, 0.0321, 0.0996, 0.25, 1.0].map(p_text),
            ["p < 0.001", "p = 0.032", "p = 0.100", "p = 0.25", "p = 1.00"]
        );
    }
}
