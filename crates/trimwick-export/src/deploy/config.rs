//! What a folder says of its quantization: `quantization_config` of `config.json`, and ModelOpt's own file.

use serde_json::{Map, Value, json};
use trimwick_kernels::quant::{Code, ScaleFormat};
use trimwick_quant::{Granularity, InputSpec, QuantSpec};

/// A quantized layer, for the configuration.
#[derive(Clone)]
pub(crate) struct Named {
    pub path: String,
    pub weight: QuantSpec,
    pub input: Option<InputSpec>,
    pub format: &'static str,
}

/// Static scales of keys and values: of E4M3 codes or of int8.
pub(crate) type Kv = Option<QuantSpec>;

/// The same grids for weight and input, and the layers that have them.
struct Group<'a> {
    first: &'a Named,
    paths: Vec<&'a str>,
}

fn groups(layers: &[Named]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for layer in layers {
        let same = |g: &&mut Group<'_>| (g.first.weight, g.first.input) == (layer.weight, layer.input);
        match groups.iter_mut().find(same) {
            Some(group) => group.paths.push(&layer.path),
            None => groups.push(Group { first: layer, paths: vec![&layer.path] }),
        }
    }
    groups
}

fn numbers(spec: &QuantSpec) -> (u32, &'static str) {
    match spec.code {
        Code::Int { .. } | Code::Uint { .. } | Code::Ternary => (spec.code.bits(), "int"),
        _ => (spec.code.bits(), "float"),
    }
}

/// The arguments of one quantizer in compressed-tensors' words, which ModelOpt uses too.
fn args(spec: &QuantSpec, dynamic: Value) -> Value {
    let (bits, kind) = numbers(spec);
    let (strategy, group) = match spec.granularity {
        Granularity::Tensor => ("tensor", None),
        Granularity::Channel => ("channel", None),
        Granularity::Token => ("token", None),
        Granularity::Group(group) if spec.has_global() => ("tensor_group", Some(group)),
        Granularity::Group(group) => ("group", Some(group)),
    };
    let mut args = Map::new();
    args.insert("num_bits".into(), json!(bits));
    args.insert("type".into(), json!(kind));
    args.insert("symmetric".into(), json!(!spec.asymmetric()));
    args.insert("strategy".into(), json!(strategy));
    if let Some(group) = group {
        args.insert("group_size".into(), json!(group));
    }
    args.insert("dynamic".into(), dynamic);
    Value::Object(args)
}

/// The same with the type of scales that are no plain floats: without it compressed-tensors computes the scales of dynamic
/// inputs in floats, off the grid that was trained.
fn typed_args(spec: &QuantSpec, dynamic: Value) -> Value {
    let mut args = args(spec, dynamic);
    match spec.scale {
        ScaleFormat::E4M3 => args["scale_dtype"] = json!("torch.float8_e4m3fn"),
        ScaleFormat::E8M0Ceil | ScaleFormat::E8M0Floor => args["scale_dtype"] = json!("torch.uint8"),
        ScaleFormat::F32 | ScaleFormat::F16 | ScaleFormat::BF16 => {}
    }
    args
}

fn input_args(input: &InputSpec, args: fn(&QuantSpec, Value) -> Value) -> Value {
    let dynamic = match (input.dynamic, input.spec.has_global()) {
        // The scales of groups follow the values, the one behind them does not.
        (false, true) => json!("local"),
        (dynamic, _) => json!(dynamic),
    };
    args(&input.spec, dynamic)
}

fn kv_args(kv: &Kv) -> Value {
    kv.as_ref().map_or(Value::Null, |spec| args(spec, json!(false)))
}

/// compressed-tensors. `ignored` are the linear layers without a quantizer.
pub(crate) fn compressed(layers: &[Named], ignored: &[String], kv: &Kv) -> Value {
    let groups = groups(layers);
    let mut table = Map::new();
    for (i, group) in groups.iter().enumerate() {
        let targets = if groups.len() == 1 { json!(["Linear"]) } else { json!(group.paths) };
        let input = group.first.input.as_ref().map_or(Value::Null, |input| input_args(input, typed_args));
        table.insert(
            format!("group_{i}"),
            json!({
                "targets": targets,
                "format": group.first.format,
                "weights": typed_args(&group.first.weight, json!(false)),
                "input_activations": input,
                "output_activations": null,
            }),
        );
    }
    let first = layers.first().map_or("dense", |layer| layer.format);
    let one = layers.iter().all(|layer| layer.format == first);
    json!({
        "quant_method": "compressed-tensors",
        "version": "0.17.0",
        "format": if one { first } else { "mixed-precision" },
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": kv_args(kv),
        "ignore": with_head(ignored),
        "sparsity_config": {},
        "transform_config": {},
        "config_groups": table,
    })
}

