//! `quantize.passes`, the tables of their options, and `[quantize.budget]`.

use super::check;

const NAMES: &str =
    "\"smoothquant\", \"awq-scale\", \"svdquant\", \"awq-clip\", \"gptq\" or \"bias-correction\"";

/// `[quantize]` with these lines, from line 8 on, in the place of `[prune]`; and the faults, without `r.toml:`.
fn quantize(rows: &[(&str, &[&str])]) {
    for (text, expected) in rows {
        let expected: Vec<String> = expected.iter().map(|line| format!("r.toml:{line}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check(&[(&[(7, "[quantize]"), (8, text)], &expected)]);
    }
}

#[test]
fn passes_are_known_and_in_order() {
    let unknown = format!(
        "9: quantize.passes.0: expected {NAMES}, found the string \"awq\"; write \"awq-scale\", \"awq-clip\" or both"
    );
    let mistyped = format!(
        "9: quantize.passes.0: expected {NAMES}, found the string \"smoothqant\"; did you mean `smoothquant`?"
    );
    let number = format!(
        "9: quantize.passes: wrong type: expected a list of passes out of {NAMES}, in this order, found 3; write for example passes = []"
    );
    let order = NAMES.replace(" or ", ", ");
    let order = format!(
        "10: quantize.passes.1: expected \"awq-clip\" before \"gptq\", found them the other way round; keep to the order {order}"
    );
    quantize(&[
        ("scheme = \"int4-g64\"\npasses = [\"awq\"]", &[&unknown]),
        ("scheme = \"int8\"\npasses = \"smoothqant\"", &[&mistyped]),
        ("scheme = \"int8\"\npasses = 3", &[&number]),
        ("scheme = \"int4-g64\"\nscales = \"frozen\"\npasses = [\"gptq\", \"awq-clip\"]", &[&order]),
        (
            "scheme = \"int8\"\npasses = [\"smoothquant\", \"smoothquant\"]",
            &[
                "9: quantize.passes.1: has no effect: the pass \"smoothquant\" is in the list already; leave it out of the list",
            ],
        ),
        (
            "scheme = \"int8\"\nalgorithm = \"smoothquant\"",
            &["9: quantize.algorithm: unknown key; did you mean `quantize.passes`?"],
        ),
    ]);
}

#[test]
fn a_pass_needs_what_it_improves_and_scales_that_stay() {
    quantize(&[
        (
            "scheme = \"int4-g64\"\npasses = [\"smoothquant\"]",
            &[
                "9: quantize.passes.0: expected a scheme that quantizes inputs, such as int8, for the pass \"smoothquant\", found none; name one, or leave the pass out",
            ],
        ),
        (
            "scheme = \"input int8 token dynamic\"\npasses = [\"svdquant\", \"bias-correction\"]",
            &[
                "9: quantize.passes.0: expected a scheme that quantizes weights, such as int4-g64, for the pass \"svdquant\", found none; name one, or leave the pass out",
            ],
        ),
        (
            "scheme = \"weight int8 tensor\"\nscales = \"frozen\"\npasses = [\"awq-clip\"]",
            &[
                "10: quantize.passes.0: expected a scheme that has a scale for each row or group of a weight, such as int4-g64, for the pass \"awq-clip\", found none; name one, or leave the pass out",
            ],
        ),
        (
            "scheme = \"int4-g64\"\npasses = [\"gptq\"]",
            &[
                "7: quantize.scales: expected \"frozen\" or \"learned\" beside the pass \"gptq\", which chooses the scales, found \"dynamic\"; write scales = \"frozen\"",
            ],
        ),
        (
            "scheme = \"int4-g64\"\nscales = \"ema\"\nstart = 3\npasses = [\"awq-clip\"]",
            &[
                "9: quantize.scales: expected \"frozen\" or \"learned\" beside the pass \"awq-clip\", which chooses the scales, found \"ema\"; write scales = \"frozen\"",
                "10: quantize.start: expected 0 beside the pass \"awq-clip\", whose scales belong to the weights as they are, found 3; remove it, or the pass",
            ],
        ),
    ]);
}

#[test]
fn options_belong_to_passes_that_are_listed() {
    quantize(&[
        (
            "scheme = \"int8\"\npass_tokens = 64\n[quantize.smoothquant]\nalpha = 0.5",
            &[
                "9: quantize.pass_tokens: has no effect: there are no passes; remove it, or name some in quantize.passes",
                "10: quantize.smoothquant: has no effect: \"smoothquant\" is not among quantize.passes; remove it, or add \"smoothquant\" to quantize.passes",
            ],
        ),
        (
            "scheme = \"int8\"\npasses = [\"smoothquant\"]\n[quantize.smoothquant]\nalpha = 1.5\n[quantize.awq]",
            &[
                "11: quantize.smoothquant.alpha: expected a number from 0 up to 1, found 1.5; write for example alpha = \"search\"",
                "12: quantize.awq: has no effect: \"awq-scale\" is not among quantize.passes; remove it, or add \"awq-scale\" to quantize.passes",
            ],
        ),
        (
            "scheme = \"int8\"\npasses = [\"smoothquant\"]\n[quantize.smoothquant]\nalpha = \"serch\"\nstep = 3",
            &[
                "11: quantize.smoothquant.alpha: expected a number from 0 up to 1, or \"search\", found the string \"serch\"; write for example alpha = \"search\"",
                "12: quantize.smoothquant.step: unknown key; did you mean `quantize.smoothquant.steps`?",
            ],
        ),
        (
            "scheme = \"int8\"\npasses = [\"smoothquant\"]\n[quantize.smoothquant]\nalpha = 0.5\nsteps = 3",
            &[
                "12: quantize.smoothquant.steps: has no effect: alpha is a number; remove it, or write alpha = \"search\"",
            ],
        ),
        (
            "scheme = \"int4-g64\"\nscales = \"frozen\"\npasses = [\"gptq\"]\n[quantize.gptq]\norder = \"activation\"\nscales = \"static\"",
            &[
                "13: quantize.gptq.scales: has no effect: order \"activation\" finds all scales before the first column; remove it",
            ],
        ),
        (
            "scheme = \"int4-g64\"\nscales = \"frozen\"\npasses = [\"awq-clip\", \"gptq\"]\n[quantize.gptq]\nscales = \"static\"",
            &["12: quantize.gptq.scales: has no effect: \"awq-clip\" has chosen the scales; remove it"],
        ),
        (
            "scheme = \"w4a8\"\nscales = \"frozen\"\npasses = [\"gptq\"]\n[quantize.gptq]\nscales = \"static\"\ndesc_act = true",
            &[
                "12: quantize.gptq.scales: has no effect: no weight has scales of groups; remove it",
                "13: quantize.gptq.desc_act: unknown key; did you mean `quantize.gptq.order`?",
            ],
        ),
    ]);
}

#[test]
fn stages_compose_where_they_can() {
    let frozen = |more: &str| {
        format!(
            "scheme = \"int4-g64\"\nscales = \"frozen\"\npasses = [\"gptq\"]\n[quantize.gptq]\njoint = true{more}"
        )
    };
    let alone = frozen("");
    quantize(&[(
        &alone,
        &[
            "12: quantize.gptq.joint: expected a section [prune], to prune in the same pass, found none; add [prune] with a pattern, or remove joint",
        ],
    )]);
    let beside = |prune: &str, quantize: &str| format!("{prune}\n[quantize]\n{quantize}");
    let magnitude = beside("pattern = \"2:4\"\nmethod = \"magnitude\"", &frozen("\ndamping = 0.1"));
    let ordered = beside("pattern = \"2:4\"", &frozen("\norder = \"activation\""));
    let branch = beside("pattern = \"2:4\"", "scheme = \"int4-g64\"\npasses = [\"svdquant\"]");
    check(&[
        (
            &[(8, &magnitude)],
            &[
                "r.toml:15: quantize.gptq.joint: expected \"sparsegpt\", which the same solver does, found prune.method = \"magnitude\"; write method = \"sparsegpt\", or remove joint and have the mask before",
                "r.toml:16: quantize.gptq.damping: has no effect: joint = true takes those of [prune]; remove it, or write prune.damping",
            ],
        ),
        (
            &[(8, &ordered)],
            &[
                "r.toml:15: quantize.gptq.order: expected \"natural\" beside joint and 2:4, whose groups are columns in a row, found \"activation\"; change the order, or remove joint",
            ],
        ),
        (
            &[(8, &branch)],
            &[
                "r.toml:11: quantize.passes.0: expected no [prune] beside \"svdquant\": a residual has no zeros where the mask has, found both; leave one of them out",
            ],
        ),
    ]);
    quantize(&[(
        "scheme = \"int4-g64\"\npasses = [\"svdquant\"]\n[export]\ntargets = [\"gguf\"]",
        &[
            "11: export.targets: expected no format of another runtime beside \"svdquant\": none holds a branch, found gguf; remove export.targets; the model's folder holds weight and branch as one",
        ],
    )]);
    let streamed: &[(usize, &str)] = &[
        (3, "source = \"builtin:tiny-llama\"\nstream = true"),
        (7, "[quantize]"),
        (8, "passes = [\"smoothquant\"]\n[quantize.budget]\nbits = 5\ncandidates = [\"int8\", \"w4a8\"]"),
        (9, ""),
        (10, ""),
        (11, ""),
    ];
    check(&[(
        streamed,
        &[
            "r.toml:10: quantize.budget: expected a model that is in memory as a whole, to choose schemes for all of it, found model.stream = true; name schemes in [[quantize.rules]], or remove model.stream",
        ],
    )]);
}

#[test]
fn a_budget_is_one_number_and_a_choice() {
    let list = "a list of two or more schemes that quantize weights";
    let one = format!(
        "10: quantize.budget.candidates: expected {list}, found a list of 1; write for example candidates = [\"int4-g64\", \"int4-g32\", \"int8-weight\"]"
    );
    quantize(&[
        (
            "scheme = \"int8\"\n[quantize.budget]\nbits = 5\nbytes = 9\ncandidates = [\"int4-g64\", \"int8-weight\"]",
            &[
                "8: quantize.scheme: has no effect: quantize.budget chooses the schemes; remove either",
                "10: quantize.budget.bits: expected one of bits and bytes, found 5.0 beside bytes; remove one of them",
            ],
        ),
        (
            "[quantize.budget]\ncandidates = [\"int4-g64\", \"int8-weight\"]\nscore = \"hessian\"",
            &[
                "8: quantize.budget.bits: missing: expected bits, or bytes, what the weights may take, found nothing; add for example bits = 5.0",
                "10: quantize.budget.score: expected \"gradient\" or \"kl\", found the string \"hessian\"; write one of them",
            ],
        ),
        ("[quantize.budget]\nbits = 5\ncandidates = [\"int4-g64\"]", &[&one]),
        (
            "[quantize.budget]\neffective_bits = 5\nbits = 5\ncandidates = [\"none\", \"int8\", \"int8\", \"input int8 token dynamic\"]",
            &[
                "9: quantize.budget.effective_bits: unknown key; did you mean `quantize.budget.bits`?",
                "11: quantize.budget.candidates.0: expected a scheme that quantizes weights, found the string \"none\"; write for example candidates = [\"int4-g64\", \"int4-g32\", \"int8-weight\"]",
                "11: quantize.budget.candidates.2: has no effect: the scheme \"int8\" is in the list already; leave it out of the list",
                "11: quantize.budget.candidates.3: expected a scheme that quantizes weights, found the string \"input int8 token dynamic\"; write for example candidates = [\"int4-g64\", \"int4-g32\", \"int8-weight\"]",
            ],
        ),
    ]);
}

/// Passes look at activations: they need the text, and the windows mean something.
#[test]
fn passes_calibrate() {
    let windows = (11, "lr = 1e-4\n[calibration]\nwindows = 4");
    let quantize = "scheme = \"int8\"\npasses = [\"smoothquant\"]";
    let accepted = super::answer(&super::with(&[(7, "[quantize]"), (8, quantize), windows]), &[]);
    assert!(accepted.starts_with("accepted"), "{accepted}");
    check(&[(
        &[(5, ""), (7, "[quantize]"), (8, quantize), (9, ""), (10, ""), (11, "")],
        &[
            "r.toml:4: data.train: missing: expected a text, since the method calibrates on it, found nothing; add for example train = \"builtin:sotu-train\"",
        ],
    )]);
}

/// A text of its own takes the place of the training text.
#[test]
fn calibration_reads_one_text() {
    let own = |text: &str| format!("lr = 1e-4\n[calibration]\ndata = {text}");
    let quantize = "scheme = \"int8\"\npasses = [\"smoothquant\"]";
    let known = own("\"builtin:sotu-train\"");
    let accepted = super::answer(&super::with(&[(7, "[quantize]"), (8, quantize), (11, &known)]), &[]);
    assert!(accepted.starts_with("accepted"), "{accepted}");
    check(&[
        (
            &[(7, "[quantize]"), (8, quantize), (11, &own("\"sotu-train\""))],
            &[
                "r.toml:14: calibration.data: expected \"builtin:NAME\", a file or glob pattern, or { files = [\u{2026}] }, found the string \"sotu-train\"; did you mean `builtin:sotu-train`?",
            ],
        ),
        (
            &[(7, "[quantize]"), (8, quantize), (9, ""), (10, ""), (11, "[calibration]\ndata = \"a.txt\"")],
            &[
                "r.toml:5: data.train: has no effect: calibration.data is calibrated on; remove it, or add a section [train]",
            ],
        ),
    ]);
}
