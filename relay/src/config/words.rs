//! Error texts about the content of TOML files, without terms of Rust or serde.

use toml::Value;

/// Describes a TOML value by its kind and content.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text {text:?}"),
        Value::Integer(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(yes) => yes.to_string(),
        Value::Datetime(at) => format!("the date {at}"),
        Value::Array(list) => match list.iter().find(|it| !it.is_str()) {
            Some(odd) => format!("a list with {} in it", self::value(odd)),
            None => "a list".to_owned(),
        },
        Value::Table(_) => "a table".to_owned(),
    }
}

/// Rewords an error of the TOML parser, in one line.
pub(super) fn parser(message: &str) -> String {
    let message = message.lines().collect::<Vec<_>>().join(", ");
    let said = message.split_once(", expected ");
    if let Some((found, wanted)) = said {
        if let Some(found) = found.strip_prefix("invalid type: ") {
            return misplaced(found, wanted);
        }
        if let Some(key) = found.strip_prefix("unknown field ") {
            let known = wanted.strip_prefix("one of ").unwrap_or(wanted);
            return format!("{key} is not known here; the keys are {known}");
        }
        if found == "string values must be quoted" {
            return "a value is missing, or a text has no quotes around it".to_owned();
        }
    }
    match message.strip_prefix("missing field ") {
        Some(key) => format!("{key} is missing"),
        None => message,
    }
}

/// Describes a value of the wrong kind; `found` and `wanted` are serde's descriptions.
fn misplaced(found: &str, wanted: &str) -> String {
    // Serde reports a date as a map.
    let value = match found.split_once([' ', '`']) {
        _ if found == "sequence" => "a list".to_owned(),
        _ if found == "map" => "a table or a date".to_owned(),
        Some(("boolean", value)) => value.trim_matches('`').to_owned(),
        Some(("integer" | "floating", _)) => {
            let number = found.split('`').nth(1).unwrap_or(found);
            format!("the number {number}")
        }
        Some(("string", text)) => format!("the text {text}"),
        _ => found.to_owned(),
    };
    let wanted = match wanted {
        "a string" => "a text in quotes belongs",
        "a sequence" if found == "map" => {
            "a list belongs; each table of a list has two brackets, as in [[token]]"
        }
        "a sequence" => "a list in brackets belongs",
        "a boolean" => "true or false belongs",
        "any valid TOML value" => return format!("{value} is too large"),
        other => return format!("{value} stands where {other} belongs"),
    };
    format!("{value} stands where {wanted}")
}

#[cfg(test)]
mod tests {
    use super::super::denylist::DenylistForm;
    use super::super::tokens::TokensForm;
    use super::*;

    fn refused<T: serde::de::DeserializeOwned>(text: &str) -> String {
        match toml::from_str::<T>(text) {
            Ok(_) => panic!("{text} is accepted"),
            Err(error) => parser(error.message()),
        }
    }

    #[test]
    fn what_the_parser_says_is_told_in_plain_words() {
        let missing = "a value is missing, or a text has no quotes around it";
        for (text, wanted) in [
            ("a = ", missing),
            ("a = b", missing),
            (
                "a = 99999999999999999999",
                "the number 99999999999999999999 is too large",
            ),
            ("a = 1\na = 2", "duplicate key"),
            ("[a", "unclosed table, expected `]`"),
        ] {
            assert_eq!(refused::<toml::Table>(text), wanted, "{text}");
        }
        for (line, wanted) in [
            (
                "sub = 5",
                "the number 5 stands where a text in quotes belongs",
            ),
            (
                "sub = 1.5",
                "the number 1.5 stands where a text in quotes belongs",
            ),
            ("sub = []", "a list stands where a text in quotes belongs"),
            (
                "sub = 2027-01-31",
                "a table or a date stands where a text in quotes belongs",
            ),
            (
                "dcc = \"maya\"",
                "the text \"maya\" stands where a list in brackets belongs",
            ),
            (
                "dcc = [1]",
                "the number 1 stands where a text in quotes belongs",
            ),
            (
                "shared = \"yes\"",
                "the text \"yes\" stands where true or false belongs",
            ),
            ("sub = \"ada\"", "`hash` is missing"),
        ] {
            assert_eq!(
                refused::<TokensForm>(&format!("[[token]]\n{line}")),
                wanted,
                "{line}"
            );
        }
        assert!(
            refused::<TokensForm>("[[token]]\nsbu = 1")
                .starts_with("`sbu` is not known here; the keys are `sub`, ")
        );
        assert_eq!(
            refused::<TokensForm>("tokens = 1"),
            "`tokens` is not known here; the keys are `token`"
        );
        let table = refused::<TokensForm>("[token]\nsub = \"ada\"");
        assert!(
            table.ends_with("has two brackets, as in [[token]]"),
            "{table}"
        );
        assert_eq!(
            refused::<DenylistForm>("key = true"),
            "true stands where a list in brackets belongs"
        );
    }
}
