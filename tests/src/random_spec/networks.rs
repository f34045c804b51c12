//! Backbones, and the sub-nets, networks and exits of them.

use super::drawing::{Drawing, Scope, Shape, pipe};
use super::windows::Size;

/// A segment or stage of a backbone: the maps after its blocks.
pub(super) struct Part {
    name: String,
    stage: bool,
    after: Vec<[usize; 3]>,
    /// Whether its first block, or the segment, has weights for certain.
    weights: bool,
}

/// A backbone that is declared.
pub(super) struct Backbone {
    /// Its name.
    pub(super) name: String,
    /// Arguments that it needs, with parentheses; empty where it has no parameters.
    arguments: String,
    /// Its parts but the head.
    parts: Vec<Part>,
}

impl Backbone {
    /// Parts with weights as a phase names them, and for certain some that others are without: `net1.s1[0]`, `net1.stem`.
    pub(super) fn weighty(&self) -> Vec<String> {
        let parts = self.parts.iter().filter(|part| part.weights);
        parts
            .map(|part| format!("{}.{}{}", self.name, part.name, if part.stage { "[0]" } else { "" }))
            .collect()
    }

    /// The stages by name, with the maps after their blocks.
    pub(super) fn stages(&self) -> impl Iterator<Item = (&str, &[[usize; 3]])> {
        self.parts.iter().filter(|part| part.stage).map(|part| (part.name.as_str(), part.after.as_slice()))
    }
}

/// A sub-net, a network or an exit that is declared.
pub(super) struct Net {
    /// Its name.
    pub(super) name: String,
    /// Its backbone, by number.
    pub(super) backbone: usize,
    /// Blocks kept of each stage; `None` for an exit.
    pub(super) depth: Option<Vec<usize>>,
    /// Whether nothing of it is trained.
    pub(super) frozen: bool,
}

impl Net {
    /// The map after a stage, where the net keeps what it keeps of it.
    pub(super) fn after(&self, backbone: &Backbone, stage: &str) -> Option<[usize; 3]> {
        let at = backbone.stages().position(|(name, _)| name == stage)?;
        let kept = *self.depth.as_ref()?.get(at)?;
        backbone.stages().nth(at)?.1.get(kept - 1).copied()
    }
}

impl Drawing {
    /// Declares a backbone on the image.
    pub(super) fn backbone(&mut self) -> Backbone {
        let name = self.name("net");
        let mut members = Vec::new();
        let mut parts = Vec::new();
        let (width, wide) = (self.channels(), self.dice.percent(25));
        let parameter = self.dice.percent(25);
        let (stem, mut map) = self.stem(wide.then_some(width));
        if wide {
            let value = if parameter { "width".to_owned() } else { self.number(width) };
            members.push(format!("let wide = {value}"));
        }
        members.push(format!("stem = {stem}"));
        let weights = stem.contains("conv(");
        parts.push(Part { name: "stem".to_owned(), stage: false, after: vec![map], weights });
        for i in 1..=self.dice.pick(&[1, 2, 2, 3, 3]) {
            if i > 1
                && self.dice.percent(15)
                && let Some((pool, gives)) = self.pool(map, Size::Any)
            {
                members.push(format!("middle{i} = {pool}"));
                parts.push(Part {
                    name: format!("middle{i}"),
                    stage: false,
                    after: vec![gives],
                    weights: false,
                });
                map = gives;
            }
            let (entries, after) = self.stage(map);
            map = after[after.len() - 1];
            members.push(format!("stage s{i} = {entries}"));
            let weights = entries.starts_with("residual");
            parts.push(Part { name: format!("s{i}"), stage: true, after, weights });
        }
        let scope: Scope = vec![("in".to_owned(), Shape::Map(map))];
        let mut head = self.head(&scope, map);
        self.name_some(&mut head);
        members.push(format!("head = {}", pipe(None, &head)));
        let default = if self.dice.percent(50) { " = 4" } else { "" };
        let parameters = if parameter { format!("(width{default})") } else { String::new() };
        self.items.push(format!("backbone {name}{parameters} {{\n    {}\n}}", members.join("\n    ")));
        let arguments = match (parameter, self.dice.percent(50)) {
            (false, _) => String::new(),
            (true, false) => format!("({width})"),
            (true, true) => format!("(width = {width})"),
        };
        Backbone { name, arguments, parts }
    }

    /// The first segment; its convolution has `wide` channels where that is declared.
    fn stem(&mut self, wide: Option<usize>) -> (String, [usize; 3]) {
        let image = self.image;
        let mut steps = Vec::new();
        let mut map = image;
        if let Some(width) = wide {
            let kernel = self.dice.pick(&[1, 3, 3, 5]);
            steps.push(format!("conv(wide, {kernel})"));
            map = [width, image[1], image[2]];
        } else if let Some((conv, gives)) = self.convolution(image, None, Size::Any) {
            steps.push(conv);
            map = gives;
        }
        if self.dice.percent(self.manner.norms) {
            steps.extend(self.norm(Shape::Map(map)));
        }
        steps.push(self.activation());
        if self.dice.percent(25)
            && let Some((pool, gives)) = self.pool(map, Size::Any)
        {
            steps.push(pool);
            map = gives;
        }
        self.name_some(&mut steps);
        (pipe(None, &steps), map)
    }

