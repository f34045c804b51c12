//! A strict reader of the XML that pictures are written in: it takes elements, attributes and text, and refuses
//! whatever a browser would refuse.

use std::collections::BTreeMap;

/// An element with its attributes, its own text and its children's.
#[derive(Debug, Default)]
pub struct Element {
    pub name: String,
    pub attributes: BTreeMap<String, String>,
    pub text: String,
    /// The text of its `title` child: a tooltip.
    pub title: String,
}

impl Element {
    /// An attribute as a number.
    pub fn number(&self, name: &str) -> f64 {
        let text = self.attributes.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        text.parse().unwrap_or_else(|e| panic!("{name}=\"{text}\": {e}"))
    }

    /// Whether it has an attribute.
    pub fn has(&self, name: &str) -> bool {
        self.attributes.contains_key(name)
    }
}

/// Every element of a document, in the order of their ends.
pub fn parse(document: &str) -> Result<Vec<Element>, String> {
    let mut rest =
        document.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").ok_or("no declaration")?;
    let mut open: Vec<Element> = Vec::new();
    let mut done: Vec<Element> = Vec::new();
    let mut closed = false;
    while !rest.is_empty() {
        let tag = rest.find('<').unwrap_or(rest.len());
        let text = unescape(&rest[..tag])?;
        match open.last_mut() {
            Some(element) => element.text.push_str(&text),
            None if text.trim().is_empty() => {}
            None => return Err(format!("text outside the root: {text}")),
        }
        rest = &rest[tag..];
        if rest.is_empty() {
            break;
        }
        let end = rest.find('>').ok_or("an open tag")?;
        let inside = &rest[1..end];
        rest = &rest[end + 1..];
        let finished = if let Some(name) = inside.strip_prefix('/') {
            let element = open.pop().ok_or("an end without a start")?;
            if element.name != name {
                return Err(format!("</{name}> ends <{}>", element.name));
            }
            Some(element)
        } else {
            if closed {
                return Err(format!("<{inside}> behind the root"));
            }
            let (inside, empty) = inside.strip_suffix('/').map_or((inside, false), |i| (i, true));
            let element = start(inside)?;
            if empty {
                Some(element)
            } else {
                open.push(element);
                None
            }
        };
        if let Some(element) = finished {
            match open.last_mut() {
                Some(parent) if element.name == "title" => parent.title.clone_from(&element.text),
                Some(_) => {}
                None => closed = true,
            }
            done.push(element);
        }
    }
    match (open.last(), closed) {
        (Some(element), _) => Err(format!("<{}> never ends", element.name)),
        (None, false) => Err("no root".to_string()),
        (None, true) => Ok(done),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == ':')
}

/// `name a="b" …`
fn start(text: &str) -> Result<Element, String> {
    let (name, mut rest) = text.split_once(' ').unwrap_or((text, ""));
    if !is_name(name) {
        return Err(format!("<{text}>"));
    }
    let mut element = Element { name: name.to_string(), ..Element::default() };
    while !rest.trim_start().is_empty() {
        let (name, value) = rest.trim_start().split_once("=\"").ok_or_else(|| format!("<{text}>"))?;
        let (value, after) = value.split_once('"').ok_or_else(|| format!("<{text}>"))?;
        if !is_name(name) || !(after.is_empty() || after.starts_with(' ')) {
            return Err(format!("attribute {name} in <{text}>"));
        }
        if element.attributes.insert(name.to_string(), unescape(value)?).is_some() {
            return Err(format!("{name} twice in <{text}>"));
        }
        rest = after;
    }
    Ok(element)
}

fn unescape(text: &str) -> Result<String, String> {
    if let Some(c) = text.chars().find(|&c| c == '>' || c < ' ' && !matches!(c, '\n' | '\t')) {
        return Err(format!("{c:?} in {text:?}"));
    }
    let mut out = String::new();
    let mut pieces = text.split('&');
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (entity, after) = piece.split_once(';').ok_or_else(|| format!("a lone & in {text:?}"))?;
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            _ => return Err(format!("&{entity};")),
        });
        out.push_str(after);
    }
    Ok(out)
}

#[test]
fn what_is_no_xml_is_refused() {
    let wrong =
        ["", "<a>", "<a></b>", "<a/><b/>", "<a b=\"1\" b=\"2\"/>", "<a>&</a>", "<a b=c/>", "<a>&x;</a>", "x"];
    for body in wrong {
        let document = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{body}");
        assert!(parse(&document).is_err(), "{body}");
    }
    let right = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><a b=\"&lt;\"><title>t</title><c/>x&amp;y</a>";
    let elements = parse(right).expect("well formed");
    assert_eq!((elements[2].title.as_str(), elements[2].text.as_str()), ("t", "x&y"));
}
