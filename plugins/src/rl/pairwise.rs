//! The losses that learn from a better and a worse answer through log-ratios to a reference policy.
//!
//! With d = Σ_t log π(y_t) − Σ_t log π_ref(y_t) of the chosen (w) and the rejected (l) answer, h = d_w − d_l, and β the
//! strength of the pull to the reference. Each link is one function of d_w and d_l; the batch loss is its mean over pairs. Where a
//! link has h, another [`Divergence`] than the usual one puts s(d_w) − s(d_l) in its place.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::implicit_reward::Divergence;

/// How an answer's length enters: the whole log-ratio, or the log-ratio per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LengthScale {
    /// Sums over tokens.
    #[default]
    Sum,
    /// Means over tokens.
    Mean,
}

/// The loss of one pair as a function of its two log-ratios.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PairwiseLink {
    /// `−ln σ(βh)`: direct preference optimisation (Rafailov et al. 2023, equation 7).
    #[default]
    Logistic,
    /// `−ln σ(β(d_w/n_w − d_l/n_l))`: the logistic link on log-ratios per token.
    LogisticPerToken,
    /// `−(1−ε) ln σ(βh) − ε ln σ(−βh)`: conservative DPO for labels that are wrong with probability ε.
    Conservative {
        /// Share of wrong labels ε, in [0, 0.5).
        label_smoothing: f64,
    },
    /// `(−(1−ε) ln σ(βh) + ε ln σ(−βh)) / (1−2ε)`: robust DPO, unbiased under wrong labels (Chowdhury et al. 2024).
    Robust {
        /// Share of wrong labels ε, in [0, 0.5).
        label_smoothing: f64,
    },
    /// `max(0, 1 − βh)`: the hinge of SLiC and RSO.
    Hinge,
    /// `(h − 1/(2β))²`: IPO (Azar et al. 2023).
    Ipo {
        /// Log-ratios summed over tokens, as the DPO authors' code has it, or per token, as TRL has it.
        log_ratios: LengthScale,
    },
    /// `(d_w − 1/(2β))² + (d_l + 1/(2β))²`: SPPO with hard labels (Wu et al. 2024).
    SppoHard,
    /// `1 − σ(βd_w) + σ(βd_l)`: APO-zero, raises the chosen and lowers the rejected answer (D'Oosterlinck et al. 2024).
    ApoZero,
    /// `σ(βd_w) + 1 − σ(βh)`: APO-down, lowers both and the rejected answer more.
    ApoDown,
    /// `KL([σ(βh), σ(−βh)] ‖ [1−ε, ε])`: EXO on pairs (Ji et al. 2024).
    ExoPair {
        /// Share of wrong labels ε, in (0, 0.5); TRL used 0.001.
        label_smoothing: f64,
    },
    /// `−ln σ(βd_w) − ½ ln σ(−βd_w) − ½ ln σ(−βd_l)`: NCA on pairs (Chen et al. 2024).
    NcaPair,
    /// `−ln σ(βd_w) − ln σ(−βd_l)`: the binary classifier loss of BCO, without its running shift (Jung et al. 2024).
    BcoPair,
    /// `−(1−m) ln σ(βh) + m e^(−βh)` with `m = σ(βh/τ)`: the loss found by a search (Lu et al. 2024).
    Discopop {
        /// Temperature τ of the mixture, > 0; the paper's is 0.05.
        temperature: f64,
    },
    /// `−ln σ(β(h − λ max(0, −d_w)))`: DPO-positive, keeps the chosen answer's log-probability up (Pal et al. 2024).
    Positive {
        /// Weight λ of the penalty, ≥ 0; the paper's is 50.
        lambda: f64,
    },
    /// `KL([a, 1−a] ‖ [σ(βh), σ(−βh)])` with `a = σ(scale · gap)`: the implicit reward margin follows the pair's own margin
    /// (reward-aware preference optimisation of NeMo-Aligner, backward KL).
    RewardAware {
        /// What a pair's margin is multiplied by, > 0; 1 takes it as a difference of log-odds.
        scale: f64,
    },
    /// `−(1−ε) ln σ(βδ) − ε ln σ(−βδ)` with δ the difference of the sorted policy margins `log π(y_w) − log π(y_l)` and the sorted
    /// reference margins of the whole optimiser step: the distributions are compared, not the pairs (AOT, Melnyk et al. 2024).
    Aot {
        /// Share of wrong labels ε, in [0, 0.5).
        label_smoothing: f64,
    },
    /// The same with δ the difference of the sorted d_w and the sorted d_l of the step: which answers stand together in a pair
    /// does not matter.
    AotUnpaired {
        /// Share of wrong labels ε, in [0, 0.5).
        label_smoothing: f64,
    },
}

