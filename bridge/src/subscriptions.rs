//! Callers that want to hear of changes at a legacy child: modern ones with `subscriptions/listen`, and the sessions
//! that have subscribed to a resource.
//!
//! The child knows one subscription for each resource, which begins with the first subscriber and ends with the last.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::BridgeError;
use crate::greeting::{Greeting, Lists};
use crate::headers::META_SUBSCRIPTION_ID;
use crate::ids::{ExchangeId, SessionNumber};
use crate::json::Object;
use crate::message::{Line, Message, raw};
use crate::own;

/// Most `subscriptions/listen` requests under way at one child.
pub(crate) const LISTENERS_MAX: usize = 256;

/// Most resources that one request, or one session of a modern child, may name.
pub(crate) const RESOURCES_MAX: usize = 256;

/// A caller that has subscribed to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subscriber {
    /// A modern caller, by its request.
    Listener(ExchangeId),
    /// A session.
    Session(SessionNumber),
}

/// A `subscriptions/listen` request under way.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The caller's raw id, which also names the subscription.
    id: Box<str>,
    lists: Lists,
    resources: BTreeSet<String>,
}

/// The callers that want to hear of changes at one child.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    listeners: BTreeMap<ExchangeId, Listener>,
    resources: BTreeMap<String, BTreeSet<Subscriber>>,
}

impl Listener {
    /// Reads what a request asks for, as far as the child can give it.
    pub(crate) fn read(message: &Message, greeting: &Greeting) -> Result<Self, BridgeError> {
        let unread = |what: &str| BridgeError::InvalidParams(what.to_owned());
        let filter = message
            .param("notifications")
            .filter(|filter| raw::is_object(filter));
        let filter = filter.ok_or_else(|| unread("notifications is missing or not an object"))?;
        let wants = |key: &str| raw::is_true(raw::member(filter, key));
        let resources: BTreeSet<String> = match raw::member(filter, "resourceSubscriptions") {
            Some(list) => serde_json::from_str(list)
                .map_err(|_| unread("resourceSubscriptions is not a list of strings"))?,
            None => BTreeSet::new(),
        };
        if resources.len() > RESOURCES_MAX {
            return Err(unread("resourceSubscriptions names too many resources"));
        }
        Ok(Self {
            id: message.id().unwrap_or("null").into(),
            lists: Lists {
                tools: greeting.lists.tools && wants("toolsListChanged"),
                prompts: greeting.lists.prompts && wants("promptsListChanged"),
                resources: greeting.lists.resources && wants("resourcesListChanged"),
            },
            resources: match greeting.subscribes {
                true => resources,
                false => BTreeSet::new(),
            },
        })
    }

    /// The notification that tells the caller what it will hear of.
    pub(crate) fn acknowledged(&self) -> Line {
        let meta = Object::new().raw(META_SUBSCRIPTION_ID, &self.id);
        let params = Object::new()
            .raw("_meta", &meta.end())
            .raw("notifications", &filter(self.lists, &self.resources));
        own::notification(
            "notifications/subscriptions/acknowledged",
            Some(&params.end()),
        )
    }

    fn wants(&self, message: &Message) -> bool {
        match message.method() {
            Some("notifications/tools/list_changed") => self.lists.tools,
            Some("notifications/prompts/list_changed") => self.lists.prompts,
            Some("notifications/resources/list_changed") => self.lists.resources,
            Some("notifications/resources/updated") => {
                let changed = resource(message);
                let is_part =
                    |known: &String| changed.as_ref().is_some_and(|uri| uri.starts_with(known));
                self.resources.iter().any(is_part)
            }
            _ => false,
        }
    }
}

impl Subscribers {
    /// True if nothing more fits.
    pub(crate) fn is_full(&self) -> bool {
        self.listeners.len() >= LISTENERS_MAX
    }

