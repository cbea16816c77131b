//! Charts as SVG text, in colours that a style sheet can replace.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::{Error, Result};

/// Text and axes.
pub(crate) const INK: RGBColor = RGBColor(0x22, 0x25, 0x2b);
/// Lines of the grid.
pub(crate) const RULE: RGBColor = RGBColor(0xd9, 0xdc, 0xe1);
/// Series, told apart by people of every colour vision (Okabe and Ito's palette).
pub(crate) const SERIES: [RGBColor; 6] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

/// A named line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) look: Look,
    /// Place in the palette: lines of one thing share it.
    pub(crate) colour: usize,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Solid,
    /// With a mark at each point: few points, far apart.
    Marked,
    /// Thin and pale, without a name: what a smoother line is of.
    Faint,
}

impl Line {
    fn style(&self) -> ShapeStyle {
        let colour = SERIES[self.colour % SERIES.len()];
        match self.look {
            Look::Faint => colour.mix(0.35).stroke_width(1),
            Look::Solid => colour.stroke_width(2),
            Look::Marked => colour.stroke_width(1),
        }
    }
}

/// What a chart of lines shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axes {
    pub(crate) name: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) size: (u32, u32),
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(
    axes: Axes,
    with: impl FnOnce(&Area<'_>) -> std::result::Result<(), Box<dyn std::error::Error>>,
) -> Result<String> {
    let mut svg = String::new();
    let problem = |e: &dyn std::fmt::Display| Error::Chart { name: axes.name, problem: e.to_string() };
    {
        let area = SVGBackend::with_string(&mut svg, axes.size).into_drawing_area();
        with(&area).map_err(|e| problem(&e))?;
        area.present().map_err(|e| problem(&e))?;
    }
    Ok(svg)
}

/// Lines over a common axis; the empty string where there is nothing to draw.
pub(crate) fn lines(axes: Axes, lines: &[Line]) -> Result<String> {
    let all = || lines.iter().flat_map(|line| &line.points).copied().filter(drawable);
    let Some((x, y)) = bounds(all().map(|p| p.0)).zip(bounds(all().map(|p| p.1))) else {
        return Ok(String::new());
    };
    let named: Vec<&Line> = lines.iter().filter(|line| line.look != Look::Faint).collect();
    let (places, legend) = places(&named, axes.size.0);
    let size = (axes.size.0, axes.size.1 + legend);
    draw(Axes { size, ..axes }, |area| {
        let (above, plot) = area.split_vertically(legend);
        for (line, (x, y)) in named.iter().zip(&places) {
            above.draw(&PathElement::new([(*x, *y), (*x + SWATCH, *y)], line.style()))?;
            if line.look == Look::Marked {
                above.draw(&Circle::new((*x + SWATCH / 2, *y), MARK, line.style().filled()))?;
            }
            let label = ("sans-serif", 13).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            above.draw(&Text::new(line.name.as_str(), (*x + SWATCH + 6, *y), label))?;
        }
        let mut chart = ChartBuilder::on(&plot)
            .margin(10)
            .x_label_area_size(38)
            .y_label_area_size(58)
            .build_cartesian_2d(distinct(x), padded(y))?;
        mesh(&mut chart, axes)?;
        for line in lines {
            let points: Vec<_> = line.points.iter().copied().filter(drawable).collect();
            if line.look == Look::Marked {
                chart.draw_series(points.iter().map(|p| Circle::new(*p, MARK, line.style().filled())))?;
            }
            chart.draw_series(LineSeries::new(points, line.style()))?;
        }
        Ok(())
    })
}

/// Length of a legend's piece of line, and radius of a mark.
const SWATCH: i32 = 22;
const MARK: i32 = 3;

/// Where the names of a legend begin, row by row above the plot so that no line runs through them, and how high it is.
fn places(named: &[&Line], width: u32) -> (Vec<(i32, i32)>, u32) {
    const ROW: i32 = 20;
    const LEFT: i32 = 68;
    let (mut x, mut y) = (LEFT, 14);
    let place = |line: &&Line| {
        // No typeface that is likely has wider letters on average.
        let wide = SWATCH + 6 + 8 * line.name.chars().count() as i32 + 16;
        if x > LEFT && x + wide > width as i32 {
            (x, y) = (LEFT, y + ROW);
        }
        let at = (x, y);
        x += wide;
        at
    };
    let places: Vec<_> = named.iter().map(place).collect();
    let height = places.last().map_or(0, |(_, y)| y + ROW / 2);
    (places, height as u32)
}

/// Counts as bars of equal width over [−1, 1].
pub(crate) fn histogram(axes: Axes, counts: &[u64]) -> Result<String> {
    let most = counts.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return Ok(String::new());
    }
    let width = 2. / counts.len() as f64;
    draw(axes, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .x_label_area_size(22)
            .build_cartesian_2d(-1.02..1.02, 0f64..most as f64 * 1.04)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .disable_y_axis()
            .x_labels(5)
            .axis_style(INK)
            .label_style(("sans-serif", 11).into_font().color(&INK))
            .draw()?;
        chart.draw_series(counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, &n)| {
            let x = -1. + width * i as f64;
            Rectangle::new([(x, 0.), (x + width, n as f64)], SERIES[1].filled())
        }))?;
        Ok(())
    })
}

