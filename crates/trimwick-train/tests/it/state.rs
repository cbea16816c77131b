//! The state struct: nothing left out, nothing rounded.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use trimwick_formats::checkpoint::CheckpointDir;
use trimwick_nn::{ParamStore, Role};
use trimwick_train::{
    AdamW, AdamWConfig, Best, BoxError, Cursor, Data, Decay, DistillConfig, Error, Guards, MemoryPlan,
    NonFinite, Plan, Position, SavedRole, Schedule, StepHook, TrainState, Warmup,
};

use crate::common::{TinyLm, adamw, bits, store};

/// A hook whose state is a JSON value.
struct Holder(&'static str, Option<Value>);

impl StepHook for Holder {
    fn name(&self) -> &str {
        self.0
    }

    fn save(&self) -> Option<Value> {
        self.1.clone()
    }

    fn restore(&mut self, state: Option<&Value>) -> Result<(), BoxError> {
        self.1 = state.cloned();
        Ok(())
    }
}

fn plan() -> Plan {
    Plan {
        steps: 4,
        batch: 1,
        accumulate: 1,
        clip: Some(0.1 + 0.2),
        schedule: Schedule::new(Decay::Linear, 1. / 3., 0.1, Warmup::Steps(1), 4).unwrap(),
        optimizer: AdamWConfig { eps: 1e-300, ..Default::default() },
        groups: BTreeMap::from([("a".into(), (1. / 7., 5e-324))]),
        distill: Some(DistillConfig { weight: 0.3, temperature: 2., features: 1. }),
        validation: None,
        data: Data { context: 8, tokens: 64, hash: "00".into() },
        order_seed: u64::MAX,
        model_seed: 1 << 63,
        memory: MemoryPlan::Lean,
        guards: Guards { non_finite: NonFinite::Rewind, spike: Some(0.1 + 0.2), skips: 7 },
        rewind_every: Some(5),
    }
}

/// Numbers that a careless reader rounds.
fn position() -> Position {
    Position {
        step: 3,
        micro_step: u64::MAX - 1,
        cursor: Cursor { epoch: 1 << 60, position: 7 },
        tokens: (1 << 53) + 1,
        losses: [2.1, 0.1 + 0.2, 1.0000000000000002, 5e-324, f64::MAX, f64::MIN_POSITIVE / 3.].into(),
        best: Some(Best { step: 2, loss: 8.41e21 }),
        skips: 2,
        grad_norm: Some(0.1 + 0.7),
    }
}

/// A store with every kind of entry.
fn filled(seed: u64) -> ParamStore {
    let store = store(DType::F32, seed);
    TinyLm::new(&store, 0.).unwrap();
    store.get("embed.weight").unwrap().set_role(Role::Frozen);
    store
}

fn tensors(device: &Device) -> [(&'static str, Tensor); 8] {
    let f = Tensor::new(&[f64::NAN, -0., 5e-324, 1. / 3.], device).unwrap();
    let int = |dtype| Tensor::new(&[1u32, 2, 300], device).unwrap().to_dtype(dtype).unwrap();
    [
        ("buffer.bf16", f.to_dtype(DType::BF16).unwrap()),
        ("buffer.f16", f.to_dtype(DType::F16).unwrap()),
        ("buffer.f64", f.reshape((2, 1, 2)).unwrap()),
        ("buffer.i64", int(DType::I64)),
        ("buffer.none", Tensor::zeros((0, 3), DType::F32, device).unwrap()),
        ("buffer.scalar", Tensor::new(1.5f32, device).unwrap()),
        ("buffer.u32", int(DType::U32)),
        ("buffer.u8", int(DType::U8)),
    ]
}

#[test]
fn every_field_survives_files_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointDir::open(dir.path()).unwrap();
    let one = filled(1);
    for (name, t) in tensors(&Device::Cpu) {
        one.set_buffer(name, &t).unwrap();
    }
    let keep: Arc<[u8]> = vec![0b1010_0101; 12].into();
    one.get("blocks.0.mlp.up_proj.weight").unwrap().set_keep(Some(keep.clone())).unwrap();
    let mut optimizer = adamw(&one);
    let value = json!({ "x": 0.1 + 0.2, "list": [1, null, "é"] });
    let (mut with, mut without) = (Holder("with", Some(value.clone())), Holder("without", None));
    let hooks: [&mut dyn StepHook; 2] = [&mut with, &mut without];
    let grads = crate::common::gradients_of(&one, |name| vec![0.3; one.get(name).unwrap().elem_count()]);
    optimizer.step(&grads, 0.1).unwrap();

    let state = TrainState::capture(&one, &optimizer, &hooks, &position(), "{\"a\":1}\n").unwrap();
    state.save(&checkpoints, "f", &plan()).unwrap();
    let checkpoint = checkpoints.latest("f").unwrap().unwrap();
    let loaded = TrainState::load(&checkpoint, &plan()).unwrap();
    // Without `..`: a new field does not compile until this test looks at it.
    let TrainState {
        position: at,
        parameters,
        roles,
        kept,
        optimizer_steps,
        moments,
        hooks: states,
        metrics,
    } = loaded.clone();
    let Position { step, micro_step, cursor, tokens, losses, best, skips, grad_norm } = at;
    let want = position();
    assert_eq!((step, micro_step, cursor, tokens), (want.step, want.micro_step, want.cursor, want.tokens));
    assert!(losses.iter().map(|l| l.to_bits()).eq(want.losses.iter().map(|l| l.to_bits())), "{losses:?}");
    assert_eq!((best, skips, grad_norm), (want.best, want.skips, want.grad_norm));
    assert_eq!(roles.len(), one.params().len());
    assert_eq!((roles["embed.weight"], roles["head.bias"]), (SavedRole::Frozen, SavedRole::Trainable));
    assert_eq!(roles["buffer.u8"], SavedRole::Buffer);
    assert_eq!(kept, BTreeMap::from([("blocks.0.mlp.up_proj.weight".to_string(), keep.clone())]));
    assert_eq!((optimizer_steps, metrics.as_str()), (1, "{\"a\":1}\n"));
    assert_eq!(states, BTreeMap::from([("with".into(), value.clone()), ("without".into(), Value::Null)]));
    for (name, t) in tensors(&Device::Cpu) {
        let got = &parameters[name];
        assert_eq!((got.dtype(), got.dims()), (t.dtype(), t.dims()), "{name}");
    }
    assert_eq!(moments.len(), 2 * one.trainable().len());

    // Into a store of other values, with a buffer that the state does not have.
    let two = filled(2);
    two.set_buffer("stray", &Tensor::new(1f32, &Device::Cpu).unwrap()).unwrap();
    two.set_buffer("buffer.u8", &Tensor::new(1f32, &Device::Cpu).unwrap()).unwrap();
    let mut other = adamw(&two);
    two.get("embed.weight").unwrap().set_role(Role::Trainable);
    let (mut with, mut without) = (Holder("with", None), Holder("without", Some(json!(1))));
    let mut hooks: [&mut dyn StepHook; 2] = [&mut with, &mut without];
    let (at, text) = loaded.restore(Path::new("x"), &two, &mut other, &mut hooks).unwrap();
    assert_eq!((at, text), (position(), "{\"a\":1}\n".into()));
    assert_eq!(bits(&one), bits(&two));
    assert_eq!(two.get("embed.weight").unwrap().role(), Role::Frozen);
    assert_eq!(two.get("blocks.0.mlp.up_proj.weight").unwrap().keep(), Some(keep));
    assert_eq!((with.1, without.1), (Some(value), None));
    assert_eq!(other.steps(), 1);
    for (name, t) in optimizer.moments() {
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&t), values(&other.moments()[&name]), "{name}");
    }
}

