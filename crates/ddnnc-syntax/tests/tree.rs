//! The tree of each form of the language, and the places in it.

use ddnnc_diag::{Code, SourceId};
use ddnnc_syntax::{ExprKind, Item, dump, format, parse};

const EVERYTHING: &str = include_str!("data/everything.ddnn");

/// The tree of `let a = EXPR` in the dumped form.
fn tree(expr: &str) -> String {
    let file =
        parse(&format!("model m\nlet a = {expr}\n"), SourceId(0)).unwrap_or_else(|e| panic!("{expr}: {e:?}"));
    let text = dump(&file);
    let start = text.find("(let a ").map_or(0, |at| at + "(let a ".len());
    text[start..].trim_end().strip_suffix("))").unwrap_or("").to_string()
}

#[test]
fn every_form_has_its_tree() {
    let file = parse(EVERYTHING, SourceId(0)).expect("a correct file");
    insta::assert_snapshot!("everything.ast", dump(&file));
    insta::assert_snapshot!("everything.fmt", format(&file, EVERYTHING));
}

#[test]
fn operators_bind_as_documented() {
    for (text, expected) in [
        ("1 + 2 * 3", "(+ 1 (* 2 3))"),
        ("(1 + 2) * 3", "(* (+ 1 2) 3)"),
        ("8 - 4 - 2", "(- (- 8 4) 2)"),
        ("8 / 4 % 3 * 2", "(* (% (/ 8 4) 3) 2)"),
        (
            "1 + 2 < 3 and 4 == 5 or not x == y and z",
            "(or (and (< (+ 1 2) 3) (== 4 5)) (and (not (== x y)) z))",
        ),
        ("not not x", "(not (not x))"),
        ("-x.y * -2", "(* (neg (field x y)) (neg 2))"),
        ("a - -b", "(- a (neg b))"),
        ("a[1].b[2]", "(index (field (index a 1) b) 2)"),
        ("a |> b(1) as c |> d", "(|> a (as (call b 1) c) d)"),
        ("a + b |> c", "(|> (+ a b) c)"),
        ("a |> (b |> c)", "(|> a (|> b c))"),
        ("f(x, y = 2, at = [s1 -> s2],)", "(call f x (= y 2) (= at (list (-> s1 s2))))"),
        ("f(a == b)", "(call f (== a b))"),
        ("[]", "(list)"),
        ("if a { 1 } else if b { let c = 2 c } else { 3 }", "(if a 1 (if b (do (let c 2) c) 3))"),
        ("orange + android + notes + iffy", "(+ (+ (+ orange android) notes) iffy)"),
        ("1_000 + 0.5 + 1e-4 + 2.5E+3", "(+ (+ (+ 1000 0.5) 0.0001) 2500.0)"),
        (r#""a\"b\\c\n\t""#, r#""a\"b\\c\n\t""#),
        ("(a < b) == c", "(== (< a b) c)"),
        ("a // not b\n + c", "(+ a c)"),
    ] {
        assert_eq!(tree(text), expected, "{text}");
    }
}

#[test]
fn places_are_those_of_the_text() {
    let text = "model m\n\nlet a = ( 1 + 2 ) * x  // c\n\nlet b = 3\n";
    let file = parse(text, SourceId(7)).expect("a correct file");
    let slice = |span: ddnnc_diag::Span| &text[span.start as usize..span.end as usize];
    let Item::Let(decl) = &file.items[0] else { panic!("{:?}", file.items) };
    assert_eq!(decl.span.source, SourceId(7));
    assert_eq!(slice(decl.span), "let a = ( 1 + 2 ) * x");
    assert_eq!(slice(decl.value.span), "( 1 + 2 ) * x");
    let ExprKind::Binary { op_span, lhs, .. } = &decl.value.kind else { panic!("{:?}", decl.value) };
    assert_eq!(slice(*op_span), "*");
    assert_eq!(slice(lhs.span), "1 + 2");
    assert_eq!(file.comments.len(), 1);
    assert!(file.comments[0].trailing);
    assert_eq!(slice(file.comments[0].span), "// c");
}

#[test]
fn line_ends_and_byte_order_marks_do_not_matter() {
    let plain = parse(EVERYTHING, SourceId(0)).expect("a correct file");
    let windows = format!("\u{feff}{}", EVERYTHING.replace('\n', "\r\n"));
    let file = parse(&windows, SourceId(0)).expect("a correct file");
    assert_eq!(dump(&plain), dump(&file));
    assert_eq!(format(&plain, EVERYTHING), format(&file, &windows));
    assert_eq!(
        dump(&plain),
        dump(&parse(&EVERYTHING.replace(' ', "\t"), SourceId(0)).expect("a correct file"))
    );
}

#[test]
fn kinds_of_error_are_told_apart() {
    for (text, code) in [
        ("let a = 9223372036854775808", Code::NumberRange),
        ("let a = 1e400", Code::NumberRange),
        ("let depth = 1", Code::ReservedName),
        ("let a = 1 +", Code::Syntax),
        ("let a = 1 < 2 < 3", Code::Syntax),
    ] {
        let errors = parse(&format!("model m\n{text}\n"), SourceId(0)).expect_err(text);
        assert_eq!(errors.iter().map(|e| e.code).collect::<Vec<_>>(), [code], "{text}");
    }
    let errors = parse("model m\nlet a = 1 +\nlet b = = 2\nlet c = 3\nlet 4\n", SourceId(0))
        .expect_err("three errors");
    assert_eq!(errors.len(), 3);
    assert!(parse("model m\nlet a = 9223372036854775807\n", SourceId(0)).is_ok());
}
