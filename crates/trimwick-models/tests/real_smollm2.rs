//! The real tokenizer on the real texts: needs files that are not in the repository.
//!
//! ```sh
//! benches/fetch/smollm2.sh && benches/fetch/sotu.sh
//! python benches/peers/smollm2_reference.py --tokens data/tokens
//! TRIMWICK_SMOLLM2=data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf TRIMWICK_TOKENS=data/tokens \
//!     cargo test --release -p trimwick-models --test real_smollm2 -- --ignored
//! ```

use std::path::PathBuf;

use trimwick_models::source::{ModelSource, OpenOptions, open};

fn path(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("set {variable}; see the top of this file")).into()
}

#[test]
#[ignore = "needs SmolLM2 and reference ids"]
fn ids_of_the_state_of_the_union_are_the_reference_ids() {
    let files = open(&ModelSource::Gguf(path("TRIMWICK_SMOLLM2")), &OpenOptions::default()).unwrap();
    assert_eq!(files.config.num_parameters(), 134_515_008);
    let tokenizer = files.require_tokenizer().unwrap();
    let mut total = 0;
    for name in ["heldout", "train"] {
        let text = std::fs::read_to_string(path("TRIMWICK_TOKENS").join(format!("{name}.txt"))).unwrap();
        let bytes = std::fs::read(path("TRIMWICK_TOKENS").join(format!("{name}.bin"))).unwrap();
        let expected: Vec<u32> =
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let ids = tokenizer.encode(&text, false).unwrap();
        assert!(
            ids == expected,
            "{name}: first difference at {:?}",
            ids.iter().zip(&expected).position(|(a, b)| a != b)
        );
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        total += ids.len();
    }
    assert!(total > 1_000_000, "{total} tokens compared");
}