#[test]
fn a_state_of_another_model_or_other_hooks_is_refused_before_anything_changes() {
    let capture = |store: &ParamStore, optimizer: &AdamW, names: &[&'static str]| {
        let mut holders: Vec<_> = names.iter().map(|n| Holder(n, None)).collect();
        let hooks: Vec<&mut dyn StepHook> = holders.iter_mut().map(|h| h as &mut dyn StepHook).collect();
        TrainState::capture(store, optimizer, &hooks, &position(), "")
    };
    let one = filled(1);
    let optimizer = adamw(&one);
    assert!(matches!(capture(&one, &optimizer, &["a", "a"]), Err(Error::Setting { key: "hooks", .. })));
    let good = || capture(&one, &optimizer, &["a"]).unwrap();
    let mut missing = good();
    missing.parameters.remove("head.bias");
    let mut misshapen = good();
    let bias = misshapen.parameters["head.bias"].reshape((1, 24)).unwrap();
    misshapen.parameters.insert("head.bias".into(), bias);
    let mut narrow = good();
    let bias = narrow.parameters["head.bias"].to_dtype(DType::BF16).unwrap();
    narrow.parameters.insert("head.bias".into(), bias);
    let mut more = good();
    more.parameters.insert("head.extra".into(), more.parameters["head.bias"].clone());
    more.roles.insert("head.extra".into(), SavedRole::Trainable);
    let cases = [
        ("missing", missing, "head.bias: expected [24] F32, found no such tensor"),
        ("misshapen", misshapen, "head.bias: expected [24] F32, found [1, 24] F32"),
        ("narrow", narrow, "head.bias: expected [24] F32, found [24] BF16"),
        ("more", more, "head.extra: expected no such parameter, found one"),
        ("hooks", capture(&one, &optimizer, &["a", "b"]).unwrap(), "hooks: expected a, found a, b"),
        ("no hooks", capture(&one, &optimizer, &[]).unwrap(), "hooks: expected a, found none"),
    ];
    let two = filled(2);
    let mut other = adamw(&two);
    let before = bits(&two);
    for (case, state, want) in cases {
        let mut holder = Holder("a", None);
        let mut hooks: [&mut dyn StepHook; 1] = [&mut holder];
        match state.restore(Path::new("there"), &two, &mut other, &mut hooks) {
            Err(e @ Error::OtherRun { .. }) => {
                assert!(e.to_string().starts_with(&format!("there: {want}")), "{case}: {e}");
            }
            other => panic!("{case}: {other:?}"),
        }
        assert_eq!(bits(&two), before, "{case}");
    }
}

#[test]
fn a_state_of_a_newer_version_is_refused() {
    use trimwick_formats::checkpoint::Payload;
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointDir::open(dir.path()).unwrap();
    let cases = [
        (&br#"{"version":3,"future":true}"#[..], "version: expected 2, which this program writes"),
        (br#"{"plan":{}}"#, "version: expected 2"),
        (br#"{"version":2}"#, "plan.accumulate: expected 1, found nothing"),
        (b"{", "state: expected the state of a run"),
    ];
    for (bytes, want) in cases {
        checkpoints.save(1, "f", &[Payload::bytes("state.json", bytes)]).unwrap();
        let checkpoint = checkpoints.latest("f").unwrap().unwrap();
        let error = TrainState::load(&checkpoint, &plan()).map(drop).unwrap_err().to_string();
        assert!(error.contains(want) && !error.contains('\n'), "{want}: {error}");
    }
}
