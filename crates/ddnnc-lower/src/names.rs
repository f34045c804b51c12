//! The declarations of a file by name: one namespace for all of them.

use crate::diags::Diags;
use crate::losses::Stated;
use crate::operators;
use ddnnc_diag::{Code, Diagnostic, did_you_mean};
use ddnnc_syntax::{
    BackboneDecl, BlockDecl, ExitDecl, Ident, Instance, Item, LetDecl, Member, NetworkDecl, PhaseDecl,
    SettingsDecl, ShareDecl, SpecFile, SubnetDecl, TypedName,
};
use indexmap::IndexMap;

/// A net as declared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NetDecl<'a> {
    /// A sub-net.
    Subnet(&'a SubnetDecl),
    /// An early exit.
    Exit(&'a ExitDecl),
    /// A network of its own.
    Network(&'a NetworkDecl),
}

impl<'a> NetDecl<'a> {
    /// Its name.
    pub(crate) fn name(&self) -> &'a Ident {
        match self {
            NetDecl::Subnet(d) => &d.name,
            NetDecl::Exit(d) => &d.name,
            NetDecl::Network(d) => &d.name,
        }
    }

    /// What it instantiates; nothing for an exit.
    pub(crate) fn instance(&self) -> Option<&'a Instance> {
        match self {
            NetDecl::Subnet(d) => Some(&d.of),
            NetDecl::Network(d) => Some(&d.of),
            NetDecl::Exit(_) => None,
        }
    }
}

/// What the names of tensors begin with that belong to no backbone and no network, and which those are.
const PREFIXES: [(&str, &str); 5] = [
    ("hint", "the adapters of hints"),
    ("kl", "the weights of adaptive sets of teachers"),
    ("ce", "the gates of sets of teachers"),
    ("momentum", "an optimizer's states"),
    ("adamw", "an optimizer's states"),
];

/// Every declaration of a file.
#[derive(Default)]
pub(crate) struct Names<'a> {
    /// Every declared name, with what it names.
    pub(crate) all: IndexMap<&'a str, (&'static str, &'a Ident)>,
    /// The input.
    pub(crate) input: Option<&'a TypedName>,
    /// The target.
    pub(crate) target: Option<&'a TypedName>,
    /// Values at the top level.
    pub(crate) lets: IndexMap<&'a str, &'a LetDecl>,
    /// Blocks.
    pub(crate) blocks: IndexMap<&'a str, &'a BlockDecl>,
    /// Backbones.
    pub(crate) backbones: IndexMap<&'a str, &'a BackboneDecl>,
    /// Sub-nets, exits and networks in the order of declaration.
    pub(crate) nets: IndexMap<&'a str, NetDecl<'a>>,
    /// Sharing, by backbone.
    pub(crate) shares: IndexMap<&'a str, &'a ShareDecl>,
    /// Losses of the top level.
    pub(crate) stated: Stated<'a>,
    /// The recipe.
    pub(crate) train: Option<&'a SettingsDecl>,
    /// Which images an epoch has, where a phase does not say it.
    pub(crate) order: Option<&'a SettingsDecl>,
    /// Phases of the training, in order.
    pub(crate) phases: IndexMap<&'a str, &'a PhaseDecl>,
}

