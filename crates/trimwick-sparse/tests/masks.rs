//! The life of a mask: set, enforced, saved, restored, scheduled, lifted; and what is refused.

use candle_core::{DType, Device, Tensor};
use trimwick_nn::{Conv2dConfig, Linear, Module, ParamStore, Slot, conv2d, linear_no_bias};
use trimwick_sparse::{
    Magnitude, MaskSchedule, Pattern, Plan, SparseGpt, Wanda, bits, count, lift, prune, prune_with, restore,
    violations,
};
use trimwick_testkit::{assert_bits_equal, random, values};

fn model(inputs: usize, out: usize) -> (ParamStore, Linear) {
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 3);
    let fc = linear_no_bias(inputs, out, store.var_builder().pp("fc")).unwrap();
    (store, fc)
}

fn input(rows: usize, cols: usize) -> Tensor {
    random(&[rows, cols], 5).to_dtype(DType::F32).unwrap()
}

#[test]
fn a_fixed_mask_holds_in_forward_gradient_and_storage() {
    let (store, fc) = model(16, 8);
    prune(&store.layers().select("fc*").unwrap(), Pattern::TWO_FOUR, &Magnitude).unwrap();
    assert_eq!(violations(&store.layers(), Pattern::TWO_FOUR).unwrap(), 0);
    // Weights that wander from zero behind the mask's back do not reach the output.
    let clean = fc.forward(&input(4, 16)).unwrap();
    let dirty = (fc.layer().weight().tensor().detach() + 1.).unwrap();
    let mask = bits(fc.layer()).unwrap().unwrap();
    let keep: Vec<f32> = (0..128).map(|i| f32::from(mask[i / 8] >> (i % 8) & 1)).collect();
    let keep = Tensor::from_vec(keep, (8, 16), &Device::Cpu).unwrap();
    fc.layer().weight().set(&(&dirty - &keep).unwrap()).unwrap();
    let diff = (fc.forward(&input(4, 16)).unwrap() - clean).unwrap();
    assert!(values(&diff).iter().all(|d| d.abs() < 1e-5));
    let loss = fc.forward(&input(4, 16)).unwrap().sqr().unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let g = values(grads.get(fc.layer().weight().var().as_tensor()).unwrap());
    for (g, keep) in g.iter().zip(values(&keep)) {
        assert_eq!(*g != 0., keep == 1., "the gradient is zero exactly where the mask drops");
    }
    assert_eq!(fc.layer().weight().keep().unwrap().as_ref(), mask.as_slice());
    let total = count(&store.layers()).unwrap();
    assert_eq!((total.weights, total.dropped), (128, 64));
    lift(fc.layer()).unwrap();
    assert!(fc.layer().weight().keep().is_none() && fc.layer().chain().get(Slot::Mask).is_none());
}

#[test]
fn a_restored_mask_comes_from_its_bitset_and_not_from_zeros() {
    let (store, fc) = model(16, 8);
    prune(&store.layers(), Pattern::TWO_FOUR, &Magnitude).unwrap();
    let saved = bits(fc.layer()).unwrap().unwrap();
    // A kept weight becomes zero in training: it is still kept.
    fc.layer().weight().set(&Tensor::zeros((8, 16), DType::F32, &Device::Cpu).unwrap()).unwrap();
    fc.layer().clear(Slot::Mask);
    assert_eq!(restore(&store.layers(), None).unwrap(), 1);
    assert_eq!(bits(fc.layer()).unwrap().unwrap(), saved);
    assert_eq!(fc.layer().weight().keep().unwrap().as_ref(), saved.as_slice());
}

#[test]
fn convolution_groups_run_along_input_channels() {
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 3);
    let conv = conv2d(8, 4, 3, Conv2dConfig::default(), store.var_builder().pp("conv")).unwrap();
    prune(&store.layers(), Pattern::TWO_FOUR, &Magnitude).unwrap();
    let w = conv.layer().weight().tensor();
    for kh in 0..3 {
        for kw in 0..3 {
            let plane = w.narrow(2, kh, 1).unwrap().narrow(3, kw, 1).unwrap();
            for group in values(&plane).chunks(4) {
                assert_eq!(group.iter().filter(|v| **v == 0.).count(), 2);
            }
        }
    }
    assert_eq!(violations(&store.layers(), Pattern::TWO_FOUR).unwrap(), 0);
}

#[test]
fn what_cannot_be_pruned_is_refused_by_name_before_anything_changes() {
    let store = ParamStore::with_seed(DType::F32, &Device::Cpu, 3);
    let vb = store.var_builder();
    let good = linear_no_bias(16, 4, vb.pp("good")).unwrap();
    linear_no_bias(6, 4, vb.pp("odd")).unwrap();
    let before = good.layer().weight().tensor().copy().unwrap();
    let e = prune(&store.layers(), Pattern::TWO_FOUR, &Magnitude).unwrap_err().to_string();
    assert!(e.contains("odd") && e.contains("6 % 4"), "{e}");
    assert_bits_equal(&good.layer().weight().tensor(), &before);
    let (store, fc) = model(8, 4);
    let e = prune(&store.layers(), Pattern::TWO_FOUR, &Wanda).unwrap_err().to_string();
    assert!(e.contains("fc") && e.contains("wanda"), "{e}");
    let e = prune_with(&store.layers(), Pattern::TWO_FOUR, &Wanda, || Ok(())).unwrap_err().to_string();
    assert!(e.contains("fc"), "{e}");
    let broken = Tensor::full(f32::NAN, (2, 8), &Device::Cpu).unwrap();
    let e = prune_with(&store.layers(), Pattern::TWO_FOUR, &SparseGpt::default(), || {
        fc.forward(&broken).map(drop)
    });
    assert!(e.unwrap_err().to_string().contains("fc"));
    fc.layer().weight().set(&Tensor::full(f32::NAN, (4, 8), &Device::Cpu).unwrap()).unwrap();
    assert!(prune(&store.layers(), Pattern::TWO_FOUR, &Magnitude).unwrap_err().to_string().contains("NaN"));
}

