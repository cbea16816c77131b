//! Who takes turns, and what comes out.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::Args;
use crate::contestants::peak_rss;

/// A process that does one step for each line it is given.
struct Contestant {
    name: String,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    seconds: Vec<f64>,
}

impl Contestant {
    fn start(name: &str, args: &Args) -> Result<Self> {
        let threads = args.threads.to_string();
        let mut command = match name {
            "torch" | "modelopt" => {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/train_step.py");
                let mut command = Command::new(&args.python);
                // Threads that spin while they wait would take the others' turns.
                command.arg(script).env("OMP_WAIT_POLICY", "passive").env("KMP_BLOCKTIME", "0");
                command
            }
            _ => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("--serve").env("MIMALLOC_PURGE_DELAY", "-1");
                command
            }
        };
        command.arg(name).args(["--tokens", &args.tokens.to_string(), "--layers", &args.layers.to_string()]);
        command.env("RAYON_NUM_THREADS", &threads).env("OMP_NUM_THREADS", &threads);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (to, from) = (child.stdin.take().context("no stdin")?, child.stdout.take().context("no stdout")?);
        Ok(Self { name: name.into(), child, to, from: BufReader::new(from), seconds: Vec::new() })
    }

    fn step(&mut self) -> Result<f64> {
        writeln!(self.to)?;
        self.to.flush()?;
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("{}: ended without an answer", self.name);
        }
        line.trim().parse().with_context(|| format!("{}: {line:?} is no number of seconds", self.name))
    }

    fn least(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        // Nobody waits for the end of a contestant; one that is gone already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = args.contestants.iter().map(|name| Contestant::start(name, args));
    let mut contestants = started.collect::<Result<Vec<_>>>()?;
    // The first two steps touch memory for the first time and settle what libraries find out once.
    for contestant in &mut contestants {
        contestant.step()?;
        contestant.step()?;
    }
    let before = ticks();
    for round in 0..args.rounds {
        let mut order: Vec<usize> = (0..contestants.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let seconds = contestants[index].step()?;
            contestants[index].seconds.push(seconds);
        }
        let times: Vec<_> =
            contestants.iter().map(|c| format!("{} {:.2} s", c.name, c.seconds[round])).collect();
        println!("round {round}: {}", times.join(", "));
    }
    let (threads, tokens, layers) = (args.threads, args.tokens, args.layers);
    println!("\n{layers} layers, {tokens} tokens, {threads} threads, f32; least of {} steps", args.rounds);
    if let (Some((idle0, all0)), Some((idle1, all1))) = (before, ticks()) {
        let share = (idle1 - idle0) as f64 / (all1 - all0).max(1) as f64;
        println!("the machine was idle for {:.0} % of the time", 100. * share);
    }
    let Some(first) = contestants.first() else { return Ok(()) };
    let (time, peak) = (first.least(), peak_rss(first.child.id())?);
    println!("| contestant | seconds | of {0}'s time | peak RSS, GB | of {0}'s |", first.name);
    println!("|---|---|---|---|---|");
    for c in &contestants {
        let (own_time, own_peak) = (c.least(), peak_rss(c.child.id())?);
        let share = own_peak as f64 / peak as f64;
        let gb = own_peak as f64 / 1e9;
        println!("| {} | {own_time:.3} | {:.2} | {gb:.2} | {share:.2} |", c.name, own_time / time);
    }
    Ok(())
}

/// Ticks that the processors were idle, and all ticks, where the system tells (Linux).
fn ticks() -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    Some((*ticks.get(3)?, ticks.iter().sum()))
}
