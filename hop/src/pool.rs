//! Connections to the next hop that are kept between two requests, and lent for one of them.

use std::cell::RefCell;
use std::rc::Rc;

use crate::answer::Lend;

/// A connection that a pool keeps.
pub trait PooledConnection: 'static {
    /// Whether the next request may be sent once the answer has ended.
    fn is_reusable(&self) -> bool;

    /// Ends an idle connection in order.
    fn release(self);
}

/// Whether a kept connection serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usable {
    /// It serves this request.
    Now,
    /// It may serve another request.
    Later,
    /// It serves no request any more.
    Never,
}

/// Idle connections, least recently used first. Dropping the pool ends them in order.
pub struct Pool<C: PooledConnection> {
    idle: RefCell<Vec<C>>,
    idle_max: usize,
}

impl<C: PooledConnection> Pool<C> {
    /// A pool that keeps `idle_max` connections, and ends the one that was not used for the longest time if there are
    /// more.
    #[must_use]
    pub const fn new(idle_max: usize) -> Self {
        Self {
            idle: RefCell::new(Vec::new()),
            idle_max,
        }
    }

    /// Whether an idle connection is one that is sought.
    pub fn has(&self, is_sought: impl FnMut(&C) -> bool) -> bool {
        self.idle.borrow().iter().any(is_sought)
    }

    /// Takes the most recently used usable connection, which is the least likely to have timed out; ends those that
    /// are never usable again.
    pub fn take(&self, mut usable: impl FnMut(&C) -> Usable) -> Option<C> {
        let mut idle = self.idle.borrow_mut();
        for place in (0..idle.len()).rev() {
            match usable(&idle[place]) {
                Usable::Now => return Some(idle.remove(place)),
                Usable::Later => {}
                Usable::Never => idle.remove(place).release(),
            }
        }
        None
    }

    /// Keeps a connection whose last answer has ended.
    pub fn put(&self, connection: C) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.idle_max {
            idle.remove(0).release();
        }
        idle.push(connection);
    }
}

impl<C: PooledConnection> Drop for Pool<C> {
    fn drop(&mut self) {
        for connection in self.idle.take() {
            connection.release();
        }
    }
}

/// Keeps connections for further requests.
pub trait Keeper: 'static {
    /// A connection to the next hop.
    type Connection: PooledConnection;

    /// Keeps a connection that is reusable.
    fn keep(&self, connection: Self::Connection);
}

/// A connection during an answer. Dropping it closes the connection. `W` lives as long as the answer.
pub struct Lease<K: Keeper, W = ()> {
    keeper: Rc<K>,
    connection: K::Connection,
    _with: W,
}

impl<K: Keeper, W> Lease<K, W> {
    /// Lends a connection, which goes to `keeper` afterwards.
    pub const fn new(keeper: Rc<K>, connection: K::Connection, with: W) -> Self {
        Self {
            keeper,
            connection,
            _with: with,
        }
    }
}

impl<K: Keeper, W: 'static> Lend for Lease<K, W> {
    fn finish(self) {
        if self.connection.is_reusable() {
            self.keeper.keep(self.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct Numbered(u32, Rc<Cell<u32>>);

    impl PooledConnection for Numbered {
        fn is_reusable(&self) -> bool {
            true
        }

        fn release(self) {
            self.1.set(self.1.get() + self.0);
        }
    }

    #[test]
    fn the_last_usable_one_is_taken_and_each_other_ends_in_order() {
        let released = Rc::new(Cell::new(0));
        let pool = Pool::new(3);
        for number in [1, 20, 300, 4000] {
            pool.put(Numbered(number, Rc::clone(&released)));
        }
        assert_eq!(released.get(), 1);
        assert!(pool.has(|it| it.0 == 20) && !pool.has(|it| it.0 == 1));
        let taken = pool.take(|it| match it.0 {
            4000 => Usable::Never,
            300 => Usable::Later,
            _ => Usable::Now,
        });
        assert_eq!(taken.map(|it| it.0), Some(20));
        assert_eq!(released.get(), 4001);
        drop(pool);
        assert_eq!(released.get(), 4301);
    }
}
