//! `trimwick report` on runs of the real program.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{done, prune_recipe, ran};

/// Tags that are opened are closed, in order.
fn balanced(html: &str) -> Result<usize, String> {
    const VOID: [&str; 4] = ["meta", "br", "img", "!DOCTYPE"];
    let (mut open, mut seen) = (Vec::new(), 0);
    for tag in html.split('<').skip(1) {
        let tag = &tag[..tag.find('>').ok_or("an open tag")?];
        let name = tag.trim_start_matches('/').split([' ', '\n', '/']).next().unwrap_or_default();
        match tag {
            _ if VOID.contains(&name) || tag.ends_with('/') => {}
            _ if tag.starts_with('/') => match open.pop() {
                Some(last) if last == name => {}
                last => return Err(format!("</{name}> closes {last:?}")),
            },
            _ => open.push(name.to_string()),
        }
        seen += 1;
    }
    if open.is_empty() { Ok(seen) } else { Err(format!("{open:?} never close")) }
}

#[test]
fn a_run_ends_with_a_page_that_needs_nothing_but_itself() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("small.toml"), prune_recipe(30)).unwrap();
    let (code, stdout, stderr) = ran(dir.path(), &["run", "small.toml"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("report: runs/small/report.html\n"), "{stdout}");
    let run = dir.path().join("runs/small");
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(balanced(&page).unwrap() > 100);
    for outside in ["http:", "https:", "<script", "<link", "url("] {
        // The one address is the name of SVG.
        let found = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(outside), "{outside}");
    }
    for part in [
        "Training helped: from ",
        "dense, tuned on the same tokens",
        "pruned by magnitude",
        "<polyline",
        "Kept weights of <code>model.layers.0.mlp.down_proj</code>",
        "■■□□",
        "down_proj",
        "2:4",
        "[prune]",
        "var(--ink)",
        // Of how, again: command, inputs, outputs; of layers: signal to noise.
        "The command was <code>trimwick run small.toml</code>",
        "read: data.eval",
        "model/model.safetensors",
        "% of the loss that magnitude pruning cost",
        "sparsegpt: each layer",
        "<caption>Sizes by arithmetic",
        "changed sides since the one-shot mask",
        "Learning rate.",
        "Norm of the gradient",
        "recovered = dense, tuned on the same tokens",
    ] {
        assert!(page.contains(part), "no {part:?}");
    }
    // The numbers are those of the summary.
    let summary: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(run.join("summary.json")).unwrap()).unwrap();
    for arm in summary["arms"].as_array().unwrap() {
        let loss = format!("<td>{:.4}</td>", arm["loss"].as_f64().unwrap());
        assert!(page.contains(&loss), "{loss}");
    }
    for (_, digest) in
        summary["digests"].as_object().unwrap().iter().chain(summary["inputs"].as_object().unwrap())
    {
        assert!(page.contains(digest.as_str().unwrap()));
    }
    let intervals = page.matches(" … ").count();
    assert!(intervals >= summary["arms"].as_array().unwrap().len(), "{intervals}");
    // Six ways to keep two of four, and no other.
    assert_eq!(page.matches('■').count(), 12);
    assert_eq!(&fs::read(run.join("report.png")).unwrap()[..8], b"\x89PNG\r\n\x1a\n");
    draw(&run.join("report.html"));

    // Nothing that is there is overwritten, and nothing but a file.
    fs::write(dir.path().join("photo.png"), "mine").unwrap();
    for (out, expected) in [
        ("photo.html", "photo.png: a file is there already; give another --out, or --force"),
        ("runs/small/report.html", "report.html: a file is there already"),
        ("/dev/null", "expected a name that ends in .html"),
        ("page.png", "expected a name that ends in .html"),
    ] {
        let (code, stdout, stderr) = ran(dir.path(), &["report", "runs/small", "--out", out]);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(expected), "{out}: {stderr}");
    }
    assert_eq!(fs::read(dir.path().join("photo.png")).unwrap(), b"mine");
    let forced = crate::support::json(
        dir.path(),
        &["report", "runs/small", "--out", "photo.html", "--force", "--json"],
    );
    assert_eq!(forced["written"], serde_json::json!(["photo.html", "photo.png"]));

    // Again, elsewhere; and beside another run.
    let (code, stdout, _) = ran(dir.path(), &["report", "runs/small", "--out", "one.html"]);
    assert_eq!((code, stdout.as_str()), (0, "one.html\none.png\n"));
    assert_eq!(fs::read_to_string(dir.path().join("one.html")).unwrap(), page);
    let (code, ..) = ran(dir.path(), &["run", "small.toml", "train.lr=1e-6", "--out", "runs/slow"]);
    assert_eq!(code, 0);
    let (code, stdout, _) = ran(dir.path(), &["report", "runs/small", "runs/slow"]);
    assert_eq!((code, stdout.as_str()), (0, "report.html\n"));
    let both = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(balanced(&both).is_ok() && both.contains("<h2>slow</h2>"));
    let (code, _, stderr) = ran(dir.path(), &["report", "runs/small", "runs/small"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("two runs are called \"small\""), "{stderr}");
}

