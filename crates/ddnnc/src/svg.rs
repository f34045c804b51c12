//! A small SVG writer: shapes and text with tooltips, equal input giving equal bytes.
//!
//! All text is set in a monospaced face, so that its width is known without a font: see [`text_width`].

use std::fmt::Write;

/// Colours of nets and kinds, told apart by most eyes.
pub const COLORS: [&str; 8] =
    ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#9467bd", "#2ca6a4", "#9c755f", "#c99700"];

/// Width of a character of the monospaced face, in font sizes; a little more than the usual faces need.
const ADVANCE: f64 = 0.61;

/// The width of a line of text in pixels.
pub fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * ADVANCE
}

/// Text as it may stand in XML content and in attributes; characters that XML forbids become a replacement mark.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A number with at most two decimals and no trailing zeros.
pub fn number(x: f64) -> String {
    let text = format!("{x:.2}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".to_string() } else { short.to_string() }
}

/// How a shape looks.
#[derive(Clone, Copy, Debug)]
pub struct Style<'a> {
    /// Fill colour.
    pub fill: &'a str,
    /// Line colour.
    pub stroke: &'a str,
    /// Line width; none where zero.
    pub width: f64,
    /// Whether the line is dashed.
    pub dashed: bool,
    /// Radius of a rectangle's corners.
    pub radius: f64,
}

impl<'a> Style<'a> {
    /// A filled shape without a line.
    pub fn fill(fill: &'a str) -> Style<'a> {
        Style { fill, stroke: "none", width: 0.0, dashed: false, radius: 0.0 }
    }

    /// A line without a filling.
    pub fn line(stroke: &'a str, width: f64) -> Style<'a> {
        Style { fill: "none", stroke, width, dashed: false, radius: 0.0 }
    }

    fn attributes(&self) -> String {
        let mut text = format!("fill=\"{}\"", self.fill);
        if self.width > 0.0 {
            let _ = write!(text, " stroke=\"{}\" stroke-width=\"{}\"", self.stroke, number(self.width));
        }
        if self.dashed {
            text.push_str(" stroke-dasharray=\"5 3\"");
        }
        text
    }
}

/// How a line of text is set.
#[derive(Clone, Copy, Debug)]
pub struct Face<'a> {
    /// Font size in pixels.
    pub size: f64,
    /// Bold.
    pub bold: bool,
    /// `start`, `middle` or `end`: what of the text stands at its x.
    pub anchor: &'a str,
    /// Colour.
    pub fill: &'a str,
}

impl Face<'_> {
    /// Dark text of a size that starts at its x.
    pub fn new(size: f64) -> Face<'static> {
        Face { size, bold: false, anchor: "start", fill: "#222222" }
    }
}

/// An SVG document in the making: what is added later lies on top.
#[derive(Debug, Default)]
pub struct Svg {
    body: String,
}

impl Svg {
    /// A rectangle, with further attributes (written as they are) and a tooltip where it is not empty.
    pub fn rect(&mut self, corner: [f64; 2], size: [f64; 2], style: Style, extra: &str, tooltip: &str) {
        let [x, y] = corner.map(number);
        let [width, height] = size.map(number);
        let _ = write!(self.body, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
        if style.radius > 0.0 {
            let _ = write!(self.body, " rx=\"{}\"", number(style.radius));
        }
        let _ = write!(self.body, " {}{extra}", style.attributes());
        self.close("rect", tooltip);
    }

    /// A line through points, with an arrow head at its end where `arrow` is set.
    pub fn line(&mut self, points: &[[f64; 2]], style: Style, arrow: bool, tooltip: &str) {
        let points: Vec<String> =
            points.iter().map(|[x, y]| format!("{},{}", number(*x), number(*y))).collect();
        let _ = write!(self.body, "<polyline points=\"{}\" {}", points.join(" "), style.attributes());
        if arrow {
            self.body.push_str(" marker-end=\"url(#arrow)\"");
        }
        self.close("polyline", tooltip);
    }

    /// A line of text; `y` is its base line.
    pub fn text(&mut self, x: f64, y: f64, face: Face, text: &str) {
        let weight = if face.bold { " font-weight=\"bold\"" } else { "" };
        let _ = writeln!(
            self.body,
            "<text x=\"{}\" y=\"{}\" font-size=\"{}\" text-anchor=\"{}\" fill=\"{}\"{weight}>{}</text>",
            number(x),
            number(y),
            number(face.size),
            face.anchor,
            face.fill,
            escape(text)
        );
    }

    fn close(&mut self, element: &str, tooltip: &str) {
        if tooltip.is_empty() {
            self.body.push_str("/>\n");
        } else {
            let _ = writeln!(self.body, "><title>{}</title></{element}>", escape(tooltip));
        }
    }

    /// The document, `width` by `height` pixels.
    pub fn finish(self, title: &str, width: f64, height: f64) -> String {
        let (width, height) = (width.ceil(), height.ceil());
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"'DejaVu Sans Mono', Menlo, Consolas, monospace\">\n\
             <title>{}</title>\n\
             <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" \
             markerHeight=\"8\" markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"M0,0 L8,4 L0,8 z\" \
             fill=\"#333333\"/></marker></defs>\n\
             <rect x=\"0\" y=\"0\" width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{}</svg>\n",
            escape(title),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_written_for_xml() {
        assert_eq!(escape("a<b> & \"c\"\u{1}"), "a&lt;b&gt; &amp; &quot;c&quot;\u{fffd}");
        assert_eq!([1.0, 0.126, -0.001, 10.5].map(number), ["1", "0.13", "0", "10.5"]);
    }
}
