//! A recipe against the layers of a model.

use trimwick_recipe::{LayerKind, LayerShape, PruneRule, Recipe};

fn model(hidden: usize, mlp: usize, depth: usize) -> Vec<LayerShape> {
    let layer =
        |path: String, kind, shape: &[usize]| LayerShape { path, kind, shape: shape.to_vec(), bias: false };
    let mut layers = vec![layer("model.embed_tokens".into(), LayerKind::Embedding, &[100, hidden])];
    for i in 0..depth {
        let at = format!("model.layers.{i}");
        layers.push(layer(format!("{at}.input_layernorm"), LayerKind::Norm, &[hidden]));
        for name in ["q_proj", "o_proj"] {
            layers.push(layer(format!("{at}.self_attn.{name}"), LayerKind::Linear, &[hidden, hidden]));
        }
        layers.push(layer(format!("{at}.mlp.up_proj"), LayerKind::Linear, &[mlp, hidden]));
        layers.push(layer(format!("{at}.mlp.down_proj"), LayerKind::Linear, &[hidden, mlp]));
    }
    layers.push(layer("lm_head".into(), LayerKind::Linear, &[100, hidden]));
    layers
}

fn recipe(overrides: &[&str]) -> Recipe {
    let text = "[model]\nsource = \"builtin:tiny-llama\"\n[data]\ntrain = \"builtin:sotu-train\"\n\
                eval = \"builtin:sotu-eval\"\n[prune]\npattern = \"2:4\"\n[train]\nsteps = 9\nlr = 1e-4\n";
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    Recipe::parse(text, "r.toml", &overrides).unwrap_or_else(|faults| panic!("{faults}"))
}

/// Adapters train in the place of weights, and scales that are learned have names of their own.
#[test]
fn groups_name_what_trains() {
    let learned = "quantize={scheme=\"int8-static\",scales=\"learned\"}";
    let layers = model(64, 64, 2);
    let check = |others: &[&str], pattern: &str| {
        let groups = format!("train.groups=[{{pattern={pattern:?},lr_scale=2}}]");
        let mut overrides = vec!["lora.rank=2", "prune=", learned, &groups];
        overrides.retain(|o| !others.contains(&o.split(['=', '.']).next().unwrap_or("")) || *o == groups);
        recipe(&overrides).check_layers(&layers).map(drop).map_err(|faults| faults.to_string())
    };
    for pattern in ["*.lora_a", "*_log2_scale", "*.1.mlp.up_proj.weight_log2_scale", "*input_log2_scale", "*"]
    {
        check(&[], pattern).unwrap_or_else(|faults| panic!("{pattern}: {faults}"));
    }
    for (others, pattern, nearest) in [
        (vec![], "*proj.weight", "weight_log2_scale"),
        (vec!["lora"], "*.lora_a", ".weight"),
        (vec!["quantize"], "*_log2_scale", "lora_"),
    ] {
        let faults = check(&others, pattern).unwrap_err();
        assert!(
            faults.contains("a pattern that matches a parameter that trains") && faults.contains(nearest),
            "{faults}"
        );
    }
}

#[test]
fn the_table_says_which_rule_governs_each_layer() {
    let recipe = recipe(&[
        "prune.exclude=[\"*.1.mlp.down_proj\"]",
        "train.groups=[{pattern=\"*norm.weight\",lr_scale=0.5},{pattern=\"*.0.self_attn.*\",lr_scale=2,weight_decay=0.1}]",
    ]);
    let rules = recipe.check_layers(&model(8, 16, 3)).unwrap_or_else(|faults| panic!("{faults}"));
    let pruned: Vec<&str> = rules.pruned().collect();
    assert_eq!(pruned.len(), 11);
    assert!(!pruned.contains(&"model.layers.1.mlp.down_proj") && !pruned.contains(&"lm_head"));
    assert_eq!(rules.layers[0].prune, PruneRule::Untouched);
    assert_eq!(
        rules.to_string(),
        "\
model.embed_tokens                    ×1  [100, 8]  dense
model.layers.0-2.input_layernorm      ×3  [8]       dense; train.groups.0: lr ×0.5
model.layers.0.self_attn.q_proj       ×1  [8, 8]    2:4 by prune.layers \"model.layers.*\"; train.groups.1: lr ×2, weight decay 0.1
model.layers.0.self_attn.o_proj       ×1  [8, 8]    2:4 by prune.layers \"model.layers.*\"; train.groups.1: lr ×2, weight decay 0.1
model.layers.0-2.mlp.up_proj          ×3  [16, 8]   2:4 by prune.layers \"model.layers.*\"
model.layers.0,2.mlp.down_proj        ×2  [8, 16]   2:4 by prune.layers \"model.layers.*\"
model.layers.1-2.self_attn.q_proj     ×2  [8, 8]    2:4 by prune.layers \"model.layers.*\"
model.layers.1-2.self_attn.o_proj     ×2  [8, 8]    2:4 by prune.layers \"model.layers.*\"
model.layers.1.mlp.down_proj          ×1  [8, 16]   dense by prune.exclude \"*.1.mlp.down_proj\"
lm_head                               ×1  [100, 8]  dense"
    );
}

