//! A model as a picture: a lane for each net, boxes for blocks, dashed arrows for pairings.
//!
//! What several nets compute on the same values is one box across their lanes. A pairing's arrow runs in the gap behind
//! the columns of its two ends, then below its student's lane; its name stands on it, in a row of its own there, so that
//! no two texts meet. Below a block's name stand the launches of the forward pass that compute it, a small box each.

use crate::graph_launches::StepLaunches;
use crate::graph_layout::{Layout, Node};
use crate::graph_parts::Parts;
use crate::graph_terms::{Arrow, Loss, arrows, losses};
use crate::launch_boxes::{self, LaunchBoxes};
use crate::output::{grouped, si};
use crate::svg::{COLORS, Face, Style, Svg, text_width};
use ddnnc_ir::{Graph, IrError, Model, Net, NetKind, Weight};
use std::collections::BTreeSet;

const MARGIN: f64 = 20.0;
const TOP: f64 = 72.0;
/// Height of a box that lies in one lane and has no launches.
const BOX: f64 = 44.0;
/// Space above and below a box in its lane.
const PAD: f64 = 12.0;
/// Height of a row for a pairing's arrow and its name.
const ROW: f64 = 20.0;
/// Width between columns.
const GAP: f64 = 30.0;
/// Width between arrows that run side by side.
const TRACK: f64 = 9.0;
const DARK: &str = "#333333";
const GREY: &str = "#666666";

/// The kind of a net in words.
pub fn kind(net: &Net) -> &'static str {
    match net.kind {
        NetKind::Subnet => "sub-net",
        NetKind::Exit => "exit",
        NetKind::Network if net.frozen => "network, frozen",
        NetKind::Network => "network",
    }
}

/// A weight in words.
pub fn weight(weight: &Weight) -> String {
    match *weight {
        Weight::Constant(w) => w.to_string(),
        Weight::Ramp { from, to, epochs } => {
            let unit = if epochs == 1.0 { "epoch" } else { "epochs" };
            format!("{from} to {to} over {epochs} {unit}")
        }
    }
}

/// The picture of a model as an SVG document; `shared` is its forward graph with prefixes shared, `fused` its training
/// step after all passes, where it has one.
///
/// # Errors
///
/// A graph with a cycle.
pub fn picture(model: &Model, shared: &Graph, fused: Option<&Graph>) -> Result<String, IrError> {
    let parts = Parts::new(model, shared)?;
    let ends: Vec<Option<(usize, usize)>> = model
        .pairings
        .iter()
        .map(|p| Some((parts.end_of(model, &p.teacher)?, parts.end_of(model, &p.student)?)))
        .collect();
    let mut held: BTreeSet<usize> = parts.logits.iter().copied().flatten().collect();
    held.extend(ends.iter().flatten().flat_map(|&(teacher, student)| [teacher, student]));
    let launches = fused.map(|graph| StepLaunches::new(model, &parts, graph)).transpose()?;
    let of_part = launches.as_ref().map_or(&[][..], |all| all.of_part.as_slice());
    let layout = Layout::new(&parts, model.nets.len(), &held, of_part);
    let arrows = arrows(model, &layout, &ends);
    let losses = losses(model, &parts, layout.columns);
    Ok(Picture::new(model, parts, layout, launches, arrows, losses).draw())
}

struct Picture<'a> {
    model: &'a Model,
    parts: Parts,
    layout: Layout,
    launches: Option<StepLaunches>,
    arrows: Vec<Arrow>,
    losses: Vec<Loss>,
    /// Left edge and width of each column.
    columns: Vec<(f64, f64)>,
    /// Width of the names in the gap behind each column.
    names: Vec<f64>,
    /// Top edge of each lane, and of what follows the last.
    lanes: Vec<f64>,
    /// Height of a box that lies in each lane.
    heights: Vec<f64>,
    /// Right edge of the lanes.
    right: f64,
}

