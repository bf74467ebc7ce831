//! What libraries read from the environment when they are loaded, set for the engine unless the user says otherwise.

/// libgomp's threads spin while they wait, which ruins every other program on a small machine; with this much scratch space per
/// stream cuBLAS gives the same bits every time.
const VARIABLES: [(&str, &str); 2] = [("OMP_WAIT_POLICY", "PASSIVE"), ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")];

/// Those the user has not set, with the values that farmhand gives them.
pub(crate) fn missing() -> Vec<(&'static str, &'static str)> {
    VARIABLES.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect()
}
