//! Everything that the rest of a run depends on, in one struct.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trimwick_nn::{Param, ParamStore, Role};

use crate::data::Cursor;
use crate::hooks::StepHook;
use crate::optim::AdamW;
use crate::{Error, Result};

/// Losses that the smoothed loss is the mean of.
const SMOOTHED: usize = 50;

/// Where a run is, between two steps. There is no partial accumulation: a checkpoint falls between steps only.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Steps done; also the step that the schedule is at.
    pub step: u64,
    /// Forward passes done. The clock of the store, and so every random choice in the model, is at this number.
    pub micro_step: u64,
    /// The next window.
    pub cursor: Cursor,
    /// Tokens seen.
    pub tokens: u64,
    /// The last losses, oldest first, whose mean is reported as the smoothed loss.
    pub losses: VecDeque<f64>,
    /// The best validation.
    pub best: Option<Best>,
    /// Steps that were left out and rewinds: what the guards of the run allow only so many of. Not undone by a rewind,
    /// no more than the cursor and the forward passes are.
    pub skips: u32,
    /// Norm of the last step's gradient, which a lean step is clipped by; `None` where nothing asks for it.
    pub grad_norm: Option<f64>,
}

/// The lowest validation loss of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Steps done when it was measured.
    pub step: u64,
    /// Nats per token.
    pub loss: f64,
}

impl Position {
    pub(crate) fn push_loss(&mut self, loss: f64) {
        self.losses.push_back(loss);
        while self.losses.len() > SMOOTHED {
            self.losses.pop_front();
        }
    }

    /// Mean of the last losses (at most 50); NaN before the first step.
    pub fn smoothed(&self) -> f64 {
        self.losses.iter().sum::<f64>() / self.losses.len() as f64
    }
}

/// The state of a run between two steps: put back, it gives the same bytes as a run that was never interrupted.
///
/// Random numbers need no entry: each is a function of the seed and of [`Position::micro_step`]. Masks, scales and
/// observer statistics are buffers, so they are among the parameters; what a schedule of them keeps besides is the
/// state of its hook.
#[derive(Debug, Clone)]
pub struct TrainState {
    /// Counters, losses, best validation.
    pub position: Position,
    /// Values of every parameter and buffer by name.
    pub parameters: BTreeMap<String, Tensor>,
    /// Role of every parameter and buffer by name.
    pub roles: BTreeMap<String, SavedRole>,
    /// Kept sets by parameter name, for the parameters that have one: bit `i % 8` of byte `i / 8`.
    pub kept: BTreeMap<String, Arc<[u8]>>,
    /// Steps that the optimizer has taken: the power of its bias corrections.
    pub optimizer_steps: u64,
    /// The optimizer's moments, by the names of [`AdamW::moments`].
    pub moments: BTreeMap<String, Tensor>,
    /// States of the hooks by name, `null` for those that have none.
    pub hooks: BTreeMap<String, Value>,
    /// The lines of the metrics file.
    pub metrics: String,
}

/// A [`Role`] in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // as in Role
pub enum SavedRole {
    Trainable,
    Frozen,
    Buffer,
}

impl From<Role> for SavedRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Trainable => Self::Trainable,
            Role::Frozen => Self::Frozen,
            Role::Buffer => Self::Buffer,
        }
    }
}

impl From<SavedRole> for Role {
    fn from(role: SavedRole) -> Self {
        match role {
            SavedRole::Trainable => Self::Trainable,
            SavedRole::Frozen => Self::Frozen,
            SavedRole::Buffer => Self::Buffer,
        }
    }
}

