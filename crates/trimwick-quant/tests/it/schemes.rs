//! Presets, words, checks, bits.

use trimwick_nn::LayerKind;
use trimwick_quant::{
    Code, Granularity, InputSpec, Options, QuantSpec, Range, ScaleFormat, ScalePolicy, Scheme,
};

use crate::support::COMPOSED;

const LINEAR: LayerKind = LayerKind::Linear;

#[test]
fn a_preset_is_what_its_name_says() {
    for (name, text, bits) in [
        ("int8", "weight int8 channel f32, input int8 token f32 dynamic", 8. + 32. / 1024.),
        ("int8-static", "weight int8 channel f32, input int8 tensor f32 static", 8. + 32. / 1024.),
        ("int8-weight", "weight int8 channel f32", 8. + 32. / 1024.),
        ("int4-g32", "weight int4 g32 bf16", 4.5),
        ("int4-g128", "weight int4 g128 bf16", 4.125),
        ("int4-channel", "weight int4 channel bf16", 4. + 16. / 1024.),
        ("int3-g64", "weight int3 g64 bf16", 3.25),
        ("int2-g64", "weight int2 g64 bf16", 2.25),
        ("ternary", "weight ternary g64 bf16", 2.25),
        ("w4a8", "weight int4 channel bf16, input int8 token f32 dynamic", 4. + 16. / 1024.),
        ("w4a8-g64", "weight int4 g64 bf16, input int8 token f32 dynamic", 4.25),
        ("fp8", "weight e4m3 tensor f32, input e4m3 tensor f32 static", 8. + 32. / 524_288.),
        ("fp8-token", "weight e4m3 channel f32, input e4m3 token f32 dynamic", 8. + 32. / 1024.),
        ("fp8-e5m2", "weight e5m2 tensor f32, input e5m2 tensor f32 static", 8. + 32. / 524_288.),
        ("nvfp4", "weight e2m1 g16 e4m3, input e2m1 g16 e4m3 static", 4.5 + 32. / 524_288.),
        ("nvfp4-weight", "weight e2m1 g16 e4m3", 4.5 + 32. / 524_288.),
        ("mxfp4", "weight e2m1 g32 e8m0, input e2m1 g32 e8m0 dynamic", 4.25),
        ("mxfp6-e2m3-weight", "weight e2m3 g32 e8m0", 6.25),
        ("mxfp6-e3m2", "weight e3m2 g32 e8m0, input e3m2 g32 e8m0 dynamic", 6.25),
        ("mxfp8-weight", "weight e4m3 g32 e8m0", 8.25),
        ("mxint8", "weight int8 g32 e8m0, input int8 g32 e8m0 dynamic", 8.25),
        ("q8_0", "weight int8 g32 f16", 8.5),
        ("q4_0", "weight int4 g32 f16", 4.5),
    ] {
        let scheme = Scheme::preset(name).unwrap();
        assert_eq!(scheme.to_string(), text);
        assert_eq!(scheme.name(), Some(name));
        assert!((scheme.bits(&[512, 1024]) - bits).abs() < 1e-12, "{name}: {}", scheme.bits(&[512, 1024]));
    }
}

#[test]
fn every_scheme_survives_its_text() {
    for name in Scheme::PRESETS.iter().chain(&COMPOSED) {
        let scheme: Scheme = name.parse().unwrap();
        assert_eq!(scheme.to_string().parse::<Scheme>().unwrap(), scheme);
        assert!(Options::default().check(&scheme).is_ok());
    }
    let mut names = Scheme::PRESETS.to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Scheme::PRESETS.len());
    // Two names of one scheme would make `name` a matter of order.
    for name in Scheme::PRESETS {
        assert_eq!(Scheme::preset(name).unwrap().name(), Some(*name));
    }
}

#[test]
fn scales_have_a_usual_format() {
    for (text, scale) in [
        ("int4 g128", ScaleFormat::BF16),
        ("uint4 channel", ScaleFormat::BF16),
        ("ternary tensor", ScaleFormat::BF16),
        ("int5 g32", ScaleFormat::F32),
        ("e2m1 g16", ScaleFormat::E4M3),
        ("e2m1 g32", ScaleFormat::E8M0Ceil),
        ("e4m3 token", ScaleFormat::F32),
        ("e2m1 g32 e8m0-floor", ScaleFormat::E8M0Floor),
    ] {
        assert_eq!(text.parse::<QuantSpec>().unwrap().scale, scale, "{text}");
    }
    assert_eq!(Code::Int { bits: 4 }, "int4 g128".parse::<QuantSpec>().unwrap().code);
    assert_eq!("g48".parse::<Granularity>().unwrap(), Granularity::Group(48));
}

#[test]
fn what_is_no_scheme_says_what_was_probably_meant() {
    for (text, parts) in [
        ("int4g128", vec!["int4g128", "did you mean \"int4-g128\""]),
        ("NVFP4", vec!["did you mean \"nvfp4\""]),
        ("mxfp6_e2m3", vec!["did you mean \"mxfp6-e2m3\""]),
        ("gptq", vec!["gptq", "int8"]),
        ("weight int9 g32", vec!["code", "int9", "int8"]),
        ("weight int4 rows", vec!["granularity", "rows", "channel"]),
        ("weight int4 g32 fp16", vec!["scale format", "fp16", "did you mean \"f16\""]),
        ("weight int4", vec!["int4", "int4 g128 bf16"]),
        ("weight int4 g32 bf16 extra", vec!["expected"]),
        ("weights int4 g32", vec!["weights", "did you mean \"weight\""]),
        ("input int8 token", vec!["token", "dynamic, static"]),
        ("weight int4 g32, weight int8 g32", vec!["twice"]),
        ("weight int4 g0", vec!["group of 0"]),
        ("weight e2m1 channel e4m3", vec!["g16"]),
        ("weight uint4 g32 e8m0", vec!["zero points"]),
        ("output int8 token", vec!["output", "weight, input"]),
    ] {
        let e = text.parse::<Scheme>().unwrap_err().to_string();
        assert!(parts.iter().all(|p| e.contains(p)) && !e.contains('\n'), "{text}: {e}");
    }
}

