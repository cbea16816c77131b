//! Whole files.

use std::fs;
use std::ops::ControlFlow;

use trimwick_export::{
    Error, Packed, PackedFile, Progress, QuantizeOptions, Stage, dequantize_file, quantize_file,
};
use trimwick_formats::safetensors::{Dtype, SafetensorsFile};
use trimwick_kernels::quant::fake_quant_dynamic;
use trimwick_quant::{Granularity, Scheme};

use crate::support::{Draw, first_difference, names_in, quantize, save, workshop};

fn options(scheme: &str) -> QuantizeOptions {
    QuantizeOptions::new(scheme.parse().unwrap())
}

#[test]
fn every_preset_packs_a_file_that_decodes_to_the_fake_one() {
    let (dir, input) = workshop();
    let at = |name: &str| dir.path().join(name);
    let before = SafetensorsFile::open(&input).unwrap();
    for name in Scheme::PRESETS {
        let scheme = Scheme::preset(name).unwrap();
        let how = QuantizeOptions { replace: true, ..options(name) };
        let packed = quantize(&input, &at("packed"), &how).unwrap();
        let fake = quantize(&input, &at("fake"), &QuantizeOptions { fake: true, ..how.clone() }).unwrap();

        // The same numbers from either.
        assert_eq!((packed.tensors.clone(), packed.copied), (fake.tensors.clone(), fake.copied), "{name}");
        dequantize_file(at("packed"), at("decoded"), true).unwrap();
        assert!(fs::read(at("decoded")).unwrap() == fs::read(at("fake")).unwrap(), "{name}");

        // The fake file is the input on the grid.
        let (spec, file) = (scheme.weight.unwrap(), SafetensorsFile::open(at("fake")).unwrap());
        assert_eq!(file.tensors().keys().collect::<Vec<_>>(), before.tensors().keys().collect::<Vec<_>>());
        for tensor in &packed.tensors {
            let x = before.read_f32(&tensor.name).unwrap();
            let rows = tensor.shape[0];
            let block = match spec.granularity {
                Granularity::Tensor => x.len(),
                Granularity::Group(group) => group,
                _ => x.len() / rows,
            };
            let mut y = vec![0.; x.len()];
            fake_quant_dynamic(spec.grid(), &x, block, None, &mut y).unwrap();
            let info = file.info(&tensor.name).unwrap();
            assert_eq!((info.dtype, &info.shape), (Dtype::F32, &tensor.shape));
            assert_eq!(
                first_difference(&y, &file.read_f32(&tensor.name).unwrap()),
                None,
                "{name} {}",
                tensor.name
            );
            // Bits are what the scheme says, but for rows that are filled up to words.
            assert!((tensor.bits() - spec.bits(&tensor.shape)).abs() < 0.01, "{name} {}", tensor.bits());
        }

        // And everything else is as it was.
        for path in ["packed", "fake"] {
            let file = SafetensorsFile::open(at(path)).unwrap();
            assert_eq!(file.metadata()["format"], "pt");
            assert_eq!(file.metadata()["trimwick.scheme"], scheme.to_string());
            for copied in ["norm.weight", "ids", "none.weight"] {
                assert_eq!(file.info(copied).unwrap().dtype, before.info(copied).unwrap().dtype);
                assert_eq!(file.read_raw(copied).unwrap(), before.read_raw(copied).unwrap());
            }
        }
        assert_eq!(names_in(dir.path()), ["decoded", "fake", "in.safetensors", "packed"]);
    }
}

