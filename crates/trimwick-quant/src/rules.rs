//! Which scheme governs which layer.

use globset::{GlobBuilder, GlobMatcher};
use trimwick_nn::LayerKind;

use crate::scheme::Scheme;
use crate::{Error, Result};

/// Paths of which this is the last part are projections onto a vocabulary: left alone unless named.
const HEADS: &[&str] = &["lm_head"];

/// One line of an ordered list: the last rule that matches a layer governs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// A glob over layer paths in which `*` and `?` match any characters, dots included, `[..]` a class and `{a,b}`
    /// alternatives.
    pub pattern: String,
    /// What is done to the layers it governs; `None` leaves them alone.
    pub scheme: Option<Scheme>,
}

/// Which rule governs each layer, by its index; `None` where no rule does.
///
/// Embeddings and `lm_head` are governed only by a rule that means them: one that matches nothing else, or whose
/// pattern holds the last part of their path (`lm_head`, `{*.q_proj,model.embed_tokens}`). A `*` passes them by.
///
/// Every layer is checked against its scheme here, by path, kind and the shape of its weight, before any weight is
/// read.
///
/// # Errors
/// A pattern that does not parse, matches nothing or governs nothing because of later rules; a layer that cannot take
/// its scheme.
pub fn govern<'a>(
    rules: &[Rule],
    layers: impl Iterator<Item = (&'a str, LayerKind, &'a [usize])>,
) -> Result<Vec<Option<usize>>> {
    let layers: Vec<_> = layers.collect();
    let mut governed = vec![None; layers.len()];
    let mut matched = vec![false; rules.len()];
    for (index, rule) in rules.iter().enumerate() {
        let glob = matcher(&rule.pattern)?;
        let hits: Vec<usize> = (0..layers.len()).filter(|i| glob.is_match(layers[*i].0)).collect();
        let reserved_alone = hits.iter().all(|i| reserved(layers[*i].0, layers[*i].1));
        for i in hits {
            let (path, kind, _) = layers[i];
            let last = path.rsplit('.').next().unwrap_or(path);
            if !reserved(path, kind) || reserved_alone || rule.pattern.contains(last) {
                governed[i] = Some(index);
                matched[index] = true;
            }
        }
        if !matched[index] {
            let known = known(layers.iter().map(|l| l.0));
            return Err(trimwick_nn::Error::NoMatch { pattern: rule.pattern.clone(), known }.into());
        }
    }
    for (index, rule) in rules.iter().enumerate() {
        if !governed.contains(&Some(index)) {
            let problem =
                "every layer that it matches is governed by a later rule; put it after them, or drop it";
            return Err(Error::Rule { pattern: rule.pattern.clone(), problem: problem.into() });
        }
    }
    for ((path, kind, shape), index) in layers.iter().zip(&governed) {
        if let Some(scheme) = index.and_then(|i| rules[i].scheme) {
            scheme.check(path, *kind, shape)?;
        }
    }
    Ok(governed)
}

fn reserved(path: &str, kind: LayerKind) -> bool {
    kind == LayerKind::Embedding || HEADS.contains(&path.rsplit('.').next().unwrap_or(path))
}

fn matcher(pattern: &str) -> Result<GlobMatcher> {
    match GlobBuilder::new(pattern).literal_separator(false).build() {
        Ok(glob) => Ok(glob.compile_matcher()),
        Err(e) => {
            let reason = e.kind().to_string();
            Err(trimwick_nn::Error::Pattern { pattern: pattern.into(), reason }.into())
        }
    }
}

fn known<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 4;
    let paths: Vec<&str> = paths.collect();
    match paths.len() {
        0 => "no layers".into(),
        n if n > SHOWN => format!("{}, … ({n} layers)", paths[..SHOWN].join(", ")),
        _ => paths.join(", "),
    }
}