/// The log-ratios of a batch of pairs.
#[derive(Debug)]
pub struct LogRatios {
    /// d_w of each chosen answer in nats, `[pairs]`.
    pub chosen: Tensor,
    /// d_l of each rejected answer in nats, `[pairs]`.
    pub rejected: Tensor,
    /// Tokens of each chosen answer, `[pairs]`, same kind.
    pub chosen_lengths: Tensor,
    /// Tokens of each rejected answer, `[pairs]`, same kind.
    pub rejected_lengths: Tensor,
    /// The reference's `log π_ref(y_w) − log π_ref(y_l)`, `[pairs]`; only [`PairwiseLink::Aot`] reads it.
    pub reference_margins: Tensor,
    /// How much better each chosen answer is by the judge's own scale, `[pairs]`; only [`PairwiseLink::RewardAware`] reads it.
    pub gaps: Tensor,
    /// The divergence to the reference that the policy pays for.
    pub divergence: Divergence,
}

impl LogRatios {
    /// From the log-probabilities of policy and reference, in nats, and the tokens of the answers; chosen, then rejected, all
    /// `[pairs]`. Without gaps, with the usual divergence.
    pub fn new(policy: [&Tensor; 2], reference: [&Tensor; 2], lengths: [&Tensor; 2]) -> Self {
        Self {
            chosen: policy[0] - reference[0],
            rejected: policy[1] - reference[1],
            chosen_lengths: lengths[0].shallow_clone(),
            rejected_lengths: lengths[1].shallow_clone(),
            reference_margins: reference[0] - reference[1],
            gaps: reference[0].zeros_like(),
            divergence: Divergence::ReverseKl,
        }
    }

    /// h = s(d_w) − s(d_l), of sums or of means over tokens, `[pairs]`.
    pub fn margin(&self, scale: LengthScale) -> Tensor {
        let (chosen, rejected) = (self.divergence.scores(&self.chosen), self.divergence.scores(&self.rejected));
        match scale {
            LengthScale::Sum => chosen - rejected,
            LengthScale::Mean => chosen / &self.chosen_lengths - rejected / &self.rejected_lengths,
        }
    }
}

impl PairwiseLink {
    /// The loss of each pair, `[pairs]`, differentiable; `beta` > 0.
    pub fn losses(self, ratios: &LogRatios, beta: f64) -> Tensor {
        let (d_w, d_l) = (&ratios.chosen * beta, &ratios.rejected * beta);
        let u = ratios.margin(LengthScale::Sum) * beta;
        let minus_log_sigmoid = |x: &Tensor| -x.log_sigmoid();
        let smoothed = |u: &Tensor, e: f64| minus_log_sigmoid(u) * (1.0 - e) + minus_log_sigmoid(&-u) * e;
        match self {
            Self::Logistic => minus_log_sigmoid(&u),
            Self::LogisticPerToken => minus_log_sigmoid(&(ratios.margin(LengthScale::Mean) * beta)),
            Self::Conservative { label_smoothing: e } => smoothed(&u, e),
            Self::Robust { label_smoothing: e } => {
                (minus_log_sigmoid(&u) * (1.0 - e) - minus_log_sigmoid(&-&u) * e) / (1.0 - 2.0 * e)
            }
            Self::Hinge => (-u + 1.0).relu(),
            Self::Ipo { log_ratios } => (ratios.margin(log_ratios) - 0.5 / beta).square(),
            Self::SppoHard => (&ratios.chosen - 0.5 / beta).square() + (&ratios.rejected + 0.5 / beta).square(),
            Self::ApoZero => d_l.sigmoid() - d_w.sigmoid() + 1.0,
            Self::ApoDown => d_w.sigmoid() + 1.0 - (d_w - d_l).sigmoid(),
            Self::ExoPair { label_smoothing: e } => {
                u.sigmoid() * (u.log_sigmoid() - (1.0 - e).ln()) + (-&u).sigmoid() * ((-&u).log_sigmoid() - e.ln())
            }
            Self::NcaPair => minus_log_sigmoid(&d_w) + (minus_log_sigmoid(&-d_w) + minus_log_sigmoid(&-d_l)) * 0.5,
            Self::BcoPair => minus_log_sigmoid(&d_w) + minus_log_sigmoid(&-d_l),
            Self::Discopop { temperature } => {
                let mixture = (&u / temperature).sigmoid();
                minus_log_sigmoid(&u) * (1.0 - &mixture) + mixture * (-&u).exp()
            }
            Self::Positive { lambda } => minus_log_sigmoid(&(u - (-d_w).relu() * lambda)),
            Self::RewardAware { scale } => {
                let gap = &ratios.gaps * scale;
                gap.sigmoid() * (gap.log_sigmoid() - u.log_sigmoid())
                    + (-&gap).sigmoid() * ((-&gap).log_sigmoid() - (-u).log_sigmoid())
            }
            Self::Aot { label_smoothing: e } => {
                let policy = &ratios.chosen - &ratios.rejected + &ratios.reference_margins;
                smoothed(&((sorted(&policy) - sorted(&ratios.reference_margins)) * beta), e)
            }
            Self::AotUnpaired { label_smoothing: e } => smoothed(&(sorted(&d_w) - sorted(&d_l)), e),
        }
    }

