//! Passes and budgets: what a sound recipe says of them, and against the layers of a model.

use trimwick_recipe::{
    BudgetLimit, GptqOrder, GptqScales, GptqSolver, GptqSpec, LayerKind, LayerShape, PassSpec, Recipe, Score,
    SmoothAlpha,
};

fn text(quantize: &str) -> String {
    format!(
        "[model]\nsource = \"builtin:tiny-llama\"\n[data]\ntrain = \"builtin:sotu-train\"\n\
         eval = \"builtin:sotu-eval\"\n{quantize}\n"
    )
}

fn recipe(quantize: &str) -> Recipe {
    Recipe::parse(&text(quantize), "r.toml", &[]).unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn what_is_resolved_reads_as_the_same() {
    for (quantize, lines) in [
        (
            "[quantize]\nscheme = \"int8\"\npasses = [\"smoothquant\", \"bias-correction\"]",
            "passes = [\"smoothquant\", \"bias-correction\"]\npass_tokens = 512\n\n[quantize.smoothquant]\nalpha = \"search\"\nsteps = 20\n",
        ),
        (
            "[quantize]\nscheme = \"w4a8\"\nscales = \"frozen\"\npasses = [\"smoothquant\", \"gptq\"]\npass_tokens = 64\n\
             [quantize.smoothquant]\nalpha = 1",
            "pass_tokens = 64\n\n[quantize.smoothquant]\nalpha = 1.0\n\n[quantize.gptq]\norder = \"natural\"\ndamping = 0.01\nblock = 128\njoint = false\n",
        ),
        (
            "[quantize]\nscheme = \"int4-g64\"\nscales = \"learned\"\npasses = [\"awq-scale\", \"svdquant\", \"awq-clip\", \"gptq\"]\n\
             [quantize.svdquant]\nrank = 8",
            "[quantize.awq]\nsteps = 10\n\n[quantize.svdquant]\nrank = 8\n\n[quantize.gptq]\norder = \"natural\"\ndamping = 0.01\n",
        ),
        (
            "[prune]\npattern = \"unstructured\"\nsparsity = 0.5\n[quantize]\nscheme = \"int4-g64\"\nscales = \"frozen\"\n\
             passes = \"gptq\"\n[quantize.gptq]\njoint = true\norder = \"activation\"",
            "[quantize.gptq]\norder = \"activation\"\njoint = true\n",
        ),
        (
            "[quantize]\npasses = [\"smoothquant\"]\n[quantize.budget]\nbytes = 1e6\nscore = \"kl\"\ncandidates = [\"w4a8\", \"int8\"]\n\
             [[quantize.rules]]\nlayers = \"lm_head\"\nscheme = \"int8\"",
            "layers = [\"model.layers.*\"]\nscales",
        ),
    ] {
        let first = recipe(quantize);
        let resolved = first.resolve();
        assert!(resolved.contains(lines), "{lines}\nis not in\n{resolved}");
        let again =
            Recipe::parse(&resolved, "r.toml", &[]).unwrap_or_else(|faults| panic!("{faults}\n{resolved}"));
        assert_eq!(again, first, "{resolved}");
        assert!(first.calibration.is_some());
    }
    // A recipe without them is the recipe that it was.
    let plain = text("[quantize]\nscheme = \"int4-g64\"").replace("train = \"builtin:sotu-train\"\n", "");
    let plain = Recipe::parse(&plain, "r.toml", &[]).unwrap().resolve();
    assert!(
        !plain.contains("pass") && !plain.contains("budget") && !plain.contains("[calibration]"),
        "{plain}"
    );
}

#[test]
fn options_are_read() {
    let spec = recipe(
        "[quantize]\nscheme = \"w4a8-g64\"\nscales = \"frozen\"\npasses = [\"smoothquant\", \"awq-scale\", \"gptq\"]\n\
         [quantize.smoothquant]\nsteps = 5\n[quantize.awq]\nsteps = 4\n\
         [quantize.gptq]\nscales = \"static\"\ndamping = 0.1\nblock = 32",
    )
    .quantize
    .unwrap();
    let solver = Some(GptqSolver { damping: 0.1, block: 32 });
    let gptq = GptqSpec { order: GptqOrder::Natural, scales: GptqScales::Static, solver };
    let expected = [
        PassSpec::SmoothQuant(SmoothAlpha::Search(5)),
        PassSpec::AwqScale { steps: 4 },
        PassSpec::Gptq(gptq),
    ];
    assert_eq!((spec.passes.as_slice(), spec.pass_tokens, spec.joint()), (&expected[..], 512, false));
    let budget =
        recipe("[quantize.budget]\nbits = 5\ncandidates = [\"int4-g64\", \"int8-weight\"]").quantize.unwrap();
    let budget = budget.budget.unwrap();
    assert_eq!(
        (budget.limit, budget.score, budget.candidates.len()),
        (BudgetLimit::Bits(5.), Score::Gradient, 2)
    );
}

fn model(bias: bool) -> Vec<LayerShape> {
    let layer = |path: &str, kind, shape: &[usize]| LayerShape {
        path: path.into(),
        kind,
        shape: shape.to_vec(),
        bias,
    };
    vec![
        layer("model.embed_tokens", LayerKind::Embedding, &[100, 64]),
        layer("model.layers.0.input_layernorm", LayerKind::Norm, &[64]),
        layer("model.layers.0.self_attn.q_proj", LayerKind::Linear, &[64, 64]),
        layer("model.layers.0.mlp.down_proj", LayerKind::Linear, &[64, 96]),
        layer("lm_head", LayerKind::Linear, &[100, 64]),
    ]
}

#[test]
fn layers_that_passes_and_budgets_cannot_take_are_named() {
    let gptq = "scales = \"frozen\"\npasses = [\"gptq\"]\n[quantize.gptq]\njoint = true";
    for (quantize, expected) in [
        ("[quantize]\nscheme = \"int8\"\npasses = [\"bias-correction\"]".to_string(),
         "r.toml:8: quantize.passes.0: has no effect: no quantized layer of the model has a bias; leave the pass out, or quantize other layers"),
        ("[quantize]\nscheme = \"int8\"\nlayers = [\"model.embed_tokens\"]\npasses = [\"awq-scale\"]".into(),
         "r.toml:9: quantize.passes.0: has no effect: no linear layer of the model is quantized as \"awq-scale\" needs it; leave the pass out, or quantize other layers"),
        ("[quantize]\nscheme = \"int8\"\npasses = [\"svdquant\"]\n[quantize.svdquant]\nrank = 64".into(),
         "r.toml:10: quantize.svdquant.rank: model.layers.0.self_attn.q_proj: expected sides above quantize.svdquant.rank = 64, found [64, 64]; lower the rank, or quantize other layers"),
        (format!("[prune]\npattern = \"2:4\"\n[quantize]\nscheme = \"int8\"\nlayers = [\"*.mlp.*\"]\n{gptq}"),
         "r.toml:14: quantize.gptq.joint: expected a scheme of weights for every layer that is pruned in the same pass, found model.layers.0.self_attn.q_proj; put the layer into prune.exclude, or quantize it"),
        ("[quantize.budget]\nbits = 4.2\ncandidates = [\"int4-g32\", \"int8-weight\"]".into(),
         "r.toml:7: quantize.budget.bits: expected at least 4.500, what the smallest candidates take, found 4.2; raise it, or add smaller candidates"),
        ("[quantize.budget]\nbytes = 5000\ncandidates = [\"int4-g32\", \"int8-weight\"]".into(),
         "r.toml:7: quantize.budget.bytes: expected at least 5760, what the smallest candidates take, found 5000; raise it, or add smaller candidates"),
        ("[quantize]\nlayers = [\"model.embed_tokens\", \"model.layers.*\"]\n[quantize.budget]\nbits = 6\ncandidates = [\"int4-g32\", \"int8-weight\"]".into(),
         "r.toml:7: quantize.layers: expected linear layers alone beside quantize.budget, found model.embed_tokens; give it a scheme of its own in [[quantize.rules]]"),
        ("[quantize.budget]\nbits = 6\ncandidates = [\"int8-weight\", \"int4-g64\"]".into(),
         "r.toml:8: quantize.budget.candidates.1: expected candidates that every layer under the budget can take, found model.layers.0.mlp.down_proj: int4 g64 bf16 needs rows of whole groups of 64, but they are of 96 (96 % 64 ≠ 0); groups that fit: 32, 96; change the candidate or the layers"),
    ] {
        match recipe(&quantize).check_layers(&model(false)) {
            Ok(rules) => panic!("{quantize}: accepted\n{rules}"),
            Err(faults) => assert_eq!(faults.to_string(), expected, "{quantize}"),
        }
    }
    let biased = recipe("[quantize]\nscheme = \"int8\"\npasses = [\"bias-correction\"]");
    assert!(biased.check_layers(&model(true)).is_ok());
    let budget = "[quantize.budget]\nbits = 6\ncandidates = [\"int4-g32\", \"int8-weight\"]\n[[quantize.rules]]\nlayers = \"*.q_proj\"\nscheme = \"int8\"";
    let rules = recipe(budget).check_layers(&model(false)).unwrap();
    let of = |path: &str| rules.layers.iter().find(|rule| rule.path.ends_with(path)).unwrap().quant.clone();
    assert!(of("down_proj").unwrap().budgeted() && of("lm_head").is_none());
    assert_eq!(of("q_proj").unwrap().scheme, "int8");
    assert!(rules.to_string().contains("; budget by \"model.layers.*\""), "{rules}");
}
