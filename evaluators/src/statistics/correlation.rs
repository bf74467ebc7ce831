//! How far two columns of numbers, or their orders, agree.

/// Pearson's correlation, in [−1, 1]; `None` for fewer than two pairs or a column that does not vary.
pub fn pearson(pairs: &[(f64, f64)]) -> Option<f64> {
    let n = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / n;
    let (mean_a, mean_b) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in pairs {
        ab += (a - mean_a) * (b - mean_b);
        aa += (a - mean_a).powi(2);
        bb += (b - mean_b).powi(2);
    }
    (pairs.len() > 1 && aa > 0.0 && bb > 0.0).then(|| (ab / (aa * bb).sqrt()).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation, in [−1, 1]: Pearson's of the ranks, equal numbers sharing their mean rank.
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    pearson(&mean_ranks(&a).into_iter().zip(mean_ranks(&b)).collect::<Vec<_>>())
}

/// Kendall's τ_b, in [−1, 1]: concordant minus discordant pairs of rows over the geometric mean of those untied in each column.
pub fn kendall(pairs: &[(f64, f64)]) -> Option<f64> {
    let (mut score, mut untied_a, mut untied_b) = (0_i64, 0_u64, 0_u64);
    for (i, (a, b)) in pairs.iter().enumerate() {
        for (other_a, other_b) in &pairs[..i] {
            let sign = |x: f64, y: f64| x.partial_cmp(&y).map_or(0, |order| order as i64);
            let (of_a, of_b) = (sign(*a, *other_a), sign(*b, *other_b));
            score += of_a * of_b;
            untied_a += of_a.unsigned_abs();
            untied_b += of_b.unsigned_abs();
        }
    }
    let scale = (untied_a as f64 * untied_b as f64).sqrt();
    (scale > 0.0).then(|| score as f64 / scale)
}

/// The rank of each number, the smallest 1, equal numbers sharing the mean of their places.
pub fn mean_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = order[start..].iter().take_while(|i| values[**i] == values[order[start]]).count().max(1);
        let rank = start as f64 + (same + 1) as f64 / 2.0;
        order[start..start + same].iter().for_each(|i| ranks[*i] = rank);
        start += same;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpaca_farms_methods_under_simulated_and_human_judges() {
        // Win rates of ten models, table 2 of Dubois et al., 2023: simulated and human. The paper prints 0.98 and R² 0.87.
        let table = [
            (79.0, 69.8),
            (61.4, 52.9),
            (46.8, 55.1),
            (45.0, 50.7),
            (41.9, 45.7),
            (39.2, 40.7),
            (36.7, 44.3),
            (36.6, 37.9),
            (24.4, 32.5),
            (11.3, 6.5),
        ];
        assert!((spearman(&table).expect("defined") - 0.9758).abs() < 5e-5);
        assert!((pearson(&table).expect("defined").powi(2) - 0.8706).abs() < 5e-5);
        // Two of 45 pairs are in the other order.
        assert!((kendall(&table).expect("defined") - 41.0 / 45.0).abs() < 1e-15);
    }

    #[test]
    fn ties_share_their_place() {
        assert_eq!(mean_ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert!(mean_ranks(&[]).is_empty());
        let tied = [(1.0, 1.0), (2.0, 2.0), (2.0, 3.0)];
        assert!((kendall(&tied).expect("defined") - 2.0 / 6.0_f64.sqrt()).abs() < 1e-15);
        assert!((spearman(&tied).expect("defined") - 0.75_f64.sqrt()).abs() < 1e-15);
    }

    #[test]
    fn what_does_not_vary_has_no_correlation() {
        for pairs in [&[][..], &[(1.0, 2.0)], &[(1.0, 2.0), (1.0, 3.0)]] {
            assert_eq!((pearson(pairs), spearman(pairs), kendall(pairs)), (None, None, None));
        }
        assert_eq!(pearson(&[(0.0, 3.0), (1.0, 2.0), (2.0, 1.0)]), Some(-1.0));
    }
}