    /// True if no modern caller listens.
    pub(crate) fn is_quiet(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Takes a listener; returns the resources to which the child must now be subscribed.
    pub(crate) fn listen(&mut self, exchange: ExchangeId, listener: Listener) -> Vec<String> {
        let subscriber = Subscriber::Listener(exchange);
        let mut resources = listener.resources.clone().into_iter().collect::<Vec<_>>();
        resources.retain(|uri| self.subscribe(subscriber, uri));
        self.listeners.insert(exchange, listener);
        resources
    }

    /// Notes a subscriber; true if it is the first one of the resource.
    pub(crate) fn subscribe(&mut self, subscriber: Subscriber, uri: &str) -> bool {
        let subscribers = self.resources.entry(uri.to_owned()).or_default();
        subscribers.insert(subscriber);
        subscribers.len() == 1
    }

    /// Forgets a subscriber of a resource; true if no other is left.
    pub(crate) fn unsubscribe(&mut self, subscriber: Subscriber, uri: &str) -> bool {
        let Some(subscribers) = self.resources.get_mut(uri) else {
            return true;
        };
        subscribers.remove(&subscriber);
        if !subscribers.is_empty() {
            return false;
        }
        self.resources.remove(uri);
        true
    }

    /// Forgets a subscriber; returns the resources that no other one wants.
    pub(crate) fn leave(&mut self, subscriber: Subscriber) -> Vec<String> {
        if let Subscriber::Listener(exchange) = subscriber {
            self.listeners.remove(&exchange);
        }
        let mut left = Vec::new();
        self.resources.retain(|uri, subscribers| {
            if subscribers.remove(&subscriber) && subscribers.is_empty() {
                left.push(uri.clone());
            }
            !subscribers.is_empty()
        });
        left
    }

    /// The requests that hear of this notification, each with its own line.
    pub(crate) fn hearing(&self, message: &Message) -> Vec<(ExchangeId, Line)> {
        let wanting = self
            .listeners
            .iter()
            .filter(|(_, listener)| listener.wants(message));
        let lines = wanting.map(|(exchange, listener)| (*exchange, tagged(message, &listener.id)));
        lines.collect()
    }

    /// True if a session is to hear of this notification: of changes of a resource only those do that have subscribed
    /// to it.
    pub(crate) fn reaches(&self, session: SessionNumber, message: &Message) -> bool {
        let mut known = self.known_to(message).peekable();
        let subscriber = Subscriber::Session(session);
        known.peek().is_none() || known.any(|subscribers| subscribers.contains(&subscriber))
    }

    /// True if this notification is of a change, and says nothing of one caller to another: of a list, or of a resource
    /// that has subscribers.
    pub(crate) fn may_tell_all(&self, message: &Message) -> bool {
        match message.method() {
            Some(
                "notifications/tools/list_changed"
                | "notifications/prompts/list_changed"
                | "notifications/resources/list_changed",
            ) => true,
            _ => self.known_to(message).next().is_some(),
        }
    }

    /// The subscribers of each resource that this notification says has changed.
    fn known_to(&self, message: &Message) -> impl Iterator<Item = &BTreeSet<Subscriber>> {
        let is_update = message.method() == Some("notifications/resources/updated");
        let changed = is_update.then(|| resource(message)).flatten();
        let is_known = move |uri: &String| changed.as_ref().is_some_and(|it| it.starts_with(uri));
        let known = self.resources.iter();
        known
            .filter(move |(uri, _)| is_known(uri))
            .map(|(_, subscribers)| subscribers)
    }

    /// The requests under way, each with the answer that ends it in order.
    pub(crate) fn ends(&self) -> Vec<(ExchangeId, Line)> {
        let listeners = self.listeners.iter();
        listeners
            .map(|(exchange, listener)| (*exchange, ended(&listener.id)))
            .collect()
    }
}

/// A raw filter of notifications.
pub(crate) fn filter(lists: Lists, resources: &BTreeSet<String>) -> String {
    let yes = |is_wanted: bool| is_wanted.then_some("true");
    let uris: Vec<String> = resources.iter().map(|uri| raw::quoted(uri)).collect();
    let uris = format!("[{}]", uris.join(","));
    Object::new()
        .raw_if("toolsListChanged", yes(lists.tools))
        .raw_if("promptsListChanged", yes(lists.prompts))
        .raw_if("resourcesListChanged", yes(lists.resources))
        .raw_if(
            "resourceSubscriptions",
            (!resources.is_empty()).then_some(uris.as_str()),
        )
        .end()
}

/// A notification as one of the subscription with this raw id.
pub(crate) fn tagged(message: &Message, id: &str) -> Line {
    message
        .edit()
        .set_meta(META_SUBSCRIPTION_ID, id.to_owned())
        .line()
}

/// The answer that ends the subscription with this raw id in order (subscriptions.mdx, Graceful Closure).
pub(crate) fn ended(id: &str) -> Line {
    let meta = Object::new().raw(META_SUBSCRIPTION_ID, id);
    let result = Object::new()
        .text("resultType", "complete")
        .raw("_meta", &meta.end());
    own::response(id, result.end())
}

/// The resource that a message names.
pub(crate) fn resource(message: &Message) -> Option<String> {
    message.param("uri").and_then(raw::text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Subscriber = Subscriber::Listener(ExchangeId(1));
    const SECOND: Subscriber = Subscriber::Session(SessionNumber(1));

    #[test]
    fn the_first_subscriber_begins_and_the_last_ends() {
        let mut subscribers = Subscribers::default();
        assert!(subscribers.subscribe(FIRST, "a"));
        assert!(!subscribers.subscribe(SECOND, "a"));
        assert!(!subscribers.unsubscribe(FIRST, "a"));
        assert!(subscribers.unsubscribe(SECOND, "a"));
        assert!(subscribers.subscribe(SECOND, "a"));
    }

    #[test]
    fn a_subscriber_that_leaves_takes_only_its_own_resources() {
        let mut subscribers = Subscribers::default();
        for (subscriber, uri) in [(FIRST, "a"), (FIRST, "b"), (SECOND, "b")] {
            subscribers.subscribe(subscriber, uri);
        }
        assert_eq!(subscribers.leave(FIRST), ["a"]);
        assert_eq!(subscribers.leave(SECOND), ["b"]);
    }

    #[test]
    fn a_filter_names_only_what_is_wanted() {
        let lists = Lists {
            prompts: true,
            ..Lists::default()
        };
        assert_eq!(
            filter(lists, &BTreeSet::new()),
            r#"{"promptsListChanged":true}"#
        );
        let resources = BTreeSet::from([String::from("a")]);
        let text = filter(Lists::default(), &resources);
        assert_eq!(text, r#"{"resourceSubscriptions":["a"]}"#);
    }
}
