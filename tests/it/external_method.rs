//! The method of `examples/external_plugin` as part of this program: its own tests run, and the tests of every registered
//! component and learner cover it like a built-in.

#[path = "../../examples/external_plugin/src/lib.rs"]
#[expect(unreachable_pub, unexpected_cfgs, reason = "it is a crate of its own, with a feature of its own")]
mod r_dpo;
