//! Charts as SVG text, in colours that a style sheet can replace.

use plotters::coord::Shift;
use plotters::prelude::*;

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
    /// Thin and pale: what a smoother line is of.
    pub(crate) faint: bool,
    /// A line that this one shares its colour with.
    pub(crate) colour: usize,
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
    let all = || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let Some((x, y)) = bounds(all().map(|p| p.0)).zip(bounds(all().map(|p| p.1))) else {
        return Ok(String::new());
    };
    draw(axes, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(10)
            .x_label_area_size(38)
            .y_label_area_size(58)
            .build_cartesian_2d(x.0..x.1, padded(y))?;
        mesh(&mut chart, axes)?;
        for line in lines {
            let colour = SERIES[line.colour % SERIES.len()];
            let style = match line.faint {
                true => colour.mix(0.35).stroke_width(1),
                false => colour.stroke_width(2),
            };
            let drawn = chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
            if !line.faint {
                drawn
                    .label(line.name.as_str())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            }
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(("sans-serif", 13).into_font().color(&INK))
            .border_style(TRANSPARENT)
            .draw()?;
        Ok(())
    })
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
            faint: false,
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

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |b: Option<(f64, f64)>, v| Some(b.map_or((v, v), |(l, h)| (l.min(v), h.max(v)))))
}

/// A range with room at both ends, of some width even for a single value.
fn padded((low, high): (f64, f64)) -> std::ops::Range<f64> {
    let room = if high > low { 0.05 * (high - low) } else { 0.5 * high.abs().max(1e-3) };
    low - room..high + room
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
        let line = Line { name: "a <b>".into(), points: vec![(0., 1.), (1., 2.)], faint: false, colour: 0 };
        let svg = lines(axes, std::slice::from_ref(&line)).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("<polyline") && svg.contains("a &lt;b&gt;"), "{svg}");
        assert_eq!(lines(axes, &[]).unwrap(), "");
        assert_eq!(lines(axes, &[Line { points: vec![(0., f64::NAN)], ..line }]).unwrap(), "");
        assert_eq!(histogram(axes, &[0; 5]).unwrap(), "");
        assert_eq!(histogram(axes, &[1, 0, 3]).unwrap().matches("<rect").count(), 2);
    }
}