impl TrainState {
    /// The state as it is. Tensors share storage with the model and the optimizer, which change them in place: the
    /// state must be written, or copied, before the next step.
    ///
    /// # Errors
    /// Two hooks of one name.
    pub fn capture(
        store: &ParamStore,
        optimizer: &AdamW,
        hooks: &[&mut dyn StepHook],
        position: &Position,
        metrics: &str,
    ) -> Result<Self> {
        let params = stateful(store);
        let mut states = BTreeMap::new();
        for hook in hooks {
            let name = hook.name().to_string();
            if states.insert(name.clone(), hook.save().unwrap_or(Value::Null)).is_some() {
                return Err(Error::setting("hooks", "hooks of different names", name));
            }
        }
        Ok(Self {
            position: position.clone(),
            parameters: params.iter().map(|p| (p.name().into(), p.var().as_detached_tensor())).collect(),
            roles: params.iter().map(|p| (p.name().into(), p.role().into())).collect(),
            kept: params.iter().filter_map(|p| Some((p.name().to_string(), p.keep()?))).collect(),
            optimizer_steps: optimizer.steps(),
            moments: optimizer.moments(),
            hooks: states,
            metrics: metrics.into(),
        })
    }

    /// Puts the state into a store, an optimizer and hooks that were built as those it was captured from, and returns
    /// the position and the metrics. `origin` is where the state comes from, for messages.
    ///
    /// Names, shapes and dtypes are checked before the first value changes.
    ///
    /// # Errors
    /// [`Error::OtherRun`] when the state is that of another model or of other hooks; a hook that rejects its state.
    pub fn restore(
        self,
        origin: &Path,
        store: &ParamStore,
        optimizer: &mut AdamW,
        hooks: &mut [&mut dyn StepHook],
    ) -> Result<(Position, String)> {
        self.check(origin, store, hooks)?;
        let Self { position, parameters, roles, kept, optimizer_steps, moments, hooks: states, metrics } =
            self;
        optimizer.restore(optimizer_steps, moments)?;
        for old in store.params().iter().filter(|p| p.role() == Role::Buffer) {
            store.remove_buffer(old.name());
        }
        // Consumed one by one, so that a value is in memory twice for no longer than it takes to copy it.
        for (name, value) in parameters {
            match store.get(&name) {
                Some(param) => param.set(&value)?,
                None => drop(store.set_buffer(&name, &value)?),
            }
        }
        for param in store.params() {
            if let Some(role) = roles.get(param.name()) {
                param.set_role((*role).into());
            }
            param.set_keep(kept.get(param.name()).cloned())?;
        }
        for hook in hooks {
            let state = states.get(hook.name()).filter(|state| !state.is_null());
            if let Err(source) = hook.restore(state) {
                return Err(Error::Hook { hook: hook.name().into(), step: position.step, source });
            }
        }
        Ok((position, metrics))
    }

    fn check(&self, origin: &Path, store: &ParamStore, hooks: &[&mut dyn StepHook]) -> Result<()> {
        let other = |what: &str, expected: String, found: String| {
            Err(Error::OtherRun { path: origin.into(), what: what.into(), expected, found })
        };
        let mut mine = stateful(store);
        mine.retain(|p| p.role() != Role::Buffer);
        for param in &mine {
            let describe = |t: &Tensor| format!("{:?} {:?}", t.dims(), t.dtype());
            let expected = describe(&param.var());
            match self.parameters.get(param.name()).map(describe) {
                Some(found) if found == expected => {}
                found => return other(param.name(), expected, found.unwrap_or("no such tensor".into())),
            }
        }
        for (name, role) in &self.roles {
            if *role != SavedRole::Buffer && !mine.iter().any(|p| p.name() == name) {
                return other(name, "no such parameter".into(), "one".into());
            }
        }
        let names: BTreeMap<&str, ()> = hooks.iter().map(|h| (h.name(), ())).collect();
        if !names.keys().copied().eq(self.hooks.keys().map(String::as_str)) {
            let list = |names: Vec<&str>| if names.is_empty() { "none".into() } else { names.join(", ") };
            let saved = self.hooks.keys().map(String::as_str).collect();
            return other("hooks", list(names.into_keys().collect()), list(saved));
        }
        Ok(())
    }
}

/// What a checkpoint holds of a store. A compact parameter is not in it: it never changes, and who continues a run
/// makes it from the model as the run did at first.
fn stateful(store: &ParamStore) -> Vec<Param> {
    let mut params = store.params();
    params.retain(|p| p.compacted().is_none());
    params
}
