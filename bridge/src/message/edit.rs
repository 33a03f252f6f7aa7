//! Changes to one message, made by cuts: the line that comes out shares the message's memory on both sides of each cut.

use bytes::Bytes;

use super::parts::{Member, Part, Span};
use super::{Kind, Line, META, Message, PROGRESS_TOKEN, raw};

/// Changes to one message, collected; values are raw JSON without CR and LF.
///
/// A key that is set stays, whatever is removed. Setting or removing `_meta` as a whole undoes changes inside of it.
#[derive(Debug)]
#[must_use]
pub struct Edit<'m> {
    message: &'m Message,
    id: Option<Bytes>,
    params: Changes,
    meta: Changes,
    result: Changes,
    result_meta: Changes,
}

impl<'m> Edit<'m> {
    pub(super) fn new(message: &'m Message) -> Self {
        Self {
            message,
            id: None,
            params: Changes::default(),
            meta: Changes::default(),
            result: Changes::default(),
            result_meta: Changes::default(),
        }
    }

    /// Gives the message another id; one without an id gets it in front.
    pub fn id(mut self, id: impl Into<Bytes>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the progress token: that of a request is in `_meta`, that of a notification in `params`.
    pub fn progress_token(self, token: impl Into<Bytes>) -> Self {
        match self.message.kind {
            Kind::Request => self.set_meta(PROGRESS_TOKEN, token),
            Kind::Notification | Kind::Response => self.set_param(PROGRESS_TOKEN, token),
        }
    }

    /// Sets the id of the request that a notification is about.
    pub fn request_id(self, id: impl Into<Bytes>) -> Self {
        self.set_param("requestId", id)
    }

    /// Sets a member of the params: in its place, or else in front of the others. Nothing happens to a response.
    pub fn set_param(mut self, key: &str, value: impl Into<Bytes>) -> Self {
        self.params.set(key, Line::new().with(value));
        self
    }

    /// Removes a member of the params.
    pub fn remove_param(mut self, key: &str) -> Self {
        self.params.removed.push(Removal::Key(key.to_owned()));
        self
    }

    /// Sets a member of `_meta` in the params; a missing `_meta` is made. Nothing happens to a response.
    pub fn set_meta(mut self, key: &str, value: impl Into<Bytes>) -> Self {
        self.meta.set(key, Line::new().with(value));
        self
    }

    /// Removes a member of `_meta` in the params.
    pub fn remove_meta(mut self, key: &str) -> Self {
        self.meta.removed.push(Removal::Key(key.to_owned()));
        self
    }

    /// Removes the members of `_meta` in the params whose keys start with `prefix`.
    pub fn remove_meta_prefix(mut self, prefix: &str) -> Self {
        self.meta.removed.push(Removal::Prefix(prefix.to_owned()));
        self
    }

    /// Sets a member of the result. Nothing happens to a result that is not an object.
    pub fn set_result(mut self, key: &str, value: impl Into<Bytes>) -> Self {
        self.result.set(key, Line::new().with(value));
        self
    }

    /// Sets a member of `_meta` in the result. Nothing happens to a result that is not an object.
    pub fn set_result_meta(mut self, key: &str, value: impl Into<Bytes>) -> Self {
        self.result_meta.set(key, Line::new().with(value));
        self
    }

    /// The changed message.
    #[must_use]
    pub fn line(mut self) -> Line {
        let mut cuts = Vec::new();
        if let Some(id) = self.id.take() {
            cuts.push(match self.message.id {
                Some(span) => Cut::new(span, Line::from(id)),
                None => self.in_front("\"id\":", Line::from(id)),
            });
        }
        match self.message.kind {
            Kind::Request | Kind::Notification => self.cut_params(&mut cuts),
            Kind::Response => self.cut_result(&mut cuts),
        }
        joined(&self.message.text, cuts)
    }

    fn cut_params(&mut self, cuts: &mut Vec<Cut>) {
        let message = self.message;
        if self.params.fate(META) == Fate::Keep {
            match &message.meta {
                Part::Object(span, members) => {
                    let cutter = Cutter::new(message, &self.meta);
                    cuts.extend(cutter.cut(*span, members));
                }
                Part::Missing | Part::Null(_) => {
                    if let Some(meta) = self.meta.object() {
                        self.params.set(META, meta);
                    }
                }
            }
        }
        match &message.params {
            Part::Object(span, members) => {
                let cutter = Cutter::new(message, &self.params);
                cuts.extend(cutter.cut(*span, members));
            }
            Part::Null(span) => {
                cuts.extend(self.params.object().map(|params| Cut::new(*span, params)));
            }
            Part::Missing => {
                let params = self.params.object();
                cuts.extend(params.map(|params| self.in_front("\"params\":", params)));
            }
        }
    }

    fn cut_result(&mut self, cuts: &mut Vec<Cut>) {
        let message = self.message;
        let is_unchanged = self.result.is_empty() && self.result_meta.is_empty();
        let result = message.result().filter(|it| it.starts_with('{'));
        let Some(result) = result.filter(|_| !is_unchanged) else {
            return;
        };
        if !self.result_meta.is_empty() && self.result.fate(META) == Fate::Keep {
            let meta = raw::member(result, META).filter(|meta| meta.starts_with('{'));
            match (meta, self.result_meta.object()) {
                (Some(meta), _) => {
                    cuts.extend(Cutter::new(message, &self.result_meta).walk(meta));
                }
                (None, Some(meta)) => self.result.set(META, meta),
                (None, None) => {}
            }
        }
        cuts.extend(Cutter::new(message, &self.result).walk(result));
    }

    /// A member before the others of the message.
    fn in_front(&self, key: &'static str, value: Line) -> Cut {
        let front = self.message.front();
        let at = Span {
            start: front,
            end: front,
        };
        let mut member = Line::from(key);
        member.append(value);
        member.push(",");
        Cut::new(at, member)
    }
}

/// Changes to the members of one object.
#[derive(Debug, Default)]
struct Changes {
    /// Each key occurs once.
    set: Vec<(String, Line)>,
    removed: Vec<Removal>,
}

/// Members to remove.
#[derive(Debug)]
enum Removal {
    /// The member with this key.
    Key(String),
    /// Members whose keys start so.
    Prefix(String),
}

/// What happens to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    Remove,
    /// It gets the value at this index of the changes.
    Replace(usize),
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }

    fn set(&mut self, key: &str, value: Line) {
        match self.set.iter_mut().find(|(known, _)| known == key) {
            Some((_, earlier)) => *earlier = value,
            None => self.set.push((key.to_owned(), value)),
        }
    }

    fn fate(&self, key: &str) -> Fate {
        if let Some(index) = self.set.iter().position(|(known, _)| known == key) {
            return Fate::Replace(index);
        }
        let is_removed = self.removed.iter().any(|removal| match removal {
            Removal::Key(known) => known == key,
            Removal::Prefix(prefix) => key.starts_with(prefix.as_str()),
        });
        match is_removed {
            true => Fate::Remove,
            false => Fate::Keep,
        }
    }

    /// A new object of the members that are set; `None` without any.
    fn object(&self) -> Option<Line> {
        if self.set.is_empty() {
            return None;
        }
        let mut object = Line::from("{");
        object.append(self.members(|_| true));
        Some(object.with("}"))
    }

    /// Those of the members that are set, with commas between them.
    fn members(&self, is_chosen: impl Fn(usize) -> bool) -> Line {
        let mut members = Line::new();
        for (index, (key, value)) in self.set.iter().enumerate() {
            if is_chosen(index) {
                let comma = if members.is_empty() { "" } else { "," };
                members.push(format!("{comma}{}:", raw::quoted(key)));
                members.append(value.clone());
            }
        }
        members
    }
}

