//! The memory that a streamed run plans is the memory that it takes. The only test of its binary: it measures the process.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use peak_alloc::PeakAlloc;
use trimwick::models::{ModelSource, OpenOptions, builtin, source};
use trimwick_recipe::Recipe;
use trimwick_recipe::run::{RunOutcome, run, streamed_plan};

#[path = "../benches/random_llama/make.rs"]
mod random_llama;
use random_llama::{Shape, make};

#[global_allocator]
static LIVE: PeakAlloc = PeakAlloc;

fn recipe(folder: &Path, rest: &str) -> Recipe {
    let at = folder.display();
    let text = format!(
        "[model]\nsource = \"{at}/model\"\nstream = true\n[data]\ntrain = \"{at}/train.txt\"\n\
         eval = \"{at}/eval.txt\"\ncontext = 64\neval_tokens = 256\n{rest}"
    );
    Recipe::parse(&text, "job.toml", &[]).unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn the_planned_peak_is_within_a_fifth_of_the_live_bytes() {
    // Short texts: reading long ones would be the peak of models this small.
    let text = builtin::text("sotu-train").unwrap();
    let cut = |from: usize| text.chars().skip(from).take(20_000).collect::<String>();
    let wide =
        Shape { hidden: 512, intermediate: 1408, layers: 2, heads: 8, kv_heads: 4, vocab: 4096, seed: 2 };
    let lexical = Shape { hidden: 128, intermediate: 256, vocab: 60_000, ..wide };
    let blockwise = "[blockwise]\nwindows = 4\nepochs = 1\nbatch = 2\n";
    let table = [
        ("training", &wide, format!("[prune]\npattern = \"2:4\"\nmethod = \"magnitude\"\n{blockwise}")),
        (
            "training in halves on a grid",
            &wide,
            format!(
                "[prune]\npattern = \"2:4\"\nmethod = \"wanda\"\n[calibration]\nwindows = 4\n{blockwise}parts = \"split\"\n[quantize]\nscheme = \"int8\"\n"
            ),
        ),
        (
            "pruning",
            &wide,
            "[prune]\npattern = \"2:4\"\nmethod = \"sparsegpt\"\n[calibration]\nwindows = 4\n".to_string(),
        ),
        ("writing", &lexical, format!("[prune]\npattern = \"2:4\"\nmethod = \"magnitude\"\n{blockwise}")),
    ];
    // The products and factors of pruning keep workspaces from their first use on, whatever the model.
    let tiny = Shape { hidden: 64, intermediate: 64, ..wide };
    let pruning = table[2].2.clone();
    for (i, (what, shape, rest)) in [("first use", &tiny, pruning)].into_iter().chain(table).enumerate() {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("model"), shape).unwrap();
        std::fs::write(dir.path().join("train.txt"), cut(0)).unwrap();
        std::fs::write(dir.path().join("eval.txt"), cut(20_000)).unwrap();
        let recipe = recipe(dir.path(), &rest);
        let files =
            source::open(&ModelSource::Folder(dir.path().join("model")), &OpenOptions::default()).unwrap();
        let plan = streamed_plan(&recipe, &files.config);
        drop(files);
        let before = LIVE.current_usage();
        LIVE.reset_peak_usage();
        let outcome = run(&recipe, &dir.path().join("run"), &AtomicBool::new(false), &mut |_| {}).unwrap();
        assert!(matches!(outcome, RunOutcome::Finished(_)));
        let live = (LIVE.peak_usage() - before) as f64;
        let ratio = plan.peak as f64 / live;
        println!("{what}: planned {} while {}, live {live}, ratio {ratio:.3}", plan.peak, plan.stage);
        assert!(
            i == 0 || (0.8..1.2).contains(&ratio),
            "{what}: {plan:?}, {live} bytes live, ratio {ratio:.3}"
        );
    }
}