impl<'a> Names<'a> {
    /// Collects the declarations of a file, and says what is declared twice, not at all, or not supported.
    pub(crate) fn collect(file: &'a SpecFile, diags: &mut Diags) -> Names<'a> {
        let mut names = Names::default();
        for item in &file.items {
            names.add(item, diags);
        }
        names.require(file, diags);
        names
    }

    fn add(&mut self, item: &'a Item, diags: &mut Diags) {
        match item {
            Item::Input(d) => match self.input {
                Some(first) => again("`input`", &d.name, &first.name, diags),
                None => {
                    self.declare("the input", &d.name, diags);
                    self.input = Some(d);
                }
            },
            Item::Target(d) => match self.target {
                Some(first) => again("`target`", &d.name, &first.name, diags),
                None => {
                    self.declare("the target", &d.name, diags);
                    self.target = Some(d);
                }
            },
            Item::Let(d) => {
                if self.declare("a value", &d.name, diags) {
                    self.lets.insert(&d.name.name, d);
                }
            }
            Item::Block(d) => {
                if self.declare("a block", &d.name, diags) {
                    self.blocks.insert(&d.name.name, d);
                }
            }
            Item::Backbone(d) => {
                if self.declare("a backbone", &d.name, diags) {
                    self.backbones.insert(&d.name.name, d);
                }
            }
            Item::Subnet(d) => self.net("a sub-net", NetDecl::Subnet(d), diags),
            Item::Exit(d) => self.net("an exit", NetDecl::Exit(d), diags),
            Item::Network(d) => self.net("a network", NetDecl::Network(d), diags),
            Item::Share(d) => match self.shares.get(d.backbone.name.as_str()) {
                Some(first) => {
                    again(&format!("`share` of `{}`", d.backbone.name), &d.backbone, &first.backbone, diags)
                }
                None => {
                    self.shares.insert(&d.backbone.name, d);
                }
            },
            Item::Supervise(d) => self.stated.supervises.push(d),
            Item::Distill(d) => self.stated.distills.push(d),
            Item::Train(d) => match self.train {
                Some(first) => diags.push(
                    Diagnostic::error(Code::DuplicateName, "a second `train`")
                        .at(d.keyword, "again here")
                        .with(first.keyword, "first here"),
                ),
                None => self.train = Some(d),
            },
            Item::Phase(d) => {
                if self.declare("a phase", &d.name, diags) {
                    self.phases.insert(&d.name.name, d);
                }
            }
            Item::Order(d) => match self.order {
                Some(first) => again_order(d, first, diags),
                None => self.order = Some(d),
            },
            Item::Task(d) if d.kind.name == "classification" => {
                for setting in &d.settings {
                    diags.push(
                        Diagnostic::error(
                            Code::UnknownSetting,
                            format!("`task classification` has no setting `{}`", setting.key.name),
                        )
                        .at(setting.key.span, ""),
                    );
                }
            }
            Item::Task(d) => diags.push(
                Diagnostic::error(Code::Unsupported, format!("`task {}` is not supported yet", d.kind.name))
                    .at(d.kind.span, ""),
            ),
        }
    }

    fn net(&mut self, what: &'static str, net: NetDecl<'a>, diags: &mut Diags) {
        if self.declare(what, net.name(), diags) {
            self.nets.insert(&net.name().name, net);
        }
    }

    /// Takes up a name; `false` where it is taken already.
    fn declare(&mut self, what: &'static str, name: &'a Ident, diags: &mut Diags) -> bool {
        reserved(name, diags);
        if matches!(what, "the input" | "the target") && matches!(name.name.as_str(), "lr" | "rng") {
            diags.push(
                Diagnostic::error(Code::ReservedName, format!("the name `{}` is taken", name.name))
                    .at(name.span, "an input of every training step has this name"),
            );
        }
        if matches!(what, "a backbone" | "a network")
            && let Some((_, others)) = PREFIXES.iter().find(|(prefix, _)| *prefix == name.name)
        {
            diags.push(
                Diagnostic::error(Code::ReservedName, format!("the name `{}` is taken", name.name))
                    .at(name.span, format!("the names of {others} begin with it, as those of {what} would"))
                    .hint("choose another name"),
            );
        }
        if let Some((_, first)) = self.all.get(name.name.as_str()) {
            again(&format!("declaration of `{}`", name.name), name, first, diags);
            return false;
        }
        self.all.insert(&name.name, (what, name));
        true
    }

    fn require(&self, file: &SpecFile, diags: &mut Diags) {
        let mut missing = |what: &str, hint: &str| {
            diags.push(
                Diagnostic::error(Code::Missing, format!("no {what}")).at(file.model.span, "").hint(hint),
            );
        };
        if self.input.is_none() {
            missing("`input`", "state the shape of one image: `input image : f32[3, 32, 32]`");
        }
        if self.target.is_none() {
            missing("`target`", "state the number of classes: `target label : class[10]`");
        }
        if self.train.is_none() {
            missing("`train`", "say what to train on: `train { data = cifar10 }`");
        }
        if self.backbones.is_empty() && !self.all.values().any(|(what, _)| *what == "a backbone") {
            missing("`backbone`", "a model has at least one backbone");
        } else if self.nets.is_empty() {
            missing("sub-net and no network", "name the whole backbone: `subnet full = BACKBONE`");
        }
    }

    /// An error for a name that is not a `what`, with what it is or what may have been meant.
    pub(crate) fn unknown<'n>(
        &self,
        what: &str,
        name: &Ident,
        candidates: impl IntoIterator<Item = &'n str>,
    ) -> Diagnostic {
        if let Some((kind, declared)) = self.all.get(name.name.as_str()) {
            return Diagnostic::error(Code::WrongKind, format!("`{}` is {kind}, not {what}", name.name))
                .at(name.span, "")
                .with(declared.span, "declared here");
        }
        let error = Diagnostic::error(Code::UnknownName, format!("unknown name `{}`", name.name))
            .at(name.span, format!("{what} is wanted here"));
        match did_you_mean(&name.name, candidates) {
            Some(meant) => error.hint(format!("did you mean `{meant}`?")),
            None => error,
        }
    }

    /// The stages of a backbone, in order.
    pub(crate) fn stages(backbone: &BackboneDecl) -> impl Iterator<Item = &Ident> {
        backbone.members.iter().filter_map(|m| match m {
            Member::Stage(s) => Some(&s.name),
            Member::Let(_) | Member::Segment(_) => None,
        })
    }

    /// The backbone that a net runs, through its parent where it is an exit.
    pub(crate) fn backbone_of(&self, net: NetDecl<'a>) -> Option<&'a BackboneDecl> {
        let instance = match net {
            NetDecl::Exit(exit) => self.nets.get(exit.of.name.as_str())?.instance()?,
            NetDecl::Subnet(_) | NetDecl::Network(_) => net.instance()?,
        };
        self.backbones.get(instance.backbone.name.as_str()).copied()
    }
}

/// Says that there is a second `order`.
pub(crate) fn again_order(order: &SettingsDecl, first: &SettingsDecl, diags: &mut Diags) {
    diags.push(
        Diagnostic::error(Code::DuplicateName, "a second `order`")
            .at(order.keyword, "again here")
            .with(first.keyword, "first here"),
    );
}

/// Says that a name is one that the language keeps for itself.
pub(crate) fn reserved(name: &Ident, diags: &mut Diags) {
    if let Some(what) = operators::reserved(&name.name) {
        diags.push(
            Diagnostic::error(Code::ReservedName, format!("the name `{}` is taken", name.name))
                .at(name.span, format!("it is {what} of the language"))
                .hint("choose another name"),
        );
    }
}

/// Says that something is declared a second time.
pub(crate) fn again(what: &str, name: &Ident, first: &Ident, diags: &mut Diags) {
    diags.push(
        Diagnostic::error(Code::DuplicateName, format!("a second {what}"))
            .at(name.span, "again here")
            .with(first.span, "first here"),
    );
}
