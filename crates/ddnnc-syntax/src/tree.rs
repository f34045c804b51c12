//! Declarations: from the parser's pairs to the tree.

use crate::ast::*;
use crate::grammar::Rule;
use crate::scan::{MAX_ERRORS, Scan};
use ddnnc_diag::{Code, Diagnostic, Span};
use std::cell::RefCell;

/// What the parser matched.
pub(crate) type Pair<'p> = pest::iterators::Pair<'p, Rule>;

/// Builds the tree of a text, or of the part of it that begins at `base`.
///
/// Its methods return `None` only where the grammar and this module disagree on the parts of a rule.
pub(crate) struct Tree<'s> {
    scan: &'s Scan<'s>,
    base: usize,
    errors: RefCell<Vec<Diagnostic>>,
}

impl<'s> Tree<'s> {
    pub(crate) fn new(scan: &'s Scan<'s>, base: usize) -> Tree<'s> {
        Tree { scan, base, errors: RefCell::new(Vec::new()) }
    }

    /// The errors that were found while building.
    pub(crate) fn into_errors(self) -> Vec<Diagnostic> {
        self.errors.into_inner()
    }

    pub(crate) fn error(&self, diagnostic: Diagnostic) {
        let mut errors = self.errors.borrow_mut();
        if errors.len() < MAX_ERRORS {
            errors.push(diagnostic);
        }
    }

    /// The place of a pair, without the white space that the parser may have taken after it.
    pub(crate) fn span(&self, pair: &Pair<'_>) -> Span {
        let span = pair.as_span();
        let (start, end) = (self.base + span.start(), self.base + span.end());
        let after = self.scan.tokens.partition_point(|t| t.start < end);
        let last = after.checked_sub(1).and_then(|i| self.scan.tokens.get(i)).map_or(end, |t| t.end);
        self.scan.span(start, last.min(end).max(start))
    }

    /// The parts of a pair without keywords and punctuation.
    pub(crate) fn parts<'p>(&self, pair: Pair<'p>) -> impl Iterator<Item = Pair<'p>> + use<'p> {
        pair.into_inner().filter(|part| !is_punctuation(part.as_rule()))
    }

    pub(crate) fn ident(&self, pair: &Pair<'_>) -> Ident {
        Ident { name: pair.as_str().to_string(), span: self.span(pair) }
    }

    /// One declaration other than `model`.
    pub(crate) fn item(&self, pair: Pair<'_>) -> Option<Item> {
        Some(match pair.as_rule() {
            Rule::input => Item::Input(self.typed_name(pair)?),
            Rule::target => Item::Target(self.typed_name(pair)?),
            Rule::let_decl => Item::Let(self.let_decl(pair)?),
            Rule::block => Item::Block(self.block(pair)?),
            Rule::backbone => Item::Backbone(self.backbone(pair)?),
            Rule::subnet => Item::Subnet(self.subnet(pair)?),
            Rule::exit => Item::Exit(self.exit(pair)?),
            Rule::network => Item::Network(self.network(pair)?),
            Rule::share => Item::Share(self.share(pair)?),
            Rule::supervise => Item::Supervise(self.supervise(pair)?),
            Rule::distill => Item::Distill(self.distill(pair)?),
            Rule::train => Item::Train(self.settings_decl(pair)?),
            Rule::order => Item::Order(self.settings_decl(pair)?),
            Rule::phase => Item::Phase(self.phase(pair)?),
            Rule::task => Item::Task(self.task(pair)?),
            _ => return None,
        })
    }

    fn typed_name(&self, pair: Pair<'_>) -> Option<TypedName> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        let name = self.ident(&parts.next()?);
        let ty = parts.next()?;
        let ty_span = self.span(&ty);
        let mut parts = self.parts(ty);
        let kind = self.ident(&parts.next()?);
        let dims = parts.map(|dim| self.expr(dim)).collect::<Option<_>>()?;
        Some(TypedName { name, ty: TypeExpr { kind, dims, span: ty_span }, span })
    }

    pub(crate) fn let_decl(&self, pair: Pair<'_>) -> Option<LetDecl> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        Some(LetDecl { name: self.ident(&parts.next()?), value: self.expr(parts.next()?)?, span })
    }

    fn params(&self, pair: Pair<'_>) -> Option<Vec<Param>> {
        self.parts(pair)
            .map(|param| {
                let mut parts = self.parts(param);
                let name = self.ident(&parts.next()?);
                let default = match parts.next() {
                    Some(value) => Some(self.expr(value)?),
                    None => None,
                };
                Some(Param { name, default })
            })
            .collect()
    }

    fn block(&self, pair: Pair<'_>) -> Option<BlockDecl> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair).peekable();
        let name = self.ident(&parts.next()?);
        let params = match parts.next_if(|part| part.as_rule() == Rule::params) {
            Some(params) => self.params(params)?,
            None => Vec::new(),
        };
        Some(BlockDecl { name, params, body: self.body(parts.next()?)?, span })
    }

    fn backbone(&self, pair: Pair<'_>) -> Option<BackboneDecl> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair).peekable();
        let name = self.ident(&parts.next()?);
        let params = match parts.next_if(|part| part.as_rule() == Rule::params) {
            Some(params) => self.params(params)?,
            None => Vec::new(),
        };
        let members = parts.map(|part| self.member(part)).collect::<Option<_>>()?;
        Some(BackboneDecl { name, params, members, span })
    }

    fn member(&self, pair: Pair<'_>) -> Option<Member> {
        let span = self.span(&pair);
        if pair.as_rule() == Rule::let_decl {
            return Some(Member::Let(self.let_decl(pair)?));
        }
        let is_stage = pair.as_rule() == Rule::stage;
        let mut parts = self.parts(pair);
        let name = self.ident(&parts.next()?);
        if !is_stage {
            return Some(Member::Segment(SegmentDecl { name, value: self.expr(parts.next()?)?, span }));
        }
        let entries = parts.map(|entry| self.stage_entry(entry)).collect::<Option<_>>()?;
        Some(Member::Stage(StageDecl { name, entries, span }))
    }

    /// `8 * basic(32)`, which the grammar reads as a product that may begin a pipe.
    fn stage_entry(&self, pair: Pair<'_>) -> Option<StageEntry> {
        let span = self.span(&pair);
        let value = self.expr(self.parts(pair).next()?)?;
        let split = |expr: Expr| match expr.kind {
            ExprKind::Binary { op: BinaryOp::Mul, lhs, rhs, .. } => (Some(*lhs), *rhs),
            kind => (None, Expr { kind, span: expr.span }),
        };
        let (count, block) = match value.kind {
            ExprKind::Pipe(mut steps) if !steps.is_empty() => {
                let (count, first) = split(steps.remove(0));
                let span = first.span.to(value.span);
                let span = Span { start: first.span.start, ..span };
                steps.insert(0, first);
                (count, Expr { kind: ExprKind::Pipe(steps), span })
            }
            kind => split(Expr { kind, span: value.span }),
        };
        let is_block = matches!(
            block.kind,
            ExprKind::Call { .. }
                | ExprKind::Name(_)
                | ExprKind::Named { .. }
                | ExprKind::Pipe(_)
                | ExprKind::If { .. }
        );
        if !is_block {
            self.error(
                Diagnostic::error(Code::Syntax, "a stage is made of blocks")
                    .at(block.span, "this is no block")
                    .hint("write a block, or how many times and a block: `basic(32, stride = 2), 8 * basic(32)`"),
            );
        }
        Some(StageEntry { count, block, span })
    }

    fn instance(&self, pair: Pair<'_>) -> Option<Instance> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair).peekable();
        let backbone = self.ident(&parts.next()?);
        let args = match parts.next_if(|part| part.as_rule() == Rule::args) {
            Some(args) => self.args(args)?,
            None => Vec::new(),
        };
        let depth = match parts.next() {
            Some(depth) => {
                let list = self.parts(depth).next()?;
                let span = self.span(&list);
                let elements = self.parts(list).map(|e| self.element(e)).collect::<Option<_>>()?;
                Some((elements, span))
            }
            None => None,
        };
        Some(Instance { backbone, args, depth, span })
    }

    fn subnet(&self, pair: Pair<'_>) -> Option<SubnetDecl> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        Some(SubnetDecl { name: self.ident(&parts.next()?), of: self.instance(parts.next()?)?, span })
    }

    fn network(&self, pair: Pair<'_>) -> Option<NetworkDecl> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        let name = self.ident(&parts.next()?);
        let of = self.instance(parts.next()?)?;
        let settings = self.optional_settings(parts.next())?;
        Some(NetworkDecl { name, of, settings, span })
    }

    fn exit(&self, pair: Pair<'_>) -> Option<ExitDecl> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair).peekable();
        let name = self.ident(&parts.next()?);
        let of = self.ident(&parts.next()?);
        let after = self.ident(&parts.next()?);
        let block = match parts.next_if(|part| part.as_rule() == Rule::exit_block) {
            Some(block) => Some(self.expr(self.parts(block).next()?)?),
            None => None,
        };
        Some(ExitDecl { name, of, after, block, head: self.expr(parts.next()?)?, span })
    }

    fn share(&self, pair: Pair<'_>) -> Option<ShareDecl> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        let backbone = self.ident(&parts.next()?);
        let settings = self.settings(parts.next()?)?;
        Some(ShareDecl { backbone, settings, span })
    }

    fn supervise(&self, pair: Pair<'_>) -> Option<SuperviseDecl> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        let targets = self.targets(parts.next()?);
        Some(SuperviseDecl { targets, terms: self.terms(parts.next()?)?, span })
    }

    fn distill(&self, pair: Pair<'_>) -> Option<DistillDecl> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        let teacher = self.expr(parts.next()?)?;
        let students = self.targets(parts.next()?);
        Some(DistillDecl { teacher, students, terms: self.terms(parts.next()?)?, span })
    }

    fn targets(&self, pair: Pair<'_>) -> Vec<Ident> {
        self.parts(pair).map(|name| self.ident(&name)).collect()
    }

    fn terms(&self, pair: Pair<'_>) -> Option<Vec<Expr>> {
        self.check_separators(&pair, "loss terms");
        let mut terms = Vec::new();
        for part in self.parts(pair) {
            let term = self.expr(part)?;
            if !matches!(term.kind, ExprKind::Call { .. } | ExprKind::Name(_)) {
                self
                    .error(Diagnostic::error(Code::Syntax, "this is not a loss term").at(term.span, "").hint(
                    "a loss term is a name or a call, such as `kl` or `kl(temperature = 3, weight = 1.0)`",
                ));
            }
            terms.push(term);
        }
        Some(terms)
    }

    fn settings_decl(&self, pair: Pair<'_>) -> Option<SettingsDecl> {
        let span = self.span(&pair);
        let keyword = self.span(&pair.clone().into_inner().next()?);
        let settings = self.settings(self.parts(pair).next()?)?;
        Some(SettingsDecl { keyword, settings, span })
    }

    fn task(&self, pair: Pair<'_>) -> Option<TaskDecl> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        let kind = self.ident(&parts.next()?);
        Some(TaskDecl { kind, settings: self.optional_settings(parts.next())?, span })
    }

    fn phase(&self, pair: Pair<'_>) -> Option<PhaseDecl> {
        self.check_separators(&pair, "settings");
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        let name = self.ident(&parts.next()?);
        let (mut settings, mut items) = (Vec::new(), Vec::new());
        for part in parts {
            if part.as_rule() == Rule::phase_setting {
                settings.push(self.setting(part)?);
            } else {
                items.push(self.item(part)?);
            }
        }
        Some(PhaseDecl { name, settings, items, span })
    }

    fn optional_settings(&self, pair: Option<Pair<'_>>) -> Option<Vec<Setting>> {
        pair.map_or(Some(Vec::new()), |settings| self.settings(settings))
    }

    fn settings(&self, pair: Pair<'_>) -> Option<Vec<Setting>> {
        self.check_separators(&pair, "settings");
        self.parts(pair).map(|setting| self.setting(setting)).collect()
    }

    fn setting(&self, pair: Pair<'_>) -> Option<Setting> {
        let span = self.span(&pair);
        let mut parts = self.parts(pair);
        Some(Setting { key: self.ident(&parts.next()?), value: self.expr(parts.next()?)?, span })
    }

    /// Reports members of a list that have neither a comma nor a line break between them.
    fn check_separators(&self, pair: &Pair<'_>, what: &str) {
        let mut before: Option<Span> = None;
        for part in pair.clone().into_inner() {
            let span = self.span(&part);
            let member = matches!(part.as_rule(), Rule::setting | Rule::phase_setting | Rule::expr);
            if member
                && let Some(before) = before
                && !self.scan.text[before.end as usize..span.start as usize].contains('\n')
            {
                self.error(
                    Diagnostic::error(Code::Syntax, format!("{what} on one line have commas between them"))
                        .at(
                            self.scan.span(span.start as usize, span.start as usize),
                            "a comma is missing before this",
                        )
                        .hint("put `,` or a line break between them"),
                );
            }
            before = member.then_some(span);
        }
    }
}

fn is_punctuation(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::assign
            | Rule::arrow
            | Rule::pipe
            | Rule::comma
            | Rule::colon
            | Rule::dot
            | Rule::lparen
            | Rule::rparen
            | Rule::lbracket
            | Rule::rbracket
            | Rule::lbrace
            | Rule::rbrace
            | Rule::kw_model
            | Rule::kw_input
            | Rule::kw_target
            | Rule::kw_let
            | Rule::kw_block
            | Rule::kw_backbone
            | Rule::kw_stage
            | Rule::kw_subnet
            | Rule::kw_exit
            | Rule::kw_network
            | Rule::kw_share
            | Rule::kw_supervise
            | Rule::kw_distill
            | Rule::kw_train
            | Rule::kw_phase
            | Rule::kw_order
            | Rule::kw_task
            | Rule::kw_depth
            | Rule::kw_after
            | Rule::kw_as
            | Rule::kw_if
            | Rule::kw_else
    )
}