#[test]
fn a_page_has_what_the_run_has() {
    let dir = tempfile::tempdir().unwrap();
    let page = |run: &str| {
        let page = fs::read_to_string(dir.path().join(run).join("report.html")).unwrap();
        assert!(balanced(&page).is_ok(), "{run}");
        page
    };
    // Masks that training may choose anew are compared with those that it began with.
    let recipe = prune_recipe(12);
    fs::write(dir.path().join("small.toml"), &recipe).unwrap();
    let again = ["prune.schedule=refreshed", "prune.refresh_every=2", "train.lr=3e-2", "compare.arms=[]"];
    done(dir.path(), &[&["run", "small.toml", "--out", "again"], &again[..]].concat());
    let found = page("again");
    let (_, rest) = found.split_once("changed sides since the one-shot mask").unwrap();
    let before = &found[..found.len() - rest.len()];
    let share: f64 = before.rsplit_once(" (").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    assert!(share > 0., "{before}");

    // For TensorBoard, whether the run is over or not.
    fs::remove_file(dir.path().join("again/report.html")).unwrap();
    let events = done(dir.path(), &["report", "again", "--tensorboard", "tb"]);
    assert_eq!(events, "tb/main/events.out.tfevents.trimwick\n");
    let bytes = fs::read(dir.path().join(events.trim())).unwrap();
    assert!(bytes.windows(10).any(|part| part == b"train/loss") && bytes.len() > 12 * 100);
    let (code, _, stderr) = ran(dir.path(), &["report", ".", "--tensorboard", "tb"]);
    assert!(code == 2 && stderr.contains("no metrics here"), "{stderr}");

    // What training has spoiled is said at once.
    let worse = ["run", "small.toml", "--out", "worse", "train.lr=1.0", "train.steps=4", "compare.arms=[]"];
    let told = done(dir.path(), &worse);
    assert!(told.contains("warning: Training did NOT help: from "), "{told}");

    // Passes, a budget, exports.
    let quantize = "[quantize]\nscales = \"frozen\"\npasses = [\"gptq\"]\n[quantize.budget]\nbits = 5.0\n\
        candidates = [\"int4-g32\", \"weight int8 g32 bf16\"]\n[export]\ntargets = [\"gguf\", \"compressed-tensors\"]\n";
    let start = recipe.find("[prune]").unwrap();
    fs::write(dir.path().join("mixed.toml"), recipe[..start].to_string() + quantize).unwrap();
    done(dir.path(), &["run", "mixed.toml", "--out", "mixed"]);
    let found = page("mixed");
    for part in [
        "gptq: each layer's output",
        "<h2>What the budget bought</h2>",
        "What each scheme adds to the loss",
        "<h2>Exports</h2>",
        "<code>exports/model.gguf</code>",
        "<code>exports/compressed-tensors</code>",
    ] {
        assert!(found.contains(part), "no {part:?}");
    }
    assert!(!found.contains("<h2>Speed</h2>"));

    // Speed, where it was measured.
    let bench = ["bench", "mixed/exports/model.gguf", "--prompt", "8", "--tokens", "4", "--rounds", "1"];
    let (code, _, stderr) = ran(dir.path(), &[&bench[..], &["--into", "."]].concat());
    assert!(code == 2 && stderr.contains("--into: expected the folder of a finished run"), "{stderr}");
    done(dir.path(), &[&bench[..], &["--into", "mixed"]].concat());
    assert!(page("mixed").contains("<h2>Speed</h2>"));
    fs::write(dir.path().join("mixed/bench.json"), "{}").unwrap();
    let (code, _, stderr) = ran(dir.path(), &["report", "mixed"]);
    assert!(code == 2 && stderr.contains("bench.json"), "{stderr}");
}

