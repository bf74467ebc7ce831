//! The files that `cargo xtask new` writes, compiled as they stand: their own tests run here, and being registered they go through the
//! contract tests of their kinds like any component.

#[path = "../../xtask/templates/annotator.rs"]
mod annotator;
#[path = "../../xtask/templates/evaluator.rs"]
mod evaluator;
#[path = "../../xtask/templates/learner.rs"]
mod learner;
#[path = "../../xtask/templates/policy.rs"]
mod policy;
#[path = "../../xtask/templates/reward_model.rs"]
mod reward_model;

use farmhand::core::ComponentKind;
use farmhand::core::component::find_component;

#[test]
fn every_kind_has_a_template_and_it_is_registered_under_its_name() {
    for kind in ComponentKind::ALL {
        let name = format!("template_{}", kind.key());
        assert!(find_component(kind, &name).is_some(), "no template for a {}", kind.noun());
    }
}
