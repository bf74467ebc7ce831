//! What judging would cost, and a budget that is kept.

use farmhand_core::{Budget, BuildContext};

use super::*;

#[test]
fn a_forecast_knows_what_is_kept_and_asks_nobody() {
    let (desk, server) = (Desk::new(), likes_good());
    let judge = weighted(&server).build(&building(&desk)).expect("built");
    desk.annotations(&*judge, &pairs(4));
    let mut asked = pairs(10);
    asked.push(asked[9].clone());
    let forecast = judge.forecast(&asked, &desk.context(0)).expect("foretold");
    assert_eq!((forecast.n_comparisons, forecast.n_cached, forecast.n_asked), (11, 5, 6));
    assert_eq!((forecast.n_requests, forecast.n_unpriced, server.n_asked()), (6, 0, 4));
    let cost = forecast.cost_usd;
    assert!(0.0 < cost.low && cost.low < cost.expected && cost.expected < cost.high, "{cost:?}");
}

#[test]
fn a_spent_budget_stops_and_a_larger_one_goes_on_with_what_was_bought() {
    const N: usize = 40;
    let (desk, server) = (Desk::new(), likes_good());
    let ask = |budget: &Budget| {
        let building = BuildContext { budget: Some(budget), ..building(&desk) };
        desk.annotate(&*weighted(&server).build(&building).expect("built"), &pairs(N))
    };
    let budget = Budget::new(20.0 * COST);
    let results = ask(&budget);
    let n_judged = results.iter().filter(|result| result.is_ok()).count();
    assert!(n_judged > 0 && n_judged < N, "{n_judged}");
    let stopped = |error: &farmhand_core::Error| error.kind() == ErrorKind::BudgetSpent && error.hint().is_some();
    assert!(results.iter().filter_map(|result| result.as_ref().err()).all(stopped));
    // Four requests at a time.
    assert!(budget.spent_usd() <= budget.limit_usd() + 4.0 * COST, "{budget:?}");
    assert!((budget.spent_usd() - n_judged as f64 * COST).abs() < 1e-9 && server.n_asked() == n_judged);
    let larger = Budget::new(1.0);
    assert!(ask(&larger).iter().all(Result::is_ok));
    assert_eq!(server.n_asked(), N, "nothing is bought twice");
}

#[test]
fn no_budget_can_be_kept_where_prices_are_unknown() {
    let (desk, server) = (Desk::new(), likes_good());
    let mut config = weighted(&server);
    config.ask.keep.price.prices = None;
    let budget = Budget::new(1.0);
    let judge = config.build(&BuildContext { budget: Some(&budget), ..building(&desk) }).expect("built");
    let error = desk.annotate(&*judge, &pairs(1)).remove(0).expect_err("refused");
    assert!(
        error.kind() == ErrorKind::InvalidConfig && error.message().contains("the price of `judge` is not known"),
        "{error:?}"
    );
    assert_eq!(server.n_asked(), 0);
    let forecast = judge.forecast(&pairs(2), &desk.context(0)).expect("foretold");
    assert_eq!((forecast.n_requests, forecast.n_unpriced), (2, 2));
}