/// One value for each name, from left to right.
pub(crate) fn per_layer(axes: Axes, series: &[(&str, Vec<f64>)]) -> Result<String> {
    let drawn: Vec<Line> = series
        .iter()
        .enumerate()
        .map(|(colour, (name, values))| Line {
            name: name.to_string(),
            points: values.iter().enumerate().map(|(i, v)| (i as f64, *v)).collect(),
            look: Look::Solid,
            colour,
        })
        .collect();
    lines(axes, &drawn)
}

fn mesh<'a>(
    chart: &mut ChartContext<
        'a,
        SVGBackend<'_>,
        Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
    >,
    axes: Axes,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RULE)
        .axis_style(INK)
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&|v| short(*v))
        .y_label_formatter(&|v| short(*v))
        .label_style(("sans-serif", 12).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 13).into_font().color(&INK))
        .x_desc(axes.x)
        .y_desc(axes.y)
        .draw()
        .map_err(|e| e.to_string().into())
}

/// Whether a point has a place on an axis. The chart library looks for ticks by adding a step: without end, where a range
/// overflows.
fn drawable((x, y): &(f64, f64)) -> bool {
    const LARGEST: f64 = 1e30;
    x.abs() <= LARGEST && y.abs() <= LARGEST
}

/// A range in which a tick's step is not lost beside the numbers, which would be added without end, too.
fn distinct((low, high): (f64, f64)) -> std::ops::Range<f64> {
    low..high.max(low + 1e-9 * low.abs().max(high.abs()))
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |b: Option<(f64, f64)>, v| Some(b.map_or((v, v), |(l, h)| (l.min(v), h.max(v)))))
}

/// A range with room at both ends, of some width even for a single value.
fn padded((low, high): (f64, f64)) -> std::ops::Range<f64> {
    let room = if high > low { 0.05 * (high - low) } else { 0.5 * high.abs().max(1e-3) };
    distinct((low - room, high + room))
}

/// `12k`, `3.4`, `1e-4`: a label without needless digits.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    let trim = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    };
    match size {
        0. => "0".into(),
        _ if size >= 1e6 => format!("{}M", trim(format!("{:.2}", value / 1e6))),
        _ if size >= 1e4 => format!("{}k", trim(format!("{:.1}", value / 1e3))),
        _ if size < 1e-2 => format!("{value:.1e}").replace(".0e", "e"),
        _ if size < 10. => trim(format!("{value:.3}")),
        _ => trim(format!("{value:.1}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        for (value, text) in [
            (0., "0"),
            (81920., "81.9k"),
            (2e6, "2M"),
            (2e-4, "2e-4"),
            (3.25, "3.25"),
            (-0.5, "-0.5"),
            (100., "100"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn a_chart_draws_its_lines_and_nothing_draws_nothing() {
        let axes = Axes { name: "loss", x: "tokens", y: "loss", size: (400, 200) };
        let line =
            Line { name: "a <b>".into(), points: vec![(0., 1.), (1., 2.)], look: Look::Solid, colour: 0 };
        let svg = lines(axes, std::slice::from_ref(&line)).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("<polyline") && svg.contains("a &lt;b&gt;"), "{svg}");
        assert_eq!(lines(axes, &[]).unwrap(), "");
        assert_eq!(lines(axes, &[Line { points: vec![(0., f64::NAN)], ..line.clone() }]).unwrap(), "");
        for hostile in [
            [(0., 1e308), (1., -1e308), (2., f64::INFINITY)],
            [(0., 1e17), (1e17, 1e17), (1e17 + 16., 1e17 + 16.)],
            [(-1e30, -1e30), (1e30, 1e30), (f64::MIN_POSITIVE, 5e-324)],
        ] {
            assert!(lines(axes, &[Line { points: hostile.into(), ..line.clone() }]).is_ok());
        }
        assert_eq!(histogram(axes, &[0; 5]).unwrap(), "");
        assert_eq!(histogram(axes, &[1, 0, 3]).unwrap().matches("<rect").count(), 2);
    }
}
