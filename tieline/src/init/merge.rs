//! Adds one entry to the text of a JSON file with comments, and keeps every other byte: the parser
//! finds the position, and the entry's text is inserted there.

use jsonc_parser::ast::{Object, ObjectProp, Value as Node};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::Value;

use super::client::Entry;
use super::layout::{Layout, quoted};

/// Byte order mark, with which some editors begin a file.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Result of a merge, with the file's new text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merged {
    /// The entry is present already.
    Unchanged,
    /// The entry was added.
    Added(String),
    /// An entry of the same name with other content was replaced.
    Replaced(String),
}

/// Why an entry cannot be merged into a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The text is not JSON, even with comments.
    #[error("line {line}, column {column}: {problem}")]
    Syntax {
        /// Line, counted from 1.
        line: usize,
        /// Column, counted from 1.
        column: usize,
        /// What is wrong at that place.
        problem: String,
    },
    /// A value that must be an object is something else.
    #[error("{0} is not an object")]
    NoObject(String),
    /// An entry of the same name has other content.
    #[error("an entry {0:?} exists already and differs; --force replaces it")]
    Differs(String),
}

/// Adds `entry` as `name` to the object `list` of `text`; `force` replaces an entry that differs.
///
/// # Errors
/// [`MergeError`]; the file must then stay as it is.
pub fn merge(
    text: &str,
    list: &str,
    name: &str,
    entry: &Entry,
    force: bool,
) -> Result<Merged, MergeError> {
    let (mark, text) = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(rest) => (BYTE_ORDER_MARK, rest),
        None => ("", text),
    };
    let marked = |text: String| [mark, &text].concat();
    let added = |text: String| Ok(Merged::Added(marked(text)));
    let layout = Layout::of(text);
    let Some(root) = parse(text)? else {
        return added(fresh(text, list, name, entry, &layout));
    };
    let Node::Object(root) = root else {
        return Err(MergeError::NoObject("the file".to_owned()));
    };
    let Some(servers) = last(&root, list) else {
        let indent = layout.child_indent(text, &root);
        let inner = [&indent, layout.unit.as_str()].concat();
        let object = layout.object(&indent, &[(name, entry.render(&layout, &inner))]);
        return added(insert(text, &root, &layout, list, &object));
    };
    let Node::Object(servers) = &servers.value else {
        return Err(MergeError::NoObject(format!("{list:?}")));
    };
    let Some(present) = last(servers, name) else {
        let indent = layout.child_indent(text, servers);
        let value = entry.render(&layout, &indent);
        return added(insert(text, servers, &layout, name, &value));
    };
    let value = value_of(&present.value);
    if entry.is_in(&value) || (!force && entry.is_meant_by(&value)) {
        return Ok(Merged::Unchanged);
    }
    if !force {
        return Err(MergeError::Differs(name.to_owned()));
    }
    // An entry with a command is replaced as a whole, since the client starts that server itself. An
    // entry with a URL keeps its other fields, such as headers.
    if value.get("url").is_some() && value.get("command").is_none() {
        let text = with_fields(text, &[list, name], entry, &layout)?;
        return Ok(Merged::Replaced(marked(text)));
    }
    let range = present.value.range();
    let value = entry.render(&layout, &layout.child_indent(text, servers));
    let text = [&text[..range.start], &value, &text[range.end..]].concat();
    Ok(Merged::Replaced(marked(text)))
}

/// `text` with each field of `entry` set in the object at `path`; the object's other fields stay.
fn with_fields(
    text: &str,
    path: &[&str],
    entry: &Entry,
    layout: &Layout,
) -> Result<String, MergeError> {
    let mut text = text.to_owned();
    for (field, value) in entry.fields() {
        let root = parse(&text)?;
        let mut at = root.as_ref();
        for name in path {
            let Some(Node::Object(object)) = at else {
                return Err(MergeError::NoObject(format!("{name:?}")));
            };
            at = last(object, name).map(|property| &property.value);
        }
        let Some(Node::Object(object)) = at else {
            return Err(MergeError::NoObject("the entry".to_owned()));
        };
        let changed = match last(object, field) {
            Some(property) => {
                let range = property.value.range();
                [&text[..range.start], &value, &text[range.end..]].concat()
            }
            None => insert(&text, object, layout, field, &value),
        };
        text = changed;
    }
    Ok(text)
}

