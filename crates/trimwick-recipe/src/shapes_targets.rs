//! The formats that a model is packed into against what its layers are quantized by.

use trimwick_export::{Error as ExportError, Planned, check_fit};

use crate::checked::quantize_spec::QuantizeSpec;
use crate::error::FaultKind;
use crate::rules::QuantizeRule;
use crate::run::{dense_of, format_of};
use crate::shapes::{Check, LayerKind};
use crate::shapes_quantize::schemes_of;

impl Check<'_> {
    /// Each format has to hold what every layer may be quantized by, whatever training makes of it.
    pub(crate) fn targets(&mut self, spec: &QuantizeSpec, quant: &[Option<QuantizeRule>]) {
        let export = &self.recipe.export;
        let plans = self.plans(spec, quant);
        let mut faults = Vec::new();
        for (i, target) in export.targets.iter().enumerate() {
            let fit =
                |plan: &Vec<Planned<'_>>| check_fit(format_of(*target), dense_of(export.dense), plan).err();
            let (what, advice) = match plans.iter().find_map(fit) {
                None => continue,
                Some(ExportError::Refused { layer, scheme, problem, nearest, .. }) => {
                    (format!("{layer} ({scheme}): {problem}"), nearest.to_string())
                }
                Some(error) => (error.to_string(), "quantize layers, or remove it".to_string()),
            };
            let expected = format!("schemes that {} holds exactly", target.name());
            let kind = FaultKind::Conflict { expected, found: what, advice };
            faults.push((format!("export.targets.{i}"), kind));
        }
        faults.into_iter().for_each(|(key, kind)| self.fault(&key, kind));
    }

    /// The models that a recipe may end with, as far as formats tell them apart: under a budget every layer on each candidate,
    /// and for each candidate one group of layers on it while the others have the first.
    fn plans(&self, spec: &QuantizeSpec, quant: &[Option<QuantizeRule>]) -> Vec<Vec<Planned<'_>>> {
        let layers = || self.layers.iter().zip(quant).filter(|(layer, _)| layer.kind.computing().is_some());
        let parent =
            |path: &str| path.rsplit_once('.').map_or(String::new(), |(parent, _)| parent.to_string());
        let budgeted = layers().rfind(|(_, rule)| rule.as_ref().is_some_and(QuantizeRule::budgeted));
        let last = budgeted.map(|(layer, _)| parent(&layer.path));
        let plan = |candidate: usize, alone: bool| -> Vec<Planned<'_>> {
            let planned = layers().map(|(layer, rule)| {
                let schemes = schemes_of(spec, rule.as_ref());
                let chosen = !alone || last.as_ref() == Some(&parent(&layer.path));
                let scheme = schemes.get(if chosen { candidate } else { 0 }).or(schemes.first()).copied();
                let linear = layer.kind == LayerKind::Linear;
                Planned { path: &layer.path, shape: &layer.shape, linear, scheme }
            });
            planned.collect()
        };
        let candidates = spec.budget.as_ref().map_or(1, |budget| budget.candidates.len());
        let uniform = (0..candidates).map(|candidate| plan(candidate, false));
        uniform.chain((1..candidates).map(|candidate| plan(candidate, true))).collect()
    }
}
