//! Training block after block: errors fall, masks and grids hold, and nothing but the settings decides the bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor};
use trimwick_models::source::{ModelSource, OpenOptions, open};
use trimwick_models::{Llama, LlamaConfig, StreamedLlama};
use trimwick_nn::{CausalLm, LoadedBlock, ParamStore, StreamedLm, TensorSource};
use trimwick_quant::{self as quant, LEARNED_SCALES, Options, ScalePolicy, Scheme};
use trimwick_sparse::{self as sparse, Magnitude, Method, Pattern, Propagate, SparseGpt, Wanda};
use trimwick_train::blockwise::{
    BlockEvent, BlockInputs, BlockReport, BlockSteps, BlockTraining, Blockwise, Parts, Spill, Streams,
    evaluate_streamed,
};
use trimwick_train::{AdamWConfig, Error, EvaluateOptions, ParamGroup, Warmup, Windows, evaluate};

const CONTEXT: usize = 24;

/// The weights of a store.
struct Weights(ParamStore);

impl TensorSource for Weights {
    fn origin(&self) -> String {
        "memory".into()
    }

    fn names(&self) -> Vec<String> {
        self.0.params().iter().map(|p| p.name().to_string()).collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|p| p.shape().dims().to_vec())
    }

    fn load(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.0.get(name).map(|p| p.var().copy()).expect("a known name")
    }
}

/// A model in pieces, and where its weights are.
struct Model {
    config: LlamaConfig,
    weights: Arc<dyn TensorSource>,
    streamed: StreamedLlama,
}

impl Model {
    fn of(config: LlamaConfig, weights: Arc<dyn TensorSource>) -> Self {
        let streamed = StreamedLlama::new(&config, None, weights.clone(), &Device::Cpu).unwrap();
        Self { config, weights, streamed }
    }

    /// Three small blocks of random weights.
    fn random() -> Self {
        let config = r#"{"model_type": "llama", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64, "initializer_range": 0.3, "tie_word_embeddings": false}"#;
        let config = LlamaConfig::from_hf_json(config, "test").unwrap();
        let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 11);
        Llama::new(&config, None, store.var_builder()).unwrap();
        Self::of(config, Arc::new(Weights(store)))
    }

    fn builtin() -> Self {
        let source = ModelSource::Builtin("tiny-llama".into());
        let files = open(&source, &OpenOptions::default()).unwrap();
        Self::of(files.config, files.weights)
    }

    fn whole(&self) -> (ParamStore, Llama) {
        let store = ParamStore::from_source(self.weights.clone(), DType::F32, &Device::Cpu, 0);
        let model = Llama::new(&self.config, None, store.var_builder()).unwrap();
        (store, model)
    }

    fn windows(&self, count: usize) -> Vec<Tensor> {
        let ids = |w: usize| (0..CONTEXT).map(move |i| ((w * 131 + i * i * 7 + i * 29) % 96) as u32);
        let window = |w| Tensor::from_vec(ids(w).collect::<Vec<_>>(), (1, CONTEXT), &Device::Cpu).unwrap();
        (0..count).map(window).collect()
    }
}

/// What a block's parameters and buffers were when it was kept.
type Kept = BTreeMap<String, Tensor>;

/// Prunes 2:4, quantizes where there is a scheme, and keeps blocks in memory.
struct Steps<'a> {
    model: &'a Model,
    method: Option<&'a dyn Method>,
    scheme: Option<Scheme>,
    calibration: usize,
    kept: Vec<(Kept, BlockReport)>,
    /// Blocks after which to fail.
    fail_after: Option<usize>,
}

impl<'a> Steps<'a> {
    fn new(model: &'a Model, method: Option<&'a dyn Method>) -> Self {
        Self { model, method, scheme: None, calibration: 4, kept: vec![], fail_after: None }
    }

    fn options() -> Options {
        Options { scales: ScalePolicy::Learned, ..Options::default() }
    }

    fn values(&self) -> Vec<BTreeMap<String, Vec<u64>>> {
        let bits = |t: &Tensor| {
            let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
            t.to_vec1::<f64>().unwrap().into_iter().map(f64::to_bits).collect::<Vec<_>>()
        };
        self.kept.iter().map(|(kept, _)| kept.iter().map(|(n, t)| (n.clone(), bits(t))).collect()).collect()
    }

