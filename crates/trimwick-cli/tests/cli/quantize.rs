//! `trimwick quantize` on files written here.

use std::fs;
use std::path::Path;

use serde_json::json;
use trimwick_export::{PackedFile, dequantize_file};

use crate::support::{done, json, ran, safetensors, told, tree, trimwick, workshop};

/// The presets that everyone asks for, with the bits of a weight in rows of 256.
const PRESETS: [(&str, f64); 13] = [
    ("int8", 8. + 32. / 256.),
    ("int4-g32", 4.5),
    ("int4-g64", 4.25),
    ("int4-g128", 4.125),
    ("fp8", 8. + 32. / 1024.),
    ("nvfp4", 4.5 + 32. / 1024.),
    ("mxfp4", 4.25),
    ("mxfp6-e2m3", 6.25),
    ("mxfp6-e3m2", 6.25),
    ("mxfp8", 8.25),
    ("mxint8", 8.25),
    ("q8_0", 8.5),
    ("q4_0", 4.5),
];

/// `in.safetensors`: a matrix of waves and a vector.
fn file(folder: &Path) {
    let waves: Vec<f32> = (0..4 * 256).map(|i| (i as f32 * 0.37).sin() * 0.1).collect();
    let tensors = [("w", &[4, 256][..], &waves[..]), ("norm", &[8][..], &waves[..8])];
    fs::write(folder.join("in.safetensors"), safetensors(r#""__metadata__":{"format":"pt"}"#, &tensors))
        .unwrap();
}

#[test]
fn every_preset_packs_what_it_fakes() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path());
    let mut loss = Vec::new();
    for (preset, bits) in PRESETS {
        let into = |output| ["quantize", "in.safetensors", output, "--force", "--json", "--scheme", preset];
        let value = json(dir.path(), &into("packed"));
        assert_eq!((&value["preset"], &value["fake"]), (&json!(preset), &json!(false)));
        assert_eq!(
            (&value["quantized"], &value["copied"], &value["weights"]),
            (&json!(1), &json!(1), &json!(1024))
        );
        assert_eq!(value["bits_per_weight"].as_f64().unwrap(), bits, "{preset}");
        assert_eq!(value["bytes_before"], 4 * 1024 + 32);
        assert_eq!(value["tensors"][0]["bytes_packed"].as_f64().unwrap(), bits * 1024. / 8.);
        let shape = if preset.starts_with("int4") { 16 } else { 0 };
        assert_eq!(value["bytes_after"].as_f64().unwrap(), bits * 1024. / 8. + 32. + f64::from(shape));
        loss.push((value["snr_db"].as_f64().unwrap(), preset));

        let faked = json(dir.path(), &[&into("fake")[..], &["--fake"]].concat());
        assert_eq!((&faked["snr_db"], &faked["bytes_after"]), (&value["snr_db"], &value["bytes_before"]));
        dequantize_file(dir.path().join("packed"), dir.path().join("decoded"), true).unwrap();
        let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
        assert!(read("decoded") == read("fake"), "{preset}");

        // The same bytes on any number of threads.
        let mut alone = trimwick(dir.path(), &into("alone"));
        let (code, _, stderr) = told(&alone.env("RAYON_NUM_THREADS", "1").output().unwrap());
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(read("alone") == read("packed"), "{preset}");
    }
    // More bits, less noise; and each grid is another one.
    let of = |name: &str| loss.iter().find(|(_, preset)| *preset == name).unwrap().0;
    assert!(of("int4-g32") > of("int4-g64") && of("int4-g64") > of("int4-g128"), "{loss:?}");
    assert!(of("int8") > of("fp8") && of("mxfp6-e2m3") > of("nvfp4") && of("q8_0") > of("q4_0"), "{loss:?}");
    assert!((12. ..30.).contains(&of("nvfp4")) && (35. ..60.).contains(&of("int8")), "{loss:?}");
}

#[test]
fn a_file_is_told_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path());
    let told = done(dir.path(), &["quantize", "in.safetensors", "out.safetensors", "--scheme", "int4-g128"]);
    assert_eq!(told.lines().count(), 1);
    let expected = "out.safetensors: 1 tensor in int4-g128, 4.1250 bits per weight with scales, 4.1 kB → 576 B (14.0 %), \
                    signal to noise ";
    assert!(told.starts_with(expected), "{told}");
    assert!(told.ends_with(" dB; 1 tensor copied; proved on the written bytes\n"), "{told}");

    // What was written is a safetensors file like any other.
    let seen = json(dir.path(), &["inspect", "out.safetensors", "--json"]);
    let names: Vec<&str> =
        seen["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["norm", "w_packed", "w_scale", "w_shape"]);
    assert_eq!(seen["metadata"]["trimwick.scheme"], "weight int4 g128 bf16");
    assert_eq!(seen["metadata"]["format"], "pt");

    // Parts of one's own.
    let args = ["quantize", "in.safetensors", "own", "--scheme", "weight int5 g16 f16", "--fake"];
    let told = done(dir.path(), &args);
    let expected =
        "own: 1 tensor as if in weight int5 g16 f16, 6.0000 bits per weight with scales if packed, ";
    assert!(told.starts_with(expected), "{told}");
    // What is on the grid stays.
    let told = done(dir.path(), &["quantize", "own", "again", "--scheme", "weight int8 g16 f32", "--fake"]);
    assert!(told.contains("signal to noise "), "{told}");
}

