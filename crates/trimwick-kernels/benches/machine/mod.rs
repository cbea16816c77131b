//! Who used the processors while a bench ran.

/// Clock ticks from /proc.
pub struct Machine {
    all: u64,
    idle: u64,
    own: u64,
}

impl Machine {
    /// `None` where there is no /proc.
    pub fn now() -> Option<Self> {
        let numbers = |text: &str, skip: usize, take: usize| -> Vec<u64> {
            text.split_whitespace().skip(skip).take(take).flat_map(str::parse).collect()
        };
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let ticks = numbers(stat.lines().next()?, 1, 8);
        // User and system time are fields 14 and 15; the name, field 2, may hold spaces.
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        let own = numbers(own.rsplit(')').next()?, 11, 2);
        Some(Self { all: ticks.iter().sum(), idle: ticks.get(3)? + ticks.get(4)?, own: own.iter().sum() })
    }

    /// Who used the processors between two looks at them.
    pub fn report(from: Option<Self>, to: Option<Self>) {
        let (Some(from), Some(to)) = (from, to) else {
            println!("no /proc/stat: what else ran is unknown");
            return;
        };
        let all = to.all - from.all;
        let share = |ticks: u64| 100.0 * ticks as f64 / all.max(1) as f64;
        let (idle, own) = (to.idle - from.idle, to.own - from.own);
        println!(
            "of the processors' time {:.0} % idle, {:.0} % this bench, {:.0} % others",
            share(idle),
            share(own),
            share(all.saturating_sub(idle + own))
        );
    }
}
