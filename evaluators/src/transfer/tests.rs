//! Transfers whose correlations are known: the published table, and verdicts made up.

use farmhand_core::Seed;

use super::{Judged, Side, TableRow, Verdict, transfer, transfer_of_table};

fn close(value: f64, expected: f64, within: f64) {
    assert!((value - expected).abs() < within, "{value}, expected {expected}");
}

fn row(method: &str, a: f64, a_se: f64, b: f64, b_se: f64) -> TableRow {
    TableRow { method: method.to_owned(), a, b, a_se: Some(a_se), b_se: Some(b_se) }
}

/// Table 2 of Dubois et al., 2023, where both columns are known: simulated, human, each with its standard error.
fn alpaca_farm() -> Vec<TableRow> {
    vec![
        row("GPT-4", 79.0, 1.4, 69.8, 1.6),
        row("ChatGPT", 61.4, 1.7, 52.9, 1.7),
        row("PPO", 46.8, 1.8, 55.1, 1.7),
        row("Best-of-n", 45.0, 1.7, 50.7, 1.8),
        row("Expert Iteration", 41.9, 1.7, 45.7, 1.7),
        row("SFT 52k", 39.2, 1.7, 40.7, 1.7),
        row("SFT 10k", 36.7, 1.7, 44.3, 1.7),
        row("Binary FeedME", 36.6, 1.7, 37.9, 1.7),
        row("Davinci001", 24.4, 1.5, 32.5, 1.6),
        row("LLaMA 7B", 11.3, 1.1, 6.5, 0.9),
    ]
}

#[test]
fn alpaca_farms_table_has_the_papers_correlations() {
    let found = transfer_of_table(&alpaca_farm(), 1000, Seed::root(0));
    let value = |name: &str| found.metric(name).expect(name).value;
    close(value("spearman"), 0.9758, 5e-5);
    close(value("r_squared"), 0.8706, 5e-5);
    close(value("kendall"), 41.0 / 45.0, 1e-12);
    let interval = found.metric("spearman").and_then(|metric| metric.interval).expect("errors are known");
    assert!(interval[0] > 0.7 && interval[0] < 0.9758 && interval[1] <= 1.0, "{interval:?}");
    assert_eq!((found.methods[0].method.as_str(), found.methods[1].method.as_str()), ("GPT-4", "PPO"));
    assert_eq!((found.methods[1].a.rank, found.methods[1].b.rank), (3.0, 2.0));
    // numpy.polyfit of the same columns, degree 1.
    let [intercept, slope] = found.line.expect("A varies");
    close(slope, 0.838_856_37, 1e-7);
    close(intercept, 8.185_095_44, 1e-6);
    let without = alpaca_farm().into_iter().map(|row| TableRow { b_se: None, ..row }).collect::<Vec<_>>();
    assert_eq!(transfer_of_table(&without, 100, Seed::root(0)).metric("spearman").and_then(|metric| metric.interval), None);
}

/// Methods that win at these rates under both annotators, on `n` instructions.
fn judged(rates: [[f64; 2]; 3], n: usize) -> Judged {
    let mut judged = Judged::default();
    for (method, [a, b]) in ["m0", "m1", "m2"].into_iter().zip(rates) {
        for i in 0..n {
            let instruction = format!("{i}");
            for (side, rate) in [(Side::A, a), (Side::B, b)] {
                let p_win = Some(f64::from(u8::from(((i * 7919) % n) as f64 + 0.5 < rate * n as f64)));
                let lengths = Some([100.0 * rate, 50.0]);
                judged.add(side, &Verdict { method, reference: Some("ref"), instruction: &instruction, p_win, lengths });
            }
        }
    }
    judged
}

#[test]
fn win_rates_ranks_lengths_and_intervals_of_verdicts() {
    let methods = judged([[0.2, 0.3], [0.5, 0.45], [0.8, 0.6]], 200).methods(None).expect("three");
    assert_eq!((methods.n_instructions, methods.reference.as_deref()), (200, Some("ref")));
    let found = transfer(&methods, 300, Seed::root(1));
    assert_eq!(found.metric("spearman").expect("defined").value, 1.0);
    let [low, high] = found.metric("r_squared").and_then(|metric| metric.interval).expect("many instructions");
    assert!(low > 0.9 && high <= 1.0, "{low} {high}");
    let best = &found.methods[0];
    assert_eq!((best.method.as_str(), best.a.n, best.length, best.length_ratio()), ("m2", 200, Some(80.0), Some(1.6)));
    close(best.a.win_rate, 80.0, 1e-12);
    // sd(p) / √n of 160 wins in 200.
    close(best.a.std_error.expect("many"), 100.0 * (0.8 * 0.2 / 199.0_f64).sqrt(), 1e-9);
    assert_eq!(found.metric("length_spearman_b").expect("lengths").value, 1.0);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let refused = |judged: Judged, wanted: Option<&[String]>| judged.methods(wanted).expect_err("refused").to_string();
    let of = |rows: &[(Side, &str, &str)]| {
        let mut judged = Judged::default();
        for (side, method, reference) in rows {
            let verdict = Verdict { method, reference: Some(reference), instruction: "i", p_win: Some(1.0), lengths: None };
            judged.add(*side, &verdict);
        }
        judged
    };
    let (a, b) = (Side::A, Side::B);
    assert!(refused(of(&[(a, "m", "r"), (b, "m", "r")]), None).contains("only one method"));
    assert!(refused(of(&[(a, "m", "r"), (b, "n", "r")]), None).contains("no method has verdicts of both"));
    assert!(refused(of(&[(a, "m", "r")]), None).contains("no verdict under annotator B"));
    assert!(refused(of(&[(a, "m", "r"), (a, "n", "s"), (b, "m", "r")]), None).contains("several references: `r`, `s`"));
    assert!(refused(of(&[(a, "m", "r"), (b, "m", "s")]), None).contains("A compared with `r` and annotator B with `s`"));
    let two = || of(&[(a, "m", "r"), (b, "m", "r"), (a, "n", "r"), (b, "n", "r"), (a, "o", "r")]);
    assert!(refused(two(), Some(&["x".to_owned()])).contains("method `x` was not judged"));
    assert!(refused(two(), Some(&["o".to_owned()])).contains("one of the two annotators only"));
    assert!(refused(two(), Some(&["m".to_owned()])).contains("only one method"));
    let two = two().methods(None).expect("two");
    assert_eq!(two.left_out, ["o"]);
    assert!(transfer(&two, 10, Seed::root(0)).metrics.is_empty(), "the correlation of two points is no evidence");
}