    /// The entries of a stage, and the maps after its blocks. Only the first block changes the shape.
    fn stage(&mut self, from: [usize; 3]) -> (String, Vec<[usize; 3]>) {
        let (mut entries, mut after, mut map) = (Vec::new(), Vec::new(), from);
        if self.dice.percent(75) {
            let block = self.block(map, Size::Any);
            map = block.gives;
            entries.push(block.call);
            after.push(map);
        } else if self.dice.percent(40)
            && let Some((pool, gives)) = self.pool(map, Size::Any)
        {
            map = gives;
            entries.push(pool);
            after.push(map);
        }
        let blocks = self.dice.between(1, 4);
        while after.len() < blocks {
            let entry = match self.dice.percent(12) {
                true => self.plain_entry(map),
                false => Some(self.block(map, Size::Same).call),
            };
            let Some(entry) = entry else { continue };
            let count = if after.len() + 2 <= blocks { self.dice.pick(&[1, 1, 2]) } else { 1 };
            after.extend(vec![map; count]);
            entries.push(match count {
                1 => entry,
                _ => format!("{} * {entry}", self.number_alone(count)),
            });
        }
        (entries.join(", "), after)
    }

    /// A count, which an expression gives only in parentheses.
    fn number_alone(&mut self, n: usize) -> String {
        if self.dice.percent(10) { format!("({} + 1)", n - 1) } else { n.to_string() }
    }

    /// Declares the sub-nets of a backbone, the full one among them.
    pub(super) fn subnets(&mut self, backbones: &[Backbone], of: usize) -> Vec<Net> {
        let backbone = &backbones[of];
        let full: Vec<usize> = backbone.stages().map(|(_, after)| after.len()).collect();
        let mut depths = vec![full.clone()];
        for _ in 0..self.dice.pick(&[0, 1, 1, 2, 2, 3]) {
            let depth: Vec<usize> = full.iter().map(|&blocks| self.dice.between(1, blocks)).collect();
            if !depths.contains(&depth) {
                depths.push(depth);
            }
        }
        self.dice.shuffle(&mut depths);
        let mut nets = Vec::new();
        for depth in depths {
            let name = self.name("sub");
            let written = match depth == full && self.dice.percent(70) {
                true => String::new(),
                false => format!(" depth {depth:?}"),
            };
            self.items.push(format!("subnet {name} = {}{}{written}", backbone.name, backbone.arguments));
            nets.push(Net { name, backbone: of, depth: Some(depth), frozen: false });
        }
        nets
    }

    /// Declares a network with weights of its own.
    pub(super) fn network(&mut self, backbones: &[Backbone], of: usize) -> Net {
        let backbone = &backbones[of];
        let full: Vec<usize> = backbone.stages().map(|(_, after)| after.len()).collect();
        let (depth, written) = match self.dice.percent(60) {
            true => (full, String::new()),
            false => {
                let depth: Vec<usize> = full.iter().map(|&blocks| self.dice.between(1, blocks)).collect();
                let written = format!(" depth {depth:?}");
                (depth, written)
            }
        };
        let name = self.name("network");
        let frozen = self.dice.percent(60);
        let mut settings = Vec::new();
        if frozen || self.dice.percent(30) {
            settings.push(format!("frozen = {frozen}"));
        }
        if self.dice.percent(40) {
            settings.push("load = \"weights.safetensors\"".to_owned());
        }
        let settings =
            if settings.is_empty() { String::new() } else { format!(" {{ {} }}", settings.join(", ")) };
        self.items
            .push(format!("network {name} = {}{}{written}{settings}", backbone.name, backbone.arguments));
        Net { name, backbone: of, depth: Some(depth), frozen }
    }

    /// Declares an exit of one of the nets.
    pub(super) fn exit(&mut self, backbones: &[Backbone], nets: &[Net]) -> Option<Net> {
        let parents: Vec<usize> = (0..nets.len()).filter(|&i| nets[i].depth.is_some()).collect();
        let parent = &nets[self.dice.pick(&parents)];
        let backbone = &backbones[parent.backbone];
        let part = &backbone.parts[self.dice.between(0, backbone.parts.len() - 1)];
        let kept = match part.stage {
            true => {
                let at = backbone.stages().position(|(name, _)| name == part.name)?;
                parent.depth.as_ref()?[at]
            }
            false => 1,
        };
        let (block, written) = match self.dice.percent(40) {
            true => {
                let block = self.dice.between(0, kept - 1);
                (block, format!("[{block}]"))
            }
            false => (kept - 1, String::new()),
        };
        let map = part.after[block];
        let scope: Scope = vec![("in".to_owned(), Shape::Map(map))];
        let (mut steps, mut at) = (Vec::new(), map);
        if self.dice.percent(50) {
            let count = self.dice.between(1, 3);
            let (more, gives) = self.steps(&scope, Shape::Map(map), Size::Any, count);
            if let Shape::Map(gives) = gives {
                steps = more;
                at = gives;
            }
        }
        let head = self.head(&scope, at);
        steps.extend(head);
        self.name_some(&mut steps);
        let name = self.name("exit");
        let text =
            format!("exit {name} = {} after {}{written} |> {}", parent.name, part.name, pipe(None, &steps));
        self.items.push(text);
        Some(Net { name, backbone: parent.backbone, depth: None, frozen: parent.frozen })
    }

    /// Declares what the sub-nets of a backbone share, or nothing.
    pub(super) fn share(&mut self, backbone: &Backbone) {
        let norm = self.dice.pick(&[
            None,
            Some("private"),
            Some("private_everywhere"),
            Some("shared"),
            Some("recalibrated"),
        ]);
        let head = self.dice.pick(&[None, Some("private"), Some("shared")]);
        let settings: Vec<String> = norm
            .map(|norm| format!("norm = {norm}"))
            .into_iter()
            .chain(head.map(|head| format!("head = {head}")))
            .collect();
        if !settings.is_empty() {
            self.items.push(format!("share {} {{ {} }}", backbone.name, settings.join(", ")));
        }
    }
}