#[test]
fn the_report_counts_what_the_file_holds() {
    let (dir, input) = workshop();
    let output = dir.path().join("out");
    let mut steps = Vec::new();
    let how = QuantizeOptions { skip: vec!["conv.*".into()], ..options("int4-g128") };
    let report = quantize_file(&input, &output, &how, &mut |p| {
        steps.push(p);
        ControlFlow::Continue(())
    })
    .unwrap();

    // 8·256 F32, 5·128 BF16, and what is copied: 384 F16, 17 F32, 6 I64.
    let copied = 384 * 2 + 17 * 4 + 6 * 8;
    assert_eq!(report.bytes_before, 2048 * 4 + 640 * 2 + copied);
    assert_eq!((report.copied, report.copied_bytes), (4, copied));
    assert_eq!(report.tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a.weight", "b.weight"]);
    // Half a byte, and two bytes for each 128; two shapes of two I64.
    assert_eq!(report.tensors[0].bytes_packed, 1024 + 2 * 16);
    assert_eq!(report.bytes_after, (1024 + 32) + (320 + 10) + 2 * 16 + copied);
    assert_eq!((report.bits(), report.values()), (4.125, 2688));
    // Some 20 dB for bell-shaped weights in 4 bits; the sums are those of the parts.
    let snr = report.snr_db().unwrap();
    assert!((12. ..26.).contains(&snr), "{snr}");
    let noise: f64 = report.tensors.iter().map(|t| t.noise).sum();
    let signal: f64 = report.tensors.iter().map(|t| t.signal).sum();
    assert!((10f64.powf(snr / 10.) - signal / noise).abs() < 1e-6 * signal / noise);

    // Ten tensors are written, six compared.
    let of = |stage| steps.iter().filter(|p| p.stage == stage).map(|p| (p.done, p.total)).collect::<Vec<_>>();
    assert_eq!(of(Stage::Writing), (1..=10).map(|i| (i, 10)).collect::<Vec<_>>());
    assert_eq!(of(Stage::Proving), (1..=6).map(|i| (i, 6)).collect::<Vec<_>>());
}

#[test]
fn a_grid_loses_nothing_of_its_own_values() {
    let (dir, input) = workshop();
    let at = |name: &str| dir.path().join(name);
    for name in ["int8", "nvfp4", "mxfp6-e3m2", "q8_0", "fp8"] {
        let how = QuantizeOptions { fake: true, replace: true, ..options(name) };
        let first = quantize(&input, &at("once"), &how).unwrap();
        assert!(first.snr_db().is_some());
        let again = quantize(&at("once"), &at("twice"), &how).unwrap();
        assert_eq!(again.snr_db(), None, "{name}");
        assert!(fs::read(at("once")).unwrap() == fs::read(at("twice")).unwrap(), "{name}");
    }
}

#[test]
fn a_folder_of_shards_becomes_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    fs::create_dir(&folder).unwrap();
    let values: Vec<f32> = (0..64).map(|i| i as f32 - 31.5).collect();
    save(&folder.join("one.safetensors"), &[("a", Dtype::F32, &[2, 32], &values)], &[("format", "pt")]);
    save(&folder.join("two.safetensors"), &[("b", Dtype::F16, &[1, 64], &values)], &[("format", "np")]);
    let index = r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    let output = dir.path().join("out.safetensors");
    let report = quantize(&folder, &output, &options("mxfp4")).unwrap();
    assert_eq!(report.tensors.len(), 2);
    let file = PackedFile::open(&output).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(file.file().metadata()["format"], "pt");
    assert_eq!(file.load("b").unwrap().shape(), [1, 64]);
    assert_eq!(file.scheme(), &Scheme::preset("mxfp4").unwrap());

    // No output may take one of its inputs away.
    let how = QuantizeOptions { replace: true, ..options("mxfp4") };
    let error = quantize(&folder, &folder.join("two.safetensors"), &how).unwrap_err().to_string();
    assert!(error.ends_with("two.safetensors: this is the input itself; give another name"), "{error}");
}