impl<'a> Picture<'a> {
    fn new(
        model: &'a Model,
        parts: Parts,
        layout: Layout,
        launches: Option<StepLaunches>,
        arrows: Vec<Arrow>,
        losses: Vec<Loss>,
    ) -> Picture<'a> {
        let mut picture = Picture {
            model,
            parts,
            layout,
            launches,
            arrows,
            losses,
            columns: Vec::new(),
            names: Vec::new(),
            lanes: Vec::new(),
            heights: Vec::new(),
            right: 0.0,
        };
        picture.measure();
        picture
    }

    /// Fixes columns and lanes from the widths of what they hold.
    fn measure(&mut self) {
        let count = self.losses.iter().map(|l| l.column + 1).max().unwrap_or(0).max(self.layout.columns);
        let mut widths = vec![60.0f64; count];
        for node in &self.layout.nodes {
            let (label, shape) = self.label(node);
            let need =
                text_width(&label, 12.0).max(text_width(&shape, 10.0)).max(self.launches_of(node).width());
            widths[node.column] = widths[node.column].max(need + 24.0 + 5.0 * self.colors(node).len() as f64);
        }
        for loss in &self.losses {
            let (name, weight) = self.loss_label(loss);
            let need = text_width(&name, 12.0).max(text_width(&weight, 10.0)) + 32.0;
            widths[loss.column] = widths[loss.column].max(need);
        }
        self.names = vec![0.0; count];
        let mut tracks = vec![0usize; count];
        for arrow in &self.arrows {
            let name = &mut self.names[arrow.gap];
            *name = name.max(text_width(&arrow.name, 11.0) + 16.0);
            tracks[arrow.gap] = tracks[arrow.gap].max(arrow.track + 1);
        }
        let nets = self.model.nets.iter();
        let heads = nets.flat_map(|net| lane_head(net).map(|(text, face)| text_width(&text, face.size)));
        let mut x = MARGIN + 14.0 + heads.fold(0.0, f64::max) + GAP;
        let input = self.input_lines();
        x += text_width(&input[0], 12.0).max(text_width(&input[1], 10.0)) + 24.0 + GAP;
        for (column, &width) in widths.iter().enumerate() {
            self.columns.push((x, width));
            x += width + GAP + self.names[column] + TRACK * tracks[column] as f64;
        }
        self.right = x;
        let mut y = TOP;
        for lane in 0..self.model.nets.len() {
            self.lanes.push(y);
            let below = self.arrows.iter().filter(|a| self.layout.nodes[a.student].lanes.1 == lane);
            let rows = below.map(|a| a.row + 1).max().unwrap_or(0);
            let height = self.lane_height(lane, y);
            self.heights.push(height);
            y += 2.0 * PAD + height + ROW * rows as f64;
        }
        self.lanes.push(y);
    }

    /// The height of boxes in a lane whose top edge is at `y`: what the largest that ends there needs, after what it has
    /// in the lanes above.
    fn lane_height(&self, lane: usize, y: f64) -> f64 {
        let ending = self.layout.nodes.iter().filter(|node| node.lanes.1 == lane);
        let need = ending.map(|node| {
            let above = if node.lanes.0 < lane { y - self.lanes[node.lanes.0] } else { 0.0 };
            BOX + self.launches_of(node).height() - above
        });
        need.fold(BOX, f64::max)
    }

    /// The launches of a box: its parts have equal ones.
    fn launches_of(&self, node: &Node) -> LaunchBoxes<'_> {
        let part = node.parts[0];
        let launches = self.launches.as_ref().map_or(&[][..], |all| all.of_part[part].as_slice());
        LaunchBoxes { launches, nets: &self.parts.parts[part].nets, lane: &self.layout.lane }
    }

    fn input_lines(&self) -> [String; 2] {
        let (name, shape) = &self.model.input;
        let dims: Vec<String> = shape.dims().iter().map(usize::to_string).collect();
        [name.clone(), dims.join("×")]
    }

    /// What a box says: its name, and the shape of a sample that leaves it.
    fn label(&self, node: &Node) -> (String, String) {
        let first = &self.parts.parts[node.parts[0]];
        let last = &self.parts.parts[node.parts[node.parts.len() - 1]];
        let label = match (node.parts.len(), last.place.rsplit('.').next()) {
            (n, Some(index)) if n > 1 => format!("{}–{index} (×{n})", first.label),
            _ => first.label.clone(),
        };
        (label, last.output.clone())
    }

    fn loss_label(&self, loss: &Loss) -> (String, String) {
        let term = &self.model.terms[loss.term];
        (term.name.clone(), format!("weight {}", weight(&term.weight)))
    }

    fn color(&self, net: usize) -> &'static str {
        COLORS[self.layout.lane[net] % COLORS.len()]
    }

    /// The colours of the nets that a box serves, by lane.
    fn colors(&self, node: &Node) -> Vec<&'static str> {
        let mut nets = self.parts.parts[node.parts[0]].nets.clone();
        nets.sort_by_key(|&net| self.layout.lane[net]);
        nets.iter().map(|&net| self.color(net)).collect()
    }

    /// Left, top, right and bottom of a box.
    fn bounds(&self, node: &Node) -> [f64; 4] {
        let (left, width) = self.columns[node.column];
        let (first, last) = node.lanes;
        [left, self.lanes[first] + PAD, left + width, self.lanes[last] + PAD + self.heights[last]]
    }

    fn draw(&self) -> String {
        let mut svg = Svg::default();
        self.draw_lanes(&mut svg);
        self.draw_flow(&mut svg);
        for arrow in &self.arrows {
            self.draw_arrow(&mut svg, arrow);
        }
        for node in &self.layout.nodes {
            self.draw_box(&mut svg, node);
        }
        self.draw_losses(&mut svg);
        let (width, height) = self.draw_legend(&mut svg);
        svg.finish(&format!("{}: nets, blocks, losses and pairings", self.model.name), width, height)
    }

    fn draw_lanes(&self, svg: &mut Svg) {
        let model = self.model;
        svg.text(MARGIN, 30.0, Face { bold: true, ..Face::new(18.0) }, &model.name);
        svg.text(MARGIN, 52.0, Face { fill: GREY, ..Face::new(12.0) }, &self.about());
        for (net, entry) in model.nets.iter().enumerate() {
            let lane = self.layout.lane[net];
            let (top, bottom) = (self.lanes[lane], self.lanes[lane + 1]);
            let tint = Style { radius: 4.0, ..Style::fill(self.color(net)) };
            let size = [self.right - MARGIN, bottom - top - 4.0];
            svg.rect([MARGIN, top + 2.0], size, tint, " fill-opacity=\"0.1\"", "");
            svg.rect([MARGIN, top + 2.0], [5.0, size[1]], Style::fill(self.color(net)), "", "");
            for (i, (text, face)) in lane_head(entry).into_iter().enumerate() {
                svg.text(MARGIN + 14.0, top + 26.0 + 16.0 * i as f64, face, &text);
            }
        }
    }

    /// What the picture's second line says.
    fn about(&self) -> String {
        let model = self.model;
        let merged = self.parts.parts.iter().filter(|part| part.nets.len() > 1).count();
        let (input, target) = (&model.input, &model.target);
        let merged = match merged {
            0 => "nothing is computed for several nets at once".to_string(),
            n => format!("{n} of {} parts are computed once for several nets", self.parts.parts.len()),
        };
        format!("{} f32{} to {} class[{}]; {merged}", input.0, input.1, target.0, target.1)
    }

    /// The input, and the arrows from part to part.
    fn draw_flow(&self, svg: &mut Svg) {
        let style = Style::line(DARK, 1.4);
        let input = self.input_lines();
        let width = text_width(&input[0], 12.0).max(text_width(&input[1], 10.0)) + 24.0;
        let first = self.columns.first().map_or(self.right, |c| c.0);
        let left = first - GAP - width;
        let count = self.model.nets.len();
        let (top, bottom) =
            (self.lanes[0] + PAD, self.lanes[count.max(1) - 1] + PAD + self.heights[count.max(1) - 1]);
        let entries: BTreeSet<usize> = self.parts.entries.iter().map(|&p| self.layout.node_of[p]).collect();
        for &node in &entries {
            let [x, above, _, below] = self.bounds(&self.layout.nodes[node]);
            let y = (above + below) / 2.0;
            svg.line(&[[first - GAP, y], [x - 1.0, y]], style, true, "");
        }
        let face = Style { fill: "#ffffff", radius: 6.0, ..Style::line(DARK, 1.2) };
        svg.rect([left, top], [width, bottom - top], face, "", "the input of every net");
        let middle = (top + bottom) / 2.0;
        let face = Face { anchor: "middle", ..Face::new(12.0) };
        svg.text(left + width / 2.0, middle - 2.0, Face { bold: true, ..face }, &input[0]);
        svg.text(left + width / 2.0, middle + 13.0, Face { size: 10.0, fill: GREY, ..face }, &input[1]);

        let mut drawn = BTreeSet::new();
        for &(from, to) in &self.parts.edges {
            let pair = (self.layout.node_of[from], self.layout.node_of[to]);
            if pair.0 == pair.1 || !drawn.insert(pair) {
                continue;
            }
            let [_, above, right, below] = self.bounds(&self.layout.nodes[pair.0]);
            let [left, its_above, _, its_below] = self.bounds(&self.layout.nodes[pair.1]);
            let end = (its_above + its_below) / 2.0;
            let start = if above < end && end < below { end } else { (above + below) / 2.0 };
            let points = if start == end {
                vec![[right, start], [left - 1.0, end]]
            } else if its_above < start && start < its_below {
                vec![[right, start], [left - 1.0, start]]
            } else {
                let bend = right + GAP / 3.0;
                vec![[right, start], [bend, start], [bend, end], [left - 1.0, end]]
            };
            svg.line(&points, style, true, "");
        }
    }

    fn draw_arrow(&self, svg: &mut Svg, arrow: &Arrow) {
        let [_, _, from, low] = self.bounds(&self.layout.nodes[arrow.teacher]);
        let student = &self.layout.nodes[arrow.student];
        let [_, _, to, bottom] = self.bounds(student);
        let (left, width) = self.columns[arrow.gap];
        let names = left + width + GAP / 2.0;
        let track = names + self.names[arrow.gap] + TRACK * arrow.track as f64;
        let line = bottom + PAD / 2.0 + ROW * (arrow.row + 1) as f64 - 2.0;
        let start = low - 7.0;
        let end = to - 12.0 - TRACK * arrow.row as f64;
        let points = [[from, start], [track, start], [track, line], [end, line], [end, bottom + 1.0]];
        let style = Style { dashed: true, ..Style::line(DARK, 1.2) };
        let weight = self.model.terms.get(arrow.term).map_or(String::new(), |t| weight(&t.weight));
        svg.line(&points, style, true, &format!("{}\nweight {weight}", arrow.name));
        svg.text(names + 4.0, line - 4.0, Face { fill: DARK, ..Face::new(11.0) }, &arrow.name);
    }

    fn draw_box(&self, svg: &mut Svg, node: &Node) {
        let [left, top, right, bottom] = self.bounds(node);
        let part = &self.parts.parts[node.parts[0]];
        let colors = self.colors(node);
        let merged = colors.len() > 1;
        let frozen = part.nets.iter().all(|&net| self.model.nets[net].frozen);
        let color = if merged { DARK } else { colors[0] };
        let style = Style {
            fill: if frozen { "#e4e6e8" } else { "#ffffff" },
            radius: 5.0,
            ..Style::line(color, if merged { 2.2 } else { 1.6 })
        };
        svg.rect([left, top], [right - left, bottom - top], style, "", &self.tooltip(node));
        for (i, color) in colors.iter().enumerate() {
            let x = left + 4.0 + 5.0 * i as f64;
            svg.rect([x, top + 4.0], [4.0, bottom - top - 8.0], Style::fill(color), "", "");
        }
        let (label, shape) = self.label(node);
        let x = (left + right + 4.0 + 5.0 * colors.len() as f64) / 2.0;
        let launches = self.launches_of(node);
        let y = (top + bottom - launches.height()) / 2.0;
        let face = Face { anchor: "middle", ..Face::new(12.0) };
        svg.text(x, y - 2.0, Face { bold: true, ..face }, &label);
        svg.text(x, y + 13.0, Face { size: 10.0, fill: GREY, ..face }, &shape);
        let corner = [left + 8.0 + 5.0 * colors.len() as f64, y + BOX / 2.0];
        let names = |net: usize| (self.model.nets[net].name.as_str(), self.color(net));
        launches.draw(svg, corner, right - 6.0 - corner[0], &names);
    }

    fn tooltip(&self, node: &Node) -> String {
        let first = &self.parts.parts[node.parts[0]];
        let last = &self.parts.parts[node.parts[node.parts.len() - 1]];
        let nets: Vec<&str> = first.nets.iter().map(|&net| self.model.nets[net].name.as_str()).collect();
        let paths = if node.parts.len() > 1 {
            format!("{} to {}, {} equal blocks", first.path, last.path, node.parts.len())
        } else {
            first.path.clone()
        };
        let each = if node.parts.len() > 1 { " each" } else { "" };
        let once = if nets.len() > 1 { "computed once for" } else { "of" };
        format!(
            "{paths}\n{once} {}\noperators{each}: {}\nparameters{each}: {}\n{} to {}",
            nets.join(", "),
            first.operator_counts(),
            grouped(first.parameters as u64),
            first.inputs.join(" and "),
            last.output
        )
    }

    fn draw_losses(&self, svg: &mut Svg) {
        for loss in &self.losses {
            let (left, width) = self.columns[loss.column];
            let top = self.lanes[self.layout.lane[loss.net]] + PAD;
            let y = top + self.heights[self.layout.lane[loss.net]] / 2.0;
            let top = y - BOX / 2.0;
            // The first term takes the logits; further ones of the net stand behind it in a chain.
            let before = if loss.column > self.layout.columns {
                let (left, width) = self.columns[loss.column - 1];
                Some(left + width)
            } else {
                let node =
                    self.parts.logits[loss.net].map(|part| &self.layout.nodes[self.layout.node_of[part]]);
                node.map(|node| self.bounds(node)[2])
            };
            if let Some(x) = before {
                svg.line(&[[x, y], [left - 1.0, y]], Style::line(DARK, 1.4), true, "");
            }
            let style =
                Style { fill: "#fff6d6", radius: BOX / 2.0, ..Style::line(self.color(loss.net), 1.6) };
            let (name, weight) = self.loss_label(loss);
            svg.rect([left, top], [width, BOX], style, "", &format!("loss term {name}\n{weight}"));
            let face = Face { anchor: "middle", ..Face::new(12.0) };
            svg.text(left + width / 2.0, y - 2.0, Face { bold: true, ..face }, &name);
            svg.text(left + width / 2.0, y + 13.0, Face { size: 10.0, fill: GREY, ..face }, &weight);
        }
    }

    /// Draws signs and the table of terms below the lanes; gives the size of the whole picture.
    fn draw_legend(&self, svg: &mut Svg) -> (f64, f64) {
        let top = self.lanes[self.model.nets.len()] + 24.0;
        let solid = Style { radius: 3.0, fill: "#ffffff", ..Style::line(COLORS[0], 1.6) };
        let signs: [(Style, &str); 4] = [
            (solid, "one part of one net"),
            (Style { width: 2.2, stroke: DARK, ..solid }, "computed once for the nets of its coloured bars"),
            (Style { fill: "#e4e6e8", ..solid }, "frozen"),
            (Style { fill: "#fff6d6", radius: 8.0, ..solid }, "loss term of one net"),
        ];
        let face = Face::new(12.0);
        svg.text(MARGIN, top, Face { bold: true, ..face }, "signs");
        let mut y = top + 22.0;
        let mut width = 0.0f64;
        for (style, text) in signs {
            svg.rect([MARGIN, y - 11.0], [28.0, 14.0], style, "", "");
            svg.text(MARGIN + 38.0, y, face, text);
            width = width.max(text_width(text, 12.0));
            y += 20.0;
        }
        let dashed = Style { dashed: true, ..Style::line(DARK, 1.2) };
        svg.line(&[[MARGIN, y - 4.0], [MARGIN + 28.0, y - 4.0]], dashed, true, "");
        let text = "pairing: from the teacher to the student";
        svg.text(MARGIN + 38.0, y, face, text);
        width = width.max(text_width(text, 12.0));
        if let Some(launches) = &self.launches {
            let [right, below] = launch_boxes::draw_legend(svg, [MARGIN, y + 14.0], launches);
            width = width.max(right - MARGIN - 38.0);
            y = below;
        }

        let left = MARGIN + 38.0 + width + 60.0;
        svg.text(left, top, Face { bold: true, ..face }, "the loss is the sum of");
        let names = self.model.terms.iter().map(|t| text_width(&t.name, 12.0)).fold(0.0, f64::max);
        let mut bottom = top;
        let mut right = left + text_width("the loss is the sum of", 12.0);
        for term in &self.model.terms {
            bottom += 20.0;
            let weight = format!("weight {}", weight(&term.weight));
            svg.text(left, bottom + 2.0, face, &term.name);
            svg.text(left + names + 24.0, bottom + 2.0, Face { fill: GREY, ..face }, &weight);
            right = right.max(left + names + 24.0 + text_width(&weight, 12.0));
        }
        let title = text_width(&self.model.name, 18.0).max(text_width(&self.about(), 12.0));
        (self.right.max(right).max(MARGIN + title) + MARGIN, y.max(bottom) + 24.0)
    }
}

/// The lines at the left end of a lane.
fn lane_head(net: &Net) -> [(String, Face<'static>); 3] {
    let small = Face { fill: GREY, ..Face::new(11.0) };
    [
        (net.name.clone(), Face { bold: true, ..Face::new(14.0) }),
        (format!("{}, {} MACs", kind(net), si(net.macs)), small),
        (format!("{} parameters", grouped(net.parameter_count)), small),
    ]
}
