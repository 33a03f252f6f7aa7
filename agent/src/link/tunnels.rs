//! Which tunnel leads to which of the agent's targets, and which answer is about which of them.

use std::collections::HashMap;

use tieline_wire::TunnelId;

/// The tunnels of one link. Targets go by their place in the agent's settings.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    /// Also names that are asked for: a route may bring a caller before the relay's answer is here.
    targets: HashMap<TunnelId, usize>,
    /// The latest question about each target, if it waits for an answer.
    asked: HashMap<usize, u32>,
    granted: HashMap<usize, TunnelId>,
    last_request: u32,
}

impl Tunnels {
    /// The tunnels that will be asked for, in the order of their targets.
    pub(super) fn expect(&mut self, tunnels: &[TunnelId]) {
        self.targets = tunnels.iter().cloned().zip(0..).collect();
    }

    /// A number for the next question about a target; it voids the one before.
    pub(super) fn ask(&mut self, target: usize) -> u32 {
        self.last_request += 1;
        self.asked.insert(target, self.last_request);
        self.last_request
    }

    /// The target that an answer is about; none if nobody waits for it any more.
    pub(super) fn answered(&mut self, request: u32) -> Option<usize> {
        let mut asked = self.asked.iter();
        let target = asked.find_map(|(target, it)| (*it == request).then_some(*target))?;
        self.asked.remove(&target);
        Some(target)
    }

    pub(super) fn granted(&mut self, target: usize, tunnel: &TunnelId) {
        self.targets.insert(tunnel.clone(), target);
        self.granted.insert(target, tunnel.clone());
    }

    /// The target whose tunnel the relay takes back; none if it has none. A question about it may
    /// still wait for its answer.
    pub(super) fn withdrawn(&mut self, tunnel: &TunnelId) -> Option<usize> {
        let target = self.target_of(tunnel)?;
        self.granted.remove(&target).map(|_| target)
    }

    pub(super) fn target_of(&self, tunnel: &TunnelId) -> Option<usize> {
        self.targets.get(tunnel).copied()
    }

    /// What there is to give back.
    pub(super) fn take_granted(&mut self) -> Vec<TunnelId> {
        std::mem::take(&mut self.granted).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(name: &str) -> TunnelId {
        TunnelId::parse(name).unwrap()
    }

    #[test]
    fn an_answer_is_about_the_target_that_was_asked_for_last_with_its_number() {
        let mut tunnels = Tunnels::default();
        let (first, second) = (tunnels.ask(0), tunnels.ask(1));
        assert_eq!((first, second), (1, 2));
        assert_eq!(tunnels.answered(second), Some(1));
        assert_eq!(tunnels.answered(second), None);
        let again = tunnels.ask(0);
        assert_eq!(tunnels.answered(first), None, "it was asked again since");
        assert_eq!(tunnels.answered(again), Some(0));
    }

    #[test]
    fn a_tunnel_leads_to_its_target_before_and_after_it_is_granted() {
        let mut tunnels = Tunnels::default();
        tunnels.expect(&[tunnel("maya"), tunnel("comfy")]);
        assert_eq!(tunnels.target_of(&tunnel("comfy")), Some(1));
        assert_eq!(tunnels.target_of(&tunnel("nuke")), None);
        tunnels.granted(1, &tunnel("nuke"));
        assert_eq!(tunnels.target_of(&tunnel("nuke")), Some(1));
        assert_eq!(tunnels.take_granted(), [tunnel("nuke")]);
        assert!(tunnels.take_granted().is_empty());
    }

    #[test]
    fn a_tunnel_is_taken_back_once_and_what_is_asked_about_it_still_counts() {
        let mut tunnels = Tunnels::default();
        tunnels.expect(&[tunnel("maya"), tunnel("comfy")]);
        assert_eq!(
            tunnels.withdrawn(&tunnel("maya")),
            None,
            "it was not granted"
        );
        for (target, name) in [(0, "maya"), (1, "comfy")] {
            let asked = tunnels.ask(target);
            assert_eq!(tunnels.answered(asked), Some(target));
            tunnels.granted(target, &tunnel(name));
        }
        let renewal = tunnels.ask(0);
        assert_eq!(tunnels.withdrawn(&tunnel("maya")), Some(0));
        assert_eq!(tunnels.withdrawn(&tunnel("maya")), None);
        assert_eq!(tunnels.withdrawn(&tunnel("nuke")), None);
        assert_eq!(tunnels.answered(renewal), Some(0));
        // A route may bring a caller before the answer to the next question.
        assert_eq!(tunnels.target_of(&tunnel("maya")), Some(0));
        assert_eq!(tunnels.take_granted(), [tunnel("comfy")]);
    }
}