#[test]
fn globs_choose_tensors() {
    let (dir, input) = workshop();
    let chosen = |tensors: &[&str], skip: &[&str]| {
        let list = |globs: &[&str]| globs.iter().map(|g| g.to_string()).collect();
        let how =
            QuantizeOptions { tensors: list(tensors), skip: list(skip), replace: true, ..options("int8") };
        quantize(&input, &dir.path().join("out"), &how)
            .map(|report| report.tensors.into_iter().map(|t| t.name).collect::<Vec<_>>().join(" "))
            .map_err(|e| e.to_string())
    };
    for (tensors, skip, expected) in [
        (&[][..], &[][..], "a.weight b.weight conv.weight"),
        (&["*.weight"], &[], "a.weight b.weight conv.weight"),
        (&["a*", "b.*"], &[], "a.weight b.weight"),
        (&[], &["{a,conv}.weight"], "b.weight"),
        (&["[ab].weight"], &["b.weight"], "a.weight"),
    ] {
        assert_eq!(chosen(tensors, skip).unwrap(), expected);
    }
    for (tensors, skip, expected) in [
        (
            &["norm.weight"][..],
            &[][..],
            "--tensors \"norm.weight\": matches nothing that would be quantized; these would: a.weight, b.weight, conv.weight",
        ),
        (&["a*", "*.bias"], &[], "--tensors \"*.bias\": matches nothing that would be quantized"),
        (&["a*"], &["b*"], "--skip \"b*\": matches nothing that would be quantized; these would: a.weight"),
        (&["["], &[], "--tensors \"[\": not a glob: "),
        (
            &[],
            &["*"],
            "nothing to quantize: expected a tensor of floats with at least two dimensions, found all of them skipped",
        ),
    ] {
        let error = chosen(tensors, skip).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_cannot_be_done_is_told_before_anything_is_written() {
    let (dir, input) = workshop();
    let output = dir.path().join("out");
    let ones = vec![1f32; 96 * 3];
    let misfits = dir.path().join("misfits");
    let rows = [("a", 96), ("b", 32), ("c", 24), ("d", 7)].map(|(name, row)| (name, Dtype::F32, [3, row]));
    let tensors: Vec<_> = rows.iter().map(|(n, d, s)| (*n, *d, &s[..], &ones[..s[0] * s[1]])).collect();
    save(&misfits, &tensors, &[]);
    save(&dir.path().join("vector"), &[("v", Dtype::F32, &[4], &ones[..4])], &[]);
    save(
        &dir.path().join("taken"),
        &[("w", Dtype::F32, &[2, 4], &ones[..8]), ("w_scale", Dtype::F32, &[1], &[1.])],
        &[],
    );
    save(
        &dir.path().join("shape"),
        &[("w", Dtype::F32, &[1, 32], &ones[..32]), ("w_shape", Dtype::F32, &[1], &[1.])],
        &[],
    );
    let before = names_in(dir.path());
    let at = |name: &str| dir.path().join(name);
    for (file, scheme, expected) in [
        (
            "in.safetensors",
            "input int8 token f32 dynamic",
            "scheme `input int8 token f32 dynamic`: no weight quantizer; take a scheme",
        ),
        (
            "misfits",
            "int4-g64",
            "a: int4 g64 bf16 needs rows of whole groups of 64, but they are of 96 (96 % 64 ≠ 0); groups that fit: 32, 96; or leave it and 3 more that do not fit out (--skip GLOB, --tensors GLOB)",
        ),
        (
            "misfits",
            "int4-g32",
            "c: int4 g32 bf16 needs rows of whole groups of 32, but they are of 24 (24 % 32 ≠ 0); groups that fit: 8, 24; or leave it and 1 more that does not fit out",
        ),
        (
            "vector",
            "int8",
            "vector: nothing to quantize: expected a tensor of floats with at least two dimensions, found 1 tensors, none of that kind",
        ),
        (
            "taken",
            "int8",
            "taken: tensor \"w_scale\" is there already, and a part of \"w\" would get that name; leave one out (--skip)",
        ),
        ("shape", "mxfp4", "shape: tensor \"w_shape\" is there already"),
        ("none", "int8", "none: no model weights"),
    ] {
        let error = quantize(&at(file), &output, &options(scheme)).unwrap_err().to_string();
        assert!(error.contains(expected), "{file} {scheme}: {error}");
        assert_eq!(names_in(dir.path()), before, "{file} {scheme}");
    }
    // What was refused for one group is taken for another, or without the tensor.
    let how = QuantizeOptions { skip: vec!["[cd]".into()], replace: true, ..options("int4-g32") };
    assert_eq!(quantize(&misfits, &output, &how).unwrap().tensors.len(), 2);

    // What is there stays, unless asked for.
    let was = fs::read(&output).unwrap();
    let error = quantize(&input, &output, &options("int8")).unwrap_err().to_string();
    assert!(error.ends_with("out: a file is there already; give another name, or --force"), "{error}");
    assert!(matches!(
        quantize(&input, dir.path(), &options("int8")),
        Err(Error::Occupied { forcible: false, .. })
    ));
    assert!(fs::read(&output).unwrap() == was);
    assert!(quantize(&input, &output, &QuantizeOptions { replace: true, ..options("int8") }).is_ok());

    // Nor is anything that is no plain file, or that was read, even when asked for.
    let force = QuantizeOptions { replace: true, ..options("int8") };
    #[cfg(unix)]
    {
        let (link, socket) = (at("link"), at("socket"));
        std::os::unix::fs::symlink(at("nowhere"), &link).unwrap();
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for taken in [link, socket] {
            let refused = quantize(&input, &taken, &force);
            assert!(matches!(refused, Err(Error::Occupied { forcible: false, .. })), "{}", taken.display());
            assert!(!fs::symlink_metadata(&taken).unwrap().is_file(), "{}", taken.display());
        }
    }
    let index = at("model.safetensors.index.json");
    save(&at("one.safetensors"), &[("w", Dtype::F32, &[2, 32], &[0.5; 64])], &[]);
    let map = r#"{"weight_map": {"w": "one.safetensors"}}"#;
    fs::write(&index, map).unwrap();
    assert!(matches!(quantize(&index, &index, &force), Err(Error::Occupied { forcible: false, .. })));
    assert_eq!(fs::read_to_string(&index).unwrap(), map);

    // Codes are not quantized again.
    let error = quantize(&output, &at("again"), &options("int4-g32")).unwrap_err().to_string();
    assert!(
        error.contains("packed already, as `weight int8 channel f32, input int8 token f32 dynamic`"),
        "{error}"
    );
}

#[test]
fn values_that_are_none_are_named_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    for (name, bad) in [("int8", f32::NAN), ("nvfp4", f32::INFINITY), ("uint4 g32 bf16", f32::NEG_INFINITY)] {
        let scheme = if name.contains(' ') { format!("weight {name}") } else { name.into() };
        for fake in [false, true] {
            let mut values = vec![1f32; 128];
            values[70] = bad;
            let fine = vec![1f32; 32];
            save(&input, &[("a", Dtype::F32, &[1, 32], &fine), ("w", Dtype::F32, &[2, 64], &values)], &[]);
            fs::write(&output, "mine").unwrap();
            let how = QuantizeOptions { fake, replace: true, ..options(&scheme) };
            let error = quantize(&input, &output, &how).unwrap_err();
            assert!(matches!(&error, Error::NonFinite { tensor, index: 70, .. } if tensor == "w"), "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("tensor \"w\" holds {bad} at element 70")), "{text}");
            assert_eq!(names_in(dir.path()), ["in", "out"]);
            assert_eq!(fs::read(&output).unwrap(), b"mine");
        }
    }
}