/// Parses the text's one value; `None` if the text has only blanks and comments.
fn parse(text: &str) -> Result<Option<Node<'_>>, MergeError> {
    // Accepts comments and trailing commas, as VS Code does. No client reads the rest of JSON5.
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    match parse_to_ast(text, &CollectOptions::default(), &options) {
        Ok(result) => Ok(result.value),
        Err(error) => Err(MergeError::Syntax {
            line: error.line_display(),
            column: error.column_display(),
            problem: error.kind().to_string(),
        }),
    }
}

/// The last property of that name: JSON readers take the last of several.
fn last<'a, 'b>(object: &'a Object<'b>, name: &str) -> Option<&'a ObjectProp<'b>> {
    let mut properties = object.properties.iter().rev();
    properties.find(|property| property.name.as_str() == name)
}

/// A new configuration after the comments of a text that has no value yet.
fn fresh(text: &str, list: &str, name: &str, entry: &Entry, layout: &Layout) -> String {
    let unit = &layout.unit;
    let entry = entry.render(layout, &unit.repeat(2));
    let servers = layout.object(unit, &[(name, entry)]);
    let root = layout.object("", &[(list, servers)]);
    let comments = text.trim_end();
    let gap = if comments.is_empty() {
        ""
    } else {
        layout.newline
    };
    [comments, gap, &root, layout.newline].concat()
}

/// `text` with one more property at the end of `object`.
fn insert(text: &str, object: &Object<'_>, layout: &Layout, name: &str, value: &str) -> String {
    let close = object.range.end - 1;
    let (start, comma) = match object.properties.last() {
        Some(property) => {
            let end = property.range.end;
            (end, trailing_comma(&text[end..close]))
        }
        None => (object.range.start + 1, true),
    };
    let is_empty = object.properties.is_empty();
    let gap = &text[start..close];
    let comma_before = if comma { "" } else { "," };
    let property = format!("{}: {value}", quoted(name));
    if !is_empty && !gap.contains('\n') {
        // The object is on one line, so it holds no line comment.
        let at = start + gap.trim_end().len();
        return with_both(text, (start, comma_before), (at, &format!(" {property}")));
    }
    // Insert after the last comment, at the end of its line.
    let blank = start + gap.trim_end().len();
    let rest = &text[blank..close];
    let line_end = rest
        .find('\n')
        .map(|at| rest[..at].strip_suffix('\r').map_or(at, str::len));
    let at = blank + line_end.unwrap_or(0);
    let indent = layout.child_indent(text, object);
    let comma_after = if comma && !is_empty { "," } else { "" };
    let end = match line_end {
        Some(_) => String::new(),
        None => [layout.newline, Layout::indent_at(text, object.range.start)].concat(),
    };
    let own = [layout.newline, &indent, &property, comma_after, &end].concat();
    with_both(text, (start, comma_before), (at, &own))
}

/// `text` with two insertions, each at its place.
fn with_both(text: &str, first: (usize, &str), second: (usize, &str)) -> String {
    let (before, between) = (&text[..first.0], &text[first.0..second.0]);
    [before, first.1, between, second.1, &text[second.0..]].concat()
}

/// True if `gap` has a comma outside its comments.
fn trailing_comma(gap: &str) -> bool {
    let mut rest = gap.trim_start();
    loop {
        let end = if rest.starts_with("//") {
            rest.find('\n')
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.find("*/").map(|at| at + 4)
        } else {
            return rest.starts_with(',');
        };
        rest = end.map_or("", |end| rest[end..].trim_start());
    }
}

/// A parsed value as plain JSON.
fn value_of(node: &Node<'_>) -> Value {
    match node {
        Node::StringLit(text) => Value::String(text.value.clone().into_owned()),
        Node::BooleanLit(boolean) => Value::Bool(boolean.value),
        Node::NumberLit(number) => serde_json::from_str(number.value).unwrap_or(Value::Null),
        Node::NullKeyword(_) => Value::Null,
        Node::Array(array) => array.elements.iter().map(value_of).collect(),
        Node::Object(object) => {
            let pair = |property: &ObjectProp<'_>| {
                let name = property.name.as_str().to_owned();
                (name, value_of(&property.value))
            };
            object.properties.iter().map(pair).collect()
        }
    }
}

#[cfg(test)]
#[path = "tests/merge.rs"]
mod tests;
