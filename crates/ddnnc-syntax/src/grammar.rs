//! The parser that pest makes of `grammar/ddnn.pest`, and the user's words for its rules.

use pest_derive::Parser;

#[derive(Parser)]
#[grammar = "../../../grammar/ddnn.pest"]
pub(crate) struct Grammar;

/// The words of the language that cannot be names.
pub(crate) const KEYWORDS: &[&str] = &[
    "model",
    "input",
    "target",
    "let",
    "block",
    "backbone",
    "stage",
    "subnet",
    "exit",
    "network",
    "share",
    "supervise",
    "distill",
    "train",
    "phase",
    "order",
    "task",
    "depth",
    "after",
    "as",
    "if",
    "else",
    "and",
    "or",
    "not",
    "true",
    "false",
];

/// The words that begin a declaration at the top level.
pub const DECLARATIONS: &[&str] = &[
    "model",
    "input",
    "target",
    "let",
    "block",
    "backbone",
    "subnet",
    "exit",
    "network",
    "share",
    "supervise",
    "distill",
    "train",
    "phase",
    "order",
    "task",
];

/// What a user calls the thing that `rule` matches.
///
/// Every rule has an arm of its own kind here, so that a new rule cannot reach a user under its internal name.
pub(crate) fn words(rule: Rule) -> &'static str {
    match rule {
        Rule::WHITESPACE | Rule::COMMENT | Rule::bom => "white space",
        Rule::file | Rule::fragment | Rule::item => "a declaration",
        Rule::EOI => "the end of the declaration",
        Rule::model | Rule::kw_model => "`model`",
        Rule::input | Rule::kw_input => "`input`",
        Rule::target | Rule::kw_target => "`target`",
        Rule::let_decl | Rule::kw_let => "`let`",
        Rule::block | Rule::kw_block => "`block`",
        Rule::backbone | Rule::kw_backbone => "`backbone`",
        Rule::stage | Rule::kw_stage => "`stage`",
        Rule::subnet | Rule::kw_subnet => "`subnet`",
        Rule::exit | Rule::kw_exit => "`exit`",
        Rule::network | Rule::kw_network => "`network`",
        Rule::share | Rule::kw_share => "`share`",
        Rule::supervise | Rule::kw_supervise => "`supervise`",
        Rule::distill | Rule::kw_distill => "`distill`",
        Rule::train | Rule::kw_train | Rule::train_key => "`train`",
        Rule::phase | Rule::kw_phase => "`phase`",
        Rule::order | Rule::kw_order => "`order`",
        Rule::task | Rule::kw_task => "`task`",
        Rule::depth | Rule::kw_depth => "`depth`",
        Rule::kw_after => "`after`",
        Rule::kw_as => "`as`",
        Rule::if_expr | Rule::kw_if => "`if`",
        Rule::kw_else => "`else`",
        Rule::keyword => "a keyword",
        Rule::type_expr => "a type such as `f32[3, 32, 32]`",
        Rule::params => "parameters in parentheses",
        Rule::param => "a parameter",
        Rule::body => "`{`",
        Rule::segment => "a part such as `stem = …`",
        Rule::stage_entry => "blocks such as `2 * basic(16)`",
        Rule::instance => "the name of a backbone",
        Rule::exit_block => "a block number in brackets",
        Rule::targets => "a name or a list of names",
        Rule::terms => "`{` and the loss terms",
        Rule::settings => "`{` and the settings",
        Rule::setting | Rule::phase_setting => "a setting `key = value`",
        Rule::expr | Rule::step | Rule::arith | Rule::primary | Rule::element => "an expression",
        Rule::paren => "`(`",
        Rule::list => "a list",
        Rule::call | Rule::callee => "a call",
        Rule::args => "arguments in parentheses",
        Rule::arg => "an argument",
        Rule::prefix => "`-` or `not`",
        Rule::neg => "`-`",
        Rule::not => "`not`",
        Rule::infix
        | Rule::eq
        | Rule::ne
        | Rule::le
        | Rule::lt
        | Rule::ge
        | Rule::gt
        | Rule::add
        | Rule::sub
        | Rule::mul
        | Rule::div
        | Rule::rem
        | Rule::and
        | Rule::or => "an operator",
        Rule::postfix => "`.` or `[`",
        Rule::field => "`.`",
        Rule::index => "`[`",
        Rule::ident | Rule::ident_start | Rule::ident_char => "a name",
        Rule::int | Rule::float | Rule::digits | Rule::exponent => "a number",
        Rule::boolean => "`true` or `false`",
        Rule::string => "a string",
        Rule::assign => "`=`",
        Rule::arrow => "`->`",
        Rule::pipe => "`|>`",
        Rule::comma => "`,`",
        Rule::colon => "`:`",
        Rule::dot => "`.`",
        Rule::lparen => "`(`",
        Rule::rparen => "`)`",
        Rule::lbracket => "`[`",
        Rule::rbracket => "`]`",
        Rule::lbrace => "`{`",
        Rule::rbrace => "`}`",
    }
}

/// The internal name of every rule, for the test that none of them reaches a user.
#[doc(hidden)]
pub fn rule_names() -> Vec<String> {
    Rule::all_rules().iter().map(|rule| format!("{rule:?}")).collect()
}