    /// Whether the loss compares different pairs, so that it must see all of an optimiser step at once.
    pub fn compares_pairs(self) -> bool {
        matches!(self, Self::Aot { .. } | Self::AotUnpaired { .. })
    }

    /// Whether the loss is a function of h, so that the divergence changes it.
    pub fn takes_divergence(self) -> bool {
        !self.needs_reference() && !self.compares_pairs()
    }

    /// Whether the loss judges each answer by its own log-ratio, so that it means nothing without a reference.
    pub fn needs_reference(self) -> bool {
        matches!(self, Self::SppoHard | Self::ApoZero | Self::ApoDown | Self::NcaPair | Self::BcoPair)
    }

    /// Values out of range, paths relative to the link's table.
    pub fn problems(self) -> Vec<farmhand_core::Problem> {
        let (key, value, fits, expected) = match self {
            Self::Conservative { label_smoothing: e } => {
                ("conservative.label_smoothing", e, (0.0..0.5).contains(&e), "in [0, 0.5)")
            }
            Self::Robust { label_smoothing: e } => ("robust.label_smoothing", e, (0.0..0.5).contains(&e), "in [0, 0.5)"),
            Self::ExoPair { label_smoothing: e } => ("exo_pair.label_smoothing", e, e > 0.0 && e < 0.5, "in (0, 0.5)"),
            Self::Discopop { temperature: t } => ("discopop.temperature", t, t > 0.0 && t.is_finite(), "> 0"),
            Self::Positive { lambda } => ("positive.lambda", lambda, lambda >= 0.0 && lambda.is_finite(), "≥ 0"),
            Self::RewardAware { scale } => ("reward_aware.scale", scale, scale > 0.0 && scale.is_finite(), "> 0"),
            Self::Aot { label_smoothing: e } => ("aot.label_smoothing", e, (0.0..0.5).contains(&e), "in [0, 0.5)"),
            Self::AotUnpaired { label_smoothing: e } => {
                ("aot_unpaired.label_smoothing", e, (0.0..0.5).contains(&e), "in [0, 0.5)")
            }
            _ => return Vec::new(),
        };
        if fits {
            Vec::new()
        } else {
            vec![farmhand_core::Problem::new(key, format!("expected a number {expected}, got {value}"))]
        }
    }
}

