//! An agent's report on a lost link: how many bytes of each session had reached it. A request of which no byte had
//! arrived may be sent again.

use std::cell::{Cell, OnceCell, RefCell};

use tieline_wire::{Lost, SessionId};
use tokio::sync::oneshot;

/// The report on one lost link, kept while requests wait for it.
#[derive(Default)]
pub(crate) struct LostLinkReport {
    /// What the agent told; `None` inside once the agent will not report any more.
    report: OnceCell<Option<Lost>>,
    waiting: RefCell<Vec<(SessionId, oneshot::Sender<u64>)>>,
    is_wanted: Cell<bool>,
}

impl LostLinkReport {
    /// Notes that the link was lost with a session that may not have reached the agent.
    pub(super) fn want(&self) {
        self.is_wanted.set(true);
    }

    /// Whether the outcome of any session depends on the report.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.get()
    }

    /// Receives the number of payload bytes of `session` that had reached the agent; fails if the agent does not report
    /// it.
    pub(super) fn of(&self, session: SessionId) -> oneshot::Receiver<u64> {
        let (answer, answered) = oneshot::channel();
        match self.report.get() {
            None => self.waiting.borrow_mut().push((session, answer)),
            Some(Some(lost)) => tell(lost, session, answer),
            Some(None) => {}
        }
        answered
    }

    /// Applies the agent's report; the first one counts.
    pub(crate) fn apply(&self, lost: &Lost) {
        if self.report.set(Some(lost.clone())).is_ok() {
            for (session, answer) in self.waiting.take() {
                tell(lost, session, answer);
            }
        }
    }

    /// Gives up waiting for the report.
    pub(crate) fn close(&self) {
        if self.report.set(None).is_ok() {
            drop(self.waiting.take());
        }
    }
}

fn tell(lost: &Lost, session: SessionId, answer: oneshot::Sender<u64>) {
    if let Some(bytes) = lost.received(session) {
        // The request that waited may have been given up.
        let _ = answer.send(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Lost {
        Lost {
            nonce: [7; 32],
            last_session: SessionId(5),
            sessions: vec![(SessionId(2), 100), (SessionId(4), 0)],
        }
    }

    fn asked(lost_report: &LostLinkReport) -> Vec<oneshot::Receiver<u64>> {
        (1..7).map(|id| lost_report.of(SessionId(id))).collect()
    }

    fn answers(asked: Vec<oneshot::Receiver<u64>>) -> Vec<Option<u64>> {
        let answers = asked.into_iter().map(|mut it| it.try_recv().ok());
        answers.collect()
    }

    /// Sessions 1 to 6: ended before, reported, ended before, reported, ended before, never seen by the agent.
    const TOLD: [Option<u64>; 6] = [None, Some(100), None, Some(0), None, Some(0)];

    #[test]
    fn what_an_agent_tells_reaches_those_who_asked_before_and_those_who_ask_later() {
        let lost_report = LostLinkReport::default();
        let before = asked(&lost_report);
        lost_report.apply(&lost());
        assert_eq!(answers(before), TOLD);
        assert_eq!(answers(asked(&lost_report)), TOLD);
    }

    #[test]
    fn the_first_word_counts_and_none_comes_behind_the_end() {
        let lost_report = LostLinkReport::default();
        lost_report.apply(&lost());
        let last_session = SessionId(0);
        lost_report.apply(&Lost {
            last_session,
            ..lost()
        });
        lost_report.close();
        assert_eq!(answers(asked(&lost_report)), TOLD);
        let late = LostLinkReport::default();
        let before = asked(&late);
        late.close();
        late.apply(&lost());
        assert_eq!(answers(before), [None; 6]);
        assert_eq!(answers(asked(&late)), [None; 6]);
    }
}
