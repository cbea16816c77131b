//! Which rule governs which layer.

use trimwick_nn::LayerKind;
use trimwick_quant::{Rule, govern};

const LAYERS: [(&str, LayerKind, &[usize]); 7] = [
    ("model.embed_tokens", LayerKind::Embedding, &[100, 576]),
    ("model.layers.0.self_attn.q_proj", LayerKind::Linear, &[576, 576]),
    ("model.layers.0.mlp.up_proj", LayerKind::Linear, &[1536, 576]),
    ("model.layers.0.mlp.down_proj", LayerKind::Linear, &[576, 1536]),
    ("model.layers.1.self_attn.q_proj", LayerKind::Linear, &[576, 576]),
    ("model.layers.1.mlp.up_proj", LayerKind::Linear, &[1536, 576]),
    ("lm_head", LayerKind::Linear, &[100, 576]),
];

fn rules(text: &[(&str, &str)]) -> Vec<Rule> {
    let rule = |(pattern, scheme): &(&str, &str)| Rule {
        pattern: pattern.to_string(),
        scheme: (*scheme != "none").then(|| scheme.parse().unwrap()),
    };
    text.iter().map(rule).collect()
}

/// The index of each layer's rule as a digit, `-` for none.
fn governed(text: &[(&str, &str)]) -> String {
    let found = govern(&rules(text), LAYERS.into_iter()).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    found.iter().map(|g| g.map_or('-', |i| char::from_digit(i as u32, 10).unwrap())).collect()
}

#[test]
fn the_last_match_wins_and_heads_and_embeddings_have_to_be_meant() {
    for (text, want) in [
        (vec![("*", "int8")], "-00000-"),
        (vec![("model.*", "int8")], "-00000-"),
        (vec![("model.layers.*", "int8"), ("*.down_proj", "int4-g128")], "-00100-"),
        (vec![("*", "int8"), ("*.1.*", "none")], "-00011-"),
        (vec![("*", "int8"), ("lm_head", "int8-weight")], "-000001"),
        (vec![("*", "int8"), ("*head", "int8-weight")], "-000001"),
        (vec![("*", "int8"), ("{lm_head,model.embed_tokens}", "int8-weight")], "1000001"),
        (vec![("{lm_head,*.q_proj}", "int8")], "-0--0-0"),
        (vec![("{lm_*,*.q_proj}", "int8")], "-0--0--"),
        (vec![("model.embed*", "int8")], "0------"),
        (vec![("*.up_proj", "int8"), ("*.0.*", "int4-g64"), ("*.0.mlp.*", "none")], "-122-0-"),
        (vec![("model.layers.[0].mlp.*_proj", "int8")], "--00---"),
    ] {
        assert_eq!(governed(&text), want, "{text:?}");
    }
    assert_eq!(govern(&[], LAYERS.into_iter()).unwrap(), [None; 7]);
}

#[test]
fn a_rule_that_changes_nothing_or_cannot_be_is_an_error() {
    for (text, parts) in [
        (vec![("modle.*", "int8")], vec!["modle.*", "matches no layer", "model.embed_tokens", "7 layers"]),
        (vec![("[", "int8")], vec!["["]),
        (vec![("*.q_proj", "int8"), ("*", "int4-g64")], vec!["*.q_proj", "later rule"]),
        (vec![("*", "int4-g128")], vec!["model.layers.0.self_attn.q_proj", "576 % 128", "32, 64"]),
    ] {
        let e = govern(&rules(&text), LAYERS.into_iter()).unwrap_err().to_string();
        assert!(parts.iter().all(|p| e.contains(p)), "{text:?}: {e}");
    }
    // The one layer that a wildcard matches is meant by it.
    let one = [("only.lm_head", LayerKind::Linear, &[4usize, 4][..])];
    assert_eq!(govern(&rules(&[("*", "int8")]), one.into_iter()).unwrap(), [Some(0)]);
}