    fn errors(&self) -> Vec<(f64, f64)> {
        self.kept.iter().map(|(_, report)| (report.error_before, report.error_after)).collect()
    }
}

impl BlockSteps for Steps<'_> {
    type Error = Error;

    fn finished(&mut self, index: usize) -> Result<Option<BlockReport>, Error> {
        Ok(self.kept.get(index).map(|(_, report)| report.clone()))
    }

    fn load(&mut self, index: usize) -> Result<LoadedBlock, Error> {
        let block = self.model.streamed.load_block(index)?;
        let layers = block.layers();
        if let Some(scheme) = &self.scheme {
            quant::attach_with(&layers, scheme, &Self::options()).unwrap();
        }
        for (name, value) in &self.kept[index].0 {
            match block.store.get(name) {
                Some(param) => param.set(value)?,
                None => drop(block.store.set_buffer(name, value)?),
            }
        }
        sparse::restore(&layers, None).unwrap();
        quant::restore(&layers).unwrap();
        Ok(block)
    }

    fn compress(&mut self, dense: LoadedBlock, streams: &Streams<'_>) -> Result<Option<LoadedBlock>, Error> {
        let layers = dense.layers();
        if let Some(method) = self.method {
            let forward = || {
                let states = if method.name() == "wanda" { streams.dense } else { streams.compressed };
                (0..self.calibration).try_for_each(|i| {
                    let x = states.get(i).map_err(candle_core::Error::wrap)?;
                    dense.block.forward(&x).map(drop)
                })
            };
            sparse::prune_with(&layers, Pattern::TWO_FOUR, method, forward).unwrap();
        }
        if let Some(scheme) = &self.scheme {
            quant::attach_with(&layers, scheme, &Self::options()).unwrap();
            quant::calibrate(&layers, || Ok(())).unwrap();
        }
        Ok(Some(dense))
    }

    fn before_step(&mut self, block: &LoadedBlock, _: u64) -> Result<(), Error> {
        quant::refresh(&block.layers()).unwrap();
        Ok(())
    }

    fn keep(&mut self, index: usize, block: &LoadedBlock, report: &BlockReport) -> Result<(), Error> {
        assert_eq!(index, self.kept.len());
        if self.method.is_some() {
            assert_eq!(sparse::violations(&block.layers(), Pattern::TWO_FOUR).unwrap(), 0);
        }
        if self.scheme.is_some() {
            assert_eq!(quant::off_grid(&block.layers()).unwrap(), 0);
        }
        let values = block.params().into_iter().map(|p| (p.name().to_string(), p.var().copy().unwrap()));
        self.kept.push((values.collect(), report.clone()));
        match self.fail_after == Some(self.kept.len()) {
            true => Err(Error::AllFrozen),
            false => Ok(()),
        }
    }
}

fn training() -> BlockTraining {
    BlockTraining {
        windows: 6,
        epochs: 4,
        batch: 2,
        lr: 4e-3,
        warmup: Warmup::Fraction(0.1),
        clip: Some(1.),
        parts: Parts::Block,
        inputs: BlockInputs::Compressed,
        seed: 5,
        optimizer: AdamWConfig::default(),
        groups: vec![],
    }
}

fn walk(
    steps: &mut Steps<'_>,
    training: Option<&BlockTraining>,
    spill: Spill,
) -> Result<Option<usize>, Error> {
    let (model, stop) = (steps.model, AtomicBool::new(false));
    let windows = model.windows(6);
    let walk = Blockwise { dense: &model.streamed, windows: &windows, training, spill, stop: &stop };
    Ok(walk.run(steps, &mut |_| {})?.map(|reports| reports.len()))
}