/// A browser, where there is one.
fn browser() -> Option<String> {
    let named = std::env::var("TRIMWICK_BROWSER").ok();
    let known =
        ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"].map(String::from);
    let there =
        |name: &String| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    named.into_iter().chain(known).find(there)
}

/// A browser draws the page, light, dark and on paper, and finds nothing wider than its place.
fn draw(page: &Path) {
    let Some(browser) = browser() else {
        println!("SKIP: no browser to draw the page with; tests/clients/install.sh installs one");
        return;
    };
    let draw = |page: &Path, args: &[&str]| {
        let always =
            ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1400"];
        let address = format!("file://{}", page.display());
        let output = Command::new(&browser).args(always).args(args).arg(address).output().unwrap();
        assert!(output.status.success(), "{browser}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let picture = |name: &str, more: &[&str]| {
        let shot = page.with_file_name(name);
        draw(page, &[&[format!("--screenshot={}", shot.display()).as_str()], more].concat());
        fs::read(shot).unwrap()
    };
    let light = picture("light.png", &[]);
    let dark = picture("dark.png", &["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]);
    assert!(light.len() > 20_000 && dark.len() > 20_000 && light != dark);

    // What is measured is written into the page, which the browser then prints.
    let measure = "<script>document.title = [...document.querySelectorAll('.wide, svg')]\
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 40)).join('; ') + \
        ' too wide, page ' + (document.documentElement.scrollWidth > innerWidth)</script>";
    let measured = page.with_file_name("measured.html");
    fs::write(&measured, fs::read_to_string(page).unwrap() + measure).unwrap();
    for width in ["--window-size=1000,1400", "--window-size=1600,1200"] {
        let dom = draw(&measured, &["--dump-dom", width]);
        assert!(
            dom.contains("<title> too wide, page false</title>"),
            "{width}: {}",
            &dom[..dom.len().min(600)]
        );
    }

    let paper = page.with_file_name("page.pdf");
    draw(page, &["--no-pdf-header-footer", &format!("--print-to-pdf={}", paper.display())]);
    let pages = |pdf: &[u8]| {
        pdf.windows(12).filter(|part| part == b"/Type /Page\n" || part == b"/Type /Page/").count()
    };
    // Closed details are open on paper: the recipe alone is a page.
    let pdf = fs::read(&paper).unwrap();
    assert!(pages(&pdf) >= 5, "{} pages", pages(&pdf));
}

#[test]
fn what_is_no_run_is_said() {
    let dir = tempfile::tempdir().unwrap();
    for (make, expected) in [
        (None, "nothing: no summary.json here; found nothing: give the folder of a finished run"),
        (Some(("nothing/checkpoints", "")), "found checkpoints"),
        (Some(("nothing/summary.json", "{")), "nothing/summary.json: EOF while parsing"),
    ] {
        if let Some((name, text)) = make {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let (code, stdout, stderr) = ran(dir.path(), &["report", "nothing"]);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    assert!(!dir.path().join("nothing/report.html").exists());
}