/// Ascending; equal numbers in the order in which they come, so that their gradients do not depend on the library.
fn sorted(numbers: &Tensor) -> Tensor {
    let (sorted, _) = numbers.sort_stable(true, 0, false);
    sorted
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    fn ratios(chosen: &[f64], rejected: &[f64], lengths: (f64, f64)) -> LogRatios {
        let (chosen, rejected) = (Tensor::from_slice(chosen), Tensor::from_slice(rejected));
        let lengths = [chosen.ones_like() * lengths.0, chosen.ones_like() * lengths.1];
        let reference = chosen.zeros_like();
        LogRatios::new([&chosen, &rejected], [&reference, &reference], [&lengths[0], &lengths[1]])
    }

    /// Fixture A: sums −1.8 and −3.1, reference −2.2 and −2.8, three and four tokens, so d_w = 0.4 and d_l = −0.3.
    fn fixture_a() -> LogRatios {
        ratios(&[0.4], &[-0.3], (3.0, 4.0))
    }

    /// The four pairs of TRL's table: policy minus reference sums, eight and ten tokens.
    fn four_pairs() -> LogRatios {
        let policy =
            [[-12.0, -20.5, -7.25, -33.0], [-14.0, -18.0, -9.75, -33.25]].map(|sums: [f64; 4]| Tensor::from_slice(&sums));
        let reference =
            [[-13.0, -21.0, -8.0, -31.5], [-13.5, -19.5, -8.5, -31.0]].map(|sums: [f64; 4]| Tensor::from_slice(&sums));
        let lengths = [8.0, 10.0].map(|length: f64| policy[0].ones_like() * length);
        LogRatios::new([&policy[0], &policy[1]], [&reference[0], &reference[1]], [&lengths[0], &lengths[1]])
    }

    const ALL: [PairwiseLink; 18] = [
        PairwiseLink::Logistic,
        PairwiseLink::LogisticPerToken,
        PairwiseLink::Conservative { label_smoothing: 0.1 },
        PairwiseLink::Robust { label_smoothing: 0.1 },
        PairwiseLink::Hinge,
        PairwiseLink::Ipo { log_ratios: LengthScale::Sum },
        PairwiseLink::Ipo { log_ratios: LengthScale::Mean },
        PairwiseLink::SppoHard,
        PairwiseLink::ApoZero,
        PairwiseLink::ApoDown,
        PairwiseLink::ExoPair { label_smoothing: 1e-3 },
        PairwiseLink::NcaPair,
        PairwiseLink::BcoPair,
        PairwiseLink::Discopop { temperature: 0.05 },
        PairwiseLink::Positive { lambda: 50.0 },
        PairwiseLink::Aot { label_smoothing: 0.0 },
        PairwiseLink::AotUnpaired { label_smoothing: 0.0 },
        PairwiseLink::RewardAware { scale: 1.0 },
    ];

    fn values(link: PairwiseLink, ratios: &LogRatios) -> Vec<f64> {
        Vec::try_from(link.losses(ratios, 0.1)).expect("numbers")
    }

    #[test]
    fn every_link_matches_the_goldens_of_the_pair_fixture() {
        let golden = [
            0.658_760,
            0.682_785,
            0.665_760,
            0.650_010,
            0.93,
            18.49,
            22.960_069,
            43.25,
            0.982_502,
            0.992_506,
            f64::NAN,
            f64::NAN,
            f64::NAN,
            f64::NAN,
            0.658_760,
            0.658_760,
            0.658_760,
            f64::NAN,
        ];
        for (link, golden) in ALL.into_iter().zip(golden) {
            let got = values(link, &fixture_a())[0];
            assert!(golden.is_nan() || (got - golden).abs() < 1e-6, "{link:?}: {got}, not {golden}");
        }
        // Reference-free: the reference counts as 0.
        let got = values(PairwiseLink::Logistic, &ratios(&[-1.8], &[-3.1], (3.0, 4.0)))[0];
        assert!((got - 0.630_258).abs() < 1e-6);
        // A reward gap of 1.5.
        let aware = LogRatios { gaps: Tensor::from_slice(&[1.5]), ..fixture_a() };
        assert!((values(PairwiseLink::RewardAware { scale: 1.0 }, &aware)[0] - 0.196_478).abs() < 1e-6);
        // The reference-normalised losses of statistical rejection sampling at 0.05, and its hinge without a reference.
        let free = ratios(&[-1.8], &[-3.1], (3.0, 4.0));
        for (link, ratios, golden) in [(ALL[0], fixture_a(), 0.675_800), (ALL[4], fixture_a(), 0.965), (ALL[4], free, 0.935)] {
            assert!((link.losses(&ratios, 0.05).double_value(&[0]) - golden).abs() < 1e-6, "{link:?}");
        }
    }

    #[test]
    fn a_token_of_the_better_answer_pulls_as_hard_as_one_of_the_worse_pushes() {
        let mut pair = fixture_a();
        pair.chosen = pair.chosen.set_requires_grad(true);
        pair.rejected = pair.rejected.set_requires_grad(true);
        PairwiseLink::Logistic.losses(&pair, 0.1).sum(Kind::Double).backward();
        let slopes = [&pair.chosen, &pair.rejected].map(|d| d.grad().double_value(&[0]));
        assert!((slopes[0] + 0.048_251).abs() < 1e-6 && (slopes[1] - 0.048_251).abs() < 1e-6, "{slopes:?}");
        // Equal answers: h is 0 and the two gradients cancel, whatever the link of h.
        let same = Tensor::from_slice(&[-4.0]).set_requires_grad(true);
        let (reference, length) = (Tensor::from_slice(&[-5.0]), Tensor::from_slice(&[3.0]));
        for link in ALL.into_iter().filter(|link| link.takes_divergence()) {
            let ratios = LogRatios::new([&same, &same], [&reference, &reference], [&length, &length]);
            same.shallow_clone().zero_grad();
            link.losses(&ratios, 0.1).sum(Kind::Double).backward();
            assert!(same.grad().double_value(&[0]).abs() < 1e-12, "{link:?}");
        }
    }

    #[test]
    fn every_link_matches_trl_per_pair() {
        let table: [(PairwiseLink, [f64; 4]); 16] = [
            (ALL[0], [0.620_957_05, 0.744_396_66, 0.598_138_87, 0.656_350_14]),
            (ALL[1], [0.684_435_46, 0.697_531_75, 0.682_269_49, 0.691_273_94]),
            (ALL[2], [0.635_957_05, 0.734_396_66, 0.618_138_87, 0.663_850_14]),
            (ALL[3], [0.602_207_05, 0.756_896_66, 0.573_138_87, 0.646_975_14]),
            (ALL[4], [0.85, 1.1, 0.8, 0.925]),
            (ALL[5], [12.25, 36.0, 9.0, 18.0625]),
            (ALL[6], [23.280_625, 25.882_656_25, 22.860_351_56, 24.626_406_25]),
            (ALL[7], [36.25, 62.5, 32.125, 49.8125]),
            (ALL[8], [0.962_523_42, 1.024_932_45, 0.950_049_41, 0.981_415_95]),
            (ALL[9], [0.987_549_34, 1.037_476_58, 0.968_907_22, 0.943_828_94]),
            (ALL[10], [2.505_516_56, 2.935_004_27, 2.422_014_62, 2.632_492_36]),
            (ALL[11], [1.350_824_81, 1.413_168_0, 1.338_324_73, 1.374_916_57]),
            (ALL[12], [1.312_856_31, 1.439_416_70, 1.288_949_18, 1.357_919_05]),
            (ALL[13], [0.849_337_58, 0.787_402_01, 0.814_763_14, 0.878_234_41]),
            (ALL[15], [0.744_396_66, 0.656_350_14, 0.620_957_05, 0.598_138_87]),
            (ALL[16], [0.656_350_14, 0.609_470_43, 0.632_599_04, 0.718_459_65]),
        ];
        for (link, golden) in table {
            let got = values(link, &four_pairs());
            assert!(got.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-6), "{link:?}: {got:?}, not {golden:?}");
        }
    }

    #[test]
    fn other_divergences_match_trl_per_pair() {
        let table: [(Divergence, [f64; 4]); 4] = [
            (Divergence::JensenShannon, [0.660_652_16, 0.706_873_29, 0.638_947_67, 0.661_233_59]),
            (Divergence::ForwardKl, [0.631_154_38, 0.712_500_94, 0.553_590_64, 0.473_848_74]),
            (Divergence::Alpha { alpha: 0.5 }, [0.627_690_95, 0.724_260_04, 0.582_008_66, 0.601_457_28]),
            (Divergence::Alpha { alpha: 2.0 }, [0.593_123_66, 0.844_794_33, 0.605_804_98, 0.687_277_96]),
        ];
        for (divergence, golden) in table {
            let got = values(PairwiseLink::Logistic, &LogRatios { divergence, ..four_pairs() });
            assert!(got.iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-6), "{divergence:?}: {got:?}");
        }
        // Links of the single log-ratios do not see it; links of h do.
        for link in ALL {
            let changed = values(link, &LogRatios { divergence: Divergence::ForwardKl, ..four_pairs() });
            assert_eq!(changed != values(link, &four_pairs()), link.takes_divergence(), "{link:?}");
        }
    }

    #[test]
    fn sorted_links_do_not_depend_on_the_order_of_the_pairs_and_survive_ties() {
        let flipped = |ratios: &LogRatios| LogRatios {
            chosen: ratios.chosen.flip([0]),
            rejected: ratios.rejected.flip([0]),
            reference_margins: ratios.reference_margins.flip([0]),
            ..four_pairs()
        };
        for link in [ALL[15], ALL[16]] {
            assert!(link.compares_pairs());
            let pairs = four_pairs();
            assert!(values(link, &pairs).iter().zip(values(link, &flipped(&pairs))).all(|(a, b)| (a - b).abs() < 1e-12));
        }
        let mut tied = ratios(&[0.3, 0.3, 0.3], &[0.3, 0.3, 0.3], (3.0, 4.0));
        tied.chosen = tied.chosen.set_requires_grad(true);
        let loss = ALL[16].losses(&tied, 0.1).sum(Kind::Double);
        loss.backward();
        assert!((loss.double_value(&[]) - 3.0 * std::f64::consts::LN_2).abs() < 1e-9);
        let gradient = Vec::<f64>::try_from(tied.chosen.grad()).expect("numbers");
        assert!(gradient.iter().all(|slope| (slope + 0.05).abs() < 1e-9), "{gradient:?}");
    }

    #[test]
    fn the_logistic_link_is_ln_2_at_the_reference() {
        let got = values(PairwiseLink::Logistic, &ratios(&[0.0], &[0.0], (3.0, 4.0)))[0];
        assert!((got - std::f64::consts::LN_2).abs() < 1e-12);
        let ipo = values(PairwiseLink::Ipo { log_ratios: LengthScale::Sum }, &ratios(&[0.0], &[0.0], (3.0, 4.0)))[0];
        assert!((ipo - 25.0).abs() < 1e-9);
    }

    #[test]
    fn gradients_of_every_link_match_finite_differences() {
        for link in ALL {
            let at = |d_w: f64, d_l: f64| link.losses(&ratios(&[d_w], &[d_l], (3.0, 4.0)), 0.3).double_value(&[0]);
            for (d_w, d_l) in [(0.4, -0.3), (-0.7, 0.2), (2.0, 1.1)] {
                let mut pair = ratios(&[d_w], &[d_l], (3.0, 4.0));
                pair.chosen = pair.chosen.set_requires_grad(true);
                pair.rejected = pair.rejected.set_requires_grad(true);
                link.losses(&pair, 0.3).sum(Kind::Double).backward();
                let step = 1e-6;
                let slopes = [
                    (at(d_w + step, d_l) - at(d_w - step, d_l)) / (2.0 * step),
                    (at(d_w, d_l + step) - at(d_w, d_l - step)) / (2.0 * step),
                ];
                let grads =
                    [&pair.chosen, &pair.rejected].map(|d| if d.grad().defined() { d.grad().double_value(&[0]) } else { 0.0 });
                for (slope, grad) in slopes.iter().zip(grads) {
                    assert!((slope - grad).abs() < 1e-5, "{link:?} at ({d_w}, {d_l}): {slope} and {grad}");
                }
            }
        }
    }

    #[test]
    fn without_label_noise_the_smoothed_links_are_the_logistic_one() {
        // When half of the labels are wrong, nothing says which answer is better.
        let mut even = ratios(&[0.0], &[0.0], (3.0, 4.0));
        even.chosen = even.chosen.set_requires_grad(true);
        PairwiseLink::Conservative { label_smoothing: 0.5 }.losses(&even, 0.1).sum(Kind::Double).backward();
        assert_eq!(even.chosen.grad().double_value(&[0]), 0.0);
        let plain = values(PairwiseLink::Logistic, &four_pairs());
        for link in [PairwiseLink::Conservative { label_smoothing: 0.0 }, PairwiseLink::Robust { label_smoothing: 0.0 }] {
            assert_eq!(values(link, &four_pairs()), plain);
        }
    }

    #[test]
    fn links_read_from_configurations_and_refuse_values_out_of_range() {
        let link: PairwiseLink = serde_json::from_str(r#"{"ipo": {"log_ratios": "mean"}}"#).expect("a link");
        assert_eq!(link, PairwiseLink::Ipo { log_ratios: LengthScale::Mean });
        assert_eq!(serde_json::from_str::<PairwiseLink>(r#""hinge""#).expect("a link"), PairwiseLink::Hinge);
        assert!(serde_json::from_str::<PairwiseLink>(r#"{"ipo": {"log_ratio": "mean"}}"#).is_err());
        assert!(ALL.iter().all(|link| link.problems().is_empty()));
        let problem = &PairwiseLink::Robust { label_smoothing: 0.5 }.problems()[0];
        assert_eq!(problem.path, "robust.label_smoothing");
    }
}
