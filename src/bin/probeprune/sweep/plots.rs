//! Charts as SVG text for a page: without a legend, and without references to other files.

use std::ops::Range;

use plotters::{
    chart::MeshStyle,
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, ValueFormatter},
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// Used cyclically. Colour-blind readers can tell the first seven apart (Okabe and Ito).
const COLOURS: [RGBColor; 12] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(110, 110, 110),
    RGBColor(93, 58, 155),
    RGBColor(136, 34, 85),
    RGBColor(140, 140, 20),
    RGBColor(64, 200, 190),
    RGBColor(20, 20, 20),
];
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(226, 226, 226);
const FONT: &str = "sans-serif";
const TO_MEMORY: &str = "drawing to memory does not fail";

/// The colour of the variant with this number.
pub(super) fn colour(variant: usize) -> RGBColor {
    COLOURS[variant % COLOURS.len()]
}

/// An axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// With the unit.
    pub(super) label: &'static str,
    pub(super) range: Range<f64>,
    /// Digits after the point.
    pub(super) digits: usize,
    /// In decades instead of even steps.
    pub(super) logarithmic: bool,
}

/// A line through points.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) colour: RGBColor,
    pub(super) points: Vec<(f64, f64)>,
    /// Thin and dashed, for a reference line.
    pub(super) dashed: bool,
    pub(super) marks: Vec<Mark>,
}

/// A highlighted point.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) at: (f64, f64),
    /// Along the x axis.
    pub(super) spread: (f64, f64),
    pub(super) shape: usize,
}

/// The shapes of marks as text, for a legend; used cyclically.
pub(super) const SHAPES: [&str; 4] = ["●", "▲", "■", "✕"];

/// One bar, its parts from left to right.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) parts: Vec<(f64, RGBColor)>,
}

/// A chart of lines, `size` in pixels.
pub(super) fn lines(title: &str, size: (u32, u32), x: &Axis, y: &Axis, lines: &[Line]) -> String {
    svg(size, |area| {
        let range = y.range.clone();
        if y.logarithmic {
            let steps = logarithmic_steps(&range);
            draw_lines(area, title, x, y, range.log_scale().with_key_points(steps), lines);
        } else {
            draw_lines(area, title, x, y, range, lines);
        }
    })
}

/// The common style of all axes.
fn style<'m, 'a, 'b, 'd, X, Y>(
    mesh: &'m mut MeshStyle<'a, 'b, X, Y, SVGBackend<'d>>,
    x: &Axis,
) -> &'m mut MeshStyle<'a, 'b, X, Y, SVGBackend<'d>>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    mesh.x_desc(x.label)
        .axis_desc_style((FONT, 18, &INK))
        .label_style((FONT, 16, &INK))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .x_labels(8)
}

/// 1, 2 and 5 times the powers of ten in a range: plotters labels only the powers.
fn logarithmic_steps(range: &Range<f64>) -> Vec<f64> {
    let decades = range.start.log10().floor() as i32..=range.end.log10().ceil() as i32;
    let steps = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)));
    steps.filter(|step| range.contains(step)).collect()
}

fn draw_lines<Y>(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    x: &Axis,
    y: &Axis,
    y_range: Y,
    lines: &[Line],
) where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 20, &INK))
        .margin(10)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(x.range.clone(), y_range)
        .expect(TO_MEMORY);
    let mut mesh = chart.configure_mesh();
    style(&mut mesh, x)
        .y_desc(y.label)
        .y_labels(7)
        .x_label_formatter(&|value| format!("{value:.*}", x.digits))
        .y_label_formatter(&|value| format!("{value:.*}", y.digits))
        .draw()
        .expect(TO_MEMORY);
    for line in lines {
        let points = line.points.iter().copied();
        let drawn = if line.dashed {
            chart.draw_series(DashedLineSeries::new(points, 4, 4, line.colour.stroke_width(1))).map(|_| ())
        } else {
            chart.draw_series(LineSeries::new(points, line.colour.stroke_width(2))).map(|_| ())
        };
        drawn.expect(TO_MEMORY);
        let whiskers = line.marks.iter().map(|mark| {
            let (low, high) = mark.spread;
            PathElement::new(vec![(low, mark.at.1), (high, mark.at.1)], line.colour.mix(0.6).stroke_width(2))
        });
        chart.draw_series(whiskers).expect(TO_MEMORY);
        let marks = line.marks.iter().map(|mark| {
            let style = line.colour.filled();
            let shape = match mark.shape % SHAPES.len() {
                0 => Circle::new((0, 0), 5, style).into_dyn(),
                1 => TriangleMarker::new((0, 0), 7, style).into_dyn(),
                2 => Rectangle::new([(-5, -5), (5, 5)], style).into_dyn(),
                _ => Cross::new((0, 0), 5, line.colour.stroke_width(3)).into_dyn(),
            };
            EmptyElement::at(mark.at) + shape
        });
        chart.draw_series(marks).expect(TO_MEMORY);
    }
}

/// Horizontal bars from top to bottom, `width` in pixels, over an axis in percent.
pub(super) fn bars(title: &str, width: u32, x: &Axis, bars: &[Bar]) -> String {
    let count = bars.len() as f64;
    svg((width, 110 + 30 * bars.len() as u32), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, (FONT, 20, &INK))
            .margin(10)
            .margin_right(24)
            .x_label_area_size(48)
            .y_label_area_size(10)
            .build_cartesian_2d(x.range.clone(), count..0.0)
            .expect(TO_MEMORY);
        let mut mesh = chart.configure_mesh();
        style(&mut mesh, x)
            .y_labels(0)
            .disable_y_mesh()
            .x_label_formatter(&|value| format!("{value:.*}", x.digits))
            .draw()
            .expect(TO_MEMORY);
        for (index, bar) in bars.iter().enumerate() {
            let (top, mut left) = (index as f64 + 0.15, 0.0);
            let rectangles = bar.parts.iter().map(|&(length, colour)| {
                let start = left;
                left += length;
                Rectangle::new([(start, top), (left, top + 0.7)], colour.filled())
            });
            chart.draw_series(rectangles).expect(TO_MEMORY);
            let style = (FONT, 16).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            let text = Text::new(bar.label.clone(), (left + 1.0, top + 0.35), style);
            chart.draw_series([text]).expect(TO_MEMORY);
        }
    })
}

/// Draws on white, without the XML namespace: HTML does not need it.
fn svg(size: (u32, u32), draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>)) -> String {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).expect(TO_MEMORY);
        draw(&area);
        area.present().expect(TO_MEMORY);
    }
    text.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "")
}