#[test]
fn whoever_has_seen_enough_can_stop_it() {
    let (dir, input) = workshop();
    for stop in 1..16 {
        let mut left = stop;
        let result = quantize_file(&input, dir.path().join("out"), &options("int8"), &mut |_: Progress| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // 9 tensors written, 6 compared.
        assert!(matches!(result, Err(Error::Stopped)) == (stop <= 15), "{stop}");
        assert_eq!(names_in(dir.path()), ["in.safetensors"]);
    }
}

#[test]
fn tensors_that_are_cut_into_pieces_are_whole_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    // Rows of an odd number of groups, and more values than are worked on at a time.
    let shape = [1300, 7 * 128];
    let mut draw = Draw::new(5);
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| draw.bell()).collect();
    save(&input, &[("w", Dtype::F32, &shape, &values)], &[]);
    for scheme in ["fp8", "int3-g64", "nvfp4", "q4_0", "weight uint4 g128 f16", "weight int8 tensor f32"] {
        let how = QuantizeOptions { replace: true, ..options(scheme) };
        quantize(&input, &output, &how).unwrap();
        let read = PackedFile::open(&output).unwrap().load("w").unwrap();
        let whole = Packed::pack("w", &values, &shape, read.spec()).unwrap();
        assert!(read == whole, "{scheme}");
        assert_eq!(first_difference(&read.decode().unwrap(), &whole.unpack().dequantize()), None, "{scheme}");
        let how = QuantizeOptions { fake: true, ..how };
        quantize(&input, &output, &how).unwrap();
        let fake = SafetensorsFile::open(&output).unwrap().read_f32("w").unwrap();
        assert_eq!(first_difference(&read.decode().unwrap(), &fake), None, "{scheme}");
    }
}
