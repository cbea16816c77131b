//! `[quantize]` and `[lora]`.

use super::check;

/// Lines put over those of a recipe by their numbers, and the faults that they are.
type Row = (Vec<(usize, &'static str)>, Vec<&'static str>);

#[test]
fn schemes_scales_and_ranges_are_checked() {
    let quantize = |text: &'static str| vec![(7, "[quantize]"), (8, text)];
    let rows: Vec<Row> = vec![
        (
            quantize("scheme = \"int8\"\nstart = 100"),
            vec![
                "r.toml:9: quantize.start: expected fewer than the 100 steps of training, found 100; lower it: no step would train on the grid",
            ],
        ),
        (
            quantize("scheme = \"int8\"\nfreeze = 5"),
            vec![
                "r.toml:9: quantize.freeze: has no effect: no scale is an average or learned; remove it, or write scales = \"learned\"",
            ],
        ),
        (
            quantize("scheme = \"int8\"\nscales = \"learned\"\nfreeze = 100"),
            vec![
                "r.toml:10: quantize.freeze: expected fewer than the 100 steps of training, found 100; lower it, or remove it",
            ],
        ),
        (
            quantize("scheme = \"int8\"\nscales = \"learned\"\nstart = 5\nfreeze = 5"),
            vec![
                "r.toml:11: quantize.freeze: expected a step after quantize.start = 5, found 5; raise it, or start earlier",
            ],
        ),
        (
            quantize("scheme = \"none\"\nfreeze = 5"),
            vec![
                "r.toml:8: quantize.scheme: has no effect: no layer is quantized; name a scheme, or remove the section",
                "r.toml:9: quantize.freeze: has no effect: no scale is an average or learned; remove it, or write scales = \"learned\"",
            ],
        ),
        (
            quantize("scheme = \"int4-g64\"\ninput_range = \"mse\""),
            vec![
                "r.toml:9: quantize.input_range: has no effect: no input has a static scale; remove it, or take a static input such as int8-static",
            ],
        ),
        (
            quantize("scheme = \"input int8 token dynamic\"\nscales = \"frozen\"\nrange = \"mse\""),
            vec![
                "r.toml:9: quantize.scales: has no effect: no scale of a weight or of a static input is kept; remove it",
                "r.toml:10: quantize.range: has no effect: no weight is quantized; remove it, or quantize weights",
            ],
        ),
        (
            quantize("scheme = \"int8\"\nema = 0.5\nscale_lr = 2\npercentile = 99"),
            vec![
                "r.toml:9: quantize.ema: has no effect: no average is taken; remove it, or write scales = \"ema\"",
                "r.toml:10: quantize.scale_lr: has no effect: no scale is learned; remove it, or write scales = \"learned\"",
                "r.toml:11: quantize.percentile: has no effect: no range is a percentile; remove it, or write range = \"percentile\"",
            ],
        ),
        (
            quantize("bits = 4\nignore = [\"lm_head\"]"),
            vec![
                "r.toml:7: quantize.scheme: missing: expected a scheme, or rules that give one to some layers, found nothing; add for example scheme = \"int4-g32\"",
                "r.toml:8: quantize.bits: unknown key; name a scheme, for example quantize.scheme = \"int4-g32\"",
                "r.toml:9: quantize.ignore: unknown key; add a rule: [[quantize.rules]] with layers = \"…\" and scheme = \"none\"",
            ],
        ),
        (
            quantize("layers = [\"*\"]\n[[quantize.rules]]\nlayers = \"lm_head\"\nscheme = \"int8\""),
            vec![
                "r.toml:8: quantize.layers: has no effect: there is no quantize.scheme for them; remove it, or add a scheme",
            ],
        ),
        (
            quantize("scheme = \"nvfp4\"\nkv_cache = \"fp4\""),
            vec![
                "r.toml:9: quantize.kv_cache: expected \"none\", \"fp8\" or \"int8\", found the string \"fp4\"; did you mean `fp8`?",
            ],
        ),
    ];
    for (changes, expected) in rows {
        check(&[(&changes, &expected)]);
    }
    let message = super::answer(&super::with(&quantize("scheme = \"int4-g33\"")), &[]);
    assert!(message.starts_with("r.toml:8: quantize.scheme: expected a scheme (scheme \"int4-g33\": unknown; did you mean \"int4-g32\"?"), "{message}");
    let message = super::answer(&super::with(&quantize("scheme = \"int8\"\nrange = \"mse\"")), &[]);
    assert!(
        message.contains("quantize.scales: expected scales and ranges that go with the scheme"),
        "{message}"
    );
    assert!(message.contains("dynamic scales follow the largest magnitude"), "{message}");
}

#[test]
fn what_goes_with_a_grid_is_checked() {
    check(&[
        (
            &[
                (8, "pattern = \"2:4\"\n[quantize]\nscheme = \"int8\""),
                (11, "lr = 1e-4\n[export]\ndtype = \"bf16\""),
            ],
            &[
                "r.toml:15: export.dtype: expected \"f32\" beside [quantize], found \"bf16\"; write export.dtype = \"f32\": 16 bits round every value off its grid",
            ],
        ),
        (
            &[(7, "[quantize]"), (8, "scheme = \"int8\""), (11, "lr = 1e-4\n[calibration]\nwindows = 4")],
            &[
                "r.toml:12: calibration: has no effect: no input has a static scale; remove the section, or write prune.method = \"sparsegpt\"",
            ],
        ),
        (
            &[(7, "[quantize]"), (8, "scheme = \"int8\"\nstart = 1"), (9, ""), (10, ""), (11, "")],
            &[
                "r.toml:5: data.train: has no effect: nothing trains or calibrates; remove it, or add a section [train]",
                "r.toml:9: quantize.start: has no effect: there are no training steps; remove it, or add a section [train]",
            ],
        ),
        (
            &[(7, "[lora]"), (8, "rank = 8"), (9, ""), (10, ""), (11, "")],
            &[
                "r.toml:5: data.train: has no effect: nothing trains or calibrates; remove it, or add a section [train]",
                "r.toml:7: lora: has no effect: nothing is trained; remove the section, or add [train]",
                "r.toml: prune: missing: expected a section [prune], [quantize] or [train], something to do, found nothing; add for example [prune] with pattern = \"2:4\"",
            ],
        ),
        (
            &[(8, "pattern = \"2:4\"\nschedule = \"refreshed\""), (11, "lr = 1e-4\n[lora]\ndropout = 0.1")],
            &[
                "r.toml:9: prune.schedule: expected \"one-shot\" beside [lora], whose weights stay, found \"refreshed\"; write prune.schedule = \"one-shot\", or remove the other section",
                "r.toml:14: lora.dropout: unknown key; adapters here have no dropout; remove it",
            ],
        ),
    ]);
}
