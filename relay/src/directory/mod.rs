//! The names of tunnels: which agents hold each name, and which links lead to it.
//!
//! A link claims a name at the name's home shard ([`Claim`]). [`Names`] decides, and the decision goes to every shard
//! as a [`RouteUpdate`]. Every shard applies it to its [`Routes`], which answer a caller's [`Query`] with the agent
//! that serves the caller ([`Routes::resolve`]) and the link to that agent ([`Routes::upstream`]).
//!
//! Nothing here sends a message, waits or knows HTTP: a shard brings the time, carries the decisions and waits; a front
//! says what it makes of an agent's description ([`Make`]).

mod claim;
mod kinds;
mod names;
mod query;
mod route;
mod routes;
mod unsaved;
mod urls;
mod waiting;

use std::cell::{Cell, Ref, RefCell, RefMut};

use tieline_wire::Moment;

pub(crate) use claim::{Claim, Forgotten, ReleaseKind};
pub(crate) use kinds::OwnerGroup;
pub(crate) use names::{Decision, Names, Owners, Released, Restored, Rules, home};
pub(crate) use query::{AgentBinding, Among, Query, Stale, TunnelSelector};
pub(crate) use route::{RouteUpdate, Served, Upstream};
use routes::Make;
pub(crate) use routes::{Lookup, Resolved, Routes};
use unsaved::Unsaved;
pub(crate) use urls::{PublicUrls, path_of_tunnel};

use crate::state::Note;

/// One shard's part of the directory. `T` is what the HTTP front makes of an agent's description of its target.
pub(crate) struct Directory<T> {
    names: RefCell<Names>,
    unsaved: RefCell<Unsaved>,
    /// Number of granted names at the last call of [`Directory::granted_since`].
    counted: Cell<usize>,
    routes: RefCell<Routes<T>>,
    /// Until this moment agents may be reconnecting after the relay's start.
    fresh_until: Moment,
}

impl<T> Directory<T> {
    /// The directory of shard `index`, with the names that were bound before the relay started.
    pub(crate) fn new(
        index: usize,
        rules: Rules,
        restored: &[Restored],
        make: Make<T>,
        (now, fresh_until): (Moment, Moment),
    ) -> Self {
        let shards = rules.shards;
        let (mut names, mut routes) = (Names::new(rules), Routes::new(make));
        for it in restored {
            if home(&it.binding.tunnel, shards) == index {
                names.restore(it, now);
            }
            routes.apply(it.update.clone(), now);
        }
        Self {
            names: RefCell::new(names),
            unsaved: RefCell::default(),
            counted: Cell::new(0),
            routes: RefCell::new(routes),
            fresh_until,
        }
    }

    /// The names whose home is this shard.
    pub(crate) fn names(&self) -> RefMut<'_, Names> {
        self.names.borrow_mut()
    }

    /// This shard's copy of all routes.
    pub(crate) fn routes(&self) -> Ref<'_, Routes<T>> {
        self.routes.borrow()
    }

    /// This shard's copy of all routes, to be changed.
    pub(crate) fn routes_mut(&self) -> RefMut<'_, Routes<T>> {
        self.routes.borrow_mut()
    }

    /// Whether the relay started so recently that agents may still be reconnecting.
    pub(crate) fn is_fresh(&self, now: Moment) -> bool {
        now < self.fresh_until
    }

    /// Passes notes about changed names to `save` until it gives one back because it has no room; the rest waits for
    /// the next call. Returns the number of notes that were dropped, because too many wait.
    pub(crate) fn save_notes(&self, save: impl Fn(Box<Note>) -> Result<(), Box<Note>>) -> usize {
        let notes = self.names.borrow_mut().take_notes();
        self.unsaved.borrow_mut().keep(notes, save)
    }

    /// Number of names that were granted to their agents: at the last call, and now.
    pub(crate) fn granted_since(&self) -> (usize, usize) {
        let now = self.names.borrow().granted();
        (self.counted.replace(now), now)
    }
}