#[test]
fn a_layer_that_cannot_take_a_scheme_is_told_what_fits() {
    let shape = [192, 576];
    for (scheme, kind, shape, parts) in [
        (
            "int4-g128",
            LINEAR,
            &shape[..],
            vec!["a.b", "groups of 128", "of 576", "576 % 128", "32, 64, 96, 192"],
        ),
        ("int4-g32", LINEAR, &[8, 24], vec!["groups that fit: 8, 24"]),
        ("int4-g32", LINEAR, &[8, 7], vec!["groups that fit: 7"]),
        ("int4-g32", LINEAR, &[8, 1], vec!["none", "channel"]),
        ("mxfp4", LINEAR, &[8, 48], vec!["48 % 32"]),
        ("int4-g32", LayerKind::Conv2d, &[8, 3, 3, 3], vec!["rows", "27 % 32", "groups that fit: 3, 9, 27"]),
        ("nvfp4", LayerKind::Conv2d, &[8, 16, 3, 3], vec!["a.b", "input of a convolution", "weight alone"]),
        ("weight int8 token", LINEAR, &shape, vec!["a.b", "no tokens"]),
        ("input int8 channel dynamic", LINEAR, &shape, vec!["a.b", "input feature"]),
        ("input int8 token static", LINEAR, &shape, vec!["a.b", "dynamic"]),
        ("input int8 g32 static", LINEAR, &shape, vec!["a.b", "groups"]),
    ] {
        let e = scheme.parse::<Scheme>().unwrap().check("a.b", kind, shape).unwrap_err().to_string();
        assert!(parts.iter().all(|p| e.contains(p)) && !e.contains('\n'), "{scheme}: {e}");
    }
    for (scheme, kind, shape) in [
        ("int4-g64", LINEAR, &shape[..]),
        ("int8", LayerKind::Conv2d, &[8, 3, 3, 3]),
        ("nvfp4", LayerKind::Embedding, &[100, 32]),
        ("weight int8 channel, input int8 channel dynamic", LayerKind::Embedding, &[100, 32]),
    ] {
        scheme.parse::<Scheme>().unwrap().check("a.b", kind, shape).unwrap();
    }
}

#[test]
fn options_that_would_change_nothing_or_make_no_sense_are_refused() {
    let with = |f: &dyn Fn(&mut Options)| {
        let mut options = Options::default();
        f(&mut options);
        options
    };
    for (scheme, options, part) in [
        ("int8", with(&|o| o.range = Range::Mse), "dynamic"),
        ("int8", with(&|o| (o.scales, o.range) = (ScalePolicy::Ema(0.9), Range::Mse)), "ema"),
        ("int8", with(&|o| o.scales = ScalePolicy::Ema(1.)), "[0, 1)"),
        ("int8", with(&|o| o.scales = ScalePolicy::Ema(f64::NAN)), "NaN"),
        ("int8", with(&|o| (o.scales, o.range) = (ScalePolicy::Frozen, Range::Percentile(0.))), "(0, 100]"),
        ("int8", with(&|o| (o.scales, o.range) = (ScalePolicy::Frozen, Range::Entropy)), "whole tensor"),
        ("int8-static", with(&|o| o.input_scales = ScalePolicy::Dynamic), "static"),
        ("int8-static", with(&|o| o.input_range = Range::Percentile(101.)), "101"),
        ("nvfp4", with(&|o| o.input_scales = ScalePolicy::Learned), "frozen or ema"),
        ("nvfp4", with(&|o| o.input_range = Range::Mse), "max or percentile"),
        ("weight uint4 g32", with(&|o| o.scales = ScalePolicy::Learned), "zero points"),
        ("weight uint4 g32", with(&|o| (o.scales, o.range) = (ScalePolicy::Frozen, Range::Mse)), "max"),
    ] {
        let e = options.check(&scheme.parse().unwrap()).unwrap_err().to_string();
        assert!(e.contains(part), "{scheme} {options:?}: {e}");
    }
    let fine = with(&|o| (o.scales, o.range) = (ScalePolicy::Frozen, Range::Entropy));
    fine.check(&"weight int8 tensor".parse().unwrap()).unwrap();
    // What is said of static inputs is not looked at where there are none.
    with(&|o| o.input_scales = ScalePolicy::Dynamic).check(&"int8".parse().unwrap()).unwrap();
}

#[test]
fn free_composition_needs_no_text() {
    let scheme = Scheme {
        weight: Some(
            QuantSpec::new(Code::Int { bits: 6 }, Granularity::Group(48)).with_scale(ScaleFormat::F16),
        ),
        input: Some(InputSpec { spec: QuantSpec::new(Code::E4M3, Granularity::Token), dynamic: true }),
    };
    assert_eq!(scheme.name(), None);
    assert_eq!(scheme.to_string(), "weight int6 g48 f16, input e4m3 token f32 dynamic");
    assert_eq!(Scheme { weight: None, input: None }.to_string(), "nothing");
    assert_eq!(Scheme { weight: None, input: None }.bits(&[4, 4]), 16.);
    assert_eq!("uint4 g32".parse::<QuantSpec>().unwrap().bits(&[4, 64]), 4. + (16. + 4.) / 32.);
}