#[test]
fn a_dead_input_costs_nothing_and_a_dead_layer_is_not_a_crash() {
    let (store, fc) = model(16, 8);
    let mut x = vec![0f32; 40 * 16];
    x.iter_mut().enumerate().filter(|(i, _)| i % 16 != 3).for_each(|(i, v)| *v = ((i * 37) % 11) as f32 - 5.);
    let x = Tensor::from_vec(x, (40, 16), &Device::Cpu).unwrap();
    prune_with(&store.layers(), Pattern::TWO_FOUR, &SparseGpt::default(), || fc.forward(&x).map(drop))
        .unwrap();
    assert!(values(&fc.layer().weight().tensor()).iter().all(|v| v.is_finite()));
    let (store, fc) = model(16, 8);
    let zeros = Tensor::zeros((4, 16), DType::F32, &Device::Cpu).unwrap();
    prune_with(&store.layers(), Pattern::TWO_FOUR, &SparseGpt::default(), || fc.forward(&zeros).map(drop))
        .unwrap();
    assert_eq!(violations(&store.layers(), Pattern::TWO_FOUR).unwrap(), 0);
}

#[test]
fn sparsegpt_beats_magnitude_on_the_layer_output() {
    let x = input(200, 64);
    // Correlated inputs: where the update has something to work with.
    let mixed = x.matmul(&random(&[64, 64], 9).to_dtype(DType::F32).unwrap()).unwrap();
    let error = |gpt: bool| {
        let (store, fc) = model(64, 32);
        let before = fc.forward(&mixed).unwrap();
        let forward = || fc.forward(&mixed).map(drop);
        let reports = match gpt {
            true => prune_with(&store.layers(), Pattern::TWO_FOUR, &SparseGpt::default(), forward).unwrap(),
            false => prune(&store.layers(), Pattern::TWO_FOUR, &Magnitude).unwrap(),
        };
        assert_eq!(reports.len(), 1);
        values(&(fc.forward(&mixed).unwrap() - before).unwrap().sqr().unwrap().sum_all().unwrap())[0]
    };
    let (gpt, magnitude) = (error(true), error(false));
    assert!(gpt < 0.6 * magnitude, "{gpt} against {magnitude}");
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (store, fc) = model(64, 32);
            let x = input(100, 64);
            prune_with(&store.layers(), Pattern::TWO_FOUR, &SparseGpt::default(), || {
                fc.forward(&x).map(drop)
            })
            .unwrap();
            fc.layer().weight().tensor().copy().unwrap()
        })
    };
    let one = run(1);
    for threads in [2, 4] {
        assert_bits_equal(&run(threads), &one);
    }
}

#[test]
fn a_refreshed_mask_follows_the_weights_and_is_fixed_at_the_end() {
    let (store, fc) = model(8, 4);
    let plan = Plan::Refreshed { every: 2, end: 4, decay: 0.1 };
    let mut schedule = MaskSchedule::new(store.layers(), Pattern::TWO_FOUR, plan).unwrap();
    assert!(schedule.before_step(0).unwrap());
    assert!(fc.layer().weight().keep().is_none(), "dropped weights go on learning");
    assert_eq!(violations(&store.layers(), Pattern::TWO_FOUR).unwrap(), 0, "the forward pass is sparse");
    // The dropped half grows and takes over.
    let first = bits(fc.layer()).unwrap().unwrap();
    let w = fc.layer().weight().tensor().detach();
    let effective = fc.layer().effective_weight().unwrap().detach();
    let swapped = ((&w - &effective).unwrap() * 100.).unwrap();
    fc.layer().weight().set(&swapped).unwrap();
    assert!(!schedule.before_step(1).unwrap());
    assert!(schedule.before_step(2).unwrap());
    let second = bits(fc.layer()).unwrap().unwrap();
    assert!(first.iter().zip(&second).all(|(a, b)| a ^ b == 0xff));
    assert_eq!(schedule.flips(), 32);
    assert!(schedule.before_step(4).unwrap());
    assert!(fc.layer().weight().keep().is_some());
    assert!(!schedule.before_step(5).unwrap());
}

#[test]
fn a_gradual_schedule_resumed_at_any_step_ends_with_the_same_masks() {
    let end = 6;
    let plan = Plan::Gradual { every: 1, end };
    let run = |stop: Option<u64>| {
        let (store, fc) = model(16, 4);
        let mut schedule = MaskSchedule::new(store.layers(), Pattern::TWO_FOUR, plan).unwrap();
        for step in 0..=end {
            if stop == Some(step) {
                schedule = MaskSchedule::new(store.layers(), Pattern::TWO_FOUR, plan).unwrap();
                fc.layer().clear(Slot::Mask);
                schedule.resume(step).unwrap();
            }
            schedule.before_step(step).unwrap();
            let moved = (fc.layer().weight().tensor().detach() * 1.1).unwrap();
            fc.layer().weight().set(&moved).unwrap();
        }
        (bits(fc.layer()).unwrap().unwrap(), fc.layer().effective_weight().unwrap().detach())
    };
    let (mask, w) = run(None);
    for stop in 1..=end {
        let (m, v) = run(Some(stop));
        assert_eq!(m, mask);
        assert_bits_equal(&v, &w);
    }
    assert_eq!(mask.iter().map(|b| b.count_ones()).sum::<u32>(), 32);
}
