//! A table of `tieline.toml`: the parser takes each key with the kind of value that the key must have, and a key
//! that is left over is an error. Error messages use the file's terms, not Rust's.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use tieline_agent::ConfigError;

use super::Source;

/// Similarity from 0 to 1 above which an unknown key counts as a misspelled known key.
const ALIKE_MIN: f64 = 0.7;

/// Texts by their names, in the order of the file.
pub(super) type NamedTexts = Vec<(String, String)>;

/// A table whose keys are taken one by one.
pub(super) struct Table<'a, 'i> {
    source: &'a Source<'a>,
    entries: DeTable<'i>,
    /// Byte range of the table in the file.
    span: Range<usize>,
    /// Keys that the parser asked for.
    known: Vec<&'static str>,
}

impl<'a, 'i> Table<'a, 'i> {
    pub(super) fn new(source: &'a Source<'a>, table: Spanned<DeTable<'i>>) -> Self {
        Self {
            source,
            span: table.span(),
            entries: table.into_inner(),
            known: Vec::new(),
        }
    }

    /// Byte range of the table in the file.
    pub(super) const fn span(&self) -> &Range<usize> {
        &self.span
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.entries.remove(key)
    }

    /// Takes `key` and converts its value with `read`; `expected` says in the error message what the value must be.
    fn value<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(DeValue<'i>) -> Result<T, DeValue<'i>>,
    ) -> Result<Option<Spanned<T>>, ConfigError> {
        let Some(entry) = self.take(key) else {
            return Ok(None);
        };
        let span = entry.span();
        match read(entry.into_inner()) {
            Ok(value) => Ok(Some(Spanned::new(span, value))),
            Err(value) => {
                let problem = format!("`{key}` must be {expected}, and it is {}", kind(&value));
                Err(self.source.wrong(&span, problem))
            }
        }
    }

    pub(super) fn text(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Spanned<String>>, ConfigError> {
        let expected = format!("text in quotes, as in {key} = \"…\"");
        self.value(key, &expected, text_of)
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        Ok(self.spanned_texts(key)?.map(Spanned::into_inner))
    }

    /// Like [`Table::texts`], with the place of the list.
    pub(super) fn spanned_texts(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Spanned<Vec<String>>>, ConfigError> {
        let expected = format!("a list of texts in quotes, as in {key} = [\"…\", \"…\"]");
        let list = self.value(key, &expected, |value| match value {
            DeValue::Array(list) => Ok(list),
            other => Err(other),
        })?;
        let Some(list) = list else { return Ok(None) };
        let span = list.span();
        let texts = list.into_inner().into_iter().map(|entry| {
            let span = entry.span();
            text_of(entry.into_inner()).map_err(|value| {
                let problem = format!(
                    "`{key}` must be {expected}, and one entry is {}",
                    kind(&value)
                );
                self.source.wrong(&span, problem)
            })
        });
        let texts = texts.collect::<Result<Vec<_>, ConfigError>>()?;
        Ok(Some(Spanned::new(span, texts)))
    }

    /// A table of texts. Errors do not show the texts, which may be secrets.
    pub(super) fn texts_by_name(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Spanned<NamedTexts>>, ConfigError> {
        let Some(entry) = self.take(key) else {
            return Ok(None);
        };
        let span = entry.span();
        let DeValue::Table(table) = entry.into_inner() else {
            let problem = format!(
                "`{key}` must be names with texts in quotes, as in {key} = {{ NAME = \"…\" }}"
            );
            return Err(self.source.wrong(&span, problem));
        };
        let texts = table.into_iter().map(|(name, entry)| {
            let (name, span) = (name.into_inner().into_owned(), entry.span());
            match text_of(entry.into_inner()) {
                Ok(text) => Ok((name, text)),
                Err(_) => {
                    let problem = format!("`{name}` in `{key}` must be a text in quotes");
                    Err(self.source.wrong(&span, problem))
                }
            }
        });
        let texts = texts.collect::<Result<Vec<_>, ConfigError>>()?;
        Ok(Some(Spanned::new(span, texts)))
    }

    /// A whole number; the caller checks its range.
    pub(super) fn number(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Spanned<i64>>, ConfigError> {
        let expected = format!("a number without quotes, as in {key} = 1");
        self.value(key, &expected, |value| match &value {
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| value)
            }
            _ => Err(value),
        })
    }

    pub(super) fn switch(&mut self, key: &'static str) -> Result<bool, ConfigError> {
        let expected = "true or false, without quotes";
        let switch = self.value(key, expected, |value| match value {
            DeValue::Boolean(switch) => Ok(switch),
            other => Err(other),
        })?;
        Ok(switch.is_some_and(Spanned::into_inner))
    }

    /// The tables written as `[[key]]`.
    pub(super) fn tables(&mut self, key: &'static str) -> Result<Vec<Self>, ConfigError> {
        let expected = format!("written as [[{key}]], once for each {key}");
        let list = self.value(key, &expected, |value| match value {
            DeValue::Array(list) if list.iter().all(|it| it.get_ref().is_table()) => Ok(list),
            other => Err(other),
        })?;
        let tables = list
            .into_iter()
            .flat_map(Spanned::into_inner)
            .filter_map(|entry| {
                let span = entry.span();
                match entry.into_inner() {
                    DeValue::Table(table) => {
                        Some(Self::new(self.source, Spanned::new(span, table)))
                    }
                    _ => None,
                }
            });
        Ok(tables.collect())
    }

    /// Like [`Table::end`], for the top level of the file: names a key that belongs into `[[inner]]`.
    pub(super) fn end_above(self, keys: &[&str], inner: &str) -> Result<(), ConfigError> {
        let misplaced = self
            .entries
            .iter()
            .find(|(key, _)| keys.contains(&&**key.get_ref()));
        if let Some((key, _)) = misplaced {
            let problem = format!(
                "`{}` belongs into [[{inner}]], below its `to`",
                key.get_ref()
            );
            return Err(self.source.wrong(&key.span(), problem));
        }
        self.end()
    }

    /// Refuses a key that the parser did not ask for.
    pub(super) fn end(self) -> Result<(), ConfigError> {
        let Some((key, _)) = self.entries.iter().min_by_key(|(key, _)| key.span().start) else {
            return Ok(());
        };
        let name = key.get_ref();
        let alike = |it: &&&str| strsim::normalized_damerau_levenshtein(name, it) >= ALIKE_MIN;
        let hint = match self.known.iter().find(alike) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the settings here are {}", self.known.join(", ")),
        };
        let problem = format!("no setting is called `{name}` here: {hint}");
        Err(self.source.wrong(&key.span(), problem))
    }
}

fn text_of(value: DeValue<'_>) -> Result<String, DeValue<'_>> {
    match value {
        DeValue::String(text) => Ok(text.into_owned()),
        other => Err(other),
    }
}

/// Describes a value in the file's terms.
fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(switch) => format!("{switch} without quotes"),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
