//! The keystone check: every trainable parameter is reached by the gradient.

use candle_core::Tensor;
use trimwick_nn::ParamStore;

use crate::close::values;

/// Runs the backward of `loss` and lists every trainable parameter of `store` whose gradient is missing, not
/// finite or zero everywhere, each with its fault.
///
/// # Panics
/// When the backward fails.
pub fn gradient_faults(store: &ParamStore, loss: &Tensor) -> Vec<String> {
    let grads = loss.backward().unwrap_or_else(|e| panic!("backward: {e}"));
    let fault = |p: &trimwick_nn::Param| match grads.get(p.var().as_tensor()).map(values) {
        None => Some("no gradient"),
        Some(g) if g.iter().any(|v| !v.is_finite()) => Some("gradient is not finite"),
        Some(g) if g.iter().all(|&v| v == 0.) => Some("gradient is zero everywhere"),
        Some(_) => None,
    };
    store.trainable().iter().filter_map(|p| fault(p).map(|f| format!("{}: {f}", p.name()))).collect()
}

/// Asserts that [`gradient_faults`] finds none and that there is a trainable parameter at all.
///
/// # Panics
/// With the list of faults.
pub fn assert_every_gradient(store: &ParamStore, loss: &Tensor) {
    assert!(!store.trainable().is_empty(), "nothing to train");
    let faults = gradient_faults(store, loss);
    assert!(faults.is_empty(), "{} parameters are not reached:\n{}", faults.len(), faults.join("\n"));
}
