//! `run --dashboard`: the run on a screen of its own, and keys that pause it, save it and stop it.
//!
//! A thread draws what the run has told so far and reads the keys, so that the screen lives while a step takes its time. The
//! run itself looks at the keys whenever it tells something: between steps, windows and blocks. It never waits for the terminal.
//! When the screen goes, every line that was said stands on standard error as it would without; a process that is ended at once
//! (a second Ctrl-C) says no more.

mod draw;
mod state;

use std::io::{self, IsTerminal, Stderr, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show as ShowCursor};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use trimwick_recipe::run::MeasuredArm;
use trimwick_train::{Evaluation, StepReport};

use self::draw::Memory;
use self::state::State;
use super::line;
use super::show::Show;
use crate::text::plain;

/// How long the end of a run waits for a terminal that takes nothing any more.
const PATIENCE: Duration = Duration::from_secs(2);
/// Set when the terminal was given back: whatever is drawn later would stand among the lines.
static GONE: AtomicBool = AtomicBool::new(true);
/// Between two drawings.
const FRAME: Duration = Duration::from_millis(200);

/// What keys do to the process.
pub(crate) trait Keys: Send {
    /// Asks for an orderly end; a second time, ends at once.
    fn stop(&self);
    /// Whether that was asked for, by a key or a signal.
    fn stopping(&self) -> bool;
}

/// The screen of a run.
pub(crate) struct Dashboard {
    shared: Arc<Shared>,
    drawing: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Set when the screen is to go.
    over: AtomicBool,
    keys: Mutex<Box<dyn Keys>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> MutexGuard<'_, Box<dyn Keys>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dashboard {
    /// Whether there is a terminal to draw on, and one to type at.
    pub(crate) fn possible() -> bool {
        io::stderr().is_terminal() && io::stdin().is_terminal()
    }

    /// Takes the terminal over for a run.
    ///
    /// # Errors
    /// The terminal's refusal.
    pub(crate) fn open(name: &str, keys: Box<dyn Keys>) -> io::Result<Self> {
        let screen = Screen::open()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(name)),
            over: AtomicBool::new(false),
            keys: Mutex::new(keys),
        });
        let drawn = Arc::clone(&shared);
        let drawing =
            thread::Builder::new().name("dashboard".into()).spawn(move || follow(screen, &drawn))?;
        Ok(Self { shared, drawing: Some(drawing) })
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        while self.drawing.as_ref().is_some_and(|drawing| !drawing.is_finished())
            && begun.elapsed() < PATIENCE
        {
            thread::sleep(FRAME / 10);
        }
        restore();
        self.shared.state().said.iter().for_each(|text| line(text));
    }
}

impl Show for Dashboard {
    fn begin(&mut self, stage: &str, _trains: bool) {
        self.shared.state().begin(stage);
    }

    fn end(&mut self) {}

    fn at(&mut self, done: u64, total: u64, facts: &str, left: Option<f64>) {
        let mut state = self.shared.state();
        (state.parts, state.left) = ((done, total), left);
        state.facts = facts.into();
    }

    fn say(&mut self, text: &str) {
        self.shared.state().said.push(plain(text));
    }

    fn seconds(&self) -> f64 {
        self.shared.state().stage_begun.elapsed().as_secs_f64()
    }

    fn step(&mut self, arm: &str, report: &StepReport) {
        let mut state = self.shared.state();
        state.step(arm, report);
        report.save.set(std::mem::take(&mut state.wants_save));
    }

    fn validated(&mut self, arm: &str, evaluation: &Evaluation) {
        self.shared.state().validated(arm, evaluation);
    }

    fn measured(&mut self, arm: &MeasuredArm) {
        self.shared.state().measured(arm);
    }

    fn wait(&mut self) {
        while self.shared.state().paused && !self.shared.keys().stopping() {
            thread::sleep(FRAME);
        }
    }
}

/// Draws until the run is over.
fn follow(mut screen: Screen, shared: &Shared) {
    while !shared.over.load(Ordering::Relaxed) {
        // The run takes the state for all it tells, and must not wait for a terminal.
        let state = shared.state().clone();
        if !GONE.load(Ordering::Relaxed) {
            // A terminal that cannot be drawn on any more has lost its watcher, and the run has not.
            let _ = screen.terminal.draw(|frame| draw::draw(frame, &state, memory()));
        }
        match event::poll(FRAME) {
            Ok(true) => {
                if let Ok(event) = event::read() {
                    press(&event, shared);
                }
            }
            Ok(false) => {}
            Err(_) => thread::sleep(FRAME),
        }
    }
}

fn press(event: &Event, shared: &Shared) {
    let Event::Key(key) = event else { return };
    if key.kind != KeyEventKind::Press {
        return;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => stop(shared),
        KeyCode::Char('q') => stop(shared),
        KeyCode::Char('p') => {
            let mut state = shared.state();
            state.paused = !state.paused;
        }
        KeyCode::Char('c') => {
            let mut state = shared.state();
            state.wants_save = true;
            state.said.push("a checkpoint comes after the next step of training".into());
        }
        _ => {}
    }
}

fn stop(shared: &Shared) {
    let keys = shared.keys();
    if keys.stopping() {
        restore();
    }
    keys.stop();
}

/// The terminal in the hands of the screen; dropping it gives it back.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
}

impl Screen {
    fn open() -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
        enable_raw_mode()?;
        GONE.store(false, Ordering::Relaxed);
        let opened = execute!(io::stderr(), EnterAlternateScreen, Hide)
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stderr())));
        match opened {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, once.
pub(crate) fn restore() {
    if GONE.swap(true, Ordering::Relaxed) {
        return;
    }
    // With the terminal gone there is nothing to give back.
    let _ = disable_raw_mode();
    let _ = execute!(io::stderr(), LeaveAlternateScreen, ShowCursor);
    let _ = io::stderr().flush();
}

/// What the process and the machine have, where the system tells (Linux).
fn memory() -> Memory {
    let of = |file: &str, key: &str| -> Option<u64> {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
    };
    let status = |key| of("/proc/self/status", key).unwrap_or_default();
    let total = of("/proc/meminfo", "MemTotal:").unwrap_or_default();
    Memory { now: status("VmRSS:"), peak: status("VmHWM:"), total }
}

#[cfg(test)]
mod tests {
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
        StepReport {
            record,
            steps: 48,
            smoothed: loss,
            step_tokens: 512,
            seconds: 0.25,
            save: Cell::new(false),
        }
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
        let evaluation = Evaluation {
            loss: 4.45,
            perplexity: 85.6,
            context: 256,
            tokens: 512,
            scored: 510,
            window_losses,
        };
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
}