#[test]
fn patterns_without_a_layer_and_shapes_that_do_not_divide_are_faults() {
    for (overrides, hidden, mlp, expected) in [
        (
            &["prune.layers=[\"model.layer.*\"]"][..],
            8,
            16,
            vec![
                "override prune.layers=[\"model.layer.*\"]: prune.layers.0: expected a pattern that matches a layer that can be pruned, found \"model.layer.*\", which matches none; nearest: model.layers.0.mlp.up_proj, model.layers.0.mlp.down_proj, model.layers.0.self_attn.q_proj",
            ],
        ),
        (
            &["prune.layers=[\"*embed*\",\"*\"]"],
            8,
            16,
            vec![
                "override prune.layers=[\"*embed*\",\"*\"]: prune.layers.0: expected a pattern that matches a layer that can be pruned, found \"*embed*\", which matches none; nearest: lm_head, model.layers.0.mlp.down_proj, model.layers.0.mlp.up_proj",
            ],
        ),
        (
            &["prune.exclude=[\"lm_haed\"]"],
            8,
            16,
            vec![
                "override prune.exclude=[\"lm_haed\"]: prune.exclude.0: expected a pattern that matches a layer that can be pruned, found \"lm_haed\", which matches none; nearest: lm_head, model.layers.0.mlp.down_proj, model.layers.0.mlp.up_proj",
            ],
        ),
        (
            &["prune.exclude=[\"model.*\"]"],
            8,
            16,
            vec![
                "override prune.exclude=[\"model.*\"]: prune.exclude: has no effect: prune.exclude leaves no layer to prune; exclude less, or remove the section",
            ],
        ),
        (
            &[],
            6,
            16,
            vec![
                "r.toml:7: prune.pattern: model.layers.0.self_attn.q_proj and 5 more: expected inputs that are a multiple of 4 for 2:4, found 6; put the layer into prune.exclude, or take another pattern",
            ],
        ),
        (
            &[],
            6,
            10,
            vec![
                "r.toml:7: prune.pattern: model.layers.0.self_attn.q_proj and 5 more: expected inputs that are a multiple of 4 for 2:4, found 6; put the layer into prune.exclude, or take another pattern",
                "r.toml:7: prune.pattern: model.layers.0.mlp.down_proj and 1 more: expected inputs that are a multiple of 4 for 2:4, found 10; put the layer into prune.exclude, or take another pattern",
            ],
        ),
        (
            &[
                "train.groups=[{pattern=\"lm_head\",lr_scale=2},{pattern=\"*o_proj*\",lr_scale=2},{pattern=\"*_proj*\",lr_scale=3}]",
            ],
            8,
            16,
            vec![
                "override train.groups=[{pattern=\"lm_head\",lr_scale=2},{pattern=\"*o_proj*\",lr_scale=2},{pattern=\"*_proj*\",lr_scale=3}]: train.groups.0.pattern: expected a pattern that matches a parameter that trains, found \"lm_head\", which matches none; nearest: lm_head.weight, model.embed_tokens.weight, model.layers.0.mlp.up_proj.weight",
                "override train.groups=[{pattern=\"lm_head\",lr_scale=2},{pattern=\"*o_proj*\",lr_scale=2},{pattern=\"*_proj*\",lr_scale=3}]: train.groups.1.pattern: has no effect: later groups match every parameter that \"*o_proj*\" matches; remove the group, or put it after them",
            ],
        ),
    ] {
        let answer = recipe(overrides).check_layers(&model(hidden, mlp, 2)).unwrap_err().to_string();
        assert_eq!(answer, expected.join("\n"), "{overrides:?}");
    }
    assert!(
        recipe(&["prune.exclude=[\"lm_head\"]"]).check_layers(&model(8, 16, 2)).is_ok(),
        "named to say that it stays"
    );
    assert!(
        recipe(&["prune.pattern=unstructured", "prune.sparsity=0.5"]).check_layers(&model(6, 10, 2)).is_ok()
    );
}

#[test]
fn a_context_beyond_the_model_is_a_fault() {
    assert!(recipe(&[]).check_context(512).is_ok());
    assert_eq!(
        recipe(&["data.context=1024"]).check_context(512).unwrap_err().to_string(),
        "override data.context=1024: data.context: expected at most the model's 512 positions, found 1024; lower it, or take another model"
    );
}

#[test]
fn of_a_streamed_model_only_blocks_are_compressed() {
    let text = "[model]\nsource = \"builtin:tiny-llama\"\nstream = true\n[data]\ntrain = \"builtin:sotu-train\"\n\
                eval = \"builtin:sotu-eval\"\n[prune]\npattern = \"2:4\"\n[quantize]\nscheme = \"int8\"\n\
                [export]\ndtype = \"f32\"\n";
    let check = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let recipe = Recipe::parse(text, "r.toml", &overrides).unwrap_or_else(|faults| panic!("{faults}"));
        recipe.check_layers(&model(8, 16, 2)).map(drop).map_err(|faults| faults.to_string())
    };
    check(&[]).unwrap();
    for (changed, key, layer) in [
        ("prune.layers=[\"*\"]", "prune.layers", "lm_head"),
        ("quantize.rules=[{layers=\"*embed_tokens\",scheme=\"int8\"}]", "quantize", "model.embed_tokens"),
    ] {
        let message = check(&[changed]).unwrap_err();
        let expected = format!(
            "{key}: expected layers of decoder blocks alone beside model.stream = true, found {layer}; leave it out, or remove model.stream"
        );
        assert!(message.contains(&expected), "{message}");
    }
}
