//! What other parts of a pipeline do between the steps of training.

use serde_json::Value;

use crate::{BoxError, Result};

/// Acts before and after each step: a mask refresh, a sparsity schedule, a delayed fake-quantizer. The loop knows
/// nothing of what a hook does, and saves its state with each checkpoint.
///
/// A hook acts on the model through handles of its own (layers, parameters). What it keeps in buffers of the store
/// and in kept sets is saved and restored with the parameters, before [`StepHook::restore`] is called.
pub trait StepHook {
    /// The hook's key in a checkpoint: unique within a run.
    fn name(&self) -> &str;

    /// Called before the forward pass of step `step`, counted from 1.
    ///
    /// # Errors
    /// An error ends the run.
    fn before_step(&mut self, _step: u64) -> Result<(), BoxError> {
        Ok(())
    }

    /// Called after the weights were updated in step `step`.
    ///
    /// # Errors
    /// An error ends the run.
    fn after_step(&mut self, _step: u64) -> Result<(), BoxError> {
        Ok(())
    }

    /// The state between two steps; `None` when there is none.
    fn save(&self) -> Option<Value> {
        None
    }

    /// Puts back what [`StepHook::save`] returned, and whatever follows from it and from the restored buffers. Must
    /// be overridden together with `save`: by default a saved state is an error.
    ///
    /// # Errors
    /// A state that is not this hook's.
    fn restore(&mut self, state: Option<&Value>) -> Result<(), BoxError> {
        match state {
            None => Ok(()),
            Some(_) => Err("the checkpoint holds a state, and this hook keeps none".into()),
        }
    }
}
