//! Gradients that go past candle's store: the same numbers, wherever operations of this crate and of candle meet.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use trimwick_kernels::quant::{Code, Grid, ScaleFormat};
use trimwick_nn::{
    AttentionConfig, CausalAttention, Embedding, GradientSink, Init, LayerNorm, Linear, Module, ParamStore,
    Reparam, RmsNorm, Rotary, Slot, SwiGluMlp, SwiGluMlpConfig, embedding, layer_norm, linear, ops, rms_norm,
};
use trimwick_testkit::{assert_close, assert_gradients, random, values};

struct Size {
    vocab: usize,
    head_dim: usize,
    context: usize,
}

const SMALL: Size = Size { vocab: 19, head_dim: 4, context: 9 };
/// Large enough that every loop is split over threads.
const LARGE: Size = Size { vocab: 3001, head_dim: 32, context: 200 };

/// Everything that a decoder block can be made of.
struct Model {
    embed: Embedding,
    norm: RmsNorm,
    attention: CausalAttention,
    second: LayerNorm,
    mlp: SwiGluMlp,
    extra: Linear,
    head: Linear,
}

impl Model {
    fn new(store: &ParamStore, tied: bool) -> Result<Self> {
        Self::of(&SMALL, store, tied)
    }

    fn of(size: &Size, store: &ParamStore, tied: bool) -> Result<Self> {
        let (vocab, head_dim, hidden) = (size.vocab, size.head_dim, 4 * size.head_dim);
        let vb = store.var_builder();
        let init = Init::Randn { mean: 0., stdev: 0.4 };
        let rotary = Rotary::new(head_dim, size.context, 1e4, None, vb.dtype(), vb.device())?;
        let attention = AttentionConfig {
            hidden,
            heads: 4,
            kv_heads: 2,
            head_dim,
            qkv_bias: true,
            out_bias: false,
            qk_norm_eps: Some(1e-5),
            window: Some(3),
            init,
        };
        let mlp = SwiGluMlpConfig { hidden, intermediate: 5 * head_dim, bias: false, init };
        let embed = embedding(vocab, hidden, vb.pp("embed"))?;
        Ok(Self {
            norm: rms_norm(hidden, 1e-5, vb.pp("norm"))?,
            attention: CausalAttention::new(attention, Arc::new(rotary), vb.pp("attention"))?,
            second: layer_norm(hidden, 1e-5, vb.pp("second"))?,
            mlp: SwiGluMlp::new(&mlp, vb.pp("mlp"))?,
            extra: linear(hidden, hidden, vb.pp("extra"))?,
            head: match tied {
                true => Linear::tied(&embed),
                false => linear(hidden, vocab, vb.pp("head"))?,
            },
            embed,
        })
    }

    /// A loss through operations of this crate, with some of candle's between.
    fn loss(&self, ids: &[u32]) -> Result<Tensor> {
        let targets: Vec<u32> = ids[1..].to_vec();
        let ids = Tensor::new(&ids[..ids.len() - 1], &Device::Cpu)?.unsqueeze(0)?;
        let x = self.embed.forward(&ids)?;
        let x = ops::add(&x, &self.attention.forward(&self.norm.forward(&x)?)?)?;
        let x = (&x + self.mlp.forward(&self.second.forward(&x)?)?)?;
        let x = (&x + self.extra.forward(&x.tanh()?.narrow(1, 0, x.dim(1)?)?)?)?;
        Ok(ops::head_loss(&self.head.logits(&x)?, &targets, u32::MAX, None)?.total)
    }
}

struct Masked(Arc<[u8]>, Option<f64>);

impl Reparam for Masked {
    fn apply(&self, base: &Tensor) -> Result<Tensor> {
        ops::mask(base, &self.0, self.1)
    }

    fn name(&self) -> &'static str {
        "mask"
    }
}

struct Quantized(Option<Arc<ops::Scales>>);

impl Reparam for Quantized {
    fn apply(&self, base: &Tensor) -> Result<Tensor> {
        let grid = Grid { code: Code::Int { bits: 4 }, scale: ScaleFormat::F32 };
        match &self.0 {
            None => ops::fake_quant_dynamic(base, grid, 4, None),
            Some(scales) => ops::fake_quant(base, grid, 4, scales),
        }
    }

    fn name(&self) -> &'static str {
        "fake-quant"
    }
}

fn store(dtype: DType) -> ParamStore {
    ParamStore::with_seed(dtype, &Device::Cpu, 5)
}

fn ids(shift: u32) -> Vec<u32> {
    (0..SMALL.context as u32).map(|i| (i * 7 + i * i * shift) % SMALL.vocab as u32).collect()
}