#[test]
fn whole_models_and_globs() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = workshop().join("tiny");
    let tiny = tiny.to_str().unwrap();
    let value = json(dir.path(), &["quantize", tiny, "all", "--scheme", "q8_0", "--json"]);
    assert!(value["snr_db"].as_f64().unwrap() > 40.);
    let args = [
        "quantize",
        tiny,
        "some",
        "--scheme",
        "nvfp4",
        "--tensors",
        "*.mlp.*",
        "*_proj.weight",
        "--skip",
        "*.1.*",
        "--skip",
        "*.down_*",
        "--json",
    ];
    let value = json(dir.path(), &args);
    let names: Vec<&str> =
        value["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    let expected = [
        "mlp.gate_proj",
        "mlp.up_proj",
        "self_attn.k_proj",
        "self_attn.o_proj",
        "self_attn.q_proj",
        "self_attn.v_proj",
    ]
    .map(|layer| format!("model.layers.0.{layer}.weight"));
    assert_eq!(names, expected);
    let packed = PackedFile::open(dir.path().join("some")).unwrap();
    assert_eq!(packed.names().collect::<Vec<_>>(), expected);
}

#[test]
fn what_cannot_be_quantized_is_told_in_one_line_and_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path());
    let write = |name: &str, tensors: &[(&str, &[usize], &[f32])]| {
        fs::write(dir.path().join(name), safetensors("", tensors)).unwrap();
    };
    let ones = [1f32; 128];
    let mut nan = ones;
    nan[37] = f32::NAN;
    write("rows", &[("first", &[1, 96], &ones[..96]), ("second", &[2, 48], &ones[..96])]);
    write("nan", &[("fine", &[1, 32], &ones[..32]), ("\u{9b}31mbad", &[1, 128], &nan)]);
    write("vector", &[("v", &[4], &ones[..4])]);
    fs::write(dir.path().join("there"), "mine").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    done(dir.path(), &["quantize", "in.safetensors", "packed", "--scheme", "int8"]);
    let unknown = "error: scheme \"int4-g129\": unknown; did you mean \"int4-g128\"? expected one of int8, ";
    let before = tree(dir.path());
    for (args, expected) in [
        (&["in.safetensors", "out"][..], "required arguments were not provided: --scheme <SCHEME>"),
        (&["in.safetensors", "--scheme", "int8"], "required arguments were not provided: <OUT>"),
        (&["in.safetensors", "out", "--scheme", "int4-g129"], unknown),
        (&["in.safetensors", "out", "--scheme", "weight int4 g128 bf61"], "did you mean \"bf16\"?"),
        (&["in.safetensors", "out", "--scheme", "weight int4 g0"], "a group of 0 has no values"),
        (&["in.safetensors", "out", "--scheme", "weight int4 token"], "a weight has no tokens"),
        (&["in.safetensors", "out", "--scheme", "input int8 token f32 dynamic"], "no weight quantizer"),
        (
            &["rows", "out", "--scheme", "int4-g64"],
            "first: int4 g64 bf16 needs rows of whole groups of 64, but they are of 96 (96 % 64 ≠ 0); groups that fit: 32, 96; \
             or leave it and 1 more that does not fit out (--skip GLOB, --tensors GLOB)",
        ),
        (
            &["rows", "out", "--scheme", "nvfp4", "--tensors", "third*"],
            "--tensors \"third*\": matches nothing",
        ),
        (&["rows", "out", "--scheme", "nvfp4", "--skip", "third*"], "these would: first, second"),
        (&["nan", "out", "--scheme", "int8"], "nan: "),
        (&["vector", "out", "--scheme", "int8"], "vector: nothing to quantize: expected a tensor of floats"),
        (&["none", "out", "--scheme", "int8"], "none: no model weights"),
        (&["there", "out", "--scheme", "int8"], "there: byte 0: "),
        (
            &["in.safetensors", "there", "--scheme", "int8"],
            "there: a file is there already; give another name, or --force",
        ),
        (
            &["in.safetensors", "folder", "--scheme", "int8", "--force"],
            "folder: a folder is there; give another name",
        ),
        (&["in.safetensors", "in.safetensors", "--scheme", "int8", "--force"], "this is the input itself"),
        (&["in.safetensors", "no/such/place", "--scheme", "int8"], "no/such: cannot write into it: "),
        (
            &["packed", "out", "--scheme", "int4-g32"],
            "packed: packed already, as `weight int8 channel f32, input int8",
        ),
    ] {
        let (code, stdout, stderr) = ran(dir.path(), &[&["quantize"], args].concat());
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(expected), "{args:?}: {stderr}");
        assert!(!stderr.trim_end().contains(char::is_control), "{args:?}: {stderr:?}");
        assert!(tree(dir.path()) == before, "{args:?} left something behind");
    }
    // A name that would be obeyed by a terminal is refused by the reader; a plain one is told with the element.
    write("nan", &[("fine", &[1, 32], &ones[..32]), ("bad", &[1, 128], &nan)]);
    let (code, _, stderr) = ran(dir.path(), &["quantize", "nan", "out", "--scheme", "nvfp4", "--fake"]);
    assert_eq!((code, stderr.lines().count()), (2, 1));
    assert!(stderr.contains("nan: tensor \"bad\" holds NaN at element 37;"), "{stderr}");
    done(dir.path(), &["quantize", "nan", "out", "--scheme", "nvfp4", "--skip", "bad"]);

    // With --force the file is another one, and what was skipped is in it.
    done(dir.path(), &["quantize", "in.safetensors", "there", "--scheme", "int8", "--force"]);
    assert_eq!(PackedFile::open(dir.path().join("there")).unwrap().names().collect::<Vec<_>>(), ["w"]);
}
