//! The agents of a shard: their links, the tunnels that the links serve, and what lost links left behind.
//!
//! A link's task ([`Host`]) and the messages of other shards come in; claims and releases of names go out by mail.
//! Which links a route has, and which shard a new link lives on, is decided elsewhere.

mod doubts;
mod host;
mod lanes;
mod limits;
mod links;
mod log_budget;
mod lost;
mod notes;
mod operator;
mod provider;
mod registration;
mod spread;
mod withdrawal;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

pub(super) use self::host::Host;
pub(crate) use self::limits::ADDRESS_QUESTIONS_MAX;
use self::log_budget::LogBudget;
use self::lost::LostLinks;
use super::kit::Kit;
use super::mail::message::Paused;
use crate::link::LinkBlock;
use crate::registry::Registry;
use crate::session::{Lanes, ProbedLinks};

/// The agents of one shard.
pub(super) struct Agents {
    kit: Rc<Kit>,
    registry: RefCell<Registry>,
    lost: RefCell<LostLinks>,
    /// Paused tunnels; replaced as a whole.
    paused: RefCell<Arc<Paused>>,
    lanes: Rc<Lanes>,
    probed: Rc<ProbedLinks>,
    /// Block that links are read into.
    pub(super) link_block: LinkBlock,
    log_budget: LogBudget,
}

impl Agents {
    pub(super) fn new(kit: &Rc<Kit>) -> Rc<Self> {
        let probed = Rc::<ProbedLinks>::default();
        let (watched, watching) = (Rc::clone(&probed), Rc::clone(kit));
        kit.tasks.spawn(async move {
            let doubt = |run| doubts::post_doubt(&watching, run);
            watched.watch(|| watching.clock.now(), doubt).await;
        });
        Rc::new(Self {
            registry: RefCell::default(),
            lost: RefCell::default(),
            paused: RefCell::new(Arc::clone(&kit.peers.paused)),
            lanes: Lanes::new(kit.index, Arc::clone(&kit.metrics)),
            probed,
            link_block: LinkBlock::default(),
            log_budget: LogBudget::default(),
            kit: Rc::clone(kit),
        })
    }

    /// Whether the log budget allows another line that a peer caused.
    pub(super) fn may_log(&self) -> bool {
        self.log_budget.takes_one(self.kit.clock.now())
    }
}
