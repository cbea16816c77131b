//! Mixed precision: a scheme for each layer, chosen on the dense model under the recipe's budget.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use candle_core::{Error as CandleError, Result as CandleResult, Tensor};
use serde::{Deserialize, Serialize};
use trimwick_models::Llama;
use trimwick_nn::{CausalLm, Feed, Layers, ops};
use trimwick_quant::Scheme;
use trimwick_quant::mixed::{self, Budget, Sensitivities};
use trimwick_train::infer;

use super::error::{Result, RunError};
use super::event::{Event, Stage};
use super::origin::Built;
use super::passes::Still;
use super::quantize::Schemes;
use super::stages::Run;
use crate::{BudgetLimit, BudgetSpec, QuantizeSpec, Score};

/// The record of what each candidate costs.
const SENSITIVITIES: &str = "sensitivities";
/// The record of the choice.
const CHOICE: &str = "schemes";

/// A scheme for each layer under the budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixedChoice {
    /// Bits that each weight takes on average, scales counted.
    pub bits: f64,
    /// Where the scores come from: `gradient` or `divergence`.
    pub method: String,
    /// Sum of the scores.
    pub score: f64,
    /// Whether no other choice within the budget has a lower score; else it is the best that was found in a minute.
    pub exact: bool,
    /// The scheme of each layer, by its path.
    pub layers: BTreeMap<String, String>,
}

impl Run<'_, '_> {
    /// Settles which layer takes which scheme; under a budget this is a stage, done once.
    pub(crate) fn choose(&mut self) -> Result<()> {
        let recipe = self.recipe;
        let Some(spec) = &recipe.quantize else { return Ok(()) };
        let Some(budget) = &spec.budget else {
            self.quantize = Some(spec.clone());
            return Ok(());
        };
        let choice = match self.folder.done::<MixedChoice>(CHOICE)? {
            Some(choice) => choice,
            None => {
                let choice = self.choose_now(spec, budget)?;
                self.folder.finish(CHOICE, &choice)?;
                choice
            }
        };
        let MixedChoice { bits, score, exact, .. } = &choice;
        let proved = if *exact { "the least possible" } else { "the least found" };
        let text = format!("schemes chosen: {bits:.3} bits each, score {score:.4e}, {proved}");
        (self.report)(Event::Note(text));
        let parsed = |(path, scheme): (&String, &String)| Ok((path.clone(), scheme.parse::<Scheme>()?));
        let chosen = choice.layers.iter().map(parsed).collect::<Result<BTreeMap<_, _>>>()?;
        self.quantize = Some(spec.with_choice(&chosen));
        self.mixed = Some(choice);
        Ok(())
    }

    fn choose_now(&mut self, spec: &QuantizeSpec, budget: &BudgetSpec) -> Result<MixedChoice> {
        let sensitivities = match self.folder.done::<Sensitivities>(SENSITIVITIES)? {
            Some(known) => known,
            None => {
                self.go_on()?;
                (self.report)(Event::Begin(Stage::Choose));
                let found = self.sensitivities(spec, budget)?;
                self.folder.finish(SENSITIVITIES, &found)?;
                found
            }
        };
        let limit = match budget.limit {
            BudgetLimit::Bits(bits) => Budget::Bits(bits),
            BudgetLimit::Bytes(bytes) => Budget::Bytes(bytes),
        };
        let mixed::Assignment { schemes, bits, score, exact } = mixed::assign(&sensitivities, limit)?;
        let text = |scheme: Scheme| scheme.name().map_or_else(|| scheme.to_string(), str::to_string);
        let layers = schemes.into_iter().map(|(path, scheme)| (path, text(scheme))).collect();
        Ok(MixedChoice { bits, method: sensitivities.method, score, exact, layers })
    }

    fn sensitivities(&mut self, spec: &QuantizeSpec, budget: &BudgetSpec) -> Result<Sensitivities> {
        let built = self.origin.build()?;
        let _still = Still::new(&built.store);
        let groups = groups(&built, spec)?;
        let candidates: Vec<Scheme> = budget.candidates.iter().filter_map(|wanted| wanted.scheme).collect();
        let windows = self.calibration()?;
        let (stop, report) = (self.stop, RefCell::new(&mut self.report));
        let total = match budget.score {
            Score::Gradient => windows.len(),
            Score::Kl => windows.len() * (1 + groups.len() * candidates.len()),
        };
        let done = Cell::new(0);
        let go_on = || {
            if stop.load(Ordering::Relaxed) {
                return Err(CandleError::Msg("stopped".into()));
            }
            (report.borrow_mut())(Event::Part { done: done.get(), total, loss: None });
            done.set(done.get() + 1);
            Ok(())
        };
        let found = match budget.score {
            Score::Gradient => {
                let losses = windows.iter().map(|ids| go_on().and_then(|()| loss(&built.model, ids)));
                mixed::by_gradient(&groups, &candidates, losses)
            }
            Score::Kl => {
                let logits = |i: usize| go_on().and_then(|()| infer(&built.model, &windows[i]));
                mixed::by_divergence(&groups, &candidates, windows.len(), logits)
            }
        };
        match found {
            Err(_) if stop.load(Ordering::Relaxed) => Err(RunError::Stopped),
            found => Ok(found?),
        }
    }
}

/// The layers under the budget, those that share an input together.
fn groups(built: &Built, spec: &QuantizeSpec) -> Result<Vec<Layers>> {
    let model = &built.model;
    let feeds: Vec<Feed> = (0..=model.blocks()).flat_map(|index| model.feeds(index)).collect();
    Ok(mixed::groups(&Schemes::budgeted(&built.store, spec)?, &feeds))
}

/// The mean loss of a window, in nats per token.
fn loss(model: &Llama, ids: &Tensor) -> CandleResult<Tensor> {
    let targets: Vec<u32> = ids.flatten_all()?.to_vec1()?;
    let logits = model.forward(ids)?;
    let (_, tokens, vocabulary) = logits.dims3()?;
    let scored = logits.narrow(1, 0, tokens - 1)?.reshape((tokens - 1, vocabulary))?;
    ops::cross_entropy(&scored, &targets[1..], u32::MAX)
}
