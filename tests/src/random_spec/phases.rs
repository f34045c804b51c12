//! Phases of the training.

use super::drawing::Drawing;
use super::networks::{Backbone, Net};

impl Drawing {
    /// Declares a phase, or several.
    pub(super) fn phases(&mut self, backbones: &[Backbone], nets: &[Net]) {
        for _ in 0..self.dice.pick(&[1, 2, 2, 3]) {
            let name = self.name("phase");
            let mut lines = vec![format!("epochs = {}", self.dice.between(1, 3))];
            if let Some((parts, trained)) = self.parts_of_phase(backbones, nets) {
                lines.push(parts);
                // Those of the top level may be of nets that are frozen here.
                lines.extend(self.losses_of_phase(nets, trained));
            }
            if self.dice.percent(40) {
                lines.push(format!("optimizer = {}", self.optimizer()));
            }
            if self.dice.percent(40) {
                lines.push(format!("schedule = {}", self.schedule()));
            }
            if self.dice.percent(30) {
                lines.push(self.order(nets));
            }
            self.dice.shuffle(&mut lines);
            self.items.push(format!("phase {name} {{\n    {}\n}}", lines.join("\n    ")));
        }
    }

    /// What a phase trains or freezes, and a net of which something is trained in it; `None` where it trains everything.
    fn parts_of_phase(&mut self, backbones: &[Backbone], nets: &[Net]) -> Option<(String, usize)> {
        // The first backbone's sub-nets come first, and are never frozen; a head has weights.
        let trained = self.dice.pick(&(0..nets.len()).filter(|&i| !nets[i].frozen).collect::<Vec<_>>());
        let net = &nets[trained].name;
        let weighty = backbones[0].weighty();
        match self.dice.between(0, 5) {
            0 => None,
            1 => Some((format!("train = {net}"), trained)),
            2 if nets[trained].depth.is_some() => Some((format!("train = [{net}.head]"), trained)),
            3 if !weighty.is_empty() => {
                Some((format!("train = [{}, {net}]", self.dice.pick(&strs(&weighty))), trained))
            }
            4 if !weighty.is_empty() => {
                // The head of the first sub-net is left.
                Some((format!("freeze = [{}]", self.dice.pick(&strs(&weighty))), 0))
            }
            _ => {
                let other = nets.iter().find(|net| net.name.starts_with("network") && !net.frozen)?;
                let part = if self.dice.percent(50) { "" } else { ".head" };
                Some((format!("freeze = [{}{part}]", other.name), 0))
            }
        }
    }

    /// Which images an epoch has.
    pub(super) fn order(&mut self, nets: &[Net]) -> String {
        let net = &nets[self.dice.between(0, nets.len() - 1)].name;
        let mode = self.dice.pick(&[
            "",
            ", mode = curriculum",
            ", mode = anti_curriculum",
            ", mode = random_curriculum",
        ]);
        let pace = self.dice.pick(&[
            "",
            ", pace = linear",
            ", pace = linear(0.3, 0.9)",
            ", pace = linear(from = 0.5, to = 1)",
        ]);
        match self.dice.percent(20) {
            true => "order { by = shuffle }".to_owned(),
            false => format!("order {{ by = difficulty(snapshot = {net}{mode}){pace} }}"),
        }
    }

    fn losses_of_phase(&mut self, nets: &[Net], trained: usize) -> Vec<String> {
        let name = &nets[trained].name;
        let mut losses = vec![format!("supervise {name} {{ cross_entropy(label_smoothing = 0.1) }}")];
        let teachers: Vec<usize> = (0..nets.len()).filter(|&i| i != trained).collect();
        if !teachers.is_empty() && self.dice.percent(50) {
            let teacher = &nets[self.dice.pick(&teachers)].name;
            losses.push(format!("distill {teacher} -> {name} {{ {} }}", self.kl()));
        }
        losses
    }
}

fn strs(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}