/// What takes the place of a part of a message's text.
#[derive(Debug)]
struct Cut {
    span: Span,
    by: Line,
}

impl Cut {
    const fn new(span: Span, by: Line) -> Self {
        Self { span, by }
    }
}

/// Finds the cuts in one object, on the way over its members.
struct Cutter<'c> {
    message: &'c Message,
    changes: &'c Changes,
    /// True for each value that has taken the place of another.
    is_placed: Vec<bool>,
    cuts: Vec<Cut>,
    /// Where the latest member that stays ends.
    kept_end: Option<usize>,
    /// Where the members begin that are removed since.
    removed_from: Option<usize>,
    /// Where the latest member ends.
    end: usize,
}

impl<'c> Cutter<'c> {
    fn new(message: &'c Message, changes: &'c Changes) -> Self {
        Self {
            message,
            changes,
            is_placed: vec![false; changes.set.len()],
            cuts: Vec::new(),
            kept_end: None,
            removed_from: None,
            end: 0,
        }
    }

    /// Cuts in an object whose members are known.
    fn cut(mut self, object: Span, members: &[Member]) -> Vec<Cut> {
        if !self.changes.is_empty() {
            for member in members {
                self.member(*member);
            }
        }
        self.finish(object)
    }

    /// Cuts in an object whose members are not known yet.
    fn walk(mut self, object: &str) -> Vec<Cut> {
        if self.changes.is_empty() {
            return Vec::new();
        }
        let message = self.message;
        let text = &message.text[..];
        let walked = raw::walk(object, |key, value| {
            self.member(Member {
                key: Span::in_text(key, text),
                value: Span::in_text(value, text),
            });
        });
        match walked {
            Ok(()) => self.finish(Span::in_text(object, text)),
            Err(_) => Vec::new(),
        }
    }

