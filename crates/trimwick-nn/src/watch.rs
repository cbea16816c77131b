//! Watching what layers are given while a model runs on calibration data.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Result as CandleResult, Tensor};

use crate::layer::{Capture, CaptureGuard, Layer};
use crate::ops;

/// What is summed up over the inputs of a layer.
pub trait InputSums: Clone + Send + 'static {
    /// The next input, as rows `[tokens, cols]`.
    fn see(&mut self, rows: &[f32], cols: usize);
}

/// Sums over the inputs of layers. Those that are given the very same tensor every time, as q, k and v are, share one sum:
/// it is computed once and kept once.
///
/// What a layer was given is summed up when its next input comes, or at the end.
pub struct InputWatch<S: InputSums> {
    layers: Vec<(Layer, CaptureGuard)>,
    state: Arc<Mutex<State<S>>>,
}

struct State<S> {
    /// Every layer is in one set, by its position.
    sets: Vec<Set<S>>,
    /// What each layer was given since the last time that inputs were summed up.
    given: Vec<Option<Tensor>>,
    cols: Vec<usize>,
}

/// Layers that were given the same inputs so far, and the sum over these.
struct Set<S> {
    members: Vec<usize>,
    sums: S,
}

struct Collector<S> {
    position: usize,
    state: Arc<Mutex<State<S>>>,
}

impl<S: InputSums> InputWatch<S> {
    /// Watches linear layers, starting from `sums`.
    pub fn start<'a>(layers: impl Iterator<Item = &'a Layer>, sums: S) -> Self {
        let layers: Vec<Layer> = layers.cloned().collect();
        let state = State {
            sets: vec![Set { members: (0..layers.len()).collect(), sums }],
            given: vec![None; layers.len()],
            cols: layers.iter().map(|layer| layer.weight().shape().dims()[1]).collect(),
        };
        let state = Arc::new(Mutex::new(state));
        let hook = |(position, layer): (usize, Layer)| {
            let guard = layer.capture(Arc::new(Collector { position, state: state.clone() }));
            (layer, guard)
        };
        Self { layers: layers.into_iter().enumerate().map(hook).collect(), state }
    }

    /// Unhooks the layers and gives what `done` makes of each sum, called with a layer that it belongs to, in the order of the
    /// layers.
    ///
    /// # Errors
    /// What `done` reports; tensor operations.
    pub fn finish<T, E: From<candle_core::Error>>(
        self,
        mut done: impl FnMut(&Layer, S) -> Result<T, E>,
    ) -> Result<Vec<(Layer, Arc<T>)>, E> {
        let layers: Vec<Layer> = self.layers.into_iter().map(|(layer, _)| layer).collect();
        let sets = {
            let mut state = lock(&self.state);
            state.sum_up()?;
            std::mem::take(&mut state.sets)
        };
        let mut found: Vec<Option<Arc<T>>> = vec![None; layers.len()];
        for Set { members, sums } in sets {
            let Some(&first) = members.first() else { continue };
            let made = Arc::new(done(&layers[first], sums)?);
            members.into_iter().for_each(|position| found[position] = Some(made.clone()));
        }
        Ok(layers.into_iter().zip(found).filter_map(|(layer, made)| Some((layer, made?))).collect())
    }
}

impl<S: InputSums> State<S> {
    /// Adds what was given to the sums. A set whose members were not all given the same is split.
    fn sum_up(&mut self) -> CandleResult<()> {
        let none = vec![None; self.given.len()];
        let given = std::mem::replace(&mut self.given, none);
        for Set { members, sums } in std::mem::take(&mut self.sets) {
            let mut parts: Vec<(Option<&Tensor>, Vec<usize>)> = Vec::new();
            for position in members {
                let x = given[position].as_ref();
                let mut known = None;
                for (i, (of, _)) in parts.iter().enumerate() {
                    if same(*of, x)? {
                        known = Some(i);
                        break;
                    }
                }
                match known {
                    Some(i) => parts[i].1.push(position),
                    None => parts.push((x, vec![position])),
                }
            }
            // Only a set that is split needs copies: sums of a wide layer are hundreds of megabytes.
            let mut copies = std::iter::repeat_n(sums, parts.len());
            for (x, members) in parts {
                let Some(mut sums) = copies.next() else { break };
                if let Some(x) = x {
                    let cols = self.cols[members[0]];
                    ops::with_slices::<f32, _, 1>([x], |[x]| {
                        sums.see(x, cols);
                        Ok(())
                    })?;
                }
                self.sets.push(Set { members, sums });
            }
        }
        Ok(())
    }
}