#[test]
fn training_brings_each_block_closer_to_its_twin() {
    let model = Model::random();
    let learned = ParamGroup { pattern: LEARNED_SCALES.into(), lr_scale: 0.1, weight_decay: Some(0.) };
    let sparse_gpt = SparseGpt::default();
    let table: [(&str, Option<&dyn Method>, Option<Scheme>); 4] = [
        ("magnitude", Some(&Magnitude), None),
        ("sparsegpt", Some(&sparse_gpt), None),
        ("int4", None, Some(Scheme::preset("int4-g32").unwrap())),
        ("both", Some(&Magnitude), Some(Scheme::int8())),
    ];
    for (what, method, scheme) in table {
        for parts in [Parts::Block, Parts::Split] {
            for inputs in [BlockInputs::Compressed, BlockInputs::Dense] {
                let groups = if scheme.is_some() { vec![learned.clone()] } else { vec![] };
                let training = BlockTraining { parts, inputs, groups, ..training() };
                let mut steps = Steps { scheme, ..Steps::new(&model, method) };
                assert_eq!(walk(&mut steps, Some(&training), Spill::memory()).unwrap(), Some(3));
                for (i, (before, after)) in steps.errors().into_iter().enumerate() {
                    let case = format!("{what} {parts:?} {inputs:?} block {i}: {before} to {after}");
                    // Trained on other inputs than it is measured on, a later block may well lose.
                    let own = inputs == BlockInputs::Compressed || i == 0;
                    assert!(after > 0. && (!own || after < 0.95 * before), "{case}");
                }
            }
        }
    }
}

#[test]
fn blocks_on_compressed_inputs_end_closer_than_on_dense_ones() {
    let model = Model::random();
    let last = |inputs| {
        let training = BlockTraining { inputs, ..training() };
        let mut steps = Steps::new(&model, Some(&Magnitude));
        walk(&mut steps, Some(&training), Spill::memory()).unwrap();
        steps.errors()[2].1
    };
    let (compressed, dense) = (last(BlockInputs::Compressed), last(BlockInputs::Dense));
    assert!(compressed < dense, "{compressed} against {dense}");
}

/// The bits of what was kept of each block, and its errors.
type End = (Vec<BTreeMap<String, Vec<u64>>>, Vec<(f64, f64)>);

/// A walk, split and quantized, through `spill`.
fn reference(model: &Model, spill: Spill, fail_after: Option<usize>) -> End {
    let training = BlockTraining { parts: Parts::Split, ..training() };
    let mut steps = Steps { scheme: Some(Scheme::int8()), fail_after, ..Steps::new(model, Some(&Magnitude)) };
    if fail_after.is_some() {
        assert!(matches!(walk(&mut steps, Some(&training), spill.clone()), Err(Error::AllFrozen)));
        steps.fail_after = None;
    }
    assert_eq!(walk(&mut steps, Some(&training), spill.clone()).unwrap(), Some(3));
    assert_eq!(walk(&mut steps, Some(&training), spill).unwrap(), Some(3), "nothing is left to do");
    (steps.values(), steps.errors())
}

#[test]
fn neither_cuts_nor_files_nor_threads_change_a_bit() {
    let want = reference(&Model::random(), Spill::memory(), None);
    for after in 1..=3 {
        assert!(reference(&Model::random(), Spill::memory(), Some(after)) == want, "cut after block {after}");
    }
    let dir = tempfile::tempdir().unwrap();
    let left = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
    for limit in [0, 20_000] {
        let spill = Spill::new(dir.path(), limit).unwrap();
        assert!(reference(&Model::random(), spill.clone(), Some(2)) == want, "limit {limit}");
        assert!(spill.files() > 5, "{}", spill.files());
        assert_eq!((spill.held(), left(dir.path())), (0, 0));
    }
    for threads in [1, 2, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let got = pool.install(|| reference(&Model::random(), Spill::memory(), None));
        assert!(got == want, "{threads} threads");
    }
}

#[test]
fn a_stop_at_any_step_keeps_the_blocks_before() {
    let model = Model::random();
    let mut whole = Steps::new(&model, Some(&Wanda));
    walk(&mut whole, Some(&training()), Spill::memory()).unwrap();
    for at in [1, 12, 13, 30] {
        let (stop, mut seen) = (AtomicBool::new(false), 0);
        let (windows, training) = (model.windows(6), training());
        let dense = &model.streamed;
        let walk_on = |stop| Blockwise {
            dense,
            windows: &windows,
            training: Some(&training),
            spill: Spill::memory(),
            stop,
        };
        let mut steps = Steps::new(&model, Some(&Wanda));
        let mut report = |event: BlockEvent<'_>| {
            if let BlockEvent::Step { step, steps, .. } = event {
                assert_eq!(steps, 12);
                assert!(step <= 12);
                seen += 1;
                stop.store(seen == at, Ordering::Relaxed);
            }
        };
        assert!(walk_on(&stop).run(&mut steps, &mut report).unwrap().is_none());
        assert_eq!((seen, steps.kept.len()), (at, (at - 1) / 12), "stopped at step {at}");
        let go = AtomicBool::new(false);
        walk_on(&go).run(&mut steps, &mut |_| {}).unwrap().unwrap();
        assert!(steps.values() == whole.values(), "stopped at step {at}");
    }
}