    fn member(&mut self, member: Member) {
        let message = self.message;
        let key = raw::decoded(message.at(member.key));
        let fate = key.map_or(Fate::Keep, |key| self.changes.fate(&key));
        if fate == Fate::Remove {
            self.removed_from = self.removed_from.or(Some(member.key.start));
        } else {
            if let Some(start) = self.removed_from.take() {
                self.remove(start, member.key.start);
            }
            if let Fate::Replace(index) = fate {
                let (_, value) = &self.changes.set[index];
                self.cuts.push(Cut::new(member.value, value.clone()));
                self.is_placed[index] = true;
            }
            self.kept_end = Some(member.value.end);
        }
        self.end = member.value.end;
    }

    /// The cuts, once all members have passed.
    fn finish(mut self, object: Span) -> Vec<Cut> {
        if let Some(start) = self.removed_from {
            // The comma behind the last member that stays goes, too.
            self.remove(self.kept_end.unwrap_or(start), self.end);
        }
        let mut members = self.changes.members(|index| !self.is_placed[index]);
        if !members.is_empty() {
            if self.kept_end.is_some() {
                members.push(",");
            }
            let front = object.start + 1;
            let at = Span {
                start: front,
                end: front,
            };
            // First, because a removal may begin at the same place.
            self.cuts.insert(0, Cut::new(at, members));
        }
        self.cuts
    }

    fn remove(&mut self, start: usize, end: usize) {
        self.cuts.push(Cut::new(Span { start, end }, Line::new()));
    }
}

/// The text with its cuts, of which no two overlap.
fn joined(text: &Bytes, mut cuts: Vec<Cut>) -> Line {
    // Stable: cuts at the same place stay in their order.
    cuts.sort_by_key(|cut| cut.span.start);
    let (mut line, mut at) = (Line::new(), 0);
    for cut in cuts {
        line.push(text.slice(at..cut.span.start));
        line.append(cut.by);
        at = cut.span.end;
    }
    line.push(text.slice(at..));
    line
}