/// Whether two tensors are one piece of memory: both are alive, so that no place is used twice.
fn same(a: Option<&Tensor>, b: Option<&Tensor>) -> CandleResult<bool> {
    match (a, b) {
        (None, None) => Ok(true),
        (Some(a), Some(b)) => {
            ops::with_slices::<f32, _, 2>([a, b], |[a, b]| Ok(a.as_ptr() == b.as_ptr() && a.len() == b.len()))
        }
        _ => Ok(false),
    }
}

impl<S: InputSums> Capture for Collector<S> {
    fn input(&self, _: &Layer, x: &Tensor) -> CandleResult<()> {
        let mut state = lock(&self.state);
        if state.given[self.position].is_some() {
            state.sum_up()?;
        }
        state.given[self.position] = Some(x.clone());
        Ok(())
    }
}

fn lock<S>(state: &Mutex<State<S>>) -> MutexGuard<'_, State<S>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use trimwick_kernels::Rng;

    use super::*;
    use crate::{Layers, Linear, Module, ParamStore, linear_no_bias};

    /// Keeps every row, and counts how often it was called.
    #[derive(Clone, Default)]
    struct All {
        rows: Vec<f32>,
        calls: usize,
    }

    impl InputSums for All {
        fn see(&mut self, rows: &[f32], _: usize) {
            self.rows.extend_from_slice(rows);
            self.calls += 1;
        }
    }

    fn model() -> (ParamStore, Vec<Linear>) {
        let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 7);
        let vb = store.var_builder();
        let layers = ["q", "k", "v"].iter().map(|name| linear_no_bias(2, 2, vb.pp(name)).unwrap()).collect();
        (store, layers)
    }

    fn watched(layers: Layers, run: impl FnOnce()) -> Vec<Arc<All>> {
        let watch = InputWatch::start(layers.iter(), All::default());
        run();
        let found = watch.finish(|_, sums| Ok::<_, candle_core::Error>(sums)).unwrap();
        found.into_iter().map(|(_, sums)| sums).collect()
    }

    fn input(seed: u64) -> Tensor {
        let mut values = vec![0f32; 6];
        Rng::new(seed, "watch", 0, "x").fill_normal(0., 1., &mut values);
        Tensor::from_vec(values, (3, 2), &Device::Cpu).unwrap()
    }

    #[test]
    fn layers_that_see_the_same_tensor_share_one_sum() {
        let (store, layers) = model();
        let found = watched(store.layers(), || {
            for seed in 0..3 {
                let x = input(seed);
                layers.iter().for_each(|layer| drop(layer.forward(&x).unwrap()));
            }
        });
        assert!(found.iter().all(|sums| Arc::ptr_eq(sums, &found[0])));
        assert_eq!((found[0].calls, found[0].rows.len()), (3, 18));
    }

    /// Equal values in two places are two inputs, and a set that parts stays apart with what it had seen.
    #[test]
    fn every_layer_keeps_what_it_was_given() {
        let (store, layers) = model();
        let mut expected = vec![Vec::new(); 3];
        let found = watched(store.layers(), || {
            for round in 0..6u64 {
                let (a, b) = (input(round), input(round));
                for (i, layer) in layers.iter().enumerate() {
                    // v is left out once, called twice once, and reads another tensor from the fourth round on.
                    let times = if i == 2 { [1, 0, 2, 1, 1, 1][round as usize] } else { 1 };
                    for _ in 0..times {
                        let x = if i == 2 && round > 2 { &b } else { &a };
                        layer.forward(x).unwrap();
                        expected[i].extend(x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                    }
                }
            }
        });
        assert!(Arc::ptr_eq(&found[0], &found[1]) && !Arc::ptr_eq(&found[0], &found[2]));
        for (sums, expected) in found.iter().zip(&expected) {
            assert_eq!(&sums.rows, expected);
        }
    }

    #[test]
    fn a_layer_that_saw_nothing_has_empty_sums() {
        let (store, layers) = model();
        let found = watched(store.layers(), || drop(layers[0].forward(&input(1)).unwrap()));
        assert_eq!((found[0].calls, found[1].calls, found[2].calls), (1, 0, 0));
    }
}