#[test]
fn pruning_in_pieces_is_pruning_the_whole() {
    let model = Model::random();
    let table: [(&dyn Method, Propagate); 3] = [
        (&Magnitude, Propagate::Dense),
        (&Wanda, Propagate::Dense),
        (&SparseGpt::default(), Propagate::Pruned),
    ];
    for (method, propagate) in table {
        let mut steps = Steps::new(&model, Some(method));
        walk(&mut steps, None, Spill::memory()).unwrap();
        assert!(steps.errors().iter().all(|(before, after)| before == after && *after > 0.));
        let (store, whole) = model.whole();
        let layers = store.layers().select("model.layers.*").unwrap();
        let windows = model.windows(steps.calibration);
        let silent = &mut |_, _| {};
        sparse::prune_model(&whole, &layers, Pattern::TWO_FOUR, method, &windows, propagate, silent).unwrap();
        for (kept, _) in &steps.kept {
            for (name, value) in kept {
                let other = store.get(name).unwrap().var();
                let bytes = |t: &Tensor| {
                    t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
                };
                assert_eq!(bytes(value), bytes(&other), "{} {name}", method.name());
            }
        }
    }
}

#[test]
fn the_built_in_model_recovers_without_being_in_memory() {
    let model = Model::builtin();
    let ids: Vec<u32> = (0..CONTEXT as u32 * 40 + 3).map(|i| (i * i * 31 + i * 17 + 5) % 4096).collect();
    let held_out = Windows::new(ids, CONTEXT).unwrap().limit(CONTEXT * 4);
    // Both ways of scoring, of the dense model.
    let (store, whole) = model.whole();
    let silent = &mut |_: usize, _: usize, _: f64| {};
    let score = |model: &dyn CausalLm| {
        evaluate(model, &Device::Cpu, &held_out, EvaluateOptions::default(), &mut |_, _, _| {}).unwrap()
    };
    let dense = evaluate(&whole, &Device::Cpu, &held_out, EvaluateOptions::default(), silent).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for limit in [0, 1 << 30] {
        let spill = Spill::new(dir.path(), limit).unwrap();
        let mut parts = vec![];
        let streamed = evaluate_streamed(
            &model.streamed,
            &Device::Cpu,
            &held_out,
            &spill,
            &mut |done, total| parts.push((done, total)),
            &|| false,
        );
        assert_eq!(streamed.unwrap().unwrap(), dense);
        assert_eq!(parts, (0..=6).map(|i| (i, 6)).collect::<Vec<_>>());
    }
    let stopped = evaluate_streamed(
        &model.streamed,
        &Device::Cpu,
        &held_out,
        &Spill::memory(),
        &mut |_, _| {},
        &|| true,
    );
    assert!(stopped.unwrap().is_none());

    // Pruned, and pruned and trained: the kept blocks in the whole model.
    let put = |steps: &Steps<'_>| {
        for (kept, _) in &steps.kept {
            for (name, value) in kept.iter().filter(|(name, _)| !name.ends_with("mask")) {
                store.get(name).unwrap().set(value).unwrap();
            }
        }
        score(&whole).loss
    };
    let mut pruned = Steps::new(&model, Some(&Magnitude));
    walk(&mut pruned, None, Spill::memory()).unwrap();
    let mut trained = Steps::new(&model, Some(&Magnitude));
    let training = BlockTraining { lr: 1e-3, ..training() };
    walk(&mut trained, Some(&training), Spill::memory()).unwrap();
    let (pruned, trained) = (put(&pruned), put(&trained));
    assert!(dense.loss < trained && trained < pruned, "{} {trained} {pruned}", dense.loss);
}

#[test]
fn what_is_not_finite_ends_the_walk_with_the_block_s_name() {
    let model = Model::random();
    let training = BlockTraining { lr: 1e30, clip: None, ..training() };
    let mut steps = Steps::new(&model, Some(&Magnitude));
    let message = walk(&mut steps, Some(&training), Spill::memory()).unwrap_err().to_string();
    assert!(message.contains("model.layers.0") && !message.contains('\n'), "{message}");
    assert!(steps.kept.is_empty());
}
