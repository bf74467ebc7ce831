//! The built-in policies, reward models and learners, and the mathematics they share.
//!
//! A component is one file: its documentation with the paper and the equation, its registration and options, its
//! visible loop, its tests. Components never import each other; what several need is a pure function in [`rl`], a small
//! part of [`training`], or part of `farmhand_models`. A binary that wants these components in its registry links them
//! with `use farmhand_plugins as _;`.

#[cfg(feature = "components")]
pub mod annotators;
#[cfg(feature = "components")]
pub mod learners;
#[cfg(feature = "components")]
pub mod policies;
#[cfg(feature = "components")]
pub mod reward_models;
pub mod rl;
pub mod training;

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use farmhand_core::component::{component_names, components, find_component};
    use farmhand_core::config::check_against_schema;
    use farmhand_core::{ComponentKind, LearnerSpec, PolicySpec, RewardModelSpec};
    use serde_json::json;

    #[test]
    fn every_component_is_registered_and_its_defaults_read_back() {
        for (kind, name) in [
            (ComponentKind::Learner, "attribute_regression"),
            (ComponentKind::Learner, "dpo"),
            (ComponentKind::Learner, "iterative"),
            (ComponentKind::Learner, "grpo"),
            (ComponentKind::Learner, "nash_md"),
            (ComponentKind::Learner, "online_dpo"),
            (ComponentKind::Learner, "ppo"),
            (ComponentKind::Learner, "preference_modeling"),
            (ComponentKind::Learner, "reinforce_pp"),
            (ComponentKind::Learner, "remax"),
            (ComponentKind::Learner, "rloo"),
            (ComponentKind::Learner, "reward_modeling"),
            (ComponentKind::Learner, "sft"),
            (ComponentKind::Learner, "spin"),
            (ComponentKind::Learner, "decision_transformer"),
            (ComponentKind::Learner, "expert_iteration"),
            (ComponentKind::Learner, "feedme"),
            (ComponentKind::Learner, "filtered_mle"),
            (ComponentKind::Learner, "quark"),
            (ComponentKind::Learner, "raft"),
            (ComponentKind::Learner, "rejection_sampling"),
            (ComponentKind::Learner, "reward_conditioning"),
            (ComponentKind::Learner, "reward_weighted_regression"),
            (ComponentKind::Learner, "steerlm"),
            (ComponentKind::Learner, "xpo"),
            (ComponentKind::Policy, "best_of_n"),
            (ComponentKind::Policy, "causal_lm"),
            (ComponentKind::Policy, "conditioned"),
            (ComponentKind::Policy, "openai_server"),
            (ComponentKind::Annotator, "local_judge"),
            (ComponentKind::Annotator, "preference_model"),
            (ComponentKind::RewardModel, "attributes"),
            (ComponentKind::RewardModel, "bradley_terry"),
            (ComponentKind::RewardModel, "ensemble"),
            (ComponentKind::RewardModel, "length"),
            (ComponentKind::RewardModel, "likelihood"),
            (ComponentKind::RewardModel, "preference_model"),
            (ComponentKind::RewardModel, "self_reward"),
        ] {
            assert!(component_names(kind).contains(&name), "{name}");
        }
        for info in components() {
            let defaults = (info.defaults)();
            let same = |again: serde_json::Value| {
                assert_eq!(
                    again[info.name],
                    serde_json::from_str::<serde_json::Value>(&defaults).expect("JSON"),
                    "{}",
                    info.name
                );
            };
            match info.kind {
                ComponentKind::Learner => {
                    let spec = LearnerSpec::from_json(info.name, &defaults).expect(info.name);
                    assert!(spec.problems().is_empty(), "{}", info.name);
                    same(serde_json::to_value(&spec).expect("JSON"));
                }
                ComponentKind::Policy => {
                    let spec = PolicySpec::from_json(info.name, &defaults).expect(info.name);
                    assert!(spec.problems().is_empty(), "{}", info.name);
                    same(serde_json::to_value(&spec).expect("JSON"));
                }
                ComponentKind::RewardModel => {
                    let spec = RewardModelSpec::from_json(info.name, &defaults).expect(info.name);
                    assert!(spec.problems().is_empty() || info.name == "ensemble", "{}", info.name);
                    same(serde_json::to_value(&spec).expect("JSON"));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn options_with_data_fit_the_schemas_that_configurations_are_checked_against() {
        let problems = |name: &str, options: serde_json::Value| {
            let info = find_component(ComponentKind::Learner, name).expect("registered");
            let schema = info.schema().expect("JSON");
            LearnerSpec::from_json(name, &options.to_string()).expect("options");
            check_against_schema(&options, &schema)
        };
        for link in [json!("hinge"), json!({ "ipo": { "log_ratios": "mean" } }), json!({ "robust": { "label_smoothing": 0.1 } })]
        {
            assert_eq!(problems("dpo", json!({ "link": link, "prompt": "none" })), []);
        }
        let ppo = json!({
            "missing_end": { "replace": -1.0 },
            "kl_control": { "adaptive_horizon": { "target": 6.0, "horizon": 1e4 } },
            "kl_estimator": "k1_clamped",
            "whiten_rewards": "all_cells",
            "value_init": "policy",
        });
        assert_eq!(problems("ppo", ppo), []);
        let lists = json!({ "learn_from": "all_pairs", "margin": "llama2_small", "ties": { "davidson": { "nu": 1.0 } } });
        assert_eq!(problems("reward_modeling", lists), []);
        let online = json!({
            "scorer": { "own": { "self_reward": {} } },
            "selection": { "rso": { "beta": 0.5, "accept": 4 } },
            "learner": { "dpo": { "link": "hinge" } },
        });
        assert_eq!(problems("iterative", online), []);
    }

    #[test]
    fn options_that_are_not_written_are_the_components_own_or_those_of_a_preset() {
        let read = |name: &str, options: serde_json::Value| {
            let spec = LearnerSpec::from_json(name, &options.to_string())?;
            Ok::<_, farmhand_core::Error>(serde_json::to_value(&spec).expect("JSON")[name].take())
        };
        // The table `optim` is not replaced as a whole, and neither are the options that learners share.
        let dpo = read("dpo", json!({ "optim": { "weight_decay": 0.5 }, "epochs": 7 })).expect("fits");
        assert_eq!([&dpo["optim"]["lr"], &dpo["optim"]["weight_decay"]], [&json!(1e-6), &json!(0.5)]);
        assert_eq!([&dpo["epochs"], &dpo["batch_size"]], [&json!(7), &json!(64)]);
        let ppo = read("ppo", json!({ "preset": "alpaca_farm", "steps": 3 })).expect("fits");
        assert_eq!([&ppo["steps"], &ppo["rollout_size"], &ppo["reduction"]], [&json!(3), &json!(512), &json!("fixed_norm")]);
        let error = read("ppo", json!({ "preset": "alpaca_frm" })).expect_err("unknown");
        assert!(error.to_string().contains("unknown preset `alpaca_frm`"), "{error}");
        let schema = serde_json::from_str(&farmhand_core::schema_json::<LearnerSpec>()).expect("JSON");
        assert_eq!(check_against_schema(&json!({ "ppo": { "preset": "alpaca_farm", "steps": 3 } }), &schema), []);
        let problems = check_against_schema(&json!({ "ppo": { "preset": "alpaca_frm" } }), &schema);
        assert_eq!(problems[0].path, "ppo.preset");
        assert!(read("dpo", json!({ "preset": "alpaca_farm" })).is_err(), "it has none");
    }

    #[test]
    fn an_unknown_option_is_refused_with_its_path() {
        let error = LearnerSpec::from_json("dpo", r#"{ "optim": { "learning_rate": 1.0 } }"#).expect_err("unknown");
        assert!(error.to_string().contains("learning_rate"), "{error}");
    }
}
