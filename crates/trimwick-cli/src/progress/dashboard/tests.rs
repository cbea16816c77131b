//! The screen on a terminal that is none, and its keys.

use std::cell::Cell;

use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyEvent;
use trimwick_train::StepRecord;

use super::*;

#[derive(Default)]
struct Recorded(Arc<AtomicBool>);

impl Keys for Recorded {
    fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn stopping(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A screen without a terminal.
fn dashboard() -> Dashboard {
    let shared = Shared {
        state: Mutex::new(State::new("quickstart")),
        over: AtomicBool::new(false),
        keys: Mutex::new(Box::new(Recorded::default())),
    };
    Dashboard { shared: Arc::new(shared), drawing: None }
}

fn report(step: u64, loss: f64) -> StepReport {
    let record = StepRecord {
        step,
        epoch: 0,
        tokens: step * 512,
        loss,
        cross_entropy: loss,
        divergence: None,
        features: None,
        lr: 1e-3,
        grad_norm: 1.,
    };
    StepReport { record, steps: 48, smoothed: loss, step_tokens: 512, seconds: 0.25, save: Cell::new(false) }
}

fn screen(dashboard: &Dashboard, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let memory = Memory { now: 1 << 30, peak: 2 << 30, total: 8 << 30 };
    terminal.draw(|frame| draw::draw(frame, &dashboard.shared.state(), memory)).unwrap();
    terminal.backend().to_string()
}

fn key(code: char) -> Event {
    Event::Key(KeyEvent::new(KeyCode::Char(code), KeyModifiers::NONE))
}

#[test]
fn the_screen_shows_what_the_run_told() {
    let mut dashboard = dashboard();
    assert!(screen(&dashboard, 120, 32).contains("nothing has been trained yet"));
    dashboard.begin("recovered: training", true);
    for step in 1..=24 {
        dashboard.at(step, 48, "loss 4.4123, 2 048 tokens/s", Some(65.));
        dashboard.step("recovered", &report(step, 5. - step as f64 / 40.));
    }
    let window_losses = vec![4.4, 4.5];
    let evaluation =
        Evaluation { loss: 4.45, perplexity: 85.6, context: 256, tokens: 512, scored: 510, window_losses };
    dashboard.validated("recovered", &evaluation);
    let arm = MeasuredArm {
        name: "dense".into(),
        loss: 4.3872,
        perplexity: 80.42,
        context: 256,
        eval_tokens: 12_288,
        train_tokens: 0,
        window_losses: vec![],
    };
    dashboard.measured(&arm);
    dashboard.say("step 24: perplexity 85.6 @ 256");
    let drawn = screen(&dashboard, 120, 32);
    for part in [
        "quickstart",
        "recovered: training · 24 of 48 · loss 4.4123",
        "left",
        "cross-entropy by tokens",
        "recovered, held out",
        "measured @ 256",
        "dense",
        "4.3872",
        "2,048 tokens/s",
        "memory",
        "step 24: perplexity 85.6 @ 256",
        "p pause",
    ] {
        assert!(drawn.contains(part), "no {part:?} in\n{drawn}");
    }
    // Braille of the curve.
    assert!(drawn.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "{drawn}");
    // However small the terminal is, there is a picture and no panic.
    for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
        screen(&dashboard, width, height);
    }
}

#[test]
fn keys_pause_save_and_stop() {
    let mut dashboard = dashboard();
    let shared = Arc::clone(&dashboard.shared);
    press(&key('c'), &shared);
    let (first, second) = (report(1, 5.), report(2, 5.));
    dashboard.step("recovered", &first);
    dashboard.step("recovered", &second);
    assert!(first.save.get() && !second.save.get(), "one checkpoint for one key");
    press(&key('p'), &shared);
    assert!(screen(&dashboard, 120, 32).contains("PAUSED"));
    let waits = thread::spawn(move || dashboard.wait());
    thread::sleep(2 * FRAME);
    assert!(!waits.is_finished(), "the run waits");
    press(&key('p'), &shared);
    waits.join().unwrap();
    press(&key('p'), &shared);
    assert!(!shared.keys().stopping());
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&Event::Key(control), &shared);
    assert!(shared.keys().stopping(), "a run that is paused can be stopped");
    Dashboard { shared, drawing: None }.wait();
}

#[test]
fn a_long_run_keeps_its_curve_short() {
    let mut state = State::new("long");
    (1..=10_000).for_each(|step| state.step("recovered", &report(step, 4.)));
    let losses = &state.curves[0].losses;
    assert!(losses.len() < 2048 && losses.len() > 1000);
    assert!(losses.is_sorted_by(|a, b| a.0 < b.0));
}
