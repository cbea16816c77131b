//! The screen: what goes on above, curves beside the arms, what was said below, and the keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{
    Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph, RenderDirection, Row, Sparkline, Table,
};

use super::state::State;
use crate::text::{bytes, count, duration, perplexity};

/// Of the arms, in the order in which they train.
const COLOURS: [Color; 4] = [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta];

/// What the process takes of memory, in bytes, and what there is of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    pub(super) now: u64,
    pub(super) peak: u64,
    pub(super) total: u64,
}

pub(super) fn draw(frame: &mut Frame<'_>, state: &State, memory: Memory) {
    let rows = [Constraint::Length(3), Constraint::Min(8), Constraint::Length(8), Constraint::Length(1)];
    let [head, middle, log, keys] = Layout::vertical(rows).areas(frame.area());
    let [left, right] = Layout::horizontal([Constraint::Min(40), Constraint::Length(42)]).areas(middle);
    let rows = [Constraint::Min(4), Constraint::Length(4), Constraint::Length(3)];
    let [arms, pace, room] = Layout::vertical(rows).areas(right);
    stage(frame, head, state);
    curves(frame, left, state);
    table(frame, arms, state);
    paces(frame, pace, state);
    memories(frame, room, memory);
    said(frame, log, state);
    let pause = if state.paused { "p go on" } else { "p pause" };
    let text = format!(
        " {pause}   c checkpoint after this step   q checkpoint and stop; the same command continues"
    );
    frame.render_widget(Paragraph::new(text).style(Style::new().fg(Color::DarkGray)), keys);
}

fn stage(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let (done, total) = state.parts;
    let title = format!(" {} · {} ", state.name, duration(state.begun.elapsed().as_secs_f64()));
    let mut parts = vec![state.stage.clone()];
    if state.paused {
        parts.push("PAUSED".into());
    }
    if total > 0 {
        parts.push(format!("{} of {}", count(done), count(total)));
    }
    parts.extend([state.facts.clone()].into_iter().filter(|facts| !facts.is_empty()));
    parts.extend(state.left.map(|seconds| format!("{} left", duration(seconds))));
    let colour = if state.paused { Color::Yellow } else { Color::Blue };
    let gauge = Gauge::default().block(Block::bordered().title(title)).gauge_style(Style::new().fg(colour));
    frame.render_widget(gauge.ratio(state.share()).label(parts.join(" · ")), area);
}

fn curves(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let block = Block::bordered().title(" cross-entropy by tokens ");
    let named: Vec<(String, String)> =
        state.curves.iter().map(|curve| (curve.arm.clone(), format!("{}, held out", curve.arm))).collect();
    let mut drawn = Vec::new();
    for (i, (curve, (arm, held_out))) in state.curves.iter().zip(&named).enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let line = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line);
        drawn.push(line.name(arm.as_str()).style(Style::new().fg(colour)).data(&curve.losses));
        if !curve.held_out.is_empty() {
            let dots = Dataset::default().marker(Marker::Dot).graph_type(GraphType::Scatter);
            drawn.push(dots.name(held_out.as_str()).style(Style::new().fg(colour)).data(&curve.held_out));
        }
    }
    let points = || state.curves.iter().flat_map(|curve| curve.losses.iter().chain(&curve.held_out));
    if points().next().is_none() {
        let text = Paragraph::new("nothing has been trained yet").block(block);
        frame.render_widget(text.style(Style::new().fg(Color::DarkGray)), area);
        return;
    }
    let most = points().map(|point| point.0).fold(1., f64::max);
    let (low, high) = points().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p.1), h.max(p.1)));
    let room = 0.05 * (high - low).max(1e-3);
    let (low, high) = (low - room, high + room);
    let labels = [low, f64::midpoint(low, high), high].map(|loss| format!("{loss:.3}"));
    let tokens = [0., most / 2., most].map(|tokens| count(tokens as u64));
    let chart = Chart::new(drawn)
        .block(block)
        .hidden_legend_constraints((Constraint::Ratio(1, 2), Constraint::Ratio(1, 2)))
        .x_axis(Axis::default().bounds([0., most]).labels(tokens))
        .y_axis(Axis::default().bounds([low, high]).labels(labels));
    frame.render_widget(chart, area);
}

fn table(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let context = state.arms.first().map_or(String::new(), |arm| format!(" @ {}", arm.context));
    let rows = state
        .arms
        .iter()
        .map(|arm| Row::new([arm.name.clone(), format!("{:.4}", arm.loss), perplexity(arm.perplexity)]));
    let widths = [Constraint::Min(16), Constraint::Length(8), Constraint::Length(10)];
    let head = Row::new(["arm", "loss", "perplexity"]).style(Style::new().add_modifier(Modifier::BOLD));
    let block = Block::bordered().title(format!(" measured{context} "));
    frame.render_widget(Table::new(rows, widths).header(head).block(block), area);
}

fn paces(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let last = state.paces.back().map_or(String::new(), |pace| format!(" {} tokens/s ", count(*pace)));
    // The newest stands on the right, whatever the width.
    let newest: Vec<u64> = state.paces.iter().rev().copied().collect();
    let line = Sparkline::default().data(&newest).direction(RenderDirection::RightToLeft);
    frame.render_widget(line.block(Block::bordered().title(last)).style(Style::new().fg(Color::Green)), area);
}

fn memories(frame: &mut Frame<'_>, area: Rect, memory: Memory) {
    let Memory { now, peak, total } = memory;
    let share = if total == 0 { 0. } else { (now as f64 / total as f64).clamp(0., 1.) };
    let gauge = Gauge::default().block(Block::bordered().title(" memory ")).ratio(share);
    let label = format!("{}, at most {}", bytes(now), bytes(peak));
    frame.render_widget(gauge.gauge_style(Style::new().fg(Color::Magenta)).label(label), area);
}

fn said(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let lines = usize::from(area.height.saturating_sub(2));
    let last = state.said.len().saturating_sub(lines);
    let text: Vec<Line<'_>> = state.said[last..].iter().map(|line| Line::raw(line.as_str())).collect();
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(" log ")), area);
}