/// The head is left alone by name even where it is tied.
fn with_head(ignored: &[String]) -> Vec<String> {
    let mut all = ignored.to_vec();
    if !all.iter().any(|path| path == "lm_head") {
        all.push("lm_head".into());
    }
    all
}

fn producer() -> Value {
    json!({ "name": "trimwick", "version": env!("CARGO_PKG_VERSION") })
}

/// ModelOpt, for `config.json`.
pub(crate) fn modelopt(layers: &[Named], ignored: &[String], kv: &Kv) -> Value {
    let Some(first) = layers.first() else { return Value::Null };
    let input = first.input.as_ref().map_or(Value::Null, |input| input_args(input, args));
    json!({
        "quant_method": "modelopt",
        "quant_algo": first.format,
        "kv_cache_scheme": kv_args(kv),
        "ignore": with_head(ignored),
        "config_groups": { "group_0": {
            "targets": ["Linear"],
            "weights": args(&first.weight, json!(false)),
            "input_activations": input,
        } },
        "producer": producer(),
    })
}

/// ModelOpt's `hf_quant_config.json`.
pub(crate) fn modelopt_file(layers: &[Named], ignored: &[String], kv: &Kv) -> Value {
    let mut quantization = Map::new();
    quantization.insert("quant_algo".into(), json!(layers.first().map(|layer| layer.format)));
    quantization.insert("kv_cache_quant_algo".into(), json!(kv.as_ref().map(|_| "FP8")));
    if let Some(Granularity::Group(group)) = layers.first().map(|layer| layer.weight.granularity) {
        quantization.insert("group_size".into(), json!(group));
    }
    if layers.first().is_some_and(|layer| layer.format.ends_with("_AWQ")) {
        quantization.insert("has_zero_point".into(), json!(false));
        quantization.insert("pre_quant_scale".into(), json!(true));
    }
    quantization.insert("exclude_modules".into(), json!(with_head(ignored)));
    json!({ "producer": producer(), "quantization": quantization })
}

/// Our container: the schemes by layer, for people; its tensors speak for themselves.
pub(crate) fn container(layers: &[Named]) -> Value {
    let schemes: Map<String, Value> =
        layers.iter().map(|layer| (layer.path.clone(), json!(layer.weight.to_string()))).collect();
    json!({ "quant_method": "trimwick", "version": 1, "layers": schemes })
}

#[cfg(test)]
mod tests {
    use trimwick_quant::Scheme;

    use super::*;

    /// Weights and inputs of a scheme, as each runtime is told.
    fn told(scheme: &str) -> [Value; 2] {
        let Scheme { weight, input } = scheme.parse().unwrap();
        let (path, format) = ("fc".to_string(), "pack-quantized");
        let layers = [Named { path, weight: weight.unwrap(), input, format }];
        [compressed(&layers, &[], &None), modelopt(&layers, &[], &None)]
            .map(|config| config["config_groups"]["group_0"].clone())
    }

    #[test]
    fn scales_that_are_no_floats_say_their_type() {
        for (scheme, expected) in [
            ("nvfp4", json!("torch.float8_e4m3fn")),
            ("mxfp4", json!("torch.uint8")),
            ("mxfp8", json!("torch.uint8")),
            ("int8-static", Value::Null),
            ("fp8", Value::Null),
        ] {
            let [compressed, modelopt] = told(scheme);
            assert_eq!(compressed["weights"]["scale_dtype"], expected, "{scheme}");
            let input = &compressed["input_activations"];
            assert!(input.is_null() || input["scale_dtype"] == expected, "{scheme}: {input}");
            assert_eq!(modelopt["weights"]["scale_dtype"], Value::Null, "{scheme}");
        }
        assert!(!told("nvfp4")[0]["input_activations"].is_null());
    }
}
