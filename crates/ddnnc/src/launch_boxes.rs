//! Launches in a picture: small boxes below the name of a block, and the legend of their kinds.

use crate::graph_launches::{PartLaunch, StepLaunches};
use crate::svg::{Face, Style, Svg, text_width};
use ddnnc_ir::GroupKind;

/// Height of a launch's box, and of the row that it stands in.
const BOX: f64 = 14.0;
const ROW: f64 = 17.0;
const SIZE: f64 = 9.0;
/// Width of a coloured tick with the space behind it.
const TICK: f64 = 5.0;
/// Characters of a name that are shown; the tooltip has them all.
const SHOWN: usize = 40;
const GREY: &str = "#666666";

/// The launches of a block that serves `nets`.
pub struct LaunchBoxes<'a> {
    /// In the order of computation.
    pub launches: &'a [PartLaunch],
    /// Indices of the block's nets.
    pub nets: &'a [usize],
    /// The lane of every net: ticks stand in the order of lanes.
    pub lane: &'a [usize],
}

impl LaunchBoxes<'_> {
    /// The width that the widest box needs.
    pub fn width(&self) -> f64 {
        let widths =
            self.launches.iter().map(|launch| self.ticks(launch) + text_width(&label(launch), SIZE) + 10.0);
        widths.fold(0.0, f64::max)
    }

    /// The height of all boxes with the space below them.
    pub fn height(&self) -> f64 {
        if self.launches.is_empty() { 0.0 } else { ROW * self.launches.len() as f64 + 5.0 }
    }

    /// Width of the ticks of a launch that serves other nets besides the block's.
    fn ticks(&self, launch: &PartLaunch) -> f64 {
        if launch.nets == self.nets { 0.0 } else { TICK * launch.nets.len() as f64 }
    }

    /// Draws the boxes below each other from `corner`; `net` gives a net's name and colour.
    pub fn draw<'n>(
        &self,
        svg: &mut Svg,
        corner: [f64; 2],
        width: f64,
        net: &dyn Fn(usize) -> (&'n str, &'n str),
    ) {
        for (i, launch) in self.launches.iter().enumerate() {
            let [left, top] = [corner[0], corner[1] + ROW * i as f64];
            let kind = launch.kind.map_or("single", GroupKind::as_str);
            let names: Vec<&str> = launch.nets.iter().map(|&n| net(n).0).collect();
            let each = if launch.count > 1 { format!("\n{} launches", launch.count) } else { String::new() };
            let tooltip = format!("{}\n{kind}, for {}{each}", launch.name, names.join(", "));
            svg.rect(
                [left, top],
                [width, BOX],
                style(launch.kind),
                &format!(" data-kind=\"{kind}\""),
                &tooltip,
            );
            let ticks = self.ticks(launch);
            if ticks > 0.0 {
                let mut nets = launch.nets.clone();
                nets.sort_by_key(|&n| self.lane[n]);
                for (i, n) in nets.into_iter().enumerate() {
                    let x = left + 3.0 + TICK * i as f64;
                    svg.rect([x, top + 2.5], [TICK - 1.5, BOX - 5.0], Style::fill(net(n).1), "", "");
                }
            }
            svg.text(left + ticks + 5.0, top + 10.0, Face::new(SIZE), &label(launch));
        }
    }
}

/// A launch's name, shortened where it is long, and how many there are.
fn label(launch: &PartLaunch) -> String {
    let times = if launch.count > 1 { format!(" ×{}", launch.count) } else { String::new() };
    shortened(&launch.name) + &times
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= SHOWN {
        return name.to_string();
    }
    name.chars().take(SHOWN - 1).chain(['…']).collect()
}

fn style(kind: Option<GroupKind>) -> Style<'static> {
    let fill = match kind {
        Some(GroupKind::Convolution) => "#dce8f5",
        Some(GroupKind::Pointwise) => "#e3f2dd",
        Some(GroupKind::Sequence) => "#f3e3f4",
        Some(GroupKind::Update) => "#fde5c8",
        None => "#eeeeee",
    };
    Style { fill, radius: 2.0, ..Style::line("#999999", 0.6) }
}

/// Draws the kinds of launches with their numbers; gives the right edge and the base line of the last row.
pub fn draw_legend(svg: &mut Svg, corner: [f64; 2], step: &StepLaunches) -> [f64; 2] {
    let [left, mut y] = [corner[0], corner[1] + 10.0];
    let face = Face::new(12.0);
    let mut right = left;
    let mut line = |svg: &mut Svg, y: f64, x: f64, face: Face, text: &str| {
        svg.text(x, y, face, text);
        right = f64::max(right, x + text_width(text, face.size));
    };
    line(svg, y, left, Face { bold: true, ..face }, "launches of the training step");
    for kind in [GroupKind::Convolution, GroupKind::Pointwise, GroupKind::Sequence, GroupKind::Update] {
        let [forward, backward] = step.counts[kind as usize];
        if forward + backward == 0 {
            continue;
        }
        y += 20.0;
        svg.rect([left, y - 11.0], [28.0, BOX], style(Some(kind)), "", "");
        let text = if kind == GroupKind::Update {
            let names: Vec<String> = step.updates.iter().map(|name| shortened(name)).collect();
            format!("{kind}: {} ({})", forward + backward, names.join(", "))
        } else {
            format!("{kind}: {forward} forward, {backward} backward")
        };
        line(svg, y, left + 38.0, face, &text);
    }
    y += 20.0;
    svg.rect([left, y - 11.0], [28.0, BOX], style(None), "", "");
    line(svg, y, left + 38.0, face, "an operator on its own");
    y += 20.0;
    line(
        svg,
        y,
        left + 38.0,
        Face { fill: GREY, ..face },
        "coloured ticks: it serves nets of other boxes too",
    );
    [right, y]
}