/// Masks, grids with scales of their own and with given ones, on weights and on inputs.
fn wrap(store: &ParamStore) {
    for (i, layer) in store.layers().iter().enumerate() {
        let count = layer.weight().elem_count();
        let bits: Arc<[u8]> = (0..count.div_ceil(8)).map(|b| (b * 73 + i * 5) as u8 | 2).collect();
        if i % 2 == 0 {
            layer.set(Slot::Mask, Arc::new(Masked(bits, (i % 4 == 0).then_some(0.1))));
        }
        if i % 3 != 0 {
            let scales = Arc::new(ops::Scales { scales: vec![0.1; count / 4], zeros: None });
            layer.set(Slot::FakeQuant, Arc::new(Quantized((i % 3 == 1).then_some(scales))));
        }
        layer.set_activation((i % 2 == 1).then(|| Arc::new(Quantized(None)) as Arc<dyn Reparam>));
    }
}

#[test]
fn a_sink_gets_what_the_store_gets() {
    for (tied, wrapped) in [(false, false), (true, false), (false, true), (true, true)] {
        let store = store(DType::F32);
        let model = Model::new(&store, tied).unwrap();
        if wrapped {
            wrap(&store);
        }
        let grads = model.loss(&ids(1)).unwrap().backward().unwrap();
        let mut sink = GradientSink::new(&store.trainable());
        sink.backward(&model.loss(&ids(1)).unwrap()).unwrap();
        for p in store.trainable() {
            let what = format!("{} (tied {tied}, wrapped {wrapped})", p.name());
            let (want, got) = (grads.get(&p.var()).expect(&what), sink.get(&p).expect(&what));
            assert!(sink.reached(&p) && values(want).iter().any(|v| *v != 0.), "{what}");
            // Two uses of one weight are added in another order.
            match tied && p.name() == "embed.weight" {
                true => assert_close(got, want, 1e-6, 1e-7),
                // Equal numbers; candle adds to +0.0, which −0.0 does not survive.
                false => assert_eq!(values(got), values(want), "{what}"),
            }
        }
    }
}

#[test]
fn sums_over_micro_batches_and_memory_that_is_used_again() {
    let store = store(DType::F64);
    let model = Model::new(&store, true).unwrap();
    wrap(&store.clone());
    for layer in store.layers().iter() {
        layer.clear(Slot::FakeQuant);
        layer.set_activation(None);
    }
    let params = store.trainable();
    let alone = |shift: u32| {
        let mut sink = GradientSink::new(&params);
        sink.backward(&model.loss(&ids(shift)).unwrap()).unwrap();
        params.iter().map(|p| values(sink.get(p).unwrap())).collect::<Vec<_>>()
    };
    let (one, two, three) = (alone(1), alone(2), alone(3));
    let mut sink = GradientSink::new(&params);
    for round in 0..3 {
        sink.backward(&model.loss(&ids(1)).unwrap()).unwrap();
        if round == 1 {
            // What candle has made goes with the rest.
            sink.absorb(model.loss(&ids(2)).unwrap().backward().unwrap()).unwrap();
        } else {
            sink.backward(&model.loss(&ids(2)).unwrap()).unwrap();
        }
        for (i, p) in params.iter().enumerate() {
            for (j, got) in values(sink.get(p).unwrap()).into_iter().enumerate() {
                let want = one[i][j] + two[i][j];
                assert!((got - want).abs() <= 1e-12 * want.abs().max(1.), "{} {j}: {got} {want}", p.name());
            }
        }
        sink.reset(&params);
        assert!(params.iter().all(|p| sink.get(p).is_none() && !sink.reached(p)));
    }
    // Also from candle first.
    sink.absorb(model.loss(&ids(3)).unwrap().backward().unwrap()).unwrap();
    let held: Vec<Tensor> = params.iter().map(|p| sink.get(p).unwrap().clone()).collect();
    sink.backward(&model.loss(&ids(1)).unwrap()).unwrap();
    for (i, p) in params.iter().enumerate() {
        assert_eq!(values(&held[i]), three[i], "{}: a gradient of candle's was written to", p.name());
        let got = sink.take(p).unwrap();
        for (j, got) in values(&got).into_iter().enumerate() {
            assert!((got - one[i][j] - three[i][j]).abs() < 1e-12, "{} {j}", p.name());
        }
        assert!(sink.get(p).is_none());
    }
}

#[test]
fn memory_goes_to_the_next_parameter_of_the_same_shape() {
    let store = store(DType::F32);
    let vb = store.var_builder();
    let layers = ["a", "b", "c"].map(|name| linear(5, if name == "c" { 4 } else { 5 }, vb.pp(name)).unwrap());
    let [a, b, c] = ["a", "b", "c"].map(|name| store.get(&format!("{name}.weight")).unwrap());
    let loss =
        |i: usize| layers[i].forward(&random(&[3, 5], i as u64).to_dtype(DType::F32)?)?.sqr()?.sum_all();
    for candle_first in [false, true] {
        let mut sink = GradientSink::new(&store.trainable());
        match candle_first {
            true => sink.absorb(loss(0).unwrap().backward().unwrap()).unwrap(),
            false => drop(sink.backward(&loss(0).unwrap()).unwrap()),
        }
        // What is held shares its memory with the sink.
        let held = sink.get(&a).unwrap().clone();
        let of_a = values(&held);
        sink.pass_on(&a, [&c, &b]);
        assert!(sink.get(&a).is_none());
        let again = loss(1).unwrap().backward().unwrap();
        sink.backward(&loss(2).unwrap()).unwrap();
        assert_eq!(values(&held), of_a, "c is of another shape");
        sink.backward(&loss(1).unwrap()).unwrap();
        let of_b = values(again.get(&b.var()).unwrap());
        assert_eq!(values(sink.get(&b).unwrap()), of_b);
        assert_eq!(values(&held), if candle_first { of_a } else { of_b }, "candle first: {candle_first}");
    }
}

