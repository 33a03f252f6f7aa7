//! Line ends and indentation of a file, so that an added entry looks like the rest of the file.

use jsonc_parser::ast::Object;

/// Indentation step for files that show none.
const UNIT: &str = "  ";

/// A file's line end and one step of its indentation.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) newline: &'static str,
    pub(super) unit: String,
}

impl Layout {
    pub(super) fn of(text: &str) -> Self {
        let first_end = text.find('\n').unwrap_or(0);
        let is_windows = text[..first_end].ends_with('\r');
        // The first indented line shows one step of indentation, unless the line continues a comment.
        let unit = text.lines().find_map(|line| {
            let rest = line.trim_start_matches([' ', '\t']);
            let indent = &line[..line.len() - rest.len()];
            let is_text = rest.starts_with(['"', '}', ']', '{']);
            (is_text && !indent.is_empty()).then(|| indent.to_owned())
        });
        Self {
            newline: if is_windows { "\r\n" } else { "\n" },
            unit: unit.unwrap_or_else(|| UNIT.to_owned()),
        }
    }

    /// Leading blanks of the line that contains `place`.
    pub(super) fn indent_at(text: &str, place: usize) -> &str {
        let start = text[..place].rfind('\n').map_or(0, |at| at + 1);
        let line = &text[start..place];
        &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
    }

    /// Indentation of an object's properties: that of the first property that begins a line, or one step
    /// more than the object's own.
    pub(super) fn child_indent(&self, text: &str, object: &Object<'_>) -> String {
        for property in &object.properties {
            let place = property.range.start;
            let indent = Self::indent_at(text, place);
            if text[..place].ends_with(indent) && text[..place - indent.len()].ends_with('\n') {
                return indent.to_owned();
            }
        }
        [Self::indent_at(text, object.range.start), &self.unit].concat()
    }

    /// Renders an object over several lines; `indent` is the indentation of the line where the object begins.
    pub(super) fn object(&self, indent: &str, properties: &[(&str, String)]) -> String {
        let inner = [indent, &self.unit].concat();
        let lines: Vec<_> = properties
            .iter()
            .map(|(name, value)| format!("{inner}{}: {value}", quoted(name)))
            .collect();
        let newline = self.newline;
        let lines = lines.join(&format!(",{newline}"));
        format!("{{{newline}{lines}{newline}{indent}}}")
    }
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