#[test]
fn a_parameter_that_the_loss_does_not_use_is_not_reached() {
    let store = store(DType::F32);
    let model = Model::new(&store, false).unwrap();
    let mut sink = GradientSink::new(&store.trainable());
    sink.backward(&model.loss(&ids(1)).unwrap()).unwrap();
    sink.backward(
        &model.embed.forward(&Tensor::new(&[1u32], &Device::Cpu).unwrap()).unwrap().sum_all().unwrap(),
    )
    .unwrap();
    let reached: Vec<_> =
        store.trainable().iter().filter(|p| sink.reached(p)).map(|p| p.name().to_string()).collect();
    assert_eq!(reached, ["embed.weight"]);
}

#[test]
fn shared_tensors_views_and_candle_between() {
    let (x, w, b) = (random(&[3, 6], 1), random(&[4, 6], 2), random(&[4], 3));
    assert_gradients(&[x.clone(), w.clone(), b], |t| ops::linear_with_bias(&t[0], &t[1], Some(&t[2])));
    assert_gradients(&[x.clone(), random(&[3, 6], 4)], |t| ops::add(&t[0], &t[1]));
    assert_gradients(std::slice::from_ref(&x), |t| ops::add(&t[0], &t[0]));
    assert_gradients(&[x.clone(), w.clone()], |t| {
        let y = ops::linear(&t[0], &t[1])?;
        // One tensor used by both, twice by one operation, as a view, and as a view that is not contiguous.
        let a = ops::swiglu(&y, &y)?;
        let b = ops::add(&ops::reshape(&y, (2, 6))?, &y.sqr()?.reshape((2, 6))?)?.reshape((3, 4))?;
        let c = ops::linear(&y.t()?, &random(&[3, 3], 7))?.t()?;
        ops::add(&ops::add(&a, &b)?, &c.contiguous()?)? + y
    });
    assert_gradients(&[x.clone(), w], |t| {
        // A sum of sums: the gradient is handed on, and what is shared is not written to.
        let y = ops::linear(&t[0], &t[1])?;
        let s = ops::add(&y, &ops::add(&y, &ops::swiglu(&y, &y)?)?)?;
        ops::swiglu(&s, &ops::add(&s, &y)?)
    });
    // Nothing is recorded where nothing is tracked, and a detached view is cut off.
    let y = ops::linear(&x, &x).unwrap();
    assert!(!y.track_op());
    let var = Var::from_tensor(&x).unwrap();
    let y = ops::linear(var.as_tensor(), &x).unwrap();
    assert!(y.track_op() && !ops::reshape(&y.detach(), (1, 9)).unwrap().track_op());
    let (loss, unused) = (y.sum_all().unwrap(), ops::swiglu(&y, &y).unwrap());
    let again = |loss: &Tensor| values(loss.backward().unwrap().get(var.as_tensor()).unwrap());
    // A graph that is walked twice, with a branch that the loss does not have.
    assert_eq!(again(&loss), again(&loss));
    drop(unused);
}

#[test]
fn two_threads_go_through_one_graph() {
    let store = store(DType::F64);
    let model = Model::new(&store, true).unwrap();
    let loss = model.loss(&ids(1)).unwrap();
    let want: Vec<_> = {
        let grads = loss.backward().unwrap();
        store.trainable().iter().map(|p| values(grads.get(&p.var()).unwrap())).collect()
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let grads = loss.backward().unwrap();
                    for (p, want) in store.trainable().iter().zip(&want) {
                        assert_eq!(&values(grads.get(&p.var()).unwrap()), want, "{}", p.name());
                    }
                }
            });
        }
    });
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    for wrapped in [false, true] {
        let store = store(DType::F32);
        let model = Model::of(&LARGE, &store, true).unwrap();
        if wrapped {
            wrap(&store);
        }
        let ids: Vec<u32> = (0..LARGE.context as u32).map(|i| i * i % LARGE.vocab as u32).collect();
        let run = || {
            let mut sink = GradientSink::new(&store.trainable());
            for _ in 0..2 {
                sink.backward(&model.loss(&ids).unwrap()).unwrap();
            }
            let bits = |p| sink.get(p).unwrap().flatten_all()?.to_vec1::<f32>();
            let bits = |p| bits(p).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            store.trainable().iter().map(bits).collect::<Vec<_>>()
        };
        let in_pool = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(run)
        };
        let want = in_pool(1);
        for threads in [2, 4, 8] {
            assert!(in_pool(threads) == want, "{threads} threads, wrapped {wrapped}");
        }
    }
}
